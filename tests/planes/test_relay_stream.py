"""One connection through the relay, event by event."""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.model.links import Neighbours
from kubeway.planes.relay.entrance import WAITING, Entrance
from kubeway.planes.relay.objects import Endpoint, Way
from kubeway.planes.relay.stream import (
    ABORT,
    CLOSE,
    JOIN,
    RUNGS,
    WAIT,
    Connect,
    HalfClose,
    Limits,
    Side,
    State,
    Stream,
)
from kubeway.values import Ip, parse_prefix

A, B, C, D, E = (Endpoint(Ip(bytes((10, 244, 0, n))), 8080) for n in range(1, 6))
ME = Ip(bytes((10, 244, 1, 9)))
NEAR = Endpoint(Ip(bytes((10, 244, 1, 7))), 8080, near=Neighbours(parse_prefix("10.244.1.0/24")))
LIMITS = Limits(half_closed=60.0, drain=100.0)


def stream(way: Way | Entrance, client: Ip = ME, hidden: bool = False) -> Stream:
    entrance = way if isinstance(way, Entrance) else Entrance(way)
    return Stream(entrance, client, hidden, Random(1), LIMITS)


def joined(way: Way | Entrance = Way((A,))) -> Stream:  # noqa: B008 (a value)
    one = stream(way)
    assert isinstance(one.arrived(0.0), Connect)
    assert one.connected(0.0) == JOIN
    return one


# --- finding an endpoint ------------------------------------------------------------------


def test_it_connects_joins_half_closes_and_closes() -> None:
    one = stream(Way((A, B)))
    assert one.arrived(0.0) == Connect(A, True)
    assert one.due == RUNGS[0]
    assert one.connected(0.1) == JOIN
    assert one.due == inf
    assert one.tick(1e9) == WAIT
    assert one.ended("client", 5.0) == HalfClose("endpoint")
    assert one.ended("client", 6.0) == WAIT
    assert one.ended("endpoint", 7.0) == CLOSE
    assert (one.state, one.due) == (State.ENDED, inf)
    assert one.broke("client", 8.0) == WAIT


@pytest.mark.parametrize(
    ("endpoint", "client", "hidden", "seen"),
    [
        (A, ME, False, True),
        (A, ME, True, False),
        (A, A.ip, False, False),
        (NEAR, ME, False, False),
        (NEAR, A.ip, False, True),
    ],
)
def test_whose_address_the_endpoint_sees(endpoint: Endpoint, client: Ip, hidden: bool, seen: bool) -> None:
    assert stream(Way((endpoint,)), client, hidden).arrived(0.0) == Connect(endpoint, seen)


def test_who_refuses_is_followed_by_the_next_at_once() -> None:
    entrance = Entrance(Way((A, B, C)))
    one = stream(entrance)
    assert one.arrived(0.0) == Connect(A, True)
    assert one.failed(0.01) == Connect(B, True)
    assert one.due == 0.01 + RUNGS[1]
    assert one.failed(0.02) == Connect(C, True)
    assert one.failed(0.03) == ABORT
    tally = entrance.tally
    assert (tally.connections, tally.retried, tally.refused) == (1, 2, 1)
    assert one.failed(0.04) == WAIT


def test_who_is_silent_is_given_up_in_time_and_the_last_has_all_that_is_left() -> None:
    one = stream(Way((A, B)))
    one.arrived(0.0)
    assert one.tick(0.2) == WAIT
    assert one.tick(0.25) == Connect(B, True)
    assert one.due == 0.25 + sum(RUNGS[1:])
    assert one.tick(3.7) == WAIT
    assert one.tick(3.75) == ABORT


def test_no_more_than_four_are_tried() -> None:
    one = stream(Way((A, B, C, D, E)))
    assert one.arrived(0.0) == Connect(A, True)
    assert [one.tick(one.due) for _ in range(4)] == [*(Connect(x, True) for x in (B, C, D)), ABORT]


def test_with_one_endpoint_a_refusal_is_the_answer() -> None:
    one = stream(Way((A,)))
    one.arrived(0.0)
    assert one.failed(0.0) == ABORT


def test_the_list_may_change_while_it_is_tried() -> None:
    entrance = Entrance(Way((A, B)))
    one = stream(entrance)
    one.arrived(0.0)
    entrance.become(Way(()))
    assert one.failed(0.1) == ABORT
    assert entrance.balancer.load(A) == 0


def test_loads_and_failures_are_told_to_the_balancer() -> None:
    entrance = Entrance(Way((A, B), demote=True))
    balancer = entrance.balancer
    one = stream(entrance)
    one.arrived(0.0)
    assert (balancer.load(A), balancer.load(B)) == (1, 0)
    one.failed(0.0)
    assert (balancer.load(A), balancer.load(B)) == (0, 1)
    one.connected(0.0)
    assert [stream(entrance).arrived(1.0) for _ in range(2)] == [Connect(B, True)] * 2
    assert balancer.load(B) == 3
    one.broke("client", 2.0)
    assert balancer.load(B) == 2


# --- waiting --------------------------------------------------------------------------------


def test_without_endpoints_it_is_refused() -> None:
    entrance = Entrance(Way(()))
    assert stream(entrance).arrived(0.0) == ABORT
    assert entrance.tally.refused == 1


def test_it_waits_for_endpoints_if_the_way_lets_it() -> None:
    entrance = Entrance(Way((), hold=30))
    one, other = stream(entrance), stream(entrance)
    assert (one.arrived(0.0), other.arrived(1.0)) == (WAIT, WAIT)
    assert entrance.ready() == []
    assert (one.due, other.due) == (30.0, 31.0)
    assert one.tick(29.0) == WAIT
    entrance.become(Way((A,), hold=30))
    assert entrance.ready() == [one, other]
    assert one.come(29.0) == Connect(A, True)
    assert one.come(29.0) == WAIT
    assert entrance.ready() == [other]
    assert other.broke("client", 29.5) == ABORT
    assert entrance.ready() == []


def test_it_does_not_wait_for_ever_nor_do_too_many() -> None:
    entrance = Entrance(Way((), hold=30))
    ones = [stream(entrance) for _ in range(WAITING + 1)]
    assert [one.arrived(0.0) for one in ones] == [WAIT] * WAITING + [ABORT]
    assert ones[0].tick(30.0) == ABORT
    assert stream(entrance).arrived(30.0) == WAIT
    assert entrance.tally.refused == 2


def test_who_waits_is_refused_when_the_way_goes() -> None:
    entrance = Entrance(Way((), hold=30))
    one = stream(entrance)
    one.arrived(0.0)
    entrance.become(Way(()))
    assert [waited.come(1.0) for waited in entrance.ready()] == [ABORT]


# --- once joined ----------------------------------------------------------------------------


def test_half_closed_it_goes_on_while_bytes_move() -> None:
    one = joined()
    assert one.ended("endpoint", 100.0) == HalfClose("client")
    assert one.due == 160.0
    assert one.tick(160.0, moved=7) == WAIT
    assert one.due == 220.0
    assert one.tick(219.0, moved=7) == WAIT
    assert one.tick(220.0, moved=7) == ABORT


def test_a_reset_of_either_side_ends_both() -> None:
    sides: tuple[Side, ...] = ("client", "endpoint")
    for side in sides:
        one = joined()
        assert one.broke(side, 1.0) == ABORT
        assert one.entrance.tally.refused == 0


def test_connections_to_an_endpoint_that_left_go_on_for_a_while() -> None:
    one = joined()
    one.left(10.0)
    one.left(50.0)
    assert one.due == 110.0
    assert one.tick(109.0, moved=1) == WAIT
    assert one.tick(110.0, moved=2) == ABORT


def test_an_endpoint_that_is_back_keeps_them() -> None:
    one = joined()
    one.left(10.0)
    one.back()
    assert (one.due, one.tick(110.0)) == (inf, WAIT)
    one.ended("client", 200.0)
    one.left(200.0)
    assert one.due == 260.0
    one.back()
    assert one.tick(260.0) == ABORT


def test_half_closed_and_left_the_earlier_limit_counts() -> None:
    one = joined()
    one.left(0.0)
    one.ended("client", 10.0)
    assert one.due == 70.0
    assert one.tick(70.0, moved=9) == WAIT
    assert one.due == 100.0
    assert one.tick(100.0, moved=99) == ABORT


def test_one_that_left_while_it_was_tried_drains_when_joined() -> None:
    one = stream(Way((A,)))
    one.arrived(0.0)
    one.left(0.1)
    assert one.due == sum(RUNGS)
    assert one.connected(0.2) == JOIN
    assert one.due == 100.1


EVENTS = ("connected", "failed", "come", "tick", "left", "back", "client", "endpoint", "rc", "re", "change")


@given(
    st.integers(0, 4),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(EVENTS), st.floats(0, 50)), max_size=30),
)
def test_whatever_happens_it_ends_once_and_leaves_nothing(
    count: int, hold: bool, events: list[tuple[str, float]]
) -> None:
    entrance = Entrance(Way((A, B, C, D)[:count], hold=30 * hold, demote=True))
    one, now = stream(entrance), 0.0
    commands = [one.arrived(now)]
    for event, after in events:
        now += after
        if event in ("client", "endpoint"):
            commands.append(one.ended("client" if event == "client" else "endpoint", now))
        elif event in ("rc", "re"):
            commands.append(one.broke("client" if event == "rc" else "endpoint", now))
        elif event == "change":
            entrance.become(Way((B, E), hold=30 * hold, demote=True))
        elif event in ("left", "back"):
            one.back() if event == "back" else one.left(now)
        else:
            commands.append(
                {"connected": one.connected, "failed": one.failed, "come": one.come, "tick": one.tick}[event](
                    now
                )
            )
        assert sum(map(entrance.balancer.load, (A, B, C, D, E))) == (
            one.endpoint is not None and one.state is not State.ENDED
        )
        assert (one in entrance.waiting) == (one.state is State.WAITING)
    ends = sum(command in (ABORT, CLOSE) for command in commands)
    assert ends == (one.state is State.ENDED)
    assert commands.count(JOIN) <= 1
    assert one.due == inf or one.state not in (State.NEW, State.ENDED)
    if one.state is not State.ENDED:
        # Left alone it is over in time, but for one that is joined for good.
        for _ in range(20):
            if one.due < inf:
                one.tick(one.due)
        assert one.state is State.ENDED or (one.state is State.JOINED and one.due == inf)
