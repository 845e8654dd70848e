"""
Which objects the manifests hold, all files taken together.

A book has one page per file: the file's last good content. A page that is turned
yields what that changes for the cluster as a whole: objects to put, objects to
drop. An object that several files hold is taken from the smallest path, whatever
the order in which the files were read; the others are shadowed, and when the
holder's page goes the next one takes over.

This machine does not know what the objects are, only how they are told apart
(`identity`), and it reads no file. The cost of a turn is that of its page.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Shadowed(NamedTuple):
    """`path` holds this object too, but it is taken from `holder`.

    Where both are one path, the file holds it twice and its last one counts.
    """

    identity: Hashable
    path: str
    holder: str


class Turn(NamedTuple, Generic[T]):
    """What turning a page changed."""

    put: list[T]
    dropped: list[T]
    shadowed: list[Shadowed]


class Books(Generic[T]):
    def __init__(self, identity: Callable[[T], Hashable]) -> None:
        self._identity = identity
        self._pages: dict[str, dict[Hashable, T]] = {}
        self._holder: dict[Hashable, str] = {}
        # Only objects that more than one page holds: all of those paths.
        self._shared: dict[Hashable, set[str]] = {}

    def paths(self) -> frozenset[str]:
        return frozenset(self._pages)

    def count(self, path: str) -> int:
        """How many objects the file's page holds; 0 if it has none."""
        return len(self._pages.get(path, ()))

    def page(self, path: str, objects: Iterable[T]) -> Turn[T]:
        """Put this content in place of the file's last one."""
        turn: Turn[T] = Turn([], [], [])
        had = self._pages.get(path, {})
        now: dict[Hashable, T] = {}
        for obj in objects:
            name = self._identity(obj)
            if name in now:
                turn.shadowed.append(Shadowed(name, path, path))
            # An equal object stays the same object, so that others see at a glance it is unchanged.
            now[name] = old if (old := had.get(name)) == obj else obj
        self._pages[path] = now
        for name, obj in now.items():
            if name not in had:
                self._join(name, path, turn)
            elif obj is not had[name] and self._holder[name] == path:
                turn.put.append(obj)
        for name, obj in had.items():
            if name not in now:
                self._leave(name, path, obj, turn)
        return turn

    def gone(self, path: str) -> Turn[T]:
        """The file is no more."""
        turn = self.page(path, ())
        del self._pages[path]
        return turn

    def _join(self, name: Hashable, path: str, turn: Turn[T]) -> None:
        obj = self._pages[path][name]
        holder = self._holder.get(name)
        if holder is None:
            self._holder[name] = path
            turn.put.append(obj)
            return
        self._shared.setdefault(name, {holder}).add(path)
        if path > holder:
            turn.shadowed.append(Shadowed(name, path, holder))
            return
        self._holder[name] = path
        turn.shadowed.append(Shadowed(name, holder, path))
        if self._pages[holder][name] != obj:
            turn.put.append(obj)

    def _leave(self, name: Hashable, path: str, was: T, turn: Turn[T]) -> None:
        """`was` is what the page held until now."""
        others = self._shared.get(name)
        if others is None:
            del self._holder[name]
            turn.dropped.append(was)
            return
        others.discard(path)
        heir = min(others)
        if len(others) == 1:
            del self._shared[name]
        if self._holder[name] == path:
            self._holder[name] = heir
            if self._pages[heir][name] != was:
                turn.put.append(self._pages[heir][name])
