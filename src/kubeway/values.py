"""
Addresses, prefixes, protocols and ports: the small values everything is made of.

An address is its network-order bytes: 4 of them for IPv4, 16 for IPv6. So an
address is ready to be part of a kernel key without conversion, compares and
hashes at the speed of bytes, and its family is its length. Text exists only
at the edges: `parse_ip` and `show_ip` are opposites.

This file knows no Kubernetes and no netlink.
"""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple, NewType

Ip = NewType("Ip", bytes)
"""An IPv4 (4 bytes) or IPv6 (16 bytes) address in network order."""

Proto = NewType("Proto", int)
"""An IP protocol number, as in the packet: 6, 17 or 132."""

TCP: Final = Proto(6)
UDP: Final = Proto(17)
SCTP: Final = Proto(132)
PROTOS: Final[dict[str, Proto]] = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}
PROTO_NAMES: Final[dict[int, str]] = {number: name for name, number in PROTOS.items()}

V4: Final = 4
V6: Final = 6


_OCTETS: Final = {str(number): number for number in range(256)}


def family_of(ip: Ip) -> int:
    """4 or 6."""
    return V4 if len(ip) == 4 else V6


def parse_ip(text: str) -> Ip:
    """The address that `text` spells; ValueError if it spells none.

    IPv4 octets may have leading zeros and are read as decimal, as Kubernetes
    reads them (KEP-4858: old objects may hold such values).
    """
    octets = text.split(".")
    try:
        a, b, c, d = octets  # the usual, fast: IPv4 without leading zeros
        return Ip(bytes((_OCTETS[a], _OCTETS[b], _OCTETS[c], _OCTETS[d])))
    except (KeyError, ValueError):
        pass
    if ":" not in text:
        plain = len(octets) == 4 and text.isascii() and all(o.isdigit() and len(o) <= 3 for o in octets)
        if plain and all(int(octet) < 256 for octet in octets):
            return Ip(bytes(map(int, octets)))
        raise ValueError(f"{text!r} is not an IP address")
    if "%" in text:
        raise ValueError(f"{text!r} has a zone, which an address here cannot have")
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    # ::ffff:a.b.c.d is the IPv4 address it maps to, as in Go's net package.
    mapped = address.ipv4_mapped
    return Ip(mapped.packed if mapped is not None else address.packed)


def show_ip(ip: bytes) -> str:
    """The canonical text of an address."""
    if len(ip) == 4:
        return "%d.%d.%d.%d" % tuple(ip)
    return str(ipaddress.IPv6Address(ip))


def show_addr(ip: bytes, port: int) -> str:
    """`10.0.0.1:80`, or `[fd00::1]:80`."""
    return f"{show_ip(ip)}:{port}" if len(ip) == 4 else f"[{show_ip(ip)}]:{port}"


class Prefix(NamedTuple):
    """An address prefix; host bits are zero. Holds addresses of its own family only."""

    ip: Ip
    length: int

    def holds(self, ip: bytes) -> bool:
        if len(ip) != len(self.ip):
            return False
        shift = len(ip) * 8 - self.length
        return int.from_bytes(ip, "big") >> shift == int.from_bytes(self.ip, "big") >> shift

    def covers(self, other: Prefix) -> bool:
        """Whether every address of `other` is in this prefix."""
        return self.length <= other.length and self.holds(other.ip)

    @property
    def last(self) -> Ip:
        """The highest address in the prefix."""
        size = len(self.ip)
        host = (1 << (size * 8 - self.length)) - 1
        return Ip((int.from_bytes(self.ip, "big") | host).to_bytes(size, "big"))

    def __str__(self) -> str:
        return f"{show_ip(self.ip)}/{self.length}"


def parse_prefix(text: str) -> Prefix:
    """`10.0.0.0/8`; host bits are cleared. ValueError for anything else."""
    address, slash, length = text.partition("/")
    if not slash or not length.isascii() or not length.isdigit():
        raise ValueError(f"{text!r} is not a CIDR such as 10.0.0.0/8")
    ip = parse_ip(address)
    bits = len(ip) * 8
    n = int(length)
    if n > bits:
        raise ValueError(f"{text!r} has a prefix length over {bits}")
    return prefix_of(ip, n)


def host_prefix(ip: Ip) -> Prefix:
    """The prefix that holds just `ip`."""
    return Prefix(ip, len(ip) * 8)


def prefix_of(ip: Ip, length: int) -> Prefix:
    """The prefix of this length that holds `ip`."""
    host = len(ip) * 8 - length
    return Prefix(Ip((int.from_bytes(ip, "big") >> host << host).to_bytes(len(ip), "big")), length)


def disjoint(prefixes: list[Prefix]) -> tuple[Prefix, ...]:
    """The same addresses without a prefix inside another one, in order.

    Two prefixes nest or are apart, so leaving out the inner ones is enough.
    """
    kept: list[Prefix] = []
    for prefix in sorted(set(prefixes), key=lambda p: (len(p.ip), p.ip, p.length)):
        if not (kept and kept[-1].covers(prefix)):
            kept.append(prefix)
    return tuple(kept)
