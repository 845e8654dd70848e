"""
As much of SCTP as shows where a packet went: the first two chunks of its handshake.

Many kernels track and translate SCTP without having SCTP sockets. A raw socket
that sends INIT, and one that answers INIT ACK, are enough to test such a kernel:
connection tracking checks ports, verification tags and the checksum (RFC 9260).

Bytes only: no sockets here.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

INIT: Final = 1
INIT_ACK: Final = 2
NOTE: Final = 0x8007
"""Parameter type of our text. Its upper bits say: skip it if unknown, do not report it."""


class Message(NamedTuple):
    sport: int
    dport: int
    tag: int
    kind: int
    text: bytes


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC: Final = _table()


def crc32c(data: bytes) -> int:
    """The checksum of RFC 9260, appendix A."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def pack(message: Message) -> bytes:
    """The packet from the SCTP header on. `kind` is INIT or INIT_ACK; both tags are the same number."""
    note = struct.pack("!HH", NOTE, 4 + len(message.text)) + message.text
    note += bytes(-len(note) % 4)
    body = struct.pack("!IIHHI", message.tag or 1, 65536, 1, 1, 1) + note
    chunk = struct.pack("!BBH", message.kind, 0, 4 + len(body)) + body
    # INIT has the verification tag 0: there is no association yet.
    tag = 0 if message.kind == INIT else message.tag
    ports = struct.pack("!HHI", message.sport, message.dport, tag)
    # The checksum is the one little-endian field (RFC 9260, appendix A).
    return ports + struct.pack("<I", crc32c(ports + bytes(4) + chunk)) + chunk


def unpack(data: bytes) -> Message | None:
    """The message in a packet from the SCTP header on; None if it is none of ours."""
    if len(data) < 36 or data[12] not in (INIT, INIT_ACK):
        return None
    sport, dport = struct.unpack_from("!HH", data)
    (tag,) = struct.unpack_from("!I", data, 16)
    kind, length = struct.unpack_from("!HH", data, 32)
    if kind != NOTE or length < 4 or 32 + length > len(data):
        return None
    return Message(sport, dport, tag, data[12], data[36 : 32 + length])


def strip_ip(packet: bytes) -> bytes:
    """What follows the IPv4 header, which raw IPv4 sockets hand out too and IPv6 ones do not."""
    return packet[(packet[0] & 15) * 4 :]
