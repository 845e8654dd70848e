"""
The two protocols the house is built between: what compiles, and what can be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from kubeway.model.forward import Forward
from kubeway.model.node import NodeView
from kubeway.model.packet import Fates, Packet
from kubeway.program.plan import Order
from kubeway.program.program import Change, Fragment, Key, Object


class Mode(Protocol):
    """A compiler of Forwards: pure methods, no state that anybody could notice."""

    @property
    def name(self) -> str:
        """As in `--proxy-mode`."""

    @property
    def planes(self) -> Order:
        """The planes it uses, in the order in which they are built."""

    @property
    def large(self) -> int | None:
        """A family of more endpoints than this is large (`FamilyView.large`). None: it never minds."""

    def base(self, view: NodeView) -> Fragment:
        """What is there even with no service."""

    def fragment(self, forward: Forward, view: NodeView) -> Fragment:
        """What one service port adds; of the view it depends on `shape` only."""

    def fates(
        self,
        objects: Mapping[Key, Object],
        view: NodeView,
        packet: Packet,
        trail: list[str] | None = None,
    ) -> Fates:
        """Where a packet can end in this program, or in one read back from the planes.

        Each step taken is told to `trail`, if there is one.
        """


class Plane(Protocol):
    """Something on the node that holds part of a program: two methods, and the only ones that wait."""

    async def read(self) -> dict[Key, Object]:
        """All it holds of ours, and what is in our place without being ours."""

    async def write(self, changes: Sequence[Change]) -> None:
        """Make the changes, or raise Refused, Stale or Lost.

        After Refused or Stale nothing was applied where the plane is atomic;
        after Lost nobody knows. Every change is safe to repeat after a read.
        """
