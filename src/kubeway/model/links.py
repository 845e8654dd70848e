"""
What a node's links mean for the relay (userspace mode): what can come to it, and whose answers cannot.

How links are asked for is not known here.
"""

from __future__ import annotations

from msgspec import Struct

from kubeway.values import V4, V6, Ip, Prefix


class Neighbours(Struct, frozen=True, order=True):
    """Whoever is in `prefix`, and in none of `without`, reaches all others of these past this node's rules:
    they are on one bridge, which asks no rules."""

    prefix: Prefix
    without: tuple[Prefix, ...] = ()

    def holds(self, ip: Ip) -> bool:
        return self.prefix.holds(ip) and not any(one.holds(ip) for one in self.without)


class Links(Struct, frozen=True, kw_only=True):
    """`families`: those of which this node can hand packets to itself (IPv6 may be missing, or disabled on
    loopback). `bridged`: packets that a bridge takes in pass prerouting on the bridge, too (br_netfilter).
    `neighbours`: no two of one family have an address in common. `marks_checked`: the way back to a packet's
    sender is looked up with the packet's mark (of IPv4, src_valid_mark).
    """

    families: frozenset[int] = frozenset((V4, V6))
    bridged: bool = False
    neighbours: tuple[Neighbours, ...] = ()
    marks_checked: bool = False


def among(neighbours: tuple[Neighbours, ...], ip: Ip) -> Neighbours | None:
    """Those among whom the address is."""
    for one in neighbours:
        if one.holds(ip):
            return one
    return None
