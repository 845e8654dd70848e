"""
Whom to leave out, so that one refused change does not hold up all the others.

What is refused is given a second chance at once, since the first refusal may come
from an outdated view of the plane. Refused again, it is set aside: the others go
on without it. After a while it is let in on probation; then one refusal is
enough, and it stays out for twice as long.

The machine does not know what it sets aside: service ports, or single keys.

    state      refused(x)              came_round(now)    written()   forgive(x)
    -          -> WARNED
    WARNED     -> ASIDE, returned                         -> -        -> -
    ASIDE      stays                   -> PROBATION                   -> -
    PROBATION  -> ASIDE for longer                        -> -        -> -
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Aside(Generic[T]):
    """`first`: seconds out the first time; they double up to `cap`."""

    def __init__(self, first: float = 5.0, cap: float = 300.0) -> None:
        self._first, self._cap = first, cap
        self._warned: set[T] = set()
        self._out: dict[T, float] = {}  # until when
        self._delay: dict[T, float] = {}  # of those aside or on probation: their last time out

    def __contains__(self, thing: T) -> bool:
        return thing in self._out

    def __len__(self) -> int:
        return len(self._out)

    @property
    def spotless(self) -> bool:
        """Nothing is held against anybody."""
        return not (self._warned or self._delay)

    def refused(self, things: Iterable[T], now: float) -> dict[T, float]:
        """A change of these was refused. Returns those that are to be set aside now, and for how long."""
        aside = {}
        for thing in things:
            if thing in self._out:
                continue
            if thing in self._delay:
                aside[thing] = min(self._cap, self._delay[thing] * 2)
            elif thing in self._warned:
                aside[thing] = self._first
            else:
                self._warned.add(thing)
        for thing, delay in aside.items():
            self._warned.discard(thing)
            self._delay[thing] = delay
            self._out[thing] = now + delay
        return aside

    def due(self) -> float:
        """When the next of them comes round; `inf` if none is aside."""
        return min(self._out.values(), default=inf)

    def came_round(self, now: float) -> list[T]:
        """Those whose time is over; they are on probation now."""
        back = [thing for thing, until in self._out.items() if until <= now]
        for thing in back:
            del self._out[thing]
        return back

    def written(self) -> None:
        """All that is not aside was taken: warnings and probations are over."""
        self._warned.clear()
        if len(self._delay) > len(self._out):
            self._delay = {thing: delay for thing, delay in self._delay.items() if thing in self._out}

    def forgive(self, thing: T) -> None:
        """It is another one now, or gone: what was held against it no longer counts."""
        self._warned.discard(thing)
        self._out.pop(thing, None)
        self._delay.pop(thing, None)
