"""One connection through the relay, event by event."""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kubeway.model.balances import BALANCES, Balance
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
ALL = (A, B, C, D, E)
SIDES: tuple[Side, ...] = ("client", "endpoint")
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


def test_what_is_wanting_here_is_not_held_against_the_endpoint() -> None:
    entrance = Entrance(Way((A, B), demote=True))
    one = stream(entrance)
    assert one.arrived(0.0) == Connect(A, True)
    assert one.barred(0.0) == Connect(B, True)
    assert one.barred(0.0) == ABORT
    assert (entrance.balancer.load(A), entrance.balancer.load(B)) == (0, 0)
    begun = {stream(entrance).arrived(1.0) for _ in range(2)}
    assert begun == {Connect(A, True), Connect(B, True)}, "they take turns as before"


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
    for side in SIDES:
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


def test_one_that_leaves_while_it_is_tried_is_given_up_for_another() -> None:
    entrance = Entrance(Way((A, B)))
    one = stream(entrance)
    assert one.arrived(0.0) == Connect(A, True)
    assert entrance.become(Way((B, C))) == {A}
    assert one.left(0.1) in (Connect(B, True), Connect(C, True))
    assert one.due == 0.1 + RUNGS[0]
    assert one.connected(0.2) == JOIN
    assert one.due == inf
    assert (entrance.balancer.load(A), entrance.tally.retried) == (0, 1)


def test_all_that_leave_while_they_are_tried_are_given_up_for_the_one_that_came() -> None:
    entrance = Entrance(Way((A, B)))
    one = stream(entrance)
    one.arrived(0.0)
    assert one.failed(0.01) == Connect(B, True)
    entrance.become(Way((C,)))
    assert one.left(0.1) == Connect(C, True)
    assert one.due == 0.1 + sum(RUNGS[1:])
    assert one.failed(0.2) == ABORT


def test_where_nobody_takes_its_place_one_that_leaves_is_tried_on() -> None:
    for way in (Way(()), Way((B,))):
        entrance = Entrance(Way((A, B)))
        one = stream(entrance)
        one.arrived(0.0)
        assert one.failed(0.0) == Connect(B, True)
        gone = entrance.become(way)
        if B in gone:
            assert one.left(0.1) == WAIT
        assert one.connected(0.2) == JOIN
        assert one.due == (100.1 if B in gone else inf)


def test_who_leaves_is_not_one_of_the_four_that_are_tried() -> None:
    entrance = Entrance(Way((A,)))
    one = stream(entrance)
    assert one.arrived(0.0) == Connect(A, True)
    for number, endpoint in enumerate((B, C, D, E, A), 1):
        entrance.become(Way((endpoint,)))
        assert one.left(float(number)) == Connect(endpoint, True)
    entrance.become(Way((A, B, C, D, E)))
    for endpoint in (B, C, D):
        assert one.failed(6.0) == Connect(endpoint, True)
    assert one.failed(6.0) == ABORT


@pytest.mark.parametrize("affinity", [0, 100])
@pytest.mark.parametrize("balance", BALANCES)
def test_who_left_is_not_tried_and_who_came_is(balance: Balance, affinity: int) -> None:
    entrance = Entrance(Way((A, B, C), affinity, balance))
    one = stream(entrance)
    first = one.arrived(0.0)
    assert isinstance(first, Connect)
    entrance.become(Way((first.endpoint, D), affinity, balance))
    assert one.failed(0.1) == Connect(D, True)
    assert one.failed(0.2) == ABORT
    # Nor is who left remembered.
    other = stream(entrance).arrived(1.0)
    assert isinstance(other, Connect)
    assert other.endpoint in (first.endpoint, D)


@pytest.mark.parametrize("state", State)
def test_what_comes_too_early_or_too_late_changes_nothing(state: State) -> None:
    entrance = Entrance(Way((), hold=30) if state is State.WAITING else Way((A, B)))
    one = stream(entrance)
    if state is not State.NEW:
        one.arrived(0.0)
    if state in (State.JOINED, State.HALF, State.ENDED):
        one.connected(0.0)
    if state in (State.HALF, State.ENDED):
        one.ended("client", 0.0)
    if state is State.ENDED:
        one.ended("endpoint", 0.0)
    assert one.state is state
    due, endpoint = one.due, one.endpoint
    if state is not State.TRYING:
        assert (one.connected(1.0), one.failed(1.0), one.barred(1.0)) == (WAIT, WAIT, WAIT)
    if state is not State.WAITING:
        assert one.come(1.0) == WAIT
    if state not in (State.JOINED, State.HALF):
        assert (one.ended("client", 1.0), one.ended("endpoint", 1.0)) == (WAIT, WAIT)
    assert one.tick(0.1) == WAIT
    assert (one.state, one.due, one.endpoint) == (state, due, endpoint)
    if state is State.ENDED:
        assert (one.shed(), one.broke("client", 2.0), one.tick(1e9), one.left(2.0)) == (WAIT,) * 4
        assert one.due == inf


@pytest.mark.parametrize("state", [State.WAITING, State.TRYING, State.JOINED, State.HALF])
def test_it_is_shed_whatever_it_is_at(state: State) -> None:
    entrance = Entrance(Way((), hold=30) if state is State.WAITING else Way((A,)))
    one = stream(entrance)
    one.arrived(0.0)
    if state in (State.JOINED, State.HALF):
        one.connected(0.0)
    if state is State.HALF:
        one.ended("endpoint", 0.0)
    assert one.state is state
    assert one.shed() == ABORT
    assert (one.state, one.due, entrance.waiting, entrance.balancer.load(A)) == (State.ENDED, inf, {}, 0)


def test_a_client_that_goes_while_it_is_tried_is_refused_and_who_is_tried_is_let_go() -> None:
    entrance = Entrance(Way((A, B)))
    one = stream(entrance)
    one.arrived(0.0)
    assert one.broke("client", 0.1) == ABORT
    assert (entrance.tally.refused, entrance.balancer.load(A)) == (1, 0)


def test_an_endpoint_that_is_reset_while_it_is_tried_is_followed_by_the_next() -> None:
    one = stream(Way((A, B)))
    one.arrived(0.0)
    assert one.broke("endpoint", 0.1) == Connect(B, True)


TOLD = ("connected", "failed", "barred", "come", "tick", "left")
EVENTS = (*TOLD, "back", "client", "endpoint", "rc", "re", "change")


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
            entrance.become(Way((B, E), hold=30 * hold, demote=True, balance="leastconn"))
        elif event == "back":
            one.back()
        else:
            assert event in TOLD
            commands.append(getattr(one, event)(now))
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


# --- laws ---------------------------------------------------------------------------------------


class Crowd(RuleBasedStateMachine):
    """Many connections of one way, told as the shell tells them, while the way is one thing and another:
    what the balancer counts is who has an endpoint, and when all are gone it counts nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.entrance = Entrance(Way((A, B)))
        self.ones: list[Stream] = []

    def obeyed(self, one: Stream, command: object) -> None:
        if command == JOIN:
            assert one.state is State.JOINED
        elif isinstance(command, Connect):
            assert one.state is State.TRYING
            assert command.endpoint == one.endpoint
            assert one.endpoint in self.entrance.way.endpoints
        elif command in (ABORT, CLOSE):
            assert one.state is State.ENDED
            self.ones.remove(one)

    @rule(client=st.integers(1, 3), hidden=st.booleans())
    def comes(self, client: int, hidden: bool) -> None:
        one = stream(self.entrance, Ip(bytes((10, 244, 1, client))), hidden)
        self.ones.append(one)
        self.obeyed(one, one.arrived(self.now))

    @precondition(lambda self: self.ones)
    @rule(data=st.data(), how=st.sampled_from(["connected", "failed", "barred", "ended", "broke", "shed"]))
    def goes_on(self, data: st.DataObject, how: str) -> None:
        one = data.draw(st.sampled_from(self.ones))
        side = data.draw(st.sampled_from(SIDES))
        if how == "connected":
            self.obeyed(one, one.connected(self.now))
        elif how in ("failed", "barred"):
            self.obeyed(one, getattr(one, how)(self.now))
        elif how == "ended":
            self.obeyed(one, one.ended(side, self.now))
        elif how == "broke":
            self.obeyed(one, one.broke(side, self.now))
        else:
            self.obeyed(one, one.shed())

    @rule(
        which=st.sets(st.sampled_from(ALL)),
        balance=st.sampled_from(tuple(BALANCES)),
        affinity=st.sampled_from([0, 0, 20]),
        hold=st.sampled_from([0, 30]),
        demote=st.booleans(),
    )
    def becomes(self, which: set[Endpoint], balance: Balance, affinity: int, hold: int, demote: bool) -> None:
        before = self.entrance.way.endpoints
        gone = self.entrance.become(Way(tuple(sorted(which)), affinity, balance, demote, hold))
        for one in [*self.ones]:
            if one.endpoint in gone:
                self.obeyed(one, one.left(self.now))
            elif one.endpoint in which - set(before):
                one.back()
        for one in self.entrance.ready():
            self.obeyed(one, one.come(self.now))

    @rule(seconds=st.sampled_from([0.1, 0.6, 3.0, 50.0]), moved=st.integers(0, 3))
    def waits(self, seconds: float, moved: int) -> None:
        self.now += seconds
        for one in [*self.ones]:
            if one.due <= self.now:
                self.obeyed(one, one.tick(self.now, moved))

    @invariant()
    def counts_are_right(self) -> None:
        balancer = self.entrance.balancer
        for endpoint in ALL:
            assert balancer.load(endpoint) == sum(one.endpoint == endpoint for one in self.ones)
        assert {*self.entrance.waiting} == {one for one in self.ones if one.state is State.WAITING}
        assert all(one.state not in (State.NEW, State.ENDED) for one in self.ones)
        assert len(self.entrance.waiting) <= WAITING

    def teardown(self) -> None:
        # Who is tried or waits ends by itself; who lasts ends when its endpoint has left for long enough.
        for step in range(20):
            self.becomes(set(), "roundrobin", 0, 0, False)
            self.waits(LIMITS.half_closed, step)
        assert not self.ones
        assert self.entrance.tally.refused <= self.entrance.tally.connections
        assert not any(map(self.entrance.balancer.load, ALL))


TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(max_examples=100, stateful_step_count=40)
