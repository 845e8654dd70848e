"""
Servers that tell who they are and whom they see.

Each answers every question with one line of JSON: its name, the client's address
as the server sees it, and the server's own. Runs inside a host's process.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable

from kubeway.lab import sctp
from kubeway.lab.asking import open_socket, show


def serve(name: str, proto: str, ip: str, port: int) -> asyncio.Task[None]:
    """Listen at once and answer until the task is cancelled. OSError if the address cannot be had."""
    sock = open_socket(ip, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        raw = sock.type == socket.SOCK_RAW
        sock.bind((ip, 0 if raw else port))
        if sock.type == socket.SOCK_STREAM:
            sock.listen(1024)
    except OSError:
        sock.close()
        raise
    kind: Callable[[socket.socket, str, int], Awaitable[None]]
    kind = _raw if raw else _stream if sock.type == socket.SOCK_STREAM else _datagram
    return asyncio.get_running_loop().create_task(_guard(kind, sock, name, port))


async def _guard(
    kind: Callable[[socket.socket, str, int], Awaitable[None]], sock: socket.socket, name: str, port: int
) -> None:
    with sock:
        await kind(sock, name, port)


def _answer(name: str, client: tuple[str, int], server: tuple[str, int]) -> bytes:
    return json.dumps({"name": name, "client": show(*client), "server": show(*server)}).encode() + b"\n"


async def _stream(sock: socket.socket, name: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    talks: set[asyncio.Task[None]] = set()
    try:
        while True:
            peer, _ = await loop.sock_accept(sock)
            talk = loop.create_task(_stream_one(peer, name))
            talks.add(talk)
            talk.add_done_callback(talks.discard)
    finally:
        for talk in talks:
            talk.cancel()


async def _stream_one(peer: socket.socket, name: str) -> None:
    loop = asyncio.get_running_loop()
    with peer:
        try:
            client, server = peer.getpeername()[:2], peer.getsockname()[:2]
            async with asyncio.timeout(30):
                if await loop.sock_recv(peer, 4096):
                    await loop.sock_sendall(peer, _answer(name, client, server))
        except (
            OSError
        ):  # a client that went away (TimeoutError is an OSError too); nobody waits for an answer
            return


async def _datagram(sock: socket.socket, name: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = sock.getsockname()[:2]
    while True:
        try:
            _, client = await loop.sock_recvfrom(sock, 4096)
            await loop.sock_sendto(sock, _answer(name, client[:2], server), client)
        except ConnectionError:  # an earlier answer found nobody
            continue


async def _raw(sock: socket.socket, name: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    ip = sock.getsockname()[0]
    while True:
        packet, client = await loop.sock_recvfrom(sock, 4096)
        data = sctp.strip_ip(packet) if sock.family == socket.AF_INET else packet
        message = sctp.unpack(data)
        if message is None or message.kind != sctp.INIT or message.dport != port:
            continue
        text = _answer(name, (client[0], message.sport), (ip, port))
        back = sctp.Message(port, message.sport, message.tag, sctp.INIT_ACK, text)
        await loop.sock_sendto(sock, sctp.pack(back), client)
