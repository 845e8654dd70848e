"""Commits counted by looking."""

from __future__ import annotations

import asyncio
import threading

import pytest

from kubeway.shell.aloof import SMALL, aloof
from kubeway.shell.sightings import Sightings


def test_a_first_look_counts_nothing() -> None:
    assert Sightings[int]().look(7) == 0


def test_whatever_happened_between_two_looks_is_one_commit() -> None:
    one = Sightings[int]()
    assert [one.look(seen) for seen in (7, 7, 9, 9, 7)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(("alone", "count"), [(True, 1), (False, 2)])
def test_what_we_wrote_is_one_and_somebody_elses_one_more(alone: bool, count: int) -> None:
    one = Sightings[int]()
    one.look(7)
    one.wrote(8, alone=alone)
    assert one.count == count
    assert one.look(8) == count


@pytest.mark.parametrize(("count", "here"), [(1, True), (SMALL, True), (SMALL + 1, False)])
def test_much_work_is_done_in_a_thread(count: int, here: bool) -> None:
    where: list[int] = []

    def work(items: object) -> None:
        where.append(threading.get_ident())

    asyncio.run(aloof(work, list(range(count))))
    assert (where == [threading.get_ident()]) == here
