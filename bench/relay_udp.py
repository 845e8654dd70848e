"""
UDP through the relay beside the same through nftables' DNAT, and directly.

    python -m bench.relay_udp [ROUNDS [SECONDS]]

A client, a node and a server in namespaces of their own; all paths go through the same links, and all are up
all the time: `direct` (routed), `dnat`, `kept` and `hidden` (one relay: clients' addresses seen or not), and
`plain`, a relay that takes no trains. Each round measures them in random order; what counts is the median
over rounds of their ratios, with quartiles.

    one     one client, one request at a time: requests per second
    many    32 clients, one request each at a time
    new     each request from a new port, as names are looked up: a session each
    trains  32 datagrams of 1200 bytes at a time, sent and answered with UDP_SEGMENT

With each the CPU microseconds that an answer costs all who take part, and of these the relay. That hardly
depends on what else the machine does, while a path with one process more suffers more from it. Client and
server are Python, too; their own part in the cost brings all ratios nearer to 1. Needs root.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import statistics
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import run
from typing import Final

from bench.connects import enter, ip, namespace, path
from kubeway.planes.relay.datagram import PORTS, Sessions
from kubeway.planes.relay.entrance import Entrance
from kubeway.planes.relay.objects import Endpoint, Way
from kubeway.shell.relay import datagrams
from kubeway.shell.relay.loop import Loop
from kubeway.shell.relay.udp import TOLD, UDP_GRO, UDP_SEGMENT, gather, in_pieces, listen, pieces
from kubeway.values import parse_ip

SERVER: Final = "10.190.0.2"
ECHO, TRAINS = 9000, 9001
PATHS: Final = {
    "direct": SERVER,
    "dnat": "10.98.0.1",
    "kept": "10.96.0.1",
    "hidden": "10.97.0.1",
    "plain": "10.95.0.1",
}
CLIENTS: Final = 32
SIZE: Final = 1200
TRAIN: Final = bytes(SIZE) * 32
MOST: Final = 1024
"""Sessions of a relay: those of `new` have their end in the measurement, too."""

RULES: Final = """
table ip bench {
    chain nat { type nat hook prerouting priority dstnat; ip daddr 10.98.0.1 dnat to 10.190.0.2; }
    chain mangle {
        type filter hook prerouting priority mangle;
        ip daddr 10.96.0.1 meta l4proto udp tproxy to 127.0.0.1:7001 meta mark set 1 accept
        ip daddr 10.97.0.1 meta l4proto udp tproxy to 127.0.0.1:7002 meta mark set 1 accept
        ip daddr 10.95.0.1 meta l4proto udp tproxy to 127.0.0.1:7003 meta mark set 1 accept
        socket transparent 1 meta mark set 1 accept
    }
}
"""


# --- who takes part ----------------------------------------------------------------------


def process(work: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(1)
    return pid


def echo() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((SERVER, ECHO))
    buffer = bytearray(1 << 16)
    view = memoryview(buffer)
    while True:
        n, whom = sock.recvfrom_into(buffer)
        sock.sendto(view[:n], whom)


def echo_trains() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    gather(sock)
    sock.bind((SERVER, TRAINS))
    buffer = bytearray(1 << 16)
    view = memoryview(buffer)
    while True:
        n, told, _, whom = sock.recvmsg_into([buffer], TOLD)
        size = pieces(told)
        sock.sendmsg([view[:n]], in_pieces(size) if size else [], 0, whom)


def relay(part: int, *ports: tuple[int, bool], trains: bool = True) -> None:
    loop = Loop()
    carrier = datagrams.Datagrams(loop, random.Random(1), Sessions(MOST, ports=PORTS[part::2]))
    ways: datagrams.Ways = {}
    for name in PATHS.values():
        for port in ECHO, TRAINS:
            ways[name, port] = Entrance(Way((Endpoint(parse_ip(SERVER), port),), demote=True))
    if not trains:
        datagrams._BRISK = 1 << 30  # type: ignore[misc]
    for port, keeps in ports:
        sock = listen(("127.0.0.1", port), socket.AF_INET)
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, trains)
        datagrams.Listener(sock, ways, keeps, carrier).open()
    loop.run()


def used(pid: int) -> float:
    """CPU seconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


# --- what is measured --------------------------------------------------------------------


def client(to: tuple[str, int] | None = None) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 300_000))
    if to is not None:
        sock.connect(to)
    return sock


def one(to: str, seconds: float, clients: int = 1) -> int:
    """How many requests were answered."""
    socks = [client((to, ECHO)) for _ in range(clients)]
    data, buffer = b"x" * 64, bytearray(2048)
    pairs = [(sock.send, sock.recv_into) for sock in socks]
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        for send, _ in pairs:
            send(data)
        for _, recv in pairs:
            with suppress(BlockingIOError):
                recv(buffer)
                count += 1
    for sock in socks:
        sock.close()
    return count


def many(to: str, seconds: float) -> int:
    return one(to, seconds, CLIENTS)


def new(to: str, seconds: float) -> int:
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        sock = client((to, ECHO))
        sock.send(b"x" * 64)
        with suppress(BlockingIOError):
            sock.recv(2048)
            count += 1
        sock.close()
    return count


def trains(to: str, seconds: float) -> int:
    """How many datagrams came back."""
    sock = client((to, TRAINS))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    gather(sock)
    buffer = bytearray(1 << 16)
    got, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        sock.sendmsg([TRAIN], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", SIZE))])
        left = len(TRAIN)
        while left > 0:
            try:
                n = sock.recv_into(buffer)
            except BlockingIOError:
                break
            left -= n
            got += n
    sock.close()
    return got // SIZE


KINDS: Final = {"one": one, "many": many, "new": new, "trains": trains}


# --- rounds ------------------------------------------------------------------------------


def world() -> tuple[dict[str, int], list[int]]:
    """The relays' processes by path, and all processes. This thread is with the client, then."""
    node, server = namespace(), namespace()
    ip(
        f"link add eth0 type veth peer name back netns {path(node)}",
        f"addr add {SERVER}/24 dev eth0",
        "link set eth0 up",
        "route add default via 10.190.0.1",
    )
    every = [process(echo), process(echo_trains)]
    there = namespace()
    ip(
        f"link add eth0 type veth peer name front netns {path(node)}",
        "addr add 10.191.0.2/24 dev eth0",
        "link set eth0 up",
        "route add default via 10.191.0.1",
    )
    enter(node)
    ip(
        "addr add 10.191.0.1/24 dev front",
        "addr add 10.190.0.1/24 dev back",
        "link set front up",
        "link set back up",
        "rule add fwmark 1 lookup 100",
        "route add local default dev lo table 100",
    )
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    run(["nft", "-f", "-"], input=RULES, text=True, check=True)
    both = process(lambda: relay(0, (7001, True), (7002, False)))
    plain = process(lambda: relay(1, (7003, True), trains=False))
    enter(there)
    os.close(server)
    return {"kept": both, "hidden": both, "plain": plain}, [*every, both, plain]


def quartiles(values: list[float]) -> str:
    low, middle, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    )
    return f"{middle:7.2f} [{low:.2f}-{high:.2f}]"


def main(rounds: int = 7, seconds: float = 0.3) -> None:
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    cost: dict[tuple[str, str], list[float]] = defaultdict(list)
    part: dict[tuple[str, str], list[float]] = defaultdict(list)
    relays, every = world()
    try:
        time.sleep(0.5)
        for turn in range(rounds + 1):
            for kind, work in KINDS.items():
                for name in random.sample([*PATHS], len(PATHS)):
                    pids = [os.getpid(), *every]
                    before = {pid: used(pid) for pid in pids}
                    count = max(1, work(PATHS[name], seconds))
                    spent = {pid: (used(pid) - before[pid]) / count * 1e6 for pid in pids}
                    if turn:  # the first warms up
                        rates[kind, name].append(count / seconds)
                        cost[kind, name].append(sum(spent.values()))
                        part[kind, name].append(spent[relays[name]] if name in relays else 0.0)
    finally:
        for pid in every:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    for kind in KINDS:
        print(kind)
        for name in PATHS:
            line = f"  {name:8}{statistics.median(rates[kind, name]):10.0f}/s"
            for other in "direct", "dnat", "plain":
                ratios = [a / b for a, b in zip(rates[kind, name], rates[kind, other], strict=True)]
                line += f"  x {other}{quartiles(ratios)}"
            costs = [b / a for a, b in zip(cost[kind, name], cost[kind, "dnat"], strict=True)]
            line += f"  CPU {statistics.median(cost[kind, name]):.2f} us, dnat / this{quartiles(costs)}"
            if name in relays:
                less = [b / a for a, b in zip(part[kind, name], part[kind, "plain"], strict=True)]
                line += f"; relay {statistics.median(part[kind, name]):.2f} us, plain / this{quartiles(less)}"
            print(line)


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, float), sys.argv[1:], strict=False)))
