"""kubeway.machines.tally: counted step by step is counted at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubeway.machines.tally import Tally
from kubeway.model.forward import Endpoint, Forward, Frontend, Lost, ServicePortName
from kubeway.model.settle import ForwardKey
from kubeway.values import TCP, parse_ip

HOLDER = ServicePortName("a", "b", "", TCP)
HERE = Endpoint(parse_ip("10.244.1.1"), 80, local=True)
INSIDE = Frontend("ClusterIP", parse_ip("10.96.0.1"), 80)
OUTSIDE = Frontend("NodePort", None, 30000)


def forward(
    number: int = 0,
    family: int = 4,
    *,
    internal: bool = False,
    external: bool = False,
    outside: bool = True,
    here: bool = False,
    usable: bool = True,
    lost: int = 0,
) -> Forward:
    return Forward(
        ServicePortName("shop", f"s{number}", "", TCP),
        family,
        (INSIDE, OUTSIDE) if outside else (INSIDE,),
        (),
        (HERE,) if here else (),
        internal,
        external,
        usable,
        lost=(Lost(INSIDE, HOLDER),) * lost,
    )


def counted(*forwards: Forward) -> Tally:
    tally = Tally()
    tally.changed(((one.name, one.family), None, one) for one in forwards)
    return tally


def test_a_local_policy_with_nobody_here() -> None:
    assert counted(forward(internal=True)).no_local["internal", 4] == 1
    assert counted(forward(external=True, family=6)).no_local["external", 6] == 1
    both = counted(forward(internal=True, external=True)).no_local
    assert both == {("internal", 4): 1, ("external", 4): 1, ("internal", 6): 0, ("external", 6): 0}


def test_what_is_not_counted() -> None:
    for one in (
        forward(),
        forward(internal=True, here=True),
        forward(internal=True, usable=False),
        forward(external=True, outside=False),
    ):
        assert not any(counted(one).no_local.values())


def test_ports_and_lost_claims() -> None:
    tally = counted(forward(1), forward(2, lost=2), forward(2, 6))
    assert (tally.service_ports, tally.claims_lost) == (3, 2)
    two = forward(2, lost=2)
    tally.changed([((two.name, 4), two, None)])
    assert (tally.service_ports, tally.claims_lost) == (2, 0)


FORWARDS = st.builds(
    forward,
    st.integers(0, 3),
    st.sampled_from([4, 6]),
    internal=st.booleans(),
    external=st.booleans(),
    outside=st.booleans(),
    here=st.booleans(),
    usable=st.booleans(),
    lost=st.integers(0, 2),
)


@given(st.lists(st.tuples(FORWARDS, st.booleans()), max_size=30))
def test_step_by_step_is_at_once(steps: list[tuple[Forward, bool]]) -> None:
    held: dict[ForwardKey, Forward] = {}
    tally = Tally()
    for one, gone in steps:
        key = (one.name, one.family)
        tally.changed([(key, held.get(key), None if gone else one)])
        held.pop(key, None)
        if not gone:
            held[key] = one
    assert vars(tally) == vars(counted(*held.values()))
