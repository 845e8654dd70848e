"""
Addresses that no cluster object may send packets to, nor capture.

An endpoint at a loopback or link-local address would make the node's own
services, or a cloud's metadata server, reachable by anybody who may write an
EndpointSlice (CVE-2021-25737). An external IP of that sort would take the
node's own traffic away. Knows addresses only.
"""

from __future__ import annotations

from typing import Final

# The first bytes with which a refused address can begin: nearly every address is
# passed by this alone, in one lookup.
_SUSPECT_4: Final = frozenset([0, 127, 169, *range(224, 256)])
_SUSPECT_6: Final = frozenset([0x00, 0xFE, 0xFF])
_LOOPBACK_6: Final = bytes(15) + b"\x01"


def is_loopback(ip: bytes) -> bool:
    return ip[0] == 127 if len(ip) == 4 else ip == _LOOPBACK_6


def is_link_local(ip: bytes) -> bool:
    """Whether it is one that each link has of itself, fe80::/10; IPv4 has none."""
    return len(ip) == 16 and ip[0] == 0xFE and ip[1] & 0xC0 == 0x80


def refusal(ip: bytes) -> str:
    """Why `ip` may not be used, "" if it may."""
    if len(ip) == 4:
        return _refusal_4(ip) if ip[0] in _SUSPECT_4 else ""
    return _refusal_6(ip) if ip[0] in _SUSPECT_6 else ""


def _refusal_4(ip: bytes) -> str:
    first = ip[0]
    if first == 127:
        return "loopback address"
    if first == 0:
        # Linux takes all of 0.0.0.0/8 for "this network".
        return "unspecified address"
    if first == 169:
        return "link-local address" if ip[1] == 254 else ""
    return "multicast address" if first < 240 else _refusal_240(ip)


def _refusal_240(ip: bytes) -> str:
    return "broadcast address" if ip == b"\xff\xff\xff\xff" else ""


def _refusal_6(ip: bytes) -> str:
    if ip[0] == 0xFF:
        return "multicast address"
    if ip[0] == 0xFE:
        return "link-local address" if ip[1] & 0xC0 == 0x80 else ""
    if ip == _LOOPBACK_6:
        return "loopback address"
    return "unspecified address" if ip == bytes(16) else ""
