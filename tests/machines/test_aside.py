from __future__ import annotations

from math import inf

from kubeway.machines.aside import Aside


def test_the_second_refusal_sets_aside() -> None:
    aside: Aside[str] = Aside(first=5.0)
    assert aside.refused(["a"], now=0.0) == {}
    assert aside.refused(["a"], now=1.0) == {"a": 5.0}
    assert "a" in aside
    assert aside.due() == 6.0


def test_a_write_that_goes_through_takes_the_warning_back() -> None:
    aside: Aside[str] = Aside()
    aside.refused(["a"], now=0.0)
    aside.written()
    assert aside.spotless
    assert aside.refused(["a"], now=1.0) == {}


def test_on_probation_one_refusal_is_enough_and_the_time_doubles_to_a_cap() -> None:
    aside: Aside[str] = Aside(first=5.0, cap=15.0)
    aside.refused(["a"], now=0.0)
    delays = [aside.refused(["a"], now=0.0)["a"]]
    for _ in range(3):
        now = aside.due()
        assert aside.came_round(now - 0.1) == []
        assert aside.came_round(now) == ["a"]
        assert "a" not in aside
        delays.append(aside.refused(["a"], now)["a"])
    assert delays == [5.0, 10.0, 15.0, 15.0]


def test_a_probation_that_was_passed_leaves_nothing_behind() -> None:
    aside: Aside[str] = Aside(first=5.0)
    for _ in range(2):
        aside.refused(["a", "b"], now=0.0)
    aside.came_round(5.0)
    aside.written()
    assert aside.spotless
    assert aside.due() == inf


def test_those_still_aside_keep_their_record_when_others_are_written() -> None:
    aside: Aside[str] = Aside(first=5.0)
    for _ in range(2):
        aside.refused(["a"], now=0.0)
    aside.written()
    aside.came_round(5.0)
    assert aside.refused(["a"], now=5.0) == {"a": 10.0}


def test_what_is_aside_already_is_not_set_aside_again() -> None:
    aside: Aside[str] = Aside(first=5.0)
    for _ in range(2):
        aside.refused(["a"], now=0.0)
    assert aside.refused(["a"], now=1.0) == {}
    assert aside.due() == 5.0


def test_forgiven_it_begins_anew() -> None:
    aside: Aside[str] = Aside()
    for _ in range(2):
        aside.refused(["a"], now=0.0)
    aside.forgive("a")
    assert aside.spotless
    assert "a" not in aside
    assert aside.refused(["a"], now=0.0) == {}
