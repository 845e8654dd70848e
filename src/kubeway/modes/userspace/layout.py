"""
What the files of this mode and the relay's listeners share: who listens where, and how classes are told.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kubeway.planes.relay.objects import APART, List
from kubeway.values import V4, V6, Ip, parse_ip


class Class(NamedTuple):
    """What a listener knows of whom it takes: which list of endpoints counts, and whether the client's
    address is hidden from them."""

    list: List
    hidden: bool

    @property
    def chain(self) -> str:
        return f"to-{self.list}-{'hidden' if self.hidden else 'kept'}"


CLASSES: Final = (
    Class("cluster", hidden=False),
    Class("cluster", hidden=True),
    Class("local", hidden=False),
    Class("local", hidden=True),
)
PORTS: Final = {one: 10801 + number for number, one in enumerate(CLASSES)}
"""Where the listener of each class is, both families: of TCP for all workers, of UDP for the first one."""

SEED: Final = 0x6B756265
"""Begins the hash that chooses a client's worker: the same always, so that rules made anew move nobody."""


def udp_port(one: Class, worker: int) -> int:
    """Where this worker takes datagrams of the class. Workers are counted from 0."""
    return PORTS[one] + APART * worker


def class_at(port: int) -> Class | None:
    """Of the listener at this port."""
    return _CLASSES.get(PORTS[CLASSES[0]] + (port - PORTS[CLASSES[0]]) % APART)


_CLASSES: Final = {port: one for one, port in PORTS.items()}

LISTEN: Final[dict[int, Ip]] = {V4: parse_ip("127.0.0.1"), V6: parse_ip("::1")}
"""Loopback: nobody comes there but by a rule or from this node itself."""

NOBODY: Final[dict[int, Ip]] = {V4: parse_ip("192.0.0.8"), V6: parse_ip("100::1")}
"""An address of each family that nobody has: the dummy address (RFC 7600), one to discard (RFC 6666)."""

# The class of a packet, in its priority: 0xb in the highest four bits tells it from priorities that others
# set.
CLASS_SIGN: Final = 0xB0000000
PRIORITIES: Final = {one: CLASS_SIGN | number + 1 for number, one in enumerate(CLASSES)}


def leaving(mark: int) -> int:
    """One bit more, where what this node sends has to be told from what comes in: what it steers itself.

    Like the other it is in no mark that WireGuard's tool has for its own packets (0xca6c).
    """
    return mark >> 2 or 4


def homing(mark: int) -> int:
    """The bit of packets' and flows' marks that steers them, beside the one that means masquerade.

    Not that one: a kubelet before 1.28 masquerades whatever bears it.
    """
    return mark >> 1 or mark << 1


def owning(mark: int) -> int:
    """Where xtables steer: the bit of the marks of the relay's sockets, and of its flows; beside both."""
    return mark >> 2 or 4
