"""
Forwards to fragments: what one service port adds, and where a packet can end.
"""

from __future__ import annotations

from collections.abc import Mapping
from sys import byteorder
from typing import Final, Literal

from kubeway.model.forward import Endpoint, Forward
from kubeway.model.node import FamilyView, NodeView
from kubeway.model.packet import Fates, Packet
from kubeway.modes.maps.layout import PRESENT, WORDS, pack_front, pack_port
from kubeway.modes.maps.ways import Served, ways
from kubeway.modes.nftables.base import base
from kubeway.modes.nftables.classes import Way, class_chains
from kubeway.modes.nftables.layout import ID_LOCAL, LOCAL_SLOTS, ids, pack_slot
from kubeway.planes.nft import build as b
from kubeway.planes.nft.fates import fates as walk
from kubeway.planes.nft.objects import KINDS, PLANE, Element, Family, Goto, element_key
from kubeway.program.program import Fragment, Key, Object, Origin
from kubeway.values import family_of


class NftablesMode:
    """`Mode` of the nftables plane. Pure; what it keeps is a memo of the last view's chains."""

    name: Final = "nftables"
    large: Final = None
    planes: Final[Mapping[str, tuple[str, ...]]] = {PLANE: KINDS}

    def __init__(self) -> None:
        self._view: NodeView | None = None
        self._chains: dict[tuple[int, Way], tuple[Goto, dict[Key, Object]]] = {}

    # --- the base --------------------------------------------------------------------

    def base(self, view: NodeView) -> Fragment:
        objects: dict[Key, Object] = {}
        for number, words in WORDS.items():
            objects.update(base(words, view.family(number), view.mark))
        return Fragment(Origin(None, "base"), objects)

    # --- one service port --------------------------------------------------------------

    def fragment(self, forward: Forward, view: NodeView) -> Fragment:
        words = WORDS[forward.family]
        family = words.family
        objects: dict[Key, Object] = {}
        for one in ways(objects, forward, words):
            maps = "nodeport-" if one.way.frontend.ip is None else ""
            way, lists = _way(one, forward)
            verdict_to, chains = self._class(way, forward.family, view)
            objects[one.key] = Element(verdict_to, comment=one.comment)
            objects.update(chains)
            for endpoints, first in lists:
                _list(objects, family, maps, one.front, endpoints, first, bool(forward.affinity))
        for endpoints in (forward.cluster, forward.local):
            for endpoint in endpoints:
                if endpoint.local:
                    itself = endpoint.ip * 2 + pack_front(forward.proto, endpoint.port)
                    objects[element_key(family, "hairpin", itself)] = PRESENT
        return Fragment(Origin(forward.name, "service port"), objects)

    def _class(self, way: Way, family: int, view: NodeView) -> tuple[Goto, dict[Key, Object]]:
        """The verdict that leads to a class, and the chains it takes."""
        if view is not self._view:
            if self._view is None or view.shape != self._view.shape:
                self._chains = {}
            self._view = view
        known = self._chains.get((family, way))
        if known is None:
            known = self._chains[family, way] = (
                Goto(way.chain),
                class_chains(way, WORDS[family], view),
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


def _way(one: Served, forward: Forward) -> tuple[Way, list[tuple[tuple[Endpoint, ...], int]]]:
    """The class of a way in, and the lists of endpoints with their first slots."""
    if not one.way.external:
        endpoints = forward.local if one.way.by_local else forward.cluster
        return Way("cluster-ip", len(endpoints), None, forward.affinity), [(endpoints, 0)]
    front: Literal["external", "nodeport"] = "nodeport" if one.way.frontend.ip is None else "external"
    lists = [(forward.cluster, 0)]
    if one.way.by_local:
        lists.append((forward.local, LOCAL_SLOTS))
    local = len(forward.local) if one.way.by_local else None
    return Way(front, len(forward.cluster), local, forward.affinity), lists


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
            key = Key(PLANE, "element", (family, name, front + pack_slot(slot)))
            objects[key] = Element(endpoint.ip + pack_port(endpoint.port))
        return
    for slot, (number, endpoint) in enumerate(ids(endpoints, first).items(), first):
        raw = b.host32(number)
        objects[element_key(family, maps + "sticky-slots", front + pack_slot(slot))] = Element(raw)
        key = element_key(family, maps + "sticky-endpoints", front + raw)
        objects[key] = Element(endpoint.ip + pack_port(endpoint.port))


def _remembered(
    objects: Mapping[Key, Object], view: FamilyView, packet: Packet
) -> dict[tuple[str, bytes], bytes]:
    """What the affinity maps hold if this client was sent to `packet.remembered` before."""
    assert packet.remembered is not None
    family = WORDS[view.family].family
    ip, port = packet.remembered
    target = ip + pack_port(port)
    front = pack_front(packet.proto, packet.port)
    detector = view.detector
    by_cluster = packet.src in view.addresses or (
        detector is not None and detector.is_local(packet.src, packet.iif)
    )
    dynamic = {}
    for maps, key in (("", packet.dst + front), ("nodeport-", front)):
        numbers = _ids_of(objects, family, maps + "sticky-endpoints", key, target)
        # The same client is always served by the same list: a pod and the node itself by
        # the Cluster list, others by the Local one where there is one.
        likely = [n for n in numbers if bool(n & ID_LOCAL) != by_cluster] or numbers
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
