"""
Rules that are alike in every mode that writes chains.

Source of names, marks and comments: pkg/proxy/iptables/proxier.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kubeway.model.node import FamilyView, NodeView
from kubeway.modes.chains.clients import outside
from kubeway.modes.chains.dispatch import Tree
from kubeway.modes.chains.layout import LOOPBACKS
from kubeway.planes.xtables.objects import (
    Accept,
    AddrType,
    Comment,
    CtState,
    Destination,
    Drop,
    Family,
    Jump,
    Mark,
    MarkXset,
    Masquerade,
    Match,
    Return,
    Rule,
    TableName,
    jump_key,
)
from kubeway.program.program import Key, Object
from kubeway.values import host_prefix, parse_prefix

PORTALS: Final = "kubernetes service portals"
NEW: Final = CtState(("NEW",))
TRANSLATED: Final = CtState(("DNAT",))

Jumps = Mapping[tuple[TableName, str], tuple[tuple[str, bool, str], ...]]
"""At the top of each chain that the kernel calls, in order: where to, only new flows, why."""


def jumping(family: Family, jumps: Jumps) -> dict[Key, Object]:
    """The rules by which the kernel's own chains call ours."""
    objects: dict[Key, Object] = {}
    for (table, hook), targets in jumps.items():
        for at, (chain, new, why) in enumerate(targets, 1):
            matches: tuple[Match, ...] = (*((NEW,) if new else ()), *((Comment(why),) if why else ()))
            objects[jump_key(family, table, hook, at)] = Rule(matches, Jump(chain))
    return objects


def into(tree: Tree) -> Rule:
    return Rule((), Jump(tree.root))


def marking(mark: int) -> list[Rule]:
    """KUBE-MARK-MASQ."""
    return [Rule((), MarkXset(mark, mark))]


def masquerading(mark: int) -> list[Rule]:
    """The end of KUBE-POSTROUTING: what bears the mark."""
    return [
        Rule((Mark(mark, mark, invert=True),), Return()),
        # The bit goes out with the packet's first pass: a packet that comes by again (through a tunnel,
        # say) is not masqueraded twice.
        Rule((), MarkXset(mark, 0)),
        Rule((Comment("kubernetes service traffic requiring SNAT"),), Masquerade()),
    ]


def forwarding(mark: int) -> list[Rule]:
    """KUBE-FORWARD: what Services' packets need of a node that forwards nothing else."""
    established = CtState(("RELATED", "ESTABLISHED"))
    return [
        Rule((Comment("kubernetes forwarding rules"), Mark(mark, mark)), Accept()),
        Rule((Comment("kubernetes forwarding conntrack rule"), established), Accept()),
    ]


def hidden(view: FamilyView, node: NodeView) -> tuple[tuple[Match, ...], ...]:
    """Whom endpoints of cluster IPs do not see: for each sort of client, how it is known."""
    if node.masquerade_all:
        return ((),)
    return outside(view.detector) if view.detector is not None else ()


def unallocated(view: FamilyView) -> list[Rule]:
    """What is sent to an address that only a Service may have, and none has."""
    return [
        Rule((*destination(str(cidr)), Comment("no such cluster IP")), Drop()) for cidr in view.service_cidrs
    ]


def destination(cidr: str, invert: bool = False) -> tuple[Destination, ...]:
    """A prefix of length zero is no match: iptables does not keep it."""
    prefix = parse_prefix(cidr)
    return (Destination(prefix, invert),) if prefix.length else ()


def to_node(view: FamilyView, target: Jump, comment: str) -> list[Rule]:
    """The packet's destination is an address that accepts node ports."""
    loopback = LOOPBACKS[view.family]
    if view.node_ports is None:
        but = () if view.loopback else destination(loopback, invert=True)
        return [Rule((*but, Comment(comment), AddrType("dst")), target)]
    accepting = [Destination(host_prefix(ip)) for ip in view.node_ports]
    if view.loopback:
        accepting += destination(loopback)
    return [Rule((to, Comment(comment)), target) for to in accepting]
