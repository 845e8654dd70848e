from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.machines.keeper import READ_SHARE, Keeper, Nothing, Poll, Read, Write, after
from kubeway.program.plan import apply, diff
from kubeway.program.program import Change, Key, Object, Step
from tests.programs import add, drop, put

A, B, C = (Key("p", "thing", (name,)) for name in "abc")
ORDER = {"p": ("thing",)}


def by_key(changes: Iterable[Change]) -> list[Change]:
    return sorted(changes, key=lambda change: change.key)


class Desk:
    """A keeper with its program, and a clock that the test moves."""

    def __init__(self, wanted: Mapping[Key, Object], **more: Any) -> None:
        self.wanted = dict(wanted)
        self.keeper = Keeper(self.wanted, ORDER, **more)
        self.now = 0.0

    def next(self) -> Any:
        return self.keeper.next(self.now)

    def want(self, *changes: Change) -> None:
        for change in changes:
            if change.new is None:
                del self.wanted[change.key]
            else:
                self.wanted[change.key] = change.new
        self.keeper.desired(list(changes))

    def read(self, objects: Mapping[Key, Object], cost: float = 0.0, generation: int = 1) -> list[Change]:
        assert self.next() == Read()
        self.now += cost
        return self.keeper.read_done(objects, self.now, generation)


def write(*changes: Change) -> Write:
    return Write([Step("p", list(changes))])


def level(wanted: Mapping[Key, Object], cost: float = 0.0, **more: Any) -> Desk:
    """One that has found everything as it should be, and polled."""
    desk = Desk(wanted, **more)
    desk.read(wanted, cost)
    if desk.next() == Poll():
        desk.keeper.generation(1)
    assert isinstance(desk.next(), Nothing)
    return desk


# --- at start ---------------------------------------------------------------------------


def test_it_reads_before_it_writes_and_adopts_what_is_there() -> None:
    desk = Desk({A: 1, B: 2, C: 3})
    assert desk.keeper.cause == "start"
    desk.read({A: 1, B: 9, Key("p", "thing", ("old",)): 0})
    assert desk.next() == write(put(B, 9, 2), add(C, 3), drop(Key("p", "thing", ("old",)), 0))
    desk.keeper.write_done(2)
    assert desk.keeper.level


def test_the_start_may_have_an_order_of_its_own() -> None:
    other = Key("q", "thing", ("a",))
    both = [add(A, 1), add(other, 1)]
    there: dict[Key, Object] = {}
    keeper = Keeper(
        {A: 1, other: 1}, {"p": ("thing",), "q": ("thing",)}, first={"q": ("thing",), "p": ("thing",)}
    )
    for _ in range(2):  # also when it was refused
        keeper.read_done(there, 0.0, 1)
        assert keeper.next(0.0) == Write([Step("q", both[1:]), Step("p", both[:1])])
        keeper.refused()
    keeper.read_done(there, 0.0, 1)
    keeper.next(0.0)
    keeper.write_done(3)
    keeper.desired([put(other, 1, 2), put(A, 1, 2)])
    assert keeper.next(0.0) == Write([Step("p", [put(A, 1, 2)]), Step("q", [put(other, 1, 2)])])


def test_changes_before_the_first_read_are_found_by_it() -> None:
    desk = Desk({})
    desk.want(add(A, 1))
    desk.read({A: 1})
    assert desk.keeper.level


def test_all_that_came_in_one_go_is_written_as_it_came_where_nothing_is() -> None:
    desk = Desk({})
    desk.want(add(B, 2), add(A, 1))
    assert desk.read({}) == [add(B, 2), add(A, 1)]


@pytest.mark.parametrize("there", [{}, {A: 1}, {C: 1}])
@pytest.mark.parametrize("more", [[], [put(A, 1, 5)], [drop(B, 2), add(C, 4)], [add(C, 3)]])
def test_what_came_before_the_first_read_counts_once(there: dict[Key, Object], more: list[Change]) -> None:
    desk = Desk({})
    desk.want(add(A, 1), add(B, 2))
    desk.want(*more)
    assert by_key(desk.read(there)) == by_key(diff(there, desk.wanted))


def test_changes_while_it_reads_are_not_written_twice() -> None:
    desk = Desk({})
    assert desk.next() == Read()
    desk.want(add(A, 1))
    desk.keeper.read_done({}, desk.now, 1)
    assert desk.next() == write(add(A, 1))


# --- changes ----------------------------------------------------------------------------


def test_later_only_the_changes_are_written() -> None:
    desk = level({A: 1, B: 2})
    desk.want(put(A, 1, 5), drop(B, 2))
    assert desk.next() == write(put(A, 1, 5), drop(B, 2))
    assert not desk.keeper.level
    desk.keeper.write_done(2)
    assert desk.keeper.level
    assert desk.keeper.cause == "change"


def test_asked_again_it_answers_the_same() -> None:
    desk = level({})
    desk.want(add(A, 1))
    assert desk.next() == desk.next() == write(add(A, 1))


def test_changes_that_wait_become_one() -> None:
    desk = level({A: 1, B: 2})
    desk.want(put(A, 1, 5), add(C, 3))
    desk.want(put(A, 5, 1), put(C, 3, 4), drop(B, 2))
    assert desk.next() == write(add(C, 4), drop(B, 2))


def test_changes_during_a_write_are_written_next() -> None:
    desk = level({A: 1})
    desk.want(put(A, 1, 2))
    assert desk.next() == write(put(A, 1, 2))
    desk.want(put(A, 2, 3))
    desk.keeper.write_done(2)
    assert desk.next() == write(put(A, 2, 3))


def test_a_law_turns_the_changes_into_ones_the_plane_takes() -> None:
    def law(changes: Any, wanted: Any) -> list[Change]:
        assert dict(wanted) == {A: 2}
        return [drop(A, 1), add(A, 2)]

    desk = level({A: 1}, law=law)
    desk.want(put(A, 1, 2))
    assert desk.next() == write(add(A, 2), drop(A, 1))


# --- failures ---------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["refused", "lost"])
def test_after_a_failed_write_it_reads_and_plans_anew(event: str) -> None:
    desk = level({A: 1})
    desk.want(put(A, 1, 2), add(B, 2))
    desk.next()
    getattr(desk.keeper, event)()
    assert not desk.keeper.level
    # Half of it had been done.
    desk.read({A: 2})
    assert desk.keeper.cause == "retry"
    assert desk.next() == write(add(B, 2))


def test_a_stale_write_is_repeated_at_once_and_followed_by_a_look() -> None:
    desk = level({A: 1})
    desk.want(put(A, 1, 2))
    assert desk.next() == write(put(A, 1, 2))
    desk.keeper.stale()
    assert desk.next() == write(put(A, 1, 2))
    desk.keeper.write_done()
    desk.read({A: 2}, generation=3)
    assert desk.keeper.level


def test_changes_join_a_stale_write() -> None:
    desk = level({A: 1})
    desk.want(put(A, 1, 2))
    desk.next()
    desk.want(put(A, 2, 3), add(B, 1))
    desk.keeper.stale()
    assert desk.next() == write(put(A, 1, 3), add(B, 1))


def test_stale_a_second_time_it_reads_first() -> None:
    desk = level({A: 1})
    desk.want(put(A, 1, 2))
    for _ in range(2):
        assert isinstance(desk.next(), Write)
        desk.keeper.stale()
    assert desk.next() == Read()


def test_a_torn_read_is_repeated() -> None:
    desk = Desk({A: 1})
    assert desk.next() == Read()
    desk.keeper.stale()
    assert desk.next() == Read()


def test_a_failure_before_the_start_was_through_is_still_the_start() -> None:
    desk = Desk({A: 1})
    desk.read({})
    desk.next()
    desk.keeper.lost()
    desk.read({})
    assert desk.keeper.cause == "start"


def test_spared_keys_are_left_as_they_are() -> None:
    desk = level({A: 1})
    desk.keeper.spared.add(B)
    desk.keeper.lost()
    desk.read({A: 1, B: 2})
    assert desk.keeper.level
    desk.want(add(B, 3), add(C, 4))
    assert desk.next() == write(add(C, 4))


# --- others who write -------------------------------------------------------------------


def test_it_polls_once_a_second() -> None:
    desk = Desk({})
    desk.read({})
    assert desk.next() == Poll()
    desk.keeper.generation(1)
    assert desk.next() == Nothing(1.0)
    desk.now = 1.0
    assert desk.next() == Poll()


def test_a_commit_of_somebody_else_is_followed_by_a_repair() -> None:
    desk = level({A: 1, B: 2})
    desk.keeper.generation(2)
    assert desk.read({A: 9}) == [put(A, 9, 1), add(B, 2)]
    assert desk.keeper.cause == "drift"
    assert desk.next() == write(put(A, 9, 1), add(B, 2))
    desk.keeper.write_done(2)
    assert desk.keeper.cause == "change"


@pytest.mark.parametrize("event", ["stale", "lost"])
def test_a_repair_that_fails_is_still_a_repair(event: str) -> None:
    desk = level({A: 1})
    desk.keeper.generation(2)
    desk.read({})
    assert desk.next() == write(add(A, 1))
    getattr(desk.keeper, event)()
    if event == "lost":
        desk.read({})
    assert desk.keeper.cause == "drift"
    assert desk.next() == write(add(A, 1))


def test_a_commit_of_somebody_else_that_changed_nothing_of_ours_is_no_drift() -> None:
    desk = level({A: 1})
    desk.keeper.generation(2)
    assert desk.read({A: 1}, generation=2) == []
    assert desk.keeper.cause != "drift"
    assert isinstance(desk.next(), Nothing)


def test_our_own_commit_is_no_reason_for_doubt() -> None:
    desk = level({})
    desk.want(add(A, 1))
    desk.next()
    desk.keeper.write_done(2)
    desk.keeper.generation(2)
    assert isinstance(desk.next(), Nothing)


@pytest.mark.parametrize(("start", "then", "doubt"), [(1, 2, False), (1, 3, True), (2**32 - 1, 0, False)])
def test_a_write_that_moved_the_generation_too_far_had_company(start: int, then: int, doubt: bool) -> None:
    desk = level({})
    desk.keeper.lost()
    desk.read({}, generation=start)
    desk.want(add(A, 1))
    desk.next()
    desk.keeper.write_done(then)
    assert (desk.next() == Read()) == doubt


def test_a_change_is_written_before_a_doubt_is_followed_up() -> None:
    desk = level({A: 1})
    desk.keeper.generation(2)
    desk.want(put(A, 1, 2))
    assert desk.next() == write(put(A, 1, 2))
    desk.keeper.write_done(3)
    assert desk.next() == Read()


def test_reads_that_follow_doubts_take_one_part_in_twenty_of_the_time() -> None:
    desk = level({A: 1}, cost=0.5, poll=inf)
    desk.keeper.doubt()
    until = 0.5 + READ_SHARE * 0.5
    assert desk.next() == Nothing(until)
    desk.now = until
    assert desk.next() == Read()


def test_after_a_long_quiet_a_doubt_is_followed_up_at_once_however_dear() -> None:
    desk = level({A: 1}, cost=5.0, poll=inf)
    desk.now = 1000.0
    desk.keeper.doubt()
    assert desk.next() == Read()


def test_a_failure_does_not_wait_for_the_budget() -> None:
    desk = level({A: 1}, cost=5.0)
    desk.keeper.lost()
    assert desk.next() == Read()


def test_who_asks_for_a_look_gets_it_at_once() -> None:
    desk = level({A: 1}, cost=5.0, poll=inf)
    desk.keeper.look()
    assert desk.next() == Read()
    desk.read({A: 1})
    assert isinstance(desk.next(), Nothing)
    desk.keeper.look()
    desk.want(put(A, 1, 2))
    assert desk.next() == write(put(A, 1, 2))
    desk.keeper.write_done()
    assert desk.next() == Read()


def test_where_commits_are_not_counted_it_looks_from_time_to_time() -> None:
    desk = level({A: 1}, poll=inf, verify=60.0)
    assert desk.next() == Nothing(60.0)
    desk.now = 60.0
    assert desk.next() == Read()


# --- laws -------------------------------------------------------------------------------

KEYS = st.sampled_from([A, B, C, Key("p", "thing", ("d",))])
OBJECTS = st.dictionaries(KEYS, st.integers(0, 2))


@given(OBJECTS, OBJECTS, OBJECTS)
def test_law_after_does_in_one_go_what_two_do(a: Any, b: Any, c: Any) -> None:
    both = after(diff(a, b), diff(b, c))
    assert apply(both, a) == c
    assert by_key(both) == by_key(diff(a, c))


EVENTS = st.lists(
    st.one_of(
        st.sampled_from(["step", "step", "step", "lost", "refused", "stale", "doubt", "foreign"]),
        OBJECTS,
    ),
    max_size=30,
)


@given(EVENTS, OBJECTS)
def test_law_whatever_happens_the_plane_ends_as_wanted(events: list[Any], there: dict[Key, Object]) -> None:
    desk = Desk({}, poll=1.0)
    plane = dict(there)
    generation = 1

    def carry_out(failure: str = "") -> None:
        nonlocal plane, generation
        command = desk.next()
        if failure and isinstance(command, Read | Write):
            if failure == "lost" and isinstance(command, Write):
                plane = apply(command.steps[0].changes, plane) if command.steps else plane
                generation += 1
            getattr(desk.keeper, "lost" if isinstance(command, Read) else failure)()
        elif isinstance(command, Read):
            desk.keeper.read_done(plane, desk.now, generation)
        elif isinstance(command, Write):
            for step in command.steps:
                plane = apply(step.changes, plane)
            generation += 1
            desk.keeper.write_done(generation)
        elif isinstance(command, Poll):
            desk.keeper.generation(generation)
        else:
            desk.now = command.until

    for event in events:
        if isinstance(event, dict):
            desk.want(*diff(dict(desk.wanted), event))
        elif event == "foreign":
            plane = {A: "somebody else's"}
            generation += 1
        elif event == "doubt":
            desk.keeper.doubt()
        else:
            carry_out("" if event == "step" else event)
    for _ in range(8):
        carry_out()
    assert plane == desk.wanted
    assert desk.keeper.level


def test_what_has_no_more_room_is_made_anew_with_the_next_write() -> None:
    law_saw: list[Change] = []

    def law(changes: Any, wanted: Any) -> list[Change]:
        law_saw[:] = changes
        return list(changes)

    desk = level({A: 1}, law=law)
    desk.want(add(B, 2))
    assert isinstance(desk.next(), Write)
    desk.keeper.refused()
    assert desk.keeper.outgrown(A)
    assert not desk.keeper.outgrown(A)  # twice is no help
    desk.read({A: 1})
    assert isinstance(desk.next(), Write)
    assert law_saw == [add(B, 2), put(A, 1, 1)]
    desk.keeper.write_done(2)
    desk.want(add(C, 3))
    assert isinstance(desk.next(), Write)
    assert law_saw == [add(C, 3)]
