"""Legacy tables in bytes: what is found in them, and that no bytes do harm."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.wire import ip_tables as x


def entry(layout: x.Layout, target: bytes, matches: bytes = b"", packets: int = 0) -> bytes:
    head = bytearray(layout.matches)
    at = layout.matches + len(matches)
    size = at + len(target)
    head[layout.offsets : layout.offsets + 4] = at.to_bytes(2, "little") + size.to_bytes(2, "little")
    head[layout.counters : layout.counters + 8] = packets.to_bytes(8, "little")
    return bytes(head) + matches + target


def error(name: str) -> bytes:
    return (64).to_bytes(2, "little") + b"ERROR".ljust(30, b"\0") + name.encode().ljust(32, b"\0")


def standard(verdict: int) -> bytes:
    return (40).to_bytes(2, "little") + bytes(30) + verdict.to_bytes(8, "little", signed=True)


def table(layout: x.Layout, packets: int = 0, verdict: int = -2) -> bytearray:
    """One built-in chain, one of somebody's with a rule, and the end."""
    accept = standard(-2)
    return bytearray(
        entry(layout, accept, packets=packets)
        + entry(layout, error("KUBE-SVC"))
        + entry(layout, standard(verdict), matches=error("A-MATCH"), packets=packets * 2)
        + entry(layout, standard(-5))
        + entry(layout, error("ERROR"))
    )


@pytest.fixture(params=[x.V4, x.V6])
def layout(request: pytest.FixtureRequest) -> x.Layout:
    found: x.Layout = request.param
    return found


def test_chains_and_rules_are_told_apart(layout: x.Layout) -> None:
    assert x.chains(table(layout), layout) == ["KUBE-SVC"]
    assert x.rules(table(layout), layout, x.Info(0b1000, (0,) * 5, (0,) * 5, 5, 0)) == 1


def in_set(index: int, revision: int = 4) -> bytes:
    """The head of a match and the number that follows it; a name with "set" in it is another's."""
    return (
        (84).to_bytes(2, "little")
        + b"set".ljust(29, b"\0")
        + bytes((revision,))
        + index.to_bytes(2, "little")
    )


def test_the_sets_that_are_asked_for_are_found(layout: x.Layout) -> None:
    others = error("offset") + (40).to_bytes(2, "little") + b"setx".ljust(30, b"\0") + b"\7\7"
    data = table(layout)
    assert x.sets(data) == []
    for matches in (in_set(300), in_set(0x0A0A, 1) + in_set(2), in_set(300), others):
        data += entry(layout, standard(-1), matches)
    assert x.sets(data) == [2, 300, 0x0A0A]


def test_a_digest_is_of_the_rules_not_of_their_counters(layout: x.Layout) -> None:
    same = x.digest(table(layout), layout)
    assert x.digest(table(layout, packets=77), layout) == same
    assert x.digest(table(layout, verdict=-1), layout) != same
    assert x.digest(table(layout) + entry(layout, standard(-1)), layout) != same


def test_information_is_read() -> None:
    # iptables-legacy's nat in a new network namespace (kernel 6.18).
    asked = x.ask_info("nat")
    assert (len(asked), asked[:4]) == (84, b"nat\0")
    numbers = (27, 0, 152, 0xFFFFFFFF, 304, 456, 0, 152, 0xFFFFFFFF, 304, 456, 5, 784)
    told = asked[:32] + b"".join(number.to_bytes(4, "little") for number in numbers)
    assert x.read_info(told) == x.Info(27, numbers[1:6], numbers[6:11], 5, 784)
    with pytest.raises(Malformed, match="83 bytes"):
        x.read_info(told[:-1])


def test_entries_are_asked_for_with_room_for_them() -> None:
    asked = x.ask_entries("filter", 784)
    assert (len(asked), asked[32:36]) == (40, (784).to_bytes(4, "little"))


@given(st.binary(max_size=600), st.sampled_from([x.V4, x.V6]))
def test_law_whatever_the_bytes(data: bytes, layout: x.Layout) -> None:
    for read in (x.chains, lambda data, layout: x.digest(bytearray(data), layout)):
        with suppress(Malformed):
            read(data, layout)


@given(st.data(), st.sampled_from([x.V4, x.V6]))
def test_law_a_table_that_is_spoilt(data: st.DataObject, layout: x.Layout) -> None:
    spoilt = table(layout)
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    del spoilt[data.draw(st.integers(0, len(spoilt))) :]
    with suppress(Malformed):
        x.chains(spoilt, layout)
        x.digest(spoilt, layout)
