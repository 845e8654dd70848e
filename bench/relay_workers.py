"""
New connections with one, two and four workers, each of which may use a small part of a processor.

    python -m bench.relay_workers [ROUNDS [SECONDS [PERCENT]]]

On a machine of few processors, clients, servers and workers stand in each other's way, and nothing rises
with anything. So each worker is held to PERCENT of a processor (a control group with a quota): that is what a
processor more would give, with enough left for all others. Clients have 64 source addresses, as one client
always comes to the same worker. Each round measures all numbers of workers in random order; what counts is
the median over rounds of the ratios to one worker, with quartiles. Needs root, haproxy (it serves the
requests) and a writable cpu controller, of cgroup v1 or v2.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from bench.relay import ENDPOINTS, HTTP, LO, SERVER, haproxy, run
from kubeway.lab.kernel import CLONE_NEWNET, unshare
from kubeway.planes.relay.objects import Endpoint, Way, way_key
from kubeway.program.program import Change
from kubeway.shell.relay.listeners import Listening
from kubeway.shell.relay.plane import RelayPlane
from kubeway.values import TCP, parse_ip

WORKERS: Final = (1, 2, 4)
CLIENTS: Final = 64
_PERIOD: Final = 50_000  # microseconds; a quota has to be at least 1000
_V1, _V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
_REQUEST: Final = b"GET / HTTP/1.0\r\n\r\n"


@contextmanager
def held(pid: int, percent: int) -> Iterator[None]:
    """The process may use so much of a processor."""
    v2 = (_V2 / "cgroup.controllers").exists()
    folder = (_V2 if v2 else _V1) / f"kubeway-bench-{pid}"
    folder.mkdir()
    try:
        quota = _PERIOD * percent // 100
        if v2:
            (folder / "cpu.max").write_text(f"{quota} {_PERIOD}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (folder / "cpu.cfs_quota_us").write_text(str(quota))
        (folder / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with suppress(OSError):  # it has ended
            (folder.parent / "cgroup.procs").write_text(str(pid))
        folder.rmdir()


async def client(number: int, port: int, seconds: float, counts: list[int]) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            sock.bind((f"127.2.{number >> 8}.{number & 255}", 0))
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.sock_sendall(sock, _REQUEST)
            while await loop.sock_recv(sock, 4096):
                pass
        counts[0] += 1


async def rate(port: int, seconds: float) -> float:
    """Connections a second, of all clients together."""
    counts = [0]
    await asyncio.gather(*(client(number + 1, port, seconds, counts) for number in range(CLIENTS)))
    return counts[0] / seconds


async def relay(stack: ExitStack, workers: int, percent: int) -> int:
    """Its port."""
    plane = RelayPlane([Listening("cluster", False, LO, 0, transparent=False)], workers=workers)
    stack.callback(plane.close)
    (port,) = plane.ports()
    ones = tuple(Endpoint(parse_ip(ip), HTTP) for ip in ENDPOINTS)
    await plane.write([Change("add", way_key("cluster", LO, TCP, port), None, Way(ones))])
    for pid in plane.processes:
        stack.enter_context(held(pid, percent))
    return port


async def main(rounds: int, seconds: float, percent: int) -> None:
    unshare(CLONE_NEWNET)
    await run("ip", "link", "set", "lo", "up")
    found: dict[int, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        haproxy(stack, folder, "server", SERVER)
        ports = {count: await relay(stack, count, percent) for count in WORKERS}
        await asyncio.sleep(1.0)
        for number in range(rounds + 1):
            for count in random.sample(WORKERS, len(WORKERS)):
                got = await rate(ports[count], seconds)
                if number:  # the first one warms up
                    found[count].append(got)
    for count in WORKERS:
        ratios = [a / b for a, b in zip(found[count], found[WORKERS[0]], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        print(
            f"{count} workers of {percent} % of a processor: {statistics.median(found[count]):6.0f}"
            f" connections/s, x {middle:.2f} [{low:.2f}-{high:.2f}]"
        )


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("needs root")
    words = [int(word) for word in sys.argv[1:]]
    asyncio.run(main(*(words + [5, 1, 4][len(words) :])))
