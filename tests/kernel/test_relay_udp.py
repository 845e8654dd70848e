"""UDP through the relay, with packets: who sees whom, what ends a session, what it takes of the node."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from random import Random
from struct import pack

import pytest

from kubeway.planes.relay.datagram import FIRST, Sessions
from kubeway.planes.relay.entrance import Entrance
from kubeway.planes.relay.objects import ANY, Endpoint, Way, way_key
from kubeway.planes.relay.ports import PORTS
from kubeway.program.program import Change
from kubeway.shell.relay.datagrams import Datagrams, Listener, Ways
from kubeway.shell.relay.listeners import Listening
from kubeway.shell.relay.plane import RelayPlane
from kubeway.shell.relay.udp import UDP_GRO, UDP_SEGMENT, listen
from kubeway.values import UDP, V4, parse_ip, show_ip
from tests.kernel.netns import needs_root
from tests.kernel.three import CLIENTS, ENDPOINTS, HIDDEN, KEPT, NODE, Running, Three

pytestmark = [pytest.mark.kernel, needs_root]

FAMILIES = pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
Address = tuple[str, int]


class Relay:
    """Datagrams on the node of a Three, with a listener of each class and family."""

    def __init__(self, three: Three, sessions: Sessions | None = None) -> None:
        self.three, self.running = three, Running(three.node)
        self.ways: Ways = {}
        self.sessions = Sessions() if sessions is None else sessions
        self.socks: list[socket.socket] = []
        self.listeners: list[Listener] = []
        self.running.tell(self._open)

    def _open(self) -> None:
        self.datagrams = Datagrams(self.running.loop, Random(1), self.sessions)
        for keeps, port in (True, KEPT), (False, HIDDEN):
            for at, af in ("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6):
                sock = listen((at, port), af)
                self.socks.append(sock)
                self.listeners.append(Listener(sock, self.ways, keeps, self.datagrams))
                self.listeners[-1].open()

    def way(self, address: str, port: int, *endpoints: str) -> Entrance:
        """Open one, or change it. Endpoints listen at the same port."""
        way = Way(tuple(Endpoint(parse_ip(one), port) for one in endpoints))

        def change() -> Entrance:
            entrance = self.ways.get((address, port))
            if entrance is None:
                entrance = self.ways[address, port] = Entrance(way)
            else:
                self.datagrams.left(entrance, entrance.become(way))
            return entrance

        return self.running.tell(change)

    def count(self) -> int:
        return self.running.tell(lambda: len(self.sessions))

    def close(self) -> None:
        self.running.tell(self.datagrams.close)
        self.running.close()
        for sock in self.socks:
            sock.close()
        assert self.running.crashes == []


@pytest.fixture(scope="module", params=[False, True], ids=["ways-first", "ours-first"])
def three(request: pytest.FixtureRequest) -> Iterator[Three]:
    """Wherever the rule for our own sockets stands, all must be the same."""
    three = Three(first=request.param)
    yield three
    three.close()


@pytest.fixture
def relay(three: Three) -> Iterator[Relay]:
    relay = Relay(three)
    yield relay
    relay.close()


def until(what: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def exchange(
    client: socket.socket, to: Address, endpoint: socket.socket, data: bytes = b"ask", back: bytes = b"answer"
) -> Address:
    """There and back, once. Returns whom the endpoint saw."""
    client.sendto(data, to)
    got, seen = endpoint.recvfrom(1 << 16)
    assert got == data
    endpoint.sendto(back, seen)
    got, whom = client.recvfrom(1 << 16)
    assert got == back
    assert whom[:2] == to
    return seen[:2]


def addresses(v6: bool) -> tuple[list[str], list[str], str, str, str]:
    """Clients, endpoints, the node, a Service with its clients seen, one with them hidden."""
    half = len(ENDPOINTS) // 2
    if v6:
        return [*CLIENTS[2:]], [*ENDPOINTS[half:]], NODE[1], "fd00:96::a", "fd00:97::a"
    return [*CLIENTS[:2]], [*ENDPOINTS[:half]], NODE[0], "10.96.0.10", "10.97.0.10"


def test_a_listener_that_takes_nothing_any_more_holds_no_port(relay: Relay) -> None:
    """Or a successor's listener at the same port would miss the share that this one still got."""
    places = [sock.getsockname()[:2] for sock in relay.socks]
    relay.running.tell(lambda: [listener.close() for listener in relay.listeners])

    def free() -> bool:
        return all(sock.fileno() == -1 for sock in relay.socks)

    until(free)
    for place in places:
        # Alone it would not be there while another is: no SO_REUSEPORT.
        with relay.three.node.inside(), socket.socket(family(place), socket.SOCK_DGRAM) as alone:
            alone.bind(place)


def family(place: tuple[str, int]) -> int:
    return socket.AF_INET6 if ":" in place[0] else socket.AF_INET


# --- who is seen --------------------------------------------------------------------------


@FAMILIES
def test_the_endpoint_sees_the_client_and_the_client_the_service(relay: Relay, v6: bool) -> None:
    (me, _), (a, *_), _, kept, _ = addresses(v6)
    entrance = relay.way(kept, 5300, a)
    with relay.three.client.udp(me) as client, relay.three.server.udp(a, 5300) as endpoint:
        seen = {exchange(client, (kept, 5300), endpoint) for _ in range(3)}
    assert [host for host, _ in seen] == [me]
    assert relay.count() == 1
    assert (entrance.tally.connections, entrance.tally.sent, entrance.tally.received) == (1, 9, 18)


@FAMILIES
def test_the_endpoint_sees_the_node_where_the_client_is_hidden(relay: Relay, v6: bool) -> None:
    (me, _), (a, *_), node, _, hidden = addresses(v6)
    relay.way(hidden, 5300, a)
    with relay.three.client.udp(me) as client, relay.three.server.udp(a, 5300) as endpoint:
        seen = {exchange(client, (hidden, 5300), endpoint) for _ in range(3)}
    assert [host for host, _ in seen] == [node]
    assert {port for _, port in seen} <= {*PORTS}, "it is one of those the node gives to its own"


@FAMILIES
def test_an_endpoint_that_asks_its_own_service_is_answered(relay: Relay, v6: bool) -> None:
    _, (a, *_), node, kept, _ = addresses(v6)
    relay.way(kept, 5300, a)
    with relay.three.server.udp(a) as client, relay.three.server.udp(a, 5300) as endpoint:
        assert exchange(client, (kept, 5300), endpoint)[0] == node


def test_a_node_port_answers_from_the_nodes_address(relay: Relay) -> None:
    (me, _), (a, *_), *_ = addresses(False)
    endpoint_port, anywhere = 30053, show_ip(ANY[V4])
    relay.way(anywhere, endpoint_port, a)
    with relay.three.client.udp(me) as client, relay.three.server.udp(a, endpoint_port) as endpoint:
        assert exchange(client, ("10.191.0.1", endpoint_port), endpoint)[0] == me


@FAMILIES
def test_ways_of_one_client_are_kept_apart_even_at_one_endpoint(relay: Relay, v6: bool) -> None:
    (me, _), (a, *_), _, kept, hidden = addresses(v6)
    other = kept + "1"
    for way in kept, other, hidden:
        relay.way(way, 5300, a)
    with relay.three.client.udp(me) as client, relay.three.server.udp(a, 5300) as endpoint:
        seen = {}
        for way in kept, other, hidden:
            client.sendto(way.encode(), (way, 5300))
            data, seen[way] = endpoint.recvfrom(100)
            assert data == way.encode()
        assert len(set(seen.values())) == 3
        assert [seen[way][0] for way in (kept, other)] == [me, me]
        for way in hidden, kept, other:  # answered in another order
            endpoint.sendto(way.encode(), seen[way])
        for _ in range(3):
            data, whom = client.recvfrom(100)
            assert whom[:2] == (data.decode(), 5300)


@FAMILIES
def test_who_asks_the_endpoint_itself_from_the_same_port_is_answered_by_itself(
    relay: Relay, v6: bool
) -> None:
    (me, _), (a, *_), _, kept, _ = addresses(v6)
    relay.way(kept, 5300, a)
    with relay.three.client.udp(me) as client, relay.three.server.udp(a, 5300) as endpoint:
        for _ in range(2):
            exchange(client, (kept, 5300), endpoint)
            assert exchange(client, (a, 5300), endpoint) == client.getsockname()[:2]


def test_ports_that_somebody_on_the_node_has_at_all_addresses_are_no_hindrance(three: Three) -> None:
    (me, _), (a, *_), _, kept, _ = addresses(False)
    relay = Relay(three, Sessions(ports=[61234]))
    relay.way(kept, 5300, a)
    try:
        with three.client.udp(me) as client, three.server.udp(a, 5300) as endpoint:
            with three.node.udp("0.0.0.0", 5300), three.node.udp("0.0.0.0", 61234):
                seen = exchange(client, (kept, 5300), endpoint)
            assert seen[0] == me
            assert seen[1] != 61234
            # And we are none to them, while the session is there.
            with three.node.udp("0.0.0.0", 5300):
                assert exchange(client, (kept, 5300), endpoint) == seen
            assert relay.count() == 1
    finally:
        relay.close()


# --- what is carried ------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 2, 1471, 1473, 9001, 65507])
def test_datagrams_of_any_size_are_carried_whole(relay: Relay, v6: bool, size: int) -> None:
    (me, _), (a, *_), _, kept, _ = addresses(v6)
    relay.way(kept, 5300, a)
    data, back = Random(size).randbytes(size), Random(size + 1).randbytes(size)
    with relay.three.client.udp(me) as client, relay.three.server.udp(a, 5300) as endpoint:
        exchange(client, (kept, 5300), endpoint, data, back)


@FAMILIES
def test_checksums_are_right_for_every_last_word(relay: Relay, v6: bool) -> None:
    (me, _), (a, *_), _, kept, _ = addresses(v6)
    relay.way(kept, 5300, a)
    with relay.three.client.udp(me) as client, relay.three.server.udp(a, 5300) as endpoint:
        for word in 0, 1, 0x7FFF, 0xFFFE, 0xFFFF, *(Random(1).randrange(65536) for _ in range(200)):
            exchange(client, (kept, 5300), endpoint, b"x", pack(">H", word) + b"\xff" * (word % 3))


def train(sock: socket.socket, data: bytes, size: int, to: Address | None = None) -> None:
    sock.sendmsg([data], [(socket.IPPROTO_UDP, UDP_SEGMENT, pack("=H", size))], 0, *([to] if to else []))


@FAMILIES
def test_trains_are_carried_both_ways_and_arrive_in_order(relay: Relay, v6: bool) -> None:
    (me, _), (a, *_), _, kept, _ = addresses(v6)
    relay.way(kept, 5300, a)
    data = b"".join(n.to_bytes(2, "big") * 400 for n in range(40)) + b"the last one"
    datagrams = [data[at : at + 800] for at in range(0, len(data), 800)]
    with relay.three.client.udp(me) as client, relay.three.server.udp(a, 5300) as endpoint:
        for sock in client, endpoint:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        seen = exchange(client, (kept, 5300), endpoint)
        for turn in range(6):  # by and by the relay takes them as trains, and opens a second socket
            train(client, data, 800, (kept, 5300))
            assert [endpoint.recv(2000) for _ in datagrams] == datagrams, turn
            train(endpoint, data, 800, seen)
            got = [client.recvfrom(2000) for _ in datagrams]
            assert [one for one, _ in got] == datagrams, turn
            assert {whom[:2] for _, whom in got} == {(kept, 5300)}
            assert exchange(client, (kept, 5300), endpoint) == seen[:2]
        assert relay.running.tell(lambda: relay.datagrams.lost) == 0
        line = relay.running.tell(lambda: next(iter(relay.sessions._answered)).line)
        assert line._face is not None, "trains went back one by one"
        client.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        train(endpoint, data, 800, seen)
        assert client.recv(1 << 16) == data, "they came one by one"


def test_trains_whose_pieces_are_too_large_for_the_way_are_carried_one_by_one(relay: Relay) -> None:
    (me, _), (a, *_), _, kept, _ = addresses(False)
    relay.way(kept, 5300, a)
    three = relay.three
    three.node.ip("link set back mtu 1300")
    three.server.ip("link set eth0 mtu 1300")
    try:
        with three.client.udp(me) as client, three.server.udp(a, 5300) as endpoint:
            exchange(client, (kept, 5300), endpoint)
            train(client, bytes(1400) + b"\1" * 1400 + b"2", 1400, (kept, 5300))
            assert [endpoint.recv(2000) for _ in range(3)] == [bytes(1400), b"\1" * 1400, b"2"]
    finally:
        three.server.ip("link set eth0 mtu 1500")
        three.node.ip("link set back mtu 1500")


# --- endpoints ----------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("hide", [False, True], ids=["kept", "hidden"])
def test_an_endpoint_that_leaves_has_its_clients_moved(relay: Relay, v6: bool, hide: bool) -> None:
    (me, _), (a, b, *_), _, kept, hidden = addresses(v6)
    way = hidden if hide else kept
    relay.way(way, 5300, a)
    three = relay.three
    with three.client.udp(me) as client, three.server.udp(a, 5300) as one, three.server.udp(b, 5300) as other:
        before = exchange(client, (way, 5300), one)
        relay.way(way, 5300, b)
        seen = exchange(client, (way, 5300), other)
        assert (seen[0] == before[0] == me) != hide
        assert relay.count() == 2
        one.sendto(b"late", before)  # it had been asked before it left
        assert client.recvfrom(100)[0] == b"late"
        assert exchange(client, (way, 5300), other) == seen
        # Its time is over; what it has still to say is for nobody.
        relay.running.tell(lambda: relay.datagrams.tick(relay.running.loop.now + FIRST))
        if hide:
            one.sendto(b"too late", before)
            exchange(client, (way, 5300), other)


def with_trains(relay: Relay, client: socket.socket, way: Address, endpoint: socket.socket) -> None:
    """The client's datagrams come by a socket of their own from now on."""
    seen = exchange(client, way, endpoint)

    def done() -> bool:
        train(endpoint, bytes(8000), 400, seen)
        for _ in range(20):
            assert len(client.recv(2000)) == 400
        return relay.running.tell(lambda: any(one.line._face is not None for one in relay.sessions._answered))

    until(done)


def test_what_an_endpoint_that_left_has_not_been_told_goes_to_the_next(relay: Relay) -> None:
    (me, _), (a, b, *_), _, kept, _ = addresses(False)
    relay.way(kept, 5300, a)
    three = relay.three
    with three.client.udp(me) as client, three.server.udp(a, 5300) as one, three.server.udp(b, 5300) as other:
        with_trains(relay, client, (kept, 5300), one)

        def said_and_left() -> None:
            client.sendto(b"for whom?", (kept, 5300))
            time.sleep(0.2)  # it is there, and nobody reads it before the endpoint has left
            entrance = relay.ways[kept, 5300]
            relay.datagrams.left(entrance, entrance.become(Way((Endpoint(parse_ip(b), 5300),))))

        relay.running.tell(said_and_left)
        got, seen = other.recvfrom(100)
        assert got == b"for whom?"
        other.sendto(b"for me", seen)
        assert client.recv(100) == b"for me"
        assert relay.running.tell(lambda: relay.datagrams.lost) == 0


def test_a_refusal_costs_the_first_datagram_only_where_trains_are_carried(relay: Relay) -> None:
    (me, _), (a, b, *_), _, kept, _ = addresses(False)
    relay.way(kept, 5300, a, b)
    three = relay.three
    with three.client.udp(me) as client, three.server.udp(b, 5300) as other:
        with three.server.udp(a, 5300) as one:
            with_trains(relay, client, (kept, 5300), one)

        def three_of_them() -> None:
            for number in range(3):
                client.sendto(b"%d" % number, (kept, 5300))
            time.sleep(0.2)  # all are there before the first is carried

        relay.running.tell(three_of_them)
        assert [other.recv(100) for _ in range(2)] == [b"1", b"2"]


@FAMILIES
def test_a_refusal_ends_the_session_and_the_next_datagram_tries_another(relay: Relay, v6: bool) -> None:
    (me, _), (a, b, *_), _, kept, _ = addresses(v6)
    entrance = relay.way(kept, 5300, a, b)
    with relay.three.client.udp(me) as client, relay.three.server.udp(b, 5300) as endpoint:
        client.sendto(b"nobody hears this", (kept, 5300))
        until(lambda: entrance.tally.connections == 1 and relay.count() == 0)
        exchange(client, (kept, 5300), endpoint)
    assert entrance.tally.refused == 1


def test_a_refusal_that_is_found_with_the_next_datagram_does_not_cost_it(relay: Relay) -> None:
    (me, _), (a, b, *_), _, kept, _ = addresses(False)
    entrance = relay.way(kept, 5300, a, b)
    with relay.three.client.udp(me) as client, relay.three.server.udp(b, 5300) as endpoint:

        def both() -> None:
            client.sendto(b"nobody hears this", (kept, 5300))
            time.sleep(
                0.2
            )  # nothing of ours is right by it: the next one is sent while the loop stands still
            client.sendto(b"but this", (kept, 5300))

        relay.running.tell(both)
        assert endpoint.recv(100) == b"but this"
    assert entrance.tally.refused == 1


def test_a_way_to_nobody_and_no_way_are_silent(relay: Relay) -> None:
    (me, _), _, _, kept, _ = addresses(False)
    relay.way(kept, 5300)
    with relay.three.client.udp(me) as client:
        client.sendto(b"1", (kept, 5300))
        client.sendto(b"2", (kept, 5301))
        until(lambda: relay.running.tell(lambda: relay.datagrams.lost) == 2)
    assert relay.count() == 0


@FAMILIES
def test_of_several_listeners_a_client_comes_to_one_by_all_ways(three: Three, v6: bool) -> None:
    """Else two processes might give it the same port to one endpoint, or answer by the wrong way."""
    (me, _), *_, kept, _ = addresses(v6)
    with three.node.inside():
        at, af = ("::1", socket.AF_INET6) if v6 else ("127.0.0.1", socket.AF_INET)
        socks = [listen((at, KEPT), af) for _ in range(4)]
    used = set()
    for _ in range(20):
        with three.client.udp(me) as client:
            for way in kept, kept + "1", kept + "2":
                client.sendto(b"x", (way, 5300))
            came: list[socket.socket] = []
            while len(came) < 3:
                ready, _, _ = select.select(socks, [], [], 5)
                assert ready
                came += ready
                for sock in ready:
                    sock.recv(10)
            assert len(set(came)) == 1
            used |= {*came}
    assert len(used) > 1
    for sock in socks:
        sock.close()


# --- bounds -------------------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_sessions_end_in_time_and_leave_nothing(three: Three) -> None:
    (me, _), (a, *_), _, kept, _ = addresses(False)
    relay = Relay(three, Sessions(first=0.5, idle=0.2))
    relay.way(kept, 5300, a)
    try:
        before = relay.running.tell(descriptors)
        with three.client.udp(me) as client, three.server.udp(a, 5300) as endpoint:
            exchange(client, (kept, 5300), endpoint)
            assert relay.count() == 1
            until(lambda: relay.count() == 0)
            client.sendto(b"unanswered", (kept, 5300))
            endpoint.recv(100)
            assert relay.count() == 1
            until(lambda: relay.count() == 0)
            exchange(client, (kept, 5300), endpoint)
        until(lambda: relay.running.tell(descriptors) == before)
    finally:
        relay.close()


def test_who_has_a_successor_delivers_last_answers_and_hears_no_client(three: Three) -> None:
    (me, _), (a, *_), _, kept, _ = addresses(False)
    relay = Relay(three, Sessions(first=1.0, idle=60.0))
    relay.way(kept, 5300, a)
    data = bytes(800) * 40

    def hand_over() -> None:
        for listener in relay.listeners:
            listener.close()
        relay.datagrams.retire()

    try:
        with three.client.udp(me) as client, three.server.udp(a, 5300) as endpoint:
            for sock in client, endpoint:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            seen = exchange(client, (kept, 5300), endpoint)
            line = relay.running.tell(lambda: next(iter(relay.sessions)).line)
            for _ in range(6):
                train(endpoint, data, 800, seen)
                for _ in range(40):
                    assert client.recv(2000) == data[:800]
                exchange(client, (kept, 5300), endpoint)
            assert line._face is not None, "there is no second socket that the client could reach"
            relay.running.tell(hand_over)
            endpoint.sendto(b"a late answer", seen)
            assert client.recvfrom(100)[0] == b"a late answer"
            train(endpoint, data, 800, seen)
            for _ in range(40):
                assert client.recv(2000) == data[:800]
            client.sendto(b"to the successor", (kept, 5300))
            endpoint.settimeout(0.5)
            with pytest.raises(TimeoutError):
                endpoint.recv(100)
            until(lambda: relay.count() == 0)
    finally:
        relay.close()


def test_thousands_of_sessions_and_never_more_than_the_bound(three: Three) -> None:
    (me, _), (a, *_), _, kept, _ = addresses(False)
    relay = Relay(three, Sessions(most=1500))
    relay.way(kept, 5300, a)
    clients: list[socket.socket] = []
    try:
        before = relay.running.tell(descriptors)
        with three.server.udp(a, 5300) as endpoint, three.client.udp(me) as first:
            exchange(first, (kept, 5300), endpoint)
            for _ in range(2000):
                clients.append(three.client.udp(me))
                clients[-1].sendto(b"x", (kept, 5300))
                assert endpoint.recvfrom(100)[1][0] == me
            assert relay.count() == 1500
            assert relay.running.tell(lambda: relay.sessions.shed) == 501
            exchange(first, (kept, 5300), endpoint)  # who was answered is still there
            assert relay.running.tell(lambda: relay.sessions.shed) == 501
            exchange(clients[0], (kept, 5300), endpoint)  # who had to go may come back
            assert relay.count() == 1500
        for client in clients:
            client.close()
        clients.clear()
        relay.way(kept, 5300)
        relay.running.tell(lambda: relay.datagrams.tick(relay.running.loop.now + FIRST))
        assert relay.count() == 0
        until(lambda: relay.running.tell(descriptors) <= before)
    finally:
        for client in clients:
            client.close()
        relay.close()


def test_without_descriptors_the_longest_idle_make_room(three: Three) -> None:
    (me, _), (a, *_), _, kept, _ = addresses(False)
    relay = Relay(three)
    relay.way(kept, 5300, a)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = [three.client.udp(me) for _ in range(60)]
    try:
        with three.server.udp(a, 5300) as endpoint:
            exchange(clients[0], (kept, 5300), endpoint)
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 20, hard))
            for client in clients[1:]:
                client.sendto(b"x", (kept, 5300))
                assert endpoint.recvfrom(100)[1][0] == me
            exchange(clients[0], (kept, 5300), endpoint)
            assert relay.running.tell(lambda: (relay.datagrams.lost, relay.sessions.shed >= 30)) == (0, True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for client in clients:
            client.close()
        relay.close()


# --- as a plane -----------------------------------------------------------------------------------


def test_the_plane_has_workers_carry_what_comes_to_their_ports(three: Three) -> None:
    (me, _), (a, b, *_), node, kept, hidden = addresses(False)
    lo = parse_ip("127.0.0.1")

    def change(ip: str, *endpoints: str) -> Change:
        key = way_key("cluster", parse_ip(ip), UDP, 5300)
        new = Way(tuple(Endpoint(parse_ip(one), 5300) for one in endpoints)) if endpoints else None
        return Change("add", key, None, new)

    async def story(clients: list[socket.socket], ones: dict[str, socket.socket]) -> None:
        listeners = [
            Listening("cluster", keeps, lo, port, proto=UDP)
            for keeps, port in ((True, KEPT), (False, HIDDEN))
        ]
        plane = RelayPlane(listeners, workers=2)
        try:
            await plane.write([change(kept, a), change(hidden, a)])
            for client in clients:
                assert exchange(client, (kept, 5300), ones[a])[0] == me
                assert exchange(client, (hidden, 5300), ones[a])[0] == node
            await plane.write([change(kept, b)])
            assert exchange(clients[0], (kept, 5300), ones[b])[0] == me
            tallies = await plane.counters()
            assert tallies[change(kept).key].connections == len(clients) + 1
            assert tallies[change(hidden).key].received == len(clients) * len(b"answer")
        finally:
            plane.close()

    clients = [three.client.udp(me) for _ in range(10)]
    ones = {one: three.server.udp(one, 5300) for one in (a, b)}
    try:
        with three.node.inside():
            asyncio.run(story(clients, ones))
    finally:
        for sock in (*clients, *ones.values()):
            sock.close()
