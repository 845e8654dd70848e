"""
Names of fields, and how the keys of elements are packed.
"""

from __future__ import annotations

from struct import Struct as Packing
from typing import Final

from msgspec import Struct

from kubeway.planes.nft.objects import Element, Family

pack_port: Final = Packing(">H2x").pack
pack_front: Final = Packing(">B3xH2x").pack
"""Protocol and port, as a key has them behind the address."""

NODE_PORT_FRONT: Final = ("meta l4proto", "th dport")
PRESENT: Final = Element()
"""A member of a set that has nothing to tell but that it is there."""


class Words(Struct, frozen=True):
    """What differs between the families: names of fields, bytes of an address, loopback."""

    number: int
    family: Family
    saddr: str
    daddr: str
    size: int
    loopback: str

    @property
    def front(self) -> tuple[str, ...]:
        """The fields of a way in: address, protocol, port."""
        return (self.daddr, *NODE_PORT_FRONT)


WORDS: Final[dict[int, Words]] = {
    4: Words(4, "ip", "ip saddr", "ip daddr", 4, "127.0.0.0/8"),
    6: Words(6, "ip6", "ip6 saddr", "ip6 daddr", 16, "::1/128"),
}
