"""
From the Node object, the interfaces and the options to what holds for every packet.

`node_facts` says what is known of this node; `node_view` what follows from it:
how pods are told from others, where node ports are open, which addresses only
Services may have. It knows no Service.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubeway.model.addresses import is_loopback
from kubeway.model.links import Links
from kubeway.model.node import Detector, FamilyView, NodeFacts, NodeView, Options
from kubeway.model.objects import Node
from kubeway.values import V4, V6, Ip, Prefix, disjoint, family_of, parse_ip, parse_prefix

NODE_IP_TYPES = ("InternalIP", "ExternalIP")
_NOT_ASKED = Links()
_FIRST_LOOPBACK = {V4: parse_ip("127.0.0.0"), V6: parse_ip("::1")}


def node_facts(
    node: Node | None, name: str, addresses: Iterable[Ip], own: Ip | None = None, links: Links = _NOT_ASKED
) -> NodeFacts:
    """What is known of the node called `name`, whose interfaces hold `addresses`.

    `own`, if it was told, is its address of that family, and that family its primary one.
    """
    local = frozenset(addresses)
    ips = () if node is None else _node_ips(node)
    if own is not None:
        ips = (own, *(ip for ip in ips if len(ip) != len(own)))
    if node is None:
        return NodeFacts(name=name, ips=ips, addresses=local, links=links)
    return NodeFacts(
        name=name,
        ips=ips,
        zone=node.zone,
        pod_cidrs=node.pod_cidrs,
        addresses=local,
        links=links,
        labels=node.labels,
    )


def _node_ips(node: Node) -> tuple[Ip, ...]:
    """Internal addresses before external ones: the first, and the first of the other family."""
    ips = [a.ip for wanted in NODE_IP_TYPES for a in node.addresses if a.type == wanted]
    other = next((ip for ip in ips if len(ip) != len(ips[0])), None)
    return tuple(ips[:1]) if other is None else (ips[0], other)


def node_view(facts: NodeFacts, options: Options, cidrs: Iterable[str | Prefix]) -> NodeView:
    """What this node settles for every service port.

    `cidrs` are the cluster's service CIDRs; ValueError if one is none.
    """
    prefixes = [parse_prefix(cidr) if isinstance(cidr, str) else cidr for cidr in cidrs]
    return NodeView(
        v4=_family_view(V4, facts, options, prefixes),
        v6=_family_view(V6, facts, options, prefixes),
        masquerade_all=options.masquerade_all,
        mark=1 << options.masquerade_bit,
        drop_invalid=options.drop_invalid,
        accounting=options.accounting,
        ipvs=options.ipvs if options.mode == "ipvs" else None,
        relayed=options.mode == "userspace",
        relay_workers=options.relay_workers or 1,
        bridged=options.mode == "userspace" and facts.links.bridged,
    )


def _family_view(family: int, facts: NodeFacts, options: Options, cidrs: list[Prefix]) -> FamilyView:
    addresses = frozenset(ip for ip in facts.addresses if family_of(ip) == family)
    accepting = _accepting(family, facts, options)
    links = facts.links if options.mode == "userspace" else _NOT_ASKED
    return FamilyView(
        family=family,
        detector=_detector(family, facts, options),
        node_ports=_node_ports(accepting, addresses),
        loopback=_on_loopback(family, accepting, options),
        service_cidrs=disjoint(_of_family(family, cidrs)),
        addresses=addresses,
        source=next((ip for ip in facts.ips if ip in addresses), None),
        served=family in links.families,
        neighbours=tuple(one for one in links.neighbours if family_of(one.prefix.ip) == family),
        marks_checked=family == V4 and links.marks_checked,
    )


def _detector(family: int, facts: NodeFacts, options: Options) -> Detector | None:
    if options.detect_local == "BridgeInterface":
        return Detector("interface", interface=options.bridge_interface)
    if options.detect_local == "InterfaceNamePrefix":
        return Detector("interface-prefix", interface=options.interface_prefix)
    cidrs = options.cluster_cidrs if options.detect_local == "ClusterCIDR" else facts.pod_cidrs
    own = _of_family(family, cidrs)
    return Detector("cidr", prefix=own[0]) if own else None


def _accepting(family: int, facts: NodeFacts, options: Options) -> list[Prefix]:
    """The CIDRs of this family whose local addresses accept node ports; [] for any address.

    A family without a CIDR of its own accepts all, even where the other family
    has some; so does one with a CIDR of length zero (kube-proxy).
    """
    chosen = options.node_port_addresses
    if chosen == "primary":
        # An address that is not (yet) on an interface accepts nothing, but it
        # is known which one is meant: the family is not opened up.
        wanted = [Prefix(ip, len(ip) * 8) for ip in facts.ips if not is_loopback(ip)]
    else:
        wanted = list(chosen)
    own = _of_family(family, wanted)
    return [] if any(prefix.length == 0 for prefix in own) else own


def _node_ports(accepting: list[Prefix], addresses: frozenset[Ip]) -> tuple[Ip, ...] | None:
    """The addresses that accept node ports; None for all but loopback."""
    if not accepting:
        return None
    return tuple(
        sorted(
            ip for ip in addresses if not is_loopback(ip) and any(prefix.holds(ip) for prefix in accepting)
        )
    )


def _on_loopback(family: int, accepting: list[Prefix], options: Options) -> bool:
    """Whether loopback accepts node ports: in iptables mode 127.0.0.0/8, as with kube-proxy; in userspace
    mode ::1 too, unless only CIDRs of IPv4 were asked for.

    Source: pkg/proxy/util/nodeport_addresses.go (ContainsIPv4Loopback).
    """
    modes = ("iptables", "userspace") if family == V4 else ("userspace",)
    if options.mode not in modes or not options.localhost_node_ports:
        return False
    if family == V6 and not accepting and options.node_port_addresses:
        return False
    first = _FIRST_LOOPBACK[family]
    return not accepting or any(is_loopback(cidr.ip) or cidr.holds(first) for cidr in accepting)


def _of_family(family: int, prefixes: Iterable[Prefix]) -> list[Prefix]:
    return [prefix for prefix in prefixes if family_of(prefix.ip) == family]
