"""
An xtables plane whose rules are counted as they are read and written: for the metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kubeway.planes.xtables.tally import Tally
from kubeway.program.plane import Plane
from kubeway.program.program import Change, Key, Object


class CountedPlane(Plane, Protocol):
    """A plane that tells when somebody committed to it."""

    def generation(self) -> int:
        """Another number after each commit."""

    def close(self) -> None:
        """Give back what it holds open."""


class Tallied:
    """`tally` is right whenever the plane is level: what failed half-way is counted when it is read again."""

    def __init__(self, plane: CountedPlane, tally: Tally) -> None:
        self._plane, self._tally = plane, tally

    async def read(self) -> dict[Key, Object]:
        objects = await self._plane.read()
        self._tally.read(objects)
        return objects

    async def write(self, changes: Sequence[Change]) -> None:
        await self._plane.write(changes)
        self._tally.wrote(changes)

    def generation(self) -> int:
        return self._plane.generation()

    def close(self) -> None:
        self._plane.close()
