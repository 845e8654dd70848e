"""
A loop over epoll for raw sockets: events, timers, and what has to wait for the end of a round.

It knows no connection. asyncio costs more for each event than all the rest that a connection needs, so where
bytes are carried there is only this.

Within a round nobody gets a descriptor that another one had: what is closed is closed at its end (`doom`),
and nothing is accepted before (`last`). So an event of the round is never taken for another socket's.
"""

from __future__ import annotations

import sys
import traceback
from _socket import socket
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from math import inf
from select import EPOLLET, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP, epoll
from typing import Final, Protocol

from kubeway.shell.clock import monotonic

READ: Final = EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET
BOTH: Final = READ | EPOLLOUT
LEVEL: Final = EPOLLIN

TICKS: Final = 20
"""Timers are looked at so often in a second, so they may be late by its inverse."""

_AT_ONCE: Final = 512
_SPELL: Final = 50e-6  # seconds; to be woken costs the two sides about as much
_SPELLS: Final = 16
_QUIET: Final = 1.0  # seconds after a complaint in which others are only counted

Handler = Callable[[int], None]
"""Takes the events, as epoll has them, of the descriptor it is registered for."""


class Timed(Protocol):
    def tick(self, now: float) -> None:
        """Its time may have come: it is told once for each `Loop.at`, and at the time of the earliest."""


class Loop:
    """All times in seconds. `crashed`: told of a handler that raised, after its words are on stderr."""

    def __init__(self, crashed: Callable[[Handler], None] = lambda handler: None) -> None:
        self.now = monotonic()
        """When the round began."""
        self.brisk = False
        """To be set with an event after which the next may well come within microseconds. If they do, time
        after time, they are looked for instead of slept for: who asks and is answered by single datagrams
        has to wait for the relay's waking up twice else."""
        self.handlers: dict[int, Handler] = {}
        """By descriptor; to be changed for another one of the same descriptor at any time."""
        self._epoll = epoll()
        self._crashed = crashed
        self._doomed: list[socket] = []
        self._last: list[Callable[[], None]] = []
        self._again: list[Callable[[], None]] = []
        self._slots: dict[int, list[Timed]] = {}
        self._order: list[int] = []
        self._stopped = False
        self._spells = 0
        """How many waits in a row were short."""
        self._quiet_until = -inf
        self._unsaid = 0

    # --- descriptors ------------------------------------------------------------------

    def watch(self, fd: int, handler: Handler, events: int = READ) -> None:
        self.handlers[fd] = handler
        self._epoll.register(fd, events)

    def rewatch(self, fd: int, events: int) -> None:
        """Be told of these from now on; also of what is there already."""
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        if self.handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def doom(self, sock: socket) -> None:
        """Close it with this round. No more of its events are told."""
        self.handlers.pop(sock.fileno(), None)
        self._doomed.append(sock)

    # --- time -------------------------------------------------------------------------

    def last(self, work: Callable[[], None]) -> None:
        """Do it when all events of this round have been told; if these are done already, of the next one,
        which begins at once."""
        self._last.append(work)

    def again(self, work: Callable[[], None]) -> None:
        """Do it in the next round, which begins at once: others had their turn then."""
        self._again.append(work)

    def at(self, due: float, one: Timed) -> None:
        slot = int(due * TICKS) + 1
        there = self._slots.get(slot)
        if there is None:
            self._slots[slot] = [one]
            heappush(self._order, slot)
        else:
            there.append(one)

    def _wait(self) -> float:
        if self._again or self._last:
            return 0.0
        due = self._order[0] / TICKS if self._order else inf
        return -1.0 if due == inf else max(0.0, due - monotonic())

    # --- running ----------------------------------------------------------------------

    def stop(self) -> None:
        """With the end of this round."""
        self._stopped = True

    def run(self) -> None:
        """Until `stop`. No handler's exception ends it."""
        poll, get = self._epoll.poll, self.handlers.get
        while not self._stopped:
            events = self._attend() if self.brisk else poll(self._wait(), _AT_ONCE)
            self.now = monotonic()
            for fd, event in events:
                handler = get(fd)
                if handler is not None:
                    try:
                        handler(event)
                    except Exception:
                        self._report(handler)
            if self._again:
                self._do(self._again)
            if self._order and self._order[0] <= self.now * TICKS:
                self._tick()
            if self._doomed:
                self._close()
            if self._last:
                self._do(self._last)
                self._close()

    def _attend(self) -> list[tuple[int, int]]:
        """The next events. Looks for them for a spell, if there were some within one each time of late."""
        self.brisk = False
        poll, wait = self._epoll.poll, self._wait()
        if not wait:
            return poll(0, _AT_ONCE)
        end = monotonic() + _SPELL
        if self._spells >= _SPELLS:
            while not (events := poll(0, _AT_ONCE)):
                if monotonic() > end:
                    self._spells = 0
                    return poll(wait, _AT_ONCE)
            return events
        events = poll(wait, _AT_ONCE)
        self._spells = self._spells + 1 if monotonic() < end else 0
        return events

    def _do(self, works: list[Callable[[], None]]) -> None:
        some = works[:]
        works.clear()
        for work in some:
            try:
                work()
            except Exception:
                self._complain()

    def _tick(self) -> None:
        while self._order and self._order[0] <= self.now * TICKS:
            for one in self._slots.pop(heappop(self._order)):
                try:
                    one.tick(self.now)
                except Exception:
                    self._complain()

    def _close(self) -> None:
        for sock in self._doomed:
            try:
                sock.close()
            except OSError:
                continue  # close(2) lets go of the descriptor whatever it says
        self._doomed.clear()

    def _report(self, handler: Handler) -> None:
        self._complain()
        try:
            self._crashed(handler)
        except Exception:
            self._complain()

    def _complain(self) -> None:
        """Say on stderr what was raised, but not more often than one can read."""
        if self.now < self._quiet_until:
            self._unsaid += 1
            return
        self._quiet_until = self.now + _QUIET
        with suppress(OSError):  # who read it may be gone, which is no reason to go as well
            traceback.print_exc(file=sys.stderr)
            if self._unsaid:
                print(f"({self._unsaid} before that were not shown)", file=sys.stderr)
                self._unsaid = 0
