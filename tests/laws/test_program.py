"""
Laws of programs: a plan leads where it says, and linking has no memory.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.program.link import Linker
from kubeway.program.plan import apply, diff, steps
from kubeway.program.plane import Mode
from kubeway.program.program import Key
from tests import fragments
from tests.programs import BASE, ORDER, Updates, base, linked, programs, updates


@given(programs(), programs())
def test_a_plan_leads_from_the_one_to_the_other(a: dict[Key, Any], b: dict[Key, Any]) -> None:
    assert apply(diff(a, b), a) == b


@given(programs())
def test_what_is_as_wanted_needs_no_plan(a: dict[Key, Any]) -> None:
    assert list(diff(a, dict(a))) == []


@given(programs(), programs())
def test_steps_hold_every_change_once(a: dict[Key, Any], b: dict[Key, Any]) -> None:
    changes = list(diff(a, b))
    assert sorted(c.key for step in steps(changes, ORDER) for c in step.changes) == sorted(
        c.key for c in changes
    )


@given(st.lists(updates(), max_size=6))
def test_linking_step_by_step_equals_linking_at_once(history: list[Updates]) -> None:
    linker = linked(*history)
    last: Updates = {BASE: base()}
    for update in history:
        last |= update
    at_once = Linker()
    at_once.update(last)
    assert dict(linker.objects) == dict(at_once.objects)
    for key, obj in linker.objects.items():
        names = linker.claimants(key)
        assert names == at_once.claimants(key)
        # Who of those that agree is named as the holder is left open; he who holds it in a quarrel is not.
        agreeing = [last[name].origin for name in names if last[name].objects[key] == obj]
        assert linker.origin(key) in agreeing
        if len(agreeing) < len(names):
            assert last[names[0]].objects[key] == obj


@given(st.lists(updates(), max_size=6))
def test_the_linkers_changes_are_the_difference(history: list[Updates]) -> None:
    linker = linked()
    for update in history:
        before = dict(linker.objects)
        changes = linker.update(update)
        assert sorted(c.key for c in changes) == sorted(c.key for c in diff(before, linker.objects))
        assert apply(changes, before) == linker.objects


@given(st.lists(updates(), max_size=4))
def test_when_all_are_taken_out_nothing_is_left(history: list[Updates]) -> None:
    linker = linked(*history)
    linker.update({name: None for update in ({BASE: None}, *history) for name in update})
    assert dict(linker.objects) == {}
    assert all(not kept for kept in (linker._counts, linker._contested, linker._fragments))


@given(updates())
def test_filling_an_empty_linker_is_updating_it(update: Updates) -> None:
    fragments = {name: fragment for name, fragment in update.items() if fragment is not None}
    filled, updated = Linker(), Linker()
    filled.fill(fragments)
    updated.update(fragments)
    assert dict(filled.objects) == dict(updated.objects)
    # And what is kept beside the objects is right, too: all goes when all is taken out.
    filled.update(dict.fromkeys(fragments))
    assert dict(filled.objects) == {}
    assert not filled._counts


# --- the same of what the modes make ------------------------------------------------------

by_mode = pytest.mark.parametrize("mode", fragments.MODES, ids=lambda mode: mode.name)


@by_mode
@given(data=st.data())
def test_linking_what_a_mode_makes_has_no_memory(mode: Mode, data: st.DataObject) -> None:
    history = data.draw(fragments.histories(mode))
    linker = Linker()
    for update in history:
        before = dict(linker.objects)
        changes = linker.update(update)
        assert sorted(c.key for c in changes) == sorted(c.key for c in diff(before, linker.objects))
        assert apply(changes, before) == linker.objects
    last: fragments.Updates = {}
    for update in history:
        last |= update
    assert dict(linker.objects) == dict(fragments.linked(last).objects)
    filled = Linker()
    filled.fill({name: one for name, one in last.items() if one is not None})
    assert dict(linker.objects) == dict(filled.objects)
    linker.update(dict.fromkeys(last))
    assert dict(linker.objects) == {}
    assert all(not kept for kept in (linker._counts, linker._contested, linker._fragments))


@by_mode
@given(data=st.data())
def test_steps_of_what_a_mode_makes_hold_every_change_once(mode: Mode, data: st.DataObject) -> None:
    a, b = (dict(fragments.linked(*data.draw(fragments.histories(mode, 2))).objects) for _ in range(2))
    changes = list(diff(a, b))
    done = [change for step in steps(changes, mode.planes) for change in step.changes]
    assert sorted(c.key for c in done) == sorted(c.key for c in changes)
    assert apply(done, a) == b
