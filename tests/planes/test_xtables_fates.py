"""What iptables programs do to packets, with exact chances; each program here is made by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Unknowable
from kubeway.model.packet import DROP, PASS, REJECT, Fate, Packet
from kubeway.planes.xtables.fates import Memory, fates
from kubeway.planes.xtables.objects import (
    Accept,
    AddrType,
    Chain,
    Comment,
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
    Jump,
    Mark,
    MarkXset,
    Masquerade,
    Match,
    Protocol,
    Random,
    Recent,
    Reject,
    Return,
    Rule,
    Rules,
    Source,
    TableName,
    Target,
    branch_key,
    chain_key,
    jump_key,
    rules_key,
)
from kubeway.program.program import Key
from kubeway.values import TCP, UDP, Ip, host_prefix, parse_ip, parse_prefix

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
