"""
Several planes as one: what a mode of more than one needs, for who levels a single one.

Each change goes to the plane its key names. A write is one step, so it is one plane's, and as atomic as
that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Protocol, runtime_checkable

from kubeway.program.plan import Order
from kubeway.program.plane import Plane
from kubeway.program.program import Change, Key, Object


@runtime_checkable
class Counting(Protocol):
    """A plane that counts its commits, by whomever they are."""

    def generation(self) -> int:
        """Cheap, and another number after each commit."""


@runtime_checkable
class Closing(Protocol):
    """A plane with something open."""

    def close(self) -> None:
        """Give back what it holds open."""


@runtime_checkable
class Standing(Protocol):
    """A plane that has to be at work before anything leads to it, were it only with nothing."""

    async def stand(self) -> None:
        """See that it is. Refused, Lost."""


@runtime_checkable
class Tended(Protocol):
    """A plane with something going on in it that takes time."""

    def tend(self, now: float) -> float:
        """Look after it; the time when to look again, `inf` if nothing is going on."""


class Compound:
    """`planes` by name, bottom first. `verify`: seconds after which they are to be read without a doubt.

    `first`: the order of the first write, where it is another than the mode's.
    """

    def __init__(self, planes: Mapping[str, Plane], verify: float = inf, first: Order | None = None) -> None:
        self._planes = dict(planes)
        self._counting = [plane for plane in self._planes.values() if isinstance(plane, Counting)]
        self._standing = {name: plane for name, plane in self._planes.items() if isinstance(plane, Standing)}
        self._tended = [plane for plane in self._planes.values() if isinstance(plane, Tended)]
        self.verify, self.first = verify, first

    async def read(self) -> dict[Key, Object]:
        objects: dict[Key, Object] = {}
        for plane in self._planes.values():
            objects.update(await plane.read())
        return objects

    async def write(self, changes: Sequence[Change]) -> None:
        by_plane: dict[str, list[Change]] = {}
        for change in changes:
            by_plane.setdefault(change.key.plane, []).append(change)
        for name, own in by_plane.items():
            if name not in self._standing:
                await self.stand()
            await self._planes[name].write(own)

    async def stand(self) -> None:
        """See that those are at work that others lead to."""
        for plane in self._standing.values():
            await plane.stand()

    def close(self) -> None:
        for plane in self._planes.values():
            if isinstance(plane, Closing):
                plane.close()

    def tend(self, now: float) -> float:
        """Look after all that goes on in them; the time when to look again, `inf` if nothing does."""
        return min((plane.tend(now) for plane in self._tended), default=inf)

    def generation(self) -> int:
        """The commits to all of them together."""
        return sum(plane.generation() for plane in self._counting)
