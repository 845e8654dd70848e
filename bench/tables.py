"""
iptables mode in one back end: a cold start, then one endpoint replaced, again and again.

    python -m bench.tables nft|legacy ours|tool WORLD CHANGES

`ours` settles, compiles and writes through the plane. `tool` loads what kube-proxy would hand to
`iptables-restore`, whose making is not counted. Runs in a network namespace of its own and prints
one line of JSON.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from bench import kubeproxy
from bench.pipeline import OPTIONS, facts_of, load
from bench.worlds import address, service_name
from kubeway.model.forward import ServiceName
from kubeway.model.settle import Settler
from kubeway.model.store import Store
from kubeway.modes.iptables import IPTABLES
from kubeway.planes.xtables.objects import PLANE
from kubeway.program.link import Linker
from kubeway.program.plan import diff, steps
from kubeway.program.program import Change
from kubeway.shell.compiler import Compiler
from kubeway.shell.xtables_legacy import XtLegacyPlane
from kubeway.shell.xtables_nft import XtNftPlane
from kubeway.values import parse_ip

PLANES: Final = {"nft": XtNftPlane, "legacy": XtLegacyPlane}
(PODS,) = OPTIONS.cluster_cidrs


def compiler_of(store: Store) -> Compiler:
    return Compiler(IPTABLES, Settler, OPTIONS, facts_of(store), Linker())


def ordered(changes: Iterator[Change] | list[Change]) -> list[Change]:
    """Those of the tables, in the order in which they are written."""
    plan = steps(changes, IPTABLES.planes)
    return [change for step in plan if step.plane == PLANE for change in step.changes]


def cpu() -> float:
    """Seconds of CPU of this process and its children: what a busy machine changes least."""
    return sum(os.times()[:4])


def tool(backend: str, text: str) -> float:
    """Seconds in which the system's own tool loads a text."""
    command = [f"iptables-{backend}-restore", "--noflush", "--counters"]
    began = time.perf_counter()
    subprocess.run(command, input=text, text=True, check=True)
    return time.perf_counter() - began


def replaced(store: Store, count: int) -> Iterator[ServiceName]:
    """`count` times one endpoint of some Service is another one; which Service."""
    names = [ServiceName(*service_name(number)) for number in range(len(store.snapshot().services))]
    for number in range(count):
        name = names[number * 7919 % len(names)]
        (old,) = store.snapshot().slices[name].values()
        joining = replace(old.endpoints[0], ip=parse_ip(address(0x0B000000, number)))
        store.put(replace(old, endpoints=(joining, *old.endpoints[1:])))
        yield name


def ours(backend: str, store: Store, count: int) -> dict[str, object]:
    compiler = compiler_of(store)
    program = compiler.linker.objects
    plane = PLANES[backend](compiler.linker.origin, program)
    spent, marks = cpu(), [time.perf_counter()]
    compiler.update(store.snapshot(), ())
    marks.append(time.perf_counter())
    changes = ordered(diff(plane.read_now(), program))
    marks.append(time.perf_counter())
    plane.write_now(changes)
    marks.append(time.perf_counter())
    stages = {name: marks[n + 1] - marks[n] for n, name in enumerate(("compile", "plan", "write"))}
    spent = cpu() - spent
    gc.freeze()
    took = []
    for name in replaced(store, count):
        began = time.perf_counter()
        plane.write_now(ordered(compiler.update(store.snapshot(), (name,)).changes))
        took.append(time.perf_counter() - began)
    plane.close()
    cold = sum(stages.values())
    return {"cold": cold, "cpu": spent, "stages": stages, "changes": took, "objects": len(changes)}


def theirs(backend: str, store: Store, count: int) -> dict[str, object]:
    compiler = compiler_of(store)
    compiler.update(store.snapshot(), ())
    forwards = compiler.settler.forwards
    tool(backend, kubeproxy.JUMPS)
    text = kubeproxy.restore(forwards.values(), PODS)
    spent = cpu()
    cold = tool(backend, text)
    spent = cpu() - spent
    took = []
    for name in replaced(store, count):
        compiler.update(store.snapshot(), (name,))
        changed = [forward.name for forward in forwards.values() if forward.name[:2] == name]
        took.append(tool(backend, kubeproxy.restore(forwards.values(), PODS, changed)))
    return {"cold": cold, "cpu": spent, "changes": took}


def main(backend: str, whose: str, path: str, count: str) -> None:
    gc.disable()
    store = load(Path(path))
    print(json.dumps((ours if whose == "ours" else theirs)(backend, store, int(count))))


if __name__ == "__main__":
    main(*sys.argv[1:])
