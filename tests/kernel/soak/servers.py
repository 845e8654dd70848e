"""
The endpoints of a soak, in a process of their own:

    python -m tests.kernel.soak.servers SEED

Prints its ports in a line of JSON, in the order of NAMES, and serves until its input ends. For each line that
comes in it prints one: what was wrong until then; and from then on it serves where it had refused, too. The
two of datagrams send all back.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from contextlib import suppress
from typing import Final

from tests.kernel.soak.ends import End, Wrong
from tests.kernel.soak.plan import (
    ASK,
    BOTH,
    EARLY,
    HALF,
    HEAD,
    LEAVE,
    MUTE,
    RESET,
    SLOW,
    WHO,
    Talk,
    Text,
    block,
    read_head,
)

NAMES: Final = ("a", "b", "c", "late", "silent", "refuses", "datagrams", "more datagrams")
_LATE: Final = 0.2  # seconds for which the late one takes nobody
_PIECES: Final = 5
_PAUSE: Final = 0.02


class Endpoints:
    def __init__(self, seed: int) -> None:
        self.block = block(seed)
        self.wrong: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: asyncio._CoroutineLike[None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def accept(self, name: str, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if name == "late":
                await asyncio.sleep(_LATE)
                with suppress(BlockingIOError):
                    while True:
                        self.take(name, listener.accept()[0])
            else:
                self.take(name, (await loop.sock_accept(listener))[0])

    def take(self, name: str, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.begin(self.serve(name, sock))

    async def serve(self, name: str, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        talk = None
        with sock:
            try:
                head = b""
                while len(head) < HEAD:
                    more = await loop.sock_recv(sock, HEAD - len(head))
                    if not more:
                        break
                    head += more
                if len(head) == HEAD:
                    talk = read_head(head)
                    await self.play(name, talk, End(sock))
                elif head:
                    raise Wrong(f"it ended after {len(head)} bytes")
            except (OSError, Wrong) as error:
                # Whoever has not said what it wants may have been reset: by its client, or as one too many.
                if talk is not None or isinstance(error, Wrong):
                    self.wrong.append(f"{talk}, at {name}: {str(error) or type(error).__name__}")

    async def play(self, name: str, talk: Talk, end: End) -> None:
        up, down = Text(self.block, talk, False), Text(self.block, talk, True)
        kind = talk.kind
        if kind == WHO:
            await asyncio.get_running_loop().sock_sendall(end.sock, name.encode() + b"\n")
            await end.end()
        elif kind in (ASK, SLOW):
            await end.hear(up)
            while down.left:
                await end.send(down, max(1, talk.down // _PIECES) if kind == SLOW else None)
                await asyncio.sleep(_PAUSE if kind == SLOW else 0)
            await end.end()
        elif kind == HALF:
            await end.hear(up)
            await end.end()
            await end.send(down)
        elif kind == EARLY:
            await end.send(down)
            end.say_end()
            await end.hear(up)
            await end.end()
        elif kind == BOTH:
            await asyncio.gather(self.say(end, down), end.hear(up))
            await end.end()
        elif kind == RESET:
            await end.hear(up, talk.up // 2)
            await end.send(down, talk.down // 2)
            end.reset()
        elif kind == LEAVE:
            try:
                await end.hear_on(up)
            except ConnectionResetError:
                return
        else:
            assert kind == MUTE
            raise Wrong("it said something")

    async def say(self, end: End, text: Text) -> None:
        await end.send(text)
        end.say_end()

    async def echo(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data, client = await loop.sock_recvfrom(sock, 1 << 16)
            await loop.sock_sendto(sock, data, client)


def bound(kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


async def main(seed: int) -> None:
    here = Endpoints(seed)
    ports = []
    socks = []
    for name in NAMES:
        sock = bound(socket.SOCK_DGRAM if "datagrams" in name else socket.SOCK_STREAM)
        socks.append(sock)
        ports.append(sock.getsockname()[1])
        if "datagrams" in name:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            here.begin(here.echo(sock))
        elif name != "refuses":  # bound and not listening, it keeps its port from others
            sock.listen(1024)
            here.begin(here.accept(name, sock))
    print(json.dumps(ports), flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    refuses = socks[NAMES.index("refuses")]
    while await lines.readline():
        refuses.listen(1024)
        here.begin(here.accept("refuses", refuses))
        print(json.dumps(here.wrong), flush=True)
    for task in here.tasks:
        task.cancel()
    await asyncio.gather(*here.tasks, return_exceptions=True)
    for sock in socks:
        sock.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
