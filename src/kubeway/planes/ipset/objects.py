"""
What the ipset plane holds: sets, and their entries, each of which is an object.

An entry is all in its key; there is nothing to it but that it is there. Those that say what stands behind a
way in are of a kind of their own (`state`), as they come when it stands, and go before it does.

How many entries a set has room for is no part of the set: it is made with room for many, and made anew when
they are more.

Source: include/uapi/linux/netfilter/ipset/ip_set.h; net/netfilter/ipset/ip_set_hash_ipport.c and the like.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from kubeway.planes.ipset.ours import STATES
from kubeway.program.program import Key

PLANE: Final = "ipset"
KINDS: Final = ("set", "entry", "state")

HASH_IP: Final = "hash:ip"
HASH_IP_PORT: Final = "hash:ip,port"
HASH_IP_PORT_IP: Final = "hash:ip,port,ip"
HASH_IP_PORT_NET: Final = "hash:ip,port,net"
BITMAP_PORT: Final = "bitmap:port"

TYPES: Final = (HASH_IP, HASH_IP_PORT, HASH_IP_PORT_IP, HASH_IP_PORT_NET, BITMAP_PORT)
"""The types of set that a program may want."""


class Set(Struct, frozen=True):
    """A set: one of `TYPES`, and its family: 4 or 6, or 0 for bitmap:port, which holds 0 to 65535.

    One that is in our place may be of any other type. Extensions that we do not use (timeout, counters,
    comment, skbinfo) and how much room it has are no difference.
    """

    type: str
    family: int


class Entry(Struct, frozen=True):
    """An entry that is there. `nomatch`: as an exception from wider ones, which no program wants."""

    nomatch: bool = False


ENTRY: Final = Entry()


def set_key(name: str) -> Key:
    """`name`: at most 31 characters."""
    return Key(PLANE, "set", (name,))


def entry_key(name: str, *fields: Any) -> Key:
    """An entry of the set `name`; `fields` are what the words of the set's type stand for, in their order.

    `ip` is an Ip of the set's family. `port` is a protocol's number and a port; in bitmap:port a port alone.
    `net` is a Prefix of the set's family, with host bits zero, and not of length 0, which the kernel does not
    take: whoever means all addresses enters their two halves.

        hash:ip            ip
        hash:ip,port       ip, proto, port
        hash:ip,port,ip    ip, proto, port, ip
        hash:ip,port,net   ip, proto, port, prefix
        bitmap:port        port

    In hash:ip no kernel takes the address that is all zeros, and 6.18 does not in hash:ip,port either.
    """
    return Key(PLANE, kind_in(name), (name, *fields))


def kind_in(name: str) -> str:
    """Of which kind the entries of the set `name` are."""
    return "state" if name in STATES else "entry"
