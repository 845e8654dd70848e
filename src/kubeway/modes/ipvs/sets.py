"""
The sets of addresses and ports that the rules ask: names and types.

Names, types and what is in each are kube-proxy's, as others look into them; those that begin with
`KUBEWAY-` are our own. Source: pkg/proxy/ipvs/proxier.go (ipsetInfo), ipset.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kubeway.planes.ipset import ours
from kubeway.planes.ipset.objects import (
    BITMAP_PORT,
    ENTRY,
    HASH_IP,
    HASH_IP_PORT,
    HASH_IP_PORT_IP,
    HASH_IP_PORT_NET,
    Set,
    entry_key,
    set_key,
)
from kubeway.planes.ipset.ours import name_for
from kubeway.program.program import Key, Object
from kubeway.values import SCTP, TCP, UDP, Ip, Prefix, Proto

LOOP_BACK: Final = "KUBE-LOOP-BACK"
"""Endpoints of this node, which may meet themselves."""
CLUSTER_IP: Final = "KUBE-CLUSTER-IP"
EXTERNAL_IP: Final = "KUBE-EXTERNAL-IP"
EXTERNAL_IP_LOCAL: Final = "KUBE-EXTERNAL-IP-LOCAL"
LOAD_BALANCER: Final = "KUBE-LOAD-BALANCER"
LOAD_BALANCER_LOCAL: Final = "KUBE-LOAD-BALANCER-LOCAL"
FIREWALLED: Final = "KUBE-LOAD-BALANCER-FW"
SOURCE_IP: Final = "KUBE-LOAD-BALANCER-SOURCE-IP"
SOURCE_CIDR: Final = "KUBE-LOAD-BALANCER-SOURCE-CIDR"
NODE_PORT: Final[Mapping[Proto, str]] = {
    TCP: "KUBE-NODE-PORT-TCP",
    UDP: "KUBE-NODE-PORT-UDP",
    SCTP: "KUBE-NODE-PORT-SCTP-HASH",
}
NODE_PORT_LOCAL: Final[Mapping[Proto, str]] = {
    TCP: "KUBE-NODE-PORT-LOCAL-TCP",
    UDP: "KUBE-NODE-PORT-LOCAL-UDP",
    SCTP: "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
}
HEALTH_CHECK: Final = "KUBE-HEALTH-CHECK-NODE-PORT"
ADDRESSES: Final = "KUBE-IPVS-IPS"
"""What is bound to the link: Services' addresses that this node would not have otherwise."""
DROPPED: Final = ours.DROPPED
OPEN: Final = ours.OPEN

TYPES: Final[Mapping[str, str]] = {
    LOOP_BACK: HASH_IP_PORT_IP,
    CLUSTER_IP: HASH_IP_PORT,
    EXTERNAL_IP: HASH_IP_PORT,
    EXTERNAL_IP_LOCAL: HASH_IP_PORT,
    LOAD_BALANCER: HASH_IP_PORT,
    LOAD_BALANCER_LOCAL: HASH_IP_PORT,
    FIREWALLED: HASH_IP_PORT,
    SOURCE_IP: HASH_IP_PORT_IP,
    SOURCE_CIDR: HASH_IP_PORT_NET,
    NODE_PORT[TCP]: BITMAP_PORT,
    NODE_PORT[UDP]: BITMAP_PORT,
    NODE_PORT[SCTP]: HASH_IP_PORT,
    NODE_PORT_LOCAL[TCP]: BITMAP_PORT,
    NODE_PORT_LOCAL[UDP]: BITMAP_PORT,
    NODE_PORT_LOCAL[SCTP]: HASH_IP_PORT,
    HEALTH_CHECK: BITMAP_PORT,
    ADDRESSES: HASH_IP,
    DROPPED: HASH_IP_PORT,
    OPEN: HASH_IP_PORT,
}


def base(family: int) -> dict[Key, Object]:
    """All sets, empty."""
    return {
        set_key(name_for(name, family)): Set(kind, 0 if kind == BITMAP_PORT else family)
        for name, kind in TYPES.items()
    }


def put(objects: dict[Key, Object], family: int, name: str, *fields: object) -> None:
    """`fields` are what the set's type says, in that order; a port in a hash follows its protocol."""
    full = name_for(name, family)
    last = fields[-1]
    if isinstance(last, Prefix) and last.length == 0:
        # No set holds a prefix of length zero; it has two halves.
        for half in _halves(last):
            objects[entry_key(full, *fields[:-1], half)] = ENTRY
    else:
        objects[entry_key(full, *fields)] = ENTRY


def _halves(prefix: Prefix) -> tuple[Prefix, Prefix]:
    upper = bytes((0x80,)) + prefix.ip[1:]
    return Prefix(prefix.ip, 1), Prefix(Ip(upper), 1)
