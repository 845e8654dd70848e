"""Flows made with real sockets, judged and forgotten in the kernel."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from kubeway.program.effects import Judge, Stale
from kubeway.shell.conntrack import Conntrack
from kubeway.shell.netlink import NetlinkSocket
from kubeway.values import TCP, UDP, Ip, Proto, parse_ip
from kubeway.wire import conntrack as wire
from kubeway.wire.conntrack import Flow, delete_request, dump_request, read_flow
from tests.kernel.netns import inside, ip, needs_root, nft

pytestmark = [pytest.mark.kernel, needs_root]

CLIENT = {4: "127.0.0.1", 6: "::1"}
VIP = {4: "10.96.0.1", 6: "fd00:10:96::1"}
PLAIN = {4: "10.96.0.2", 6: "fd00:10:96::2"}  # no rule speaks of it
NODE = {4: "203.0.113.10", 6: "2001:db8:1::10"}
POD = {4: ["10.244.1.1", "10.244.1.2"], 6: ["fd00:10:244::1", "fd00:10:244::2"]}

# A client's first packets go to the pods in turn.
RULES = """
table FAMILY t {
  chain output {
    type nat hook output priority -100
    FAMILY daddr VIP udp dport 53 dnat to numgen inc mod 2 map { 0 : POD0, 1 : POD1 }
    FAMILY daddr VIP tcp dport 80 dnat to numgen inc mod 2 map { 0 : POD0, 1 : POD1 }
    FAMILY daddr NODE udp dport 30053 dnat to POD0
  }
  chain input {
    type filter hook input priority 0
    tcp dport 80 FAMILY daddr POD1 drop
  }
}
"""

ZONES = """
table ip z {
  chain output {
    type filter hook output priority -300
    udp dport 55 ct zone set 7
  }
}
"""


def setup() -> None:
    for family, prefix in ((4, "10.96.0.0/16"), (6, "fd00:10:96::/112")):
        ip(f"-{family} route add local {prefix} dev lo")
        for address in (*POD[family], NODE[family]):
            ip(f"address add {address}/{32 if family == 4 else 128} dev lo")
        rules = RULES.replace("FAMILY", "ip" if family == 4 else "ip6").replace("VIP", VIP[family])
        rules = rules.replace("NODE", NODE[family])
        nft(rules.replace("POD0", POD[family][0]).replace("POD1", POD[family][1]))


class Clients:
    """Sockets that make flows; `table` is what the kernel then knows of them."""

    def __init__(self, sockets: ExitStack) -> None:
        self._sockets = sockets
        self.conntrack = sockets.enter_context(Conntrack())
        self.netlink = sockets.enter_context(NetlinkSocket())

    def socket(self, family: int, kind: socket.SocketKind) -> socket.socket:
        af = socket.AF_INET if family == 4 else socket.AF_INET6
        return self._sockets.enter_context(socket.socket(af, kind))

    def send(self, family: int, dst: str, port: int, sport: int = 0) -> int:
        """One datagram from a port of its own; returns that port."""
        one = self.socket(family, socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((CLIENT[family], sport))
        one.sendto(b"x", (dst, port))
        number: int = one.getsockname()[1]
        return number

    def connect(self, family: int, dst: str, port: int) -> int:
        one = self.socket(family, socket.SOCK_STREAM)
        one.setblocking(False)
        one.connect_ex((dst, port))
        number: int = one.getsockname()[1]
        return number

    def listen(self, family: int, address: str, port: int) -> None:
        one = self.socket(family, socket.SOCK_STREAM)
        one.bind((address, port))
        one.listen()

    def table(self, family: int, proto: Proto = UDP) -> dict[int, Flow]:
        """Flows by the client's port."""
        return {f.sport: f for f in map(read_flow, self.netlink.dump(dump_request(family, proto)))}


def with_clients(work: Callable[[Clients], None]) -> None:
    def run() -> None:
        setup()
        with ExitStack() as sockets:
            work(Clients(sockets))

    inside(run)


def keep(port: int, *pods: str) -> frozenset[tuple[Ip, int]]:
    return frozenset((parse_ip(pod), port) for pod in pods)


@pytest.mark.parametrize("family", [4, 6])
def test_flows_to_an_endpoint_that_left_are_forgotten_and_no_others(family: int) -> None:
    def work(clients: Clients) -> None:
        to_vip = [clients.send(family, VIP[family], 53) for _ in range(20)]
        others = [clients.send(family, PLAIN[family], 53), clients.send(family, VIP[family], 54)]
        before = clients.table(family)
        assert before.keys() == {*to_vip, *others}
        assert all(f.dst == parse_ip(VIP[family]) for port, f in before.items() if port in to_vip)
        gone, stays = (parse_ip(pod) for pod in POD[family])
        lost = {port for port, f in before.items() if f.reply_src == gone}
        assert len(lost) == 10

        judge = Judge([Stale(UDP, family, parse_ip(VIP[family]), 53, frozenset({(stays, 53)}))], frozenset())
        assert clients.conntrack.forget(judge) == 10
        assert clients.table(family).keys() == before.keys() - lost
        assert clients.conntrack.forget(judge) == 0

    with_clients(work)


@pytest.mark.parametrize("family", [4, 6])
def test_a_flow_let_through_unchanged_is_forgotten(family: int) -> None:
    def work(clients: Clients) -> None:
        port, other = clients.send(family, PLAIN[family], 53), clients.send(family, PLAIN[family], 54)
        (before,) = (f for f in clients.table(family).values() if f.sport == port)
        assert (before.reply_src, before.reply_sport) == (before.dst, before.dport)
        stale = Stale(UDP, family, parse_ip(PLAIN[family]), 53, keep(53, *POD[family]))
        assert clients.conntrack.forget(Judge([stale], frozenset())) == 1
        assert clients.table(family).keys() == {other}

    with_clients(work)


@pytest.mark.parametrize("family", [4, 6])
def test_a_node_ports_flows_are_those_to_this_node(family: int) -> None:
    def work(clients: Clients) -> None:
        here = clients.send(family, NODE[family], 30053)
        elsewhere = clients.send(family, PLAIN[family], 30053)
        judge = Judge([Stale(UDP, family, None, 30053, frozenset())], frozenset({parse_ip(NODE[family])}))
        assert clients.table(family).keys() == {here, elsewhere}
        assert clients.conntrack.forget(judge) == 1
        assert clients.table(family).keys() == {elsewhere}

    with_clients(work)


@pytest.mark.parametrize("family", [4, 6])
def test_of_connections_only_the_unanswered_are_forgotten(family: int) -> None:
    def work(clients: Clients) -> None:
        answering, silent = POD[family]
        clients.listen(family, answering, 80)
        tried = [clients.connect(family, VIP[family], 80) for _ in range(6)]
        before = clients.table(family, TCP)
        assert before.keys() == {*tried}
        knocking = {port for port, f in before.items() if f.reply_src == parse_ip(silent)}
        assert len(knocking) == 3
        assert {wire.tcp_state(f) for port, f in before.items() if port in knocking} == {1}
        unanswered = map(read_flow, clients.netlink.dump(dump_request(family, TCP, unanswered=True)))
        assert {f.sport for f in unanswered} == knocking

        judge = Judge([Stale(TCP, family, parse_ip(VIP[family]), 80, frozenset())], frozenset())
        assert clients.conntrack.forget(judge) == 3
        assert clients.table(family, TCP).keys() == before.keys() - knocking

    with_clients(work)


@pytest.mark.parametrize("family", [4, 6])
def test_many_ways_in_at_once(family: int) -> None:
    def work(clients: Clients) -> None:
        ports = {n: clients.send(family, PLAIN[family], n) for n in range(1000, 1010)}
        plain = parse_ip(PLAIN[family])
        stales = [Stale(UDP, family, plain, n, frozenset()) for n in range(1000, 1008)]
        judge = Judge([*stales, Stale(UDP, family, plain, 1008, frozenset({(plain, 1008)}))], frozenset())
        assert clients.conntrack.forget(judge) == 8
        assert clients.table(family).keys() == {ports[1008], ports[1009]}

    with_clients(work)


@pytest.mark.parametrize("family", [4, 6])
def test_the_kernels_usual_spelling_is_read_at_once(family: int) -> None:
    def work(clients: Clients) -> None:
        clients.send(family, VIP[family], 53)
        clients.listen(family, POD[family][0], 80)
        clients.connect(family, VIP[family], 80)
        flows = [*clients.table(family).values(), *clients.table(family, TCP).values()]
        assert len(flows) == 2
        for one in flows:
            assert wire._READ[one.raw[0]](one.raw) == one == wire._walk_flow(one.raw)

    with_clients(work)


def test_a_filter_names_what_the_kernel_returns() -> None:
    def work(clients: Clients) -> None:
        port = clients.send(4, VIP[4], 53)
        clients.send(4, PLAIN[4], 53)
        clients.send(4, PLAIN[4], 54)
        port6 = clients.send(6, VIP[6], 53)

        def found(*question: object) -> set[int]:
            return {read_flow(m).sport for m in clients.netlink.dump(dump_request(*question))}  # type: ignore[arg-type]

        assert found(4, UDP, parse_ip(VIP[4]), 53) == {port}
        assert found(6, UDP, parse_ip(VIP[6]), 53) == {port6}
        assert len(found(4, UDP, None, 53)) == 2
        assert len(found(4, UDP)) == 3
        assert len(found(4, TCP)) == 0
        assert clients.conntrack.count() == 4

    with_clients(work)


def test_a_flow_in_a_zone_is_forgotten() -> None:
    def work(clients: Clients) -> None:
        nft(ZONES)
        clients.send(4, PLAIN[4], 55)
        (one,) = clients.table(4).values()
        assert one.dport == 55
        judge = Judge([Stale(UDP, 4, parse_ip(PLAIN[4]), 55, frozenset())], frozenset())
        assert clients.conntrack.forget(judge) == 1
        assert clients.table(4) == {}

    with_clients(work)


def test_a_flow_that_took_the_place_of_another_is_not_deleted_for_it() -> None:
    def work(clients: Clients) -> None:
        port = clients.send(4, PLAIN[4], 53)
        first = clients.table(4)[port]
        assert clients.conntrack._delete([delete_request(first)]) == 1
        # Another flow lies where the first one lay, so that the id cannot be the same by chance.
        clients.send(4, PLAIN[4], 54)
        clients.send(4, PLAIN[4], 53, sport=port)
        second = clients.table(4)[port]
        assert second[:-1] == first[:-1]
        assert clients.conntrack._delete([delete_request(first)]) == 0
        assert clients.table(4)[port][:-1] == second[:-1]

    with_clients(work)


def test_a_flow_that_is_gone_is_not_counted_and_not_in_the_way() -> None:
    def work(clients: Clients) -> None:
        ports = [clients.send(4, PLAIN[4], 53) for _ in range(3)]
        flows = clients.table(4)
        requests = [delete_request(flows[port]) for port in ports]
        assert clients.conntrack._delete([requests[0], requests[0], *requests[1:]]) == 3
        assert clients.table(4) == {}
        acks = clients.netlink.transact(requests[0])
        assert [ack.errno for ack in acks] == [errno.ENOENT]

    with_clients(work)
