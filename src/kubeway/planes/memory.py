"""
A plane made of a dict, for tests: it obeys the laws of the plane it stands for.

It takes and refuses what the real one does, change by change and then all or
nothing, and it can be told to fail: one time in ten by chance, or at the next
write in a way that is named. What the objects are it does not know; `laws` says
where each lies and what it names (`planes.nft.laws` for nftables).

Errors are the kernel's: EEXIST for what is there already, ENOENT for what is
not, EBUSY for what others still name. Two things it sees otherwise than
nftables: it lets chains jump in a circle (there ELOOP), and it refuses to add
rules to a chain that has some (there they are appended).
"""

from __future__ import annotations

import errno
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Literal, Protocol

from kubeway.errors import KubewayError, Lost, Refused, Stale
from kubeway.machines.pacer import Rng
from kubeway.program.program import Change, Key, Object

Trouble = Literal["refused", "stale", "lost before", "lost after"]
TROUBLES: Final[tuple[Trouble, ...]] = ("refused", "stale", "lost before", "lost after")


class Laws(Protocol):
    """What the plane demands; a module of functions will do."""

    @property
    def RIGID(self) -> AbstractSet[str]:  # noqa: N802 (a module's constant)
        """Kinds that cannot be changed in place, but for those that lie in nothing: they are made anew."""

    def place(self, key: Key) -> Key | None:
        """The object this one lies in."""

    def references(self, key: Key, obj: Object) -> Iterable[Key]:
        """The objects this one names."""


class MemoryPlane:
    """`rng`: fail by chance, `share` of the time. `strict`: refuse to write over a foreign commit (Stale)."""

    def __init__(
        self,
        laws: Laws,
        objects: Mapping[Key, Object] | None = None,
        *,
        rng: Rng | None = None,
        share: float = 0.1,
        strict: bool = True,
    ) -> None:
        self._laws = laws
        self._rng, self._share, self._strict = rng, share, strict
        self.objects: dict[Key, Object] = {}
        self.troubles: deque[Trouble] = deque()
        """What goes wrong with the next calls, one each, before chance is asked."""
        self.writes: list[list[Change]] = []
        """What was written, refused writes left out."""
        self.reads = 0
        self._named: Counter[Key] = Counter()
        self._inside: dict[Key, dict[Key, None]] = {}
        self._generation = self._seen = 1
        self._undo: list[Change] = []
        self.edit([Change("add", key, None, obj) for key, obj in _ground_first(laws, objects or {})])
        self._seen = self._generation

    # --- the protocol ---------------------------------------------------------------

    async def read(self) -> dict[Key, Object]:
        trouble = self._trouble()
        if trouble == "stale":
            raise Stale("somebody wrote while the table was read")
        if trouble:
            raise Lost("the answer was lost")
        self.reads += 1
        self._seen = self._generation
        return dict(self.objects)

    async def write(self, changes: Sequence[Change]) -> None:
        trouble = self._trouble()
        if trouble == "refused":
            raise Refused("no memory", errno.ENOMEM)
        if trouble == "lost before":
            raise Lost("the request was lost")
        if trouble == "stale" or (self._strict and self._seen != self._generation):
            # The writer knows now; writing again is its own decision.
            self._seen = self._generation
            raise Stale("somebody wrote since the last look")
        before = self._generation
        self._commit(changes)
        self._seen = (self._seen + self._generation - before) & 0xFFFFFFFF
        self.writes.append(list(changes))
        if trouble == "lost after":
            raise Lost("the answer was lost")

    def generation(self) -> int:
        """Moves by one with each commit that changed something, of whomever."""
        return self._generation

    # --- the others -------------------------------------------------------------------

    def edit(self, changes: Sequence[Change]) -> None:
        """A commit of somebody else's; it has to keep the laws too."""
        self._commit(changes)

    def touch(self) -> None:
        """A commit of somebody else's to something that is not ours."""
        self._generation = self._generation + 1 & 0xFFFFFFFF

    def _trouble(self) -> Trouble | None:
        if self.troubles:
            return self.troubles.popleft()
        if self._rng is None or self._rng.random() >= self._share:
            return None
        return TROUBLES[int(self._rng.random() * len(TROUBLES))]

    # --- a transaction ----------------------------------------------------------------

    def _commit(self, changes: Sequence[Change]) -> None:
        self._undo = []
        try:
            for change in changes:
                self._make(change)
        except KubewayError:
            for change in reversed(self._undo):
                self._put(change.key, change.new, change.old)
            raise
        if self._undo:
            self._generation = self._generation + 1 & 0xFFFFFFFF

    def _make(self, change: Change) -> None:
        verb, key, new = change.verb, change.key, change.new
        there = self.objects.get(key)
        if verb == "add":
            self._require(change)
            if there is not None and there != new:
                raise self._refusal(errno.EEXIST, change)
            if there is None:
                self._replace(key, new)
            return
        if there is None:
            raise self._refusal(errno.ENOENT, change)
        if verb == "del":
            self._remove(change)
        elif key.kind in self._laws.RIGID:
            if self._laws.place(key) is not None:
                raise self._refusal(errno.EEXIST, change)
            self._remove(change)
            self._require(change)
            self._replace(key, new)
        else:
            self._require(change)
            self._replace(key, new)

    def _require(self, change: Change) -> None:
        key, obj = change.key, change.new
        place = self._laws.place(key)
        needed = [*self._laws.references(key, obj), *([place] if place else ())]
        if any(other not in self.objects for other in needed):
            raise self._refusal(errno.ENOENT, change)

    def _remove(self, change: Change) -> None:
        """Take it away with all that lies in it; what still names one of them keeps it busy."""
        gone = list(self._within(change.key))
        for key in reversed(gone):
            self._replace(key, None)
        if any(self._named[key] for key in gone):
            raise self._refusal(errno.EBUSY, change)

    def _within(self, key: Key) -> Iterator[Key]:
        yield key
        for inner in list(self._inside.get(key, ())):
            yield from self._within(inner)

    def _replace(self, key: Key, new: Object | None) -> None:
        old = self.objects.get(key)
        self._put(key, old, new)
        self._undo.append(Change("", key, old, new))

    def _put(self, key: Key, old: Object | None, new: Object | None) -> None:
        """Put `new` in place of `old` and keep count of what they name and where they lie."""
        place = self._laws.place(key)
        if old is not None:
            self._named.subtract(self._laws.references(key, old))
            del self.objects[key]
            if place:
                del self._inside[place][key]
        if new is not None:
            self._named.update(self._laws.references(key, new))
            self.objects[key] = new
            if place:
                self._inside.setdefault(place, {})[key] = None

    def _refusal(self, number: int, change: Change) -> Refused:
        words = errno.errorcode[number]
        said = f"{change.verb} {change.key.kind} {change.key.name}"
        return Refused(words, number, said, key=change.key)


def _ground_first(laws: Laws, objects: Mapping[Key, Object]) -> list[tuple[Key, Object]]:
    """In an order in which they can be added: each after those it lies in and names."""
    order: dict[Key, Object] = {}

    def put(key: Key) -> None:
        if key in order or key not in objects:
            return
        place = laws.place(key)
        for other in [*([place] if place else ()), *laws.references(key, objects[key])]:
            put(other)
        order[key] = objects[key]

    for key in objects:
        put(key)
    return list(order.items())
