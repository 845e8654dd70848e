"""What the control process and a worker say arrives as it was said, however the bytes are cut."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.model.balances import BALANCES
from kubeway.model.links import Neighbours
from kubeway.planes.relay.entrance import Tally
from kubeway.planes.relay.objects import Endpoint, Way
from kubeway.planes.relay.stream import Limits
from kubeway.shell.relay.orders import (
    Answer,
    Ask,
    Begin,
    Done,
    Given,
    Name,
    Order,
    Papers,
    Put,
    Stop,
    Sums,
    Told,
    answers,
    frame,
    orders,
)
from kubeway.values import TCP, Ip, prefix_of

IPS = (st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)).map(Ip)
NAMES: st.SearchStrategy[Name] = st.tuples(
    st.sampled_from(["cluster", "local"]), IPS, st.just(int(TCP)), st.integers(1, 65535)
)
PREFIXES = st.builds(prefix_of, IPS, st.integers(0, 32))
NEAR = st.builds(Neighbours, PREFIXES, st.lists(PREFIXES, max_size=2).map(tuple))
ENDPOINTS = st.builds(Endpoint, IPS, st.integers(1, 65535), st.none() | NEAR)
WAYS = st.builds(
    Way,
    st.lists(ENDPOINTS, max_size=3).map(tuple),
    st.integers(0, 86400),
    st.sampled_from(sorted(BALANCES)),
    st.booleans(),
    st.integers(0, 60),
)
ORDERS = (
    st.builds(Put, st.integers(0, 9), st.lists(st.tuples(NAMES, st.none() | WAYS), max_size=3))
    | st.builds(Ask, st.integers(0, 9), st.booleans())
    | st.builds(Stop, st.integers(0, 9), st.floats(0, 9))
    | st.just(Begin([Given(5, TCP, "local", True)], Limits(), 0.5, 60.0, 1, 3))
    | st.just(
        Begin(
            [Given(5, TCP, "local", True, bytes(4), 10801, True, 3)],
            Limits(),
            number=1,
            workers=2,
            turn=3,
            papers=Papers(6, 7, 8, 9, 10, 11, [12, 13], [14, 15], 16, 17, [18]),
        )
    )
)
TALLIES = st.builds(Tally, *[st.integers(0, 1 << 60)] * 5)
SUMS = st.builds(Sums, TALLIES, TALLIES, *[st.integers(0, 9)] * 5)
ANSWERS = st.builds(Done, st.integers(0, 9)) | st.builds(
    Told, st.integers(0, 9), st.lists(st.tuples(NAMES, TALLIES), max_size=3), SUMS
)


@given(st.lists(ORDERS, max_size=4), st.integers(1, 50))
def test_orders_arrive(said: list[Order], cut: int) -> None:
    data = b"".join(map(frame, said))
    frames = orders()
    heard = [one for at in range(0, len(data), cut) for one in frames.feed(data[at : at + cut])]
    assert heard == said


@given(st.lists(ANSWERS, max_size=4), st.integers(1, 50))
def test_answers_arrive(said: list[Answer], cut: int) -> None:
    data = b"".join(map(frame, said))
    frames = answers()
    assert [one for at in range(0, len(data), cut) for one in frames.feed(data[at : at + cut])] == said


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_something_or_malformed(data: bytes, framed: bool) -> None:
    with suppress(Malformed):
        list(orders().feed(len(data).to_bytes(4, "big") + data if framed else data))


def test_a_frame_too_long_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(Malformed, match="a frame of"):
        list(orders().feed(b"\xff\xff\xff\xff"))


@given(SUMS, SUMS)
def test_sums_add_up_field_by_field(one: Sums, other: Sums) -> None:
    both = one.plus(other)
    for name in ("shed", "lost", "open", "waiting", "sessions"):
        assert getattr(both, name) == getattr(one, name) + getattr(other, name)
    for proto in ("tcp", "udp"):
        for name in ("connections", "refused", "retried", "sent", "received"):
            whole, first, second = (getattr(getattr(some, proto), name) for some in (both, one, other))
            assert whole == first + second
