"""
The chains of one service port: which list of endpoints, for whom, and which endpoint of it.

The chances of a list come from its rules in turn: of n endpoints the first is taken by one packet
of n, the second by one of n - 1 of those left, and the last by all that are left.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from kubeway.model.forward import Endpoint, Forward, Frontend
from kubeway.model.node import NodeView
from kubeway.model.packet import Packet
from kubeway.modes.chains.clients import from_prefix, inside
from kubeway.modes.chains.layout import (
    CHAIN,
    MARK_MASQ,
    client_list,
    front_of,
    front_text,
    list_of,
    note,
    speaks,
    suffix,
)
from kubeway.planes.xtables.fates import Memory
from kubeway.planes.xtables.objects import (
    Accept,
    AddrType,
    Comment,
    Dnat,
    Drop,
    Family,
    Jump,
    Match,
    Protocol,
    Random,
    Recent,
    Return,
    Rule,
    Rules,
    TableName,
    chain_key,
    rules_key,
)
from kubeway.planes.xtables.words import in_order
from kubeway.program.program import Key, Object
from kubeway.values import Prefix, Proto, show_addr

_MASQUERADE: Final = Jump(MARK_MASQ)
_FROM_HERE: Final = AddrType("src")

Chances = tuple[tuple[Match, ...], ...]
"""What each rule of a list asks, the protocol first."""


class Picks:
    """The chains of one service port, made as ways in ask for them."""

    def __init__(self, objects: dict[Key, Object], family: Family, forward: Forward, view: NodeView) -> None:
        self.objects, self.family, self.forward = objects, family, forward
        self.name = str(forward.name)
        self.proto = speaks(forward.proto)
        self.detector = view.family(forward.family).detector
        # What each endpoint's rule is told by; of a large family that would be too much.
        self.told = "" if view.family(forward.family).large else f"{self.name} -> "

    def cluster_ip(self, frontend: Frontend) -> str:
        """The chain for a cluster IP. Clients that are to be hidden have been marked on the way."""
        return self._list(self.forward.internal_local, "", frontend)

    def external(self, frontend: Frontend) -> str:
        """The chain for any other way in: its own if clients are remembered, else one for all of them."""
        forward = self.forward
        ending = front_of(frontend, forward.proto) if forward.affinity else ""
        chain = f"KUBE-EXT-{suffix(forward, ending)}"
        if rules_key(self.family, "nat", chain) in self.objects:
            return chain
        everyone = Jump(self._list(False, ending, frontend))
        if not forward.external_local:
            comment = note(f"masquerade traffic for {self.name} external destinations")
            return self._add("nat", chain, [Rule((comment,), _MASQUERADE), Rule((), everyone)])
        rules = self._unbound(everyone)
        if forward.local:
            rules.append(Rule((), Jump(self._list(True, ending, frontend))))
        else:
            rules.append(Rule((note(f"{self.name} has no local endpoints, filter drops it"),), Accept()))
        return self._add("nat", chain, rules)

    def unbound(self, frontend: Frontend) -> str:
        """The chain for clients whom a Local policy outside does not bind; others come back from it."""
        ending = front_of(frontend, self.forward.proto) if self.forward.affinity else ""
        chain = f"KUBE-EXT-{suffix(self.forward, ending)}"
        if rules_key(self.family, "nat", chain) in self.objects:
            return chain
        return self._add("nat", chain, self._unbound(Jump(self._list(False, ending, frontend))))

    def _unbound(self, everyone: Jump) -> list[Rule]:
        """Pods of this cluster and this node itself are served by all endpoints."""
        comment = note(f"pod traffic for {self.name} external destinations")
        pods = () if self.detector is None else inside(self.detector)
        rules = [Rule(in_order((*each, comment)), everyone) for each in pods]
        comment = note(f"masquerade LOCAL traffic for {self.name} external destinations")
        rules.append(Rule((_FROM_HERE, comment), _MASQUERADE))
        comment = note(f"route LOCAL traffic for {self.name} external destinations")
        rules.append(Rule((_FROM_HERE, comment), everyone))
        return rules

    def firewalled(self, frontend: Frontend, sources: tuple[Prefix, ...], into: str) -> str:
        """The chain that lets only clients from `sources` go on to the chain `into`."""
        comment = note(f"{self.name} loadbalancer IP")
        rules = [Rule((*from_prefix(source), comment), Jump(into)) for source in sources]
        comment = note(f"other traffic to {self.name} will be dropped by KUBE-PROXY-FIREWALL")
        rules.append(Rule((comment,), Accept()))
        return self._add("nat", self.firewall_name(frontend), rules)

    def firewall(self, frontend: Frontend, sources: tuple[Prefix, ...]) -> str:
        """Its other half, in filter."""
        rules = [Rule(from_prefix(source), Return()) for source in sources]
        rules.append(Rule((), Drop()))
        return self._add("filter", self.firewall_name(frontend), rules)

    def firewall_name(self, frontend: Frontend) -> str:
        forward = self.forward
        first = next(one for one in forward.frontends if one.sources is not None)
        # Nearly always all load balancer addresses of a service port are alike in this.
        alike = first.sources == frontend.sources and not forward.affinity
        return f"KUBE-FW-{suffix(forward, '' if alike else front_of(frontend, forward.proto))}"

    def _list(self, local: bool, ending: str, frontend: Frontend) -> str:
        """The chain that draws one of a list."""
        forward = self.forward
        chain = f"KUBE-{'SVL' if local else 'SVC'}-{suffix(forward, ending)}"
        if rules_key(self.family, "nat", chain) in self.objects:
            return chain
        endpoints = forward.local if local else forward.cluster
        if forward.affinity:
            front = front_of(frontend, forward.proto)
            drawn = list(_sticky(endpoints, self.proto, forward.affinity, front, self.told))
        else:
            drawn = _drawn(endpoints, self.proto, self.told)
        return self._add("nat", chain, drawn)

    def _add(self, table: TableName, chain: str, rules: list[Rule]) -> str:
        self.objects[chain_key(self.family, table, chain)] = CHAIN
        self.objects[rules_key(self.family, table, chain)] = Rules(tuple(rules))
        return chain


def _drawn(endpoints: tuple[Endpoint, ...], proto: Protocol, told: str) -> list[Rule]:
    chances = _chances(proto.proto, len(endpoints))
    if told:
        chances = tuple(
            (*chance, _comment(told, endpoint)) for chance, endpoint in zip(chances, endpoints, strict=True)
        )
    return [
        Rule(chance, Dnat(endpoint.ip, endpoint.port))
        for chance, endpoint in zip(chances, endpoints, strict=True)
    ]


def _sticky(
    endpoints: tuple[Endpoint, ...], proto: Protocol, seconds: int, front: str, told: str
) -> Iterator[Rule]:
    """First those clients whose endpoint is known; then draw, and know it."""
    lists = [list_of(front, endpoint) for endpoint in endpoints]
    comments = [(_comment(told, endpoint),) if told else () for endpoint in endpoints]
    for name, endpoint, comment in zip(lists, endpoints, comments, strict=True):
        matches = proto, Recent(name, "update", seconds), *comment
        yield Rule(matches, Dnat(endpoint.ip, endpoint.port))
    chances = _chances(proto.proto, len(lists))
    for name, endpoint, chance, comment in zip(lists, endpoints, chances, comments, strict=True):
        yield Rule((*chance, Recent(name, "set"), *comment), Dnat(endpoint.ip, endpoint.port))


def _comment(told: str, endpoint: Endpoint) -> Comment:
    return note(told + show_addr(endpoint.ip, endpoint.port))


@lru_cache(maxsize=256)
def _chances(proto: Proto, count: int) -> Chances:
    """What each rule of a list of so many asks before it takes the packet."""
    protocol = speaks(proto)
    return tuple((protocol, _random(left)) if left > 1 else (protocol,) for left in range(count, 0, -1))


@lru_cache(maxsize=4096)
def _random(of: int) -> Random:
    return Random(of)


def remembered(packet: Packet) -> Memory:
    """What the recent lists hold if this client was sent to `packet.remembered` before."""
    if packet.remembered is None:
        return frozenset()
    fronts = [front_text(ip, packet.proto, packet.port) for ip in (packet.dst, None)]
    return frozenset((client_list(front, *packet.remembered), packet.src) for front in fronts)
