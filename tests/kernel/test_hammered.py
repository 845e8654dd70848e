"""
Ten thousand Services are loaded while others list the tables, take the lock and write rules of their own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Hashable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kubeway.errors import KubewayError
from kubeway.model.forward import Endpoint, Forward, Frontend, ServicePortName
from kubeway.model.node import Detector, FamilyView, NodeView
from kubeway.modes.iptables import IPTABLES
from kubeway.program.program import Fragment
from kubeway.values import TCP, Ip, parse_prefix
from tests.kernel.levelled import Levelled
from tests.kernel.netns import inside, needs_root

pytestmark = [pytest.mark.kernel, needs_root]

SERVICES, ENDPOINTS = 10_000, 5
PATIENCE = 100.0
PODS = 0x0A800000
VIEW = NodeView(FamilyView(4, Detector("cidr", parse_prefix("10.128.0.0/10"))), FamilyView(6))
TOOLS = {"nf_tables": "iptables-nft", "legacy": "iptables-legacy"}

# Hold the lock most of the time, as somebody does who writes large tables.
TAKER = """
import fcntl, sys, time
while True:
    with open(sys.argv[1], "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        time.sleep(0.2)
    time.sleep(0.02)
"""


def address(number: int) -> Ip:
    return Ip(number.to_bytes(4, "big"))


def forward(number: int) -> Forward:
    first = PODS + number * ENDPOINTS
    endpoints = tuple(Endpoint(address(first + n), 8080, n == 0) for n in range(ENDPOINTS))
    frontend = Frontend("ClusterIP", address(0x0A600000 + number), 80)
    name = ServicePortName("shop", f"s{number}", "http", TCP)
    return Forward(name, 4, (frontend,), endpoints, endpoints[:1], usable=True, serving=endpoints)


@contextmanager
def hammered(tool: str, lock: Path) -> Iterator[None]:
    """Others at work on the tables of this namespace, until the end of the `with`."""
    busy = [
        ["sh", "-c", f"while :; do {tool} -w 5 -t nat -L -n >/dev/null; done"],
        ["sh", "-c", f"while :; do {tool} -w 5 -t filter -A OTHERS -j RETURN; sleep 0.1; done"],
        [sys.executable, "-c", TAKER, str(lock)],
    ]
    subprocess.run([tool, "-w", "5", "-t", "filter", "-N", "OTHERS"], check=True)
    started = [subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True) for words in busy]
    try:
        yield
        assert all(one.poll() is None for one in started), "one of them stopped hammering"
    finally:
        for one in started:
            # With what it has started: the group is its own.
            os.killpg(one.pid, signal.SIGKILL)
            one.wait()


class Node(Levelled):
    async def until_level(self) -> None:
        end = time.monotonic() + PATIENCE
        problem: KubewayError | None = None
        while time.monotonic() < end:
            problem = await self.leveller.level()
            if problem is None and self.leveller.keeper.level:
                return
        raise AssertionError(problem)


@pytest.mark.parametrize("back_end", TOOLS)
def test_ten_thousand_services_load(back_end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    fragments: dict[Hashable, Fragment] = {(): IPTABLES.base(VIEW)}
    fragments.update(
        ((one.name, one.family), IPTABLES.fragment(one, VIEW)) for one in map(forward, range(SERVICES))
    )

    async def load() -> None:
        node = Node(back_end, time.monotonic)
        with closing(node.fit.plane):
            with hammered(TOOLS[back_end], lock):
                node.want(fragments)
                await node.until_level()
                # A change while they go on is in force, too.
                more = forward(SERVICES)
                node.want({(more.name, more.family): IPTABLES.fragment(more, VIEW)})
                await node.until_level()
            held = await node.fit.plane.read()
        assert held.keys() == node.linker.objects.keys()
        assert all(thing == node.linker.objects[key] for key, thing in held.items())

    inside(lambda: asyncio.run(load()))
