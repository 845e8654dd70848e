"""Links, addresses and routes: requests as `ip` sends them, answers as `ip` understands them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.values import Ip, parse_ip, show_ip
from kubeway.wire import rtnetlink as rt
from kubeway.wire.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, Message, attr, messages, text

GOLDEN = Path(__file__).parent.parent / "golden" / "link"
"""`requests`: an `ip` command and what it sends but for its number, as strace saw it (iproute2 6.1.0;
kube-ipvs0 being link 3). `answers`: what a kernel 6.1 tells of links, addresses and table local after the
commands above them, and what `ip -j` makes of it."""

FOUR, SIX = parse_ip("10.96.0.1"), parse_ip("fd00:96::1")
NODE4, NODE6 = parse_ip("192.0.2.1"), parse_ip("2001:db8::1")
DEV = "kube-ipvs0"


def rule(family: int) -> rt.Rule:
    return rt.Rule(family, 1, 0x2000, 0x2000, 117, 117, plain=True)


REQUESTS = {
    "ip link add other0 type dummy": rt.new_dummy("other0"),
    f"ip address add 10.96.0.1/32 dev {DEV}": rt.new_address(FOUR, 3),
    f"ip address add fd00:96::1/128 dev {DEV} nodad": rt.new_address(SIX, 3),
    f"ip route prepend local 10.96.0.1/32 dev {DEV} table local src 192.0.2.1 proto 117": rt.prepend_local(
        FOUR, 3, NODE4, 117
    ),
    "ip -6 route replace local fd00:96::1/128 dev lo table local src 2001:db8::1 proto 117 metric 1024": (
        rt.replace_local(SIX, rt.LOOPBACK, NODE6, 117, 1024)
    ),
    f"ip route del local 10.96.0.1/32 dev {DEV} table local src 192.0.2.1 proto 117": rt.del_local(
        FOUR, 3, NODE4, 117
    ),
    "ip -6 route del local fd00:96::1/128 dev lo table local proto 117": rt.del_local(
        SIX, rt.LOOPBACK, None, 117
    ),
    f"ip -6 route del local fd00:96::1/128 dev {DEV} table local proto kernel": rt.del_local(
        SIX, 3, None, rt.RTPROT_KERNEL
    ),
    f"ip address del 10.96.0.1/32 dev {DEV}": rt.del_address(FOUR, 32, 3),
    f"ip address del fd00:96::1/128 dev {DEV}": rt.del_address(SIX, 128, 3),
    **{
        f"ip {flag} {command}": request
        for flag, family in (("-4", rt.AF_INET), ("-6", rt.AF_INET6))
        for command, request in {
            "route add local default dev lo table 117 proto 117": rt.new_homeward(family, 117, 117),
            "rule add priority 1 fwmark 0x2000/0x2000 lookup 117 protocol 117": rt.new_rule(rule(family)),
            "rule del priority 1 fwmark 0x2000/0x2000 lookup 117 protocol 117": rt.del_rule(rule(family)),
            "route del local default dev lo table 117 proto 117": rt.del_homeward(family, 117, 117),
        }.items()
    },
}


def recorded() -> dict[str, bytes]:
    lines = (GOLDEN / "requests").read_text().splitlines()
    return {command: bytes.fromhex(sent) for command, sent in zip(lines[::2], lines[1::2], strict=True)}


def answers(what: str) -> list[bytes]:
    lines = [line.partition(" ") for line in (GOLDEN / "answers").read_text().splitlines()]
    return [bytes.fromhex(value) for word, _, value in lines if word == what]


def told(command: str) -> Any:
    """What `ip -j` printed."""
    lines = (GOLDEN / "answers").read_text().splitlines()
    return json.loads(lines[lines.index(f"ip -j {command}") + 1])


def said(kind: int, body: bytes) -> Message:
    return Message(kind, 2, 1, memoryview(body))


# --- requests -------------------------------------------------------------------------


def test_every_recorded_request_is_one_of_ours() -> None:
    assert recorded().keys() == REQUESTS.keys()


@pytest.mark.parametrize("command", REQUESTS)
def test_requests_are_the_tools(command: str) -> None:
    """But for the ack that the tool asks for."""
    (ours,), (theirs,) = messages(REQUESTS[command]), messages(recorded()[command])
    assert (ours.kind, ours.flags | NLM_F_ACK, bytes(ours.body)) == (
        theirs.kind,
        theirs.flags,
        bytes(theirs.body),
    )


def test_it_asks_for_both_families() -> None:
    (m,) = messages(rt.addresses_request())
    assert (m.kind, m.flags, bytes(m.body)) == (rt.RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, bytes(8))


@pytest.mark.parametrize(("request_", "kind"), [(rt.link_request, 18), (rt.del_link, 17)])
def test_links_are_named(request_: Callable[[str], bytes], kind: int) -> None:
    (m,) = messages(request_("dev0"))
    assert (m.kind, m.flags, bytes(m.body)) == (kind, NLM_F_REQUEST, bytes(16) + text(rt.IFLA_IFNAME, "dev0"))


@pytest.mark.parametrize("family", [rt.AF_INET, rt.AF_INET6])
def test_it_asks_for_the_routes_of_table_local(family: int) -> None:
    (m,) = messages(rt.routes_request(family))
    assert (m.kind, m.flags) == (rt.RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP)
    assert bytes(m.body) == bytes([family, 0, 0, 0, 255, 0, 0, 0]) + bytes(4)


# --- answers --------------------------------------------------------------------------


def test_links_are_read() -> None:
    read = [rt.read_link(said(rt.RTM_NEWLINK, body)) for body in answers("link")]
    assert read == [rt.Link(4, DEV, "dummy"), rt.Link(3, "eth0", "veth"), rt.Link(1, "lo", "")]


def test_addresses_are_read() -> None:
    read = [rt.read_address(said(rt.RTM_NEWADDR, body)) for body in answers("address")]
    found = {(show_ip(a.ip), a.length, bool(a.flags & rt.IFA_F_NODAD)) for a in read if a and a.link == 4}
    (link,) = told(f"address show dev {DEV}")
    assert found == {(a["local"], a["prefixlen"], a.get("nodad", False)) for a in link["addr_info"]}
    assert len(found) == 5


@pytest.mark.parametrize(
    ("command", "size"), [("route show table local", 4), ("-6 route show table local", 16)]
)
def test_routes_are_read(command: str, size: int) -> None:
    read = [rt.read_route(said(rt.RTM_NEWROUTE, body)) for body in answers("route")]
    routes = [route for route in read if route is not None and len(route.ip) == size]
    links = {1: "lo", 3: "eth0", 4: DEV, 2: "eth1"}
    kinds = {"local": 2, "broadcast": 3, "multicast": 5}
    assert [(r.kind, show_ip(r.ip), links[r.link], r.protocol, r.metric, r.source) for r in routes] == [
        (
            kinds[r["type"]],
            r["dst"].partition("/")[0],
            r["dev"],
            {"kernel": 2}.get(r["protocol"]) or int(r["protocol"]),
            r.get("metric", 0),
            parse_ip(r["prefsrc"]) if "prefsrc" in r else None,
        )
        for r in told(command)
    ]
    assert {route.table for route in routes} == {rt.RT_TABLE_LOCAL}


def address(family: int, *attrs: bytes, kind: int = rt.RTM_NEWADDR) -> Message:
    return said(kind, struct.pack("=BBBBI", family, 24, 0, 0, 1) + b"".join(attrs))


def route(family: int, *attrs: bytes, table: int = 255) -> Message:
    return said(rt.RTM_NEWROUTE, struct.pack("=8BI", family, 32, 0, 0, table, 117, 0, 2, 0) + b"".join(attrs))


def test_of_two_ends_ours_is_the_local_one() -> None:
    ours, theirs = parse_ip("10.0.0.1"), parse_ip("10.0.0.2")
    read = rt.read_address(address(2, attr(rt.IFA_ADDRESS, theirs), attr(rt.IFA_LOCAL, ours)))
    assert read == rt.Address(ours, 24, 1, 0)


def test_an_ipv6_address_needs_no_local_end() -> None:
    read = rt.read_address(address(10, attr(rt.IFA_ADDRESS, SIX)))
    assert read == rt.Address(SIX, 24, 1, 0)


def test_flags_that_are_too_wide_for_the_header_are_read() -> None:
    read = rt.read_address(
        address(10, attr(rt.IFA_ADDRESS, SIX), attr(rt.IFA_FLAGS, struct.pack("=I", 0x382)))
    )
    assert read is not None
    assert read.flags == 0x382


def test_a_default_route_is_to_all_zeroes() -> None:
    read = rt.read_route(route(2, attr(rt.RTA_TABLE, struct.pack("=I", 1000)), table=252))
    assert read == rt.Route(Ip(bytes(4)), 32, 0, 1000, 117, 2, 0, 0, None)


def test_other_families_are_passed_over() -> None:
    assert rt.read_address(address(28, attr(rt.IFA_ADDRESS, b"xxxx"))) is None
    assert rt.read_route(route(28, attr(rt.RTA_DST, b"xxxx"))) is None


@pytest.mark.parametrize(
    ("read", "m"),
    [
        (rt.read_address, address(2)),
        (rt.read_address, address(2, attr(rt.IFA_LOCAL, b"\x0a\0\0"))),
        (rt.read_address, address(10, attr(rt.IFA_ADDRESS, b"\x0a\0\0\x01"))),
        (rt.read_address, address(2, attr(rt.IFA_LOCAL, FOUR), attr(rt.IFA_FLAGS, b"\0"))),
        (rt.read_address, address(2, attr(rt.IFA_LOCAL, FOUR), kind=16)),
        (rt.read_address, said(rt.RTM_NEWADDR, b"\x02")),
        (rt.read_route, route(2, attr(rt.RTA_DST, SIX))),
        (rt.read_route, route(10, attr(rt.RTA_DST, SIX), attr(rt.RTA_PREFSRC, FOUR))),
        (rt.read_route, route(2, attr(rt.RTA_OIF, b"\0\0"))),
        (rt.read_route, said(rt.RTM_NEWADDR, bytes(12))),
        (rt.read_route, said(rt.RTM_NEWROUTE, bytes(11))),
        (rt.read_link, said(rt.RTM_NEWADDR, bytes(16))),
        (rt.read_link, said(rt.RTM_NEWLINK, bytes(15))),
    ],
)
def test_what_is_none_is_malformed(read: Callable[[Message], object], m: Message) -> None:
    with pytest.raises(Malformed, match=r"^rtnetlink: "):
        read(m)


def test_a_link_without_a_name_is_malformed() -> None:
    with pytest.raises(Malformed, match="a link's name"):
        rt.read_link(said(rt.RTM_NEWLINK, bytes(16)))


READERS: list[tuple[Callable[[Message], Any], int, list[bytes]]] = [
    (rt.read_link, rt.RTM_NEWLINK, answers("link")),
    (rt.read_address, rt.RTM_NEWADDR, answers("address")),
    (rt.read_route, rt.RTM_NEWROUTE, answers("route")),
]


@given(st.sampled_from(READERS), st.data())
def test_any_bytes_are_read_or_malformed(
    reader: tuple[Callable[[Message], Any], int, list[bytes]], data: st.DataObject
) -> None:
    read, kind, bodies = reader
    body = bytearray(data.draw(st.sampled_from([*bodies, bytes(16)])))
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(0, len(body)))] + data.draw(st.binary(max_size=20))
    try:
        got = read(said(kind, bytes(body)))
    except Malformed:
        return
    assert got is None or kind == rt.RTM_NEWLINK or len(got.ip) in (4, 16)


# --- the sieve ------------------------------------------------------------------------


def passes(event: bytes) -> bool:
    """The filter, run as the kernel would run it (include/uapi/linux/bpf_common.h)."""
    steps = list(struct.iter_unpack("=HBBI", rt.only_routes_of(rt.RT_TABLE_LOCAL)))
    at, held = 0, 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        match code:
            case 0x30:
                held = event[value]
            case 0x15:
                at += yes if held == value else no
            case 0x06:
                return bool(value)
            case _:
                raise AssertionError(f"instruction {code:#x}")


@pytest.mark.parametrize("kind", [16, 17, 20, 21, 24, 25])
@pytest.mark.parametrize("table", [252, 254, 255])
def test_the_sieve_keeps_back_routes_of_other_tables(kind: int, table: int) -> None:
    event = struct.pack("=IHHII", 28, kind, 0, 0, 0) + bytes([2, 32, 0, 0, table, 2, 0, 1]) + bytes(4)
    assert passes(event) == (kind < 24 or table == 255)


# --- rules ----------------------------------------------------------------------------

numbers = st.integers(0, 0xFFFFFFFF)
rules = st.builds(
    rt.Rule,
    st.sampled_from([rt.AF_INET, rt.AF_INET6]),
    numbers,
    numbers,
    numbers,
    st.integers(0, 255),
    st.integers(0, 255),
    st.just(value=True),
    st.sampled_from([rt.FR_ACT_TO_TBL, rt.FR_ACT_NOP]),
    st.just(0),
    st.sampled_from(["", "lo", "eth0"]),
)
rules |= st.builds(lambda one, target: one._replace(action=rt.FR_ACT_GOTO, target=target), rules, numbers)


@given(rules)
def test_a_rule_that_is_made_is_read_back(one: rt.Rule) -> None:
    (m,) = messages(rt.new_rule(one))
    assert rt.read_rule(m) == one


@given(rules, st.sampled_from([1, 17, 19, 20, 22]))
def test_a_rule_that_asks_for_more_is_not_plain(one: rt.Rule, number: int) -> None:
    (m,) = messages(rt.new_rule(one))
    more = rt.read_rule(said(m.kind, bytes(m.body) + attr(number, bytes(4))))
    assert more == one._replace(plain=False)


def test_the_kernel_says_of_every_rule_that_it_suppresses_nothing() -> None:
    (m,) = messages(rt.new_rule(rule(rt.AF_INET)))
    for length, plain in ((0xFFFFFFFF, True), (0, False)):
        body = bytes(m.body) + attr(rt.FRA_SUPPRESS_PREFIXLEN, struct.pack("=I", length))
        assert rt.read_rule(said(m.kind, body)) == rule(rt.AF_INET)._replace(plain=plain)


@given(st.binary(max_size=120), st.sampled_from([rt.RTM_NEWRULE, rt.RTM_DELRULE, 24]))
def test_any_bytes_are_a_rule_or_malformed(body: bytes, kind: int) -> None:
    with suppress(Malformed):
        rt.read_rule(said(kind, body))
