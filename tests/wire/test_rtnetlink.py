from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.values import parse_ip
from kubeway.wire import rtnetlink as rt
from kubeway.wire.netlink import NLM_F_DUMP, NLM_F_REQUEST, Message, attr, messages


def answer(family: int, *attrs: bytes, kind: int = rt.RTM_NEWADDR) -> Message:
    return Message(kind, 2, 1, memoryview(struct.pack("=BBBBI", family, 24, 0, 0, 1) + b"".join(attrs)))


def test_it_asks_for_both_families() -> None:
    (m,) = messages(rt.addresses_request())
    assert (m.kind, m.flags, bytes(m.body)) == (rt.RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, bytes(8))


def test_of_two_ends_ours_is_the_local_one() -> None:
    ours, theirs = parse_ip("10.0.0.1"), parse_ip("10.0.0.2")
    assert rt.read_address(answer(2, attr(rt.IFA_ADDRESS, theirs), attr(rt.IFA_LOCAL, ours))) == ours


def test_an_ipv6_address_needs_no_local_end() -> None:
    ip = parse_ip("fd00::1")
    assert rt.read_address(answer(10, attr(rt.IFA_ADDRESS, ip))) == ip


def test_other_families_are_passed_over() -> None:
    assert rt.read_address(answer(28, attr(rt.IFA_ADDRESS, b"xxxx"))) is None


@pytest.mark.parametrize(
    "m",
    [
        answer(2),
        answer(2, attr(rt.IFA_LOCAL, b"\x0a\0\0")),
        answer(10, attr(rt.IFA_ADDRESS, b"\x0a\0\0\x01")),
        answer(2, attr(rt.IFA_LOCAL, b"\x0a\0\0\x01"), kind=16),
        Message(rt.RTM_NEWADDR, 2, 1, memoryview(b"\x02")),
    ],
)
def test_what_is_no_address_is_malformed(m: Message) -> None:
    with pytest.raises(Malformed, match=r"^rtnetlink: "):
        rt.read_address(m)


@given(st.sampled_from([2, 10, 28]), st.binary(max_size=60))
def test_any_bytes_are_an_address_or_malformed(family: int, tail: bytes) -> None:
    try:
        ip = rt.read_address(answer(family, tail))
        assert ip is None or len(ip) in (4, 16)
    except Malformed:
        pass
