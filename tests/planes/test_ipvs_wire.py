"""Objects to bytes and back: against what ipvsadm sends, and against a kernel made of dicts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.planes.ipvs.lift import Lifted, Ours, Told, lift, lift_timeouts, read_servers
from kubeway.planes.ipvs.lower import lower
from kubeway.planes.ipvs.objects import (
    METHODS,
    TIMEOUTS,
    Destination,
    Server,
    Timeouts,
    destination_key,
    server_key,
)
from kubeway.program.plan import diff
from kubeway.program.program import Change, Key, Object
from kubeway.values import TCP, UDP, Ip, parse_ip
from kubeway.wire import ip_vs_list
from kubeway.wire import ipvs as wire
from kubeway.wire.netlink import Message, messages, walk
from kubeway.wire.nfnetlink import number
from tests.golden.ipvs.golden import sent
from tests.planes.ip_vs import FAMILY, IpVs
from tests.planes.ipvsprograms import DNS, PHRASES, POD, VIP, WEB, WEB6, WEB_POD, every_construct, programs


def ours(*_: object) -> bool:
    return True


def theirs(*_: object) -> bool:
    return False


def told(kernel: IpVs, changes: list[Change]) -> None:
    ordered = sorted(changes, key=lambda c: (c.key.kind == "destination", c.verb == "del"))
    requests = lower(ordered, FAMILY)
    assert kernel.transact(number(requests, 1)) == []


def lifted(kernel: IpVs, wanted: dict[Key, Object], predicate: Ours = ours) -> Lifted:
    told = read_servers(kernel.dump(wire.get_services(FAMILY)))
    assert told.fits(kernel.count())
    listed = {name: ones for name, ones in ip_vs_list.read(kernel.read()) if name}
    found = lift(told.ours(wanted, predicate), listed, wanted)
    found.objects.update(lift_timeouts(kernel.ask(wire.get_timeouts(FAMILY)), wanted))
    return found


# --- against ipvsadm ----------------------------------------------------------------------------


def leaves(data: bytes, depth: int = 1) -> dict[tuple[int, ...], bytes]:
    """The attributes of a message, by the way that leads to them."""
    found: dict[tuple[int, ...], bytes] = {}
    for kind, value in walk(data):
        if depth and kind in (1, 2) and len(value) > 20:
            found.update({(kind, *way): leaf for way, leaf in leaves(bytes(value), depth - 1).items()})
        else:
            found[kind,] = bytes(value)
    return found


def test_every_line_was_recorded() -> None:
    assert list(sent()) == list(PHRASES)


@pytest.mark.parametrize("line", PHRASES)
def test_ipvsadm_says_the_same(line: str) -> None:
    """Byte by byte; of destinations, and of what goes, ipvsadm tells more than counts."""
    change = PHRASES[line]
    (request,) = lower([change], FAMILY)
    (m,) = messages(request)
    assert (m.kind, m.flags, bytes(m.body[:4])) == (FAMILY, 1, sent()[line][:4])
    mine, golden = leaves(bytes(m.body[4:])), leaves(sent()[line][4:])
    if change.verb == "del" or change.key.kind == "destination":
        assert mine.items() <= golden.items()
        # Settings of a server that is only called, and tunnels of a destination that has none.
        assert {way[:2] for way in golden.keys() - mine.keys()} <= {
            *((1, kind) for kind in (6, 7, 8, 9)),
            *((2, kind) for kind in ((13, 14, 15) if change.verb != "del" else range(3, 16))),
        }
    else:
        assert bytes(m.body) == sent()[line]


# --- against a kernel of dicts --------------------------------------------------------------------


def test_everything_comes_back() -> None:
    kernel, program = IpVs(), every_construct()
    told(kernel, list(diff({}, program)))
    assert lifted(kernel, program) == (program, [])


@given(programs(), st.data())
def test_law_what_is_lowered_is_lifted(program: dict[Key, Object], data: st.DataObject) -> None:
    kernel = IpVs()
    told(kernel, list(diff({}, program)))
    assert lifted(kernel, program) == (program, [])
    # And what of it is not wanted, but ours, too; of timeouts nobody says whose they are.
    some = {key: one for key, one in program.items() if data.draw(st.booleans())}
    found = lifted(kernel, some)
    rest = {key: one for key, one in program.items() if key != TIMEOUTS or key in some}
    draining = {
        key: one
        for key, one in rest.items()
        if isinstance(one, Destination) and one.weight == 0 and key not in some and key.name[1] != UDP
        if server_key(*key.name[:3]) in some
    }
    assert found.objects == {key: one for key, one in rest.items() if key not in draining}
    assert sorted(found.draining) == sorted(draining)


@given(programs(few=True), programs(few=True))
def test_law_from_any_to_any(before: dict[Key, Object], after: dict[Key, Object]) -> None:
    kernel = IpVs()
    told(kernel, list(diff({}, before)))
    changes = [c for c in diff(before, after) if c.verb != "del" or c.key != TIMEOUTS]
    gone = {c.key.name for c in changes if c.verb == "del" and c.key.kind == "server"}
    told(kernel, [c for c in changes if c.key.kind != "destination" or c.key.name[:3] not in gone])
    assert lifted(kernel, after) == (after, [])


def test_each_change_is_a_message_with_its_place() -> None:
    changes = list(diff({}, every_construct()))
    assert len(lower(changes, FAMILY)) == len(changes)


# --- whose it is ------------------------------------------------------------------------------------


def test_what_is_not_wanted_is_ours_or_not() -> None:
    kernel, other = IpVs(), server_key(parse_ip("192.0.2.1"), TCP, 80)
    pod = destination_key(parse_ip("192.0.2.1"), TCP, 80, POD, 80)
    world: dict[Key, Object] = {WEB: Server("rr"), other: Server("wlc"), pod: Destination(0)}
    kernel.marks.append(7)
    told(kernel, list(diff({}, world)))
    assert lifted(kernel, {WEB: Server("rr")}, theirs) == ({WEB: Server("rr")}, [])
    assert lifted(kernel, {WEB: Server("rr")}, ours) == (world, [])
    asked: list[tuple[Ip, int, int]] = []

    def note(vip: Ip, proto: int, port: int) -> bool:
        asked.append((vip, proto, port))
        return False

    lifted(kernel, {WEB: Server("rr")}, note)
    assert asked == [other.name]


def test_weight_zero_that_nobody_wants_drains_but_not_of_udp() -> None:
    kernel, dns_pod = IpVs(), destination_key(VIP, UDP, 53, POD, 53)
    servers: dict[Key, Object] = {WEB: Server("rr"), DNS: Server("rr")}
    told(kernel, list(diff({}, {**servers, WEB_POD: Destination(0), dns_pod: Destination(0)})))
    assert lifted(kernel, servers) == ({**servers, dns_pod: Destination(0)}, [WEB_POD])
    kernel.schedulers.append("dh")
    told(kernel, [Change("set", WEB, None, Server("dh"))])
    assert lifted(kernel, servers).draining == []
    told(kernel, [Change("set", WEB, None, Server("rr"))])
    wanted: dict[Key, Object] = {**servers, WEB_POD: Destination(0)}
    assert lifted(kernel, wanted).objects[WEB_POD] == Destination(0)
    assert lifted(kernel, {**servers, WEB_POD: Destination(1)}).objects[WEB_POD] == Destination(0)


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("flags", 0x04, "one packet"),
        ("flags", 0x08, "flag 1"),
        ("flags", 0x20, "flags 0x20"),
        ("flags", 0x01, "persistent for no time"),
        ("netmask", b"\xff\xff\0\0", "netmask ffff0000"),
        ("engine", "sip", "engine sip"),
    ],
)
def test_what_is_never_set_here_is_a_difference(attribute: str, value: object, words: str) -> None:
    kernel = IpVs()
    told(kernel, list(diff({}, {WEB: Server("rr")})))
    service = kernel.services[WEB.name]
    if attribute == "flags":
        service.flags |= value  # type: ignore[operator]
    else:
        setattr(service, attribute, value)
    found = lifted(kernel, {WEB: Server("rr")}).objects[WEB]
    assert found == Server("rr", other=words)
    assert found != Server("rr")
    told(kernel, [Change("set", WEB, found, Server("rr"))])
    assert lifted(kernel, {WEB: Server("rr")}).objects == {WEB: Server("rr")}


def test_a_hashing_scheduler_that_does_not_fall_back_is_a_difference() -> None:
    kernel = IpVs()
    told(kernel, list(diff({}, {WEB: Server("mh", source_port=True)})))
    kernel.services[WEB.name].flags = 0x12
    assert lifted(kernel, {}).objects == {WEB: Server("mh", source_port=True, other="no fallback")}


@pytest.mark.parametrize("method", METHODS)
def test_ways_of_forwarding(method: str) -> None:
    kernel, program = IpVs(), {WEB: Server("rr"), WEB_POD: Destination(1, method)}
    told(kernel, list(diff({}, program)))
    assert lifted(kernel, program).objects == program


def test_a_timeout_that_is_left_alone_is_as_wanted() -> None:
    kernel = IpVs()
    want: dict[Key, Object] = {TIMEOUTS: Timeouts(0, 60, 0)}
    assert lifted(kernel, want).objects == {TIMEOUTS: Timeouts(0, 120, 0)}
    told(kernel, list(diff({}, want)))
    assert lifted(kernel, want).objects == want
    assert kernel.timeouts == [900, 60, 300]
    assert lifted(kernel, {}).objects == {}


# --- what does not fit together -------------------------------------------------------------------------


def test_whether_a_dump_is_whole() -> None:
    settings = wire.Settings("rr", 0, 0, bytes(4))
    told = Told({WEB.name: settings, WEB6.name: settings}, marks=2)
    assert [told.fits(count) for count in range(5)] == [False, True, True, True, False]
    assert Told({}, 0).fits(0)


@given(st.lists(st.binary(max_size=100)))
def test_whatever_the_bytes(answers: list[bytes]) -> None:
    try:
        read_servers([Message(FAMILY, 0, 0, memoryview(one)) for one in answers])
    except Malformed:
        return
