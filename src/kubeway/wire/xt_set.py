"""
The question which number the set of a name has, and which name the set of a number, in the bytes of one
socket option: what is asked is overwritten with the answer.

Source: include/uapi/linux/netfilter/ipset/ip_set.h (ip_set_req_get_set); net/netfilter/ipset/ip_set_core.c
(ip_set_sockfn_get); iptables, extensions/libxt_set.h.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from kubeway.errors import Malformed

SO_IP_SET: Final = 83
"""An option of IPPROTO_IP, for sets of both families."""

MAX_NAME: Final = 31  # IPSET_MAXNAMELEN, without the NUL
NO_SET: Final = 0xFFFF
"""IPSET_INVALID_ID: no set has this number, so the kernel refuses a rule that asks for it (ENOENT)."""

_BY_NAME, _BY_INDEX = 6, 7
_VERSION: Final = 6  # IPSET_PROTOCOL_MIN, which newer kernels take, and older ones insist on
_NAMED: Final = Struct("=II32s")
_NUMBERED: Final = Struct("=IIH30x")


def ask_index(name: str) -> bytes:
    """ValueError for a name that no set can have."""
    raw = name.encode(errors="surrogateescape")
    if not raw or len(raw) > MAX_NAME or b"\0" in raw:
        raise ValueError(f"no set can be called {name!r}")
    return _NAMED.pack(_BY_NAME, _VERSION, raw)


def read_index(data: bytes | bytearray) -> int | None:
    """None if there is no such set."""
    _check(data)
    index: int = _NUMBERED.unpack(data)[2]
    return None if index == NO_SET else index


def ask_name(index: int) -> bytes:
    return _NUMBERED.pack(_BY_INDEX, _VERSION, index)


def read_name(data: bytes | bytearray) -> str | None:
    """None if there is no such set."""
    _check(data)
    raw: bytes = _NAMED.unpack(data)[2]
    return raw.partition(b"\0")[0].decode(errors="surrogateescape") or None


def _check(data: bytes | bytearray) -> None:
    if len(data) != _NAMED.size:
        raise Malformed(f"ipset: an answer of {len(data)} bytes, not {_NAMED.size}")
