"""
Trees of chains: how a packet finds the one rule that is for it, of thousands.

The cuts are fixed, so where a rule stands depends on nothing but itself, and service ports that
never heard of each other build one tree: each brings all branches that lead to its rule, and the
linker holds what several bring once. A chain of a tree is there while anything is below it.

nf_tables follows 16 chains from a hook (NFT_JUMP_STACK_SIZE); the deepest way through this mode,
to an IPv6 load balancer with source ranges, takes 13.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kubeway.modes.chains.layout import CHAIN, hashed, note, proto_word, speaks, to_address, to_port
from kubeway.planes.xtables.objects import (
    BRANCHING,
    Destination,
    Dport,
    Family,
    Goto,
    Jump,
    Rule,
    Source,
    TableName,
    Target,
    branch_key,
    chain_key,
)
from kubeway.program.program import Key, Object
from kubeway.values import Ip, Prefix, Proto, show_addr

# Service CIDRs are seldom wider than the first cut, and then that is one branch; IPv6 ones have at most
# 20 bits (kube-apiserver). Below the last cut there are 16 addresses or ports.
_CUTS: Final = {4: (16, 20, 24, 28), 16: (64, 108, 112, 116, 120, 124)}
_PORT_CUTS: Final = (256, 16)
_KEPT: Final = 16_384
"""Ways to 16 addresses each that are remembered: more than a large cluster has at once. Who makes Services at
addresses ever new is not to fill our memory."""
_LONGEST: Final = 28  # of a chain's name: XT_EXTENSION_MAXNAMELEN


class Tree(NamedTuple):
    """`letter` stands in the names of its chains."""

    table: TableName
    root: str
    letter: str
    side: type[Source] | type[Destination] = Destination


WAYS_IN: Final = Tree("nat", f"{BRANCHING}SERVICE", "S")
"""Cluster IPs."""
EXTERNAL_WAYS_IN: Final = Tree("nat", f"{BRANCHING}EXTERNAL", "E")
"""Addresses outside the cluster; whose clients are hidden is each service port's own matter."""
NODE_PORTS_IN: Final = Tree("nat", f"{BRANCHING}PORT", "P")
CLIENTS: Final = Tree("nat", f"{BRANCHING}CLIENT", "C", Source)
"""Endpoints of this node, which may meet themselves."""
FIREWALLED: Final = Tree("filter", f"{BRANCHING}FIREWALL", "F")
REFUSED: Final = Tree("filter", f"{BRANCHING}SERVICE", "S")
"""Ways in that lead to nobody."""
NODE_PORTS_REFUSED: Final = Tree("filter", f"{BRANCHING}PORT", "P")
CLUSTER_IPS: Final = Tree("filter", f"{BRANCHING}CLUSTERIP", "I")
HEALTH_PORTS: Final = Tree("filter", f"{BRANCHING}HEALTH", "H")
"""Where load balancers ask whether to send here."""
TREES: Final = (
    WAYS_IN,
    EXTERNAL_WAYS_IN,
    NODE_PORTS_IN,
    CLIENTS,
    FIREWALLED,
    REFUSED,
    NODE_PORTS_REFUSED,
    CLUSTER_IPS,
    HEALTH_PORTS,
)

Place = tuple[str, dict[Key, Object]]
"""A chain, and the branches and chains that lead to it."""


class Dispatch:
    """Puts rules where packets find them. What it keeps is a memo of the ways there."""

    def __init__(self) -> None:
        self._places: dict[tuple[Family, Tree, int], Place] = {}

    def address(self, objects: dict[Key, Object], family: Family, tree: Tree, ip: Ip, rule: Rule) -> None:
        """A rule about this address."""
        chain = self._at_address(objects, family, tree, ip)
        objects[branch_key(family, tree.table, chain, rule)] = rule

    def service(
        self,
        objects: dict[Key, Object],
        family: Family,
        tree: Tree,
        ip: Ip,
        proto: Proto,
        port: int,
        comment: str,
        target: Target,
        shared: bool,
    ) -> None:
        """A rule about an address, protocol and port; `shared`: the address may be that of many Services."""
        chain = self._at_address(objects, family, tree, ip)
        whole, protocol = to_address(ip), speaks(proto)
        if shared:
            first = port - port % _PORT_CUTS[0]
            last = first + _PORT_CUTS[0] - 1
            text = f"{show_addr(ip, first)}/{proto_word(proto)}"
            child = f"{BRANCHING}{tree.letter}-{hashed(text)}"
            # Not a goto: a rule for another port of the address may stand beside it.
            # No packet has port 0, and iptables writes ranges from 0 on in its own way.
            block = Dport(proto, max(first, 1), last)
            rule = Rule((whole, protocol, block), Jump(child))
            _branch(objects, family, tree, chain, rule, child)
            chain = child
        rule = Rule((whole, protocol, to_port(proto, port), note(comment)), target)
        objects[branch_key(family, tree.table, chain, rule)] = rule

    def port(
        self,
        objects: dict[Key, Object],
        family: Family,
        tree: Tree,
        proto: Proto,
        port: int,
        comment: str,
        target: Target,
    ) -> None:
        """A rule about a protocol and port at any address."""
        chain, protocol = tree.root, speaks(proto)
        for size in _PORT_CUTS:
            first = port - port % size
            child = f"{BRANCHING}{tree.letter}-{proto_word(proto)}-{first}-{first + size - 1}"
            block = Dport(proto, max(first, 1), first + size - 1)
            rule = Rule((protocol, block), Goto(child))
            _branch(objects, family, tree, chain, rule, child)
            chain = child
        rule = Rule((protocol, to_port(proto, port), note(comment)), target)
        objects[branch_key(family, tree.table, chain, rule)] = rule

    def _at_address(self, objects: dict[Key, Object], family: Family, tree: Tree, ip: Ip) -> str:
        place = family, tree, int.from_bytes(ip, "big") >> 4
        known = self._places.get(place)
        if known is None:
            if len(self._places) >= _KEPT:
                self._places.clear()
            known = self._places[place] = _way(family, tree, ip)
        chain, leading = known
        objects.update(leading)
        return chain


def _way(family: Family, tree: Tree, ip: Ip) -> Place:
    objects: dict[Key, Object] = {}
    chain = tree.root
    number, bits = int.from_bytes(ip, "big"), len(ip) * 8
    for length in _CUTS[len(ip)]:
        network = number >> bits - length << bits - length
        prefix = Prefix(Ip(network.to_bytes(len(ip), "big")), length)
        child = f"{BRANCHING}{tree.letter}-{prefix}"
        if len(child) > _LONGEST or len(ip) == 16:
            child = f"{BRANCHING}{tree.letter}-{hashed(str(prefix))}"
        _branch(objects, family, tree, chain, Rule((tree.side(prefix),), Goto(child)), child)
        chain = child
    return chain, objects


def _branch(
    objects: dict[Key, Object], family: Family, tree: Tree, chain: str, rule: Rule, child: str
) -> None:
    objects[branch_key(family, tree.table, chain, rule)] = rule
    objects[chain_key(family, tree.table, child)] = CHAIN
