from __future__ import annotations

from itertools import pairwise
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from kubeway.machines.drain import SELDOM, SOON, TOGETHER, Drain


def looks(drain: Drain[str], key: str, begin: float, connections: int) -> list[float]:
    """The times of the looks at it, until it is to be taken away."""
    times: list[float] = []
    now = begin
    while True:
        now = drain.due(now)
        assert drain.look(now) == [key]
        times.append(now)
        if drain.looked(key, connections, now):
            return times


def test_where_nothing_drains_nothing_is_due() -> None:
    drain: Drain[str] = Drain()
    assert drain.due(5.0) == inf
    assert drain.look(5.0) == []
    assert not drain.looked("a", 0, 5.0)


def test_it_is_looked_at_soon_and_ended_when_nobody_is_left() -> None:
    drain: Drain[str] = Drain()
    drain.began("a", 100.0)
    assert drain.draining == {"a"}
    assert drain.look(100.0) == []
    assert drain.due(100.0) == 100.0 + SOON
    assert drain.look(101.0) == ["a"]
    assert not drain.looked("a", 3, 101.0)
    assert drain.due(101.0) == 102.0
    assert drain.look(102.0) == ["a"]
    assert drain.looked("a", 0, 102.0)
    drain.back("a")
    assert (drain.due(102.0), drain.draining) == (inf, set())


def test_looks_grow_rare_and_the_limit_ends_them_on_time() -> None:
    drain: Drain[str] = Drain(limit=40.0)
    drain.began("a", 0.0)
    assert looks(drain, "a", 0.0, connections=1) == [1.0, 2.0, 4.0, 8.0, 16.0, 31.0, 40.0]


def test_between_looks_there_is_a_while_at_most() -> None:
    drain: Drain[str] = Drain()
    drain.began("a", 0.0)
    times = looks(drain, "a", 0.0, connections=1)
    assert times[-1] == 900.0
    assert max(b - a for a, b in pairwise(times)) == SELDOM


def test_what_comes_back_is_left_alone_and_begins_anew_when_it_goes_again() -> None:
    drain: Drain[str] = Drain(limit=10.0)
    drain.began("a", 0.0)
    drain.back("a")
    assert drain.look(9.0) == []
    drain.began("a", 9.0)
    assert drain.due(9.0) == 10.0
    assert drain.look(10.0) == ["a"]
    assert not drain.looked("a", 1, 10.0)
    assert drain.looked("a", 1, 19.0)


def test_to_be_told_twice_that_it_drains_changes_nothing() -> None:
    drain: Drain[str] = Drain(limit=10.0)
    drain.began("a", 0.0)
    drain.began("a", 9.0)
    assert drain.look(9.0) == ["a"]
    assert drain.looked("a", 1, 10.0)


def test_what_could_not_be_taken_away_is_looked_at_again() -> None:
    drain: Drain[str] = Drain()
    drain.began("a", 0.0)
    assert drain.look(1.0) == ["a"]
    assert drain.looked("a", 0, 1.0)
    # Taking it away failed, so nobody said `back`.
    assert drain.due(1.0) == 2.0
    assert drain.look(2.0) == ["a"]
    assert drain.looked("a", 0, 2.0)


def test_a_look_that_failed_is_no_reason_to_hurry() -> None:
    drain: Drain[str] = Drain(limit=3.0)
    drain.began("a", 0.0)
    now, times = 0.0, []
    while now < 60.0:
        now = drain.due(now)
        assert drain.look(now) == ["a"]
        times.append(now)
    assert times == [1.0, 2.0, 3.0, 7.0, 15.0, 30.0, 45.0, 60.0]


def test_those_that_are_due_nearly_together_are_looked_at_together() -> None:
    drain: Drain[str] = Drain()
    for at, key in enumerate("abc"):
        drain.began(key, at * TOGETHER)
    assert drain.look(drain.due(1.0)) == ["a", "b"]
    assert drain.due(1.0) == 1.5


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["began", "back", "wait", "look", "late", "fail"]),
        st.sampled_from("abc"),
        st.floats(0.0, 20.0),
        st.integers(0, 2),
    ),
    max_size=60,
)


@given(EVENTS, st.floats(0.5, 60.0))
def test_law_none_is_forgotten_none_is_ended_early_and_none_is_looked_at_all_the_time(
    events: list[tuple[str, str, float, int]], limit: float
) -> None:
    drain: Drain[str] = Drain(limit)
    now, since = 0.0, dict[str, float]()
    for event, key, span, connections in events:
        match event:
            case "began":
                drain.began(key, now)
                since.setdefault(key, now)
            case "back":
                drain.back(key)
                since.pop(key, None)
            case "wait":
                now += span
            case _ if drain.due(now) < inf:
                now = max(now, drain.due(now)) + (span if event == "late" else 0.0)
                due = drain.look(now)
                assert due
                for one in due if event != "fail" else ():
                    ended = drain.looked(one, connections, now)
                    assert ended == (connections == 0 or now - since[one] >= limit - 1e-9)
                    if ended:
                        drain.back(one)
                        del since[one]
        assert drain.draining == since.keys()
        assert (drain.due(now) < inf) == bool(since)
        assert drain.due(now) >= now
        if event in ("look", "late", "fail") and since:
            # The next look comes later; only the limit may be nearer than the first pause.
            assert drain.due(now) > now
