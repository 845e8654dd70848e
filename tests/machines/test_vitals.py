"""The table of kubeway.machines.vitals, and kube-proxy's judgement of health."""

from __future__ import annotations

import pytest

from kubeway.machines.vitals import DOOMED, PATIENCE, Eligibility, Vitals
from kubeway.model.objects import Node

SECOND = 1_000_000_000


def test_before_it_has_begun_it_is_well_but_not_ready() -> None:
    vitals = Vitals()
    vitals.noted(0)
    assert vitals.healthy(10 * PATIENCE)
    assert not vitals.ready
    assert vitals.updated is None


def test_a_change_that_waits_too_long_makes_it_unwell() -> None:
    vitals = Vitals()
    vitals.begun(0)
    assert vitals.healthy(10 * PATIENCE), "nothing waits"
    vitals.noted(5 * SECOND)
    vitals.noted(50 * SECOND)
    assert vitals.healthy(5 * SECOND + PATIENCE - 1)
    assert not vitals.healthy(5 * SECOND + PATIENCE), "the first change counts, not the last"


def test_a_sync_makes_it_well_and_ready() -> None:
    vitals = Vitals()
    vitals.begun(0)
    vitals.noted(1)
    assert not vitals.healthy(2 * PATIENCE)
    vitals.synced(2 * PATIENCE, 2 * PATIENCE - 5)
    assert vitals.healthy(100 * PATIENCE)
    assert vitals.ready
    assert vitals.updated == 2 * PATIENCE


def test_a_change_noted_during_a_sync_still_waits() -> None:
    vitals = Vitals()
    vitals.begun(0)
    vitals.noted(10)
    vitals.noted(25)
    vitals.synced(30, began=20)
    assert vitals.ready
    assert not vitals.healthy(20 + PATIENCE)
    vitals.synced(PATIENCE + 40, began=PATIENCE + 30)
    assert vitals.healthy(100 * PATIENCE)


def test_the_families_are_those_that_are_served() -> None:
    assert Vitals().families == ("IPv4", "IPv6")
    assert Vitals(families=("IPv6",)).families == ("IPv6",)


# --- may load balancers send here -----------------------------------------------------------


def test_a_node_never_seen() -> None:
    assert Eligibility().eligible
    assert not Eligibility(must_be_known=True).eligible


@pytest.mark.parametrize(
    ("node", "eligible"),
    [
        (Node("a"), True),
        (Node("a", taints=("node.kubernetes.io/unschedulable",)), True),
        (Node("a", taints=("x", DOOMED)), False),
        (Node("a", deleting=True), False),
    ],
)
def test_a_node_seen(node: Node, eligible: bool) -> None:
    eligibility = Eligibility(must_be_known=True)
    eligibility.heard(node)
    assert eligibility.eligible is eligible
    eligibility.heard(None)
    assert eligibility.eligible is eligible, "an object that goes counts as it was last"
    eligibility.heard(Node("a"))
    assert eligibility.eligible
