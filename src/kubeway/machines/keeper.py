"""
What next: read, write, poll, or nothing.

The keeper knows what the planes are to hold (`wanted`, which the linker keeps up
to date), which changes of it are not written yet, whether the planes' content is
known, and whether somebody else may have changed it. It knows no plane: it is
told events and the time, and answers with a command.

    state     the planes hold                next(now)
    UNKNOWN   who knows                      Read
    BEHIND    `wanted` but for `todo`        Write
    LEVEL     `wanted`                       Poll if it is time, else Nothing
    DOUBTED   perhaps not `wanted`           Read if the budget allows, else as LEVEL

    event        UNKNOWN         BEHIND          LEVEL          DOUBTED
    desired      stays           adds to todo    -> BEHIND      -> BEHIND*
    read_done    -> BEHIND or LEVEL, by what differs                -> the same
    write_done   -              -> LEVEL         -              -      (* -> DOUBTED)
    refused      -              -> UNKNOWN       -              -
    lost         stays          -> UNKNOWN       -> UNKNOWN     -> UNKNOWN
    stale        stays          stays*; a second time -> UNKNOWN
    outgrown     with the next write, what has no more room is made anew
    generation   -              stays*           -> DOUBTED     stays, if it moved without us

A change is written before a doubt (*) is followed up: writing is a thousand times
cheaper than reading. Where the doubt was right and the write does not fit, it is
refused, and a refusal is followed by a read.

A generation is a number of the kernel's that each commit, of whomever, changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Final, Literal

from msgspec import Struct

from kubeway.program.plan import Order, diff, steps
from kubeway.program.program import Change, Key, Object, Step

READ_SHARE: Final = 20.0
"""A read that only follows a doubt waits this many times its cost: at most 5 % of the time is spent so."""

_GENERATIONS: Final = 1 << 32


class Read(Struct, frozen=True):
    """Read the planes; then tell `read_done`, `stale` or `lost`."""


class Write(Struct, frozen=True):
    """Write the steps in order; then tell `write_done`, `refused`, `stale` or `lost`."""

    steps: list[Step]


class Poll(Struct, frozen=True):
    """Ask for the generation; then tell `generation`."""


class Nothing(Struct, frozen=True):
    """Nothing to do before `until`, unless there is an event."""

    until: float


Command = Read | Write | Poll | Nothing
Cause = Literal["start", "change", "drift", "retry"]
Law = Callable[[Sequence[Change], Mapping[Key, Object]], list[Change]]


class Keeper:
    """`wanted` is a live view: `desired` tells what has changed in it.

    `order`: the planes, each with its kinds, as `plan.steps` wants them; `first`: the
    same for what is written at the start, if that is another. `law` turns changes into
    ones the planes take. `poll`: seconds between polls of the generation, `inf` for
    planes that have none. `verify`: seconds after which the planes are read even without
    a doubt.
    """

    def __init__(
        self,
        wanted: Mapping[Key, Object],
        order: Order,
        *,
        law: Law = lambda changes, _: list(changes),
        poll: float = 1.0,
        verify: float = inf,
        first: Order | None = None,
    ) -> None:
        self._wanted, self._order, self._law = wanted, order, law
        self._first = first
        self._poll, self._verify = poll, verify
        self.cause: Cause = "start"
        self.spared: set[Key] = set()  # keys that are left as they are
        self._known = False
        self._doubted = False
        self._todo: list[Change] = []
        self._writing: list[Change] = []
        self._commits = 1  # of ours that this write makes: one a step
        self._outgrown: set[Key] = set()
        self._stales = 0
        self._generation: int | None = None
        self._poll_at = -inf
        self._asked_at = -inf
        self._read_after = -inf  # when the budget allows a read that follows a doubt
        self._verified_at = -inf

    @property
    def level(self) -> bool:
        """Whether the planes hold what is wanted, as far as known."""
        return self._known and not self._todo and not self._writing

    @property
    def sure(self) -> bool:
        """Whether the planes hold what is wanted, and nobody else may have changed that."""
        return self.level and not self._doubted

    def next(self, now: float) -> Command:
        """Asked again without an event, it answers the same; but a poll is told once."""
        if not self._known:
            return self._read(now)
        if self._todo or self._writing:
            self._writing = after(self._writing, self._todo) if self._writing else self._todo
            self._todo = []
            anew = [
                Change("set", key, held, held) for key in self._outgrown if (held := self._wanted.get(key))
            ]
            changes = [*self._writing, *anew] if anew else self._writing
            write = Write(steps(self._law(changes, self._wanted), self._first or self._order))
            self._commits = max(1, len(write.steps))
            return write
        read_at = (
            self._read_after if self._doubted else max(self._read_after, self._verified_at + self._verify)
        )
        if now >= read_at:
            return self._read(now)
        if now >= self._poll_at:
            self._poll_at = now + self._poll
            return Poll()
        return Nothing(min(read_at, self._poll_at))

    def _read(self, now: float) -> Read:
        self._asked_at = now
        return Read()

    # --- events -------------------------------------------------------------------

    def desired(self, changes: Sequence[Change]) -> None:
        """What is wanted has changed so."""
        # What is not known is read, and the difference found then holds these changes too.
        if self._known and changes:
            self._todo = self._but_spared(after(self._todo, changes) if self._todo else list(changes))

    def outgrown(self, key: Key) -> bool:
        """A plane has no more room in this object: the next write makes it anew, as `law`
        knows how. False if it is to be made anew already, so that this is no help."""
        known = key in self._outgrown
        self._outgrown.add(key)
        return not known

    def read_done(
        self, objects: Mapping[Key, Object], now: float, generation: int | None = None
    ) -> list[Change]:
        """The planes hold these objects. Returns what differs from what is wanted.

        `generation`: what it was before the read began.
        """
        self._todo, self._writing = self._but_spared(list(diff(objects, self._wanted))), []
        if not self._todo:
            self.cause, self._first = "change", None
        elif self._known:
            self.cause = "drift"
        self._known, self._doubted, self._stales = True, False, 0
        self._generation, self._verified_at = generation, now
        self._read_after = now + READ_SHARE * (now - self._asked_at)
        return self._todo

    def write_done(self, generation: int | None = None) -> None:
        """The planes took the changes. `generation`: what it is since."""
        self._first = None
        self._writing, self._stales, self.cause = [], 0, "change"
        self._outgrown.clear()
        if generation is None or self._generation is None:
            return
        # A commit of ours moves it by one; one that changed nothing does not.
        if (generation - self._generation) % _GENERATIONS > self._commits:
            self._doubted = True
        self._generation = generation

    def refused(self) -> None:
        """A plane said no; where it is not atomic, some of the changes may have been made."""
        self.lost()

    def lost(self) -> None:
        """Nobody knows what the planes hold."""
        self._known, self._todo, self._writing = False, [], []
        self._retrying()

    def stale(self) -> None:
        """Somebody else committed since the last look, so nothing was written (or the read was torn)."""
        self._stales += 1
        self._retrying()
        if not self._known or self._stales > 1:
            self.lost()
            return
        self._doubted = True
        self._todo = after(self._writing, self._todo)
        self._writing = []

    def generation(self, generation: int | None) -> None:
        """The answer to a poll."""
        if generation is not None and generation != self._generation:
            self._doubted = self._doubted or self._generation is not None
            self._generation = generation

    def doubt(self) -> None:
        """There is reason to look at the planes again."""
        self._doubted = True

    def look(self) -> None:
        """Somebody asks for a look at the planes: the next thing to do, whatever it costs."""
        self._doubted, self._read_after = True, -inf

    def _retrying(self) -> None:
        if self.cause == "change":
            self.cause = "retry"

    def _but_spared(self, changes: list[Change]) -> list[Change]:
        return [c for c in changes if c.key not in self.spared] if self.spared else changes


def after(first: Iterable[Change], then: Iterable[Change]) -> list[Change]:
    """The changes that do in one go what `first` and, after it, `then` do; at most one for a key."""
    olds: dict[Key, Object | None] = {}
    news: dict[Key, Object | None] = {}
    for changes in (first, then):
        for change in changes:
            olds.setdefault(change.key, change.old)
            news[change.key] = change.new
    return [made for key, old in olds.items() if (made := _change(key, old, news[key]))]


def _change(key: Key, old: Object | None, new: Object | None) -> Change | None:
    if old is None:
        return None if new is None else Change("add", key, None, new)
    if new is None:
        return Change("del", key, old, None)
    return None if old is new or old == new else Change("set", key, old, new)
