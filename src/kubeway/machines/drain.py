"""
When to look after what is to end by itself, and when to end it.

What drains takes nobody new and keeps whom it has; when nobody is left, or after `limit`, it may be taken
away. It is looked at soon, as most have nobody, then less and less often.

The machine is told the time and asks for none. It does not know what drains, nor who has it.

    state      began(now)     look(now)              looked(0) or   looked(n)   back()
                                                     limit over
    -          -> DRAINING                                                      stays
    DRAINING   stays*         told if it is time;    True**         False       -> -
                              the next time later

    *  the limit goes on, and so does the back-off
    ** it drains on until `back` says that it was taken away: a failure to do so is followed by a look
"""

from __future__ import annotations

from collections.abc import Hashable, Set
from math import inf
from typing import Final, Generic, TypeVar

SOON: Final = 1.0
"""Seconds until the first look, and between the first two; they double."""

SELDOM: Final = 15.0
"""The most seconds between two looks."""

TOGETHER: Final = 0.25
"""Looks that are due within this many seconds are made at once: a question may answer several."""

K = TypeVar("K", bound=Hashable)


class _Draining:
    __slots__ = ("look_at", "since", "wait")

    def __init__(self, now: float) -> None:
        self.since, self.wait, self.look_at = now, SOON, now + SOON


class Drain(Generic[K]):
    """All times in seconds. `limit`: after that long, who is left is left no longer."""

    def __init__(self, limit: float = 900.0) -> None:
        self._limit = limit
        self._draining: dict[K, _Draining] = {}

    @property
    def draining(self) -> Set[K]:
        """A live view."""
        return self._draining.keys()

    def began(self, key: K, now: float) -> None:
        """It takes nobody new from now on, or was found so."""
        if key not in self._draining:
            self._draining[key] = _Draining(now)

    def back(self, key: K) -> None:
        """It drains no longer: it is wanted again, or it is gone."""
        self._draining.pop(key, None)

    def look(self, now: float) -> list[K]:
        """Those to look at now. Whatever becomes of that, the next look at them is later."""
        due = []
        for key, one in self._draining.items():
            if one.look_at <= now + TOGETHER:
                due.append(key)
                one.look_at = now + one.wait
                one.wait = min(SELDOM, 2 * one.wait)
                if now < (end := one.since + self._limit):
                    one.look_at = min(one.look_at, end)
        return due

    def looked(self, key: K, connections: int, now: float) -> bool:
        """It has so many. Whether it is to be taken away."""
        one = self._draining.get(key)
        return one is not None and (connections == 0 or now >= one.since + self._limit)

    def due(self, now: float) -> float:
        """The time of the next look, `now` at the earliest; `inf` when nothing drains."""
        return max(now, min((one.look_at for one in self._draining.values()), default=inf))
