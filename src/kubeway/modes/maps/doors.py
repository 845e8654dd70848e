"""
Sets and chains that are there even with no service: where ways in stand, who is let in by them, and what
becomes of packets to those that nobody serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from kubeway.model.node import Detector, FamilyView
from kubeway.modes.maps.layout import NODE_PORT_FRONT, PRESENT, Words
from kubeway.planes.nft import build as b
from kubeway.planes.nft.objects import (
    Chain,
    Drop,
    Reject,
    Rule,
    Rules,
    Set,
    Table,
    chain_key,
    element_key,
    rules_key,
    set_key,
    table_key,
)
from kubeway.program.program import Key, Object
from kubeway.values import parse_prefix

Chains = Mapping[str, tuple[Chain, list[Rule]]]


def objects(words: Words, view: FamilyView, sets: Mapping[str, Set], chains: Chains) -> dict[Key, Object]:
    """The table of one family with these sets and chains, and the addresses that accept node ports."""
    family = words.family
    found: dict[Key, Object] = {table_key(family): Table("Services, by kubeway")}
    for name, content in sets.items():
        found[set_key(family, name)] = content
    for name, (chain, rules) in chains.items():
        found[chain_key(family, name)] = chain
        found[rules_key(family, name)] = Rules(tuple(rules))
    for ip in view.node_ports or ():
        found[element_key(family, "nodeport-ips", ip)] = PRESENT
    return found


def sets(words: Words) -> dict[str, Set]:
    front = words.front
    return {
        "services": Set(front, verdicts=True, comment="ways in: cluster, external and load-balancer IPs"),
        "nodeports": Set(NODE_PORT_FRONT, verdicts=True, comment="ways in: node ports"),
        "nodeport-ips": Set((words.daddr,), comment="addresses that accept node ports"),
        "cluster-ips": Set((words.daddr,), comment="cluster IPs in use"),
        "no-endpoint-services": Set(front, verdicts=True, comment="nobody to send to"),
        "no-endpoint-nodeports": Set(NODE_PORT_FRONT, verdicts=True, comment="nobody to send to"),
        "firewalled": Set(front, comment="only for clients in @allowed"),
        "allowed": Set((*front, words.saddr), ranges=True, comment="load-balancer source ranges"),
    }


def chains(words: Words, view: FamilyView) -> dict[str, tuple[Chain, list[Rule]]]:
    """Those that hang on no hook; which packets meet them is the mode's."""
    front = words.front
    return {
        "firewall": (
            Chain(),
            [
                b.rule(
                    b.in_set(front, "firewalled"),
                    b.in_set((*front, words.saddr), "allowed", invert=True),
                    Drop(),
                )
            ],
        ),
        "dispatch": (
            Chain(),
            [
                b.rule(b.vmap(front, "services")),
                *(b.rule(way, b.vmap(NODE_PORT_FRONT, "nodeports")) for way in to_node(words, view)),
            ],
        ),
        "no-endpoints": (Chain(), [b.rule(b.vmap(front, "no-endpoint-services"))]),
        "unowned": (
            Chain(),
            [
                b.rule(b.in_set((words.daddr,), "cluster-ips"), Reject(), comment="no such port"),
                *(
                    b.rule(b.prefix(words.daddr, cidr), Drop(), comment="no such cluster IP")
                    for cidr in view.service_cidrs
                ),
            ],
        ),
        "reject-it": (Chain(), [b.rule(Reject())]),
    }


def to_node(words: Words, view: FamilyView) -> list[b.Phrase]:
    """Each: the packet's destination is an address that accepts node ports."""
    loopback = parse_prefix(words.loopback)
    open_ = [b.prefix(words.daddr, loopback)] if view.loopback else []
    if view.node_ports is not None:
        return [b.in_set((words.daddr,), "nodeport-ips"), *open_]
    return [(*b.local("daddr"), *b.prefix(words.daddr, loopback, "!=")), *open_]


def from_pod(words: Words, detector: Detector, op: Literal["==", "!="]) -> b.Phrase:
    """The packet is from a pod of this cluster, or not."""
    if detector.prefix is not None:
        return b.prefix(words.saddr, detector.prefix, op)
    return b.interface(detector.interface, detector.kind == "interface-prefix", op)
