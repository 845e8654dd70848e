"""
From what is to what should be.

A plan is the ordered list of changes that turns one program into another. It is
the only thing that is ever written to a plane, printed, counted by metrics or
asserted by tests, so that all four always speak of the same change.

This module does not know what the objects are. It knows that they have keys,
that equal objects need no work, and that every plane names its kinds in an
order, ground first: what is pointed at exists before what points at it, and is
taken away after.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from kubeway.program.program import Change, Key, Object, Step

Order = Mapping[str, Sequence[str]] | Sequence[tuple[str, Sequence[str]]]
"""Planes, bottom first, each with its kinds, ground first; pairs where a plane is built in several goes."""


def diff(actual: Mapping[Key, Object], desired: Mapping[Key, Object]) -> Iterator[Change]:
    """The changes that make `actual` equal to `desired`, in no order."""
    get = actual.get
    for key, new in desired.items():
        old = get(key)
        # Fragments are shared between programs, so nearly always this is the
        # same object and the comparison ends at its identity.
        if old is new:
            continue
        if old is None:
            yield Change("add", key, None, new)
        elif old != new:
            yield Change("set", key, old, new)
    for key, old in actual.items():
        if key not in desired:
            yield Change("del", key, old, None)


def apply(changes: Iterable[Change], objects: Mapping[Key, Object]) -> dict[Key, Object]:
    """What `objects` become when the changes have been made."""
    after = dict(objects)
    for change in changes:
        if change.verb == "del":
            after.pop(change.key, None)
        else:
            after[change.key] = change.new
    return after


def steps(changes: Iterable[Change], order: Order) -> list[Step]:
    """Make before break: every plane builds, bottom plane first; then every plane
    clears away, top plane first.

    A plane which points comes after the one pointed at; where some kinds of a plane are
    pointed at and others point, it comes twice.
    """
    pairs = order.items() if isinstance(order, Mapping) else order
    places = [(plane, kind) for plane, kinds in pairs for kind in kinds]
    build: dict[tuple[str, str], list[Change]] = {place: [] for place in places}
    clear: dict[tuple[str, str], list[Change]] = {place: [] for place in reversed(places)}
    for change in changes:
        (clear if change.verb == "del" else build)[change.key.plane, change.key.kind].append(change)
    # The top plane ends the one list and begins the other: its making and its
    # breaking meet in one step, which for nftables is one atomic transaction.
    runs = [(place[0], run) for side in (build, clear) for place, run in side.items() if run]
    return [
        Step(plane, [change for _, run in group for change in run])
        for plane, group in groupby(runs, key=lambda run: run[0])
    ]
