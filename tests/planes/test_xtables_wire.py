"""
The xtables plane between objects and bytes, without a kernel: what `lower` spells is what iptables-nft
1.8.9 writes, `lift` reads it back, and whatever `lift` is fed, it reads or says that it cannot.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.planes.xtables import objects as o
from kubeway.planes.xtables.exprlift import RuleLift
from kubeway.planes.xtables.exprs import RuleLower, raw
from kubeway.planes.xtables.lift import handles, lift, places
from kubeway.planes.xtables.lower import (
    NO_HANDLE,
    Place,
    Standing,
    as_walked,
    asked,
    clear,
    lower,
    place_of,
    removable,
)
from kubeway.program.plan import diff, steps
from kubeway.program.program import Change, Key
from kubeway.wire import nftables as nf
from kubeway.wire import xtables as wire
from kubeway.wire.netlink import (
    NLM_F_APPEND,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    be64,
    fields,
    messages,
    read_be64,
    read_text,
)
from tests.planes.xtprograms import (
    FAMILIES,
    NUMBERED,
    Numbered,
    ends_in_comment,
    every_construct,
    is_understood,
    phrases,
    programs,
    rule,
    understood,
)

ORDER = {o.PLANE: o.KINDS}
GOLDEN = Path(__file__).parent.parent / "golden" / "xtables"
SVC, OTHER = "KUBE-SVC-AAAAAAAAAAAAAAAA", "KUBE-SVC-BBBBBBBBBBBBBBBB"
BY = f"{o.BRANCHING}S"

EXAMPLES = max(20, settings.default.max_examples // 2) if settings.default else 50
of_a_family = st.sampled_from(FAMILIES).flatmap(programs).map(understood)


def golden(family: o.Family) -> dict[str, bytes]:
    """The expressions that iptables-nft-restore 1.8.9 wrote for each phrase, as the kernel tells them."""
    lines = (GOLDEN / f"iptables-nft.{family}.rules").read_text().splitlines()
    return {words: bytes.fromhex(told) for words, told in zip(lines[::2], lines[1::2], strict=True)}


def expressions(family: o.Family, one: o.Rule) -> bytes:
    return bytes(fields(RuleLower(family, NUMBERED).body(one))[4])


def reread(family: o.Family, one: o.Rule) -> o.Rule:
    """The rule written, and read again."""
    body = fields(RuleLower(family, NUMBERED).body(one))
    return RuleLift(family, NUMBERED).rule(bytes(body[4]), bytes(body.get(7, b"")))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_rule_is_spelt_as_iptables_spells_it(family: o.Family) -> None:
    told = golden(family)
    assert told.keys() == phrases(family).keys()
    for words, (_, one) in phrases(family).items():
        lifted = RuleLift(family, NUMBERED).rule(told[words])
        if is_understood(one):
            assert ends_in_comment(one) or expressions(family, one) == told[words], words
            assert lifted == reread(family, one) == one, words
        else:
            # A stranger's: equal to no rule of ours, but always to itself.
            assert not is_understood(lifted), words
            assert RuleLift(family, NUMBERED).rule(expressions(family, lifted)) == lifted, words


def sent(changes: list[Change], program: dict[Key, object]) -> list[Message]:
    """The messages of the one step these changes come to, on a node that has nothing of it."""
    found: list[Message] = []
    for step in steps(changes, ORDER):
        nowhere: dict[Place, Standing] = dict.fromkeys(asked(step.changes))
        parcels = lower(step.changes, nowhere, program, NUMBERED)
        assert len(parcels.messages) == len(parcels.changes)
        found += messages(b"".join(parcels.messages))
    return found


@settings(max_examples=EXAMPLES)
@given(of_a_family)
def test_what_is_lowered_is_lifted_back(program: dict[Key, object]) -> None:
    assert lift(sent(list(diff({}, program)), program), NUMBERED) == program


def test_every_construct_is_lifted_back() -> None:
    program = {key: one for family in FAMILIES for key, one in understood(every_construct(family)).items()}
    assert lift(sent(list(diff({}, program)), program), NUMBERED) == program


@given(st.binary(max_size=200), st.integers(0, 0xFFFF))
def test_any_bytes_are_read_or_malformed(body: bytes, kind: int) -> None:
    for number in (kind, nf.kind(nf.NEWCHAIN), nf.kind(nf.NEWRULE)):
        with suppress(Malformed):
            lift([Message(number, 0, 0, memoryview(body))])


@settings(max_examples=EXAMPLES // 2)
@given(of_a_family, st.data())
def test_any_damage_is_read_or_malformed(program: dict[Key, object], data: st.DataObject) -> None:
    spoiled = []
    for m in sent(list(diff({}, program)), program):
        body = bytearray(m.body)
        if data.draw(st.booleans()):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        spoiled.append(Message(m.kind, m.flags, 0, memoryview(bytes(body))))
    with suppress(Malformed):
        lift(spoiled, NUMBERED)


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_any_damage_to_a_rule_is_read_or_malformed(family: o.Family, data: st.DataObject) -> None:
    told = bytearray(data.draw(st.sampled_from(sorted(golden(family).values()))))
    for _ in range(data.draw(st.integers(1, 3))):
        told[data.draw(st.integers(0, len(told) - 1))] = data.draw(st.integers(0, 255))
    with suppress(Malformed):
        read = RuleLift(family, NUMBERED).rule(bytes(told))
        again = reread(family, read)
        assert [type(match) for match in again.matches] == [type(match) for match in read.matches]
        # What is told of it is true: written, it reads as the same again. Only of bytes that are no text
        # something else is told.
        if not any(isinstance(match, o.Comment | o.InInterface | o.Recent) for match in read.matches):
            assert again == read


def test_counters_make_no_difference() -> None:
    one = rule(o.AddrType("dst"), to=o.Return())
    plain = expressions("ip", one)
    counted = plain.replace(wire.COUNTER, wire.expression("counter", b"\x0c\0\1\0" + bytes(7) + b"\5"))
    assert plain != counted
    assert RuleLift("ip").rule(counted) == RuleLift("ip").rule(plain) == one


def test_a_comment_of_nf_tables_is_read_as_iptables_prints_it() -> None:
    plain = expressions("ip", rule(o.Protocol(o.Proto(6)), o.Dport(o.Proto(6), 80)))
    read = RuleLift("ip").rule(plain, nf.comment(nf.COMMENT_RULE, "who is it"))
    assert read.matches[-1] == o.Comment("who is it")


@pytest.mark.parametrize(
    ("data", "read"),
    [
        # `-i +` asks nothing, `! -i +` what no interface answers.
        (wire.meta(wire.META_IIFNAME), ()),
        (
            wire.meta(wire.META_IIFNAME) + wire.cmp(wire.EQ, wire.NO_INTERFACE),
            (o.InInterface("", begins=True, invert=True),),
        ),
        # As nft itself writes a name.
        (
            wire.meta(wire.META_IIFNAME) + wire.cmp(wire.EQ, b"eth0".ljust(16, b"\0")),
            (o.InInterface("eth0"),),
        ),
        # Older back ends have compat matches for what is native now.
        (wire.match("mark", 1, wire.MARK.pack(1, 3, 1)), (o.Mark(1, 3, True),)),
        (wire.match("tcp", 0, wire.TCP.pack(0, 65535, 80, 80, 0, 0, 0, 0)), (o.Dport(o.Proto(6), 80),)),
        (wire.match("udp", 0, wire.UDP.pack(0, 65535, 53, 99, 0)), (o.Dport(o.Proto(17), 53, 99),)),
        # No more than the protocol that stands before it.
        (wire.match("tcp", 0, wire.TCP.pack(0, 65535, 0, 65535, 0, 0, 0, 0)), ()),
    ],
)
def test_other_spellings_are_read(data: bytes, read: tuple[o.Match, ...]) -> None:
    assert RuleLift("ip").rule(data + wire.COUNTER) == o.Rule(read)


_PORT = wire.payload(wire.TRANSPORT, wire.DPORT_AT, 2)
_MARK = wire.meta(wire.META_MARK)


@pytest.mark.parametrize(
    "data",
    [
        # Ports of no protocol, in no order, or those they come from.
        _PORT + wire.cmp(wire.EQ, b"\0\x50"),
        _PORT + wire.between(wire.NEQ, b"\0\x50", b"\0\x60"),
        wire.match("tcp", 0, wire.TCP.pack(1, 65535, 80, 80, 0, 0, 0, 0)),
        wire.match("tcp", 0, wire.TCP.pack(0, 65535, 80, 80, 0, 2, 2, 0)),
        wire.match("udp", 0, wire.UDP.pack(0, 65535, 80, 80, 2)),
        # A value that is changed, ordered or of another size; one that is not compared, or set.
        wire.payload(wire.NETWORK, 16, 4) + wire.bitwise(b"\xff\0\xff\0") + wire.cmp(wire.EQ, b"\n\0\0\0"),
        wire.payload(wire.NETWORK, 16, 4) + wire.bitwise(b"\xff\0\0\0") + wire.cmp(wire.EQ, b"\n\0\0\1"),
        wire.payload(wire.NETWORK, 9, 1) + wire.cmp(wire.EQ, b"\6"),
        _MARK + wire.cmp(wire.GTE, bytes(4)),
        _MARK + wire.cmp(wire.EQ, bytes(2)),
        _MARK,
        _MARK + wire.bitwise(bytes(4)),
        wire.cmp(wire.EQ, bytes(4)),
        wire.expression("meta", b"\x08\0\2\0\0\0\0\3\x08\0\3\0\0\0\0\1"),
        wire.expression("quota", be64(1, 5)),
        # Of what we know, more than we know.
        wire.match("comment", 0, bytes(8)),
        wire.match("conntrack", 3, wire.CONNTRACK.pack(1, 0, 1 << 12)),
        wire.match("conntrack", 3, wire.CONNTRACK.pack(3, 0, 8)),
        wire.match("conntrack", 2, bytes(160)),
        wire.match("addrtype", 1, wire.ADDRTYPE.pack(4, 4, 0)),
        wire.match("addrtype", 1, wire.ADDRTYPE.pack(4, 0, 1)),
        wire.match("recent", 1, wire.RECENT.pack(5, 0, 1, 0, b"x", 0, b"\xff" * 4)),
        wire.match("recent", 1, wire.RECENT.pack(0, 9, 1, 0, b"x", 0, b"\xff" * 4)),
        wire.match("recent", 1, wire.RECENT.pack(0, 0, 1, 0, b"x", 0, b"\xff\xff")),
        wire.match("statistic", 0, wire.STATISTIC.pack(0, 1, 1 << 30, 0, 0)),
        wire.match("statistic", 0, wire.STATISTIC.pack(0, 0, 0, 0, 0)),
        # A set that went meanwhile; sides that there are not, none, or too many; an older revision; counters.
        wire.match("set", 4, wire.SET.pack(77, 2, 0)),
        wire.match("set", 4, wire.SET.pack(1, 2, 8)),
        wire.match("set", 4, wire.SET.pack(1, 0, 0)),
        wire.match("set", 4, wire.SET.pack(1, 7, 0)),
        wire.match("set", 1, bytes(8)),
        wire.match("set", 4, wire.SET.pack(1, 2, 0)[:16] + b"\1" + bytes(31)),
    ],
)
def test_what_has_no_word_is_foreign_and_keeps_its_bytes(data: bytes) -> None:
    read = RuleLift("ip", NUMBERED).rule(data + wire.COUNTER)
    assert [type(match) for match in read.matches] == [o.ForeignMatch]
    assert expressions("ip", read) == data + wire.COUNTER


@pytest.mark.parametrize(
    "data",
    [
        wire.verdict(nf.CONTINUE),
        wire.target("LOG", 0, bytes(32)),
        wire.target("DNAT", 2, wire.DNAT.pack(wire.NAT_IPS_AND_PORTS, b"\1", b"\2", 80, 80, 0)),
        wire.target("DNAT", 2, wire.DNAT.pack(wire.NAT_IPS_AND_PORTS, b"\1", b"\1", 80, 81, 0)),
        wire.target("DNAT", 2, wire.DNAT.pack(bytes(4), b"\1", b"\1", 80, 80, 0)),
        wire.target("MASQUERADE", 0, wire.MASQUERADE["ip"].pack(1, 4, 0, 0, 0, 0)),
        wire.target("REJECT", 0, wire.REJECT.pack(0)),
        wire.target("MARK", 1, bytes(8)),
        wire.verdict(nf.ACCEPT) + wire.verdict(nf.DROP),
        wire.expression("immediate", b"\x08\0\1\0\0\0\0\1") + wire.expression("dup"),
    ],
)
def test_what_is_no_target_of_ours_is_foreign(data: bytes) -> None:
    read = RuleLift("ip").rule(wire.COUNTER + data)
    assert isinstance(read.target, o.ForeignTarget)
    assert expressions("ip", read) == wire.COUNTER + data


@pytest.mark.parametrize(("invert", "ends"), [(False, "0001"), (True, "0101")])
def test_what_ipvs_sent_on_is_asked_for_as_iptables_does(invert: bool, ends: str) -> None:
    """Recorded from an entry of iptables-legacy, as iptables-nft writes it only where there is ip_vs."""
    asked = rule(o.Balanced(invert))
    data = expressions("ip", asked)
    assert bytes(38).hex() + ends in data.hex()
    assert RuleLift("ip").rule(data) == asked


def test_a_set_is_known_by_the_number_it_has_now() -> None:
    one = rule(o.InSet("B", ("dst",)))
    written = bytes(fields(RuleLower("ip", Numbered("A", "B")).body(one))[4])
    assert RuleLift("ip", Numbered("A", "B")).rule(written) == one
    assert RuleLift("ip", Numbered("B", "A")).rule(written) == rule(o.InSet("A", ("dst",)))
    (gone,) = RuleLift("ip", Numbered("B")).rule(written).matches
    assert isinstance(gone, o.ForeignMatch)


def test_a_set_that_is_not_there_is_asked_for_by_a_number_that_no_set_has() -> None:
    (match,) = RuleLift("ip").rule(expressions("ip", rule(o.InSet("NOBODYS", ("dst",))))).matches
    assert isinstance(match, o.ForeignMatch)
    assert wire.SET.pack(0xFFFF, 1, 0).hex() in match.words[-1]


def test_words_of_iptables_alone_cannot_be_written() -> None:
    for one in (
        rule(o.ForeignMatch(("-m", "limit", "--limit", "1/sec"))),
        rule(to=o.ForeignTarget(("-j", "LOG"))),
    ):
        with pytest.raises(ValueError, match="only iptables"):
            RuleLower("ip").body(one)


def test_raw_words_are_stable_and_tell_what_it_is() -> None:
    assert raw(wire.verdict(nf.DROP))[:2] == ("nft", "immediate")


# --- changes ------------------------------------------------------------------------------


A, B = rule(o.Comment("a"), to=o.Return()), rule(o.Comment("b"), to=o.Return())
TO_SVC, TO_OTHER = rule(to=o.Jump(SVC)), rule(to=o.Jump(OTHER))
RULES = o.rules_key("ip", "nat", SVC)
CHAIN = o.chain_key("ip", "nat", SVC)
BRANCH_CHAIN = o.chain_key("ip", "nat", BY)
SPOT = rule(o.Mark(1, 1), to=o.Return())
BRANCH = o.branch_key("ip", "nat", BY, SPOT)
BY_PLACE, HOOK = Place("ip", "nat", BY), Place("ip", "nat", "OUTPUT")
JUMPS = [o.jump_key("ip", "nat", "OUTPUT", number) for number in (1, 2, 3)]


def told(
    changes: list[Change],
    standing: dict[Place, Standing] | None = None,
    wanted: dict[Key, object] | None = None,
) -> list[tuple[int, str, int]]:
    """Of each message its number, its chain (or table) and its handle."""
    parcels = lower(changes, standing or {}, wanted or {})
    found = []
    for m in messages(b"".join(parcels.messages)):
        number, attrs = m.kind & 0xFF, fields(m.body[4:])
        of_chain = number in (nf.NEWCHAIN, nf.DELCHAIN)
        name = attrs.get(3 if of_chain else 2, attrs[1])
        handle = read_be64(attrs[3]) if 3 in attrs and not of_chain else -1
        found.append((number, read_text(name), handle))
    return found


def test_the_rules_of_a_chain_are_written_anew() -> None:
    new = o.Rules((A, B))
    assert told([Change("set", RULES, o.Rules((B,)), new)]) == [
        (nf.DELRULE, SVC, -1),
        (nf.NEWRULE, SVC, -1),
        (nf.NEWRULE, SVC, -1),
    ]
    assert told([Change("del", RULES, new, None), Change("del", CHAIN, o.Chain(), None)]) == [
        (nf.DELRULE, SVC, -1),
        (nf.DELCHAIN, SVC, -1),
    ]


def test_a_chain_that_came_to_be_meanwhile_is_not_taken_for_ours() -> None:
    parcels = lower([Change("add", CHAIN, None, o.Chain())], {}, {})
    table, chain = messages(b"".join(parcels.messages))
    assert (table.kind, chain.kind) == (nf.kind(nf.NEWTABLE), nf.kind(nf.NEWCHAIN))
    assert chain.flags & NLM_F_EXCL


def test_the_shared_chain_is_made_if_missing_and_never_taken_away() -> None:
    key = o.chain_key("ip", "filter", "KUBE-FIREWALL")
    (_, chain) = messages(b"".join(lower([Change("add", key, None, o.Chain())], {}, {}).messages))
    assert not chain.flags & NLM_F_EXCL
    assert told([Change("del", key, o.Chain(), None)]) == []


def test_a_branch_is_changed_in_its_place() -> None:
    change = Change("set", BRANCH, SPOT, rule(o.Mark(1, 1), to=o.Drop()))
    assert asked([change]) == [BY_PLACE]
    standing: dict[Place, Standing] = {BY_PLACE: {BRANCH: 7}}
    assert told([change], standing) == [(nf.NEWRULE, BY, 7)]
    (message,) = messages(b"".join(lower([change], standing, {}).messages))
    assert message.flags & NLM_F_REPLACE
    assert told([Change("del", BRANCH, SPOT, None)], standing) == [(nf.DELRULE, BY, 7)]
    assert asked([Change("add", BRANCH, None, SPOT)]) == []
    assert told([Change("add", BRANCH, None, SPOT)]) == [(nf.NEWRULE, BY, -1)]


def test_a_branch_that_is_not_there_is_for_the_kernel_to_refuse() -> None:
    for standing in ({BY_PLACE: {}}, {BY_PLACE: None}):
        assert told([Change("del", BRANCH, SPOT, None)], standing) == [(nf.DELRULE, BY, NO_HANDLE)]


def test_branches_go_with_their_chain_without_being_looked_for() -> None:
    changes = [Change("del", BRANCH, SPOT, None), Change("del", BRANCH_CHAIN, o.Chain(), None)]
    assert asked(changes) == []
    assert told(changes) == [(nf.DELRULE, BY, -1), (nf.DELCHAIN, BY, -1)]


def test_jumps_are_written_anew_together() -> None:
    wanted: dict[Key, object] = {JUMPS[0]: TO_OTHER, JUMPS[1]: TO_SVC}
    changes = [Change("set", JUMPS[0], TO_SVC, TO_OTHER), Change("set", JUMPS[1], TO_OTHER, TO_SVC)]
    assert asked(changes) == [HOOK]
    standing: dict[Place, Standing] = {HOOK: {JUMPS[0]: 4, JUMPS[1]: 6}}
    assert told(changes, standing, wanted) == [
        (nf.NEWTABLE, "nat", -1),
        (nf.DELRULE, "OUTPUT", 4),
        (nf.DELRULE, "OUTPUT", 6),
        (nf.NEWRULE, "OUTPUT", -1),
        (nf.NEWRULE, "OUTPUT", -1),
    ]
    parcels = lower(changes, standing, wanted)
    *_, last, first = messages(b"".join(parcels.messages))
    assert not (last.flags | first.flags) & NLM_F_APPEND
    assert [change.key for change in parcels.changes[-2:]] == [JUMPS[1], JUMPS[0]]
    assert told([Change("del", JUMPS[0], TO_SVC, None)], standing) == [
        (nf.DELRULE, "OUTPUT", 4),
        (nf.DELRULE, "OUTPUT", 6),
    ]


def test_a_built_in_chain_is_made_only_where_it_is_missing() -> None:
    changes, wanted = [Change("add", JUMPS[0], None, TO_SVC)], {JUMPS[0]: TO_SVC}
    assert (nf.NEWCHAIN, "OUTPUT", -1) in told(changes, {HOOK: None}, dict(wanted))
    assert (nf.NEWCHAIN, "OUTPUT", -1) not in told(changes, {HOOK: {}}, dict(wanted))


def test_handles_are_of_branches_and_of_our_jumps() -> None:
    theirs = rule(o.Protocol(o.Proto(6)), to=o.Jump(SVC))

    def dump(place: Place, rules: list[o.Rule]) -> list[Message]:
        bodies = [RuleLower("ip").body(one) for one in rules]
        found = [wire.replace_rule(*place, handle, body) for handle, body in enumerate(bodies, 10)]
        return list(messages(b"".join(found)))

    assert handles(dump(HOOK, [theirs, TO_SVC, theirs, TO_OTHER]), HOOK, {}) == {JUMPS[0]: 11, JUMPS[1]: 13}
    again = Key(o.PLANE, "branch", (*BRANCH.name[:-1], f"{BRANCH.name[-1]}#2"))
    assert handles(dump(BY_PLACE, [SPOT, SPOT]), BY_PLACE, {}) == {BRANCH: 10, again: 11}


def test_a_name_that_is_no_text_is_somebody_else_s() -> None:
    """The kernel takes any bytes for the name of a table or chain, and of a node all chains are told."""
    strange, plain = b"D\xffCKER", b"DOCKER"
    made = [
        wire.new_chain("ip", "nat", "DOCKER"),
        wire.new_chain("ip", "DOCKER", "KUBE-SERVICES"),
        wire.new_chain("ip", "nat", SVC),
    ]
    told = list(messages(b"".join(made).replace(plain, strange)))
    assert list(places(told)) == [Place("ip", "nat", SVC)]
    assert lift(told) == {CHAIN: o.Chain(), RULES: o.Rules()}
    theirs = RuleLower("ip").body(rule(to=o.Jump("DOCKER"))).replace(plain, strange)
    hooked = list(messages(wire.replace_rule(*HOOK, 10, theirs)))
    assert handles(hooked, HOOK, {}) == {}
    assert lift(hooked) == {}


def test_userdata_of_others_need_not_be_nfts() -> None:
    assert RuleLift("ip").rule(b"", b"\x00\xffcut off") == rule()


def test_handles_of_what_others_share_are_not_told() -> None:
    place, key = Place("ip", "filter", "INPUT"), o.jump_key("ip", "filter", "INPUT", 1)
    shared, ours = rule(to=o.Jump("KUBE-FIREWALL")), rule(to=o.Jump("KUBE-SERVICES"))
    bodies = [RuleLower("ip").body(one) for one in (shared, ours, shared)]
    found = [wire.replace_rule(*place, handle, body) for handle, body in enumerate(bodies, 10)]
    told = list(messages(b"".join(found)))
    second = o.jump_key("ip", "filter", "INPUT", 2)
    assert handles(told, place, {}) == {key: 11}
    assert handles(told, place, {key: shared, second: ours}) == {key: 10, second: 11}


def test_what_is_shared_is_not_removed() -> None:
    shared, to_shared = ("ip", "filter", "KUBE-FIREWALL"), rule(to=o.Jump("KUBE-FIREWALL"))
    program: dict[Key, object] = {
        o.chain_key(*shared): o.Chain(),
        o.jump_key(*shared, 1): o.MARTIANS,
        o.jump_key("ip", "filter", "INPUT", 1): to_shared,
        CHAIN: o.Chain(),
        RULES: o.Rules((A,)),
        JUMPS[0]: TO_SVC,
    }
    assert removable(program) == [CHAIN, RULES, JUMPS[0]]
    kept = clear(program, {HOOK: {JUMPS[0]: 3}}, {Place("ip", "nat", SVC)})
    gone = clear(program, {HOOK: {JUMPS[0]: 3}}, set())
    kinds = [[m.kind & 0xFF for m in messages(b"".join(p.messages))] for p in (kept, gone)]
    assert kinds == [[nf.DELRULE, nf.DELRULE], [nf.DELRULE, nf.DELRULE, nf.DELCHAIN]]


@settings(max_examples=EXAMPLES // 2)
@given(of_a_family, of_a_family)
def test_many_changes_are_the_same_in_the_order_of_the_walk(
    before: dict[Key, object], after: dict[Key, object]
) -> None:
    for step in steps(diff(before, after), ORDER):
        walked = as_walked(step.changes)
        assert sorted(map(id, walked)) == sorted(map(id, step.changes))
        for kind in o.KINDS:
            for verb in ("add", "set", "del"):
                # Of one chain nothing changes places.
                for chain in {place_of(change.key) for change in step.changes}:
                    told, put = (
                        [c for c in some if (place_of(c.key), c.key.kind, c.verb) == (chain, kind, verb)]
                        for some in (step.changes, walked)
                    )
                    assert told == put


def test_what_leads_to_a_chain_comes_right_before_it() -> None:
    program: dict[Key, object] = {}
    names = [f"KUBE-SVC-{letter * 16}" for letter in "CABD"]
    for name in names:
        program[o.chain_key("ip", "nat", name)] = o.Chain()
        program[o.rules_key("ip", "nat", name)] = o.Rules((rule(to=o.Return()),))
    for letter, at in (("B", 0), ("A", 3)):
        name = f"{o.BRANCHING}{letter}"
        branch = rule(to=o.Goto(names[at]))
        program[o.chain_key("ip", "nat", name)] = o.Chain()
        program[o.branch_key("ip", "nat", name, branch)] = branch
    (step,) = steps(diff({}, program), ORDER)
    walked = [place_of(c.key).chain for c in as_walked(step.changes) if c.key.kind != "chain"]
    for letter, at in (("B", 0), ("A", 3)):
        assert walked.index(names[at]) == walked.index(f"{o.BRANCHING}{letter}") + 1
