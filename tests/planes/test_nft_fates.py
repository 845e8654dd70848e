"""What programs do to packets, with exact chances; each program here is made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Unknowable
from kubeway.model.packet import DROP, PASS, REJECT, Fate, Packet
from kubeway.planes.nft.build import dnat as dnat_by
from kubeway.planes.nft.build import (
    flow_mark_on,
    flow_marked,
    goto,
    host32,
    in_set,
    interface,
    load,
    local,
    mark_flip,
    mark_on,
    marked,
    new_flow,
    not_opening,
    prefix,
    priority_from,
    priority_is,
    priority_zero,
    protocol,
    remember,
    row,
    rule,
    tproxy,
    translated,
    transparent,
    unmarked,
    vmap,
)
from kubeway.planes.nft.fates import fates
from kubeway.planes.nft.objects import (
    Accept,
    Alien,
    Chain,
    Cmp,
    Dnat,
    Drop,
    Dynset,
    Element,
    Expr,
    Family,
    Foreign,
    Goto,
    Immediate,
    Jump,
    Lookup,
    Masquerade,
    Meta,
    MetaSet,
    Numgen,
    Payload,
    Reject,
    Return,
    Rule,
    Rules,
    Set,
    chain_key,
    element_key,
    rules_key,
    set_key,
)
from kubeway.program.program import Key
from kubeway.values import TCP, UDP, Ip, parse_ip, parse_prefix

NODE = parse_ip("192.168.0.1")
CLIENT = parse_ip("172.16.0.9")
VIP = parse_ip("10.96.0.1")
PODS = [parse_ip(f"10.244.1.{n}") for n in range(1, 6)]
TCP_BYTE = b"\x06"
FRONT = ("ip daddr", "meta l4proto", "th dport")
SLOT = "numgen random mod 65536"
TARGET = ("ip daddr", "th dport")

NAT_IN = Chain("nat", "prerouting", -100)
NAT_OUT = Chain("nat", "output", -100)
NAT_POST = Chain("nat", "postrouting", 100)

Objects = dict[Key, object]
Step = Expr | tuple[Expr, ...]


def port(number: int) -> bytes:
    return number.to_bytes(2, "big")


def chain(name: str, made: Chain, *rules: Rule, family: Family = "ip") -> Objects:
    return {chain_key(family, name): made, rules_key(family, name): Rules(rules)}


def members(name: str, held: Set, elements: Mapping[bytes, Element]) -> Objects:
    return {
        set_key("ip", name): held,
        **{element_key("ip", name, key): element for key, element in elements.items()},
    }


def to(ip: Ip, number: int = 8080) -> tuple[Expr, ...]:
    """`dnat to ip:number`"""
    return Immediate(0, ip), Immediate(len(ip) // 4, port(number)), Dnat(0, len(ip) // 4)


def coming(dst: Ip = VIP, iif: str = "eth0", src: Ip = CLIENT, number: int = 80) -> Packet:
    return Packet(src, dst, TCP, number, iif)


def sent(dst: Ip = VIP) -> Packet:
    return Packet(NODE, dst, TCP, 80)


def endpoint(ip: Ip, number: int = 8080, masquerade: bool = False) -> Fate:
    return Fate("endpoint", ip, number, masquerade)


def ends(
    objects: Objects, packet: Packet, dynamic: Mapping[tuple[str, bytes], bytes] | None = None
) -> dict[Fate, Fraction]:
    return dict(fates(objects, packet, frozenset({NODE}), None, dynamic))


def end(objects: Objects, packet: Packet) -> Fate:
    """The one end there is."""
    ((fate, chance),) = ends(objects, packet).items()
    assert chance == 1
    return fate


def flat(count: int) -> Objects:
    """A service of `count` endpoints in the flat layout."""
    web = row(VIP, TCP_BYTE, port(80))
    held = {web + host32(n): Element(row(PODS[n], port(8080))) for n in range(count)}
    return {
        **chain("nat-prerouting", NAT_IN, rule(Jump("dispatch"))),
        **chain("dispatch", Chain(), rule(vmap(FRONT, "services"))),
        **members("services", Set(FRONT, verdicts=True), {web: Element(Goto("pick"))}),
        **chain("pick", Chain(), rule(dnat_by((*FRONT, SLOT), "endpoints", 4, Numgen(0, count)))),
        **members("endpoints", Set((*FRONT, SLOT), TARGET), held),
    }


# --- chances ------------------------------------------------------------------------


def test_nothing_passes() -> None:
    assert end({}, coming()) == PASS


@pytest.mark.parametrize("count", [1, 3, 5])
def test_endpoints_share_evenly(count: int) -> None:
    assert ends(flat(count), coming()) == {endpoint(ip): Fraction(1, count) for ip in PODS[:count]}


def test_slots_begin_at_their_offset() -> None:
    objects = flat(3)
    second = Numgen(0, 2, 1)
    objects |= chain("pick", Chain(), rule(dnat_by((*FRONT, SLOT), "endpoints", 4, second)))
    half = Fraction(1, 2)
    assert ends(objects, coming()) == {endpoint(PODS[1]): half, endpoint(PODS[2]): half}


def test_a_slot_without_an_element_falls_through() -> None:
    objects = flat(3)
    del objects[element_key("ip", "endpoints", row(VIP, TCP_BYTE, port(80), host32(1)))]
    third = Fraction(1, 3)
    assert ends(objects, coming()) == {endpoint(PODS[0]): third, PASS: third, endpoint(PODS[2]): third}


def lots(*moduli: int) -> Objects:
    """A rule for each endpoint: `numgen random mod N == 0 dnat`; the last without a draw."""
    rules = [
        rule(Numgen(0, modulus), Cmp(0, "==", host32(0)), to(PODS[n])) for n, modulus in enumerate(moduli)
    ]
    return chain("nat-prerouting", NAT_IN, *rules, rule(to(PODS[len(moduli)])))


def test_the_classic_slip_is_seen_at_once() -> None:
    assert ends(lots(3, 2), coming()) == {endpoint(ip): Fraction(1, 3) for ip in PODS[:3]}
    assert ends(lots(3, 3), coming()) == {
        endpoint(PODS[0]): Fraction(1, 3),
        endpoint(PODS[1]): Fraction(2, 9),
        endpoint(PODS[2]): Fraction(4, 9),
    }


@given(st.lists(st.integers(1, 7), max_size=4))
def test_chances_are_those_of_the_draws(moduli: list[int]) -> None:
    left, wanted = Fraction(1), {}
    for n, modulus in enumerate(moduli):
        wanted[endpoint(PODS[n])] = left / modulus
        left -= left / modulus
    wanted[endpoint(PODS[len(moduli)])] = left
    found = ends(lots(*moduli), coming())
    assert sum(found.values()) == 1
    assert found == {fate: chance for fate, chance in wanted.items() if chance}


def test_a_draw_may_come_before_other_conditions() -> None:
    objects = chain(
        "nat-prerouting",
        NAT_IN,
        rule(Numgen(0, 4), MetaSet(0, "mark")),
        rule(marked(1), to(PODS[0])),
        rule(marked(2), Drop()),
    )
    assert ends(objects, coming()) == {
        PASS: Fraction(1, 4),
        endpoint(PODS[0]): Fraction(1, 2),
        DROP: Fraction(1, 4),
    }


# --- hooks ----------------------------------------------------------------------------


def to_vip() -> Step:
    return prefix("ip daddr", parse_prefix("10.96.0.1/32"))


def to_pod() -> Step:
    return prefix("ip daddr", parse_prefix("10.244.0.0/16"))


@pytest.mark.parametrize("fate", [DROP, REJECT])
def test_filter_chains_before_translation_see_the_address_that_was_asked(fate: Fate) -> None:
    stop = Drop() if fate == DROP else Reject()
    objects = flat(1) | chain("early", Chain("filter", "prerouting", -110), rule(to_vip(), stop))
    assert end(objects, coming()) == fate
    objects = flat(1) | chain("early", Chain("filter", "prerouting", -110), rule(to_pod(), stop))
    assert end(objects, coming()) == endpoint(PODS[0])


def test_filter_chains_after_translation_see_the_endpoint() -> None:
    late = Chain("filter", "prerouting", -90)
    assert end(flat(1) | chain("late", late, rule(to_pod(), Drop())), coming()) == DROP
    assert end(flat(1) | chain("late", late, rule(to_vip(), Drop())), coming()) == endpoint(PODS[0])


def test_nat_chains_run_where_the_kernel_translates_whatever_their_priority() -> None:
    objects = {
        **chain("z-first", Chain("nat", "prerouting", -190), rule(to(PODS[0]))),
        **chain("a-second", Chain("nat", "prerouting", -180), rule(to(PODS[1]))),
        **chain("filter", Chain("filter", "prerouting", -150), rule(to_pod(), Drop())),
    }
    assert end(objects, coming()) == endpoint(PODS[0])


def test_after_translation_the_new_address_is_routed() -> None:
    def objects(ip: Ip) -> Objects:
        return {
            **chain("nat", NAT_IN, rule(to(ip))),
            **chain("filter-input", Chain("filter", "input"), rule(Drop())),
            **chain("filter-forward", Chain("filter", "forward"), rule(Reject())),
        }

    assert end(objects(NODE), coming()) == DROP
    assert end(objects(PODS[0]), coming()) == REJECT


def test_only_forwarded_packets_come_to_postrouting() -> None:
    post = chain("post", NAT_POST, rule(Masquerade()))
    assert end(post | chain("nat", NAT_IN, rule(to(NODE))), coming()) == endpoint(NODE)
    assert end(post | chain("nat", NAT_IN, rule(to(PODS[0]))), coming()) == endpoint(PODS[0], masquerade=True)


def test_what_the_node_sends_goes_out_by_output_and_postrouting() -> None:
    objects = {
        **chain("nat", NAT_OUT, rule(to(PODS[0]))),
        **chain("post", NAT_POST, rule(Masquerade())),
        **chain("not-met", Chain("filter", "forward"), rule(Drop())),
        **chain("neither", Chain("filter", "prerouting", -110), rule(Drop())),
    }
    assert end(objects, sent()) == endpoint(PODS[0], masquerade=True)


def test_what_the_node_sends_itself_comes_in_by_lo_untouched_by_nat() -> None:
    by_lo = interface("lo", begins=False)
    objects = {
        **chain("out", NAT_OUT, rule(to(NODE))),
        **chain("post", NAT_POST, rule(mark_on(1), Masquerade())),
        **chain("in", NAT_IN, rule(to(PODS[0]))),
        # The packet brings its mark along, and comes to input after all.
        **chain("input", Chain("filter", "input"), rule(by_lo, marked(1), translated(), Reject())),
    }
    assert end(objects, sent()) == REJECT
    del objects[rules_key("ip", "input")]
    assert end(objects, sent()) == endpoint(NODE, masquerade=True)


def test_an_address_that_output_left_alone_is_settled_too() -> None:
    objects = chain("in", NAT_IN, rule(to(PODS[0])))
    assert end(objects, sent(NODE)) == PASS
    assert end(objects, coming(NODE)) == endpoint(PODS[0])


def test_loopback_is_local_without_being_told() -> None:
    objects = chain("input", Chain("filter", "input"), rule(Reject()))
    assert end(objects, sent(parse_ip("127.0.0.5"))) == REJECT
    objects = chain("input6", Chain("filter", "input"), rule(Reject()), family="ip6")
    one = parse_ip("::1")
    assert end(objects, Packet(one, one, TCP, 80)) == REJECT


def test_families_do_not_meet() -> None:
    ip6 = Packet(parse_ip("fd00::9"), parse_ip("fd00::1"), TCP, 80, "eth0")
    drop = rule(Drop())
    four = chain("a", Chain("filter", "prerouting"), drop)
    six = chain("a", Chain("filter", "prerouting"), drop, family="ip6")
    assert (end(four, ip6), end(six, ip6)) == (PASS, DROP)
    assert (end(four, coming()), end(six, coming())) == (DROP, PASS)
    pod = parse_ip("fd00:1::7")
    assert end(chain("a", NAT_IN, rule(to(pod)), family="ip6"), ip6) == endpoint(pod)


# --- verdicts -------------------------------------------------------------------------


def hooked(*rules: Rule) -> Objects:
    return chain("base", Chain("filter", "prerouting"), *rules)


def test_accept_ends_its_base_chain_alone() -> None:
    objects = hooked(rule(Jump("inner")), rule(Drop())) | chain("inner", Chain(), rule(Accept()))
    assert end(objects, coming()) == PASS
    objects |= chain("later", Chain("filter", "prerouting", 1), rule(Reject()))
    assert end(objects, coming()) == REJECT


def test_a_jump_comes_back_and_a_goto_does_not() -> None:
    inner = chain("inner", Chain(), rule(mark_on(1)))
    assert end(hooked(rule(Jump("inner")), rule(marked(1), Drop())) | inner, coming()) == DROP
    assert end(hooked(rule(Goto("inner")), rule(marked(1), Drop())) | inner, coming()) == PASS


def test_a_chain_gone_to_ends_where_the_last_jump_began() -> None:
    objects = {
        **hooked(rule(Jump("middle")), rule(Drop())),
        **chain("middle", Chain(), rule(Goto("inner")), rule(Reject())),
        **chain("inner", Chain(), rule(mark_on(1)), rule(Return()), rule(Reject())),
    }
    assert end(objects, coming()) == DROP


def test_a_map_may_jump_and_come_back() -> None:
    objects = {
        **hooked(rule(vmap(("ip daddr",), "ways")), rule(marked(1), Drop())),
        **members("ways", Set(("ip daddr",), verdicts=True), {VIP: Element(Jump("inner"))}),
        **chain("inner", Chain(), rule(mark_on(1))),
    }
    assert end(objects, coming()) == DROP
    assert end(objects, coming(PODS[0])) == PASS


def test_a_rule_that_does_not_apply_keeps_what_it_did_before() -> None:
    objects = hooked(
        rule(mark_on(1), prefix("ip daddr", parse_prefix("10.97.0.0/16")), Drop()),
        rule(marked(1), Reject()),
    )
    assert end(objects, coming()) == REJECT


def test_rules_without_instructions_are_passed_over() -> None:
    assert end(hooked(Rule(()), Rule(()), rule(Drop())), coming()) == DROP


# --- instructions ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "packet", "applies"),
    [
        (interface("eth0", begins=False), coming(), True),
        (interface("eth", begins=False), coming(), False),
        (interface("eth", begins=True), coming(), True),
        (interface("eth", begins=True, op="!="), coming(iif="cni0"), True),
        (local("daddr"), coming(NODE), True),
        (local("daddr"), coming(), False),
        (local("saddr"), coming(src=NODE), True),
        (new_flow(), coming(), True),
        (translated(), coming(), False),
        (prefix("ip daddr", parse_prefix("10.96.0.0/12")), coming(), True),
        (prefix("ip daddr", parse_prefix("10.112.0.0/12")), coming(), False),
        (prefix("ip daddr", parse_prefix("10.0.0.0/8"), "!="), coming(), False),
        (prefix("ip saddr", parse_prefix("172.16.0.0/16")), coming(), True),
        (prefix("ip saddr", parse_prefix("0.0.0.0/0")), coming(), True),
        ((Meta(0, "l4proto"), Cmp(0, "==", TCP_BYTE)), coming(), True),
        ((Meta(0, "l4proto"), Cmp(0, "!=", TCP_BYTE)), coming(), False),
        ((Payload(0, "transport", 2, 2), Cmp(0, "==", port(80))), coming(), True),
        ((Payload(0, "transport", 2, 2), Cmp(0, "==", port(80))), coming(number=81), False),
        (not_opening(), coming(), False),
        ((*not_opening()[2:4], Cmp(0, "==", b"\x02")), coming(), True),
        (protocol(TCP), coming(), True),
        (protocol(UDP), coming(), False),
        (marked(1), coming(), False),
        (priority_is(0, 0xFFFFFFFF), coming(), True),
    ],
)
def test_conditions(condition: Step, packet: Packet, applies: bool) -> None:
    assert end(hooked(rule(condition, Drop())), packet) == (DROP if applies else PASS)


def test_what_the_node_sends_came_in_by_no_interface() -> None:
    out = Chain("filter", "output")
    nowhere = (Meta(0, "iifname"), Cmp(0, "==", bytes(16)))
    assert end(chain("a", out, rule(nowhere, Drop())), sent()) == DROP
    assert end(chain("a", out, rule(interface("e", begins=True, op="!="), Drop())), sent()) == DROP


def test_marks_are_bits_that_go_on_and_off_by_themselves() -> None:
    both = (Meta(0, "mark"), Cmp(0, "==", host32(0x4100)))
    assert end(hooked(rule(mark_on(0x4000)), rule(mark_on(0x100)), rule(both, Drop())), coming()) == DROP
    objects = hooked(rule(mark_on(0x4100)), rule(mark_flip(0x4000)), rule(marked(0x4000), Drop()))
    assert end(objects, coming()) == PASS


def test_the_priority_carries_a_number_from_rule_to_rule() -> None:
    objects = {
        **hooked(
            rule(priority_from(("ip daddr",), "ids")),
            rule(priority_is(0xB0000000, 0xF0000000), in_set(("meta priority",), "known"), Drop()),
        ),
        **members("ids", Set(("ip daddr",), ("meta priority",)), {VIP: Element(host32(0xB0000007))}),
        **members("known", Set(("meta priority",)), {host32(0xB0000007): Element()}),
    }
    assert end(objects, coming()) == DROP
    assert end(objects, coming(NODE)) == PASS
    objects |= hooked(rule(priority_from(("ip daddr",), "ids")), rule(priority_zero()), objects_last(objects))
    assert end(objects, coming()) == PASS


def objects_last(objects: Objects) -> Rule:
    found = objects[rules_key("ip", "base")]
    assert isinstance(found, Rules)
    return found.rules[-1]


@pytest.mark.parametrize(("ip", "known"), [("10.0.0.0", True), ("10.0.0.9", True), ("10.0.0.10", False)])
@pytest.mark.parametrize("number", [80, 81])
def test_ranges_are_of_the_last_field(ip: str, known: bool, number: int) -> None:
    web = row(VIP, TCP_BYTE, port(80))
    fields = (*FRONT, "ip saddr")
    low, high = row(web, parse_ip("10.0.0.0")), row(web, parse_ip("10.0.0.9"))
    allowed = members("allowed", Set(fields, ranges=True), {low: Element(end=high)})
    packet = coming(src=parse_ip(ip), number=number)
    inside = known and number == 80
    assert end(hooked(rule(in_set(fields, "allowed"), Drop())) | allowed, packet) == (
        DROP if inside else PASS
    )
    outside = hooked(rule(in_set(fields, "allowed", invert=True), Drop())) | allowed
    assert end(outside, packet) == (PASS if inside else DROP)


def test_an_address_translated_to_itself_is_served_but_not_changed() -> None:
    post = chain("post", NAT_POST, rule(translated(), Masquerade()))
    assert end(chain("a", NAT_IN, rule(to(VIP, 80))) | post, coming()) == endpoint(VIP, 80)
    assert end(chain("a", NAT_IN, rule(to(VIP, 81))) | post, coming()) == endpoint(VIP, 81, masquerade=True)


def test_masquerade_asks_for_the_translated_address() -> None:
    hairpin = ("ip saddr", *FRONT)
    itself = row(PODS[0], PODS[0], TCP_BYTE, port(8080))
    objects = {
        **flat(2),
        **chain("post", NAT_POST, rule(translated(), in_set(hairpin, "hairpin"), Masquerade())),
        **members("hairpin", Set(hairpin), {itself: Element()}),
    }
    half = Fraction(1, 2)
    assert ends(objects, coming(src=PODS[0])) == {
        endpoint(PODS[0], masquerade=True): half,
        endpoint(PODS[1]): half,
    }


def test_masquerade_without_a_service_is_not_ours_to_tell() -> None:
    assert end(chain("post", NAT_POST, rule(Masquerade())), coming()) == PASS


# --- affinity ---------------------------------------------------------------------------

CLIENT_FIELDS = ("ip saddr", *FRONT)
WEB = row(VIP, TCP_BYTE, port(80))


def sticky(count: int) -> Objects:
    """A service with affinity: a client's endpoint has an id, which counts while it is known."""
    slots = {WEB + host32(n): Element(host32(n + 7)) for n in range(count)}
    known = {WEB + host32(n + 7): Element(row(PODS[n], port(8080))) for n in range(count)}
    chosen = dnat_by((*FRONT, "meta priority"), "by-id", 4)
    renew = remember("update", CLIENT_FIELDS, "affinity", 1000)
    return {
        **chain(
            "nat-prerouting",
            NAT_IN,
            rule(priority_from(CLIENT_FIELDS, "affinity"), renew),
            rule(chosen),
            rule(remember("delete", CLIENT_FIELDS, "affinity", 0)),
            rule(priority_from((*FRONT, SLOT), "slots", Numgen(0, count))),
            rule(renew),
            rule(chosen),
        ),
        **members("slots", Set((*FRONT, SLOT), ("meta priority",)), slots),
        **members("by-id", Set((*FRONT, "meta priority"), TARGET), known),
        set_key("ip", "affinity"): Set(CLIENT_FIELDS, ("meta priority",), dynamic=True, timeout=1000),
    }


def test_a_new_client_gets_any_endpoint() -> None:
    assert ends(sticky(3), coming()) == {endpoint(ip): Fraction(1, 3) for ip in PODS[:3]}


def test_a_known_client_gets_its_endpoint_while_that_is_there() -> None:
    remembered = {("affinity", row(CLIENT, WEB)): host32(7 + 1)}
    assert ends(sticky(3), coming(), remembered) == {endpoint(PODS[1]): 1}
    gone = {("affinity", row(CLIENT, WEB)): host32(7 + 4)}
    assert ends(sticky(3), coming(), gone) == {endpoint(ip): Fraction(1, 3) for ip in PODS[:3]}
    other = {("affinity", row(NODE, WEB)): host32(7 + 1)}
    assert len(ends(sticky(3), coming(), other)) == 3
    assert remembered == {("affinity", row(CLIENT, WEB)): host32(8)}  # what was given stays as it was


def test_an_update_leaves_the_data_and_a_delete_takes_it() -> None:
    read = (*load(("ip saddr",)), Lookup(0, "seen", 0), MetaSet(0, "mark"))
    note = (*load(("ip saddr",)), Meta(1, "mark"))

    def marks(*rules: Rule) -> Fate:
        objects = hooked(*rules, rule(read, marked(1), Drop()), rule(marked(2), Reject()))
        objects[set_key("ip", "seen")] = Set(("ip saddr",), ("meta priority",), dynamic=True)
        return end(objects, coming())

    one = rule(mark_on(1), note, Dynset("update", "seen", 0, 1))
    two = rule(mark_flip(3), note, Dynset("update", "seen", 0, 1))
    forget = rule(note, Dynset("delete", "seen", 0, 1))
    assert marks(one) == DROP
    assert marks(one, two) == DROP
    assert marks(one, forget, two) == REJECT
    assert marks(one, forget, rule(mark_flip(1))) == PASS


def test_branches_remember_apart() -> None:
    """What one outcome of a draw puts into a set is not there in the other."""
    note = (*load(("ip saddr",)), Dynset("add", "seen", 0))
    objects = hooked(
        rule(Numgen(0, 2), Cmp(0, "==", host32(0)), note),
        rule(in_set(("ip saddr",), "seen"), Drop()),
    )
    objects[set_key("ip", "seen")] = Set(("ip saddr",), dynamic=True)
    assert ends(objects, coming()) == {DROP: Fraction(1, 2), PASS: Fraction(1, 2)}


# --- what cannot be known -----------------------------------------------------------------


def test_a_foreign_instruction_matters_only_to_packets_that_meet_it() -> None:
    objects = hooked(rule(interface("eth", begins=True), Foreign("limit"), Drop()))
    with pytest.raises(Unknowable, match="chain base has a rule with limit, which kubeway does not use"):
        ends(objects, coming())
    assert end(objects, coming(iif="cni0")) == PASS


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        (hooked(rule(Jump("gone"))), "chain gone is not in the program"),
        (hooked(rule(in_set(FRONT, "gone"))), "set gone is not in the program"),
        ({chain_key("ip", "odd"): Alien("a chain with policy drop")}, "chain odd is none of kubeway's"),
        (hooked(rule(Payload(0, "transport", 0, 2))), "bytes 0 on of the transport header"),
        (hooked(rule(Payload(0, "network", 8, 1))), "bytes 8 on of the network header"),
        (hooked(rule(Goto("base"))), "chain base leads back to itself"),
        (hooked(rule(Jump("base"))), "jump to base is deeper than the kernel goes"),
        (
            hooked(rule(vmap(("ip daddr",), "m"))) | members("m", Set(("ip daddr",)), {VIP: Element()}),
            "set m is no verdict map",
        ),
        (
            hooked(rule(priority_from(("ip daddr",), "m")))
            | members("m", Set(("ip daddr",)), {VIP: Element()}),
            "set m is no map",
        ),
        (
            hooked(rule(in_set(("ip daddr",), "m")))
            | {set_key("ip", "m"): Set(("ip daddr",)), element_key("ip", "m", VIP): Alien("an element")},
            "an element of m is none of kubeway's",
        ),
    ],
)
def test_other_things_that_cannot_be_known(objects: Objects, words: str) -> None:
    with pytest.raises(Unknowable, match=words):
        ends(objects, coming())


# --- the trail ------------------------------------------------------------------------


def test_the_trail_names_each_rule_that_applied() -> None:
    objects = flat(3) | {
        **chain("early", Chain("filter", "prerouting", -110), rule(translated(), Drop())),
        **chain("post", NAT_POST, rule(translated(), Masquerade(), comment="always")),
    }
    trail: list[str] = []
    fates(objects, coming(), frozenset({NODE}), trail)
    front = "ip daddr . meta l4proto . th dport"
    assert trail == [
        "prerouting nat-prerouting: jump dispatch",
        f"prerouting dispatch: {front} vmap @services -> goto pick",
        "one of 3, number 0 from here on",
        f"prerouting pick: dnat ip to {front} . numgen random mod 3 map @endpoints -> 10.244.1.1:8080",
        'postrouting post: ct status dnat masquerade fully-random comment "always"',
    ]


def test_the_trail_tells_how_it_ended() -> None:
    trail: list[str] = []
    fates(hooked(rule(mark_on(1)), rule(Reject())), coming(), frozenset(), trail)
    assert trail == [
        "prerouting base: meta mark set meta mark | 0x00000001",
        "prerouting base: reject",
    ]


# --- listeners ------------------------------------------------------------------------------------

LISTENER = parse_ip("127.0.0.1")
HOME = 0x2000
STEER_IN = Chain("filter", "prerouting", -150)
STEER_OUT = Chain("route", "output", -150)


def steering(*rules: Rule) -> Objects:
    """At output the mark, in prerouting the mark and the listener at 7001."""
    return {
        **chain("out", STEER_OUT, *rules, rule(mark_on(HOME))),
        **chain("in", STEER_IN, *rules, rule(tproxy(TCP, LISTENER, 7001), mark_on(HOME))),
    }


def handed(objects: Objects, packet: Packet, homing: int = HOME) -> dict[Fate, Fraction]:
    """Where it ends if two endpoints are behind the listener at 7001."""

    def relay(number: int) -> dict[Fate, Fraction]:
        assert number == 7001
        return {endpoint(PODS[0]): Fraction(1, 3), endpoint(PODS[1]): Fraction(2, 3)}

    return dict(fates(objects, packet, frozenset({NODE}), homing=homing, relay=relay))


TAKEN = {endpoint(PODS[0]): Fraction(1, 3), endpoint(PODS[1]): Fraction(2, 3)}


@pytest.mark.parametrize("packet", [coming(), sent(), sent(NODE), coming(NODE)])
def test_a_listener_says_where_a_packet_ends(packet: Packet) -> None:
    assert handed(steering(), packet) == TAKEN


def test_what_is_handed_over_but_not_routed_here_goes_on() -> None:
    assert handed(steering(), coming(), homing=0x4000) == {PASS: 1}
    assert handed(steering(), sent(), homing=0x4000) == {PASS: 1}
    assert handed(steering(), coming(NODE), homing=0) == TAKEN


def test_a_listener_takes_its_protocol_only() -> None:
    assert handed(steering(), Packet(CLIENT, VIP, 17, 80, "eth0")) == {PASS: 1}


def test_what_is_handed_over_meets_the_rules_of_input() -> None:
    for dropping in (chain("late", Chain("filter", "input"), rule(marked(HOME), Drop())),):
        assert handed({**steering(), **dropping}, coming()) == {DROP: 1}
    passing = chain("late", Chain("filter", "input"), rule(unmarked(HOME), Drop()))
    assert handed({**steering(), **passing}, coming()) == TAKEN


def test_a_first_packet_has_no_connection() -> None:
    assert handed(steering(rule(transparent(), Drop())), coming()) == TAKEN


def test_a_flow_keeps_its_mark_where_its_packet_came_by() -> None:
    once = rule(flow_marked(HOME, "=="), flow_mark_on(HOME)), rule(flow_marked(HOME), Accept())
    assert handed(steering(*once), coming()) == {PASS: 1}
    meets_again = {**steering(), **chain("before", Chain("filter", "output", -200), rule(flow_mark_on(HOME)))}
    again = chain("again", Chain("filter", "prerouting", -200), rule(flow_marked(HOME), goto("dead")))
    assert handed({**meets_again, **again, **chain("dead", Chain(), rule(Drop()))}, sent()) == {DROP: 1}


def test_a_listener_nobody_speaks_for_is_unknowable() -> None:
    with pytest.raises(Unknowable, match="7001"):
        fates(steering(), coming(), frozenset({NODE}), homing=HOME)


def test_a_trail_names_the_listener() -> None:
    trail: list[str] = []
    fates(steering(), coming(), frozenset({NODE}), trail, homing=HOME, relay=lambda _: TAKEN)
    assert "tproxy to 127.0.0.1:7001" in trail[-1]
    assert trail[-1].endswith("-> the listener at port 7001")
