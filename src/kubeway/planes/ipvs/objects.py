"""
What ip_vs holds: virtual servers, the destinations each of them balances over, and how long flows are kept.

A virtual server is an address, a protocol and a port of this node; a destination is an address and a port
that packets to it are sent on to. What weight 0 means is the kernel's: the destination keeps the flows and
gets no new one. What a Service is is not known here.

Source: include/uapi/linux/ip_vs.h, net/netfilter/ipvs/.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from kubeway.program.program import Key
from kubeway.values import UDP, Ip

PLANE: Final = "ipvs"
KINDS: Final = ("timeouts", "server", "destination")

FALLING_BACK: Final = frozenset({"sh", "mh"})
"""Schedulers that send a client whose destination has weight 0 to another one only if told to, which they
always are here: while a destination drains, its clients would otherwise be refused."""

REFUSING: Final = frozenset({"dh"})
"""Schedulers that refuse clients of a destination of weight 0 whatever they are told: there none drains."""

MASQUERADE: Final = "masquerade"
METHODS: Final = (MASQUERADE, "local", "tunnel", "route", "bypass")
"""How packets get to a destination; the first is the only one that is made here."""


class Timeouts(Struct, frozen=True):
    """Seconds after which flows are forgotten, of the whole network namespace; 0: left as it is."""

    tcp: int
    tcp_fin: int
    udp: int


class Server(Struct, frozen=True, gc=False):
    """A virtual server.

    `persistence`: seconds for which a client sticks to its destination, 0 if it does not. `source_port`: a
    scheduler that goes by the client's address goes by its port too. `other`: what somebody else set of it
    that is never set here, in words; so such a server is never as wanted.
    """

    scheduler: str
    persistence: int = 0
    source_port: bool = False
    other: str = ""


class Destination(Struct, frozen=True, gc=False):
    """A real server. Of `method`, one of METHODS, only the first is ever wanted."""

    weight: int = 1
    method: str = MASQUERADE


TIMEOUTS: Final = Key(PLANE, "timeouts", ())


def server_key(ip: Ip, proto: int, port: int) -> Key:
    return Key(PLANE, "server", (ip, proto, port))


def destination_key(vip: Ip, proto: int, vport: int, ip: Ip, port: int) -> Key:
    return Key(PLANE, "destination", (vip, proto, vport, ip, port))


def server_of(key: Key) -> Key:
    """The server that a destination is one of."""
    return Key(PLANE, "server", key.name[:3])


def drains(proto: int, scheduler: str) -> bool:
    """Whether a destination can be left to those who are connected: they end, and others are served."""
    return proto != UDP and scheduler not in REFUSING
