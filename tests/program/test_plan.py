from __future__ import annotations

import pytest

from kubeway.planes.nft.objects import Goto, Jump
from kubeway.program.plan import apply, diff, steps
from kubeway.program.program import Change, Key
from tests.programs import add, drop, put


def key(kind: str, name: str = "x", plane: str = "p") -> Key:
    return Key(plane, kind, (name,))


# --- diff -------------------------------------------------------------------------------


def test_diff_tells_what_is_missing_altered_and_too_much() -> None:
    a, b, c, d = (key("k", name) for name in "abcd")
    assert set(diff({a: 1, b: 2, d: 4}, {b: 3, c: 5, d: 4})) == {drop(a, 1), put(b, 2, 3), add(c, 5)}


def test_diff_tells_types_apart() -> None:
    a = key("k")
    assert list(diff({a: Jump("x")}, {a: Goto("x")})) == [put(a, Jump("x"), Goto("x"))]


class Touchy:
    """Not to be compared."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    __hash__ = None  # type: ignore[assignment]


def test_diff_does_not_compare_an_object_with_itself() -> None:
    one = Touchy()
    assert list(diff({key("k"): one}, {key("k"): one})) == []


# --- apply ------------------------------------------------------------------------------


def test_apply_leaves_its_argument_alone() -> None:
    before = {key("k", "a"): 1}
    assert apply([drop(key("k", "a"), 1), add(key("k", "b"), 2)], before) == {key("k", "b"): 2}
    assert before == {key("k", "a"): 1}


def test_apply_is_safe_to_repeat() -> None:
    changes = [drop(key("k", "a"), 1), add(key("k", "b"), 2)]
    once = apply(changes, {key("k", "a"): 1})
    assert apply(changes, once) == once


# --- steps ------------------------------------------------------------------------------

ONE = {"p": ("ground", "wall", "roof")}
TWO = {"relay": ("listener",), "nft": ("chain", "rules")}


def test_no_changes_no_steps() -> None:
    assert steps([], ONE) == []


def test_what_is_pointed_at_is_built_before_what_points_at_it_and_cleared_after() -> None:
    changes = [
        drop(key("ground", "old"), 1),
        add(key("roof"), 1),
        drop(key("roof", "old"), 1),
        put(key("ground"), 1, 2),
        add(key("wall"), 1),
    ]
    (step,) = steps(changes, ONE)
    assert step.plane == "p"
    assert [(c.verb, c.key.kind) for c in step.changes] == [
        ("set", "ground"),
        ("add", "wall"),
        ("add", "roof"),
        ("del", "roof"),
        ("del", "ground"),
    ]


def test_within_a_kind_the_order_is_kept() -> None:
    changes = [add(key("wall", str(i)), i) for i in (3, 1, 2)]
    assert steps(changes, ONE)[0].changes == changes


def test_over_two_planes_the_top_one_swings_over_in_one_step() -> None:
    changes = [
        drop(key("listener", "old", "relay"), 1),
        drop(key("rules", "old", "nft"), 1),
        add(key("rules", "new", "nft"), 2),
        add(key("listener", "new", "relay"), 2),
    ]
    assert [(s.plane, [c.verb for c in s.changes]) for s in steps(changes, TWO)] == [
        ("relay", ["add"]),
        ("nft", ["add", "del"]),
        ("relay", ["del"]),
    ]


def test_planes_without_changes_have_no_step() -> None:
    assert [s.plane for s in steps([add(key("rules", plane="nft"), 1)], TWO)] == ["nft"]


@pytest.mark.parametrize("stranger", [key("kind nobody knows"), key("wall", plane="elsewhere")])
def test_a_kind_no_plane_names_is_a_mistake(stranger: Key) -> None:
    with pytest.raises(KeyError):
        steps([Change("add", stranger, None, 1)], ONE)
