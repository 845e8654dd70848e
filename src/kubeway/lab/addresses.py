"""
Who lives where in the lab, in both families.

Every IPv4 address of the lab has an IPv6 twin that ends alike (10.244.1.11 and
fd00:10:244:1::11), so that what is said of the one family can be said of the other.
"""

from __future__ import annotations

from typing import Final

NODE: Final = "203.0.113.10"
"""The node's own address, on eth0, where the outside is."""

OUTSIDE: Final = "203.0.113.99"
CLIENTS: Final = ("203.0.113.50", "198.51.100.7")
"""More addresses of the outside host: one beside the node, one further away."""

NODE_ETH1: Final = "203.0.114.10"
REMOTE: Final = "203.0.114.20"
"""The other node, which is reached by eth1."""

GATEWAY: Final = "10.244.1.1"
"""What pods on the node take for their router: an address of the node."""

POD_CIDR: Final = "10.244.1.0/24"
REMOTE_POD_CIDR: Final = "10.244.2.0/24"
CLUSTER_CIDR: Final = "10.244.0.0/16"
SERVICE_CIDR: Final = "10.96.0.0/16"

BALANCER: Final = "198.18.0.200"
"""A load balancer of the outside's own: an address of that host, where "balancer" answers on port 80."""

_NETWORKS: Final = {
    "127.0.0.": "::",
    "10.244.1.": "fd00:10:244:1::",
    "10.244.2.": "fd00:10:244:2::",
    "10.244.9.": "fd00:10:244:9::",
    "10.96.0.": "fd00:10:96::",
    "203.0.113.": "2001:db8:1::",
    "203.0.114.": "2001:db8:2::",
    "198.51.100.": "2001:db8:5::",
    "198.18.0.": "2001:db8:99::",
}
_PREFIXES: Final = {
    "0.0.0.0/0": "::/0",
    "10.244.0.0/16": "fd00:10:244::/48",
    "10.96.0.0/16": "fd00:10:96::/112",
}


def twin(text: str) -> str:
    """The IPv6 twin of an IPv4 address or CIDR of the lab; ValueError if it has none."""
    if text in _PREFIXES:
        return _PREFIXES[text]
    address, slash, length = text.partition("/")
    network, _, last = address.rpartition(".")
    prefix = _NETWORKS.get(f"{network}.")
    if prefix is None or length not in ("", "24", "32"):
        raise ValueError(f"{text} has no IPv6 twin in the lab")
    ip = prefix if last == "0" else f"{prefix}{last}"
    return f"{ip}/{64 if length == '24' else 128}" if slash else ip


def both(text: str) -> tuple[str, str]:
    """An address or CIDR, and its twin."""
    return text, twin(text)
