"""
What is there even with no service: jumps at the hooks, and the chains they lead to.

Source of names, jumps and their order: pkg/proxy/iptables/proxier.go. What differs, and why:

- Filter looks only at packets that were not translated: one that was has met its fate.
- KUBE-SERVICES in filter refuses every way in that serves nobody, not cluster IPs alone, and then what
  is left of cluster IPs; so packets made here are answered as others are.
- Node ports on loopback are open by one rule, and its addresses closed to others by another: that one
  stands in KUBE-FIREWALL, which kubelets fill, too. The setting that lets packets from 127.0.0.0/8 leave
  this node is written after it, never before (CVE-2020-8558).
"""

from __future__ import annotations

from typing import Final

from kubeway.model.node import FamilyView, NodeView
from kubeway.modes.chains import dispatch
from kubeway.modes.chains.common import (
    PORTALS,
    TRANSLATED,
    Jumps,
    forwarding,
    hidden,
    into,
    jumping,
    marking,
    masquerading,
    to_node,
    unallocated,
)
from kubeway.modes.chains.dispatch import TREES
from kubeway.modes.chains.layout import (
    CHAIN,
    EXTERNAL_SERVICES,
    FAMILIES,
    FIREWALL,
    FORWARD,
    LOOPBACKS,
    MARK_MASQ,
    NODE_PORTS,
    OUTSIDE,
    POSTROUTING,
    SERVICES,
    SHARED_FIREWALL,
)
from kubeway.planes import nfacct, sysctl
from kubeway.planes.xtables.objects import (
    MARTIANS,
    CtState,
    Drop,
    Goto,
    Jump,
    Mark,
    MarkXset,
    Nfacct,
    Return,
    Rule,
    Rules,
    Source,
    TableName,
    chain_key,
    jump_key,
    rules_key,
)
from kubeway.program.program import Key, Object
from kubeway.values import parse_prefix

_EXTERNAL: Final = "kubernetes externally-visible service portals"
_BALANCER: Final = "kubernetes load balancer firewall"
_NODE_PORTS_LAST: Final = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"

_JUMPS: Final[Jumps] = {
    ("filter", "INPUT"): (
        (SHARED_FIREWALL, False, ""),
        (FIREWALL, True, _BALANCER),
        (NODE_PORTS, False, "kubernetes health check service ports"),
        (EXTERNAL_SERVICES, True, _EXTERNAL),
    ),
    ("filter", "FORWARD"): (
        (FIREWALL, True, _BALANCER),
        (FORWARD, False, "kubernetes forwarding rules"),
        (SERVICES, True, PORTALS),
        (EXTERNAL_SERVICES, True, _EXTERNAL),
    ),
    ("filter", "OUTPUT"): (
        (SHARED_FIREWALL, False, ""),
        (FIREWALL, True, _BALANCER),
        (SERVICES, True, PORTALS),
    ),
    ("nat", "PREROUTING"): ((SERVICES, False, PORTALS),),
    ("nat", "OUTPUT"): ((SERVICES, False, PORTALS),),
    ("nat", "POSTROUTING"): ((POSTROUTING, False, "kubernetes postrouting rules"),),
}


def base(number: int, node: NodeView) -> dict[Key, Object]:
    """Of one family."""
    family, view = FAMILIES[number], node.family(number)
    objects = jumping(family, _JUMPS)
    objects[chain_key(family, "filter", SHARED_FIREWALL)] = CHAIN
    if view.loopback:
        objects[jump_key(family, "filter", SHARED_FIREWALL, 1)] = MARTIANS
        objects[sysctl.value_key(sysctl.ROUTE_LOCALNET)] = sysctl.Value("1")
    for tree in TREES:
        objects[chain_key(family, tree.table, tree.root)] = CHAIN
    for (table, chain), rules in {**_nat(view, node), **_filter(view, node)}.items():
        objects[chain_key(family, table, chain)] = CHAIN
        objects[rules_key(family, table, chain)] = Rules(tuple(rules))
        for name in [match.name for rule in rules for match in rule.matches if isinstance(match, Nfacct)]:
            objects[nfacct.counter_key(name)] = nfacct.COUNTER
    return objects


def _nat(view: FamilyView, node: NodeView) -> dict[tuple[TableName, str], list[Rule]]:
    mark, from_outside = node.mark, _from_outside(view, node)
    node_ports = to_node(view, Jump(NODE_PORTS), _NODE_PORTS_LAST)
    chains: dict[tuple[TableName, str], list[Rule]] = {
        # An address keeps its port where nobody serves it: what leads there ends in nat's ACCEPT, so that no
        # node port of the same number steps in.
        ("nat", SERVICES): [
            into(dispatch.EXTERNAL_WAYS_IN),
            *from_outside,
            into(dispatch.WAYS_IN),
            *node_ports,
        ],
        ("nat", NODE_PORTS): [into(dispatch.NODE_PORTS_IN)],
        ("nat", POSTROUTING): [
            *_came_by_loopback(view, node),
            Rule((TRANSLATED, Mark(mark, mark, invert=True)), Jump(dispatch.CLIENTS.root)),
            *masquerading(mark),
        ],
        ("nat", MARK_MASQ): marking(mark),
    }
    if from_outside:
        # Marked before it is known whether the packet is for a cluster IP: so no service port has a rule for
        # this, which would be one of seven. What finds no Service goes on as it came.
        chains["nat", OUTSIDE] = [
            Rule((), MarkXset(mark, mark)),
            into(dispatch.WAYS_IN),
            Rule((), MarkXset(0, mark)),
            *node_ports,
        ]
    return chains


def _from_outside(view: FamilyView, node: NodeView) -> list[Rule]:
    """Whom endpoints of cluster IPs do not see. Who bears the mark already keeps it, whatever comes.

    A goto: of what comes back from there, nothing is asked again. It stands before the jump to the same
    tree, as a chain that the kernel has validated at some depth is not looked at again at a lesser one.
    """
    unmarked = Mark(node.mark, node.mark, invert=True)
    return [Rule((*each, unmarked), Goto(OUTSIDE)) for each in hidden(view, node)]


def _came_by_loopback(view: FamilyView, node: NodeView) -> list[Rule]:
    """Only counts, once for each flow: who comes from loopback and was sent on came in by a node port.

    One rule here does for what kube-proxy has one at every node port for.
    """
    if not view.loopback or not node.accounting:
        return []
    from_loopback = Source(parse_prefix(LOOPBACKS[view.family]))
    return [Rule((from_loopback, TRANSLATED, Nfacct(nfacct.LOCALHOST)))]


def _filter(view: FamilyView, node: NodeView) -> dict[tuple[TableName, str], list[Rule]]:
    mark = node.mark
    translated = Rule((TRANSLATED,), Return())
    return {
        ("filter", FIREWALL): [translated, into(dispatch.FIREWALLED)],
        ("filter", SERVICES): [
            translated,
            into(dispatch.REFUSED),
            into(dispatch.CLUSTER_IPS),
            *unallocated(view),
        ],
        ("filter", EXTERNAL_SERVICES): [
            translated,
            into(dispatch.REFUSED),
            *to_node(view, Jump(dispatch.NODE_PORTS_REFUSED.root), "kubernetes service nodeports"),
        ],
        ("filter", NODE_PORTS): [into(dispatch.HEALTH_PORTS)],
        ("filter", FORWARD): [
            *_invalid(node),
            *forwarding(mark),
        ],
    }


def _invalid(node: NodeView) -> list[Rule]:
    """Not forwarded: what connection tracking takes for part of no flow is not translated back, either.

    It would reach the client under the endpoint's address, who answers with a reset, and that ends the
    connection (kubernetes#74839).
    """
    if not node.drop_invalid:
        return []
    count = (Nfacct(nfacct.INVALID),) if node.accounting else ()
    return [Rule((CtState(("INVALID",)), *count), Drop())]
