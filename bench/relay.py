"""
The relay beside HAProxy in TCP mode, and beside no proxy at all.

    python -m bench.relay [ROUNDS [SECONDS [CONGESTION]]]

One worker and one HAProxy thread with forced splicing, both up all the time, in a network namespace with
nothing but loopback. Each round measures direct, haproxy and relay, and relay-keeps, which connects from the
client's address, in random order; what counts is the median over rounds of their ratios, with quartiles, as
other work on the machine shifts all figures of a round alike. Every feature is on in the relay: three
endpoints in turn, affinity, demotion.

    bulk1, bulk8    iperf3 with 1 and 8 flows: bits per second, and the proxy's CPU seconds per GB
    conns           wrk, 32 clients, a connection for each request: requests per second, p99, and the
                    proxy's CPU microseconds per connection
    kept            wrk, 8 clients that keep their connections: requests per second
    idle            resident bytes of the proxy for each connection that is open and silent

Needs root, haproxy, wrk and iperf3, which `make system` does not fetch, as nothing else here needs them:

    apt-get install --no-install-recommends haproxy wrk iperf3

HAProxy serves the requests, too (another process).

CONGESTION: TCP's congestion control, else reno. That of the machine may be one that paces what is sent (bbr);
bulk by loopback measures the pacing then, by timers that whoever happens to run at the time has to work off.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from kubeway.lab.kernel import CLONE_NEWNET, unshare
from kubeway.planes.relay.objects import Endpoint, Way, way_key
from kubeway.program.program import Change
from kubeway.shell.relay.listeners import Listening
from kubeway.shell.relay.plane import RelayPlane
from kubeway.values import TCP, parse_ip

LO: Final = parse_ip("127.0.0.1")
ENDPOINTS: Final = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
HTTP, BULK = 8080, 5201
PORTS: Final = {"direct": (HTTP, BULK), "haproxy": (8081, 5301)}
"""Where requests and where bulk are sent; the relay's ports are chosen by the kernel."""

IDLE: Final = 1500

Figures = dict[str, float]

_HAPROXY: Final = """
global
    nbthread 1
    maxconn 4000
    tune.pipesize 1048576
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option splice-request
    option splice-response
"""
SERVER: Final = """
global
    nbthread 1
    maxconn 4000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend web
    bind 0.0.0.0:8080
    http-request return status 200 content-type text/plain string "%s"
""" % ("x" * 1024)


def balanced(name: str, listens: int, port: int) -> str:
    servers = "".join(f"    server s{n} {ip}:{port}\n" for n, ip in enumerate(ENDPOINTS))
    # Bulk sticks to one endpoint, as it does with the relay.
    how = "source" if port == BULK else "roundrobin"
    return f"listen {name}\n    bind 127.0.0.1:{listens}\n    balance {how}\n{servers}"


def start(stack: ExitStack, words: list[str]) -> int:
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process.pid


def haproxy(stack: ExitStack, folder: Path, name: str, text: str) -> int:
    path = folder / f"{name}.cfg"
    path.write_text(text)
    return start(stack, ["haproxy", "-db", "-f", str(path)])


def used(pid: int) -> float:
    """CPU seconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9 if pid else 0.0


async def run(*words: str) -> str:
    process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    return out.decode()


async def bulk(port: int, flows: int, seconds: float, pid: int) -> Figures:
    words = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-t", str(seconds), "-P", str(flows), "-J"]
    got = None
    while got is None:  # the server may still be busy with the test before
        before = used(pid)
        got = json.loads(await run(*words))["end"].get("sum_received")
    return {"bits": got["bits_per_second"], "cpu": (used(pid) - before) / (got["bytes"] / 1e9)}


_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


async def requests(port: int, clients: int, seconds: float, pid: int, *, keep: bool) -> Figures:
    before = used(pid)
    close = [] if keep else ["-H", "Connection: close"]
    words = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--latency", *close, f"http://127.0.0.1:{port}/"]
    said = await run(*words)
    number, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", said).groups()  # type: ignore[union-attr]
    count = int(re.search(r"(\d+) requests in", said).group(1))  # type: ignore[union-attr]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said).group(1))  # type: ignore[union-attr]
    errors = re.search(r"Socket errors: (.*)", said)
    if errors:
        print("  wrk:", port, errors.group(1), file=sys.stderr)
    return {"rate": rate, "p99": float(number) * _UNITS[unit], "cpu": (used(pid) - before) / count * 1e6}


async def measure(http: int, data: int, pid: int, seconds: int) -> dict[str, Figures]:
    return {
        "conns": await requests(http, 32, seconds, pid, keep=False),
        "bulk1": await bulk(data, 1, seconds, pid),
        "kept": await requests(http, 8, seconds, pid, keep=True),
        "bulk8": await bulk(data, 8, seconds, pid),
    }


async def idle(port: int, pid: int) -> float:
    """Resident bytes of the proxy for each connection that is open and silent."""
    before = resident(pid)
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(IDLE)]
    await asyncio.sleep(1.0)
    grown = resident(pid) - before
    for _, writer in opened:
        writer.close()
    return grown / IDLE


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def relay(stack: ExitStack, *, keeps: bool) -> tuple[int, int, int]:
    """Its ports and its worker's process."""
    plane = RelayPlane([Listening("cluster", keeps, LO, 0, transparent=False) for _ in range(2)])
    stack.callback(plane.close)
    http, data = plane.ports()
    changes = []
    for port, to in ((http, HTTP), (data, BULK)):
        ones = tuple(Endpoint(parse_ip(ip), to) for ip in ENDPOINTS)
        key = way_key("cluster", LO, TCP, port)
        changes.append(Change("add", key, None, Way(ones, 3600, demote=True)))
    await plane.write(changes)
    return http, data, plane.processes[0]


async def main(rounds: int, seconds: int, congestion: str) -> None:
    missing = [tool for tool in ("haproxy", "wrk", "iperf3") if shutil.which(tool) is None]
    if missing:
        # Debian's packages have the programs' names.
        packages = " ".join(missing)
        sys.exit(f"not installed: {packages}; apt-get install --no-install-recommends {packages}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    unshare(CLONE_NEWNET)
    await run("ip", "link", "set", "lo", "up")
    await run("sysctl", "-q", f"net.ipv4.tcp_congestion_control={congestion}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        haproxy(stack, folder, "server", SERVER)
        start(stack, ["iperf3", "-s"])
        text = _HAPROXY + "".join(
            balanced(f"p{port}", listens, port) for listens, port in ((8081, HTTP), (5301, BULK))
        )
        proxy = haproxy(stack, folder, "proxy", text)
        who = {
            "direct": (*PORTS["direct"], 0),
            "haproxy": (*PORTS["haproxy"], proxy),
            "relay": await relay(stack, keeps=False),
            "relay-keeps": await relay(stack, keeps=True),
        }
        await asyncio.sleep(1.0)
        told: list[dict[str, dict[str, Figures]]] = []
        for number in range(rounds + 1):
            order = random.sample(list(who), len(who))
            found = {name: await measure(*who[name], seconds) for name in order}
            if number:  # the first one warms up
                told.append(found)
            print(
                f"round {number}:", *(f"{n} {found[n]['conns']['rate']:.0f}/s" for n in who), file=sys.stderr
            )
        show(told)
        # A new worker: one that had more to do has room for many before it grows.
        who["relay"] = await relay(stack, keeps=False)
        for name in ("haproxy", "relay"):
            print(f"{name:14}idle    bytes {await idle(who[name][0], who[name][2]):12.0f}")


def show(told: list[dict[str, dict[str, Figures]]]) -> None:
    ratios: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for found in told:
        for name, cases in found.items():
            for case, figures in cases.items():
                for figure, value in figures.items():
                    values[name, case, figure].append(value)
                    beside = found["haproxy"][case][figure]
                    if beside:
                        ratios[name, case, figure].append(value / beside)
    print(f"{'':28}{'median':>12}{'/ haproxy':>12}   quartiles   ({len(told)} rounds)")
    for (name, case, figure), found_values in values.items():
        line = f"{name:14}{case:8}{figure:6}{statistics.median(found_values):12.4g}"
        if ratios[name, case, figure] and name != "haproxy":
            some = ratios[name, case, figure]
            low, middle, high = statistics.quantiles(some, n=4) if len(some) > 1 else some * 3
            line += f"{middle:12.2f}   {low:.2f}-{high:.2f}"
        print(line)


if __name__ == "__main__":
    words = [*sys.argv[1:], *("7", "1", "reno")[len(sys.argv) - 1 :]]
    asyncio.run(main(int(words[0]), int(words[1]), words[2]))
