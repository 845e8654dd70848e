"""
Numbers of iptables mode: a cold start, one change and a connect, in both back ends of iptables.

    make bench-iptables                         all of it, three to ten minutes
    python bench/iptables.py --services 500     one small world, to see that it runs
    python bench/iptables.py --dispatch         connects only, by tree, by list, behind an ipset

Beside ours stand rules of kube-proxy's shape for the same Services, loaded by the system's own restore
tool. With nf_tables that tool's time grows with the square of kube-proxy's chains: 4,000 Services take
it half a minute at least, so that is measured once, and 10,000 not at all. What the numbers stand for
is said in `bench/run.py`, whose table this prints, too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.run import World, measure, report  # noqa: E402 (the path is set above, as this runs as a script)

_Rows = list[tuple[str, str, str, bool | None]]
_Runs = list[dict[str, Any]]

_TOOLS: Final = {"nft": "iptables-nft-restore", "legacy": "iptables-legacy-restore"}


def run(backend: str, whose: str, world: World, changes: int) -> dict[str, Any]:
    found: dict[str, Any] = measure("tables", backend, whose, world.path, changes)
    return found


def in_turns(backend: str, world: World, tries: int, changes: int) -> tuple[_Runs, _Runs]:
    ours, theirs = [], []
    for _ in range(tries):
        ours.append(run(backend, "ours", world, changes))
        theirs.append(run(backend, "tool", world, changes))
    return ours, theirs


def told(ours: _Runs) -> str:
    stages = {name: median(one["stages"][name] for one in ours) for name in ours[0]["stages"]}
    detail = ", ".join(f"{name} {seconds:.2f}" for name, seconds in stages.items())
    return f"{median(one['cold'] for one in ours):.2f} s ({detail}; {ours[0]['objects']:,} objects)"


def change_of(runs: _Runs) -> float:
    """The median of all changes, in milliseconds."""
    return float(median(seconds for one in runs for seconds in one["changes"])) * 1000


def beside_tool(backend: str, world: World, ours: _Runs, theirs: _Runs, limit: float, rows: _Rows) -> None:
    """The cold start; runs of the tool may be fewer than ours."""
    name = f"{world}, {backend}"
    seconds = median(one["cold"] for one in theirs)
    rows.append((f"{name}: {_TOOLS[backend]} of kube-proxy's rules", f"{seconds:.2f} s", "", None))
    rows.append((f"{name}: settle, compile, plan, encode, commit", told(ours), "", None))
    if len(ours) == len(theirs):
        ratio = median(mine["cold"] / tool["cold"] for mine, tool in zip(ours, theirs, strict=True))
    else:
        ratio = median(mine["cold"] / seconds for mine in ours)
    shown, held = (f"<= {limit:g}", ratio <= limit) if limit else ("", None)
    rows.append((f"{name}: ours / the tool", f"{ratio:.3f}", shown, held))
    # On a busy machine this says more.
    mine, tool = (min(one["cpu"] for one in runs) for runs in (ours, theirs))
    rows.append(
        (f"{name}: ours / the tool, least CPU", f"{mine / tool:.3f} ({mine:.2f} s / {tool:.2f} s)", "", None)
    )


def one_change(name: str, ours: _Runs, most: float, rows: _Rows) -> None:
    took = change_of(ours)
    limit, held = (f"<= {most:g} ms", took <= most) if most else ("", None)
    rows.append((f"{name}: one endpoint replaced", f"p50 {took:.1f} ms", limit, held))


def change_beside_tool(name: str, ours: _Runs, theirs: _Runs, limit: float, rows: _Rows) -> None:
    mine, tool = change_of(ours), change_of(theirs)
    shown, held = (f"<= {limit:g}", mine / tool <= limit) if limit else ("", None)
    figure = f"{mine / tool:.2f} ({mine:.0f} ms / {tool:.0f} ms)"
    rows.append((f"{name}: one endpoint replaced, ours / the tool", figure, shown, held))


def connects(backend: str, few: World, many: World, count: int, limit: float, rows: _Rows) -> None:
    asked = [
        f"{shape}-{which}={shape}:{which}:{world.path}"
        for shape in ("tree", "list")
        for which, world in (("first", few), ("last", many))
    ]
    found = measure("connects", backend, count, *asked)
    for shape, whose in ("tree", "ours"), ("list", "kube-proxy's rules"):
        first, last = (found[f"{shape}-{which}"]["service"] for which in ("first", "last"))
        ratio = median(last) / median(first)
        capped = bool(limit) and shape == "tree"
        rows.append(
            (
                f"{backend}: connect, last of {many.services:,} / first of {few.services:,}, {whose}",
                f"{ratio:.2f} ({median(last):.1f} us / {median(first):.1f} us)",
                f"<= {limit:g}" if capped else "",
                ratio <= limit if capped else None,
            )
        )


def dispatch(folder: Path, rows: _Rows) -> None:
    """What decision 0009 rests on: four ways to find a Service, and what they cost who looks for none."""
    few, many = World(folder, 10, 5), World(folder, 10_000, 5)
    shapes = ("tree", "tree-behind-set", "list", "list-behind-set")
    for backend in _TOOLS:
        asked = [f"{shape}={shape}:last:{many.path}" for shape in shapes]
        found = measure("connects", backend, 400, f"few=tree:first:{few.path}", *asked)
        for name, took in found.items():
            figure = f"a Service {median(took['service']):.1f} us, none {median(took['stranger']):.1f} us"
            size = f"first of {few}" if name == "few" else f"last of {many}"
            rows.append(
                (f"{backend}: connect, {size}, {'tree' if name == 'few' else name}", figure, "", None)
            )


def everything(folder: Path, rows: _Rows) -> None:
    few, some, many = World(folder, 10, 5), World(folder, 4_000, 5), World(folder, 10_000, 5)
    ours = [run("nft", "ours", some, 20) for _ in range(3)]
    theirs = [run("nft", "tool", some, 10)]
    beside_tool("nft", some, ours, theirs, 0.1, rows)
    one_change(f"{some}, nft", ours, 60, rows)
    change_beside_tool(f"{some}, nft", ours, theirs, 0, rows)
    ours = [run("nft", "ours", many, 20) for _ in range(3)]
    seconds = median(one["cold"] for one in ours)
    rows.append((f"{many}, nft: settle, compile, plan, encode, commit", told(ours), "<= 8 s", seconds <= 8))
    one_change(f"{many}, nft", ours, 60, rows)
    ours, theirs = in_turns("legacy", many, 5, 10)
    beside_tool("legacy", many, ours, theirs, 0.6, rows)
    change_beside_tool(f"{many}, legacy", ours, theirs, 1, rows)
    for backend in _TOOLS:
        connects(backend, few, many, 1000, 1.3, rows)


def one_world(folder: Path, services: int, rows: _Rows) -> None:
    few, many = World(folder, 10, 5), World(folder, services, 5)
    for backend in _TOOLS:
        ours, theirs = in_turns(backend, many, 2, 5)
        beside_tool(backend, many, ours, theirs, 0, rows)
        change_beside_tool(f"{many}, {backend}", ours, theirs, 0, rows)
        connects(backend, few, many, 100, 0, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--services", type=int, help="one world of so many Services, without limits")
    parser.add_argument("--dispatch", action="store_true", help="ways to find a Service only (needs ipset)")
    asked = parser.parse_args()
    rows: _Rows = []
    with tempfile.TemporaryDirectory(prefix="kubeway-bench-") as folder:
        if asked.dispatch:
            dispatch(Path(folder), rows)
        elif asked.services:
            one_world(Path(folder), asked.services, rows)
        else:
            everything(Path(folder), rows)
    return report(rows, "kubeway, iptables mode")


if __name__ == "__main__":
    raise SystemExit(main())
