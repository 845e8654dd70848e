"""
What is there even with no service: settings, sets, the link, and the chains that ask the sets.

Source of names: pkg/proxy/ipvs/proxier.go. What differs, and why:

- Packets made here are judged in OUTPUT, before ipvs takes them there (in mangle, as that comes first);
  what comes back in by loopback has been judged and is not asked again.
- Only the first packet of a flow is judged; kube-proxy cuts connections off when a range of sources goes.
- A way in whose Local policy finds nobody here drops (`KUBEWAY-DROPPED`); kube-proxy sends to other nodes.
"""

from __future__ import annotations

from typing import Final

from kubeway.model.node import FamilyView, Ipvs, NodeView
from kubeway.modes.chains import dispatch
from kubeway.modes.chains.common import (
    PORTALS,
    TRANSLATED,
    Jumps,
    forwarding,
    hidden,
    jumping,
    marking,
    masquerading,
    to_node,
    unallocated,
)
from kubeway.modes.chains.entries import Asked, empty
from kubeway.modes.chains.layout import (
    CHAIN,
    FAMILIES,
    FIREWALL,
    FORWARD,
    MARK_MASQ,
    POSTROUTING,
    SERVICES,
    speaks,
)
from kubeway.modes.ipvs import sets
from kubeway.planes import sysctl
from kubeway.planes.ipvs.objects import TIMEOUTS, Timeouts
from kubeway.planes.link.objects import LINK, Dummy
from kubeway.planes.xtables.objects import (
    Accept,
    AddrType,
    Balanced,
    Comment,
    Destination,
    Drop,
    InInterface,
    Jump,
    Masquerade,
    Reject,
    Return,
    Rule,
    Rules,
    TableName,
    chain_key,
    rules_key,
)
from kubeway.program.program import Key, Object
from kubeway.values import SCTP, TCP, V4, Proto, parse_prefix

NODE_PORT: Final = "KUBE-NODE-PORT"
BALANCER: Final = "KUBE-LOAD-BALANCER"
SOURCE_RANGES: Final = "KUBE-SOURCE-RANGES-FIREWALL"
FILTER: Final = "KUBE-IPVS-FILTER"
OUT_FILTER: Final = "KUBE-IPVS-OUT-FILTER"

TREES: Final = (dispatch.EXTERNAL_WAYS_IN, dispatch.NODE_PORTS_IN)
"""Whom a Local policy outside does not bind finds his endpoints here."""

_FIREWALL: Final = "kube-proxy firewall rules"
_ACCESS: Final = "kubernetes ipvs access filter"
_NODE_PORTS: Final = "kubernetes service nodeports"

_JUMPS: Final[Jumps] = {
    ("mangle", "OUTPUT"): ((FIREWALL, True, _FIREWALL),),
    ("filter", "INPUT"): (
        (FIREWALL, True, _FIREWALL),
        (FILTER, True, _ACCESS),
        (NODE_PORT, False, "kubernetes health check rules"),
    ),
    # What bears the mark is let through, so an address that nobody has (any more) is asked for first.
    ("filter", "FORWARD"): ((OUT_FILTER, True, _ACCESS), (FORWARD, False, "kubernetes forwarding rules")),
    ("filter", "OUTPUT"): ((OUT_FILTER, True, _ACCESS),),
    ("nat", "PREROUTING"): ((SERVICES, False, PORTALS),),
    ("nat", "OUTPUT"): ((SERVICES, False, PORTALS),),
    ("nat", "POSTROUTING"): ((POSTROUTING, False, "kubernetes postrouting rules"),),
}

_LINK_LOCAL: Final = parse_prefix("fe80::/10")
_ACCEPT: Final = Accept()
_RETURN: Final = Return()
_DROP: Final = Drop()
_MARK: Final = Jump(MARK_MASQ)
_JUDGED: Final = Rule((InInterface("lo"), Comment("made here, and judged on its way out")), _RETURN)
_DONE: Final = Rule((TRANSLATED,), _RETURN)


def settings(node: Ipvs) -> dict[Key, Object]:
    """What the kernel is to be set to, and why: `sysctl.WHY`."""
    wanted = {
        sysctl.VS_CONNTRACK: "1",
        sysctl.VS_EXPIRE_NODEST_CONN: "1",
        sysctl.VS_EXPIRE_QUIESCENT_TEMPLATE: "1",
        sysctl.IP_FORWARD: "1",
    }
    if node.reuse_ports:
        wanted[sysctl.VS_CONN_REUSE_MODE] = "0"
    if node.strict_arp:
        wanted |= {sysctl.ARP_IGNORE: "1", sysctl.ARP_ANNOUNCE: "2"}
    objects: dict[Key, Object] = {sysctl.value_key(name): sysctl.Value(text) for name, text in wanted.items()}
    timeouts = Timeouts(node.tcp_timeout, node.tcp_fin_timeout, node.udp_timeout)
    if timeouts != Timeouts(0, 0, 0):
        objects[TIMEOUTS] = timeouts
    return objects


def base(number: int, node: NodeView) -> dict[Key, Object]:
    """Of one family."""
    family, view = FAMILIES[number], node.family(number)
    objects: dict[Key, Object] = {LINK: Dummy(), **empty(sets.TYPES, number), **jumping(family, _JUMPS)}
    for tree in TREES:
        objects[chain_key(family, tree.table, tree.root)] = CHAIN
    asked = Asked(number)
    for (table, chain), rules in {**_nat(asked, view, node), **_filter(asked, view, node)}.items():
        objects[chain_key(family, table, chain)] = CHAIN
        objects[rules_key(family, table, chain)] = Rules(tuple(rules))
    return objects


def _nat(asked: Asked, view: FamilyView, node: NodeView) -> dict[tuple[TableName, str], list[Rule]]:
    mark = node.mark
    cluster_ip, balancer = asked.way(sets.CLUSTER_IP), asked.way(sets.LOAD_BALANCER)
    external, external_local = asked.way(sets.EXTERNAL_IP), asked.way(sets.EXTERNAL_IP_LOCAL)
    balancer_local = asked.way(sets.LOAD_BALANCER_LOCAL)
    unbound = Jump(dispatch.EXTERNAL_WAYS_IN.root)
    return {
        # What is a way in at its address is accepted when it is marked: a node port, or somebody else's
        # rule for a port of this node, is not for it.
        ("nat", SERVICES): [
            *[
                Rule((*each, cluster_ip, Comment("clients that are hidden from endpoints")), _MARK)
                for each in hidden(view, node)
            ],
            Rule((cluster_ip,), _ACCEPT),
            Rule((external,), _MARK),
            Rule((external,), _ACCEPT),
            Rule((external_local,), unbound),
            Rule((external_local,), _ACCEPT),
            Rule((balancer,), Jump(BALANCER)),
            Rule((asked.address(sets.ADDRESSES),), _ACCEPT),
            *_not_link_local(view),
            *to_node(view, Jump(NODE_PORT), _NODE_PORTS),
        ],
        ("nat", BALANCER): [
            Rule((balancer_local,), unbound),
            Rule((balancer_local,), _ACCEPT),
            Rule((), _MARK),
            Rule((), _ACCEPT),
        ],
        ("nat", NODE_PORT): [rule for proto in sets.NODE_PORT for rule in _node_port(asked, proto)],
        ("nat", MARK_MASQ): marking(mark),
        ("nat", POSTROUTING): [
            Rule(
                (
                    asked.way_from(sets.LOOP_BACK),
                    Comment("Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose"),
                ),
                Masquerade(),
            ),
            *masquerading(mark),
        ],
    }


def _not_link_local(view: FamilyView) -> list[Rule]:
    """Where all addresses accept node ports, those that each link has of itself do not."""
    if view.family == V4 or view.node_ports is not None:
        return []
    return [Rule((Destination(_LINK_LOCAL),), _RETURN)]


def _node_port(asked: Asked, proto: Proto) -> list[Rule]:
    # A set of ports knows no protocol, so each has its own; that of SCTP is one of addresses and ports.
    ask = asked.way if proto == SCTP else asked.port
    local, every = ask(sets.NODE_PORT_LOCAL[proto]), ask(sets.NODE_PORT[proto])
    return [
        Rule((speaks(proto), local), Jump(dispatch.NODE_PORTS_IN.root)),
        Rule((speaks(proto), local), _ACCEPT),
        Rule((speaks(proto), every), _MARK),
    ]


def _filter(asked: Asked, view: FamilyView, node: NodeView) -> dict[tuple[TableName, str], list[Rule]]:
    firewalled = Rule((asked.way(sets.FIREWALLED),), Jump(SOURCE_RANGES))
    ranges = [
        Rule((asked.way_from(sets.SOURCE_CIDR),), _RETURN),
        Rule((asked.way_from(sets.SOURCE_IP),), _RETURN),
        Rule((), _DROP),
    ]
    dropped, here = asked.way(sets.DROPPED), asked.address(sets.ADDRESSES)
    health = asked.port(sets.HEALTH_CHECK)
    closed = Rule((here,), Reject())
    # The health-check ports of this node answer there, too: a load balancer may ask by its own address.
    asked_by_balancers = Rule((speaks(TCP), here, health), _RETURN)
    return {
        ("mangle", FIREWALL): [
            firewalled,
            # Of other ways in, whom a Local policy outside does not bind is yet to be sent on.
            Rule((asked.way(sets.CLUSTER_IP), dropped), _DROP),
        ],
        ("mangle", SOURCE_RANGES): ranges,
        ("filter", FIREWALL): [_JUDGED, _DONE, firewalled],
        ("filter", SOURCE_RANGES): ranges,
        ("filter", FILTER): [
            _JUDGED,
            _DONE,
            Rule((dropped,), _DROP),
            Rule((asked.way(sets.OPEN),), _RETURN),
            asked_by_balancers,
            closed,
        ],
        ("filter", OUT_FILTER): [
            _DONE,
            Rule((Balanced(),), _RETURN),
            asked_by_balancers,
            # Until an address is bound it is somebody else's, be it that it is in the set already.
            Rule((here, AddrType("dst")), Reject()),
            *unallocated(view),
        ],
        ("filter", NODE_PORT): [
            Rule((speaks(TCP), health, Comment("Kubernetes health check node port")), _ACCEPT)
        ],
        ("filter", FORWARD): forwarding(node.mark),
    }
