from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.machines.pacer import COST_FACTOR, Pacer, State


class Fixed:
    """Chance that always says the same."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


def pacer(**more: float) -> Pacer:
    return Pacer(rng=Fixed(0.0), **more)


def sync(p: Pacer, now: float, cost: float = 0.0, ok: bool = True) -> float:
    p.started(now)
    return p.done(now + cost, ok)


def test_nothing_to_do_is_never_due() -> None:
    assert pacer(gap=1.0).due(5.0) == inf


def test_the_first_change_after_quiet_is_due_at_once() -> None:
    p = pacer(gap=1.0)
    p.noted()
    assert p.due(5.0) == 5.0
    sync(p, 5.0)
    p.noted()
    assert p.due(100.0) == 100.0


def test_while_changes_keep_coming_syncs_start_a_gap_apart() -> None:
    p = pacer(gap=1.0)
    p.noted()
    sync(p, 5.0, cost=0.2)
    p.noted()
    p.noted()
    assert p.due(5.2) == 6.0
    sync(p, 6.0)
    assert p.due(6.0) == inf


def test_a_change_during_a_sync_goes_into_the_next() -> None:
    p = pacer(gap=1.0)
    p.noted()
    p.started(5.0)
    assert p.due(5.1) == inf
    p.noted()
    p.done(5.2, ok=True)
    assert p.due(5.2) == 6.0


@pytest.mark.parametrize(
    ("cost", "gap"),
    [(0.001, 0.01), (0.1, 0.1 * COST_FACTOR), (5.0, 1.0)],
    ids=["cheap: least", "by cost", "dear: most"],
)
def test_an_own_gap_follows_the_cost(cost: float, gap: float) -> None:
    p = pacer(least=0.01, most=1.0)
    p.noted()
    sync(p, 0.0, cost)
    p.noted()
    assert p.due(0.0) == pytest.approx(gap)


def test_a_gap_that_was_asked_for_stays() -> None:
    p = pacer(gap=0.5)
    p.noted()
    sync(p, 0.0, cost=10.0)
    assert p.gap == 0.5


def test_a_failed_sync_is_retried_after_a_back_off_that_doubles_to_a_cap() -> None:
    p = pacer(gap=0.0, retry=1.0, cap=5.0)
    p.noted()
    delays = []
    now = 0.0
    for _ in range(5):
        delays.append(sync(p, now, ok=False))
        assert p.state is State.RETRYING
        now = p.due(now)
    assert delays == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert now == sum(delays)


def test_success_ends_the_back_off() -> None:
    p = pacer(gap=0.0, retry=1.0)
    p.noted()
    sync(p, 0.0, ok=False)
    sync(p, p.due(0.0), ok=True)
    assert p.due(9.0) == inf
    p.noted()
    assert sync(p, 9.0, ok=False) == 1.0


def test_news_is_written_before_the_back_off_ends_for_it_may_be_the_cure() -> None:
    p = pacer(gap=0.1, retry=60.0, cap=60.0)
    p.noted()
    sync(p, 0.0, ok=False)
    assert p.due(0.0) == 60.0
    p.noted()
    assert p.due(0.0) == pytest.approx(0.1)


def test_news_during_a_failing_sync_counts_too() -> None:
    p = pacer(gap=0.1, retry=60.0, cap=60.0)
    p.noted()
    p.started(0.0)
    p.noted()
    p.done(0.05, ok=False)
    assert p.due(0.05) == pytest.approx(0.1)


def test_chance_takes_up_to_a_quarter_off_the_back_off() -> None:
    p = Pacer(rng=Fixed(0.9999), gap=0.0, retry=8.0)
    p.noted()
    assert sync(p, 0.0, ok=False) == pytest.approx(6.0, abs=0.001)


def test_the_same_seed_gives_the_same_times() -> None:
    def delays(seed: int) -> list[float]:
        p = Pacer(rng=Random(seed), gap=0.0)
        p.noted()
        return [sync(p, p.due(i * 100.0), ok=False) for i in range(5)]

    assert delays(1) == delays(1) != delays(2)


def test_it_can_fail_for_ever() -> None:
    p = pacer(gap=0.0, retry=1.0, cap=30.0)
    p.noted()
    for i in range(2000):
        delay = sync(p, i * 100.0, ok=False)
    assert delay == 30.0


EVENTS = st.lists(
    st.tuples(st.sampled_from(["note", "wait", "sync", "fail"]), st.floats(0.0, 2.0)), max_size=40
)


@given(EVENTS, st.none() | st.floats(0.0, 3.0), st.integers())
def test_law_syncs_keep_their_gap_and_no_change_is_forgotten(
    events: list[tuple[str, float]], gap: float | None, seed: int
) -> None:
    p = Pacer(rng=Random(seed), gap=gap)
    now, last_start, owed = 0.0, -inf, False
    for event, span in events:
        if event == "note":
            p.noted()
            owed = True
        elif event == "wait":
            now += span
        elif p.due(now) < inf:
            now = max(now, p.due(now))
            assert now - last_start >= p.gap - 1e-9
            p.started(now)
            last_start = now
            now += span
            p.done(now, ok=event == "sync")
            owed = event == "fail"
        assert (p.due(now) < inf) == owed
        assert p.due(now) >= now
