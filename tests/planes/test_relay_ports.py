"""The ports that endpoints see are had in turn, and not asked for where the kernel has said no."""

from __future__ import annotations

from random import Random

from kubeway.planes.relay.objects import Endpoint
from kubeway.planes.relay.ports import PORTS, Turn
from kubeway.values import parse_ip

ONE, OTHER = (Endpoint(parse_ip(f"10.244.0.{n}"), 80) for n in (1, 2))
WHO = "10.244.0.9"


def test_none_comes_again_before_all_have_been() -> None:
    turn = Turn(Random(1))
    first = [turn.take(WHO, ONE, 0.0) for _ in PORTS]
    assert sorted(first) == [*PORTS]
    assert [turn.take(WHO, ONE, 0.0) for _ in PORTS] == first


def test_they_do_not_all_begin_with_the_same() -> None:
    assert len({Turn(Random(seed)).take(WHO, ONE, 0.0) for seed in range(20)}) > 15


def test_whom_the_kernel_refused_leaves_it_to_the_kernel_for_a_while() -> None:
    turn = Turn(Random(1))
    assert turn.take(WHO, ONE, 5.0)
    turn.refused(WHO, ONE, 5.0)
    assert [turn.take(WHO, ONE, now) for now in (5.0, 5.9)] == [0, 0]
    assert turn.take(WHO, OTHER, 5.0)
    assert turn.take("10.244.0.8", ONE, 5.0)
    assert turn.take(WHO, ONE, 6.0)


def test_what_is_kept_in_mind_has_a_bound() -> None:
    turn = Turn(Random(1), [61_000])
    for n in range(25_000):
        turn.refused(str(n), ONE, 0.0)
    assert sum(not turn.take(str(n), ONE, 0.0) for n in range(25_000)) <= 10_000
    assert not turn.take("24999", ONE, 0.0)
