from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.values import SCTP, TCP, UDP, V4, V6, parse_ip
from kubeway.wire import ipset as wire
from kubeway.wire.netlink import Message, be32, fields, messages, nest
from tests.wire.ipset_golden import (
    ANSWERS,
    BITS,
    IP,
    LOOP,
    NET,
    ONE,
    PORT,
    REQUESTS,
    SIX,
    golden,
    meaning,
)


@pytest.mark.parametrize("words", REQUESTS)
def test_what_the_tool_sends(words: str) -> None:
    theirs = golden("requests")[words]
    # The tool numbers attributes of elements in its own order, and sends lists one after another.
    assert meaning(REQUESTS[words]) == meaning(theirs)


def test_what_is_no_error_to_us_is_one_to_the_tool() -> None:
    """NLM_F_EXCL: then what is there already, or not there, is refused."""
    for words, theirs in golden("requests").items():
        if words.startswith(("add", "del")):
            ours, told = next(messages(REQUESTS[words])), next(messages(theirs))
            assert (ours.flags & 0x200, told.flags & 0x200) == (0, 0x200)


def answer(raw: bytes) -> wire.Answer:
    return wire.read(Message(0x0607, 2, 1, memoryview(raw)))


def test_a_set_of_ports() -> None:
    name, header, listed = answer(golden("answers")["bitmap:port range 0-65535; 77; 65535"])
    assert (name, header) == ("A", wire.Header("bitmap:port", 0, 2, 0, ""))
    assert listed is not None
    assert BITS.read_usual(listed) == [(77,), (65535,)]


def test_a_hash_of_ipv6() -> None:
    told = golden("answers")["hash:ip,port family inet6; fd00::1,sctp:80"]
    _, header, listed = answer(told)
    assert header == wire.Header("hash:ip,port", V6, 1, 0, "")
    assert listed is not None
    assert PORT[6].read_usual(listed) == [(SIX, 80, SCTP)]


def test_a_set_with_extensions_and_exceptions_is_walked() -> None:
    told = golden("answers")[
        "hash:ip,port,net timeout 600 counters comment; 10.96.0.1,udp:53,10.0.0.0/9 nomatch"
    ]
    _, header, listed = answer(told)
    assert header == wire.Header("hash:ip,port,net", V4, 1, 0, "")
    assert listed is not None
    assert NET.read_usual(listed) is None
    (element,) = wire.elements(listed)
    assert NET.read(element) == ((ONE, parse_ip("10.0.0.0"), 53, 9, UDP), True)


@pytest.mark.parametrize("odd", ["netmask 24", "forceadd"])
def test_a_set_that_holds_other_than_it_is_given(odd: str) -> None:
    _, header, _ = answer(golden("answers")[f"hash:ip {odd}"])
    assert header is not None
    assert header.odd == odd


LAYOUTS = {
    "ip": IP[4],
    "ip6": IP[6],
    "port": PORT[4],
    "port6": PORT[6],
    "loop": LOOP,
    "net": NET,
    "bits": BITS,
}


@st.composite
def lists(draw: st.DrawFn) -> tuple[wire.Layout, list[tuple[Any, ...]]]:
    layout = draw(st.sampled_from(sorted(LAYOUTS)).map(LAYOUTS.__getitem__))
    address = st.binary(min_size=layout.size, max_size=layout.size)
    byte, port = st.integers(0, 255), st.integers(0, 0xFFFF)
    parts = {"ip": address, "ip2": address, "port": port, "cidr2": byte, "proto": byte}
    values = st.tuples(*(parts[part] for part in layout.parts))
    return layout, draw(st.lists(values, min_size=1, max_size=5))


@given(lists())
def test_what_is_told_is_read_back_at_once_and_by_the_walk(told: tuple[wire.Layout, list[Any]]) -> None:
    layout, values = told
    listed = memoryview(b"".join(map(layout.build, values)))
    assert layout.read_usual(listed) == values
    assert [layout.read(element) for element in wire.elements(listed)] == [(value, False) for value in values]


@given(lists(), st.data())
def test_one_that_is_spelled_otherwise_is_never_misread(
    told: tuple[wire.Layout, list[Any]], data: st.DataObject
) -> None:
    """What is read at once is what the walk reads."""
    layout, values = told
    listed = bytearray(b"".join(map(layout.build, values)))
    for _ in range(data.draw(st.integers(0, 2))):
        listed[data.draw(st.integers(0, len(listed) - 1))] = data.draw(st.integers(0, 255))
    usual = layout.read_usual(memoryview(listed))
    if usual is not None:
        walked = [layout.read(element) for element in wire.elements(memoryview(listed))]
        assert [(value, False) for value in usual] == walked


@given(lists())
def test_an_exception_is_read_back(told: tuple[wire.Layout, list[Any]]) -> None:
    layout, (value, *_) = told
    (element,) = wire.elements(memoryview(layout.build(value, nomatch=True)))
    assert layout.read(element) == (value, True)


def test_what_has_no_place_in_an_element_is_no_element() -> None:
    for layout, values in (
        (BITS, (65536,)),
        (IP[4], (SIX,)),
        (LOOP, (ONE, SIX, 80, TCP)),
        (PORT[6], (SIX, 80, 256)),
    ):
        with pytest.raises(ValueError):
            layout.build(values)


def test_a_name_that_is_no_text_is_a_name() -> None:
    told = golden("answers")["hash:ip netmask 24"].replace(b"A\0\0\0", b"\xff\0\0\0", 1)
    assert answer(told).name == "\ufffd"


@given(st.binary(max_size=80), st.sampled_from(sorted(LAYOUTS)))
def test_whatever_the_bytes(body: bytes, which: str) -> None:
    for raw in (body, b"\2\0\0\0" + nest(8, body)):
        try:
            told = answer(raw)
            for element in wire.elements(told.listed or memoryview(b"")):
                LAYOUTS[which].read(element)
        except Malformed:
            continue


@given(st.sampled_from(ANSWERS), st.data())
def test_whatever_happens_to_the_bytes(which: str, data: st.DataObject) -> None:
    raw = bytearray(golden("answers")[which])
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        told = answer(bytes(raw))
        for layout in LAYOUTS.values():
            layout.read_usual(told.listed or memoryview(b""))
            for element in wire.elements(told.listed or memoryview(b"")):
                layout.read(element)
    except Malformed:
        return


@pytest.mark.parametrize("words", REQUESTS)
def test_every_kernel_understands_the_version(words: str) -> None:
    """IPSET_PROTOCOL_MIN; the tool asks for 7 where there is."""
    (m,) = messages(REQUESTS[words])
    assert bytes(fields(m.body[4:])[wire.IPSET_ATTR_PROTOCOL]) == b"\6"


def test_lists_are_numbered_for_nobody() -> None:
    """A list needs a line number; elements have none, so that the kernel answers by an ordinary refusal."""
    (m,) = messages(wire.add("A", [IP[4].build((ONE,))]))
    assert be32(wire.IPSET_ATTR_LINENO | 0x4000, 0) in bytes(m.body)
