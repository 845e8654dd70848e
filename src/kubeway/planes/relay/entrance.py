"""
What the connections of one way in have in common: who serves the next one, who waits, and what was carried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from kubeway.planes.relay.balance import Balancer
from kubeway.planes.relay.objects import Endpoint, Way

if TYPE_CHECKING:
    from kubeway.planes.relay.stream import Stream

WAITING: Final = 128
"""The most connections of one way that wait for an endpoint at one time (`Way.hold`)."""


class Tally(Struct, gc=False):
    """What a way has carried, of one protocol. Bytes are payload.

    `connections`: that came. `refused`: of them, those that nobody served. `retried`: tries at another
    endpoint, after one refused or was silent. `sent`: bytes from clients to endpoints; `received`: from
    endpoints to clients.
    """

    connections: int = 0
    refused: int = 0
    retried: int = 0
    sent: int = 0
    received: int = 0

    def add(self, other: Tally) -> None:
        self.connections += other.connections
        self.refused += other.refused
        self.retried += other.retried
        self.sent += other.sent
        self.received += other.received


class Entrance:
    """A way in that is open. `start`: as a Balancer has it."""

    __slots__ = ("balancer", "tally", "waiting")

    def __init__(self, way: Way, start: float = 0.0) -> None:
        self.balancer = Balancer(way, start)
        self.tally = Tally()
        self.waiting: dict[Stream, None] = {}
        """Who waits for an endpoint, who came first is first."""

    @property
    def way(self) -> Way:
        return self.balancer.way

    @property
    def busy(self) -> bool:
        """Whether it has connections or sessions, or some that wait."""
        return bool(self.waiting) or self.balancer.busy

    def become(self, way: Way) -> frozenset[Endpoint]:
        """The way is another one now. Returns the endpoints that left. Whom it lets on, `ready` tells."""
        return self.balancer.become(way)

    def ready(self) -> list[Stream]:
        """Those that waited and need not any longer, to be told so (`Stream.come`)."""
        return list(self.waiting) if self.way.endpoints or not self.way.hold else []
