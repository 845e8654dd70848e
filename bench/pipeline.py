"""
The first sync, stage by stage, beside `nft -f` loading the same rules.

Runs in a network namespace of its own and prints one line of JSON. Each try begins with an
empty kernel and with nothing kept from the try before; ours and nft's take turns, so that a
machine that slows down slows both.
"""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from bench.worlds import NODE
from kubeway.model.node import NodeFacts, Options
from kubeway.model.parse import parse_manifest
from kubeway.model.settle import Settler
from kubeway.model.store import Store
from kubeway.model.view import node_facts, node_view
from kubeway.modes.nftables import NFTABLES
from kubeway.planes.nft.text import show
from kubeway.program.link import Linker
from kubeway.program.plan import diff, steps
from kubeway.program.program import Fragment
from kubeway.shell.nft import NftPlane
from kubeway.values import parse_ip, parse_prefix

OPTIONS = Options(hostname=NODE, cluster_cidrs=(parse_prefix("10.128.0.0/10"),))


def load(path: Path) -> Store:
    store = Store()
    found, bad = parse_manifest(path.read_bytes(), str(path))
    assert not bad, bad[:3]
    for one in found:
        store.put(one)
    return store


def facts_of(store: Store) -> NodeFacts:
    here = frozenset({parse_ip("127.0.0.1"), parse_ip("192.0.2.10")})
    return node_facts(store.snapshot().nodes[NODE], NODE, here)


def first_sync(store: Store) -> tuple[dict[str, float], Linker, int]:
    """Seconds of each stage, the program, and how many changes were written."""
    snapshot, facts = store.snapshot(), facts_of(store)
    marks = [time.perf_counter()]

    def mark() -> None:
        marks.append(time.perf_counter())

    view = node_view(facts, OPTIONS, snapshot.service_cidrs())
    settler = Settler(facts, OPTIONS)
    settler.update(snapshot, snapshot.names())
    mark()
    fragments: dict[object, Fragment] = {(): NFTABLES.base(view)}
    for key, forward in settler.forwards.items():
        fragments[key] = NFTABLES.fragment(forward, view)
    linker = Linker()
    linker.fill(fragments)
    mark()
    plane = NftPlane(linker.origin, linker.objects)
    plan = steps(diff(plane.read_now(), linker.objects), NFTABLES.planes)
    mark()
    count = 0
    for step in plan:
        plane.write_now(step.changes)
        count += len(step.changes)
    mark()
    plane.close()
    names = ("settle", "compile", "plan", "write")
    return {name: marks[n + 1] - marks[n] for n, name in enumerate(names)}, linker, count


def nft(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run(["nft", *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def main(path: str, tries: int) -> None:
    gc.disable()
    store = load(Path(path))
    ours, theirs = [], []
    size = count = 0
    for _ in range(tries):
        stages, linker, count = first_sync(store)
        ours.append(stages)
        nft("delete", "table", "ip", "kubeway")
        nft("delete", "table", "ip6", "kubeway")
        text = Path(path).with_suffix(".nft")
        text.write_text(show(linker.objects))
        size = text.stat().st_size
        theirs.append(nft("-f", str(text)))
        nft("flush", "ruleset")
        del linker
        gc.collect()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"ours": ours, "nft": theirs, "objects": count, "text": size, "peak": peak}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
