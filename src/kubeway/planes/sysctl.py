"""
Settings of the kernel that rules depend on: names below /proc/sys, and the text each has to hold.

All of the plane stands here, as there is little of it: objects, keys, what they are called, and laws,
which ask for nothing. Why each is wanted stands here too; files are `shell/sysctl_plane.py`'s.

A value is written after the planes below, and never taken back: what was there before us, and who else
came to rely on ours, nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct

from kubeway.program.program import Change, Key, Object

PLANE: Final = "sysctl"
KINDS: Final = ("value",)

ROUTE_LOCALNET: Final = "net/ipv4/conf/all/route_localnet"
"""Packets from and to 127.0.0.0/8 may leave this node and come in to it; else the kernel drops them."""

# Those below net/ipv4/vs are a network namespace's own, and there when the kernel's ip_vs is loaded
# (net/netfilter/ipvs/ip_vs_ctl.c, Documentation/networking/ipvs-sysctl.rst). They hold for both families.

VS_CONNTRACK: Final = "net/ipv4/vs/conntrack"
"""1: connection tracking follows what ipvs forwards, so that rules can masquerade it and know its replies."""

VS_CONN_REUSE_MODE: Final = "net/ipv4/vs/conn_reuse_mode"
"""0: a client that uses its port again stays with its endpoint. At 1, between kernel 4.1 and 5.9, its first
packet was dropped while the old connection was tracked: a second's delay. From 5.9 on, 1 does no harm."""

VS_EXPIRE_NODEST_CONN: Final = "net/ipv4/vs/expire_nodest_conn"
"""1: a connection whose endpoint is gone ends with its next packet, so that the client can connect anew; at 0
its packets are dropped until its timeout."""

VS_EXPIRE_QUIESCENT_TEMPLATE: Final = "net/ipv4/vs/expire_quiescent_template"
"""1: affinity to an endpoint ends when that has weight 0, so is leaving."""

IP_FORWARD: Final = "net/ipv4/ip_forward"
"""1: packets of others are forwarded: ipvs sends those to other nodes' endpoints from the hook LOCAL_IN, and
replies come back through the node.

Its like for IPv6 (net/ipv6/conf/all/forwarding) is left alone, as kube-proxy leaves it: with it on, links no
longer heed router advertisements (accept_ra 1), from which the node may have its own default route. Whoever
routes Pods of IPv6 has turned it on, and knows how the node finds its routers.
"""

ARP_IGNORE: Final = "net/ipv4/conf/all/arp_ignore"
"""1: a link answers ARP only for its own addresses, not for Services' on another link (strict ARP)."""

ARP_ANNOUNCE: Final = "net/ipv4/conf/all/arp_announce"
"""2: ARP asks from the link's own address, never from a Service's (strict ARP)."""

WHY: Final[Mapping[str, str]] = {
    VS_CONNTRACK: "rules can masquerade what ipvs forwards only if connection tracking follows it",
    VS_CONN_REUSE_MODE: "this kernel drops the first packet of a client that uses its port again at once",
    VS_EXPIRE_NODEST_CONN: "a client of an endpoint that is gone can connect to another at once",
    VS_EXPIRE_QUIESCENT_TEMPLATE: "a client with affinity to an endpoint that is leaving gets another",
    IP_FORWARD: "packets to endpoints on other nodes, and their replies, pass through this node",
    ARP_IGNORE: "no link of this node answers ARP for the addresses of Services",
    ARP_ANNOUNCE: "no link of this node asks by ARP in the name of a Service",
    ROUTE_LOCALNET: "node ports can be reached at 127.0.0.1",
}
"""What each value is good for, in a clause."""

NAMES: Final = tuple(WHY)
"""Every value that a program may want, in the order in which they are shown."""

RIGID: Final[frozenset[str]] = frozenset()
"""Kinds whose objects cannot be changed in place: none."""


class Value(Struct, frozen=True):
    """What the file holds, without the line's end."""

    text: str


def value_key(name: str) -> Key:
    return Key(PLANE, "value", (name,))


# --- for people -----------------------------------------------------------------------


def show(objects: Mapping[Key, Object], family: str | None = None) -> str:
    """A line for each value, in the tool's spelling, as a comment: restore tools read it over."""
    lines = [
        f"# sysctl {name.replace('/', '.')} = {objects[value_key(name)].text}\n"
        for name in NAMES
        if value_key(name) in objects and family in (None, family_of(value_key(name)))
    ]
    return "".join(lines)


def family_of(key: Key) -> str:
    """The family of packets that the value is about, as planes with families call it."""
    return "ip6" if key.name[0].startswith("net/ipv6/") else "ip"


def describe(change: Change, program: Mapping[Key, Object]) -> str:
    """`set sysctl net/ipv4/conf/all/route_localnet to 1`"""
    told = describe_key(change.key, program)
    return f"leave {told}" if change.new is None else f"set {told} to {change.new.text}"


def describe_key(key: Key, program: Mapping[Key, Object]) -> str:
    return f"sysctl {key.name[0]}"


# --- laws -----------------------------------------------------------------------------


def place(key: Key) -> Key | None:
    """The object this one lies in: none."""
    return None


def references(key: Key, obj: Object) -> Iterator[Key]:
    """The objects that this one names: none."""
    yield from ()
