"""What xtables tables demand, as values; tests/kernel asks the kernel for the same."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest
from hypothesis import given

from kubeway.errors import Refused
from kubeway.planes.memory import MemoryPlane
from kubeway.planes.xtables import laws
from kubeway.planes.xtables import objects as o
from kubeway.planes.xtables.laws import RIGID, place, references
from kubeway.program.plan import diff, steps
from kubeway.program.program import Change, Key
from tests.planes.xtprograms import programs, rule
from tests.programs import add, drop, put

ORDER = {o.PLANE: o.KINDS}
A, B = (
    o.chain_key("ip", "nat", "KUBE-SVC-AAAAAAAAAAAAAAAA"),
    o.chain_key("ip", "nat", "KUBE-SVC-BBBBBBBBBBBBBBBB"),
)
A_RULES, B_RULES = (
    o.rules_key("ip", "nat", "KUBE-SVC-AAAAAAAAAAAAAAAA"),
    o.rules_key("ip", "nat", "KUBE-SVC-BBBBBBBBBBBBBBBB"),
)
JUMP = o.jump_key("ip", "nat", "OUTPUT", 1)
TO_A, TO_B = rule(to=o.Jump("KUBE-SVC-AAAAAAAAAAAAAAAA")), rule(to=o.Goto("KUBE-SVC-BBBBBBBBBBBBBBBB"))
BRANCH = o.branch_key("ip", "nat", "KUBE-BY-S", TO_B)
SMALL: dict[Key, Any] = {
    A: o.Chain(),
    A_RULES: o.Rules((TO_B,)),
    B: o.Chain(),
    B_RULES: o.Rules(),
    JUMP: TO_A,
}


@pytest.mark.parametrize(
    ("key", "inside"),
    [(A_RULES, A), (BRANCH, o.chain_key("ip", "nat", "KUBE-BY-S")), (A, None), (JUMP, None)],
)
def test_place(key: Key, inside: Key | None) -> None:
    assert place(key) == inside


@pytest.mark.parametrize(
    ("key", "obj", "named"),
    [
        (A_RULES, o.Rules((TO_B, rule(to=o.Drop()), rule(), TO_A)), [B, A]),
        (JUMP, TO_A, [A]),
        (BRANCH, TO_B, [B]),
        (
            o.rules_key("ip6", "filter", "KUBE-SVC-AAAAAAAAAAAAAAAA"),
            o.Rules((TO_B,)),
            [o.chain_key("ip6", "filter", "KUBE-SVC-BBBBBBBBBBBBBBBB")],
        ),
        (A, o.Chain(), []),
        # Whatever somebody put into a chain of ours: their chains are no objects.
        (
            A_RULES,
            o.Rules(
                (rule(to=o.Jump("DOCKER")), rule(to=o.ForeignTarget(("-j", "KUBE-SVC-BBBBBBBBBBBBBBBB"))))
            ),
            [],
        ),
    ],
)
def test_references(key: Key, obj: Any, named: list[Key]) -> None:
    assert list(references(key, obj)) == named


def write(plane: MemoryPlane, *changes: Change) -> None:
    asyncio.run(plane.write(changes))


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ([drop(B, o.Chain())], errno.EBUSY),
        ([drop(A, o.Chain())], errno.EBUSY),
        ([drop(JUMP, TO_A), drop(B, o.Chain())], errno.EBUSY),
        ([put(JUMP, TO_A, rule(to=o.Jump("KUBE-SVC-CCCCCCCCCCCCCCCC")))], errno.ENOENT),
        ([add(o.rules_key("ip", "nat", "KUBE-SVC-CCCCCCCCCCCCCCCC"), o.Rules())], errno.ENOENT),
        ([add(BRANCH, TO_B)], errno.ENOENT),
        # Of that name, but in another table.
        ([add(o.jump_key("ip", "filter", "INPUT", 1), TO_A)], errno.ENOENT),
    ],
)
def test_the_plane_refuses(changes: list[Change], number: int) -> None:
    plane = MemoryPlane(laws, SMALL)
    with pytest.raises(Refused) as caught:
        write(plane, *changes)
    assert caught.value.errno == number
    assert plane.objects == SMALL


def test_what_nothing_names_any_more_can_go() -> None:
    plane = MemoryPlane(laws, SMALL)
    write(plane, put(A_RULES, SMALL[A_RULES], o.Rules()), drop(B_RULES, o.Rules()), drop(B, o.Chain()))
    assert plane.objects == {A: o.Chain(), A_RULES: o.Rules(), JUMP: TO_A}
    # A chain's rules go with it.
    write(plane, drop(JUMP, TO_A), drop(A, o.Chain()))
    assert plane.objects == {}


def test_nothing_is_rigid() -> None:
    assert not RIGID


@given(programs("ip"), programs("ip"))
def test_law_a_plan_in_its_order_is_taken(before: dict[Key, Any], after: dict[Key, Any]) -> None:
    plane = MemoryPlane(laws, before)
    for step in steps(diff(before, after), ORDER):
        write(plane, *step.changes)
    assert plane.objects == after
