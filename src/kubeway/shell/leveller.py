"""
Makes a plane level with what is wanted: carries out the keeper's commands.

The keeper decides; here its commands are carried out and what came of them is
told to it. A change that is refused twice has whoever it belongs to set aside
(`machines.aside`): `withdraw` takes what they add out of the program.

When to do it, and what is wanted, is the syncer's business.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import Final

from kubeway import records
from kubeway.errors import KubewayError, Refused, Stale
from kubeway.machines.aside import Aside
from kubeway.machines.keeper import Keeper, Law, Nothing, Poll, Read, Write
from kubeway.program.link import Linker, Name
from kubeway.program.plane import Mode, Plane
from kubeway.program.program import Change, Key, Step
from kubeway.shell.compound import Counting
from kubeway.shell.dialects import describe, outgrown

_POLL: Final = 1.0
_VERIFY: Final = 60.0  # where commits are not counted
_TRIES: Final = 2
_LONG: Final = 1.0
_EXAMPLES: Final = 3


class Leveller:
    """`base`: the fragment that is never set aside. `withdraw` returns what it changes in
    the program. `repair`: look for what others change, and undo it.
    """

    def __init__(
        self,
        mode: Mode,
        plane: Plane,
        linker: Linker,
        *,
        law: Law,
        base: Name,
        withdraw: Callable[[Sequence[Name]], list[Change]],
        aside: Aside[Hashable],
        record: records.Recorder,
        clock: Callable[[], float],
        repair: bool = True,
    ) -> None:
        self._plane, self._linker = plane, linker
        self._base, self._withdraw, self._aside = base, withdraw, aside
        self._record, self._clock = record, clock
        self._counting = plane if isinstance(plane, Counting) else None
        poll, verify = (_POLL, inf) if self._counting else (inf, _VERIFY)
        verify = getattr(plane, "verify", verify)
        if not repair:
            poll, verify = inf, inf
        first = getattr(plane, "first", None)
        self.keeper = Keeper(linker.objects, mode.planes, law=law, poll=poll, verify=verify, first=first)
        self._written, self._took, self._reading = 0, 0.0, 0.0

    async def level(self) -> KubewayError | None:
        """Read, write, repair. Returns what went wrong.

        None if all went well; the plane is level then, unless setting aside took so
        long that other things should have their turn.
        """
        tries, began = _TRIES, self._clock()
        while True:
            problem = None
            match self.keeper.next(self._clock()):
                case Read():
                    problem = await self._read()
                case Write(steps=steps):
                    problem = await self._write(steps)
                case Poll():
                    self.poll()
                case Nothing():
                    self._aside.written()
                    return None
            if problem is None:
                continue
            if isinstance(problem, Refused) and (self._outgrown(problem) or self._set_aside(problem)):
                tries = _TRIES
                if self._clock() - began > _LONG:
                    return None
                continue
            tries -= 1
            if not tries:
                return problem

    def idle(self, now: float) -> float:
        """Poll if it is time. Returns until when there is nothing to do; `now` if there is."""
        command = self.keeper.next(now)
        if isinstance(command, Poll):
            self.poll()
            command = self.keeper.next(now)
        return command.until if isinstance(command, Nothing) else now

    def take_tally(self) -> tuple[int, float, float]:
        """How many changes were written since this was last asked, the seconds that took, and
        those that reading took."""
        tally = self._written, self._took, self._reading
        self._written, self._took, self._reading = 0, 0.0, 0.0
        return tally

    def poll(self) -> None:
        try:
            self.keeper.generation(self._generation())
        except KubewayError:
            self.keeper.doubt()  # a read will find out what is wrong, and its failure is handled

    def _generation(self) -> int | None:
        return self._counting.generation() if self._counting else None

    # --- commands ---------------------------------------------------------------------

    async def _read(self) -> KubewayError | None:
        began = self._clock()
        try:
            generation = self._generation()
            objects = await self._plane.read()
        except Stale as error:
            self.keeper.stale()
            return error
        except KubewayError as error:
            self.keeper.lost()
            return error
        self._reading += self._clock() - began
        before = self.keeper.cause
        difference = self.keeper.read_done(objects, self._clock(), generation)
        # A repair that failed and is tried again is no new drift.
        if self.keeper.cause == "drift" and before != "drift":
            self._record(self._drifted(difference))
        return None

    async def _write(self, steps: list[Step]) -> KubewayError | None:
        began = self._clock()
        try:
            for step in steps:
                await self._plane.write(step.changes)
            generation = self._generation()
        except Stale as error:
            self.keeper.stale()
            return error
        except Refused as error:
            self.keeper.refused()
            return error
        except KubewayError as error:
            self.keeper.lost()
            return error
        took = self._clock() - began
        count = sum(len(step.changes) for step in steps)
        if self.keeper.cause == "drift":
            self._record(records.Repaired(count, took * 1000))
        self._written += count
        self._took += took
        self.keeper.write_done(generation)
        return None

    def _drifted(self, drift: list[Change]) -> records.Drifted:
        verbs = [change.verb for change in drift]
        examples = tuple(describe(change, self._linker.objects) for change in drift[:_EXAMPLES])
        return records.Drifted(verbs.count("add"), verbs.count("set"), verbs.count("del"), examples)

    # --- what is refused ----------------------------------------------------------------

    def _outgrown(self, problem: Refused) -> bool:
        """Whether it was for want of room, which the next write makes."""
        table = outgrown(problem.key, problem.errno) if isinstance(problem.key, Key) else None
        return table is not None and self.keeper.outgrown(table)

    def _set_aside(self, problem: Refused) -> bool:
        """Whether somebody was set aside for this."""
        key = problem.key
        if not isinstance(key, Key):
            return False
        claimants = self._linker.claimants(key)
        if self._base in claimants:
            return False
        # What nobody claims is to be deleted, and may stay if the plane insists.
        things: list[Hashable] = [*claimants] or [key]
        aside = self._aside.refused(things, self._clock())
        if not aside:
            return False
        for thing, delay in aside.items():
            self._record(records.SetAside(self._whose(key, thing), str(problem), delay))
        if claimants:
            self.keeper.desired(self._withdraw(list(aside)))
        else:
            self.keeper.spared.add(key)
        return True

    def _whose(self, key: Key, thing: Hashable) -> str:
        origin = self._linker.origin(key) if thing != key else None
        return str(origin) if origin else describe(Change("del", key, None, None), self._linker.objects)
