"""
The chains that service ports of one class share: what to mark, and how to pick.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from kubeway.model.node import NodeView
from kubeway.modes.maps.doors import from_pod
from kubeway.modes.maps.layout import NODE_PORT_FRONT, Words
from kubeway.modes.nftables.layout import ID_LOCAL, ID_SIGN, ID_SIGN_MASK, LOCAL_SLOTS, SLOT_FIELD
from kubeway.planes.nft import build as b
from kubeway.planes.nft.objects import Chain, Numgen, Rule, Rules, chain_key, rules_key
from kubeway.program.program import Key, Object


class Way(Struct, frozen=True):
    """What the class chain of a frontend depends on.

    `front`: "cluster-ip", "external" or "nodeport". `cluster` and `local` count the
    endpoints of the lists in use; `local` None: the Cluster policy applies.
    """

    front: Literal["cluster-ip", "external", "nodeport"]
    cluster: int
    local: int | None
    affinity: int

    @property
    def chain(self) -> str:
        counts = f"-{self.cluster}" if self.local is None else f"-local-{self.cluster}-{self.local}"
        return f"{self.front}{counts}{_sticky(self.affinity)}"


def _sticky(affinity: int) -> str:
    return f"-sticky-{affinity}s" if affinity else ""


def class_chains(way: Way, words: Words, view: NodeView) -> dict[Key, Object]:
    """The class's own chain and the picks it goes to."""
    maps = "nodeport-" if way.front == "nodeport" else ""
    everyone = f"{maps}pick-{way.cluster}{_sticky(way.affinity)}"
    chains = {everyone: _pick(words, maps, way.cluster, 0, way.affinity)}
    detector = view.family(words.number).detector
    mark = b.mark_on(view.mark)
    rules: list[Rule]
    if way.front == "cluster-ip":
        rules = []
        if view.masquerade_all:
            rules.append(b.rule(mark, comment="masquerade all"))
        elif detector is not None:
            outside = from_pod(words, detector, "!=")
            rules.append(b.rule(outside, mark, comment="masquerade what is no pod of this cluster"))
        rules.append(b.rule(b.goto(everyone)))
    elif way.local is None:
        rules = [b.rule(mark, comment="masquerade"), b.rule(b.goto(everyone))]
    else:
        rules = []
        if detector is not None:
            pods = from_pod(words, detector, "==")
            rules.append(b.rule(pods, b.goto(everyone), comment="pods may use every endpoint"))
        own = b.local("saddr")
        rules.append(b.rule(own, mark, comment="masquerade what this node sends"))
        rules.append(b.rule(own, b.goto(everyone), comment="this node may use every endpoint"))
        if way.local:
            here = f"{maps}pick-local-{way.local}{_sticky(way.affinity)}"
            chains[here] = _pick(words, maps, way.local, LOCAL_SLOTS, way.affinity)
            rules.append(b.rule(b.goto(here)))
    chains[way.chain] = Rules(tuple(rules))
    objects: dict[Key, Object] = {}
    for name, content in chains.items():
        objects[chain_key(words.family, name)] = Chain()
        objects[rules_key(words.family, name)] = content
    return objects


def _pick(words: Words, maps: str, count: int, first: int, affinity: int) -> Rules:
    """The rules that choose one of `count` endpoints, from slot `first` on."""
    front = NODE_PORT_FRONT if maps else words.front
    slot = Numgen(0, count, first)
    if not affinity:
        return Rules((b.rule(b.dnat((*front, SLOT_FIELD), maps + "endpoints", words.size, slot)),))
    client = (words.saddr, *front)
    timeout = affinity * 1000
    table = maps + "affinity"
    chosen = b.dnat((*front, "meta priority"), maps + "sticky-endpoints", words.size)
    # An address may have both lists; an endpoint remembered from the other one is not ours.
    of_list = b.priority_is(ID_SIGN | (ID_LOCAL if first else 0), ID_SIGN_MASK | ID_LOCAL)
    renew = b.remember("update", client, table, timeout)
    # A failed lookup ends its rule, hence the order: known client, its endpoint; else
    # forget it, draw, remember, go. An update renews the timeout of what is there but
    # leaves its data, hence the delete.
    return Rules(
        (
            b.rule(b.priority_from(client, table), renew, comment="a known client"),
            b.rule(of_list, chosen, comment="if its endpoint is still there"),
            b.rule(b.remember("delete", client, table, 0)),
            b.rule(b.priority_from((*front, SLOT_FIELD), maps + "sticky-slots", slot)),
            b.rule(renew),
            b.rule(chosen),
        )
    )
