"""
Forwards to fragments: what one service port adds, and where a packet can end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kubeway.model.forward import Forward
from kubeway.model.node import NodeView
from kubeway.model.packet import Fates, Packet
from kubeway.modes.maps.layout import WORDS
from kubeway.modes.maps.ways import ways
from kubeway.modes.userspace.base import base, chain_of
from kubeway.modes.userspace.layout import homing
from kubeway.modes.userspace.relayed import Ways, relay_of
from kubeway.planes.link import objects as link
from kubeway.planes.nft import objects as nft
from kubeway.planes.nft.fates import fates as walk
from kubeway.planes.nft.objects import Element, Goto
from kubeway.planes.relay import objects as relay
from kubeway.program.program import Fragment, Key, Object, Origin
from kubeway.values import family_of

_EITHER: Final = (False, True)
_GOTO: Final = {
    name: Goto(name) for name in (chain_of(e, b, h) for e in _EITHER for b in _EITHER for h in _EITHER)
}


class UserspaceMode:
    """`Mode` of the relay, with the planes that lead to it. Pure."""

    name: Final = "userspace"
    large: Final = None
    planes: Final[Mapping[str, tuple[str, ...]]] = {
        relay.PLANE: relay.KINDS,
        link.PLANE: link.KINDS,
        nft.PLANE: nft.KINDS,
    }

    # --- the base --------------------------------------------------------------------

    def base(self, view: NodeView) -> Fragment:
        objects: dict[Key, Object] = {}
        for words in WORDS.values():
            if view.family(words.number).served:
                objects.update(base(words, view))
        return Fragment(Origin(None, "base"), objects)

    # --- one service port --------------------------------------------------------------

    def fragment(self, forward: Forward, view: NodeView) -> Fragment:
        objects: dict[Key, Object] = {}
        seen = view.family(forward.family)
        if not seen.served:
            return Fragment(Origin(forward.name, "service port"), objects)
        relayed = Ways(forward, seen)
        served = view.speaks(forward.proto)
        for one in ways(objects, forward, WORDS[forward.family], served, held=relayed.held):
            chain = chain_of(one.way.external, one.way.by_local, relayed.somebody)
            objects[one.key] = Element(_GOTO[chain], comment=one.comment)
            relayed.put(objects, one.way)
        return Fragment(Origin(forward.name, "service port"), objects)

    # --- where a packet can end -----------------------------------------------------------

    def fates(
        self,
        objects: Mapping[Key, Object],
        view: NodeView,
        packet: Packet,
        trail: list[str] | None = None,
    ) -> Fates:
        addresses = view.family(family_of(packet.dst)).addresses
        return walk(
            objects,
            packet,
            addresses,
            trail,
            homing=homing(view.mark),
            relay=relay_of(objects, packet, trail),
        )


USERSPACE: Final = UserspaceMode()
