"""The table of kubeway.machines.convergence, and its law: what it says is held, is."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from kubeway.machines.convergence import Convergence

STREAMS = ("services", "slices")


def listed(services: int = 10, slices: int = 10) -> Convergence:
    """Both streams were listed, and a sync has ended."""
    made = Convergence(STREAMS)
    made.changed(0.0)
    made.heard("services", services, anew=True)
    made.heard("slices", slices, anew=True)
    made.taken()
    made.arrived()
    return made


def test_nothing_is_held_before_every_stream_was_heard() -> None:
    made = Convergence(STREAMS)
    made.heard("services", 10, anew=True)
    made.taken()
    made.arrived()
    assert not made.holds(10)
    made.heard("slices", 12, anew=True)
    assert made.holds(10), "this changed nothing, so it needed no sync"
    assert not made.holds(11), "the services may have a write of that number"


def test_a_write_is_held_when_a_sync_that_took_it_has_ended() -> None:
    made = listed()
    made.changed(1.0)
    made.heard("slices", 11, writes=[11])
    assert not made.holds(11)
    made.taken()
    made.changed(2.0)
    made.heard("slices", 12, writes=[12])
    assert not made.holds(11)
    made.arrived()
    assert made.holds(11)
    assert not made.holds(12)
    made.taken()
    made.arrived()
    assert made.holds(12)


def test_a_stream_that_is_ahead_says_nothing_of_the_other() -> None:
    made = listed()
    made.changed(1.0)
    made.heard("services", 12, writes=[12])
    made.taken()
    made.arrived()
    assert made.holds(12)
    assert not made.holds(11), "this may be a write of slices that was not heard of yet"
    made.heard("slices", 20)
    assert made.holds(11), "the slices are past it: it was not for us"
    assert not made.holds(13)


def test_what_comes_during_a_sync_is_for_the_next() -> None:
    made = listed()
    made.taken()
    made.changed(1.0)
    made.heard("services", 12, writes=[12])
    made.heard("slices", 13, writes=[13])
    made.arrived()
    assert not made.holds(11)
    assert not made.holds(12)
    made.taken()
    made.arrived()
    assert made.holds(12)


def test_a_sync_that_failed_holds_nothing() -> None:
    made = listed()
    made.changed(1.0)
    made.heard("slices", 11, writes=[11])
    made.taken()
    made.heard("services", 15)
    made.heard("slices", 15)
    assert not made.holds(11)
    made.taken()
    made.arrived()
    assert made.holds(11)
    assert made.holds(15)


def test_what_was_refused_is_not_held() -> None:
    made = listed()
    made.taken()
    made.arrived(aside=1)
    assert not made.holds(5)
    made.taken()
    made.arrived()
    assert made.holds(5)


def test_a_stream_that_is_not_there_is_not_waited_for() -> None:
    made = Convergence((*STREAMS, "cidrs"))
    made.heard("services", 10, anew=True)
    made.heard("slices", 10, anew=True)
    assert not made.holds(10)
    made.absent("cidrs")
    assert made.holds(10)
    made.heard("cidrs", 5, anew=True)
    assert made.streams == {"services": 10, "slices": 10, "cidrs": 5}
    assert made.holds(10), "what was true stays true"


def test_a_restored_cluster_counts_anew() -> None:
    made = listed(100, 100)
    made.heard("services", 101, writes=[101])
    assert made.holds(101)
    made.changed(1.0)
    made.heard("services", 40, anew=True)
    assert not made.holds(30)
    made.taken()
    made.arrived()
    assert made.holds(40)
    assert not made.holds(41), "of the other stream nothing is known under the new count"
    assert not made.holds(101)


def test_a_list_at_a_higher_number_forgets_nothing() -> None:
    made = listed()
    made.changed(1.0)
    made.heard("services", 20, anew=True)
    assert made.holds(10)
    assert not made.holds(20)


def test_the_lag_is_that_of_the_oldest_change() -> None:
    made = listed()
    assert made.lag(5.0) == 0.0
    made.changed(5.0)
    made.changed(6.0)
    assert made.lag(7.0) == 2.0
    made.taken()
    made.changed(8.0)
    assert made.lag(9.0) == 4.0
    made.taken()
    assert made.lag(9.0) == 4.0, "that sync failed"
    made.changed(10.0)
    made.arrived()
    assert made.lag(12.0) == 2.0


def test_who_waits_is_told() -> None:
    told: list[int] = []
    made = Convergence(STREAMS, lambda: told.append(1))
    made.heard("services", 10, anew=True)
    before = len(told)
    made.taken()
    assert len(told) == before
    made.arrived()
    assert len(told) > before


def test_manifests_have_no_versions() -> None:
    made = Convergence(())
    made.taken()
    made.arrived()
    assert not made.holds(1)
    assert not made.streams


# --- the law ------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One thing that happens. `who` is a stream, where one is needed."""

    what: str
    who: str = ""
    upto: int = 0


STEPS = st.one_of(
    st.builds(Step, st.sampled_from(["write", "idle write"]), st.sampled_from((*STREAMS, "others"))),
    st.builds(Step, st.sampled_from(["deliver", "bookmark", "relist"]), st.sampled_from(STREAMS)),
    st.builds(Step, st.sampled_from(["take", "arrive", "fail"])),
)


@given(st.lists(STEPS, max_size=60))
def test_what_it_says_is_held_is_in_the_kernel(steps: list[Step]) -> None:
    made = Convergence(STREAMS)
    writes: list[tuple[str, bool]] = []  # of the number that is its index: whose, and whether it matters
    at = dict.fromkeys(STREAMS, 0)
    store: set[int] = set()
    taken: set[int] | None = None
    kernel: set[int] = set()
    for now, step in enumerate(steps):
        if "write" in step.what:
            writes.append((step.who, step.what == "write"))
        elif step.what in ("deliver", "relist"):
            fresh = [n for n in range(at[step.who], len(writes)) if writes[n][0] == step.who]
            if step.what == "deliver":
                fresh = fresh[:1]  # one at a time
            at[step.who] = fresh[-1] + 1 if step.what == "deliver" and fresh else at[step.who]
            if step.what == "relist":
                at[step.who] = len(writes)
            if any(writes[n][1] for n in fresh):
                made.changed(float(now))
            store.update(fresh)
            if step.what == "relist":
                made.heard(step.who, len(writes), anew=True)
            elif fresh:
                made.heard(step.who, fresh[0] + 1, writes=[fresh[0] + 1])
        elif step.what == "bookmark":
            rest = range(at[step.who], len(writes))
            if all(writes[n][0] != step.who for n in rest):
                at[step.who] = len(writes)
                made.heard(step.who, len(writes))
        elif step.what == "take":
            taken = set(store)
            made.taken()
        elif step.what == "arrive" and taken is not None:
            kernel |= taken
            taken = None
            made.arrived()
        for number, (whose, matters) in enumerate(writes):
            if made.holds(number + 1) and whose != "others":
                assert number in (kernel if matters else store)
    for stream in STREAMS:
        made.heard(stream, len(writes), anew=True)
    made.taken()
    made.arrived()
    assert all(made.holds(number + 1) for number in range(len(writes)))
