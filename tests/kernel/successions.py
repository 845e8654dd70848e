"""
A control process of the relay, as a program of its own that a test can kill: one way, to its endpoints.

It prints a line of JSON for each thing that happens. Its argument is JSON, too: `endpoints`, each a port of
127.0.0.1; `name`, of the desk; and what a test wants of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kubeway.planes.relay.objects import Endpoint, Way, way_key
from kubeway.planes.relay.stream import Limits
from kubeway.program.program import Change
from kubeway.records import Record
from kubeway.shell.relay import generation, handover
from kubeway.shell.relay.listeners import Listening
from kubeway.shell.relay.plane import RelayPlane
from kubeway.values import TCP, parse_ip

LO = parse_ip("127.0.0.1")
LISTENING = Listening("cluster", False, LO, 0, transparent=False)


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


def record(one: Record) -> None:
    tell(record=type(one).__name__, text=str(one))


def die() -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    return True


async def main(wanted: dict[str, Any]) -> None:
    if version := wanted.get("version"):
        handover.VERSION = version  # type: ignore[misc]
    took = generation.Generation.take
    if wanted.get("dies") == "before":
        generation.Generation.take = lambda self: die()  # type: ignore[method-assign]
    if wanted.get("dies") == "after":
        generation.Generation.take = lambda self: took(self) and die()  # type: ignore[method-assign]
    plane = RelayPlane(
        [LISTENING],
        workers=wanted.get("workers", 1),
        limits=Limits(drain=wanted.get("drain", 900.0)),
        name=wanted.get("name", handover.NAME),
        record=record,
    )
    tell(port=plane.ports()[0])
    endpoints = tuple(Endpoint(LO, port) for port in wanted["endpoints"])
    way = Way(endpoints, affinity=wanted.get("affinity", 0), hold=wanted.get("hold", 0))
    if wanted.get("waits"):
        await asyncio.to_thread(sys.stdin.readline)
    key = way_key("cluster", LO, TCP, plane.ports()[0])
    await plane.write([Change("add", key, None, way)])
    tell(workers=plane.processes)
    await asyncio.Event().wait()


class Control:
    """Such a process, seen by a test. `port`: where clients come to; `workers`: process ids."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.told: list[dict[str, Any]] = []
        self.port = 0
        self.workers: list[int] = []

    async def until(self, key: str, value: object = None) -> Any:
        """What it told with this key, and this value if one is given."""
        assert self.process.stdout is not None
        while True:
            for one in self.told:
                if key in one and value in (None, one[key]):
                    return one[key]
            line = await self.process.stdout.readline()
            assert line, self.told
            self.told.append(json.loads(line))

    async def up(self) -> Control:
        self.port = await self.until("port")
        self.workers = await self.until("workers")
        return self

    async def end(self, number: int = signal.SIGTERM) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)
        await self.process.wait()


@asynccontextmanager
async def control(*endpoints: Endpoint, **wanted: object) -> AsyncIterator[Control]:
    """One that runs, until the end of the `with` at most. Its workers may go on."""
    told = {"endpoints": [one.port for one in endpoints], **wanted}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.kernel.successions", json.dumps(told)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    one = Control(process)
    try:
        yield one
    finally:
        await one.end(signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
