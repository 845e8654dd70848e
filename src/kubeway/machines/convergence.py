"""
How far the kernel has caught up with the API, in the API's own count of writes.

Every write to a cluster gets a number, its resource version. Objects come in
several streams (Services, slices, …), each in the order of these numbers but at
a pace of its own: that one stream has come to 100 says nothing of another. So the
kernel is known to hold the write of number `rv` in two cases only:

- a stream brought the very write that has this number, and a sync that began
  after that has ended well;
- every stream has come to `rv` or further, and a sync that began after that has
  ended well: whoever made the write, we were told or it was not for us.

What a stream brings that changes nothing needs no sync: it is held at once if all
that came before it is.

    event         heard           in the sync under way   held
    changed(now)  from now on it  stays                   stays
                  needs a sync
    heard(…)      + what came     stays                   + heard, if nothing needs a sync
    taken()       nothing         + what was heard        stays
    arrived()     stays           nothing                 + what was in it

A stream that is listed anew at a lower number than before tells that the cluster
was restored: what was held under the old count then means nothing.

This machine does not know what a write is about, nor what a sync does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

_MOST: Final = 100_000
"""Single writes remembered as held. They are forgotten once every stream has passed them."""


class Convergence:
    """`streams` are what is followed; () if objects come without resource versions.

    `moved` is called whenever the kernel may hold more than before.
    """

    def __init__(self, streams: Iterable[str], moved: Callable[[], None] = lambda: None) -> None:
        self._moved = moved
        self._heard = dict.fromkeys(streams, 0)
        self.streams: Mapping[str, int] = MappingProxyType(self._heard)
        """How far each stream has come."""
        self.held = 0
        """The kernel holds every write up to this one."""
        self.aside = 0
        """What was left out of the last sync because the kernel refused it."""
        self._absent: set[str] = set()
        self._writes: set[int] = set()
        self._taking: set[int] = set()
        self._taking_all = 0
        self._held: dict[int, None] = {}
        self._busy = False
        self._changed_at: float | None = None
        self._taken_at: float | None = None

    def changed(self, now: float) -> None:
        """The store is not as it was. Told before `heard` tells of the versions that did it."""
        if self._changed_at is None:
            self._changed_at = now

    def heard(self, stream: str, rv: int, *, writes: Iterable[int] = (), anew: bool = False) -> None:
        """The stream has come to `rv`, and all that it brought until then is in the store.

        `writes`: the numbers of the single writes that it brought. `anew`: at the end
        of a list, whose objects have the numbers of their last writes and count for none.
        """
        self._absent.discard(stream)
        if anew and rv < self._heard[stream]:
            self.held = self._taking_all = self._heard[stream] = 0
            for kept in (self._held, self._taking, self._writes):
                kept.clear()
        self._heard[stream] = max(rv, self._heard[stream])
        self._writes.update(writes)
        if not self._busy:
            self._hold_unchanged()

    def absent(self, stream: str) -> None:
        """This cluster has no such objects: nobody need wait for the stream, until it is heard."""
        self._absent.add(stream)
        if not self._busy:
            self._hold_unchanged()

    def taken(self) -> None:
        """A sync begins, and takes with it all that was heard."""
        self._taking |= self._writes
        self._taking_all = self._all()
        self._writes = set()
        if self._taken_at is None:
            self._taken_at = self._changed_at
        self._changed_at = None
        self._busy = True

    def arrived(self, aside: int = 0) -> None:
        """The kernel holds all that was taken, but for `aside` things that it refused."""
        self.aside = aside
        self._busy, self._taken_at = False, None
        self._hold(self._taking, self._taking_all)
        self._taking = set()
        self._hold_unchanged()
        self._moved()

    def holds(self, rv: int) -> bool:
        """Whether the kernel holds the write of this number, as far as writing goes."""
        return not self.aside and (rv <= self.held or rv in self._held)

    def lag(self, now: float) -> float:
        """Seconds for which the oldest change that the kernel does not hold has been waiting."""
        since = self._changed_at if self._taken_at is None else self._taken_at
        return 0.0 if since is None else now - since

    def _all(self) -> int:
        return min((rv for stream, rv in self._heard.items() if stream not in self._absent), default=0)

    def _hold_unchanged(self) -> None:
        """What came and changed nothing is held if nothing else needs a sync."""
        if self._changed_at is None:
            self._hold(self._writes, self._all())
            self._writes = set()
            self._moved()

    def _hold(self, writes: Iterable[int], all_of: int) -> None:
        if all_of > self.held:
            self.held = all_of
            self._held = {rv: None for rv in self._held if rv > all_of}
        self._held.update((rv, None) for rv in writes if rv > self.held)
        while len(self._held) > _MOST:
            del self._held[next(iter(self._held))]
