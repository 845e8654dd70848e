"""Law: what is told is read back. And what stands in the messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.planes.ipset.lift import lift
from kubeway.planes.ipset.lower import MAXELEM, fill, lower, room
from kubeway.planes.ipset.objects import (
    BITMAP_PORT,
    ENTRY,
    HASH_IP,
    HASH_IP_PORT,
    Entry,
    Set,
    entry_key,
    set_key,
)
from kubeway.program.plan import diff
from kubeway.program.program import Change
from kubeway.values import TCP, UDP, V4, V6, Ip, Prefix, parse_ip, parse_prefix
from kubeway.wire import ipset as wire
from kubeway.wire.netlink import Message, fields, messages, walk
from tests.planes.ipsets import Program, every_construct, ordered, programs
from tests.wire.ipset_golden import ANSWERS, golden

ONE = parse_ip("10.96.0.1")


def told(program: Program, before: Program | None = None) -> list[Message]:
    data = b"".join(parcel.data for parcel in lower(ordered(list(diff(before or {}, program)))))
    return list(messages(data))


def many(count: int, name: str = "KUBEWAY-A") -> Program:
    return {entry_key(name, Ip((i + 1).to_bytes(4, "big")), TCP, 80): ENTRY for i in range(count)}


@given(programs())
def test_what_is_told_is_read_back(program: Program) -> None:
    assert lift(told(program)) == program


def test_every_construct_is_read_back() -> None:
    assert lift(told(every_construct())) == every_construct()


@pytest.mark.parametrize("words", ANSWERS)
def test_what_the_kernel_tells_is_read_as_it_was_typed(words: str) -> None:
    found = lift([Message(0x0607, 2, 1, memoryview(golden("answers")[words]))])
    made, *entries = words.split("; ")
    name, *rest = made.split()
    odd = made.removeprefix(f"{name} ") if rest[:1] in (["netmask"], ["forceadd"]) else ""
    family = 0 if name == BITMAP_PORT else V6 if "inet6" in rest else V4
    assert found.pop(set_key("A")) == Set(f"{name} {odd}".strip(), family)
    assert len(found) == len(entries)
    assert all(entry == Entry("nomatch" in words) for entry in found.values())


def test_an_entry_of_the_kernels_has_its_fields_in_the_order_of_the_types_words() -> None:
    for words, key in (
        ("hash:ip,port,ip; 10.96.0.1,tcp:80,10.244.1.7", (ONE, TCP, 80, parse_ip("10.244.1.7"))),
        ("hash:ip,port,net; 10.96.0.1,udp:53,10.0.0.0/8", (ONE, UDP, 53, parse_prefix("10.0.0.0/8"))),
    ):
        found = lift([Message(0x0607, 2, 1, memoryview(golden("answers")[words]))])
        assert found.keys() == {set_key("A"), entry_key("A", *key)}


def test_entries_of_a_set_share_messages_whatever_stands_between() -> None:
    """Each is under 64 KiB, as a list is one attribute."""
    first, second = many(5000), many(5000, "KUBEWAY-B")
    mixed = [Change("add", key, None, ENTRY) for pair in zip(first, second, strict=True) for key in pair]
    parcels = lower(mixed)
    assert [parcel.name for parcel in parcels] == ["KUBEWAY-A"] * 3 + ["KUBEWAY-B"] * 3
    for parcel in parcels:
        (m,) = messages(parcel.data)
        assert len(fields(m.body[4:])[wire.IPSET_ATTR_ADT]) <= 0xFFFF - 4
        assert [change.key.name[0] for change in parcel.changes] == [parcel.name] * len(parcel.changes)
    assert {c.key for parcel in parcels for c in parcel.changes} == {*first, *second}


def test_what_is_added_and_deleted_keeps_its_order() -> None:
    """Of the same entry the last change counts."""
    key = entry_key("KUBEWAY-A", ONE)
    there, gone = Change("add", key, None, ENTRY), Change("del", key, ENTRY, None)
    kinds = [m.kind & 0xFF for parcel in lower([there, gone, there]) for m in messages(parcel.data)]
    assert kinds == [wire.IPSET_CMD_ADD, wire.IPSET_CMD_DEL, wire.IPSET_CMD_ADD]


def test_an_exception_is_overwritten_by_adding_anew() -> None:
    key = entry_key("KUBEWAY-A", ONE, TCP, 80, parse_prefix("10.0.0.0/8"))
    (parcel,) = lower([Change("set", key, Entry(nomatch=True), ENTRY)])
    (m,) = messages(parcel.data)
    assert m.kind & 0xFF == wire.IPSET_CMD_ADD


def test_a_parcel_is_told_singly_too() -> None:
    (parcel,) = fill("KUBEWAY-B", many(3))
    singly = parcel.singly()
    assert [one.changes for one in singly] == [[change] for change in parcel.changes]
    for one in singly:
        (m,) = messages(one.data)
        said = fields(m.body[4:])
        assert bytes(said[wire.IPSET_ATTR_SETNAME]) == b"KUBEWAY-B\0"
        assert len(list(walk(said[wire.IPSET_ATTR_ADT]))) == 1


@given(st.integers(0, 3_000_000))
def test_room_is_for_more(entries: int) -> None:
    hashsize, maxelem = room(entries)
    assert maxelem >= max(MAXELEM, 2 * entries)
    assert hashsize * 2 >= entries
    assert hashsize.bit_count() == maxelem.bit_count() == 1


def test_a_set_is_made_with_room_for_what_comes_with_it() -> None:
    name = "KUBEWAY-A"
    small = {set_key(name): Set(HASH_IP_PORT, V4)}
    for program, buckets in ((small, 1024), (small | many(5000), 4096)):
        data = fields(fields(told(program)[0].body[4:])[wire.IPSET_ATTR_DATA])
        assert int.from_bytes(data[wire.IPSET_ATTR_HASHSIZE], "big") == buckets
        assert int.from_bytes(data[wire.IPSET_ATTR_MAXELEM], "big") == MAXELEM


def test_what_no_set_can_hold_is_no_message() -> None:
    name = "KUBEWAY-A"
    six = parse_ip("fd00::1")
    for fields_, words in (
        ((ONE, TCP, 80, parse_prefix("0.0.0.0/0")), "its two halves"),
        ((ONE, TCP, 80, Prefix(six, 64)), "not of 4 bytes"),
        ((six, TCP, 80, ONE), "not of 16 bytes"),
        ((65536,), "cannot be port"),
        ((ONE, 256, 80), "cannot be ip, port, proto"),
        ((b"", TCP, 80), "no type of set"),
        ((ONE, TCP), "no type of set"),
        ((), "no type of set"),
    ):
        with pytest.raises(ValueError, match=words):
            lower([Change("add", entry_key(name, *fields_), None, ENTRY)])


def test_a_set_is_not_changed_in_place_nor_made_of_a_type_we_do_not_know() -> None:
    key = set_key("KUBEWAY-A")
    with pytest.raises(ValueError, match="in place"):
        lower([Change("set", key, Set(HASH_IP, V4), Set(HASH_IP, V6))])
    with pytest.raises(ValueError, match="list:set"):
        lower([Change("add", key, None, Set("list:set", 0))])


def test_an_entry_that_is_not_what_the_type_says_is_left_out() -> None:
    """And the others are there: one of a hash of addresses and ports without its protocol, between two."""
    program: Program = {set_key("KUBEWAY-A"): Set(HASH_IP_PORT, V4), **many(2)}
    made, listed = told(program)
    (adt,) = (value for kind, value in walk(listed.body[4:]) if kind == wire.IPSET_ATTR_ADT)
    first, _ = wire.elements(adt)
    broken = bytes(listed.body).replace(bytes(first)[-8:], b"\5\0\x63\0\6\0\0\0", 1)
    assert broken != bytes(listed.body)
    found = lift([made, listed._replace(body=memoryview(broken))])
    assert found == {key: obj for key, obj in program.items() if key.kind == "set"} | {
        entry_key("KUBEWAY-A", Ip(b"\0\0\0\2"), TCP, 80): ENTRY
    }


@given(st.sampled_from(ANSWERS), st.data())
def test_whatever_the_bytes(words: str, data: st.DataObject) -> None:
    raw = bytearray(golden("answers")[words])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = lift([Message(0x0607, 2, 1, memoryview(raw))])
    except Malformed:
        return
    assert all(key.kind in ("set", "entry") and hash(key) for key in found)
