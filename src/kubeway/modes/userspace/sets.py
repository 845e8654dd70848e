"""
The sets of addresses and ports that rules of xtables ask: what the maps of nft are where it is there.

A set cannot say where a way in leads to, only that it is one. So there is one for each answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kubeway.modes.userspace.base import chain_of
from kubeway.modes.ways import Refusal
from kubeway.planes.ipset.objects import BITMAP_PORT, HASH_IP, HASH_IP_PORT, HASH_IP_PORT_NET
from kubeway.planes.ipset.ours import RELAY
from kubeway.values import PROTO_NAMES, TCP, UDP, Proto

PROTOS: Final = (TCP, UDP)
"""What the relay speaks, and what sets of ports hold, which do not tell them apart: each has its own."""

_LEADING: Final = {
    "cluster-ip": "CLUSTER-IP",
    "cluster-ip-local": "CLUSTER-LOCAL",
    chain_of(True, False, False): "EXTERNAL",
    "external-local": "EXT-LOCAL",
    "external-local-nobody": "EXT-NOBODY",
}
_PORTS: Final = {
    chain_of(True, False, False): "PORT",
    "external-local": "PORT-LOCAL",
    "external-local-nobody": "PORT-NOBODY",
}

WAYS: Final[Mapping[str, str]] = {chain: f"{RELAY}{word}" for chain, word in _LEADING.items()}
"""Ways in at addresses, by where they lead to (`chain_of`)."""
PORTS: Final[Mapping[tuple[str, Proto], str]] = {
    (chain, proto): f"{RELAY}{word}-{PROTO_NAMES[proto]}"
    for chain, word in _PORTS.items()
    for proto in PROTOS
}
"""Node ports, by that and protocol."""
UNSERVED: Final = f"{RELAY}UNSERVED"
"""Ways in that lead nowhere: the address keeps its port, and no node port of that number steps in."""
ADDRESSES: Final = f"{RELAY}ADDRESSES"
"""Cluster IPs in use."""
FIREWALLED: Final = f"{RELAY}FIREWALLED"
"""Ways in only for clients in `ALLOWED`."""
ALLOWED: Final = f"{RELAY}ALLOWED"
REFUSED: Final[Mapping[Refusal, str]] = {"reject": f"{RELAY}REJECTED", "drop": f"{RELAY}DROPPED"}
"""Ways in at addresses where nobody is to send to."""
REFUSED_PORTS: Final[Mapping[tuple[Refusal, Proto], str]] = {
    (refusal, proto): f"{name}-{PROTO_NAMES[proto]}" for refusal, name in REFUSED.items() for proto in PROTOS
}

TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(WAYS.values(), HASH_IP_PORT),
    **dict.fromkeys(PORTS.values(), BITMAP_PORT),
    UNSERVED: HASH_IP_PORT,
    ADDRESSES: HASH_IP,
    FIREWALLED: HASH_IP_PORT,
    ALLOWED: HASH_IP_PORT_NET,
    **dict.fromkeys(REFUSED.values(), HASH_IP_PORT),
    **dict.fromkeys(REFUSED_PORTS.values(), BITMAP_PORT),
}
