"""
Numbers of ipvs mode: a cold start, one change, and a re-sync with nothing to do, beside ipvsadm and ipset.

    make bench-ipvs                             10,000 Services of 5 endpoints, some two minutes
    python bench/ipvs.py --services 200         a small world, to see that it runs

Boots a guest (`tests/guest`), where there is ip_vs, and measures all in one run there.
A guest is a slow machine, system calls above all: of its numbers only ratios count, and what has a limit
in seconds holds it the more on a real one. The tools are given what our own text says of the same program:
`ipset restore` and `ipvsadm -R`. Of the rules that ask the sets there is nothing to compare: they are
the same few for any number of Services.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from msgspec.structs import replace  # noqa: E402 (the path is set above, as this runs as a script)

from bench.pipeline import OPTIONS, facts_of, load  # noqa: E402
from bench.run import World, report  # noqa: E402
from bench.tables import replaced  # noqa: E402
from kubeway.lab.kernel import CLONE_NEWNET, unshare  # noqa: E402
from kubeway.model.settle import Settler  # noqa: E402
from kubeway.modes.ipvs import IPVS  # noqa: E402
from kubeway.planes.ipset.text import show as show_sets  # noqa: E402
from kubeway.planes.ipvs.text import show as show_servers  # noqa: E402
from kubeway.program.link import Linker  # noqa: E402
from kubeway.program.plan import diff, steps  # noqa: E402
from kubeway.program.program import Change  # noqa: E402
from kubeway.shell import ipset_plane, ipvs_plane, link_plane  # noqa: E402
from kubeway.shell.compiler import Compiler  # noqa: E402
from kubeway.shell.ipset_plane import IpsetPlane  # noqa: E402
from kubeway.shell.ipvs_plane import IpvsPlane  # noqa: E402
from kubeway.shell.link_plane import LinkPlane  # noqa: E402
from kubeway.shell.sysctl_plane import SysctlPlane  # noqa: E402
from kubeway.shell.xtables_legacy import XtLegacyPlane  # noqa: E402

_HERE: Final = "192.0.2.10"  # the node's address in bench.pipeline
_CHANGES: Final = 20


class Clock:
    """Seconds of each stage, by name."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}

    def run(self, name: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        done = work()
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - began
        return done


def node() -> None:
    """A network namespace of its own, with the node's address in it."""
    unshare(CLONE_NEWNET)
    lines = f"link set lo up\naddr add {_HERE}/32 dev lo\n"
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)


def ours(path: Path) -> dict[str, Any]:
    """A cold start, a re-sync, and changes of one endpoint."""
    node()
    # As the daemon does at its start; it has the kernel load its modules.
    assert not any(probe() for probe in (ipset_plane.probe, ipvs_plane.probe, link_plane.probe))
    gc.disable()
    store, clock = load(path), Clock()
    linker = Linker()
    compiler = Compiler(IPVS, Settler, replace(OPTIONS, mode="ipvs"), facts_of(store), linker)
    clock.run("compile", lambda: compiler.update(store.snapshot(), ()))
    program = linker.objects
    planes: dict[str, Any] = {
        "ipset": IpsetPlane(program),
        "xtables": XtLegacyPlane(linker.origin, program),
        "ipvs": IpvsPlane(program),
        "link": LinkPlane(program),
        "sysctl": SysctlPlane(program),
    }

    def write(changes: list[Change], told: Clock) -> None:
        for step in steps(changes, IPVS.planes):
            told.run(step.plane, partial(planes[step.plane].write_now, step.changes))

    def read() -> list[Change]:
        held: dict[Any, Any] = {}
        for plane in planes.values():
            held.update(plane.read_now())
        return list(diff(held, program))

    write(clock.run("plan", read), clock)
    gc.freeze()
    again = Clock()
    for _ in range(3):
        assert not again.run("resync", read)
    took: list[float] = []
    for name in replaced(store, _CHANGES):
        change, told = compiler.update(store.snapshot(), (name,)).changes, Clock()
        write(change, told)
        # Two messages each: one endpoint joins, the other leaves.
        took.append(told.stages["ipvs"] / 2)
    texts = {"ipset": show_sets(program), "ipvsadm": show_servers(program)}
    return {"stages": clock.stages, "resync": again.stages["resync"] / 3, "changes": took, "texts": texts}


def tools(texts: dict[str, str]) -> dict[str, Any]:
    """The same loaded by the tools, and one destination added by a call of ipvsadm."""
    node()
    clock = Clock()
    for name, words in ("ipset", ["ipset", "restore"]), ("ipvsadm", ["ipvsadm", "-R"]):
        clock.run(name, partial(subprocess.run, words, input=texts[name], text=True, check=True))
    server = next(line for line in texts["ipvsadm"].splitlines() if line.startswith("-A")).split()[1:3]
    took = []
    for number in range(_CHANGES):
        one = Clock()
        words = ["ipvsadm", "-a", *server, "-r", f"10.200.0.{number + 1}:80", "-m"]
        one.run("call", partial(subprocess.run, words, check=True))
        took += one.stages.values()
    return {"stages": clock.stages, "changes": took}


def inside(services: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="kubeway-bench-") as folder:
        world = World(Path(folder), services, 5)
        mine = apart(lambda: ours(world.path), Path(folder))
        texts = mine.pop("texts")
        theirs = apart(lambda: tools(texts), Path(folder))
    return {"ours": mine, "tools": theirs}


def apart(work: Callable[[], dict[str, Any]], folder: Path) -> dict[str, Any]:
    """In a process of its own, so that its namespace is left with it."""
    told = folder / "told.json"
    pid = os.fork()
    if not pid:
        code = 1
        try:
            told.write_text(json.dumps(work()))
            code = 0
        except Exception:  # the child has nobody else to tell
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    found: dict[str, Any] = json.loads(told.read_text())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        print(json.dumps(inside(asked.services)))
        return 0
    words = [sys.executable, str(Path(__file__).resolve()), "--inside", f"--services={asked.services}"]
    boot = [sys.executable, "-m", "tests.guest.boot", "--", *words]
    done = subprocess.run(boot, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return report(rows(found, asked.services), "kubeway, ipvs mode, in a guest")


def rows(found: dict[str, Any], services: int) -> list[tuple[str, str, str, bool | None]]:
    mine, theirs = found["ours"]["stages"], found["tools"]["stages"]
    world, full = f"{services:,} x 5", services == 10_000
    programmed, loaded = mine["ipset"] + mine["ipvs"], theirs["ipset"] + theirs["ipvsadm"]
    detail = ", ".join(f"{name} {seconds:.2f}" for name, seconds in mine.items())
    change, call = median(found["ours"]["changes"]), median(found["tools"]["changes"])
    ratio, one, resync = programmed / loaded, change / call, found["ours"]["resync"]
    tools = f"{theirs['ipset']:.2f} s, {theirs['ipvsadm']:.2f} s"
    figure = f"{one:.3f} ({change * 1000:.2f} ms / {call * 1000:.2f} ms)"

    def limited(name: str, figure: str, limit: str, held: bool) -> tuple[str, str, str, bool | None]:
        return f"{world}: {name}", figure, limit if full else "", held if full else None

    return [
        (f"{world}: compile, plan, write", f"{sum(mine.values()):.2f} s ({detail})", "", None),
        (f"{world}: ipset restore, ipvsadm -R", tools, "", None),
        limited("sets and servers written / the tools", f"{ratio:.4f}", "<= 0.05", ratio <= 0.05),
        limited("one endpoint / a call of ipvsadm", figure, "<= 0.1", one <= 0.1),
        limited("read and compare, nothing to do", f"{resync:.2f} s", "<= 2 s", resync <= 2),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
