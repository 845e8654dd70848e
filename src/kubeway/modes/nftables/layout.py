"""
What the files of this mode share: how keys are made, and the ids of endpoints.
"""

from __future__ import annotations

import zlib
from struct import Struct as Packing
from typing import Final

from msgspec import Struct

from kubeway.model.forward import Endpoint
from kubeway.planes.nft.objects import Element, Family

LOCAL_SLOTS: Final = 1 << 20
"""A Local list stands beside the Cluster list of the same address, from this slot on."""

# Ids of endpoints in the packet's priority: 0xb in the highest four bits tells them from
# priorities that others set; then one bit for the Local list, and 27 of a hash.
ID_SIGN: Final = 0xB0000000
ID_SIGN_MASK: Final = 0xF0000000
ID_LOCAL: Final = 0x08000000
ID_HASH: Final = 0x07FFFFFF

pack_port: Final = Packing(">H2x").pack
pack_slot: Final = Packing("=I").pack
pack_front: Final = Packing(">B3xH2x").pack
"""Protocol and port, as a key has them behind the address."""

NODE_PORT_FRONT: Final = ("meta l4proto", "th dport")
SLOT_FIELD: Final = "numgen random mod 65536"
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


def ids(endpoints: tuple[Endpoint, ...], first: int) -> dict[int, Endpoint]:
    """An id for each endpoint of a list, which stays its own while the list changes.

    It is a hash of address and port; of two endpoints with one hash the later in
    order takes the next free number.
    """
    sign = ID_SIGN | (ID_LOCAL if first else 0)
    numbers: dict[int, Endpoint] = {}
    for endpoint in endpoints:
        number = zlib.crc32(endpoint.ip + pack_port(endpoint.port)) & ID_HASH
        while sign | number in numbers:
            number = number + 1 & ID_HASH
        numbers[sign | number] = endpoint
    return numbers
