"""
What goes wrong between a client and an API server, by chance or on purpose.

A fault is injected in a `share` of all requests, and of all the batches of events a
watch is sent, or where a test names one with `fail_next`. What it does to a connection
is known in `tests.apiserver.server`; here is only which, and when.

    reset          the connection breaks before an answer
    silent         nothing comes for `silence` seconds, then the connection breaks
    slow           nothing comes for `silence` seconds, then all is well
    unauthorized   401    forbidden   403    throttled   429, Retry-After: 1
    broken         500    unavailable 503    garbled     502 and a page of HTML, as a proxy in between has it
    gone           410: history was compacted. Of watches and of continued lists only
    stale          an old state, of lists that accept any. By name only: an honest client may go back in time
    cut            the connection breaks at some byte of what is sent
    end            a watch ends before its time, in good order
    hush           a watch falls silent for `silence` seconds, then the connection breaks
"""

from __future__ import annotations

from collections import Counter, deque
from enum import Enum
from random import Random
from typing import Final, NamedTuple

ANSWERS: Final = (
    "reset",
    "silent",
    "slow",
    "unauthorized",
    "forbidden",
    "throttled",
    "broken",
    "unavailable",
    "garbled",
)


class On(Enum):
    """What may go wrong: the answer to a request of that kind, or a batch of events."""

    OTHER = ANSWERS
    LIST = (*ANSWERS, "cut")
    PAGE = (*ANSWERS, "cut", "gone")
    FRESH_WATCH = ANSWERS
    WATCH = (*ANSWERS, "gone")
    EVENTS = ("cut", "end", "hush")


NAMED: Final = frozenset(name for on in On for name in on.value) | {"stale"}


class _Planned(NamedTuple):
    name: str
    where: str


class Faults:
    """Chance, and what tests have planned. `counts` is what was injected so far."""

    def __init__(self, rng: Random, share: float = 0.1, silence: float = 0.3) -> None:
        self.rng = rng
        self.share = share
        self.silence = silence
        self.counts: Counter[str] = Counter()
        self._planned: deque[_Planned] = deque()

    def fail_next(self, name: str, times: int = 1, where: str = "") -> None:
        """Let the next `times` requests (or batches of events) fail so for which that can be.

        `where` is a part of their path, such as "services". ValueError if there is no such fault.
        """
        if name not in NAMED:
            raise ValueError(f"no fault is called {name!r}; there are {', '.join(sorted(NAMED))}")
        self._planned.extend([_Planned(name, where)] * times)

    @property
    def planned(self) -> int:
        """How many of the faults planned are still to come."""
        return len(self._planned)

    def next(self, on: On, path: str, also: tuple[str, ...] = ()) -> str:
        """The fault for this occasion, mostly "". `also` can happen here too, if planned."""
        for plan in self._planned:
            if plan.where in path and (plan.name in on.value or plan.name in also):
                self._planned.remove(plan)
                return self._count(plan.name)
        if self.share and self.rng.random() < self.share:
            return self._count(self.rng.choice(on.value))
        return ""

    def _count(self, name: str) -> str:
        self.counts[name] += 1
        return name


def none() -> Faults:
    """Nothing goes wrong unless planned."""
    return Faults(Random(0), share=0.0)
