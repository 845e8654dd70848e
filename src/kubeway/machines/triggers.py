"""
How long a change of endpoints takes from its reason to the kernel.

The cluster notes on an EndpointSlice when what led to its last change happened
(a Pod became ready, a Service was edited). When the change is in the kernel, the
difference is the network programming latency. The rules are kube-proxy's:

- times before this process began are not counted: the change is older than we are;
- a slice that goes takes with it all times noted for its Service;
- a time is counted when the sync that took it has ended well.

Times are in nanoseconds since 1970. What a sync is is not known here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from kubeway.model.forward import ServiceName

ANNOTATION: Final = "endpoints.kubernetes.io/last-change-trigger-time"

_FAMILIES: Final[dict[int, Literal["IPv4", "IPv6"]]] = {4: "IPv4", 6: "IPv6"}


def parse(text: str) -> int | None:
    """Nanoseconds since 1970 of an RFC 3339 time with any fraction; None if it is none."""
    head, dot, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    fraction, zone = (rest[:digits], rest[digits:]) if dot else ("", "")
    if dot and not fraction:
        return None
    try:
        moment = datetime.fromisoformat(head + zone)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return int(moment.timestamp()) * 1_000_000_000 + int(f"{fraction[:9]:0<9}")


class Triggers:
    """`since`: when this process began."""

    def __init__(self, since: int) -> None:
        self._since = since
        self._noted: dict[ServiceName, list[tuple[int, int]]] = {}
        self._taken: dict[ServiceName, list[tuple[int, int]]] = {}

    def noted(self, service: ServiceName, family: int, at: int) -> None:
        """A slice of this Service and family changed, because of something that happened `at`."""
        if at > self._since:
            self._noted.setdefault(service, []).append((family, at))

    def gone(self, service: ServiceName) -> None:
        """A slice of this Service went."""
        self._noted.pop(service, None)

    def take(self) -> None:
        """A sync begins, and takes with it all that was noted."""
        for service, times in self._noted.items():
            self._taken.setdefault(service, []).extend(times)
        self._noted = {}

    def arrived(self, now: int) -> list[tuple[Literal["IPv4", "IPv6"], float]]:
        """What was taken is in the kernel: family and seconds of each."""
        taken, self._taken = self._taken, {}
        return [
            (_FAMILIES[family], max(0, now - at) / 1e9) for times in taken.values() for family, at in times
        ]
