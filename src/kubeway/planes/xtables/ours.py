"""
Which chains are ours, among others whose names begin alike.

Ours are those a service proxy makes: this one's, and kube-proxy's, in its modes iptables and ipvs,
of this and earlier releases, so that they are taken over and nothing of them stays. Whatever
else begins with `KUBE-` belongs to kubelet (`KUBE-IPTABLES-HINT`, `KUBE-KUBELET-CANARY`,
`KUBE-MARK-DROP`) or a network plugin (`KUBE-ROUTER-…`, `KUBE-NWPLCY-…`, `KUBE-POD-FW-…`) and is left
alone.

One chain of ours is lent: `KUBE-MARK-MASQ`. CNI's portmap jumps there where it is told to
(`externalSetMarkChain`), to have its own flows masqueraded. As long as somebody does, it is not taken away,
nor is its rule, whoever masquerades by then: proxies of all modes read the same mark.

One chain is shared: `KUBE-FIREWALL`, which kubelet makes too. It is treated as built-in chains are:
made if it is missing, never taken away, and of its rules only ours are looked at.

Source: pkg/proxy/iptables/proxier.go, pkg/proxy/ipvs/proxier.go; pkg/kubelet/kubelet_network_linux.go.
"""

from __future__ import annotations

import re
from typing import Final

from kubeway.planes.xtables.objects import (
    BRANCHING,
    BUILT_IN,
    MARTIANS,
    RELAY,
    SHARED,
    Comment,
    CtState,
    Goto,
    Jump,
    Rule,
)

_EVERYWHERE: Final = frozenset({"KUBE-PROXY-CANARY"})
_FIXED: Final[dict[str, frozenset[str]]] = {
    "filter": _EVERYWHERE
    | {
        "KUBE-SERVICES",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-FORWARD",
        "KUBE-NODEPORTS",
        "KUBE-PROXY-FIREWALL",
        # ipvs mode
        "KUBE-NODE-PORT",
        "KUBE-SOURCE-RANGES-FIREWALL",
        "KUBE-IPVS-FILTER",
        "KUBE-IPVS-OUT-FILTER",
    },
    "nat": _EVERYWHERE
    | {
        "KUBE-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-POSTROUTING",
        "KUBE-MARK-MASQ",
        "KUBE-FROM-OUTSIDE",
        # ipvs mode
        "KUBE-NODE-PORT",
        "KUBE-LOAD-BALANCER",
    },
    # ours, of ipvs mode: made here, a packet meets ipvs before it comes to filter
    "mangle": _EVERYWHERE | {"KUBE-PROXY-FIREWALL", "KUBE-SOURCE-RANGES-FIREWALL"},
}
_HASHED: Final = re.compile(r"KUBE-(?:SVC|SVL|EXT|FW|SEP|XLB)-[A-Z2-7]{16}", re.ASCII)


def is_ours(table: str, chain: str) -> bool:
    """Whether this chain of this table is a service proxy's alone."""
    if chain.startswith((BRANCHING, RELAY)) or chain in _FIXED.get(table, ()):
        return True
    return _HASHED.fullmatch(chain) is not None


def is_held(table: str, chain: str) -> bool:
    """Whether the chain is an object of programs: ours, or the one that is shared."""
    return is_ours(table, chain) or (table, chain) in SHARED


def is_open(table: str, chain: str) -> bool:
    """Whether others have rules in this chain by right: a built-in one, or the one that is shared."""
    return chain in BUILT_IN or (table, chain) in SHARED


def is_lent(table: str, chain: str) -> bool:
    """Whether this chain of ours does something for others that jump to it."""
    return (table, chain) == ("nat", "KUBE-MARK-MASQ")


def is_our_jump(table: str, rule: Rule) -> bool:
    """Whether a rule of an open chain is ours.

    A jump to a chain of ours with nothing but a comment and the flow's state before it: a jump under
    other conditions is somebody else's use of our chains.
    """
    if rule == MARTIANS:
        return True
    target = rule.target
    if not isinstance(target, Jump | Goto) or not is_held(table, target.chain):
        return False
    return all(isinstance(match, Comment | CtState) for match in rule.matches)
