"""
From what changed in the cluster to what changes in the program.

Settler, mode and linker in a row, with what each keeps. One Service that cannot
be settled or compiled is left out and told of, and the others go on. Where this
node is not what it was, everything is done anew, and the linker finds what that
changes; where a family has grown large, or is large no more, everything is
compiled anew.

Nothing is sent here, and nothing waits; the work may be done in any one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from kubeway.errors import KubewayError
from kubeway.model.forward import Forward, Lost, ServiceName
from kubeway.model.node import NodeFacts, NodeView, Options
from kubeway.model.settle import ForwardKey, Settler
from kubeway.model.sizes import Sizes
from kubeway.model.store import Snapshot
from kubeway.model.view import node_view
from kubeway.program.link import Linker, Name
from kubeway.program.plane import Mode
from kubeway.program.program import Change, Fragment
from kubeway.records import ClaimLost, Record, ServiceLeftOut, ServiceUnspoken
from kubeway.shell.clock import monotonic
from kubeway.values import PROTO_NAMES, show_addr

BASE: Final = ()
"""The name of the base's fragment: smaller than every service port's, so it holds what it brings."""


class Compiled(NamedTuple):
    """What an update changed: in the program, and which Forwards (None: it is gone).

    `compiling` and `linking` are the seconds it took; the rest of the time went into
    settling. `full`: all Services were gone over.
    """

    changes: list[Change]
    forwards: dict[ForwardKey, Forward | None]
    records: list[Record]
    compiling: float = 0.0
    linking: float = 0.0
    full: bool = False


class Compiler:
    def __init__(
        self,
        mode: Mode,
        settler_of: Callable[[NodeFacts, Options], Settler],
        options: Options,
        facts: NodeFacts,
        linker: Linker,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._mode, self._settler_of, self._options = mode, settler_of, options
        self.facts = facts
        self._clock = clock
        self.view: NodeView | None = None
        self.settler = settler_of(facts, options)
        self.linker = linker
        self._sizes = Sizes(mode.large)
        self._linked: set[ForwardKey] = set()
        self._lost: dict[ForwardKey, tuple[Lost, ...]] = {}
        self._unspoken: set[ForwardKey] = set()

    def update(self, snapshot: Snapshot, names: Collection[ServiceName]) -> Compiled:
        """These Services or their slices changed."""
        return self._update(snapshot, names, {})

    def adapt(self, snapshot: Snapshot, names: Collection[ServiceName], facts: NodeFacts) -> Compiled:
        """As `update`, for a node of which this is known now.

        Services are gone over again only if what changed can matter to them: a Pod that
        comes brings addresses, and they are many.
        """
        view = self._sizes.seen(node_view(facts, self._options, snapshot.service_cidrs()))
        if self.view is None or view.shape != self.view.shape or _mattering(facts) != _mattering(self.facts):
            return self.restart(snapshot, facts)
        fragments: dict[Name, Fragment | None] = {} if view == self.view else {BASE: self._mode.base(view)}
        self.facts, self.view = facts, view
        moved = self.settler.move(facts.addresses)
        return self._update(snapshot, names, fragments, moved)

    def restart(self, snapshot: Snapshot, facts: NodeFacts) -> Compiled:
        """Everything anew, for a node of which this is known."""
        self.facts = facts
        records: list[Record] = []
        self.settler = self._settle_all(snapshot, records)
        self._sizes = Sizes(self._mode.large, self.settler.forwards.values())
        self.view = self._sizes.seen(node_view(facts, self._options, snapshot.service_cidrs()))
        return self._compile_all(self.view, records)

    def _update(
        self,
        snapshot: Snapshot,
        names: Collection[ServiceName],
        fragments: dict[Name, Fragment | None],
        moved: Mapping[ForwardKey, Forward | None] = MappingProxyType({}),
    ) -> Compiled:
        if self.view is None:
            return self.restart(snapshot, self.facts)
        try:
            forwards = {**moved, **self.settler.update(snapshot, names)}
        except Exception:
            # What the settler holds cannot be relied on now; a new one finds out whose fault it was.
            return self.restart(snapshot, self.facts)
        self._sizes.change(forwards)
        view = self._sizes.seen(self.view)
        if view is not self.view:
            self.view = view
            return self._compile_all(view, [])
        return self._compiled(forwards, fragments, [])

    def _compile_all(self, view: NodeView, records: list[Record]) -> Compiled:
        """What is settled, anew, and what is no more."""
        forwards: dict[ForwardKey, Forward | None] = dict(self.settler.forwards)
        forwards.update((key, None) for key in self._linked if key not in forwards)
        return self._compiled(forwards, {BASE: self._mode.base(view)}, records)._replace(full=True)

    def withdraw(self, keys: Iterable[ForwardKey]) -> list[Change]:
        """Take what these service ports add out of the program."""
        return self.linker.update(dict.fromkeys(keys))

    def readmit(self, keys: Iterable[ForwardKey]) -> Compiled:
        """Put what these service ports add back in."""
        held = self.settler.forwards
        return self._compiled({key: held[key] for key in keys if key in held}, {}, [])

    def _settle_all(self, snapshot: Snapshot, records: list[Record]) -> Settler:
        try:
            return self._settled(snapshot, snapshot.names())
        except Exception:
            # Each alone, to find out whose fault it is; then all the others together.
            good = []
            for name in snapshot.names():
                try:
                    self._settled(snapshot, (name,))
                    good.append(name)
                except Exception as error:
                    records.append(ServiceLeftOut(str(name), _words(error)))
            return self._settled(snapshot, good)

    def _settled(self, snapshot: Snapshot, names: Iterable[ServiceName]) -> Settler:
        settler = self._settler_of(self.facts, self._options)
        settler.update(snapshot, names)
        return settler

    def _compiled(
        self,
        forwards: dict[ForwardKey, Forward | None],
        fragments: dict[Name, Fragment | None],
        records: list[Record],
    ) -> Compiled:
        view = self.view
        assert view is not None
        began = self._clock()
        for key, forward in forwards.items():
            if forward is None:
                fragments[key] = None
                self._unspoken.discard(key)
                continue
            if not view.speaks(forward.proto):
                records += self._newly_unspoken(key, forward)
            try:
                fragments[key] = self._mode.fragment(forward, view)
            except Exception as error:
                fragments[key] = None
                records.append(ServiceLeftOut(forward.name.label, _words(error)))
            if forward.lost or self._lost:
                records += self._newly_lost(key, forward)
        self._linked.update(forwards)
        self._linked.difference_update([key for key, forward in forwards.items() if forward is None])
        compiled = self._clock()
        changes = self._link(fragments)
        return Compiled(changes, forwards, records, compiled - began, self._clock() - compiled)

    def _link(self, fragments: dict[Name, Fragment | None]) -> list[Change]:
        """At a cold start the planes are compared with the program; nobody asks what changed in it."""
        if self.linker.objects:
            return self.linker.update(fragments)
        self.linker.fill({name: found for name, found in fragments.items() if found is not None})
        return []

    def _newly_unspoken(self, key: ForwardKey, forward: Forward) -> list[Record]:
        """Told once of a service port, be it of two families."""
        known = any(name == forward.name for name, _ in self._unspoken)
        self._unspoken.add(key)
        return [] if known else [ServiceUnspoken(forward.name.label, self._mode.name)]

    def _newly_lost(self, key: ForwardKey, forward: Forward) -> list[Record]:
        before = self._lost.pop(key, ())
        if forward.lost:
            self._lost[key] = forward.lost
        return [_claim_lost(forward, lost) for lost in forward.lost if lost not in before]


def _mattering(facts: NodeFacts) -> tuple[object, ...]:
    """What the settling of Services depends on."""
    return facts.name, facts.zone, facts.ips


def _claim_lost(forward: Forward, lost: Lost) -> ClaimLost:
    ip, port = lost.frontend.ip, lost.frontend.port
    claim = f"node port {port}" if ip is None else show_addr(ip, port)
    return ClaimLost(forward.name.label, f"{claim}/{PROTO_NAMES[forward.proto]}", lost.holder.label)


def _words(error: Exception) -> str:
    """What a person reads of it; a defect of ours is named by its class."""
    return str(error) if isinstance(error, KubewayError) else f"{type(error).__name__}: {error}"
