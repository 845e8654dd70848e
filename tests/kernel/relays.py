"""A relay with servers behind it, in a network namespace of its own, and clients of all kinds."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from kubeway.planes.relay.objects import Endpoint, Way, way_key
from kubeway.program.program import Change, Key
from kubeway.shell.relay.listeners import Listening
from kubeway.shell.relay.plane import RelayPlane
from kubeway.values import TCP, parse_ip
from tests.kernel.netns import inside
from tests.kernel.workers import end_workers, is_worker, workers

LO: Final = parse_ip("127.0.0.1")
PATIENCE: Final = 60.0
"""Seconds; what takes longer hangs."""

T = TypeVar("T")
_servers: list[asyncio.Server] = []
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def played(story: Callable[[], Awaitable[T]]) -> T:
    """Play it in a new network namespace. No process of it is left over."""

    async def whole() -> T:
        try:
            return await asyncio.wait_for(story(), PATIENCE)
        finally:
            while _servers:
                _servers.pop().close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for _ in range(3):
                await asyncio.sleep(0)  # transports close in the loop's next rounds

    def run() -> T:
        return asyncio.run(whole())

    before = children()
    try:
        return inside(lambda: without_workers(run))
    finally:
        assert children() <= before


def without_workers(work: Callable[[], T]) -> T:
    """What `work` returns; that has to leave no worker in this network namespace. Failing, it leaves none,
    either."""
    try:
        found = work()
        end = time.monotonic() + PATIENCE
        while left := workers():
            assert time.monotonic() < end, f"workers that do not end: {left}"
            time.sleep(0.02)
        return found
    finally:
        end_workers()


def children() -> set[int]:
    """Workers that are children of this process."""
    found = set()
    for path in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended meanwhile
            found |= {pid for pid in map(int, path.read_text().split()) if is_worker(pid)}
    return found


class Relay:
    """`port`: where clients come to. One way, until the test makes others."""

    def __init__(self, plane: RelayPlane) -> None:
        self.plane = plane
        self.port = plane.ports()[0]
        self.key = way_key("cluster", LO, TCP, self.port)

    async def put(self, way: Way | None, key: Key | None = None) -> None:
        await self.plane.write([Change("set" if way else "del", key or self.key, None, way)])

    async def dial(self, client: str = "127.0.0.1") -> Streams:
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(client, 0), limit=1 << 20)


@contextmanager
def relay(workers: int = 1, keeps: bool = False, *more: Listening, **how: object) -> Iterator[Relay]:
    what = Listening("cluster", keeps, LO, 0, transparent=False)
    plane = RelayPlane([what, *more], workers=workers, **how)  # type: ignore[arg-type]
    try:
        yield Relay(plane)
    finally:
        plane.close()


async def serve(handle: Serve, ip: str = "127.0.0.1") -> Endpoint:
    """Who answers so, on a port of its own, until the loop ends."""

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, ip, 0, limit=1 << 20)
    _servers.append(server)
    return Endpoint(parse_ip(ip), server.sockets[0].getsockname()[1])


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything back, as it comes; ends when the client does."""
    while data := await reader.read(1 << 18):
        writer.write(data)
        await writer.drain()


def named(name: str) -> Serve:
    """Says its name and who the client is, then what it is sent."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{name} {writer.get_extra_info('peername')[0]}\n".encode())
        await echo(reader, writer)

    return handle


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Poll until it is."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not true():
        assert loop.time() < end, "it never was"
        await asyncio.sleep(0.01)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def dead() -> Endpoint:
    """Nobody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return Endpoint(LO, sock.getsockname()[1])


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
