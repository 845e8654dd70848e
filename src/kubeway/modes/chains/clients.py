"""
Who a packet is from, as matches.

Each answer is a list of alternatives of matches, each of which is enough: none at all, and it is never so;
an empty one, and it always is.
"""

from __future__ import annotations

from kubeway.model.node import Detector
from kubeway.planes.xtables.objects import InInterface, Match, Source
from kubeway.values import Prefix


def inside(detector: Detector) -> tuple[tuple[Match, ...], ...]:
    """The client is a pod of this cluster."""
    if detector.prefix is None:
        return ((InInterface(detector.interface, detector.kind == "interface-prefix"),),)
    return (from_prefix(detector.prefix),)


def outside(detector: Detector) -> tuple[tuple[Match, ...], ...]:
    """The client is no pod of this cluster."""
    if detector.prefix is None:
        return ((InInterface(detector.interface, detector.kind == "interface-prefix", invert=True),),)
    return ((Source(detector.prefix, invert=True),),) if detector.prefix.length else ()


def from_prefix(prefix: Prefix) -> tuple[Match, ...]:
    """A prefix of length zero is no match: iptables does not keep it."""
    return (Source(prefix),) if prefix.length else ()
