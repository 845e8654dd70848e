"""
Userspace mode's rules and ways for many Services, beside `nft -f` loading the same rules.

    python -m bench.steering [SERVICES [TRIES]]

A cold start from an empty kernel (settle, compile, write), then one endpoint replaced, again and again.
`rules` is the one transaction that steers all Services to the relay, `ways` what its worker is told, until it
goes by it; it is up already. Each try begins in an empty kernel, and ours and nft's take turns, so that a
machine that slows down slows both. Needs root; runs in network namespaces of its own.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from bench import worlds
from bench.pipeline import OPTIONS, facts_of, load, nft
from bench.relay import run
from bench.tables import replaced
from kubeway.lab.kernel import CLONE_NEWNET, unshare
from kubeway.model.settle import Settler
from kubeway.modes.userspace import USERSPACE
from kubeway.planes.nft.text import show
from kubeway.program.link import Linker
from kubeway.program.plan import diff, steps
from kubeway.program.program import Change
from kubeway.shell.compiler import Compiler
from kubeway.shell.link_plane import LinkPlane
from kubeway.shell.nft import NftPlane
from kubeway.shell.relay.listeners import Listening
from kubeway.shell.relay.plane import RelayPlane
from kubeway.values import parse_ip

ENDPOINTS: Final = 5
CHANGES: Final = 200
LIMIT: Final = 0.2
"""Seconds for the transaction of 10,000 Services."""

Stages = dict[str, float]


def resident(pid: int) -> int:
    """KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


async def once(world: Path, changes: int) -> tuple[Stages, list[float], int, str]:
    """Seconds of each stage and of each change, KiB of the worker, and the rules as a text for nft."""
    unshare(CLONE_NEWNET)
    await run("ip", "link", "set", "lo", "up")
    store = load(world)
    relay = RelayPlane([Listening("cluster", False, parse_ip("127.0.0.1"), 0, transparent=False)])
    await relay.write([])
    gc.collect()
    stages: Stages = {}
    began = time.perf_counter()
    linker = Linker()
    compiler = Compiler(USERSPACE, Settler, OPTIONS, facts_of(store), linker)
    compiler.update(store.snapshot(), store.snapshot().names())
    stages["settle, compile"] = time.perf_counter() - began
    rules = NftPlane(linker.origin, linker.objects)
    planes = {"relay": relay, "link": LinkPlane(linker.objects), "nft": rules}
    names = {"relay": "ways", "link": "routes", "nft": "rules"}

    async def write(some: list[Change]) -> None:
        for step in steps(some, USERSPACE.planes):
            began = time.perf_counter()
            await planes[step.plane].write(step.changes)
            name = names[step.plane]
            stages[name] = stages.get(name, 0.0) + time.perf_counter() - began

    try:
        await write(list(diff({}, linker.objects)))
        first, text = dict(stages), show(linker.objects)
        took = []
        for name in replaced(store, changes):
            began = time.perf_counter()
            await write(list(compiler.update(store.snapshot(), {name}).changes))
            took.append(time.perf_counter() - began)
        memory = resident(relay.processes[0])
    finally:
        relay.close()
        rules.close()
    return first, took, memory, text


def theirs(text: str) -> float:
    """Seconds of `nft -f`, in an empty network namespace."""
    unshare(CLONE_NEWNET)
    with tempfile.NamedTemporaryFile("w", suffix=".nft") as file:
        file.write(text)
        file.flush()
        return nft("-f", file.name)


def main(services: int = 10_000, tries: int = 5) -> int:
    gc.disable()
    every: list[Stages] = []
    ratios, took, memory = [], [], 0
    with tempfile.TemporaryDirectory(prefix="kubeway-bench-") as folder:
        world = Path(folder) / "world.json"
        worlds.write(world, services, ENDPOINTS)
        for number in range(tries):
            stages, changes, memory, text = asyncio.run(once(world, CHANGES if number == 0 else 0))
            beside = theirs(text)
            every.append(stages)
            took += changes
            ratios.append(stages["rules"] / beside)
            gc.collect()
    middle = {name: median(stages[name] for stages in every) for name in every[0]}
    print(
        f"{services:,} x {ENDPOINTS}:", ", ".join(f"{name} {value:.3f} s" for name, value in middle.items())
    )
    print(f"rules / nft -f: {median(ratios):.3f}")
    print(f"one endpoint replaced, told to obeyed: p50 {median(took) * 1e3:.2f} ms, ", end="")
    print(f"p99 {quantiles(took, n=100)[98] * 1e3:.2f} ms; a worker takes {memory / 1024:.0f} MiB")
    if services != 10_000:
        return 0
    held = middle["rules"] <= LIMIT
    print(f"rules <= {LIMIT} s: {'holds' if held else 'does not hold'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
