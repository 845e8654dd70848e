"""
A relay in the long run: thousands of connections to endpoints that refuse, are silent, late or slow, reset in
the middle or end early, while they join and leave. Every byte arrives, every end is told, and nothing stays.

What each connection does follows from a seed (`soak.plan`). For longer, or other, runs:

    KUBEWAY_SOAK=100000 KUBEWAY_SOAK_SEED=7 python -m pytest tests/kernel/test_relay_soak.py
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from kubeway.model.balances import BALANCES
from kubeway.planes.relay.objects import Endpoint, Way, way_key
from kubeway.program.program import Change
from kubeway.shell.relay.listeners import Listening
from kubeway.shell.relay.plane import RelayPlane
from kubeway.values import TCP, UDP
from tests.kernel.netns import inside, needs_root, nft
from tests.kernel.relays import LO, children
from tests.kernel.soak.plan import WHO, Talk
from tests.kernel.soak.servers import NAMES

COUNT = int(os.environ.get("KUBEWAY_SOAK", "10000"))
SEED = int(os.environ.get("KUBEWAY_SOAK_SEED", "20200629"))
AT_ONCE = 200
WORKERS = 2
IDLE = 8.0
"""Seconds that sessions of UDP last: longer than an endpoint takes to answer on a machine that stalls."""
LIMIT = 240 + COUNT // 20
"""Seconds. It takes some twenty-five where nobody else wants the processors."""

pytestmark = [pytest.mark.kernel, needs_root, pytest.mark.timeout(LIMIT)]

SOUND = NAMES[:4]
TROUBLE = NAMES[4:6]


class Soak:
    """A relay of several workers, its endpoints, and the ways between them."""

    def __init__(self, plane: RelayPlane, ports: Sequence[int]) -> None:
        self.plane = plane
        self.endpoints = {name: Endpoint(LO, port) for name, port in zip(NAMES, ports, strict=True)}
        self.rng = Random(SEED)
        self.alone: dict[int, Counter[str]] = {}
        """What workers hold that have nothing to do."""
        *self.ports, self.udp = plane.ports()

    async def put(self, names: Sequence[str], **how: object) -> None:
        """Where TCP leads to, and UDP."""
        ones = tuple(self.endpoints[name] for name in names if "datagrams" not in name)
        others = tuple(self.endpoints[name] for name in names if "datagrams" in name)
        keys = [way_key("cluster", LO, TCP, port) for port in self.ports]
        changes = [Change("set", key, None, Way(ones, **how)) for key in keys]  # type: ignore[arg-type]
        key = way_key("cluster", LO, UDP, self.udp)
        await self.plane.write([*changes, Change("set", key, None, Way(others))])

    async def change(self) -> None:
        """Some endpoints leave, some join. There are always two that serve, and no more than two that do
        not, as no more than four are tried."""
        rng = self.rng
        sound = rng.sample(SOUND, rng.randint(2, len(SOUND)))
        trouble = [name for name in TROUBLE if rng.random() < 0.3]
        names = [*sound, *trouble, rng.choice(NAMES[6:])]
        rng.shuffle(names)
        affinity, demote = rng.choice((0, 0, 5)), rng.random() < 0.5
        await self.put(names, affinity=affinity, balance=rng.choice(tuple(BALANCES)), demote=demote)

    # --- what is left -----------------------------------------------------------------------

    async def idle(self) -> None:
        """Until no connection is open any more."""
        while True:
            await self.plane.counters()
            if self.plane.open == 0:
                return
            await asyncio.sleep(0.02)

    def note(self) -> None:
        """They have nothing to do now."""
        self.alone = {pid: sockets(pid) for pid in self.plane.processes}

    async def alone_again(self) -> None:
        """Until the workers hold what they did then: the last are the sessions of UDP."""
        while True:
            now = {pid: sockets(pid) for pid in self.plane.processes}
            assert now.keys() == self.alone.keys(), "a worker died"
            if now == self.alone:
                return
            await asyncio.sleep(0.05)

    async def served(self, client: str) -> str:
        """By whom, and it is over."""
        here = self.ports[0]
        reader, writer = await asyncio.open_connection("127.0.0.1", here, local_addr=(client, 0))
        try:
            writer.write(Talk(0, WHO, 0, 0).head())
            return (await reader.readline()).decode().strip()
        finally:
            writer.close()
            await writer.wait_closed()
            await self.idle()

    async def nobody_has_a_load(self) -> None:
        """Where the one with the fewest connections is next, and all have none, they take turns."""
        for number in range(4 * WORKERS):  # clients of all workers, most likely
            names = [name for name in NAMES if "datagrams" not in name]
            await self.put(names, balance="leastconn")
            met = Counter([await self.served(f"127.0.7.{1 + number}") for _ in names])
            assert met == Counter(names)


def sockets(pid: int) -> Counter[str]:
    """What kinds of descriptors a worker has; but for pipes, which are kept for those that come, two each."""
    kinds: Counter[str] = Counter()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed, as we looked
            kinds[os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0]] += 1
    kinds["pipe"] %= 2
    return kinds


@asynccontextmanager
async def program(name: str, *words: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program of the soak's, ended with the block."""
    argv = [sys.executable, "-m", f"tests.kernel.soak.{name}", *map(str, words)]
    home = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1 << 24
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> object:
    assert process.stdout is not None
    return json.loads(await process.stdout.readline())


async def wrong(servers: asyncio.subprocess.Process) -> list[str]:
    """What the endpoints have to say; the one that refused serves from now on."""
    assert servers.stdin is not None
    servers.stdin.write(b"\n")
    told = await line(servers)
    assert isinstance(told, list)
    return told


async def story(plane: RelayPlane) -> None:
    async with program("servers", SEED) as servers:
        ports = await line(servers)
        assert isinstance(ports, list)
        soak = Soak(plane, ports)
        # No answer to a client that happens to have this port.
        drop = f"tcp dport {soak.endpoints['silent'].port} tcp flags & (syn | ack) == syn drop"
        nft(f"table ip t {{ chain c {{ type filter hook input priority 0; {drop}; }}; }}")
        await soak.put([*SOUND, *NAMES[6:]])
        await soak.served("127.0.7.1")
        soak.note()
        before = await counted(soak)
        listeners = ",".join(map(str, soak.ports))
        async with program("clients", SEED, COUNT, AT_ONCE, listeners, soak.udp) as clients:
            told = asyncio.ensure_future(line(clients))  # noqa: TID251 (it is awaited below)
            try:
                while not told.done():
                    await soak.change()
                    await asyncio.wait([told], timeout=soak.rng.random() / 10)
                result = await told
            finally:
                told.cancel()
        assert isinstance(result, dict)
        found = [*result["wrong"], *await wrong(servers)]
        assert not found, f"seed {SEED}: {len(found)} went wrong, as\n{some_of(found)}"
        assert result["connections"] == COUNT
        assert result["questions"] > 100
        await soak.idle()
        assert await counted(soak) - before == Counter(TCP=COUNT)
        nft("delete table ip t")
        await soak.nobody_has_a_load()
        await soak.alone_again()


def some_of(found: list[str]) -> str:
    """Of each kind."""
    found = sorted(found, key=lambda text: text.partition("(")[2])
    return "\n".join(found[:: 1 + len(found) // 30])


async def counted(soak: Soak) -> Counter[str]:
    """Connections that the ways have counted."""
    tallies = await soak.plane.counters()
    return Counter({"TCP": sum(one.connections for key, one in tallies.items() if key.name[2] == TCP)})


def test_ten_thousand_connections_leave_nothing() -> None:
    async def whole() -> None:
        listening = [Listening("cluster", keeps, LO, 0, transparent=False) for keeps in (True, False)]
        udp = Listening("cluster", False, LO, 0, proto=UDP)
        plane = RelayPlane([*listening, udp], workers=WORKERS, idle=IDLE)
        try:
            await asyncio.wait_for(story(plane), LIMIT - 20)
        finally:
            plane.close()

    before = children()
    inside(lambda: asyncio.run(whole()))
    assert children() <= before
