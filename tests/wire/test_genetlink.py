from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.wire import genetlink as genl
from kubeway.wire.netlink import Message, acked, attr, message, messages


def test_a_family_is_asked_for_by_its_name() -> None:
    """As ipvsadm asks (strace), but for the sequence number, the port and the ack it wants."""
    (m,) = messages(genl.family_request("IPVS"))
    assert (m.kind, m.flags) == (0x10, 1)
    assert bytes(m.body) == bytes.fromhex("03010000 09000200 49505653 00000000")


def test_its_number_is_read() -> None:
    told = attr(2, b"IPVS\0") + attr(1, struct.pack("=H", 28)) + attr(3, bytes(4))
    assert genl.read_family(Message(0x10, 0, 1, memoryview(genl.header(1) + told))) == 28


@pytest.mark.parametrize("told", [b"", attr(2, b"IPVS\0"), attr(1, b"\1"), attr(1, bytes(4))])
def test_an_answer_without_it_is_malformed(told: bytes) -> None:
    with pytest.raises(Malformed, match="family's number"):
        genl.read_family(Message(0x10, 0, 1, memoryview(genl.header(1) + told)))


@given(st.integers(0, 0xFFFF), st.binary(max_size=40))
def test_to_ask_for_an_ack_changes_nothing_else(flags: int, body: bytes) -> None:
    plain = message(28, flags, body)
    (before,), (after,) = messages(plain), messages(acked(plain))
    assert after == before._replace(flags=flags | 4)


@given(st.binary(max_size=60))
def test_whatever_the_bytes(body: bytes) -> None:
    try:
        genl.read_family(Message(0x10, 0, 0, memoryview(body)))
    except Malformed:
        return
