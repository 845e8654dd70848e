"""kubeway.machines.triggers: which times are counted, and how they read."""

from __future__ import annotations

import pytest

from kubeway.machines.triggers import Triggers, parse
from kubeway.model.forward import ServiceName

CART = ServiceName("shop", "cart")
DESK = ServiceName("shop", "desk")
SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-22T10:23:40.404637099Z", 1_795_343_020_404_637_099),
        ("2026-11-22T10:23:40Z", 1_795_343_020_000_000_000),
        ("2026-11-22T10:23:40.5+02:00", 1_795_335_820_500_000_000),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("2026-11-22T10:23:40", None),
        ("2026-11-22T10:23:40.Z", None),
        ("yesterday", None),
        ("", None),
        ("2026-13-22T10:23:40Z", None),
    ],
)
def test_times(text: str, at: int | None) -> None:
    assert parse(text) == at


def test_a_time_is_counted_when_the_sync_that_took_it_ends() -> None:
    triggers = Triggers(100 * SECOND)
    triggers.noted(CART, 4, 101 * SECOND)
    triggers.take()
    triggers.noted(CART, 6, 102 * SECOND)
    assert triggers.arrived(104 * SECOND) == [("IPv4", 3.0)]
    assert triggers.arrived(105 * SECOND) == []
    triggers.take()
    triggers.take()
    assert triggers.arrived(105 * SECOND) == [("IPv6", 3.0)], "the first of the two syncs failed"


def test_what_is_older_than_we_are_is_not_counted() -> None:
    triggers = Triggers(100 * SECOND)
    triggers.noted(CART, 4, 100 * SECOND)
    triggers.take()
    assert triggers.arrived(200 * SECOND) == []


def test_a_slice_that_goes_takes_the_times_of_its_service_along() -> None:
    triggers = Triggers(0)
    triggers.noted(CART, 4, SECOND)
    triggers.noted(DESK, 4, SECOND)
    triggers.gone(CART)
    triggers.gone(CART)
    triggers.take()
    assert triggers.arrived(3 * SECOND) == [("IPv4", 2.0)]


def test_a_clock_that_is_ahead_makes_no_negative_latency() -> None:
    triggers = Triggers(0)
    triggers.noted(CART, 4, 9 * SECOND)
    triggers.take()
    assert triggers.arrived(3 * SECOND) == [("IPv4", 0.0)]
