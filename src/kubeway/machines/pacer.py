"""
When to sync: soon after a change, but not too often.

The first change after a quiet time is written at once. While changes keep
coming, the starts of syncs are `gap` seconds apart, and everything that arrived
in between goes into the next one. Where no gap was asked for it follows from
what the last sync cost, so that syncing never takes more than a share of the
time. A failed sync is tried again without waiting for a further change, after a
back-off that doubles; a change is written before the back-off ends, for it may
be the cure.

The machine is told the time and asks for none; it has no clock and no loop.

    state     noted()       started()  done(ok)          done(failed)        due(now)
    IDLE      -> WAITING                                                     never
    WAITING   stays         -> BUSY                                          last start + gap
    BUSY      marks dirty              -> IDLE/WAITING*  -> RETRYING/WAITING* never
    RETRYING  -> WAITING    -> BUSY                                          the back-off's end

    * WAITING if marked dirty
"""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Final, Protocol

State = Enum("State", "IDLE WAITING BUSY RETRYING")

COST_FACTOR: Final = 4.0
"""An own gap is this many times what the last sync cost: syncing takes a quarter of the time at most."""


class Rng(Protocol):
    """A source of chance, such as `random.Random`."""

    def random(self) -> float:
        """At least 0.0 and less than 1.0."""


class Pacer:
    """All times in seconds.

    `gap`: between the starts of two syncs; None: chosen between `least` and `most`
    by what syncs cost. `retry`: the first back-off; it doubles up to `cap`. Of each
    back-off up to a quarter is left out by chance, so that the nodes of a cluster
    do not retry in step.
    """

    def __init__(
        self,
        *,
        rng: Rng,
        gap: float | None = None,
        least: float = 0.002,
        most: float = 1.0,
        retry: float = 0.5,
        cap: float = 30.0,
    ) -> None:
        self._rng = rng
        self._fixed = gap is not None
        self.gap = least if gap is None else gap
        self._least, self._most = least, most
        self._retry, self._cap = retry, cap
        self.state = State.IDLE
        self.failures = 0
        self._dirty = False
        self._started_at = -inf
        self._retry_at = -inf

    def noted(self) -> None:
        """There is something to write."""
        if self.state is State.BUSY:
            self._dirty = True
        else:
            self.state = State.WAITING

    def due(self, now: float) -> float:
        """The time of the next sync, `now` at the earliest; `inf` when there is nothing to do."""
        if self.state is State.WAITING:
            return max(now, self._started_at + self.gap)
        if self.state is State.RETRYING:
            return max(now, self._started_at + self.gap, self._retry_at)
        return inf

    def started(self, now: float) -> None:
        assert self.state in (State.WAITING, State.RETRYING), self.state
        self.state, self._dirty = State.BUSY, False
        self._started_at = now

    def done(self, now: float, ok: bool) -> float:
        """The sync has ended. Returns the seconds of back-off, 0 if it went well."""
        assert self.state is State.BUSY, self.state
        if not self._fixed:
            self.gap = min(self._most, max(self._least, COST_FACTOR * (now - self._started_at)))
        delay = 0.0
        if ok:
            self.failures = 0
            self.state = State.IDLE
        else:
            delay = self._back_off()
            self._retry_at = now + delay
            self.state = State.RETRYING
        if self._dirty:
            self.state = State.WAITING
        return delay

    def _back_off(self) -> float:
        # 2.0**n overflows long after the cap is reached; the exponent is kept small instead.
        delay = min(self._cap, self._retry * 2.0 ** min(self.failures, 60))
        self.failures += 1
        return delay * (1 - self._rng.random() / 4)
