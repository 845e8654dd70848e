"""
The nftables plane between objects and bytes, without a kernel: what `lower` spells,
`lift` reads back, and whatever `lift` is fed, it reads or says that it cannot.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.planes.nft import objects as o
from kubeway.planes.nft.describe import describe
from kubeway.planes.nft.lift import lift
from kubeway.planes.nft.lower import lower
from kubeway.program.plan import diff, steps
from kubeway.program.program import Change, Key
from kubeway.wire import nftables as wire
from kubeway.wire.netlink import Message, be32, messages, text, walk
from tests.planes.programs import programs, raw

ORDER = {o.PLANE: o.KINDS}


def sent(changes: list[Change]) -> list[Message]:
    """The messages of the one step these changes come to."""
    found = []
    for step in steps(changes, ORDER):
        for parcel in lower(step.changes):
            found += messages(parcel.data)
    return found


def numbers(changes: list[Change]) -> list[int]:
    return [m.kind & 0xFF for m in sent(changes)]


@given(programs())
def test_what_is_lowered_is_lifted_back(program: dict[Key, object]) -> None:
    assert lift(sent(list(diff({}, program)))) == program


@given(st.binary(max_size=200), st.integers(0, 0xFFFF))
def test_any_bytes_are_read_or_malformed(body: bytes, kind: int) -> None:
    with suppress(Malformed):
        lift([Message(kind, 0, 0, memoryview(body))])


@given(programs(), st.data())
def test_any_damage_is_read_or_malformed(program: dict[Key, object], data: st.DataObject) -> None:
    spoiled = []
    for m in sent(list(diff({}, program))):
        body = bytearray(m.body)
        if body and data.draw(st.booleans()):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        spoiled.append(Message(m.kind, m.flags, 0, memoryview(bytes(body))))
    with suppress(Malformed):
        lift(spoiled)


def test_ground_is_made_first_and_taken_away_last() -> None:
    family: o.Family = "ip"
    program: dict[Key, object] = {
        o.element_key(family, "m", bytes(4)): o.Element(o.Goto("c")),
        o.rules_key(family, "c"): o.Rules((o.Rule((o.Drop(),)),)),
        o.chain_key(family, "c"): o.Chain(),
        o.set_key(family, "m"): o.Set(("ip daddr",), verdicts=True),
        o.table_key(family): o.Table(),
    }
    made = [wire.NEWTABLE, wire.NEWSET, wire.NEWCHAIN, wire.NEWRULE, wire.NEWSETELEM]
    gone = [wire.DELSETELEM, wire.DELRULE, wire.DELCHAIN, wire.DELSET, wire.DELTABLE]
    assert numbers(list(diff({}, program))) == made
    assert numbers(list(diff(program, {}))) == gone


def test_a_changed_element_goes_and_comes_back_in_one_transaction() -> None:
    key = o.element_key("ip", "m", bytes(4))
    change = Change("set", key, o.Element(o.Goto("a")), o.Element(o.Goto("b")))
    assert numbers([change]) == [wire.DELSETELEM, wire.NEWSETELEM]


def test_changed_rules_are_flushed_before_they_are_written() -> None:
    key = o.rules_key("ip", "c")
    rule = o.Rule((o.Drop(),))
    change = Change("set", key, o.Rules(), o.Rules((rule, rule)))
    assert numbers([change]) == [wire.DELRULE, wire.NEWRULE, wire.NEWRULE]


def test_elements_of_one_set_share_messages_under_64_kib() -> None:
    count = 10_000
    program = {
        o.element_key("ip", name, n.to_bytes(4, "big")): o.Element(bytes(8))
        for n in range(count)
        for name in ("a", "b")
    }
    found = sent(list(diff({}, program)))
    assert len(found) < 40
    total = 0
    for m in found:
        (items,) = [value for kind, value in walk(m.body[4:]) if kind == 3]
        assert len(items) <= wire.MAX_ATTR - 4
        total += sum(1 for _ in walk(items))
    assert total == 2 * count


@given(st.lists(raw(4, 4), min_size=2, max_size=50, unique=True), st.data())
def test_an_offset_names_the_element_it_points_at(keys: list[bytes], data: st.DataObject) -> None:
    comments = [data.draw(st.text("abc", max_size=9)) for _ in keys]
    changes = [
        Change("add", o.element_key("ip", "m", key), None, o.Element(o.Drop(), comment=comment))
        for key, comment in zip(keys, comments, strict=True)
    ]
    (parcel,) = lower(changes)
    wanted = data.draw(st.integers(0, len(keys) - 1))
    # The offset as the kernel counts it: from the message's first byte to the attribute's.
    at = parcel.data.index(wire.value(1, keys[wanted])) - 4
    assert parcel.culprit(at) is parcel.changes[wanted]
    assert parcel.culprit(0) is parcel.changes[0]


def test_only_sets_made_and_filled_at_once_have_a_size() -> None:
    key = o.set_key("ip", "m")
    holder = o.Set(("ip daddr",))
    few = {o.element_key("ip", "m", n.to_bytes(4, "big")): o.Element() for n in range(10)}
    many = {o.element_key("ip", "m", n.to_bytes(4, "big")): o.Element() for n in range(5000)}

    def room(members: dict[Key, o.Element]) -> bytes:
        (made,) = [m for m in sent(list(diff({}, {key: holder, **members}))) if m.kind & 0xFF == wire.NEWSET]
        return bytes(dict(walk(made.body[4:])).get(9, b""))

    assert room(few) == b""
    assert int.from_bytes(room(many)[-4:], "big") > 6_000


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (o.chain_key("ip", "pick-5"), "add chain pick-5 (ip)"),
        (o.table_key("ip6"), "add table (ip6)"),
        (o.element_key("ip", "m", bytes((10, 0, 0, 1))), "add element m 10.0.0.1 (ip)"),
        (o.element_key("ip", "unknown", b"\1\2\3\4"), "add element unknown 01020304 (ip)"),
    ],
)
def test_a_change_has_a_name(key: Key, said: str) -> None:
    program = {o.set_key("ip", "m"): o.Set(("ip daddr",))}
    assert describe(Change("add", key, None, None), program) == said


def test_objects_of_others_are_told_and_not_read_as_ours() -> None:
    # A set as another program would make it: without nft's typeof.
    theirs = text(1, o.TABLE) + text(2, "theirs") + be32(3, 0) + be32(4, 7) + be32(5, 4)
    body = memoryview(wire.header("ip") + theirs)
    (found,) = lift([Message(wire.kind(wire.NEWSET), 0, 0, body)]).values()
    assert isinstance(found, o.Alien)
