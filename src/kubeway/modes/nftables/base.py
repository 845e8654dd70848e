"""
What is there even with no service: the table, its sets, and the chains at the hooks.
"""

from __future__ import annotations

from typing import Final

from kubeway.model.node import FamilyView
from kubeway.modes.nftables.layout import (
    ID_SIGN,
    ID_SIGN_MASK,
    NODE_PORT_FRONT,
    PRESENT,
    SLOT_FIELD,
    Words,
)
from kubeway.planes.nft import build as b
from kubeway.planes.nft.objects import (
    Chain,
    Drop,
    Masquerade,
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

_AFFINITY_SIZE: Final = 262_144
_AFFINITY_TIMEOUT: Final = 10_800_000


def base(words: Words, view: FamilyView, mark: int) -> dict[Key, Object]:
    """Of one family; `mark` is the bit that means masquerade."""
    family = words.family
    objects: dict[Key, Object] = {table_key(family): Table("Services, by kubeway")}
    for name, content in _sets(words).items():
        objects[set_key(family, name)] = content
    for name, (chain, rules) in _base_chains(words, view, mark).items():
        objects[chain_key(family, name)] = chain
        objects[rules_key(family, name)] = Rules(tuple(rules))
    for ip in view.node_ports or ():
        objects[element_key(family, "nodeport-ips", ip)] = PRESENT
    return objects


def _sets(words: Words) -> dict[str, Set]:
    front, target = words.front, (words.daddr, "th dport")
    sets = {
        "services": Set(front, verdicts=True, comment="ways in: cluster, external and load-balancer IPs"),
        "nodeports": Set(NODE_PORT_FRONT, verdicts=True, comment="ways in: node ports"),
        "nodeport-ips": Set((words.daddr,), comment="addresses that accept node ports"),
        "cluster-ips": Set((words.daddr,), comment="cluster IPs in use"),
        "no-endpoint-services": Set(front, verdicts=True, comment="nobody to send to"),
        "no-endpoint-nodeports": Set(NODE_PORT_FRONT, verdicts=True, comment="nobody to send to"),
        "firewalled": Set(front, comment="only for clients in @allowed"),
        "allowed": Set((*front, words.saddr), ranges=True, comment="load-balancer source ranges"),
        "hairpin": Set((words.saddr, *front), comment="endpoints here that may meet themselves"),
    }
    for maps, key in (("", front), ("nodeport-", NODE_PORT_FRONT)):
        sets |= {
            maps + "endpoints": Set((*key, SLOT_FIELD), target, comment="by slot"),
            maps + "sticky-slots": Set((*key, SLOT_FIELD), ("meta priority",), comment="ids by slot"),
            maps + "sticky-endpoints": Set((*key, "meta priority"), target, comment="by id"),
            maps + "affinity": Set(
                (words.saddr, *key),
                ("meta priority",),
                dynamic=True,
                timeout=_AFFINITY_TIMEOUT,
                size=_AFFINITY_SIZE,
                comment="clients and the ids of their endpoints",
            ),
        }
    return sets


def _base_chains(words: Words, view: FamilyView, mark: int) -> dict[str, tuple[Chain, list[Rule]]]:
    front = words.front
    new = b.new_flow()
    to_node = _to_node(words, view)
    # What has been sent to an endpoint has met its fate, even if somebody claims that
    # endpoint's address for a Service of his own.
    astray = (*new, *b.untranslated())
    no_endpoints = b.rule(astray, b.jump("no-endpoints"))
    unowned = b.rule(astray, b.jump("unowned"))
    forget_id = b.rule(new, b.priority_is(ID_SIGN, ID_SIGN_MASK), b.priority_zero())
    firewall = b.rule(astray, b.jump("firewall"))
    dispatch = b.rule(b.jump("dispatch"))
    hairpin = b.in_set((words.saddr, *front), "hairpin")
    return {
        # Before DNAT, while the packet still has the address that it was sent to.
        "firewall-prerouting": (Chain("filter", "prerouting", -110), [firewall]),
        "firewall-output": (Chain("filter", "output", -110), [firewall]),
        "nat-prerouting": (Chain("nat", "prerouting", -100), [dispatch]),
        "nat-output": (Chain("nat", "output", -100), [dispatch]),
        "filter-input": (
            Chain("filter", "input", 0),
            [
                no_endpoints,
                b.rule(astray, to_node, b.vmap(NODE_PORT_FRONT, "no-endpoint-nodeports")),
            ],
        ),
        "filter-forward": (Chain("filter", "forward", 0), [forget_id, no_endpoints, unowned]),
        "filter-output": (Chain("filter", "output", 0), [forget_id, no_endpoints, unowned]),
        "nat-postrouting": (
            Chain("nat", "postrouting", 100),
            [
                # The bit goes out with the packet's first pass: a packet that comes by
                # again (through a tunnel, say) is not masqueraded twice.
                b.rule(b.marked(mark), b.mark_flip(mark), Masquerade()),
                b.rule(b.translated(), hairpin, Masquerade(), comment="a client that met itself"),
            ],
        ),
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
                b.rule(to_node, b.vmap(NODE_PORT_FRONT, "nodeports")),
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


def _to_node(words: Words, view: FamilyView) -> b.Phrase:
    """The packet's destination is an address that accepts node ports."""
    if view.node_ports is not None:
        return b.in_set((words.daddr,), "nodeport-ips")
    return (*b.local("daddr"), *b.prefix(words.daddr, parse_prefix(words.loopback), "!="))
