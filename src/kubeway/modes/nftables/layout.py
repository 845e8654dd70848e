"""
What the files of this mode share: slots, and the ids of endpoints.
"""

from __future__ import annotations

import zlib
from struct import Struct as Packing
from typing import Final

from kubeway.model.forward import Endpoint
from kubeway.modes.maps.layout import pack_port

LOCAL_SLOTS: Final = 1 << 20
"""A Local list stands beside the Cluster list of the same address, from this slot on."""

# Ids of endpoints in the packet's priority: 0xb in the highest four bits tells them from
# priorities that others set; then one bit for the Local list, and 27 of a hash.
ID_SIGN: Final = 0xB0000000
ID_SIGN_MASK: Final = 0xF0000000
ID_LOCAL: Final = 0x08000000
ID_HASH: Final = 0x07FFFFFF

pack_slot: Final = Packing("=I").pack
SLOT_FIELD: Final = "numgen random mod 65536"


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
