"""The link plane's pure half: changes to requests, answers to objects, events to news."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.planes.link import (
    DEVICE,
    KINDS,
    LINK,
    Address,
    Dummy,
    Homeward,
    Route,
    Rule,
    address_key,
    objects,
    role_key,
    route_key,
    rule_key,
    steering,
    table_key,
)
from kubeway.planes.link.lift import lift, on_link
from kubeway.planes.link.lower import clear, lower, lower_link, needs_link, settle
from kubeway.planes.link.news import News
from kubeway.planes.link.objects import METRIC, PROTOCOL, Alien, Mixed
from kubeway.planes.link.parcel import Parcel
from kubeway.planes.memory import MemoryPlane
from kubeway.program.plan import apply, diff, steps
from kubeway.program.program import Change, Key, Object
from kubeway.values import Ip, parse_ip, show_ip
from kubeway.wire import rtnetlink as wire
from kubeway.wire.netlink import Message, attr, messages, text

GOLDEN = Path(__file__).parent.parent / "golden" / "link" / "answers"
RT_PROTOS = Path("/etc/iproute2/rt_protos")

FOUR, SIX = parse_ip("10.96.0.1"), parse_ip("fd00:96::1")
OTHER4, OTHER6 = parse_ip("10.96.0.2"), parse_ip("fd00:96::2")
NODE4, NODE6, NEXT4 = parse_ip("192.0.2.1"), parse_ip("2001:db8::1"), parse_ip("192.0.2.7")
US, OTHERS, KERNEL = 4711, 99, 0
DEV = 4

Program = dict[Key, Object]

FULL: Program = {
    LINK: Dummy(),
    address_key(FOUR): Address(),
    address_key(SIX): Address(),
    route_key(FOUR): Route(NODE4),
    route_key(SIX): Route(NODE6),
}


# --- what the kernel tells ------------------------------------------------------------


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def said(kind: int, body: bytes, port: int = KERNEL) -> Message:
    return Message(kind, 0, 0, memoryview(body), port)


def link(
    name: str = DEVICE, index: int = DEV, kind: str = "dummy", *, event: int = 16, family: int = 0
) -> Message:
    info = attr(wire.IFLA_LINKINFO, text(wire.IFLA_INFO_KIND, kind))
    return said(event, struct.pack("=BxHiII", family, 1, index, 0, 0) + text(wire.IFLA_IFNAME, name) + info)


def address(
    ip: Ip,
    length: int | None = None,
    *,
    on: int = DEV,
    flags: int = 0x80,
    event: int = 20,
    port: int = KERNEL,
) -> Message:
    family = 2 if len(ip) == 4 else 10
    head = struct.pack("=BBBBI", family, len(ip) * 8 if length is None else length, flags, 0, on)
    return said(event, head + attr(wire.IFA_ADDRESS, ip) + attr(wire.IFA_FLAGS, u32(flags)), port)


def route(
    ip: Ip,
    source: Ip | None,
    *,
    protocol: int = PROTOCOL,
    on: int = DEV,
    metric: int = 0,
    event: int = 24,
    port: int = KERNEL,
    table: int = 255,
    length: int | None = None,
    tos: int = 0,
) -> Message:
    family = 2 if len(ip) == 4 else 10
    bits = len(ip) * 8 if length is None else length
    body = struct.pack("=8BI", family, bits, 0, tos, table, protocol, 0, 2, 0) + attr(wire.RTA_DST, ip)
    body += b"" if source is None else attr(wire.RTA_PREFSRC, source)
    return said(event, body + attr(wire.RTA_PRIORITY, u32(metric)) + attr(wire.RTA_OIF, u32(on)), port)


def ours(ip: Ip, source: Ip, **more: int) -> Message:
    return route(ip, source, **({} if len(ip) == 4 else {"on": 1, "metric": METRIC}), **more)


def kernels(ip: Ip, **more: int) -> Message:
    return route(ip, ip if len(ip) == 4 else None, protocol=2, **more)


DUMMY = wire.read_link(link())


def lifted(*routes: Message) -> Program:
    found = lift(DUMMY, [], routes, {})
    del found[LINK]
    return found


class Kernel:
    """Takes requests as the kernel does: the laws of addresses on a link and of routes in table local, on
    loopback too. What it holds is told as answers."""

    def __init__(self) -> None:
        self.link = False
        self.addresses: dict[tuple[Ip, int], int] = {}
        self.four: dict[Ip, list[wire.Route]] = {}
        self.six: dict[Ip, dict[int, wire.Route]] = {}

    def take(self, parcels: list[Parcel]) -> None:
        for parcel in parcels:
            (m,) = messages(parcel.data)
            number = self._take(m)
            assert number == 0 or number in parcel.well, (errno.errorcode[number], parcel.change)

    def _take(self, m: Message) -> int:
        if m.kind in (16, 17):
            there, self.link = self.link, m.kind == 16
            if m.kind == 17:
                self.addresses.clear()
                self.four.clear()
                self.six = {ip: {k: r for k, r in by.items() if k != 0} for ip, by in self.six.items()}
                return 0 if there else errno.ENODEV
            return errno.EEXIST if there else 0
        if m.kind in (20, 21):
            told = wire.read_address(m)
            assert told is not None
            return self._address(told, new=m.kind == 20)
        told_route = wire.read_route(m)
        assert told_route is not None
        return (self._four if len(told_route.ip) == 4 else self._six)(told_route, new=m.kind == 24)

    def _address(self, told: wire.Address, *, new: bool) -> int:
        name = (told.ip, told.length)
        own = wire.Route(told.ip, len(told.ip) * 8, 0, 255, 2, 2, 0, DEV, told.ip)
        if not self.link:
            return errno.ENODEV
        # Of IPv6 a link has an address once, in whatever prefix.
        there = name in self.addresses or (
            new and len(told.ip) == 16 and any(ip == told.ip for ip, _ in self.addresses)
        )
        if new == there:
            return errno.EEXIST if new else errno.EADDRNOTAVAIL
        if new:
            self.addresses[name] = told.flags
            if len(told.ip) == 4:
                self.four.setdefault(told.ip, []).append(own)
            else:
                self.six.setdefault(told.ip, {})[0] = own._replace(source=None)
            return 0
        del self.addresses[name]
        if len(told.ip) == 4:
            self.four[told.ip].remove(own)
        else:
            self.six[told.ip].pop(0, None)
        return 0

    def _four(self, told: wire.Route, *, new: bool) -> int:
        held = self.four.setdefault(told.ip, [])
        if new:
            if not self.link:
                return errno.ENODEV
            if told in held:
                return errno.EEXIST
            held.insert(0, told)
            return 0
        for one in held:
            if one.protocol == told.protocol and told.source in (None, one.source) and one.link == told.link:
                held.remove(one)
                return 0
        return errno.ESRCH

    def _six(self, told: wire.Route, *, new: bool) -> int:
        held = self.six.setdefault(told.ip, {})
        if new:
            held[told.metric] = told
            return 0
        for metric, one in held.items():
            if one.protocol == told.protocol and one.link == told.link:
                del held[metric]
                return 0
        return errno.ESRCH

    def read(self, wanted: Program | None = None) -> Program:
        addresses = [address(ip, length, flags=flags) for (ip, length), flags in self.addresses.items()]
        tables = [list(self.four.values()), [[by[k] for k in sorted(by)] for by in self.six.values()]]
        routes = [
            route(r.ip, r.source, protocol=r.protocol, on=r.link, metric=r.metric)
            for table in tables
            for held in table
            for r in held
        ]
        return lift(DUMMY if self.link else None, addresses, routes, wanted or {})

    def nobodys(self) -> set[Ip]:
        """Addresses on the link that no packet is taken in for."""
        return {ip for ip, _ in self.addresses if not (self.four if len(ip) == 4 else self.six).get(ip)}

    def make(self, changes: list[Change], held: Program) -> Program:
        """As the shell does. Returns what is held then."""
        held = apply(changes, held)
        self.take([lower_link(c) for c in changes if c.key == LINK and c.new is not None])
        index = DEV if self.link else 0
        assert index or not any(needs_link(c) for c in changes if c.key != LINK)
        self.take(lower(changes, index))
        self.take(clear(changes, index))
        self.take(settle(changes, index, held))
        return held


def make(kernel: Kernel, wanted: Program, held: Program) -> Program:
    for step in steps(list(diff(held, wanted)), {objects.PLANE: KINDS}):
        held = kernel.make(step.changes, held)
    return held


# --- lift -----------------------------------------------------------------------------


def golden(what: str, kind: int) -> list[Message]:
    lines = [line.partition(" ") for line in GOLDEN.read_text().splitlines()]
    return [said(kind, bytes.fromhex(value)) for word, _, value in lines if word == what]


def test_what_a_kernel_told_is_read() -> None:
    """After the commands that stand above the answers: each address in another state."""
    dummy = wire.read_link(golden("link", 16)[0])
    addresses, routes = golden("address", 20), golden("route", 24)
    assert lift(dummy, addresses, routes, {}) == {
        LINK: Dummy(),
        address_key(FOUR): Address(),
        address_key(OTHER4): Address((24,)),
        address_key(SIX): Address(),
        address_key(OTHER6): Address(),
        route_key(FOUR): Route(NODE4),
        route_key(OTHER4): Mixed((NODE4,)),
        route_key(SIX): Route(NODE6),
        route_key(OTHER6): Mixed((NODE6,)),
    }
    assert {show_ip(a.ip) for a in on_link(addresses, 4)} == {
        "10.96.0.1",
        "10.96.0.2",
        "fd00:96::1",
        "fd00:96::2",
    }


def test_without_the_link_only_routes_on_loopback_are_left() -> None:
    found = lift(None, golden("address", 20), golden("route", 24), FULL)
    assert found == {route_key(SIX): Route(NODE6), route_key(OTHER6): Route(NODE6)}


def test_a_link_of_somebody_else_is_told_of_where_it_is_in_the_way() -> None:
    bridge = wire.read_link(link(kind="bridge"))
    assert lift(bridge, [address(FOUR)], [], {}) == {}
    assert lift(bridge, [address(FOUR)], [], FULL) == {LINK: Alien("bridge")}


@pytest.mark.parametrize("flags", [wire.IFA_F_TENTATIVE, wire.IFA_F_DADFAILED])
def test_an_address_that_may_be_taken_is_none(flags: int) -> None:
    found = lift(DUMMY, [address(SIX, flags=flags)], [kernels(SIX)], {})
    assert found[address_key(SIX)] == Address((128,))


def test_an_address_to_which_no_route_leads_is_none() -> None:
    """Of IPv6, as the kernel's route may be deleted for ours, and ours be lost."""
    assert lift(DUMMY, [address(SIX)], [kernels(OTHER6)], {})[address_key(SIX)] == Address((128,))
    for there in (kernels(SIX), ours(SIX, NODE6)):
        assert lift(DUMMY, [address(SIX)], [there], {})[address_key(SIX)] == Address()


@pytest.mark.parametrize(
    ("routes", "held"),
    [
        ((kernels(FOUR),), {}),
        ((ours(FOUR, NODE4), kernels(FOUR)), {route_key(FOUR): Route(NODE4)}),
        ((ours(FOUR, NODE4),), {route_key(FOUR): Route(NODE4)}),
        ((kernels(FOUR), ours(FOUR, NODE4)), {route_key(FOUR): Mixed((NODE4,))}),
        ((ours(FOUR, NODE4), ours(FOUR, NEXT4)), {route_key(FOUR): Mixed((NODE4, NEXT4))}),
        ((route(FOUR, NEXT4, protocol=3), ours(FOUR, NODE4)), {route_key(FOUR): Mixed((NODE4,))}),
        ((route(FOUR, NEXT4, protocol=3, tos=16), ours(FOUR, NODE4)), {route_key(FOUR): Route(NODE4)}),
        ((ours(FOUR, NODE4, table=254),), {}),
        ((ours(FOUR, NODE4, length=24),), {}),
        ((route(FOUR, NODE4, on=7),), {}),
        ((ours(SIX, NODE6),), {route_key(SIX): Route(NODE6)}),
        ((kernels(SIX), ours(SIX, NODE6)), {route_key(SIX): Mixed((NODE6,))}),
        # The same address on another link of the node: nothing we could do about it.
        ((kernels(SIX, on=7), ours(SIX, NODE6)), {route_key(SIX): Route(NODE6)}),
        ((route(SIX, NODE6, on=1, metric=7),), {}),
        ((route(SIX, None, on=1, metric=METRIC),), {route_key(SIX): Mixed(())}),
        ((route(FOUR, None),), {}),
    ],
)
def test_which_route_is_in_force(routes: tuple[Message, ...], held: Program) -> None:
    assert lifted(*routes) == held


# --- lower ----------------------------------------------------------------------------

ips = st.sampled_from([FOUR, OTHER4, SIX, OTHER6])
SOURCES = {4: (NODE4, NEXT4), 16: (NODE6, OTHER6)}


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """{} or the link with any of the addresses; each with a route or without."""
    if draw(st.integers(0, 5)) == 0:
        return {}
    made: Program = {LINK: Dummy()}
    for ip in draw(st.sets(ips)):
        made[address_key(ip)] = Address()
        if draw(st.booleans()):
            made[route_key(ip)] = Route(draw(st.sampled_from(SOURCES[len(ip)])))
    return made


@given(st.lists(programs(), max_size=5))
def test_what_is_written_is_read_back(wanted: list[Program]) -> None:
    kernel, held = Kernel(), {}
    for program in wanted:
        held = make(kernel, program, held)
        assert kernel.read() == program
        assert kernel.nobodys() == set()


@st.composite
def kernels_in_disorder(draw: st.DrawFn) -> Kernel:
    """Whatever others may have done."""
    kernel = Kernel()
    kernel.link = draw(st.booleans())
    for ip in draw(st.sets(ips)):
        bits = len(ip) * 8
        if kernel.link:
            for length in draw(st.sets(st.sampled_from([24, bits]))):
                flags = draw(st.sampled_from([0x80, 0xC0])) if len(ip) == 16 else 0x80
                kernel._address(wire.Address(ip, length, DEV, flags), new=True)
        for source in draw(st.lists(st.sampled_from(SOURCES[len(ip)]), max_size=3)):
            protocol = draw(st.sampled_from([PROTOCOL, 3]))
            if len(ip) == 4:
                kernel._four(wire.Route(ip, bits, 0, 255, protocol, 2, 0, DEV, source), new=True)
            else:
                kernel._six(wire.Route(ip, bits, 0, 255, protocol, 2, METRIC, 1, source), new=True)
    return kernel


@given(kernels_in_disorder(), programs())
def test_any_disorder_is_put_in_order_by_one_write(kernel: Kernel, wanted: Program) -> None:
    make(kernel, wanted, kernel.read(wanted))
    assert kernel.read(wanted) == wanted
    assert kernel.nobodys() == set()


@given(programs(), programs(), st.data())
def test_a_write_that_broke_off_is_put_right_by_the_next(
    old: Program, new: Program, data: st.DataObject
) -> None:
    kernel = Kernel()
    held = make(kernel, old, {})
    changes = [
        change for step in steps(list(diff(held, new)), {objects.PLANE: KINDS}) for change in step.changes
    ]
    kernel.make(changes[: data.draw(st.integers(0, len(changes)))], held)
    make(kernel, new, kernel.read(new))
    assert kernel.read(new) == new


@pytest.mark.parametrize("ip", [FOUR, SIX])
def test_at_no_time_the_node_is_without_a_route_it_had(ip: Ip) -> None:
    """A node's own packets to a Service never find a moment in which the address is nobody's."""
    kernel = Kernel()
    was: Program = {LINK: Dummy(), address_key(ip): Address(), route_key(ip): Route(SOURCES[len(ip)][0])}
    make(kernel, was, {})
    now = {**was, route_key(ip): Route(SOURCES[len(ip)][1])}
    changes = list(diff(was, now))
    for parcel in [*lower(changes, DEV), *clear(changes, DEV), *settle(changes, DEV, now)]:
        kernel.take([parcel])
        assert isinstance(kernel.read()[route_key(ip)], Route | Mixed)
    assert kernel.read() == now


def test_a_route_that_is_not_in_force_is_put_first() -> None:
    """The kernel takes none twice, so it is deleted where it stands."""
    kernel = Kernel()
    make(kernel, FULL, {})
    kernel.four[FOUR].insert(0, wire.Route(FOUR, 32, 0, 255, 3, 2, 0, DEV, NEXT4))
    assert kernel.read()[route_key(FOUR)] == Mixed((NODE4,))
    make(kernel, FULL, kernel.read())
    assert kernel.read() == FULL


def test_what_replaces_is_sent_before_what_it_replaces() -> None:
    """So that where it is refused, what was is in force still."""
    (made,) = lower([Change("set", route_key(FOUR), Route(NODE4), Route(NEXT4))], DEV)
    assert next(messages(made.data)).kind == wire.RTM_NEWROUTE
    (gone,) = clear([Change("set", route_key(FOUR), Route(NODE4), Route(NEXT4))], DEV)
    assert next(messages(gone.data)).kind == wire.RTM_DELROUTE
    assert clear([Change("add", route_key(FOUR), None, Route(NEXT4))], DEV) == []


# --- news -----------------------------------------------------------------------------


def news() -> News:
    """All is there, and OTHER6 without a route of ours."""
    made = News(US)
    made.begin()
    made.read({**FULL, address_key(OTHER6): Address()}, DEV)
    return made


def is_news(*events: Message) -> bool:
    made = news()
    made.hear(events)
    heard = made.take()
    assert not made.take()
    return heard


@pytest.mark.parametrize(
    "event",
    [
        link(event=17),
        link(index=9),
        link("other"),
        address(OTHER4),
        address(parse_ip("fd00:96::3"), flags=0x82),
        address(FOUR, 24),
        address(SIX, flags=0xC0),
        address(FOUR, event=21),
        address(SIX, event=21),
        address(FOUR, event=21, port=OTHERS),
        ours(FOUR, NODE4, event=25, port=OTHERS),
        ours(SIX, NODE6, event=25, port=OTHERS),
        ours(SIX, NODE6, event=25),
        ours(FOUR, NEXT4, port=OTHERS),
        ours(OTHER4, NEXT4, port=OTHERS),
        route(FOUR, NEXT4, protocol=3, port=OTHERS),
        kernels(SIX),
        kernels(OTHER6, event=25),
        kernels(OTHER6, event=25, port=OTHERS),
    ],
)
def test_what_is_not_as_known_is_news(event: Message) -> None:
    assert is_news(event)


@pytest.mark.parametrize(
    "event",
    [
        link(),
        link("eth0", 7),
        link("eth0", 7, event=17),
        link(family=7, event=17),
        address(FOUR),
        address(FOUR, port=OTHERS),
        address(SIX, flags=0x82),
        address(OTHER4, event=21),
        address(FOUR, on=7, event=21),
        address(OTHER4, on=7),
        address(NODE6, 64, on=7, event=21),
        address(NEXT4, 24, on=7, event=21),
        address(parse_ip("fe80::1"), 64),
        address(FOUR, 24, event=21),
        address(FOUR, event=21, port=US),
        ours(FOUR, NODE4, port=US),
        ours(FOUR, NEXT4, port=US, event=25),
        kernels(FOUR),
        kernels(OTHER6),
        kernels(OTHER6, event=25, port=US),
        kernels(SIX, event=25),
        kernels(SIX, on=7),
        kernels(SIX, table=254),
        route(OTHER4, NEXT4, protocol=3, port=OTHERS),
        route(FOUR, NEXT4, protocol=3, port=OTHERS, length=24),
        said(26, b""),
    ],
)
def test_what_is_as_known_is_none(event: Message) -> None:
    assert not is_news(event)


def test_a_route_of_the_kernel_that_went_again_is_none() -> None:
    assert not is_news(kernels(SIX), kernels(SIX, event=25, port=US))
    assert is_news(kernels(SIX, event=25, port=US), kernels(SIX))


def test_what_somebody_undid_again_may_be_news() -> None:
    assert is_news(address(OTHER4), address(OTHER4, event=21))


def test_before_anything_is_known_all_about_us_is_news() -> None:
    made = News(US)
    for event in (link(), ours(FOUR, NODE4, port=OTHERS)):
        made.hear([event])
        assert made.take()
    made.hear([link("eth0", 7), address(FOUR)])
    assert not made.take()


def test_what_we_wrote_is_known() -> None:
    made = news()
    made.writing(diff(FULL, {LINK: Dummy(), address_key(OTHER6): Address()}))
    made.hear([address(OTHER6, flags=0x82), address(SIX, event=21), kernels(SIX), kernels(OTHER6)])
    assert not made.take()
    made.hear([address(SIX, flags=0x82)])
    assert made.take()


def test_with_the_link_goes_what_is_on_it() -> None:
    made = news()
    made.writing([Change("del", LINK, Dummy(), None)])
    assert made.known == {route_key(SIX): Route(NODE6)}


def test_what_is_made_anew_may_be_missing_for_a_moment() -> None:
    made = news()
    made.remaking([SIX])
    made.hear([address(SIX, event=21), address(SIX, flags=0x82)])
    assert not made.take()
    made.hear([address(SIX, event=21)])
    assert made.take()


def test_after_a_write_that_failed_nothing_is_known() -> None:
    made = news()
    made.forget()
    made.hear([address(FOUR)])
    assert made.take()


def test_what_nobody_heard_may_have_been_anything() -> None:
    made = news()
    made.missed()
    made.begin()
    assert not made.take()
    made.missed()
    assert made.take()


@given(st.sampled_from([16, 17, 20, 21, 24, 25]), st.binary(max_size=60))
def test_whatever_the_bytes(kind: int, body: bytes) -> None:
    try:
        news().hear([said(kind, body)])
        lift(DUMMY, [said(20, body)], [said(24, body)], {})
    except Malformed:
        return


EVENTS = {
    "address": lambda ip, there: address(ip, flags=0x82, event=20 if there else 21),
    "route": lambda ip, there: ours(ip, SOURCES[len(ip)][0], event=24 if there else 25, port=OTHERS),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), ips, st.booleans()), max_size=6), st.data())
def test_no_change_of_others_goes_unheard(changes: list[tuple[str, Ip, bool]], data: st.DataObject) -> None:
    """Read at any point of what others do: if in the end it is otherwise, there was news."""
    at = data.draw(st.integers(0, len(changes)))
    known: Program = {LINK: Dummy()}
    end: Program = {LINK: Dummy()}
    for number, (kind, ip, there) in enumerate(changes):
        key = address_key(ip) if kind == "address" else route_key(ip)
        obj: Object = Address() if kind == "address" else Route(SOURCES[len(ip)][0])
        for program in (end, known) if number < at else (end,):
            program.pop(key, None)
            if there:
                program[key] = obj
    made = News(US)
    made.begin()
    made.read(known, DEV)
    made.hear(EVENTS[kind](ip, there) for kind, ip, there in changes)
    assert made.take() or known == end


# --- for people, and laws -------------------------------------------------------------


def test_in_words() -> None:
    assert [objects.describe(change, {}) for change in diff({}, FULL)] == [
        "add link kube-ipvs0",
        "add address 10.96.0.1 on kube-ipvs0",
        "add address fd00:96::1 on kube-ipvs0",
        "add local route to 10.96.0.1 with source 192.0.2.1",
        "add local route to fd00:96::1 with source 2001:db8::1",
    ]
    gone = Change("del", route_key(FOUR), Route(NODE4), None)
    assert objects.describe(gone, {}) == "delete local route to 10.96.0.1"


def test_as_text() -> None:
    link_ = "# ip link add kube-ipvs0 type dummy\n"
    four = [
        "# ip route prepend local 10.96.0.1/32 dev kube-ipvs0 table local src 192.0.2.1 proto 117\n",
        "# ip address add 10.96.0.1/32 dev kube-ipvs0\n",
    ]
    six = [
        "# ip route replace local fd00:96::1/128 dev lo table local src 2001:db8::1 proto 117 metric 1024\n",
        "# ip address add fd00:96::1/128 dev kube-ipvs0 nodad\n",
    ]
    assert objects.show(FULL) == "".join([link_, four[0], six[0], four[1], six[1]])
    assert objects.show(FULL, "ip") == "".join([link_, *four])
    assert objects.show(FULL, "ip6") == "".join([link_, *six])
    assert objects.show({}) == ""


def test_our_mark_is_nobodys() -> None:
    if not RT_PROTOS.exists():
        pytest.skip("no iproute2 here")
    lines = [line.split() for line in RT_PROTOS.read_text().splitlines()]
    assert str(PROTOCOL) not in {words[0] for words in lines if words and not words[0].startswith("#")}


@given(programs(), programs())
def test_its_laws_are_those_of_a_plane(old: Program, new: Program) -> None:
    plane = MemoryPlane(objects, old)
    for step in steps(list(diff(old, new)), {objects.PLANE: KINDS}):
        plane.edit(step.changes)
    assert plane.objects == new


# --- steering -------------------------------------------------------------------------

STEER: Program = {
    key: obj
    for family in (4, 6)
    for key, obj in {table_key(family): Homeward(), rule_key(family, 0x2000): Rule()}.items()
}
APART: Program = {
    table_key(4): Homeward(),
    rule_key(4, 0x1000): Rule(),
    role_key(4, 0x2000, "pass"): Rule(),
    role_key(4, 0x2000, "late"): Rule(),
    role_key(4, 0, "end"): Rule(),
}


def heard(parcels: list[Parcel]) -> list[Message]:
    """What the kernel tells of what these make."""
    return [m for parcel in parcels for m in messages(parcel.data)]


def test_what_steers_is_lowered_and_lifted_back() -> None:
    told = heard(steering.lower(list(diff({}, STEER))))
    assert [m.kind for m in told] == [24, 32, 24, 32]
    routes, rules = [m for m in told if m.kind == 24], [m for m in told if m.kind == 32]
    assert lift(None, [], routes, {}, rules) == STEER


def test_rules_that_keep_what_is_this_node_s_own_apart_are_lifted_back() -> None:
    told = heard(steering.lower(list(diff({}, APART))))
    routes, rules = [m for m in told if m.kind == 24], [m for m in told if m.kind == 32]
    assert lift(None, [], routes, {}, rules) == APART
    assert [line for line in objects.show(APART).splitlines() if "rule" in line] == [
        "# ip rule add priority 4 nop protocol 117",
        "# ip rule add priority 1 fwmark 0x1000/0x1000 lookup 117 protocol 117",
        "# ip rule add priority 3 fwmark 0x2000/0x2000 lookup 117 protocol 117",
        "# ip rule add priority 2 iif lo fwmark 0x2000/0x2000 goto 4 protocol 117",
    ]


def test_a_table_is_there_before_the_rule_that_leads_to_it() -> None:
    ((_, changes),) = steps(list(diff({}, STEER)), {objects.PLANE: KINDS})
    assert [c.key.kind for c in changes] == ["table", "table", "rule", "rule"]
    ((_, changes),) = steps(list(diff(STEER, {})), {objects.PLANE: KINDS})
    assert [c.key.kind for c in changes] == ["rule", "rule", "table", "table"]


@pytest.mark.parametrize(
    "change",
    [{"priority": 2}, {"mask": 0xFFFFFFFF}, {"table": 254}, {"plain": False}],
    ids=["priority", "mask", "table", "more"],
)
def test_a_rule_of_ours_that_is_otherwise_is_made_anew(change: dict[str, object]) -> None:
    key = rule_key(4, 0x2000)
    right = steering.wanted(key)
    odd = right._replace(**change)
    (told,) = messages(wire.new_rule(odd))
    if not odd.plain:
        told = said(32, bytes(told.body) + attr(17, b"eth0\0"))
    found = lift(None, [], [], {}, [told])
    assert found == {key: Rule((odd,))}
    parcels = steering.lower([Change("set", key, found[key], Rule())])
    assert [p.data for p in parcels] == [wire.del_rule(odd), wire.new_rule(right)]
    # Two of them are one too many, whichever is right.
    (fine,) = messages(wire.new_rule(right))
    assert lift(None, [], [], {}, [fine, told]) == {key: Rule((right, odd))}


def test_rules_and_routes_of_others_are_theirs() -> None:
    rule = steering.wanted(rule_key(4, 0x2000))
    (theirs,) = messages(wire.new_rule(rule._replace(protocol=3)))
    (route,) = messages(wire.new_homeward(wire.AF_INET, objects.TABLE, 3))
    (elsewhere,) = messages(wire.new_homeward(wire.AF_INET, 100, PROTOCOL))
    assert lift(None, [], [route, elsewhere], {}, [theirs]) == {}


def test_who_takes_what_steers_is_heard_and_we_are_not() -> None:
    def news(port: int, wanted: Program, verb: str, key: Key) -> bool:
        news = News(US)
        news.read(wanted, 0)
        (told,) = heard(steering.lower([Change("add", key, None, STEER[key])]))
        news.hear([said(told.kind + (verb == "del"), bytes(told.body), port)])
        return news.take()

    for key in STEER:
        assert news(OTHERS, STEER, "del", key)
        assert not news(US, STEER, "del", key)
        assert news(OTHERS, {}, "add", key)
        assert not news(US, {}, "add", key)
        assert not news(OTHERS, {}, "del", key)
        assert not news(OTHERS, STEER, "add", key)


def test_what_steers_is_told_in_the_tool_s_words() -> None:
    assert objects.show(STEER | FULL, "ip6").splitlines()[-2:] == [
        "# ip -6 route add local default dev lo table 117 proto 117",
        "# ip -6 rule add priority 1 fwmark 0x2000/0x2000 lookup 117 protocol 117",
    ]
    change = Change("add", rule_key(4, 0x2000), None, Rule())
    assert objects.describe(change, {}) == "add rule of IPv4 that mark 0x2000 leads to table 117"
