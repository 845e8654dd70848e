"""
The clients of a soak, in a process of their own:

    python -m tests.kernel.soak.clients SEED COUNT AT-ONCE PORT,PORT UDP-PORT

Connects to the ports of a relay in turn, from many addresses, and asks for datagrams beside. Prints in a line
of JSON how many connections and questions there were, and what was wrong.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from tests.kernel.soak.ends import End, Wrong
from tests.kernel.soak.plan import BOTH, EARLY, HALF, LEAVE, MUTE, RESET, Talk, Text, block, talks

PATIENCE: Final = 90.0
"""Seconds: what takes longer hangs."""

_SPEAKERS: Final = 4  # of UDP, each with one question at a time
_QUESTIONS: Final = 15  # from one socket
_PAUSE: Final = 0.01


class Clients:
    def __init__(self, seed: int, count: int, ports: Sequence[int], udp: int) -> None:
        self.seed, self.ports, self.udp = seed, ports, udp
        self.block = block(seed)
        self.left: Iterator[Talk] = talks(seed, count)
        self.done = self.asked = 0
        self.wrong: list[str] = []

    async def work(self) -> None:
        """One connection after the other, until there are none left."""
        for talk in self.left:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.connect(talk)
            except (OSError, Wrong, TimeoutError) as error:
                self.wrong.append(f"{talk}: {str(error) or type(error).__name__}")
            self.done += 1

    async def connect(self, talk: Talk) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            sock.bind((f"127.0.{1 + talk.number % 5}.{1 + talk.number % 200}", 0))
            await loop.sock_connect(sock, ("127.0.0.1", self.ports[talk.number % len(self.ports)]))
            await self.play(talk, End(sock))

    async def play(self, talk: Talk, end: End) -> None:
        up, down = Text(self.block, talk, False), Text(self.block, talk, True)
        kind = talk.kind
        if kind == MUTE:
            return
        if kind == RESET:
            await self.be_reset(talk, end, up, down)
            return
        await asyncio.get_running_loop().sock_sendall(end.sock, talk.head())
        if kind == LEAVE:
            await end.send(up, talk.up // 2)
            end.reset()
        elif kind == HALF:
            await end.send(up)
            end.say_end()
            await end.hear(down)
            await end.end()
        elif kind == EARLY:
            await end.hear(down)
            await end.end()
            await end.send(up)
        elif kind == BOTH:
            await asyncio.gather(self.say(end, up), end.hear(down))
            await end.end()
        else:
            await end.send(up)
            await end.hear(down)
            end.say_end()
            await end.end()

    async def say(self, end: End, text: Text) -> None:
        await end.send(text)
        end.say_end()

    async def be_reset(self, talk: Talk, end: End, up: Text, down: Text) -> None:
        """It may say less than it wanted, and hear less than was sent, but has to be told by a reset."""
        try:
            await asyncio.get_running_loop().sock_sendall(end.sock, talk.head())
            await end.send(up)
            await end.hear_on(down)
        except (ConnectionResetError, BrokenPipeError):
            if down.at > talk.down // 2:
                raise Wrong(f"{down.at} bytes came") from None

    # --- datagrams ------------------------------------------------------------------------

    async def speak(self, number: int) -> None:
        """Ask, until all connections are done. Each question is answered, or something is wrong."""
        rng = Random(self.seed + number)
        loop = asyncio.get_running_loop()
        noise = bytes(self.block)
        while not self.over():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.bind((f"127.0.9.{1 + number}", 0))
                sock.connect(("127.0.0.1", self.udp))
                for _ in range(_QUESTIONS):
                    at, size = rng.randrange(1000), rng.choice((1, 100, 1400, 9000, 60_000))
                    self.asked += 1
                    try:
                        async with asyncio.timeout(PATIENCE / 3):
                            await loop.sock_sendall(sock, noise[at : at + size])
                            if await loop.sock_recv(sock, 1 << 16) != noise[at : at + size]:
                                raise Wrong("another answer came")
                    except (OSError, Wrong, TimeoutError) as error:
                        where = sock.getsockname()
                        self.wrong.append(
                            f"a datagram of {size} bytes from {where}: {str(error) or 'no answer'}"
                        )
                        break
                    await asyncio.sleep(_PAUSE)

    def over(self) -> bool:
        return self.ended

    ended = False


async def main(seed: int, count: int, at_once: int, ports: Sequence[int], udp: int) -> None:
    clients = Clients(seed, count, ports, udp)
    loop = asyncio.get_running_loop()
    speakers = [loop.create_task(clients.speak(number)) for number in range(_SPEAKERS)]
    await asyncio.gather(*(clients.work() for _ in range(at_once)))
    clients.ended = True
    await asyncio.gather(*speakers)
    print(json.dumps({"connections": clients.done, "questions": clients.asked, "wrong": clients.wrong}))


if __name__ == "__main__":
    _seed, _count, _at_once, _ports, _udp = sys.argv[1:]
    asyncio.run(main(int(_seed), int(_count), int(_at_once), [*map(int, _ports.split(","))], int(_udp)))
