"""
The fields that keys are made of: where the kernel finds each, and how to print it.

A field's bytes lie in registers as the packet has them, padded to four bytes. The
slot of `numgen` and the packet's priority are numbers in the host's byte order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final, NamedTuple

from kubeway.planes.nft.objects import Expr, Meta, Numgen, Payload
from kubeway.planes.nft.words import show_class
from kubeway.values import PROTO_NAMES, show_ip


class Field(NamedTuple):
    """`size` is its bytes in a register row, before padding; `load` makes the instruction."""

    size: int
    load: Callable[[int], Expr]
    show: Callable[[bytes], str]

    @property
    def registers(self) -> int:
        return (self.size + 3) // 4


def _port(value: bytes) -> str:
    return str(int.from_bytes(value[:2], "big"))


def _proto(value: bytes) -> str:
    return PROTO_NAMES.get(value[0], str(value[0])).lower()


def _number(value: bytes) -> str:
    return str(int.from_bytes(value, sys.byteorder))


def _payload(base: str, offset: int, size: int) -> Callable[[int], Expr]:
    return lambda reg: Payload(reg, "network" if base == "network" else "transport", offset, size)


FIELDS: Final[dict[str, Field]] = {
    "ip saddr": Field(4, _payload("network", 12, 4), show_ip),
    "ip daddr": Field(4, _payload("network", 16, 4), show_ip),
    "ip6 saddr": Field(16, _payload("network", 8, 16), show_ip),
    "ip6 daddr": Field(16, _payload("network", 24, 16), show_ip),
    "meta l4proto": Field(1, lambda reg: Meta(reg, "l4proto"), _proto),
    "th dport": Field(2, _payload("transport", 2, 2), _port),
    "meta priority": Field(4, lambda reg: Meta(reg, "priority"), show_class),
    # A slot number. Its modulus is the rule's, so a rule loads it with its own Numgen.
    "numgen random mod 65536": Field(4, lambda reg: Numgen(reg, 65536), _number),
}


def pad(value: bytes) -> bytes:
    """The value as it lies in registers."""
    return value + b"\0" * (-len(value) % 4)


def split(names: tuple[str, ...], key: bytes) -> list[bytes]:
    """A key's fields, without their padding."""
    parts, at = [], 0
    for name in names:
        field = FIELDS[name]
        parts.append(bytes(key[at : at + field.size]))
        at += field.registers * 4
    return parts


def width(names: tuple[str, ...]) -> int:
    """Bytes of a key made of these fields, padding included."""
    return sum(FIELDS[name].registers for name in names) * 4


def show(names: tuple[str, ...], key: bytes) -> str:
    """`10.96.0.1 . tcp . 80`"""
    return " . ".join(FIELDS[n].show(v) for n, v in zip(names, split(names, key), strict=True))
