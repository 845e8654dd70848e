"""Who gets a new connection, with exact chances."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.model.schedulers import SCHEDULERS
from kubeway.planes.ipvs.fates import balance
from kubeway.planes.ipvs.objects import Destination, Server, destination_key
from kubeway.program.program import Key, Object
from kubeway.values import TCP, UDP, Ip
from tests.planes.ipvsprograms import POD, VIP, WEB, WEB_POD

PODS = [Ip(bytes((10, 244, 0, n))) for n in range(4)]


def world(scheduler: str, *weights: int, persistence: int = 0) -> dict[Key, Object]:
    pods = {
        destination_key(VIP, TCP, 80, ip, 80): Destination(weight)
        for ip, weight in zip(PODS, weights, strict=False)
    }
    return {WEB: Server(scheduler, persistence), **pods}


def chances(scheduler: str, *weights: int) -> list[str]:
    told = balance(world(scheduler, *weights), VIP, TCP, 80)
    assert told is not None
    by_ip = {ip: chance for ip, _, chance in told}
    return [str(by_ip.get(ip, 0)) for ip in PODS[: len(weights)]]


def test_where_there_is_no_server_it_has_nothing_to_say() -> None:
    objects = world("rr", 1)
    assert balance(objects, VIP, TCP, 81) is None
    assert balance(objects, VIP, UDP, 80) is None
    assert balance(objects, POD, TCP, 80) is None


def test_where_nobody_serves_nobody_gets_it() -> None:
    assert balance(world("rr"), VIP, TCP, 80) == []
    assert balance(world("rr", 0, 0), VIP, TCP, 80) == []
    assert balance(world("fo", 0), VIP, TCP, 80) == []


def test_only_its_own_destinations_count() -> None:
    objects = {**world("rr", 1), destination_key(VIP, TCP, 81, POD, 80): Destination()}
    assert balance(objects, VIP, TCP, 80) == [(PODS[0], 80, Fraction(1))]


@pytest.mark.parametrize(
    ("schedulers", "shares"),
    [
        ("rr lc", ["1/3", "1/3", "1/3", "0"]),
        ("wrr wlc sed nq twos lblc lblcr sh mh", ["1/6", "1/3", "1/2", "0"]),
        ("fo ovf", ["0", "0", "1", "0"]),
        ("dh", ["1/4", "1/4", "1/4", "0"]),
    ],
)
def test_shares(schedulers: str, shares: list[str]) -> None:
    for scheduler in schedulers.split():
        assert chances(scheduler, 1, 2, 3, 0) == shares, scheduler


def test_of_several_with_the_most_weight_it_is_one() -> None:
    assert chances("fo", 2, 1, 2) == ["1/2", "0", "1/2"]


def test_who_sticks_keeps_his_destination() -> None:
    first, second = (PODS[0], 80), (PODS[1], 80)
    sticky = world("rr", 1, 0, persistence=60)
    assert balance(sticky, VIP, TCP, 80, first) == [(*first, Fraction(1))]
    # A destination of weight 0 has nobody new, and neither has one that is gone.
    assert balance(sticky, VIP, TCP, 80, second) == [(*first, Fraction(1))]
    assert balance(sticky, VIP, TCP, 80, (POD, 80)) == [(*first, Fraction(1))]
    both = balance(world("rr", 1, 1), VIP, TCP, 80, first)
    assert both is not None
    assert len(both) == 2


@given(st.sampled_from(sorted(SCHEDULERS)), st.lists(st.integers(0, 9), max_size=4))
def test_law_chances_sum_up_and_weight_zero_has_none(scheduler: str, weights: list[int]) -> None:
    objects = world(scheduler, *weights)
    told = balance(objects, VIP, TCP, 80)
    assert told is not None
    whole = sum(chance for *_, chance in told)
    if scheduler == "dh" and weights:
        assert whole == Fraction(sum(w > 0 for w in weights), len(weights))
    else:
        assert whole == (1 if any(weights) else 0)
    serving = {ip for ip, weight in zip(PODS, weights, strict=False) if weight}
    assert {ip for ip, *_ in told} <= serving
    assert len(objects) == len(weights) + 1
    assert WEB_POD not in objects
