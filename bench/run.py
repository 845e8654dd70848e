"""
Numbers: how long the first sync, a cold start and one change take, and how they grow.

    make bench                      all of it, some minutes
    python bench/run.py --quick     small worlds only, to see that it runs

Everything runs on a real kernel, in network namespaces that end with their measurement. Times
are medians; a ratio is the median of ratios of runs that took turns. A limit that does not
hold is said, and the exit code is 1; on a busy machine, look at the ratios first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import worlds  # noqa: E402 (the path is set above so that this runs as a script)

_Rows = list[tuple[str, str, str, bool | None]]


def measure(part: str, *arguments: object) -> Any:
    """What a part prints, run in a network namespace of its own."""
    command = ["unshare", "--net", sys.executable, "-m", f"bench.{part}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


class World:
    """A manifest of `services` x `endpoints` in a folder that goes when all is done."""

    def __init__(self, folder: Path, services: int, endpoints: int) -> None:
        self.services, self.endpoints = services, endpoints
        self.path = folder / f"{services}x{endpoints}.json"
        worlds.write(self.path, services, endpoints)

    def __str__(self) -> str:
        return f"{self.services:,} x {self.endpoints}"


def first_sync(world: World, tries: int, rows: _Rows, limits: bool) -> None:
    found = measure("pipeline", world.path, tries)
    ours, nft = found["ours"], found["nft"]
    stages = {name: median(run[name] for run in ours) for name in ours[0]}
    rows.append((f"{world}: nft -f of the same rules", f"{median(nft):.3f} s", "", None))
    write = median(run["write"] / theirs for run, theirs in zip(ours, nft, strict=True))
    whole = median(sum(run.values()) / theirs for run, theirs in zip(ours, nft, strict=True))
    detail = ", ".join(f"{name} {seconds:.3f}" for name, seconds in stages.items())
    rows.append(
        (
            f"{world}: encode and commit / nft -f",
            f"{write:.3f} ({stages['write']:.3f} s, {found['objects']:,} objects)",
            "<= 0.15" if limits else "",
            write <= 0.15 if limits else None,
        )
    )
    rows.append(
        (
            f"{world}: settle, compile, plan, encode, commit / nft -f",
            f"{whole:.3f} ({detail} s)",
            "<= 0.7" if limits else "",
            whole <= 0.7 if limits else None,
        )
    )


def cold_start(world: World, tries: int, rows: _Rows, seconds: float, mebibytes: int) -> float:
    """Median seconds to /readyz."""
    runs = [measure("cold", world.path) for _ in range(tries)]
    ready = median(run["ready"] for run in runs)
    peak = max(run["peak"] for run in runs)
    end = max(run["end"] for run in runs)
    limit = f"<= {seconds:g} s" if seconds else ""
    rows.append(
        (f"{world}: process start to /readyz", f"{ready:.2f} s", limit, ready <= seconds if seconds else None)
    )
    allowed = f"<= {mebibytes} MiB" if mebibytes else ""
    rows.append((f"{world}: peak memory", f"{peak} MiB", allowed, peak <= mebibytes if mebibytes else None))
    rows.append((f"{world}: SIGTERM to end", f"{end:.3f} s", "< 1 s", end < 1))
    return float(ready)


def one_change(all_worlds: list[World], count: int, rows: _Rows) -> None:
    costs = set()
    for world in all_worlds:
        found = measure("change", world.path, world.services, count)
        took = sorted(found["took"])
        middle, late = median(took) * 1000, quantiles(took, n=100)[98] * 1000
        sent, visited = max(found["bytes"]), max(found["changes"])
        costs.add((sent, visited))
        rows.append(
            (
                f"{world}: one endpoint replaced, event to ack",
                f"p50 {middle:.2f} ms, p99 {late:.2f} ms, {sent} bytes, {visited} objects",
                "p50 <= 2 ms",
                middle <= 2,
            )
        )
    same = len(costs) == 1
    rows.append(
        (
            "bytes and objects, whatever the number of Services",
            "the same" if same else "differ",
            "the same",
            same,
        )
    )


def cluster(services: int, idle: float, count: int, rows: _Rows, limits: bool) -> None:
    found = measure("cluster", services, 5, idle, count)
    took = sorted(found["took"])
    middle, late = median(took) * 1000, quantiles(took, n=100)[98] * 1000
    name = f"{services:,} x 5 from an API server"

    def row(what: str, figure: str, limit: str, held: bool) -> None:
        rows.append((f"{name}: {what}", figure, limit if limits else "", held if limits else None))

    row("process start to /readyz", f"{found['ready']:.2f} s", "<= 2 s", found["ready"] <= 2)
    row("peak memory", f"{found['peak']} MiB", "<= 200 MiB", found["peak"] <= 200)
    row("CPU when idle", f"{found['idle']:.2%} of a core", "<= 0.5 %", found["idle"] <= 0.005)
    figure = f"p50 {middle:.2f} ms, p99 {late:.2f} ms, {len(took)} of {count}"
    held = middle <= 3 and late <= 15 and len(took) == count
    row("100 changes a second, sent to acked", figure, "p50 <= 3 ms, p99 <= 15 ms", held)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small worlds only")
    quick = parser.parse_args().quick
    rows: _Rows = []
    with tempfile.TemporaryDirectory(prefix="kubeway-bench-") as folder:
        place = Path(folder)
        if quick:
            small = World(place, 200, 5)
            first_sync(small, 2, rows, limits=False)
            cold_start(small, 1, rows, 0, 0)
            one_change([World(place, 20, 5), small], 20, rows)
            cluster(200, 1, 50, rows, limits=False)
        else:
            thousand, ten = World(place, 1_000, 5), World(place, 10_000, 5)
            first_sync(ten, 5, rows, limits=True)
            ten_ready = cold_start(ten, 3, rows, 2.0, 200)
            one_change([thousand, ten], 300, rows)
            wide, large = World(place, 44_000, 1), World(place, 50_000, 5)
            cold_start(wide, 1, rows, 0, 0)
            large_ready = cold_start(large, 1, rows, 0, 700)
            growth = large_ready / ten_ready
            rows.append((f"{large} / {ten}: process start to /readyz", f"{growth:.2f}", "<= 5", growth <= 5))
            one_change([large], 100, rows)
            cluster(10_000, 20, 1000, rows, limits=True)
    return report(rows)


def report(rows: _Rows, title: str = "kubeway") -> int:
    table = Table("measured", "", "limit", "", title=title, title_justify="left")
    for name, figure, limit, held in rows:
        table.add_row(
            name, figure, limit, "" if held is None else "[green]holds" if held else "[red]does not hold"
        )
    Console(width=160).print(table)
    return 1 if any(held is False for *_, held in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
