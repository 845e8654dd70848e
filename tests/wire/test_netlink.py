from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.wire import netlink as nl

kinds = st.integers(0, nl.NLA_TYPE_MASK)
values = st.binary(max_size=40)


def test_an_attribute_is_its_length_type_value_and_padding() -> None:
    assert nl.attr(7, b"abcde") == struct.pack("=HH", 9, 7) + b"abcde\0\0\0"


def test_a_nest_says_that_it_is_one() -> None:
    assert nl.nest(3, nl.attr(1, b"abcd")) == struct.pack("=HHHH", 12, 3 | nl.NLA_F_NESTED, 8, 1) + b"abcd"


@given(st.lists(st.tuples(kinds, values)))
def test_walk_reads_what_attr_wrote(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(nl.attr(kind, value) for kind, value in pairs)
    assert len(data) % 4 == 0
    assert [(kind, bytes(value)) for kind, value in nl.walk(data)] == pairs
    assert {kind: bytes(value) for kind, value in nl.fields(data).items()} == dict(pairs)


@given(st.lists(st.tuples(kinds, values)))
def test_walk_sees_through_the_flags_of_a_nest(pairs: list[tuple[int, bytes]]) -> None:
    children = [nl.attr(kind, value) for kind, value in pairs]
    ((kind, value),) = nl.walk(nl.nest(9, *children))
    assert kind == 9
    assert [(k, bytes(v)) for k, v in nl.walk(value)] == pairs


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), values)))
def test_messages_reads_what_message_wrote(parts: list[tuple[int, int, int, bytes]]) -> None:
    wanted = [(kind, flags, sequence, nl.attr(1, value)) for kind, flags, sequence, value in parts]
    data = b"".join(nl.message(kind, flags, body, sequence) for kind, flags, sequence, body in wanted)
    assert [(m.kind, m.flags, m.sequence, bytes(m.body)) for m in nl.messages(data)] == wanted


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.text(st.characters(codec="utf-8")))
def test_numbers_and_names_come_back(small: int, large: int, name: str) -> None:
    read = nl.fields(nl.be32(1, small) + nl.be64(2, large) + nl.text(3, name))
    assert nl.read_be32(read[1]) == small
    assert nl.read_be64(read[2]) == large
    assert nl.read_text(read[3]) == name.rstrip("\0")


def error(code: int, flags: int = 0, tail: bytes = b"", asked: int = 16) -> nl.Message:
    request = nl.HEADER.pack(asked, 0x0A03, 0x405, 5, 0)
    body = struct.pack("=i", -code) + request + tail
    return next(nl.messages(nl.message(nl.NLMSG_ERROR, flags, body, 5)))


def test_an_ack_is_an_error_of_number_zero() -> None:
    assert nl.read_ack(error(0, nl.NLM_F_CAPPED)) == nl.Ack(5, 0, "")


def test_the_kernels_words_stand_behind_a_capped_request() -> None:
    words = nl.text(nl.NLMSGERR_ATTR_MSG, "Chain is busy")
    m = error(16, nl.NLM_F_CAPPED | nl.NLM_F_ACK_TLVS, words, asked=1000)
    assert nl.read_ack(m) == nl.Ack(5, 16, "Chain is busy")


def test_the_kernels_words_stand_behind_a_whole_request() -> None:
    request_body, words = nl.attr(1, b"name"), nl.text(nl.NLMSGERR_ATTR_MSG, "No such chain")
    m = error(2, nl.NLM_F_ACK_TLVS, request_body + words, asked=16 + len(request_body))
    assert nl.read_ack(m) == nl.Ack(5, 2, "No such chain")


def test_the_kernel_says_which_attribute_it_did_not_like() -> None:
    where = nl.attr(nl.NLMSGERR_ATTR_OFFS, struct.pack("=I", 48))
    assert nl.read_ack(error(2, nl.NLM_F_CAPPED | nl.NLM_F_ACK_TLVS, where)) == nl.Ack(5, 2, "", 48)


def test_a_dump_ends_with_a_number_and_words_too() -> None:
    body = struct.pack("=i", -22) + nl.text(nl.NLMSGERR_ATTR_MSG, "Unsupported family")
    m = nl.Message(nl.NLMSG_DONE, nl.NLM_F_MULTI | nl.NLM_F_ACK_TLVS, 8, memoryview(body))
    assert nl.read_ack(m) == nl.Ack(8, 22, "Unsupported family")
    assert nl.read_ack(nl.Message(nl.NLMSG_DONE, 2, 8, memoryview(b""))) == nl.Ack(8, 0, "")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(Malformed, match=r"a chain's name is missing \(attribute 3\)"):
        nl.need({}, 3, "a chain's name")


# --- any bytes: a value or Malformed -----------------------------------------------


@st.composite
def nearly_good(draw: st.DrawFn) -> bytes:
    """A good message with some of its bytes changed or cut: gets further than noise does."""
    pairs = draw(st.lists(st.tuples(kinds, values), max_size=4))
    body = draw(st.binary(max_size=24)) + b"".join(nl.attr(kind, value) for kind, value in pairs)
    kind = draw(st.sampled_from([nl.NLMSG_ERROR, nl.NLMSG_DONE, 0x0A03]))
    data = bytearray(nl.message(kind, draw(st.integers(0, 0xFFFF)), body))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))])


@given(st.one_of(st.binary(max_size=200), nearly_good()))
def test_any_bytes_are_read_or_malformed(data: bytes) -> None:
    with suppress(Malformed):
        for m in nl.messages(data):
            assert isinstance(nl.read_ack(m), nl.Ack)
    with suppress(Malformed):
        assert all(kind <= nl.NLA_TYPE_MASK for kind in nl.fields(data))


@given(values)
def test_any_value_is_a_number_or_a_name_or_malformed(value: bytes) -> None:
    for read, kind in ((nl.read_be32, int), (nl.read_be64, int), (nl.read_text, str)):
        with suppress(Malformed):
            assert isinstance(read(memoryview(value)), kind)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x10\0\0\0", "4 bytes where a header of 16 was expected"),
        (nl.HEADER.pack(8, 1, 0, 0, 0), "a message of 8 bytes where 16 are left"),
        (nl.HEADER.pack(20, 1, 0, 0, 0), "a message of 20 bytes where 16 are left"),
    ],
)
def test_a_broken_message_says_what_is_wrong(data: bytes, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        list(nl.messages(data))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x04", "1 bytes where an attribute was expected"),
        (nl.ATTR.pack(3, 1), "an attribute of 3 bytes where 4 are left"),
        (nl.ATTR.pack(9, 1), "an attribute of 9 bytes where 4 are left"),
    ],
)
def test_a_broken_attribute_says_what_is_wrong(data: bytes, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        list(nl.walk(data))
