"""What iptables programs do to packets, with exact chances; each program here is made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from kubeway.errors import Unknowable
from kubeway.model.packet import DROP, PASS, REJECT, Fate, Packet
from kubeway.planes.xtables.fates import Memory, fates
from kubeway.planes.xtables.objects import (
    Accept,
    AddrType,
    Answering,
    Balanced,
    Chain,
    Comment,
    ConnMark,
    ConnMarkXset,
    CtState,
    Destination,
    Dnat,
    Dport,
    Drop,
    Family,
    ForeignMatch,
    ForeignTarget,
    Goto,
    InInterface,
    InSet,
    Jump,
    Mark,
    MarkXset,
    Masquerade,
    Match,
    Opening,
    Protocol,
    Random,
    Recent,
    Reject,
    Return,
    Rule,
    Rules,
    Side,
    Source,
    TableName,
    Target,
    Tproxy,
    Transparent,
    branch_key,
    chain_key,
    jump_key,
    rules_key,
)
from kubeway.program.passage import Balancer
from kubeway.program.program import Key
from kubeway.values import SCTP, TCP, UDP, Ip, Prefix, Proto, host_prefix, parse_ip, parse_prefix

NODE = parse_ip("192.168.0.1")
CLIENT = parse_ip("172.16.0.9")
VIP = parse_ip("10.96.0.1")
PODS = [parse_ip(f"10.244.1.{n}") for n in range(1, 6)]

Objects = dict[Key, object]


def at(table: TableName, hook: str, *rules: Rule, family: Family = "ip") -> Objects:
    """Rules at the top of a built-in chain."""
    return {jump_key(family, table, hook, n): rule for n, rule in enumerate(rules, 1)}


def chain(table: TableName, name: str, *rules: Rule, family: Family = "ip") -> Objects:
    return {chain_key(family, table, name): Chain(), rules_key(family, table, name): Rules(rules)}


def rule(target: Target | None, *matches: Match) -> Rule:
    return Rule(matches, target)


def to(ip: Ip, port: int = 8080) -> Dnat:
    return Dnat(ip, port)


def coming(dst: Ip = VIP, iif: str = "eth0", src: Ip = CLIENT, port: int = 80) -> Packet:
    return Packet(src, dst, TCP, port, iif)


def sent(dst: Ip = VIP) -> Packet:
    return Packet(NODE, dst, TCP, 80)


def endpoint(ip: Ip, port: int = 8080, masquerade: bool = False) -> Fate:
    return Fate("endpoint", ip, port, masquerade)


def ends(objects: Objects, packet: Packet, memory: Memory = frozenset()) -> dict[Fate, Fraction]:
    return dict(fates(objects, packet, frozenset({NODE}), None, memory))


def end(objects: Objects, packet: Packet, memory: Memory = frozenset()) -> Fate:
    """The one end there is."""
    ((fate, chance),) = ends(objects, packet, memory).items()
    assert chance == 1
    return fate


# --- chances ------------------------------------------------------------------------


def test_nothing_passes() -> None:
    assert end({}, coming()) == PASS


@given(st.integers(1, 5))
def test_lots_in_turn_are_alike(count: int) -> None:
    rules = [rule(to(PODS[n]), Random(count - n)) for n in range(count)]
    found = ends(at("nat", "PREROUTING", *rules), coming())
    assert found == {endpoint(PODS[n]): Fraction(1, count) for n in range(count)}


def test_the_classic_slip_is_seen() -> None:
    rules = [rule(to(PODS[n]), Random(3)) for n in range(2)]
    found = ends(at("nat", "PREROUTING", *rules, rule(to(PODS[2]))), coming())
    assert sorted(found.values()) == [Fraction(2, 9), Fraction(1, 3), Fraction(4, 9)]


def test_a_match_after_the_draw_may_still_fail() -> None:
    rules = at("nat", "PREROUTING", rule(to(PODS[0]), Random(4), Protocol(UDP)), rule(to(PODS[1])))
    assert end(rules, coming()) == endpoint(PODS[1])


# --- matches -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "applies"),
    [
        (Source(parse_prefix("172.16.0.0/12")), True),
        (Source(parse_prefix("172.16.0.0/12"), invert=True), False),
        (Source(host_prefix(VIP)), False),
        (Destination(host_prefix(VIP)), True),
        (Destination(parse_prefix("10.97.0.0/16"), invert=True), True),
        (InInterface("eth0"), True),
        (InInterface("eth"), False),
        (InInterface("eth", begins=True), True),
        (InInterface("cni0", invert=True), True),
        (Protocol(TCP), True),
        (Protocol(UDP), False),
        (Dport(TCP, 80), True),
        (Dport(UDP, 80), False),
        (Dport(TCP, 81), False),
        (Dport(TCP, 79, 81), True),
        (Dport(TCP, 64, 80), True),
        (Dport(TCP, 81, 95), False),
        (AddrType("dst"), False),
        (AddrType("src"), False),
        (CtState(("NEW",)), True),
        (CtState(("RELATED", "ESTABLISHED")), False),
        (CtState(("DNAT",)), False),
        (CtState(("DNAT",), invert=True), True),
        (CtState(("INVALID",)), False),
        (Mark(1, 1), False),
        (Mark(0, 1), True),
        (Mark(1, 1, invert=True), True),
        (Recent("A", "check", 60), False),
        (Recent("A", "update", 60), False),
        (Recent("A", "set"), True),
        (Recent("B", "check", 60), True),
        (Recent("B", "update", 60), True),
        (Random(1), True),
        (Comment("whatever"), True),
    ],
)
def test_matches(match: Match, applies: bool) -> None:
    rules = at("filter", "FORWARD", rule(Drop(), match))
    assert end(rules, coming(), frozenset({("B", CLIENT), ("A", VIP)})) == (DROP if applies else PASS)


def test_addresses_of_the_node_are_local_and_so_is_loopback() -> None:
    objects = at("filter", "INPUT", rule(Reject(), AddrType("dst")))
    assert end(objects, coming(NODE)) == REJECT
    assert end(objects, coming(parse_ip("127.0.0.9"))) == REJECT
    own = at("filter", "OUTPUT", rule(Reject(), AddrType("src")))
    assert end(own, sent()) == REJECT


def test_what_is_made_here_comes_in_by_no_interface() -> None:
    assert end(at("filter", "OUTPUT", rule(Drop(), InInterface("eth0"))), sent()) == PASS
    assert end(at("filter", "OUTPUT", rule(Drop(), InInterface("eth0", invert=True))), sent()) == DROP


def test_setting_remembers_for_later_rules() -> None:
    objects = at("filter", "FORWARD", rule(None, Recent("A", "set")), rule(Drop(), Recent("A", "check", 1)))
    assert end(objects, coming()) == DROP


def test_a_branch_that_is_not_taken_remembers_nothing() -> None:
    objects = at(
        "nat",
        "PREROUTING",
        rule(None, Random(2), Recent("A", "set")),
        rule(to(PODS[0]), Recent("A", "check", 1)),
        rule(to(PODS[1])),
    )
    assert ends(objects, coming()) == {endpoint(PODS[0]): Fraction(1, 2), endpoint(PODS[1]): Fraction(1, 2)}


def test_what_is_not_understood_is_said() -> None:
    with pytest.raises(Unknowable, match="nfacct"):
        end(at("filter", "FORWARD", rule(Drop(), ForeignMatch(("-m", "nfacct")))), coming())
    with pytest.raises(Unknowable, match="LOG"):
        end(at("filter", "FORWARD", rule(ForeignTarget(("LOG",)))), coming())
    with pytest.raises(Unknowable, match="KUBE-SVC-NONENONENONENONE"):
        end(at("filter", "FORWARD", rule(Jump("KUBE-SVC-NONENONENONENONE"))), coming())


def test_a_packet_that_does_not_meet_it_does_not_mind() -> None:
    odd = at("filter", "INPUT", rule(Jump("KUBE-SVC-NONENONENONENONE")))
    assert end(odd, coming()) == PASS
    assert (
        end(at("filter", "FORWARD", rule(Jump("KUBE-SVC-NONENONENONENONE"), Protocol(UDP))), coming()) == PASS
    )


# --- chains --------------------------------------------------------------------------


def test_return_and_the_end_of_a_chain_lead_back_after_a_jump() -> None:
    for last in ((), (rule(Return()), rule(Drop()))):
        objects = at("filter", "FORWARD", rule(Jump("KUBE-SVC-AAAAAAAAAAAAAAAA")), rule(Reject()))
        assert end(objects | chain("filter", "KUBE-SVC-AAAAAAAAAAAAAAAA", *last), coming()) == REJECT


def test_a_goto_leads_back_to_where_the_last_jump_was() -> None:
    objects = {
        **at("filter", "FORWARD", rule(Jump("KUBE-SVC-AAAAAAAAAAAAAAAA")), rule(Reject())),
        **chain("filter", "KUBE-SVC-AAAAAAAAAAAAAAAA", rule(Goto("KUBE-SVC-BBBBBBBBBBBBBBBB")), rule(Drop())),
        **chain("filter", "KUBE-SVC-BBBBBBBBBBBBBBBB"),
    }
    assert end(objects, coming()) == REJECT


def test_accept_ends_a_table_and_no_other() -> None:
    objects = {
        **at("mangle", "FORWARD", rule(Accept()), rule(Drop())),
        **at("filter", "FORWARD", rule(Jump("KUBE-SVC-AAAAAAAAAAAAAAAA"))),
        **chain("filter", "KUBE-SVC-AAAAAAAAAAAAAAAA", rule(Jump("KUBE-SVC-BBBBBBBBBBBBBBBB")), rule(Drop())),
        **chain("filter", "KUBE-SVC-BBBBBBBBBBBBBBBB", rule(Accept())),
    }
    assert end(objects, coming()) == PASS
    assert end(objects | at("filter", "FORWARD", rule(Reject())), coming()) == REJECT


def test_tables_have_their_own_chains() -> None:
    objects = {
        **at("nat", "PREROUTING", rule(Jump("KUBE-SVC-AAAAAAAAAAAAAAAA"))),
        **chain("filter", "KUBE-SVC-AAAAAAAAAAAAAAAA", rule(Drop())),
        **chain("nat", "KUBE-SVC-AAAAAAAAAAAAAAAA", rule(to(PODS[0]))),
    }
    assert end(objects, coming()) == endpoint(PODS[0])


def test_branches_are_rules_of_their_chain() -> None:
    drop, reject = rule(Drop(), Dport(TCP, 80)), rule(Reject(), Dport(TCP, 81))
    objects = {
        **at("filter", "FORWARD", rule(Jump("KUBE-BY-PORT"))),
        chain_key("ip", "filter", "KUBE-BY-PORT"): Chain(),
        branch_key("ip", "filter", "KUBE-BY-PORT", drop): drop,
        branch_key("ip", "filter", "KUBE-BY-PORT", reject): reject,
    }
    assert [end(objects, coming(port=port)) for port in (80, 81, 82)] == [DROP, REJECT, PASS]


def test_a_circle_is_told_of() -> None:
    objects = {
        **at("nat", "PREROUTING", rule(Jump("KUBE-SVC-AAAAAAAAAAAAAAAA"))),
        **chain("nat", "KUBE-SVC-AAAAAAAAAAAAAAAA", rule(Goto("KUBE-SVC-AAAAAAAAAAAAAAAA"))),
    }
    with pytest.raises(Unknowable, match="back to itself"):
        end(objects, coming())


def test_the_other_family_has_its_own_rules() -> None:
    objects = at("filter", "FORWARD", rule(Drop()), family="ip6")
    assert end(objects, coming()) == PASS
    assert end(objects, Packet(parse_ip("fd00::1"), parse_ip("fd00::2"), TCP, 80, "eth0")) == DROP


# --- hooks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "hooks"),
    [
        (coming(), ["PREROUTING", "FORWARD", "POSTROUTING"]),
        (coming(NODE), ["PREROUTING", "INPUT"]),
        (sent(), ["OUTPUT", "POSTROUTING"]),
        (sent(NODE), ["OUTPUT", "POSTROUTING", "PREROUTING", "INPUT"]),
    ],
)
def test_hooks_in_their_order(packet: Packet, hooks: list[str]) -> None:
    objects: Objects = {}
    for hook in ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"):
        objects |= at("mangle", hook, rule(None))
    trail: list[str] = []
    fates(objects, packet, frozenset({NODE}), trail)
    assert [line.split()[0] for line in trail] == hooks
    assert all(line.split()[1] == "mangle" for line in trail)


def test_filter_sees_the_address_translated_to() -> None:
    objects = {
        **at("nat", "PREROUTING", rule(to(PODS[0]))),
        **at("filter", "FORWARD", rule(Drop(), Destination(host_prefix(PODS[0])), Dport(TCP, 8080))),
    }
    assert end(objects, coming()) == DROP


def test_nat_comes_before_filter_at_output() -> None:
    objects = {
        **at("nat", "OUTPUT", rule(to(PODS[0]))),
        **at("filter", "OUTPUT", rule(Drop(), CtState(("DNAT",)))),
    }
    assert end(objects, sent()) == DROP


def test_a_translation_that_changes_nothing_is_none_to_the_tracker() -> None:
    objects = {
        **at("nat", "PREROUTING", rule(Dnat(VIP, 80))),
        **at("filter", "FORWARD", rule(Drop(), CtState(("DNAT",)))),
    }
    assert end(objects, coming()) == endpoint(VIP, 80)


def test_a_destination_is_decided_once() -> None:
    objects = {**at("nat", "OUTPUT", rule(None)), **at("nat", "PREROUTING", rule(to(PODS[0])))}
    assert end(objects, sent(NODE)) == PASS  # left alone at OUTPUT, it comes back in by PREROUTING
    twice = at("nat", "PREROUTING", rule(to(PODS[0])), rule(to(PODS[1])))
    assert end(twice, coming()) == endpoint(PODS[0])


def test_masquerading_by_mark() -> None:
    objects = {
        **at("nat", "PREROUTING", rule(MarkXset(0x4000, 0x4000)), rule(to(PODS[0]))),
        **at(
            "nat",
            "POSTROUTING",
            rule(Return(), Mark(0x4000, 0x4000, invert=True)),
            rule(MarkXset(0x4000, 0)),
            rule(Masquerade(), Mark(0, 0x4000)),
        ),
    }
    assert end(objects, coming()) == endpoint(PODS[0], masquerade=True)
    unmarked = objects | at("nat", "PREROUTING", rule(None))
    assert end(unmarked, coming()) == endpoint(PODS[0])


def test_what_ends_here_is_not_masqueraded() -> None:
    objects = {**at("nat", "PREROUTING", rule(to(NODE))), **at("nat", "POSTROUTING", rule(Masquerade()))}
    assert end(objects, coming()) == endpoint(NODE)


def test_the_trail_names_the_place_and_the_rule() -> None:
    objects = {
        **at("nat", "PREROUTING", rule(Jump("KUBE-SVC-AAAAAAAAAAAAAAAA"))),
        **chain(
            "nat",
            "KUBE-SVC-AAAAAAAAAAAAAAAA",
            rule(to(PODS[0]), Protocol(TCP), Random(2)),
            rule(to(PODS[1]), Protocol(TCP)),
        ),
    }
    trail: list[str] = []
    fates(objects, coming(), frozenset({NODE}), trail)
    assert len(trail) == 2
    assert trail[0].startswith("PREROUTING nat PREROUTING: ")
    assert trail[1].startswith("PREROUTING nat KUBE-SVC-AAAAAAAAAAAAAAAA: ")
    assert "10.244.1.1:8080" in trail[1]


# --- sets ----------------------------------------------------------------------------


class Set(Struct, frozen=True):
    """What is asked of a set, whoever's plane it is of."""

    type: str


def in_set(name: str, kind: str, *entries: tuple[object, ...]) -> Objects:
    found: Objects = {Key("ipset", "set", (name,)): Set(kind)}
    return found | {Key("ipset", "entry", (name, *fields)): None for fields in entries}


V6 = Packet(parse_ip("fd00::9"), parse_ip("fd00:96::1"), TCP, 80, "eth0")
OF_WEB = (VIP, TCP, 80)


@pytest.mark.parametrize(
    ("kind", "entry", "sides", "applies"),
    [
        ("hash:ip", (VIP,), ("dst",), True),
        ("hash:ip", (VIP,), ("src",), False),
        ("hash:ip", (CLIENT,), ("src",), True),
        ("hash:ip,port", OF_WEB, ("dst", "dst"), True),
        ("hash:ip,port", (VIP, TCP, 81), ("dst", "dst"), False),
        ("hash:ip,port", (VIP, UDP, 80), ("dst", "dst"), False),
        ("hash:ip,port", (NODE, TCP, 80), ("dst", "dst"), False),
        ("hash:ip,port", (CLIENT, TCP, 80), ("src", "dst"), True),
        # Sides too many are passed over, with those too few nothing is found.
        ("hash:ip,port", OF_WEB, ("dst", "dst", "src"), True),
        ("hash:ip,port", OF_WEB, ("dst",), False),
        ("hash:ip,port,ip", (*OF_WEB, CLIENT), ("dst", "dst", "src"), True),
        ("hash:ip,port,ip", (*OF_WEB, VIP), ("dst", "dst", "dst"), True),
        ("hash:ip,port,ip", (*OF_WEB, NODE), ("dst", "dst", "src"), False),
        ("hash:ip,port,net", (*OF_WEB, parse_prefix("172.16.0.0/12")), ("dst", "dst", "src"), True),
        ("hash:ip,port,net", (*OF_WEB, host_prefix(CLIENT)), ("dst", "dst", "src"), True),
        ("hash:ip,port,net", (*OF_WEB, Prefix(Ip(bytes(4)), 0)), ("dst", "dst", "src"), True),
        ("hash:ip,port,net", (*OF_WEB, parse_prefix("172.32.0.0/12")), ("dst", "dst", "src"), False),
        ("hash:ip,port,net", (*OF_WEB, parse_prefix("fd00::/8")), ("dst", "dst", "src"), False),
        ("hash:ip,port,net", (VIP, TCP, 81, parse_prefix("172.16.0.0/12")), ("dst", "dst", "src"), False),
        ("bitmap:port", (80,), ("dst",), True),
        ("bitmap:port", (81,), ("dst",), False),
    ],
)
def test_who_is_in_a_set(
    kind: str, entry: tuple[object, ...], sides: tuple[Side, ...], applies: bool
) -> None:
    held = in_set("A", kind, entry) | in_set("B", kind)
    for invert in (False, True):
        rules = at("filter", "FORWARD", rule(Drop(), InSet("A", sides, invert)))
        assert end(rules | held, coming()) == (DROP if applies != invert else PASS)
        other = at("filter", "FORWARD", rule(Drop(), InSet("B", sides, invert)))
        assert end(other | held, coming()) == (DROP if invert else PASS)


@given(st.lists(st.integers(0, 32), unique=True, max_size=8), st.binary(min_size=4, max_size=4))
def test_a_net_of_any_length_is_found(lengths: list[int], raw: bytes) -> None:
    nets = [parse_prefix(f"172.16.0.0/{length}") for length in lengths]
    held = in_set("A", "hash:ip,port,net", *[(*OF_WEB, net) for net in nets])
    rules = at("filter", "FORWARD", rule(Drop(), InSet("A", ("dst", "dst", "src"))))
    inside = any(net.holds(raw) for net in nets)
    assert end(rules | held, coming(src=Ip(raw))) == (DROP if inside else PASS)


class ButNot(Struct, frozen=True):
    """An entry of a set that is there as an exception."""

    nomatch: bool = True


@pytest.mark.parametrize(("narrow", "dropped"), [("172.16.0.0/24", False), ("172.16.9.0/24", True)])
def test_the_narrowest_net_decides(narrow: str, dropped: bool) -> None:
    held = in_set("A", "hash:ip,port,net", (*OF_WEB, parse_prefix("172.16.0.0/12")))
    held[Key("ipset", "entry", ("A", *OF_WEB, parse_prefix(narrow)))] = ButNot()
    rules = at("filter", "FORWARD", rule(Drop(), InSet("A", ("dst", "dst", "src"))))
    assert end(rules | held, coming()) == (DROP if dropped else PASS)


def test_sets_of_six() -> None:
    held = in_set("A", "hash:ip,port,net", (V6.dst, TCP, 80, parse_prefix("fd00::/64")))
    rules = at("filter", "FORWARD", rule(Drop(), InSet("A", ("dst", "dst", "src"))), family="ip6")
    assert end(rules | held, V6) == DROP


def test_a_set_holds_what_a_packet_is_by_then() -> None:
    held = in_set("A", "hash:ip,port", (PODS[0], TCP, 8080))
    objects = {
        **at("nat", "PREROUTING", rule(Drop(), InSet("A", ("dst", "dst"))), rule(to(PODS[0]))),
        **at("filter", "FORWARD", rule(Reject(), InSet("A", ("dst", "dst")))),
    }
    assert end(objects | held, coming()) == REJECT


def test_a_bitmap_knows_ports_of_two_protocols_and_does_not_tell_them_apart() -> None:
    """So it is in the kernel: counters of rules in raw were looked at while packets were sent by."""
    objects = at("filter", "FORWARD", rule(Drop(), InSet("A", ("dst",)))) | in_set("A", "bitmap:port", (80,))
    found = [end(objects, Packet(CLIENT, VIP, proto, 80, "eth0")) for proto in (TCP, UDP, SCTP)]
    assert found == [DROP, DROP, PASS]
    hashed = at("filter", "FORWARD", rule(Drop(), InSet("A", ("dst", "dst"))))
    hashed |= in_set("A", "hash:ip,port", (VIP, SCTP, 80))
    assert end(hashed, Packet(CLIENT, VIP, SCTP, 80, "eth0")) == DROP


@pytest.mark.parametrize(
    ("held", "sides", "words"),
    [
        ({}, ("dst",), "set A is not in the program"),
        (in_set("A", "hash:mac"), ("src",), "set A is of type hash:mac"),
        (in_set("A", "bitmap:port", (80,)), ("src",), "set A is asked for the port"),
        (in_set("A", "hash:ip,port"), ("dst", "src"), "set A is asked for the port"),
    ],
)
def test_what_a_set_cannot_tell_is_said(held: Objects, sides: tuple[Side, ...], words: str) -> None:
    with pytest.raises(Unknowable, match=words):
        end(at("filter", "FORWARD", rule(Drop(), InSet("A", sides))) | held, coming())


# --- a balancer ----------------------------------------------------------------------


def balancer(*served: tuple[Ip, int, Fraction], port: int = 80) -> Balancer:
    """One virtual server, at the address of the service and this port."""

    def balance(ip: Ip, proto: Proto, at: int) -> Sequence[tuple[Ip, int, Fraction]] | None:
        return served if (ip, proto, at) == (VIP, TCP, port) else None

    return balance


ONE = balancer((PODS[0], 8080, Fraction(1)))
HERE = frozenset({NODE, VIP})
"""The address of a service is this node's own where ipvs is: else its packets would not come in."""


def way(
    objects: Objects, packet: Packet, balance: Balancer | None, addresses: frozenset[Ip] = HERE
) -> tuple[dict[Fate, Fraction], list[str]]:
    """The ends, and where rules were met on the way, or a balancer."""
    trail: list[str] = []
    found = dict(fates(objects, packet, addresses, trail, balancer=balance))
    return found, [line.partition(":")[0].rsplit(" ", "ipvs" not in line)[0] for line in trail]


def watching(family: Family = "ip") -> Objects:
    """A rule that does nothing in every table, at every hook it has."""
    objects: Objects = {}
    for hook in ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"):
        objects |= at("mangle", hook, rule(None), family=family)
        objects |= at("nat", hook, rule(None), family=family) if hook != "FORWARD" else {}
        filtered = hook in ("INPUT", "FORWARD", "OUTPUT")
        objects |= at("filter", hook, rule(None), family=family) if filtered else {}
    return objects


AFTER = ["OUTPUT mangle", "OUTPUT filter", "POSTROUTING mangle", "POSTROUTING nat"]


@pytest.mark.parametrize(
    ("packet", "to_here", "hooks"),
    [
        (
            coming(),
            False,
            ["PREROUTING mangle", "PREROUTING nat", "INPUT mangle", "INPUT filter", "INPUT ipvs", *AFTER],
        ),
        (
            coming(),
            True,
            [
                "PREROUTING mangle",
                "PREROUTING nat",
                "INPUT mangle",
                "INPUT filter",
                "INPUT ipvs",
                "INPUT nat",
            ],
        ),
        (sent(), False, ["OUTPUT mangle", "OUTPUT nat", "OUTPUT ipvs", *AFTER]),
        (
            sent(),
            True,
            [
                *["OUTPUT mangle", "OUTPUT nat", "OUTPUT ipvs", "OUTPUT filter"],
                *[
                    "POSTROUTING mangle",
                    "POSTROUTING nat",
                    "PREROUTING mangle",
                    "INPUT mangle",
                    "INPUT filter",
                ],
            ],
        ),
    ],
)
def test_the_way_through_a_balancer(packet: Packet, to_here: bool, hooks: list[str]) -> None:
    """As the counters of such rules said in a kernel 6.1 with ipvs, with the legacy tables."""
    ip = NODE if to_here else PODS[0]
    found, met = way(watching(), packet, balancer((ip, 8080, Fraction(1))))
    assert found == {endpoint(ip): 1}
    assert met == hooks


@pytest.mark.parametrize(
    ("packet", "hooks"),
    [
        (
            coming(),
            ["PREROUTING mangle", "PREROUTING nat", "INPUT mangle", "INPUT filter", "INPUT ipvs"],
        ),
        (sent(), ["OUTPUT mangle", "OUTPUT nat", "OUTPUT ipvs"]),
    ],
)
def test_where_nobody_serves_it_is_refused(packet: Packet, hooks: list[str]) -> None:
    assert way(watching(), packet, balancer()) == ({REJECT: 1}, hooks)


def test_what_nobody_asks_for_goes_on() -> None:
    for packet in (coming(), sent(), coming(PODS[1]), sent(PODS[1])):
        nobody = balancer((PODS[0], 8080, Fraction(1)), port=81)
        assert way(watching(), packet, nobody) == way(watching(), packet, None)
        assert way(watching(), packet, None)[0] == {PASS: 1}


def test_what_is_forwarded_meets_no_balancer() -> None:
    """The address of the service is not this node's."""
    assert way({}, coming(), ONE, frozenset({NODE}))[0] == {PASS: 1}


def test_it_is_balanced_once() -> None:
    asked: list[tuple[Ip, int]] = []

    def always(ip: Ip, proto: Proto, port: int) -> Sequence[tuple[Ip, int, Fraction]]:
        asked.append((ip, port))
        return [(NODE if len(asked) == 1 else VIP, 8080, Fraction(1))]

    assert way({}, sent(), always)[0] == {endpoint(NODE): 1}
    assert asked == [(VIP, 80)]


def test_its_chances_are_the_endpoints() -> None:
    chances = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)]
    balance = balancer(*[(PODS[n], 8080 + n, chance) for n, chance in enumerate(chances)])
    draws = at("nat", "PREROUTING", rule(to(PODS[4]), Random(4)))
    for packet, part in ((coming(), Fraction(3, 4)), (sent(), Fraction(1))):
        found = dict(fates(draws, packet, HERE, balancer=balance))
        for n, chance in enumerate(chances):
            assert found[endpoint(PODS[n], 8080 + n)] == part * chance
        assert sum(found.values()) == 1


def test_the_trail_goes_with_the_first() -> None:
    balance = balancer((PODS[0], 8080, Fraction(1, 2)), (PODS[1], 9090, Fraction(1, 2)))
    trail: list[str] = []
    fates(at("mangle", "POSTROUTING", rule(None)), coming(), HERE, trail, balancer=balance)
    assert trail == ["INPUT ipvs: balanced to 10.244.1.1:8080", "POSTROUTING mangle POSTROUTING: "]
    trail.clear()
    fates({}, sent(), HERE, trail, balancer=balancer())
    assert trail == ["OUTPUT ipvs: nobody is behind 10.96.0.1:80"]


def test_a_mark_stays_and_the_source_is_decided_behind_it() -> None:
    objects = {
        **at("mangle", "PREROUTING", rule(MarkXset(0x4000, 0x4000))),
        **at("nat", "POSTROUTING", rule(Masquerade(), Mark(0x4000, 0x4000))),
    }
    assert way(objects, coming(), ONE)[0] == {endpoint(PODS[0], masquerade=True): 1}
    assert way(objects, sent(), ONE)[0] == {endpoint(PODS[0]): 1}


def test_behind_it_a_packet_looks_as_if_made_here() -> None:
    by_eth0 = at("mangle", "OUTPUT", rule(Drop(), InInterface("eth0")))
    assert way(by_eth0, coming(), ONE)[0] == {endpoint(PODS[0]): 1}
    local = at("mangle", "OUTPUT", rule(Drop(), AddrType("dst")))
    assert way(local, coming(), ONE)[0] == {endpoint(PODS[0]): 1}


def test_to_the_tracker_it_is_not_translated() -> None:
    """So say counters of such rules in a kernel 6.1: ipvs alters what is expected in reply, and no more."""
    translated = at("mangle", "POSTROUTING", rule(Drop(), CtState(("DNAT",))))
    for packet in (coming(), sent()):
        assert way(translated, packet, ONE)[0] == {endpoint(PODS[0]): 1}
        nat = at("nat", "OUTPUT", rule(to(PODS[1]))) | at("nat", "PREROUTING", rule(to(PODS[1])))
        assert way(translated | nat, packet, ONE)[0] == {DROP: 1}


def test_nat_comes_before_it_and_filter_where_it_comes_in() -> None:
    # A destination that nat has changed is what is asked for.
    ahead = at("nat", "OUTPUT", rule(to(VIP, 81))) | at("nat", "PREROUTING", rule(to(VIP, 81)))
    for packet in (coming(), sent()):
        assert way(ahead, packet, ONE)[0] == {endpoint(VIP, 81): 1}
        assert way(ahead, packet, balancer((PODS[0], 8080, Fraction(1)), port=81))[0] == {
            endpoint(PODS[0]): 1
        }
    # What comes in is filtered before; what goes out, behind it.
    service, pod = (Destination(host_prefix(ip)) for ip in (VIP, PODS[0]))
    assert way(at("filter", "INPUT", rule(Drop(), service)), coming(), ONE)[0] == {DROP: 1}
    for packet in (coming(), sent()):
        assert way(at("filter", "OUTPUT", rule(Drop(), service)), packet, ONE)[0] == {endpoint(PODS[0]): 1}
        assert way(at("filter", "OUTPUT", rule(Drop(), pod)), packet, ONE)[0] == {DROP: 1}


def test_the_other_family_is_balanced_alike() -> None:
    pod = parse_ip("fd00:244::7")

    def balance(ip: Ip, proto: Proto, port: int) -> Sequence[tuple[Ip, int, Fraction]] | None:
        return [(pod, 8080, Fraction(1))] if ip == V6.dst else None

    found, met = way(watching("ip6"), V6, balance, frozenset({V6.dst}))
    assert found == {endpoint(pod): 1}
    assert met[-5:] == ["INPUT ipvs", *AFTER]


def test_who_was_sent_on_by_a_balancer_is_known_by_it() -> None:
    for asked, kind in ((Balanced(), "drop"), (Balanced(invert=True), "endpoint")):
        (fate,) = fates(at("filter", "OUTPUT", rule(Drop(), asked)), sent(), HERE, balancer=ONE)
        assert fate.verdict == kind


# --- handed to a listener -----------------------------------------------------------

HOME = 0x2000
TAKEN = {endpoint(PODS[0]): Fraction(1, 3), endpoint(PODS[1]): Fraction(2, 3)}
HAND = Tproxy(parse_ip("127.0.0.1"), 10801, HOME, HOME)


def relayed(objects: Objects, packet: Packet, homing: int = HOME) -> dict[Fate, Fraction]:
    def relay(port: int) -> dict[Fate, Fraction]:
        assert port == 10801
        return TAKEN

    return dict(fates(objects, packet, frozenset({NODE}), homing=homing, relay=relay))


def test_a_listener_sends_on_what_is_handed_to_it_and_routed_here() -> None:
    objects = at("mangle", "PREROUTING", rule(HAND, Protocol(TCP)), rule(Drop()))
    assert relayed(objects, coming()) == TAKEN
    assert relayed(objects, coming(), homing=0) == {PASS: 1}
    assert relayed(objects, Packet(CLIENT, VIP, UDP, 53, "eth0")) == {DROP: 1}


def test_what_is_handed_over_meets_the_rules_of_input() -> None:
    objects = at("mangle", "PREROUTING", rule(HAND, Protocol(TCP)))
    shut = at("filter", "INPUT", rule(Drop(), Mark(HOME, HOME)))
    assert relayed({**objects, **shut}, coming()) == {DROP: 1}
    assert relayed({**objects, **at("filter", "FORWARD", rule(Drop()))}, coming()) == TAKEN


def test_what_this_node_sends_with_the_mark_comes_in_by_loopback() -> None:
    objects = at("mangle", "OUTPUT", rule(MarkXset(HOME, HOME)))
    handing = at("mangle", "PREROUTING", rule(HAND, Protocol(TCP), InInterface("lo")))
    assert relayed({**objects, **handing}, sent()) == TAKEN
    assert relayed(handing, sent()) == {PASS: 1}


def test_nobody_can_say_who_listens_where_nobody_is_asked() -> None:
    objects = at("mangle", "PREROUTING", rule(HAND, Protocol(TCP)))
    with pytest.raises(Unknowable, match="nobody says who listens at port 10801"):
        fates(objects, coming(), frozenset({NODE}), homing=HOME)


def test_a_flows_mark_is_seen_at_later_hooks() -> None:
    for shift, seen in (((HOME, HOME), True), ((HOME, 0x1000), True), ((0x1000, 0x1000), False)):
        objects = {
            **at("mangle", "PREROUTING", rule(ConnMarkXset(*shift))),
            **at("filter", "FORWARD", rule(Drop(), ConnMark(HOME, HOME))),
        }
        assert end(objects, coming()) == (DROP if seen else PASS)
        objects |= at("filter", "FORWARD", rule(Drop(), ConnMark(HOME, HOME, invert=True)))
        assert end(objects, coming()) == (PASS if seen else DROP)


@pytest.mark.parametrize("match", [Answering(), Transparent(), Opening(invert=True)])
def test_the_first_packet_of_a_flow_is_no_answer_and_of_no_connection(match: Match) -> None:
    objects = at("mangle", "PREROUTING", rule(Drop(), Protocol(TCP), match))
    assert end(objects, coming()) == PASS


def test_of_tcp_it_opens_a_connection() -> None:
    objects = at("mangle", "PREROUTING", rule(Drop(), Opening()))
    assert end(objects, coming()) == DROP
    assert end(objects, Packet(CLIENT, VIP, UDP, 53, "eth0")) == PASS
