"""Counters to requests, and answers to counters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.planes import nfacct
from kubeway.planes.memory import MemoryPlane
from kubeway.program.plan import diff
from kubeway.program.program import Change, Key, Object
from kubeway.wire import nfacct as wire
from kubeway.wire.netlink import NLM_F_CREATE, NLM_F_REQUEST, Message, be32, be64, message, messages, text
from kubeway.wire.nfnetlink import NFPROTO_UNSPEC, header, kind

BOTH: dict[Key, Object] = {nfacct.counter_key(name): nfacct.COUNTER for name in nfacct.NAMES}


def answer(name: str, packets: int = 0, users: int = 1) -> bytes:
    """As the kernel tells of a counter."""
    told = text(wire.NFACCT_NAME, name) + be64(wire.NFACCT_PKTS, packets) + be64(wire.NFACCT_BYTES, 40)
    body = header(NFPROTO_UNSPEC) + told + be32(wire.NFACCT_USE, users)
    return message(kind(7, wire.NFNL_MSG_ACCT_NEW), 0, body)


def answers(*told: bytes) -> Iterator[Message]:
    return messages(b"".join(told))


def test_requests_are_the_kernels() -> None:
    """By hand from nfnetlink_acct.h: subsystem 7, NEW 0, DEL 3, the name a string in attribute 1."""
    (make,) = messages(wire.new("n"))
    assert (make.kind, make.flags) == (0x700, NLM_F_REQUEST | NLM_F_CREATE | 0x200)
    assert bytes(make.body) == b"\0\0\0\0" + b"\x06\0\x01\0n\0\0\0"
    (go,) = messages(wire.delete("n"))
    assert (go.kind, go.flags, bytes(go.body)) == (0x703, NLM_F_REQUEST, bytes(make.body))
    (ask,) = messages(wire.get_all())
    assert (ask.kind, ask.flags) == (0x701, NLM_F_REQUEST | 0x300)


def test_names_are_short_enough() -> None:
    assert all(len(name) <= wire.NAME_LENGTH for name in nfacct.NAMES)


def test_each_change_is_a_request() -> None:
    there = nfacct.lower(diff({}, BOTH))
    assert there == [wire.new(name) for name in nfacct.NAMES]
    assert nfacct.lower(diff(BOTH, {})) == [wire.delete(name) for name in nfacct.NAMES]


def test_what_is_told_is_read_back() -> None:
    told = answers(*(answer(name, 7, 2) for name in nfacct.NAMES))
    assert nfacct.lift(told, BOTH) == BOTH


def test_of_counters_that_are_not_wanted_those_in_use_are_anothers() -> None:
    first, second = nfacct.NAMES
    told = [answer(first, users=2), answer(second, users=1), answer("somebodys", users=1)]
    assert nfacct.lift(answers(*told), {}) == {nfacct.counter_key(second): nfacct.COUNTER}


@given(st.integers(0, 2**64 - 1))
def test_packets_by_name(packets: int) -> None:
    told = answers(answer(nfacct.INVALID, packets), answer("somebodys", 3))
    assert nfacct.counts(told) == {nfacct.INVALID: packets}


@given(st.binary(max_size=60))
def test_whatever_the_bytes(body: bytes) -> None:
    try:
        wire.read(Message(0x700, 0, 0, memoryview(body)))
    except Malformed:
        return


def test_in_words() -> None:
    (first, *_) = [Change("add", key, None, obj) for key, obj in BOTH.items()]
    assert nfacct.describe(first, BOTH) == "add counter ct_state_invalid_dropped_pkts"
    assert nfacct.show(BOTH).splitlines() == [f"# nfacct add {name}" for name in nfacct.NAMES]
    assert nfacct.show({}) == ""


@pytest.mark.parametrize("desired", [{}, BOTH])
def test_its_laws_are_those_of_a_plane(desired: dict[Key, Object]) -> None:
    plane = MemoryPlane(nfacct, BOTH)
    plane.edit(list(diff(BOTH, desired)))
    assert plane.objects == desired
