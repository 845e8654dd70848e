"""
A client, a node and a server in network namespaces, a link between each two neighbours: for tests that hold
a socket in each of them. What is sent to Services' addresses is led to listeners of ours on the node.

The namespaces have no names, and end with the descriptors that are open here.
"""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from kubeway.lab.kernel import CLONE_NEWNET, _call, unshare
from kubeway.shell.relay.loop import LEVEL, Loop

T = TypeVar("T")

CLIENTS = ("10.191.0.2", "10.191.0.3", "fd00:191::2", "fd00:191::3")
ENDPOINTS = tuple(f"10.190.0.{n}" for n in range(2, 8)) + tuple(f"fd00:190::{n}" for n in range(2, 8))
NODE = ("10.190.0.1", "fd00:190::1")
"""The node's addresses, as endpoints know it."""

KEPT, HIDDEN = 7001, 7002
"""Listeners' ports."""

RULES = """
table inet three {{
    chain prerouting {{
        type filter hook prerouting priority mangle;
        {first}
        ip daddr 10.96.0.0/16 meta l4proto udp tproxy ip to 127.0.0.1:7001 meta mark set 1 accept
        ip daddr 10.97.0.0/16 meta l4proto udp tproxy ip to 127.0.0.1:7002 meta mark set 1 accept
        ip6 daddr fd00:96::/64 meta l4proto udp tproxy ip6 to [::1]:7001 meta mark set 1 accept
        ip6 daddr fd00:97::/64 meta l4proto udp tproxy ip6 to [::1]:7002 meta mark set 1 accept
        ip daddr 10.191.0.1 udp dport 30000-32767 tproxy ip to 127.0.0.1:7001 meta mark set 1 accept
        {last}
    }}
}}
"""
OURS = "socket transparent 1 meta mark set 1 accept"


class Namespace:
    """A new one. `with` it, this thread is in it."""

    def __init__(self) -> None:
        with here():
            unshare(CLONE_NEWNET)
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    def enter(self) -> None:
        _call("setns", self.fd, CLONE_NEWNET)

    @contextmanager
    def inside(self) -> Iterator[None]:
        with here():
            self.enter()
            yield

    def ip(self, *commands: str) -> None:
        text = "".join(f"{command}\n" for command in ("link set lo up", *commands))
        with self.inside():
            subprocess.run(["ip", "-batch", "-"], input=text, text=True, check=True)

    def udp(self, address: str, port: int = 0) -> socket.socket:
        """A socket that is bound there; what it waits for has 5 s to come."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.inside():
            sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind((address, port))
        sock.settimeout(5)
        return sock


@contextmanager
def here() -> Iterator[None]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        yield
    finally:
        _call("setns", home, CLONE_NEWNET)
        os.close(home)


class Three:
    """`first`: the rule that knows our sockets comes before those for Services, as it may."""

    def __init__(self, first: bool = False) -> None:
        self.client, self.node, self.server = Namespace(), Namespace(), Namespace()
        node = f"/proc/{os.getpid()}/fd/{self.node.fd}"
        for one, name, net, addresses in (
            (self.client, "front", "191", CLIENTS),
            (self.server, "back", "190", ENDPOINTS),
        ):
            one.ip(
                f"link add eth0 type veth peer name {name} netns {node}",
                "link set eth0 up",
                *(
                    f"addr add {a}/{64 if ':' in a else 24} dev eth0 {'nodad' * (':' in a)}"
                    for a in addresses
                ),
                f"route add default via 10.{net}.0.1",
            )
            self.node.ip(
                f"addr add 10.{net}.0.1/24 dev {name}",
                f"addr add fd00:{net}::1/64 dev {name} nodad",
                f"link set {name} up",
            )
            with one.inside():
                subprocess.run(["ip", "-6", "route", "add", "default", "via", f"fd00:{net}::1"], check=True)
        with self.node.inside():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
            for family in "-4", "-6":
                subprocess.run(["ip", family, "rule", "add", "fwmark", "1", "lookup", "100"], check=True)
                words = ["local", "default", "dev", "lo", "table", "100"]
                subprocess.run(["ip", family, "route", "add", *words], check=True)
        self.nft(RULES.format(first=OURS if first else "", last="" if first else OURS))

    def nft(self, text: str) -> None:
        with self.node.inside():
            subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)

    def close(self) -> None:
        for one in self.client, self.node, self.server:
            os.close(one.fd)


class Running:
    """A loop in a thread of its own, on the node. What touches it is told to it (`tell`)."""

    def __init__(self, place: Namespace) -> None:
        self.loop = Loop()
        self.crashes: list[object] = []
        self._place = place
        self._work: queue.SimpleQueue[tuple[Callable[[], object], Future[object]]] = queue.SimpleQueue()
        self._here, self._there = socket.socketpair()
        self.loop.watch(self._there.fileno(), self._told, LEVEL)
        self.loop._crashed = self.crashes.append
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._place.enter()
        self.loop.run()

    def _told(self, event: int) -> None:
        self._there.recv(1)
        work, answer = self._work.get()
        try:
            answer.set_result(work())
        except BaseException as error:
            answer.set_exception(error)

    def tell(self, work: Callable[[], T]) -> T:
        """What `work` returns, done by the loop's thread between two events."""
        answer: Future[T] = Future()
        self._work.put((work, answer))  # type: ignore[arg-type]
        self._here.send(b"!")
        return answer.result(10)

    def close(self) -> None:
        with suppress(Exception):
            self.tell(self.loop.stop)
        self._thread.join(10)
        self._here.close()
        self._there.close()
