"""
UDP through userspace mode beside the same through nftables mode (DNAT), and directly.

    python -m bench.relay_udp [ROUNDS [SECONDS]]

A client, a node and a server in namespaces of their own, one set for each mode, in which kubeway itself runs,
with one worker; all are up all the time. Paths: `direct` (routed); `dnat` and `relay`, a pod to a ClusterIP,
its address seen by the endpoint; `relay-2`, the same with two workers; `dnat-masq` and `relay-hidden`, the
same to an external IP, with the node's address; `plain`, a relay that takes no trains, with the fewest rules
that lead to it. Each round measures them in random order; what counts is the median over rounds of their
ratios, with quartiles.

    one     one client, one request at a time: requests per second
    many    32 clients of an address each, one request each at a time
    new     each request from a new port, as names are looked up: a session each
    trains  128 datagrams of 1200 bytes at a time, sent 32 by 32 and answered with UDP_SEGMENT

With each the CPU microseconds that an answer costs all who take part, and of these the relay. That hardly
depends on what else the machine does, while a path with one process more suffers more from it. Client and
server are Python, too; their own part in the cost brings all ratios nearer to 1. Needs root.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from subprocess import DEVNULL, Popen, run
from typing import Final, NamedTuple
from urllib.request import urlopen

from bench.connects import enter, ip, triple
from kubeway.planes.relay.datagram import Sessions
from kubeway.planes.relay.entrance import Entrance
from kubeway.planes.relay.objects import Endpoint, Way
from kubeway.shell.relay import datagrams
from kubeway.shell.relay.loop import Loop
from kubeway.shell.relay.udp import TOLD, UDP_GRO, UDP_SEGMENT, gather, in_pieces, listen, pieces
from kubeway.values import parse_ip

SERVER: Final = "10.190.0.2"
ECHO, TRAINS = 9000, 9001
CLUSTER_IP, EXTERNAL_IP = "10.96.0.1", "198.51.100.1"
PATHS: Final = {
    "direct": ("nftables", SERVER),
    "dnat": ("nftables", CLUSTER_IP),
    "relay": ("userspace", CLUSTER_IP),
    "relay-2": ("userspace-2", CLUSTER_IP),
    "dnat-masq": ("nftables", EXTERNAL_IP),
    "relay-hidden": ("userspace", EXTERNAL_IP),
    "plain": ("plain", CLUSTER_IP),
}
"""Through which node, and where to."""
BESIDE: Final = {"relay": "dnat", "relay-2": "dnat", "relay-hidden": "dnat-masq"}
WORKERS: Final = {"nftables": 1, "userspace": 1, "userspace-2": 2}
CLIENTS: Final = 32
SIZE: Final = 1200
TRAIN: Final = bytes(SIZE) * 32
AT_ONCE: Final = 4  # trains
MOST: Final = 1024
"""Sessions of a relay: those of `new` have their end in the measurement, too."""

RULES: Final = """
table ip bench {
    chain mangle {
        type filter hook prerouting priority mangle;
        ip daddr 10.96.0.1 meta l4proto udp tproxy to 127.0.0.1:7003 meta mark set 1 accept
        socket transparent 1 meta mark set 1 accept
    }
}
"""


def manifest() -> str:
    """A Service with a port for single datagrams and one for trains."""
    name, labels = "echo", {"kubernetes.io/service-name": "echo"}
    ports = [{"name": f"p{port}", "port": port, "protocol": "UDP"} for port in (ECHO, TRAINS)]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "bench"},
        "spec": {
            "clusterIP": CLUSTER_IP,
            "clusterIPs": [CLUSTER_IP],
            "ipFamilies": ["IPv4"],
            "externalIPs": [EXTERNAL_IP],
            "ports": [{**port, "targetPort": port["port"]} for port in ports],
        },
    }
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "namespace": "bench", "labels": labels},
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [SERVER], "conditions": {"ready": True}}],
    }
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, slice_]})


# --- who takes part ----------------------------------------------------------------------


def process(stack: ExitStack, work: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(1)
    stack.callback(os.waitpid, pid, 0)
    stack.callback(os.kill, pid, signal.SIGKILL)
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


def plain() -> None:
    """A relay that takes no trains."""
    loop = Loop()
    carrier = datagrams.Datagrams(loop, random.Random(1), Sessions(MOST))
    ways: datagrams.Ways = {}
    for port in ECHO, TRAINS:
        ways[CLUSTER_IP, port] = Entrance(Way((Endpoint(parse_ip(SERVER), port),)))
    datagrams._BRISK = 1 << 30  # type: ignore[misc]
    sock = listen(("127.0.0.1", 7003), socket.AF_INET)
    sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 0)
    datagrams.Listener(sock, ways, True, carrier).open()
    loop.run()


def daemon(stack: ExitStack, mode: str) -> list[int]:
    """kubeway in this mode, in this thread's namespace. Its workers, if it has any."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    (folder / "echo.json").write_text(manifest())
    words = f"-m kubeway run --manifests {folder} --hostname-override bench --cluster-cidr 10.191.0.0/24"
    words += f" --proxy-mode {mode.partition('-')[0]} --kubeway-relay-workers {WORKERS[mode]}"
    words += " --metrics-bind-address="
    process = Popen([sys.executable, *words.split()], stderr=DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.kill)
    while True:
        with suppress(OSError), urlopen("http://127.0.0.1:10256/readyz", timeout=1) as answer:
            if answer.status == 200:
                break
        if process.poll() is not None:
            sys.exit(f"kubeway in {mode} mode ended with {process.returncode}")
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in children:  # they outlive it
        stack.callback(os.kill, int(pid), signal.SIGKILL)
    return [int(pid) for pid in children]


def used(pid: int) -> float:
    """CPU seconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


# --- what is measured --------------------------------------------------------------------


def client(to: tuple[str, int] | None = None, number: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((f"10.191.0.{2 + number}", 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 300_000))
    if to is not None:
        sock.connect(to)
    return sock


def one(to: str, seconds: float, clients: int = 1) -> int:
    """How many requests were answered."""
    socks = [client((to, ECHO), number) for number in range(clients)]
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
        for _ in range(AT_ONCE):
            sock.sendmsg([TRAIN], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", SIZE))])
        left = len(TRAIN) * AT_ONCE
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


class World(NamedTuple):
    """The client's namespace; who takes part beside it; and of these who carries."""

    client: int
    every: list[int]
    relays: list[int]


def world(stack: ExitStack, mode: str) -> World:
    there, node, every = triple(lambda: [process(stack, echo), process(stack, echo_trains)])
    enter(there)
    ip(*(f"addr add 10.191.0.{2 + number}/24 dev eth0" for number in range(1, CLIENTS)))
    enter(node)
    if mode == "plain":
        ip("rule add fwmark 1 lookup 100", "route add local default dev lo table 100")
        run(["nft", "-f", "-"], input=RULES, text=True, check=True)
        relays = [process(stack, plain)]
    else:
        relays = daemon(stack, mode)
    return World(there, [*every, *relays], relays)


def quartiles(values: list[float]) -> str:
    low, middle, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    )
    return f"{middle:7.2f} [{low:.2f}-{high:.2f}]"


def main(rounds: int = 7, seconds: float = 0.3) -> None:
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    cost: dict[tuple[str, str], list[float]] = defaultdict(list)
    part: dict[tuple[str, str], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        worlds = {mode: world(stack, mode) for mode in (*WORKERS, "plain")}
        time.sleep(0.5)
        for turn in range(rounds + 1):
            for kind, work in KINDS.items():
                for name in random.sample([*PATHS], len(PATHS)):
                    mode, to = PATHS[name]
                    enter(worlds[mode].client)
                    pids = [os.getpid(), *worlds[mode].every]
                    before = {pid: used(pid) for pid in pids}
                    count = max(1, work(to, seconds))
                    spent = {pid: (used(pid) - before[pid]) / count * 1e6 for pid in pids}
                    if turn:  # the first warms up
                        rates[kind, name].append(count / seconds)
                        cost[kind, name].append(sum(spent.values()))
                        part[kind, name].append(sum(spent[pid] for pid in worlds[mode].relays))
    for kind in KINDS:
        print(kind)
        for name in PATHS:
            line = f"  {name:14}{statistics.median(rates[kind, name]):10.0f}/s"
            line += f"   CPU {statistics.median(cost[kind, name]):6.2f} us"
            if PATHS[name][0] != "nftables":
                line += f", relay {statistics.median(part[kind, name]):6.2f}"
            if name in BESIDE:
                other = BESIDE[name]
                line += f"   x {other}{ratios(rates, kind, name, other)}"
                line += f"   its CPU / this{ratios(cost, kind, other, name)}"
                line += f"   x plain{ratios(rates, kind, name, 'plain')}"
            print(line)


def ratios(of: dict[tuple[str, str], list[float]], kind: str, one: str, other: str) -> str:
    return quartiles([a / b for a, b in zip(of[kind, one], of[kind, other], strict=True)])


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, float), sys.argv[1:], strict=False)))
