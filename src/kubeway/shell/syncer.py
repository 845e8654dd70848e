"""
Keeps a plane as the cluster wants it: from a change in the store to the kernel's ack.

    store ─► pacer: when ─► compiler: what ─► leveller: how ─► plane
                                                  │ acked
                                                  └──► forgetter: stale flows

What the store tells is compiled, what that changes is written, and what is in
force then is recorded. A sync that fails is tried again. Between syncs the plane is
watched for the writing of others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import partial
from itertools import islice
from math import inf
from random import Random
from types import MappingProxyType
from typing import Final, cast

from kubeway import records
from kubeway.errors import KubewayError, Refused
from kubeway.machines.aside import Aside
from kubeway.machines.convergence import Convergence
from kubeway.machines.keeper import Cause, Law
from kubeway.machines.pacer import Pacer, Rng
from kubeway.machines.tally import Tally
from kubeway.machines.triggers import Triggers
from kubeway.model.forward import Forward, HealthPort, ServiceName
from kubeway.model.node import NodeFacts, NodeView, Options
from kubeway.model.settle import ForwardKey, Settler
from kubeway.model.store import Store
from kubeway.model.view import node_facts
from kubeway.program.link import Linker, Name
from kubeway.program.plane import Mode, Plane
from kubeway.program.program import Change, Key
from kubeway.shell.clock import monotonic, wall
from kubeway.shell.compiler import BASE, Compiled, Compiler
from kubeway.shell.dialects import lawful
from kubeway.shell.forgetter import Forgets, Forgetter
from kubeway.shell.leveller import Leveller

_NAMED: Final = 3
"""So many Services are told by name in the line of a sync."""

_MANY: Final = 500
"""Compiling more Services than this takes so long that the health endpoint should not wait for it."""


class Syncer:
    """`note` when the store has changed, `run` until cancelled; `ready` is set once the plane holds it all.

    `gap`: seconds between syncs; None: as often as they are cheap. `retry` and `cap`:
    the first and the longest back-off after failures. `clock`: seconds, never going back. Give `linker`
    if the plane wants to look into the program too.
    """

    def __init__(
        self,
        *,
        mode: Mode,
        plane: Plane,
        settler_of: Callable[[NodeFacts, Options], Settler] = Settler,
        options: Options,
        facts: NodeFacts,
        store: Store,
        record: records.Recorder,
        conntrack: Forgets | None = None,
        clock: Callable[[], float] = monotonic,
        rng: Rng | None = None,
        gap: float | None = None,
        retry: float = 0.5,
        cap: float = 30.0,
        law: Law = lawful,
        linker: Linker | None = None,
        progress: Convergence | None = None,
        triggers: Triggers | None = None,
        repair: bool = True,
        wall: Callable[[], int] = wall,
    ) -> None:
        self._store, self._record, self._clock = store, record, clock
        self._options = options
        self.linker = Linker() if linker is None else linker
        self.ready = asyncio.Event()
        self._news = asyncio.Event()
        self._compiler = Compiler(mode, settler_of, options, facts, self.linker, clock)
        self._pacer = Pacer(rng=rng or Random(), gap=gap, retry=retry, cap=cap)
        self._aside: Aside[Hashable] = Aside(first=10 * retry)
        self._leveller = Leveller(
            mode,
            plane,
            self.linker,
            law=law,
            base=BASE,
            withdraw=self._withdraw,
            aside=self._aside,
            record=record,
            clock=clock,
            repair=repair,
        )
        self._in_force: dict[ForwardKey, Forward] = {}
        self.in_force: Mapping[ForwardKey, Forward] = MappingProxyType(self._in_force)
        """What the plane is known to hold."""
        self._forgetter = Forgetter(conntrack, self.in_force, record, clock)
        self._told_facts: NodeFacts | None = facts
        # Since the plane was last level: what has changed, how long that took, and whether
        # there is anything to tell of.
        self._unacked: dict[ForwardKey, Forward | None] = {}
        self._looked_at: dict[ServiceName, None] = {}
        self._full = False
        self._planning = self._compiling = self._linking = 0.0
        self._cause: Cause | None = "start"
        self._noted_at: float | None = None
        self._began = 0.0
        # Who counts, and how far it has come: for metrics and for those who wait for a change.
        self._tally = Tally()
        self._progress = Convergence(()) if progress is None else progress
        self._triggers = Triggers(wall()) if triggers is None else triggers
        self._wall = wall

    # --- what others ask and tell -----------------------------------------------------

    @property
    def facts(self) -> NodeFacts:
        return self._compiler.facts

    @property
    def view(self) -> NodeView | None:
        """None before the first sync."""
        return self._compiler.view

    @property
    def settler(self) -> Settler:
        """Another one after each change of what is known of this node."""
        return self._compiler.settler

    @property
    def forwards(self) -> Mapping[ForwardKey, Forward]:
        return self._compiler.settler.forwards

    @property
    def health(self) -> Mapping[ServiceName, HealthPort]:
        return self._compiler.settler.health

    def verified(self) -> bool:
        """Whether the plane, asked now, holds what is wanted and was written by nobody else."""
        self._leveller.poll()
        return self._leveller.keeper.sure

    def note(self) -> None:
        """The store changed."""
        if self._noted_at is None:
            self._noted_at = self._clock()
        self._pacer.noted()
        self._news.set()

    def look(self) -> None:
        """Read the plane now, and repair what is not as wanted."""
        self._leveller.keeper.look()
        self.note()

    def set_facts(self, facts: NodeFacts) -> None:
        """This is known of the node now; a Node object in the store adds what it says."""
        self._told_facts = facts
        self.note()

    async def run(self) -> None:
        """Until cancelled. The first sync begins at once."""
        self.note()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._forgetter.run())
            group.create_task(self._turn())

    # --- when -------------------------------------------------------------------------

    async def _turn(self) -> None:
        while True:
            now = self._clock()
            due = self._pacer.due(now)
            if due <= now:
                await self._sync()
                continue
            # Between a failure and its retry nothing else is tried.
            if due == inf:
                due = min(self._leveller.idle(now), self._aside.due())
                if due <= now:
                    self._pacer.noted()
                    continue
            await self._rest(due - now)

    async def _rest(self, seconds: float) -> None:
        """Until there is news, or for so long."""
        timer = None
        if seconds < inf and not self._news.is_set():
            timer = asyncio.get_running_loop().call_later(seconds, self._news.set)
        try:
            await self._news.wait()
        finally:
            self._news.clear()
            if timer:
                timer.cancel()

    # --- a sync -----------------------------------------------------------------------

    async def _sync(self) -> None:
        self._began = self._clock()
        self._pacer.started(self._began)
        problem: Exception | None
        try:
            self._readmit()
            await self._compile()
            problem = await self._leveller.level()
            if problem is None and self._leveller.keeper.level:
                self._arrived()
            elif problem is None:
                self._pacer.noted()
        except Exception as error:
            # A defect of ours: what is kept may be torn, so all of it is made and read anew.
            problem = error
            self._compiler.view, self._told_facts = None, self._told_facts or self.facts
            self._leveller.keeper.lost()
        now = self._clock()
        delay = self._pacer.done(now, ok=problem is None)
        if problem is not None:
            self._cause = self._cause if self._cause == "start" else "retry"
            self._record(_failure(problem, delay, (now - self._began) * 1000))

    async def _compile(self) -> None:
        """Take what changed in the store, and make of it what changes in the program."""
        changed = self._store.take_changed()
        self._progress.taken()
        self._triggers.take()
        self._record(records.SyncBegan())
        anew = changed.node or changed.cidrs or self._told_facts is not None
        if not (changed.names or anew):
            return
        began = self._clock()
        snapshot = self._store.snapshot()
        names: Collection[ServiceName] = changed.names
        work = partial(self._compiler.update, snapshot, names)
        if anew:
            facts = self._told_facts or self.facts
            node = snapshot.nodes.get(facts.name)
            # A node outlives its object: what was known of it stays (kube-proxy does the same).
            if node is not None:
                facts = node_facts(node, facts.name, facts.addresses, self._options.node_ip, facts.links)
            work = partial(self._compiler.adapt, snapshot, names, facts)
        many = len(snapshot.services if anew else names) > _MANY
        compiled = await asyncio.to_thread(work) if many else work()
        self._told_facts = None
        self._full |= compiled.full
        self._take(compiled)
        self._cause = self._cause or "change"
        self._looked_at.update(dict.fromkeys(snapshot.services if compiled.full else names))
        self._compiling += compiled.compiling
        self._linking += compiled.linking
        self._planning += self._clock() - began

    def _take(self, compiled: Compiled) -> None:
        for record in compiled.records:
            self._record(record)
        self._unacked.update(compiled.forwards)
        if not self._aside.spotless:
            for key in compiled.forwards:
                self._aside.forgive(key)
        self._leveller.keeper.desired(compiled.changes)

    def _arrived(self) -> None:
        """The plane holds all that was compiled."""
        if self._cause is None and self._noted_at is not None:
            # News that came to nothing, or that an earlier sync took with it: who waits for
            # a sync after the news must hear of one.
            self._cause = "change"
        told = self._cause is not None
        self._tell_synced()
        if self._unacked:
            transitions = [(key, self._in_force.get(key), new) for key, new in self._unacked.items()]
            for key, _, new in transitions:
                if new is None:
                    self._in_force.pop(key, None)
                else:
                    self._in_force[key] = new
            self._unacked = {}
            self._tally.changed(transitions)
            self._forgetter.changed(transitions, self.facts.addresses)
        for family, seconds in self._triggers.arrived(self._wall()):
            self._record(records.Programmed(family, seconds))
        if told:
            self._tell_in_force()
        self._progress.arrived(len(self._aside))
        self.ready.set()

    def _tell_synced(self) -> None:
        written, took, reading = self._leveller.take_tally()
        if self._cause:
            now = self._clock()
            settling = self._planning - self._compiling - self._linking
            self._record(
                records.Synced(
                    written,
                    len(self._looked_at),
                    self._planning * 1000,
                    took * 1000,
                    self._cause,
                    full=self._full,
                    names=() if self._full else tuple(map(str, islice(self._looked_at, _NAMED))),
                    settle_ms=settling * 1000,
                    compile_ms=self._compiling * 1000,
                    link_ms=self._linking * 1000,
                    read_ms=reading * 1000,
                    took_ms=(now - self._began) * 1000,
                    lag_ms=0.0 if self._noted_at is None else (now - self._noted_at) * 1000,
                )
            )
        self._cause, self._looked_at, self._full = None, {}, False
        self._planning = self._compiling = self._linking = 0.0
        self._noted_at = None

    def _tell_in_force(self) -> None:
        tally = self._tally
        self._record(
            records.InForce(
                tally.service_ports,
                len(self.linker.objects),
                len(self._aside),
                tally.claims_lost,
                tally.no_local["internal", 4],
                tally.no_local["internal", 6],
                tally.no_local["external", 4],
                tally.no_local["external", 6],
            )
        )

    # --- setting aside ----------------------------------------------------------------

    def _withdraw(self, names: Sequence[Name]) -> list[Change]:
        """Take what these service ports add out of the program."""
        keys = cast(Sequence[ForwardKey], names)  # all names but the base's are
        self._unacked.update(dict.fromkeys(keys))
        return self._compiler.withdraw(keys)

    def _readmit(self) -> None:
        """Let those back in whose time aside is over."""
        back = self._aside.came_round(self._clock())
        spared = {thing for thing in back if isinstance(thing, Key)}
        if spared:
            self._leveller.keeper.spared -= spared
            self._leveller.keeper.doubt()
        if len(back) > len(spared):
            keys = cast(list[ForwardKey], [thing for thing in back if thing not in spared])
            compiled = self._compiler.readmit(keys)
            self._unacked.update(compiled.forwards)
            self._leveller.keeper.desired(compiled.changes)


def _failure(problem: Exception, delay: float, took_ms: float) -> records.Record:
    if isinstance(problem, Refused):
        return records.Refused(str(problem), problem.errno, problem.change, problem.origin, delay, took_ms)
    words = str(problem) if isinstance(problem, KubewayError) else f"{type(problem).__name__}: {problem}"
    return records.SyncFailed(words, delay, took_ms)
