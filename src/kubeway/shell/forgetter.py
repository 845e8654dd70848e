"""
Has stale flows forgotten, after a sync and beside it.

What a sync made stale is collected, looked up and forgotten in a thread, so no
sync waits for it. While this goes on, more is collected. Looking through many
flows is dear, so the next look waits a few times what the last one cost.

Which endpoints a flow may stay with is asked when the look begins, not when the
change came: an endpoint that came in between is not held against its flows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from kubeway.errors import KubewayError, Unsupported
from kubeway.model.forward import Forward
from kubeway.model.settle import ForwardKey
from kubeway.program.effects import Judge, Stale, stale
from kubeway.records import ForgetFailed, Forgot, Recorder, Swept
from kubeway.values import V4, V6, Ip

PAUSE: Final = 4.0
"""A look waits this many times the cost of the last: looking takes a fifth of the time at most."""

_RETRY: Final = 5.0

Transition = tuple[ForwardKey, Forward | None, Forward | None]
"""A service port's name, and it before and after."""


class Forgets(Protocol):
    """`shell.conntrack.Conntrack`, or a double; called in a thread, one call at a time."""

    def forget(self, judge: Judge) -> int:
        """Forget the condemned flows, and return how many there were."""


class Forgetter:
    """`forwards` is a live view of what is in force; it is read in a thread."""

    def __init__(
        self,
        conntrack: Forgets | None,
        forwards: Mapping[ForwardKey, Forward],
        record: Recorder,
        clock: Callable[[], float],
    ) -> None:
        self._conntrack = conntrack
        self._forwards = forwards
        self._record, self._clock = record, clock
        self._addresses: frozenset[Ip] = frozenset()
        self._open: list[Transition] = []
        self._news = asyncio.Event()

    def changed(self, transitions: Iterable[Transition], addresses: frozenset[Ip]) -> None:
        """These are in force now; `addresses` are this node's."""
        if self._conntrack is None:
            return
        self._addresses = addresses
        self._open += transitions
        if self._open:
            self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._conntrack is not None and self._open:
                await asyncio.sleep(await self._look(self._conntrack))

    async def _look(self, conntrack: Forgets) -> float:
        """Returns the seconds to wait before the next."""
        opened, self._open = self._open, []
        began = self._clock()
        try:
            flows = await asyncio.to_thread(self._forget, conntrack, opened, self._addresses)
        except Unsupported as error:
            self._conntrack = None
            self._record(ForgetFailed(str(error)))
            return 0.0
        except KubewayError as error:
            self._record(ForgetFailed(str(error), _RETRY))
            self._open = opened + self._open
            self._news.set()
            return _RETRY
        took = self._clock() - began
        self._record(Swept(took * 1000, flows[V4], flows[V6]))
        if total := sum(flows.values()):
            self._record(Forgot(total, took * 1000))
        return PAUSE * took

    def _forget(self, conntrack: Forgets, opened: list[Transition], addresses: frozenset[Ip]) -> Counter[int]:
        # The way in alone is what several transitions of one service port have in common.
        ways = {(name, _way(one)): None for name, old, new in opened for one in stale(old, new)}
        flows: Counter[int] = Counter()
        for family in (V4, V6):
            some = [self._as_of_now(name, way) for name, way in ways if way.family == family]
            if some:
                flows[family] = conntrack.forget(Judge(some, addresses))
        return flows

    def _as_of_now(self, name: ForwardKey, way: Stale) -> Stale:
        """With the endpoints that flows to it may stay with, none if the way in is gone."""
        forward = self._forwards.get(name)
        if forward is None or all((f.ip, f.port) != (way.dst, way.dport) for f in forward.frontends):
            return way
        keep = frozenset((e.ip, e.port) for e in forward.serving)
        return Stale(way.proto, way.family, way.dst, way.dport, keep)


def _way(one: Stale) -> Stale:
    return Stale(one.proto, one.family, one.dst, one.dport, frozenset())
