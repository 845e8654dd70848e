from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.wire import ipvs as wire
from kubeway.wire.genetlink import header
from kubeway.wire.netlink import Message, attr, messages, nest, text
from tests.golden.ipvs.golden import answers
from tests.planes.ipvsprograms import POD, VIP, VIP6

NAME, NAME6 = (VIP, 6, 80), (VIP6, 6, 80)


def told(body: bytes) -> Message:
    return Message(28, 2, 1, memoryview(header(4) + body))


def service(*more: bytes, size: int = 4) -> bytes:
    ip = VIP if size == 4 else VIP6
    inet = attr(1, b"\x02\0" if size == 4 else b"\x0a\0")
    name = (inet, attr(2, b"\x06\0"), attr(3, ip.ljust(16, b"\0")), attr(4, b"\0\x50"))
    return nest(1, *name, *more)


SET = (text(6, "rr"), attr(7, b"\x02\0\0\0\xff\xff\xff\xff"), attr(8, bytes(4)), attr(9, b"\xff" * 4))
RR = wire.Settings("rr", 2, 0, b"\xff" * 4)


def test_a_service_is_read_from_where_the_kernel_puts_it() -> None:
    assert wire.read_service(told(service(*SET, nest(10, attr(1, bytes(4)))))) == (NAME, RR)
    assert wire.read_service(told(service(*SET, size=16))) == (NAME6, RR)


def test_and_from_elsewhere() -> None:
    name, flags, timeout, netmask = SET
    assert wire.read_service(told(service(netmask, timeout, flags, name))) == (NAME, RR)
    engine = text(11, "sip")
    assert wire.read_service(told(service(name, engine, flags, timeout, netmask))) == (
        NAME,
        RR._replace(engine="sip"),
    )


def test_one_that_a_mark_calls_is_told_apart() -> None:
    assert wire.read_service(told(nest(1, attr(1, b"\x02\0"), attr(5, b"\x07\0\0\0"), *SET))) is None


def test_what_the_kernel_told_is_read() -> None:
    """Recorded: what a kernel answered after ipvsadm was told what stands in the golden file."""
    said = answers()
    services = [wire.read_service(Message(0, 0, 0, memoryview(one))) for one in said["services"]]
    flags = {one[0][1:]: (one[1].scheduler, one[1].flags, one[1].timeout) for one in services if one}
    assert flags[132, 80] == ("mh", 0x1A, 0)
    assert {one[0][0] for one in services if one} == {VIP, VIP6}
    assert None in services
    (routed,) = [wire.read_destination(Message(0, 0, 0, memoryview(one)), 4) for one in said["destinations"]]
    assert routed == wire.Destination(POD, 80, wire.ROUTE, 2, 0)
    (timeouts,) = (wire.read_timeouts(Message(0, 0, 0, memoryview(one))) for one in said["timeouts"])
    assert timeouts == (900, 120, 200)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        nest(1),
        service(*SET[1:]),
        service(SET[0], *SET[2:]),
        service(SET[0], attr(7, b"\1"), *SET[2:]),
        nest(1, attr(1, b"\x07\0"), attr(2, b"\x06\0"), attr(3, bytes(16)), attr(4, b"\0\x50"), *SET),
        nest(1, attr(1, b"\x02\0"), attr(2, b"\x06\0"), attr(3, bytes(3)), attr(4, b"\0\x50"), *SET),
        nest(1, attr(1, b"\x02\0"), attr(2, b"\x06"), attr(3, bytes(4)), attr(4, b"\0\x50"), *SET),
        nest(1, attr(1, b"\x02\0"), attr(2, b"\x06\0"), attr(3, bytes(4)), attr(4, b"\x50"), *SET),
    ],
)
def test_what_is_no_service_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        wire.read_service(told(body))


READERS: list[Callable[[Message], object]] = [
    wire.read_service,
    wire.read_timeouts,
    lambda m: wire.read_destination(m, 4),
]


@given(st.sampled_from(READERS), st.binary(max_size=120))
def test_whatever_the_bytes(read: Callable[[Message], object], body: bytes) -> None:
    try:
        read(Message(28, 0, 0, memoryview(body)))
    except Malformed:
        return


@given(st.sampled_from([b"", *(service(*SET, size=n) for n in (4, 16))]), st.integers(0, 140), st.binary())
def test_whatever_befalls_a_service(body: bytes, at: int, junk: bytes) -> None:
    broken = header(4) + body[:at] + junk + body[at + len(junk) :]
    try:
        wire.read_service(Message(28, 0, 0, memoryview(broken)))
    except Malformed:
        return


def test_an_address_tells_its_family() -> None:
    (m,) = messages(wire.get_destinations(28, NAME6))
    assert (m.kind, m.flags) == (28, 0x301)
    assert bytes(m.body[4:12]) == bytes.fromhex("3000 0180 0600 0100")
    assert bytes(m.body[12:14]) == b"\x0a\0"


def test_before_destinations_told_their_family_it_was_the_services() -> None:
    parts = (attr(1, POD.ljust(16, b"\0")), attr(2, b"\0\x50"))
    parts += tuple(attr(kind, n.to_bytes(4, "little")) for kind, n in ((3, 8), (4, 5), (7, 2), (8, 3)))
    assert wire.read_destination(told(nest(2, *parts)), 4) == wire.Destination(POD, 80, 0, 5, 5)
