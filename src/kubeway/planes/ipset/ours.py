"""
Which sets are ours, among others whose names begin alike.

Ours are kube-proxy's, which we fill as it does and take over, and those whose names begin with `KUBEWAY-`.
Whatever else begins with `KUBE-` is a network plugin's (`KUBE-SRC-…`, `KUBE-DST-…` of kube-router).

Source: pkg/proxy/ipvs/ipset.go and proxier.go.
"""

from __future__ import annotations

from typing import Final

from kubeway.values import V4, V6
from kubeway.wire.ipset import NAME_LENGTH

DROPPED: Final = "KUBEWAY-DROPPED"
"""Ways in that nobody on this node serves, but somebody elsewhere does."""
OPEN: Final = "KUBEWAY-OPEN"
"""Ways in at addresses of which all other ports are closed."""

OWN: Final = "KUBEWAY-"
"""What the names of sets begin with that kube-proxy has not."""

RELAY: Final = f"{OWN}RELAY-"
"""What those begin with that lead packets to the relay (userspace mode without nf_tables)."""

KUBE_PROXYS: Final = (
    "KUBE-LOOP-BACK",
    "KUBE-CLUSTER-IP",
    "KUBE-EXTERNAL-IP",
    "KUBE-EXTERNAL-IP-LOCAL",
    "KUBE-LOAD-BALANCER",
    "KUBE-LOAD-BALANCER-LOCAL",
    "KUBE-LOAD-BALANCER-FW",
    "KUBE-LOAD-BALANCER-SOURCE-IP",
    "KUBE-LOAD-BALANCER-SOURCE-CIDR",
    "KUBE-NODE-PORT-TCP",
    "KUBE-NODE-PORT-UDP",
    "KUBE-NODE-PORT-SCTP-HASH",
    "KUBE-NODE-PORT-LOCAL-TCP",
    "KUBE-NODE-PORT-LOCAL-UDP",
    "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
    "KUBE-HEALTH-CHECK-NODE-PORT",
    "KUBE-IPVS-IPS",
)
"""The names of kube-proxy's sets, of IPv4."""


def name_for(name: str, family: int) -> str:
    """What a set of this IPv4 name is called in `family`, as kube-proxy has it.

    `KUBE-6-…` and `KUBEWAY-6-…` for IPv6, cut to the 31 characters that a name can have.
    """
    if family != V6:
        return name
    first, _, rest = name.partition("-")
    return f"{first}-6-{rest}"[:NAME_LENGTH]


def is_ipv6(name: str) -> bool:
    """Whether a set of ours is there for IPv6: of bitmaps only the name tells."""
    return name.startswith(("KUBE-6-", f"{OWN}6-"))


STATES: Final = frozenset(name_for(name, family) for name in (DROPPED, OPEN) for family in (V4, V6))
"""The names of those whose entries say what stands behind a way in."""

BARRING: Final = frozenset(
    name_for(name, family) for name in ("KUBE-LOAD-BALANCER-FW", f"{RELAY}FIREWALLED") for family in (V4, V6)
)
"""The names of those whose entries bar whom no entry of another set lets in."""

_NAMES: Final = frozenset(KUBE_PROXYS) | {name_for(name, V6) for name in KUBE_PROXYS}


_OF_RELAY: Final = (RELAY, name_for(RELAY, V6))


def is_relays(name: str) -> bool:
    """Whether this set is ours, and of userspace mode."""
    return name.startswith(_OF_RELAY)


def is_ours(name: str) -> bool:
    """Whether this set is a service proxy's alone, of ipvs mode."""
    return name in _NAMES or (name.startswith(OWN) and not is_relays(name))
