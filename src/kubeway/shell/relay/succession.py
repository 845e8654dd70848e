"""
A worker's part in being succeeded, and in succeeding those before it (`handover`).

    state      event                          -> state      what it does
    WAITS      begun is up                    -> READS
               the control process is gone    -> GONE       it never was its turn
    READS      those before have written      -> SERVES     recalls who stays where; takes connections
               a second has passed            -> SERVES     the same, with what there is
    SERVES     somebody asks                  -> SERVES     hands over what a successor needs
               the control process is gone    -> SERVES     and looks after the listeners of others that end
               taken is up                    -> GONE       carries on until its last connection ends
               over is up                     -> GONE       the same, and for `Limits.drain` at most
               SIGTERM, without a control process, or within ten seconds before it is gone: as over
    GONE       over is up                     -> GONE       from now on for `Limits.drain` at most

GONE is never left. What is closed with it is all that a successor may ask for, so that nobody comes by it.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from _socket import socket
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from kubeway.errors import Malformed
from kubeway.shell.relay.flags import is_up
from kubeway.shell.relay.handover import VERSION, Hand, Kept, close_all, serve
from kubeway.shell.relay.loop import LEVEL
from kubeway.shell.relay.orders import Begin, Given, Papers, read_memory, write_memory

if TYPE_CHECKING:
    from kubeway.shell.relay.worker import Worker

_TELLS: Final = 1.0
"""Seconds for those before to put down what they remember. It takes them milliseconds; one may hang."""
_SHORTLY: Final = 10.0
"""Seconds. Service managers send SIGTERM to all processes at once, or to the control process alone."""
_PAUSE: Final = 1.0  # seconds for which nobody is handed anything when there are no descriptors

State = Enum("State", "WAITS READS SERVES GONE")


class Succession:
    def __init__(self, worker: Worker, begin: Begin, papers: Papers) -> None:
        self._worker, self._loop, self._papers = worker, worker.loop, papers
        self._begin = begin
        self._state = State.WAITS
        self._led = True
        self._dead: set[int] = set()
        self._desk = socket(fileno=papers.desk)
        self._signals = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._told_at = -inf

    def open(self) -> None:
        papers, watch = self._papers, self._loop.watch
        watch(self._signals, self._signalled, LEVEL)
        watch(papers.over, self._over, LEVEL)
        watch(papers.taken, self._taken, LEVEL)
        watch(papers.begun, self._begun, LEVEL)

    # --- its turn -----------------------------------------------------------------------

    def _begun(self, event: int) -> None:
        self._loop.unwatch(self._papers.begun)
        self._state = State.READS
        if self._papers.past_told < 0:
            self._serve()
        else:
            self._loop.watch(self._papers.past_told, lambda event: self._serve(), LEVEL)
            self._loop.at(self._loop.now + _TELLS, _Later(self._serve))

    def _serve(self) -> None:
        if self._state is not State.READS:
            return
        self._state = State.SERVES
        papers = self._papers
        self._loop.unwatch(papers.past_told)
        for one in papers.past:
            with suppress(OSError, Malformed):
                self._worker.recall(read_memory(os.pread(one, os.fstat(one).st_size, 0)))
        # Closed once: their numbers are those of connections soon.
        close_all(one for one in (papers.past_told, *papers.past) if one >= 0)
        self._papers = replace(papers, past_told=-1, past=[])
        self._worker.serve(self._own())
        self._loop.watch(papers.desk, self._asked, LEVEL)
        if not self._led:
            self._watch_others()

    def _own(self) -> list[Given]:
        """The listeners that are this one's to look after: its own, and those of who died, if it is the first
        of those that live. So one client comes to one worker, still."""
        alive = [n for n in range(self._begin.workers) if n not in self._dead]
        first = alive[0] if alive else self._begin.number
        return [
            one
            for one in self._begin.listeners
            if (first if (n := one.member % self._begin.workers) in self._dead else n) == self._begin.number
        ]

    # --- without a control process ------------------------------------------------------------

    def orphaned(self) -> None:
        """The control process is gone."""
        self._led = False
        _let_go_of_stderr()
        if self._state is State.GONE:
            return
        if self._state is State.WAITS and not is_up(self._papers.begun):
            self.leave()
            self._worker.stop(0.0)
        elif self._loop.now < self._told_at + _SHORTLY:
            self._over(0)
        elif self._state is State.SERVES:
            self._watch_others()

    def _watch_others(self) -> None:
        for number, life in enumerate(self._papers.lives):
            if number != self._begin.number:
                self._loop.watch(life, lambda event, number=number: self._died(number), LEVEL)  # type: ignore[misc]

    def _died(self, number: int) -> None:
        self._loop.unwatch(self._papers.lives[number])
        self._dead.add(number)
        self._worker.serve(self._own())

    def terminate(self, *_: object) -> None:
        """A handler of SIGTERM: the loop is to hear of it."""
        os.eventfd_write(self._signals, 1)

    def _signalled(self, event: int) -> None:
        os.eventfd_read(self._signals)
        self._told_at = self._loop.now
        if not self._led:
            self._over(0)

    # --- who comes after ------------------------------------------------------------------

    def _asked(self, event: int) -> None:
        papers, listeners = self._papers, self._begin.listeners
        always = [papers.taken, papers.over, papers.desk, papers.told]
        descriptors = [*always, *papers.memories, *(one.fd for one in listeners)]
        kept = [
            Kept(one.list_, one.keeps, one.ip, one.port, one.transparent, one.proto, one.member)
            for one in listeners
        ]
        hand = Hand(VERSION, len(descriptors), self._led, self._begin.turn, len(papers.memories), kept)
        try:
            serve(self._desk, hand, descriptors)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                return  # who asked is gone
            self._loop.unwatch(papers.desk)
            self._loop.at(self._loop.now + _PAUSE, _Later(self._ask_again))

    def _ask_again(self) -> None:
        if self._state is State.SERVES:
            self._loop.watch(self._papers.desk, self._asked, LEVEL)

    def _taken(self, event: int) -> None:
        self.leave()
        self._worker.stop(inf)

    def _over(self, event: int) -> None:
        self._loop.unwatch(self._papers.over)
        self.leave()
        self._worker.stop(self._begin.limits.drain)

    def leave(self) -> None:
        """It takes nobody any more: put down what is remembered, and close all that others could come by."""
        if self._state is State.GONE:
            return
        served, self._state = self._state is State.SERVES, State.GONE
        papers = self._papers
        for fd in (papers.taken, papers.begun, papers.desk, papers.past_told, *papers.lives):
            self._loop.unwatch(fd)
        # Connections that wait are taken first: they are remembered, too.
        mine = self._worker.close_listeners()
        if served:
            _put_down(papers.memories[self._begin.number], write_memory(self._worker.memory()))
        self._desk.close()
        close_all(set(papers.all) - {papers.over, papers.desk})
        close_all({one.fd for one in self._begin.listeners} - mine)


class _Later:
    """Does something when its time has come."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def tick(self, now: float) -> None:
        self._work()


def _put_down(file: int, data: bytes) -> None:
    with suppress(OSError), open(file, "wb", closefd=False) as written:
        written.write(data)


def _let_go_of_stderr() -> None:
    """If somebody reads it by a pipe, they wait for its end, or are gone."""
    with suppress(OSError):
        if stat.S_ISFIFO(os.fstat(sys.stderr.fileno()).st_mode):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, sys.stderr.fileno())
            os.close(nothing)
