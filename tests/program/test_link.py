from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import pytest

from kubeway.program.link import Linker
from kubeway.program.program import Fragment, Key, Origin
from tests.programs import add, drop, put

A, B, C = (Key("p", "k", (name,)) for name in "abc")


def fragment(objects: Mapping[Key, object], reason: str = "") -> Fragment:
    return Fragment(Origin(None, reason), objects)


def test_what_a_fragment_brings_is_added() -> None:
    linker = Linker()
    assert linker.update({"x": fragment({A: 1, B: 2})}) == [add(A, 1), add(B, 2)]
    assert linker.objects == {A: 1, B: 2}


def test_a_new_fragment_of_a_name_takes_the_place_of_the_old() -> None:
    linker = Linker()
    linker.update({"x": fragment({A: 1, B: 2})})
    assert linker.update({"x": fragment({B: 3, C: 4})}) == [put(B, 2, 3), add(C, 4), drop(A, 1)]
    assert linker.objects == {B: 3, C: 4}


def test_an_equal_fragment_changes_nothing() -> None:
    linker = Linker()
    linker.update({"x": fragment({A: (1, 2)})})
    assert linker.update({"x": fragment({A: (1, 2)})}) == []


def test_none_takes_it_out() -> None:
    linker = Linker()
    linker.update({"x": fragment({A: 1})})
    assert linker.update({"x": None}) == [drop(A, 1)]
    assert linker.objects == {}
    assert linker.origin(A) is None
    assert linker.claimants(A) == []


def test_taking_out_what_was_never_in_is_nothing() -> None:
    assert Linker().update({"x": None}) == []


def test_what_several_bring_goes_with_the_last_of_them() -> None:
    linker = Linker()
    assert linker.update({"x": fragment({A: 1}), "y": fragment({A: 1}), "z": fragment({A: 1})}) == [add(A, 1)]
    assert linker.update({"x": None}) == []
    assert linker.update({"z": None}) == []
    assert linker.update({"y": None}) == [drop(A, 1)]


@pytest.mark.parametrize("order", list(permutations("xyz")))
def test_of_several_the_smallest_name_holds_the_key_whatever_the_order(order: tuple[str, ...]) -> None:
    linker = Linker()
    for name in order:
        linker.update({name: fragment({A: name}, f"of {name}")})
    assert linker.objects == {A: "x"}
    assert linker.claimants(A) == ["x", "y", "z"]
    assert linker.origin(A) == Origin(None, "of x")


def test_when_the_holder_goes_the_next_takes_over() -> None:
    linker = Linker()
    linker.update({name: fragment({A: name}, f"of {name}") for name in "xyz"})
    assert linker.update({"x": None}) == [put(A, "x", "y")]
    assert linker.origin(A) == Origin(None, "of y")
    assert linker.update({"y": None}) == [put(A, "y", "z")]
    assert linker.claimants(A) == ["z"]


def test_one_that_waits_may_change_its_mind_unseen() -> None:
    linker = Linker()
    linker.update({name: fragment({A: name}) for name in "xy"})
    assert linker.update({"y": fragment({A: "other"})}) == []
    assert linker.update({"x": None}) == [put(A, "x", "other")]


def test_a_key_that_passes_from_one_to_another_in_one_update_is_set_once() -> None:
    linker = Linker()
    linker.update({"x": fragment({A: 1})})
    assert linker.update({"x": None, "y": fragment({A: 2})}) == [put(A, 1, 2)]
    assert linker.update({"y": None, "x": fragment({A: 2})}) == []


def test_what_comes_and_goes_in_one_update_is_no_change() -> None:
    linker = Linker()
    linker.update({"x": fragment({A: 1})})
    assert linker.update({"y": fragment({A: 5}), "x": fragment({A: 1})}) == []
    assert linker.update({"a": fragment({A: 1}), "x": None, "y": None}) == []
    assert linker.claimants(A) == ["a"]


def test_an_equal_object_of_another_fragment_is_no_change_but_changes_whose_it_is() -> None:
    linker = Linker()
    linker.update({"x": fragment({A: 1}, "of x"), "y": fragment({A: 1}, "of y")})
    assert linker.update({"x": fragment({B: 2}, "of x")}) == [add(B, 2)]
    assert linker.origin(A) == Origin(None, "of y")


def test_the_program_cannot_be_changed_from_outside() -> None:
    linker = Linker()
    with pytest.raises(TypeError):
        linker.objects[A] = 1  # type: ignore[index]


def test_a_change_costs_what_it_is_not_what_there_is() -> None:
    class Counted(dict[Key, object]):
        looked_at = 0

        def __getitem__(self, key: Key) -> object:
            Counted.looked_at += 1
            return super().__getitem__(key)

    linker = Linker()
    linker.update({i: fragment(Counted({Key("p", "k", (i,)): i})) for i in range(1000)})
    Counted.looked_at = 0
    linker.update({5: fragment({Key("p", "k", (5,)): "new"})})
    assert Counted.looked_at <= 2


def test_when_all_revise_what_they_share_nobody_is_asked_more_than_once() -> None:
    """A change of the node makes every fragment anew; this must not cost their number squared."""
    asked = 0

    class Asked(dict[Key, object]):
        def __getitem__(self, key: Key) -> object:
            nonlocal asked
            asked += 1
            return super().__getitem__(key)

    def everybody(shared: object) -> dict[str, Fragment | None]:
        own = [Key("p", "k", (name,)) for name in range(300)]
        return {f"x{n}": fragment(Asked({A: shared, own[n]: n})) for n in range(300)}

    linker = Linker()
    linker.update(everybody([1]))
    asked = 0
    assert linker.update(everybody([1])) == []  # equal, but not the same
    assert linker.update(everybody([2])) == [put(A, [1], [2])]
    assert asked < 10 * 300
    assert linker.update(dict.fromkeys(f"x{n}" for n in range(300)))
    assert linker.objects == {}
