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
    HASH_IP,
    HASH_IP_PORT,
    HASH_IP_PORT_IP,
    HASH_IP_PORT_NET,
)
from kubeway.values import SCTP, TCP, UDP, Proto

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
