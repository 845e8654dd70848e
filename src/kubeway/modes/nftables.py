"""
nftables mode: Forwards to one table per family, with no kernel object per Service
but elements of maps and sets.

A packet's address, protocol and port are looked up once in `services` (or
`nodeports`), whose verdict leads to a chain of a *class*: all ClusterIPs with five
endpoints share `cluster-ip-5`. The class marks what is to be masqueraded and goes to
a *pick*, which draws a slot below the number of endpoints and looks up
`address . protocol . port . slot` in `endpoints`. So the number of chains depends on
how many different numbers of endpoints there are, and one endpoint is one element.

A pick with affinity remembers for each client an endpoint's id, which counts only
while `sticky-endpoints` knows it: a client of an endpoint that left chooses anew with
the next connection, and nobody has to clean up. The id travels from rule to rule in
the packet's priority, because a rule of nft cannot hand a map's value to another map;
`filter-forward` and `filter-output` set it back to 0.

The layout is explained with pictures in docs/theory/nft.md. The meaning of it all is
the model's (`kubeway.model.oracle`); the laws compare the two.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from struct import Struct as Packing
from sys import byteorder
from typing import Final, Literal

from msgspec import Struct

from kubeway.model.forward import Endpoint, Forward, Frontend
from kubeway.model.node import Detector, FamilyView, NodeView
from kubeway.model.packet import Fates, Packet
from kubeway.planes.nft import build as b
from kubeway.planes.nft.fates import fates as walk
from kubeway.planes.nft.objects import (
    KINDS,
    PLANE,
    Chain,
    Drop,
    Element,
    Family,
    Goto,
    Masquerade,
    Numgen,
    Reject,
    Return,
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
from kubeway.program.program import Fragment, Key, Object, Origin
from kubeway.values import family_of, parse_prefix

# A Local list stands beside the Cluster list of the same address, from this slot on.
LOCAL_SLOTS: Final = 32768
# Ids of endpoints in the packet's priority: 0xb in the highest four bits tells them from
# priorities that others set; then one bit for the Local list, and 27 of a hash.
ID_SIGN: Final = 0xB0000000
_ID_SIGN_MASK: Final = 0xF0000000
_ID_LOCAL: Final = 0x08000000
_ID_HASH: Final = 0x07FFFFFF
_MAX_COMMENT: Final = 127
_AFFINITY_SIZE: Final = 262_144
_AFFINITY_TIMEOUT: Final = 10_800_000

_PORT: Final = Packing(">H2x").pack
_new: Final = tuple.__new__
_SLOT: Final = Packing("=I").pack
_FRONT: Final = Packing(">B3xH2x").pack  # protocol and port of a key

_REJECT: Final = Goto("reject-it")
_DROP: Final = Drop()
_NOBODY: Final = Return()
_PRESENT: Final = Element()


class _Words(Struct, frozen=True):
    """What differs between the families: names of fields, sizes, loopback."""

    family: Family
    saddr: str
    daddr: str
    size: int
    loopback: str

    @property
    def front(self) -> tuple[str, ...]:
        return (self.daddr, "meta l4proto", "th dport")


_WORDS: Final[dict[int, _Words]] = {
    4: _Words("ip", "ip saddr", "ip daddr", 4, "127.0.0.0/8"),
    6: _Words("ip6", "ip6 saddr", "ip6 daddr", 16, "::1/128"),
}
_NODE_PORT_FRONT: Final = ("meta l4proto", "th dport")
_SLOT_FIELD: Final = "numgen random mod 65536"


class _Way(Struct, frozen=True):
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


class NftablesMode:
    """`Mode` of the nftables plane. Pure; what it keeps is a memo of the last view's chains."""

    name: Final = "nftables"
    planes: Final[Mapping[str, tuple[str, ...]]] = {PLANE: KINDS}

    def __init__(self) -> None:
        self._view: NodeView | None = None
        self._chains: dict[tuple[int, _Way], tuple[Goto, dict[Key, Object]]] = {}

    # --- the base --------------------------------------------------------------------

    def base(self, view: NodeView) -> Fragment:
        objects: dict[Key, Object] = {}
        for number, words in _WORDS.items():
            objects.update(_base(words, view.family(number), view.mark))
        return Fragment(Origin(None, "base"), objects)

    # --- one service port --------------------------------------------------------------

    def fragment(self, forward: Forward, view: NodeView) -> Fragment:
        words = _WORDS[forward.family]
        family = words.family
        objects: dict[Key, Object] = {}
        comment = str(forward.name)[:_MAX_COMMENT]
        for frontend in forward.frontends:
            external = frontend.kind != "ClusterIP"
            by_local = forward.external_local if external else forward.internal_local
            applies = forward.local if by_local else forward.cluster
            if frontend.ip is None:
                front = _FRONT(forward.proto, frontend.port)
                maps = "nodeport-"
                into, refused = "nodeports", "no-endpoint-nodeports"
            else:
                front = frontend.ip + _FRONT(forward.proto, frontend.port)
                maps = ""
                into, refused = "services", "no-endpoint-services"
                if not external:
                    objects[element_key(family, "cluster-ips", frontend.ip)] = _PRESENT
            if frontend.sources is not None:
                objects[element_key(family, "firewalled", front)] = Element(comment=comment)
                for source in frontend.sources:
                    key = element_key(family, "allowed", front + source.ip)
                    objects[key] = Element(end=front + source.last)
            if not applies:
                verdict = _DROP if forward.usable else _REJECT
                objects[element_key(family, refused, front)] = Element(verdict, comment=comment)
            # Behind a Local policy, pods and this node itself are served by all endpoints.
            served = forward.usable if external else bool(applies)
            if not served:
                if frontend.ip is not None:
                    # The address keeps its port: no node port of that number steps in.
                    objects[element_key(family, into, front)] = Element(_NOBODY, comment=comment)
                continue
            way, lists = _way(frontend, forward, external, by_local)
            verdict_to, chains = self._class(way, forward.family, view)
            objects[element_key(family, into, front)] = Element(verdict_to, comment=comment)
            objects.update(chains)
            for endpoints, first in lists:
                _list(objects, family, maps, front, endpoints, first, bool(forward.affinity))
        for endpoints in (forward.cluster, forward.local):
            for endpoint in endpoints:
                if endpoint.local:
                    itself = endpoint.ip * 2 + _FRONT(forward.proto, endpoint.port)
                    objects[element_key(family, "hairpin", itself)] = _PRESENT
        return Fragment(Origin(forward.name, "service port"), objects)

    def _class(self, way: _Way, family: int, view: NodeView) -> tuple[Goto, dict[Key, Object]]:
        """The verdict that leads to a class, and the chains it takes."""
        if view is not self._view:
            self._view, self._chains = view, {}
        known = self._chains.get((family, way))
        if known is None:
            known = self._chains[family, way] = (
                Goto(way.chain),
                _class_chains(way, _WORDS[family], view),
            )
        return known

    # --- where a packet can end -----------------------------------------------------------

    def fates(
        self,
        objects: Mapping[Key, Object],
        view: NodeView,
        packet: Packet,
        trail: list[str] | None = None,
    ) -> Fates:
        family = view.family(family_of(packet.dst))
        dynamic = {}
        if packet.remembered is not None:
            dynamic = _remembered(objects, family, packet)
        return walk(objects, packet, family.addresses, trail, dynamic)


NFTABLES: Final = NftablesMode()


def _way(
    frontend: Frontend, forward: Forward, external: bool, by_local: bool
) -> tuple[_Way, list[tuple[tuple[Endpoint, ...], int]]]:
    """The class of a frontend, and the lists of endpoints with their first slots."""
    if not external:
        endpoints = forward.local if by_local else forward.cluster
        return _Way("cluster-ip", len(endpoints), None, forward.affinity), [(endpoints, 0)]
    front: Literal["external", "nodeport"] = "nodeport" if frontend.ip is None else "external"
    lists = [(forward.cluster, 0)]
    if by_local:
        lists.append((forward.local, LOCAL_SLOTS))
    way = _Way(front, len(forward.cluster), len(forward.local) if by_local else None, forward.affinity)
    return way, lists


# --- elements of a list of endpoints ---------------------------------------------------------


def _list(
    objects: dict[Key, Object],
    family: Family,
    maps: str,
    front: bytes,
    endpoints: tuple[Endpoint, ...],
    first: int,
    sticky: bool,
) -> None:
    if not sticky:
        name = maps + "endpoints"
        for slot, endpoint in enumerate(endpoints, first):
            # element_key, spelled out: this line is run for every endpoint there is.
            key = _new(Key, (PLANE, "element", (family, name, front + _SLOT(slot))))
            objects[key] = Element(endpoint.ip + _PORT(endpoint.port))
        return
    for slot, (number, endpoint) in enumerate(ids(endpoints, first).items(), first):
        raw = b.host32(number)
        objects[element_key(family, maps + "sticky-slots", front + _SLOT(slot))] = Element(raw)
        key = element_key(family, maps + "sticky-endpoints", front + raw)
        objects[key] = Element(endpoint.ip + _PORT(endpoint.port))


def ids(endpoints: tuple[Endpoint, ...], first: int) -> dict[int, Endpoint]:
    """An id for each endpoint of a list, which stays its own while the list changes.

    It is a hash of address and port; of two endpoints with one hash the later in
    order takes the next free number.
    """
    sign = ID_SIGN | (_ID_LOCAL if first else 0)
    numbers: dict[int, Endpoint] = {}
    for endpoint in endpoints:
        number = zlib.crc32(endpoint.ip + _PORT(endpoint.port)) & _ID_HASH
        while sign | number in numbers:
            number = number + 1 & _ID_HASH
        numbers[sign | number] = endpoint
    return numbers


def _remembered(
    objects: Mapping[Key, Object], view: FamilyView, packet: Packet
) -> dict[tuple[str, bytes], bytes]:
    """What the affinity maps hold if this client was sent to `packet.remembered` before."""
    assert packet.remembered is not None
    family = _WORDS[view.family].family
    ip, port = packet.remembered
    target = ip + _PORT(port)
    front = _FRONT(packet.proto, packet.port)
    detector = view.detector
    by_cluster = packet.src in view.addresses or (
        detector is not None and detector.is_local(packet.src, packet.iif)
    )
    dynamic = {}
    for maps, key in (("", packet.dst + front), ("nodeport-", front)):
        numbers = _ids_of(objects, family, maps + "sticky-endpoints", key, target)
        # The same client is always served by the same list: a pod and the node itself by
        # the Cluster list, others by the Local one where there is one.
        likely = [n for n in numbers if bool(n & _ID_LOCAL) != by_cluster] or numbers
        if likely:
            dynamic[maps + "affinity", packet.src + key] = b.host32(likely[0])
    return dynamic


def _ids_of(
    objects: Mapping[Key, Object], family: Family, name: str, front: bytes, target: bytes
) -> list[int]:
    """The ids by which an address leads to this endpoint."""
    place = (family, name)
    return [
        int.from_bytes(raw[-4:], byteorder)
        for key, element in objects.items()
        if key.kind == "element"
        and key.name[:2] == place
        and element.data == target
        and isinstance(raw := key.name[2], bytes)
        and raw[:-4] == front
    ]


# --- chains of a class ---------------------------------------------------------------------------


def _class_chains(way: _Way, words: _Words, view: NodeView) -> dict[Key, Object]:
    """The class's own chain and the picks it goes to."""
    maps = "nodeport-" if way.front == "nodeport" else ""
    everyone = f"{maps}pick-{way.cluster}{_sticky(way.affinity)}"
    chains = {everyone: _pick(words, maps, way.cluster, 0, way.affinity)}
    detector = view.family(family_of_words(words)).detector
    mark = b.mark_on(view.mark)
    rules: list[Rule]
    if way.front == "cluster-ip":
        rules = []
        if view.masquerade_all:
            rules.append(b.rule(mark, comment="masquerade all"))
        elif detector is not None:
            outside = _from_pod(words, detector, "!=")
            rules.append(b.rule(outside, mark, comment="masquerade what is no pod of this cluster"))
        rules.append(b.rule(b.goto(everyone)))
    elif way.local is None:
        rules = [b.rule(mark, comment="masquerade"), b.rule(b.goto(everyone))]
    else:
        rules = []
        if detector is not None:
            pods = _from_pod(words, detector, "==")
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


def family_of_words(words: _Words) -> int:
    return 4 if words.size == 4 else 6


def _from_pod(words: _Words, detector: Detector, op: Literal["==", "!="]) -> b.Phrase:
    if detector.prefix is not None:
        return b.prefix(words.saddr, detector.prefix, op)
    return b.interface(detector.interface, detector.kind == "interface-prefix", op)


def _pick(words: _Words, maps: str, count: int, first: int, affinity: int) -> Rules:
    """The rules that choose one of `count` endpoints, from slot `first` on."""
    front = _NODE_PORT_FRONT if maps else words.front
    slot = Numgen(0, count, first)
    if not affinity:
        return Rules((b.rule(b.dnat((*front, _SLOT_FIELD), maps + "endpoints", words.size, slot)),))
    client = (words.saddr, *front)
    timeout = affinity * 1000
    table = maps + "affinity"
    chosen = b.dnat((*front, "meta priority"), maps + "sticky-endpoints", words.size)
    # An address may have both lists; an endpoint remembered from the other one is not ours.
    of_list = b.priority_is(ID_SIGN | (_ID_LOCAL if first else 0), _ID_SIGN_MASK | _ID_LOCAL)
    renew = b.remember("update", client, table, timeout)
    # A failed lookup ends its rule, hence the order: known client, its endpoint; else
    # forget it, draw, remember, go. An update renews the timeout of what is there but
    # leaves its data, hence the delete.
    return Rules(
        (
            b.rule(b.priority_from(client, table), renew, comment="a known client"),
            b.rule(of_list, chosen, comment="if its endpoint is still there"),
            b.rule(b.remember("delete", client, table, 0)),
            b.rule(b.priority_from((*front, _SLOT_FIELD), maps + "sticky-slots", slot)),
            b.rule(renew),
            b.rule(chosen),
        )
    )


# --- what is there even with no service -------------------------------------------------------------


def _base(words: _Words, view: FamilyView, mark: int) -> dict[Key, Object]:
    family = words.family
    objects: dict[Key, Object] = {table_key(family): Table("Services, by kubeway")}
    for name, content in _sets(words).items():
        objects[set_key(family, name)] = content
    for name, (chain, rules) in _base_chains(words, view, mark).items():
        objects[chain_key(family, name)] = chain
        objects[rules_key(family, name)] = Rules(tuple(rules))
    for ip in view.node_ports or ():
        objects[element_key(family, "nodeport-ips", ip)] = _PRESENT
    return objects


def _sets(words: _Words) -> dict[str, Set]:
    front, target = words.front, (words.daddr, "th dport")
    sets = {
        "services": Set(front, verdicts=True, comment="ways in: cluster, external and load-balancer IPs"),
        "nodeports": Set(_NODE_PORT_FRONT, verdicts=True, comment="ways in: node ports"),
        "nodeport-ips": Set((words.daddr,), comment="addresses that accept node ports"),
        "cluster-ips": Set((words.daddr,), comment="cluster IPs in use"),
        "no-endpoint-services": Set(front, verdicts=True, comment="nobody to send to"),
        "no-endpoint-nodeports": Set(_NODE_PORT_FRONT, verdicts=True, comment="nobody to send to"),
        "firewalled": Set(front, comment="only for clients in @allowed"),
        "allowed": Set((*front, words.saddr), ranges=True, comment="load-balancer source ranges"),
        "hairpin": Set((words.saddr, *front), comment="endpoints here that may meet themselves"),
    }
    for maps, key in (("", front), ("nodeport-", _NODE_PORT_FRONT)):
        sets |= {
            maps + "endpoints": Set((*key, _SLOT_FIELD), target, comment="by slot"),
            maps + "sticky-slots": Set((*key, _SLOT_FIELD), ("meta priority",), comment="ids by slot"),
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


def _base_chains(words: _Words, view: FamilyView, mark: int) -> dict[str, tuple[Chain, list[Rule]]]:
    front = words.front
    new = b.new_flow()
    to_node = _to_node(words, view)
    no_endpoints = b.rule(new, b.jump("no-endpoints"))
    unowned = b.rule(new, b.jump("unowned"))
    forget_id = b.rule(new, b.priority_is(ID_SIGN, _ID_SIGN_MASK), b.priority_zero())
    firewall = b.rule(new, b.jump("firewall"))
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
                b.rule(new, to_node, b.vmap(_NODE_PORT_FRONT, "no-endpoint-nodeports")),
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
                b.rule(to_node, b.vmap(_NODE_PORT_FRONT, "nodeports")),
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


def _to_node(words: _Words, view: FamilyView) -> b.Phrase:
    """The packet's destination is an address that accepts node ports."""
    if view.node_ports is not None:
        return b.in_set((words.daddr,), "nodeport-ips")
    return (*b.local("daddr"), *b.prefix(words.daddr, parse_prefix(words.loopback), "!="))
