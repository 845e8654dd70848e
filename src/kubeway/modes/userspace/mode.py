"""
Forwards to fragments: what one service port adds, and where a packet can end.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from kubeway.model.forward import Endpoint, Forward
from kubeway.model.links import Neighbours, among
from kubeway.model.node import NodeView
from kubeway.model.packet import REJECT, Fate, Fates, Packet
from kubeway.modes.maps.layout import WORDS
from kubeway.modes.maps.ways import ways
from kubeway.modes.userspace.base import base, chain_of
from kubeway.modes.userspace.layout import class_at, homing
from kubeway.planes.link import objects as link
from kubeway.planes.nft import objects as nft
from kubeway.planes.nft.fates import fates as walk
from kubeway.planes.nft.objects import Element, Goto
from kubeway.planes.relay import objects as relay
from kubeway.planes.relay.fates import balance
from kubeway.planes.relay.objects import Way, sees, way_key
from kubeway.program.program import Fragment, Key, Object, Origin
from kubeway.values import Ip, family_of, show_addr

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
        family, proto = forward.family, forward.proto
        seen = view.family(family)
        if not seen.served:
            return Fragment(Origin(forward.name, "service port"), objects)
        everyone, here = (_way(one, forward, seen.neighbours) for one in (forward.cluster, forward.local))
        # Whom nobody can serve yet waits with the relay, in whichever list somebody may come to be.
        held = bool(forward.hold) and not forward.usable
        somebody = held or bool(forward.local)
        for one in ways(objects, forward, WORDS[family], served=view.speaks(proto), held=held):
            chain = chain_of(one.external, one.by_local, somebody)
            objects[one.key] = Element(_GOTO[chain], comment=one.comment)
            ip, port = one.frontend.ip, one.frontend.port
            if one.external or not one.by_local:
                objects[way_key("cluster", ip, proto, port, family)] = everyone
            if one.by_local and somebody:
                objects[way_key("local", ip, proto, port, family)] = here
        return Fragment(Origin(forward.name, "service port"), objects)

    # --- where a packet can end -----------------------------------------------------------

    def fates(
        self,
        objects: Mapping[Key, Object],
        view: NodeView,
        packet: Packet,
        trail: list[str] | None = None,
    ) -> Fates:
        def relayed(port: int) -> Fates:
            return _relayed(objects, packet, port, trail)

        addresses = view.family(family_of(packet.dst)).addresses
        return walk(objects, packet, addresses, trail, homing=homing(view.mark), relay=relayed)


USERSPACE: Final = UserspaceMode()


def _way(endpoints: tuple[Endpoint, ...], forward: Forward, neighbours: tuple[Neighbours, ...]) -> Way:
    return Way(
        tuple(relay.Endpoint(one.ip, one.port, among(neighbours, one.ip)) for one in endpoints),
        forward.affinity,
        forward.balance,
        forward.demote,
        forward.hold,
    )


def _relayed(objects: Mapping[Key, Object], packet: Packet, port: int, trail: list[str] | None) -> Fates:
    """Where the listener at this port sends the packet's flow on."""
    taken = class_at(port)
    to = Ip(packet.dst), packet.proto, packet.port
    served = None if taken is None else balance(objects, taken.list, *to, packet.remembered)
    fates: dict[Fate, Fraction] = {}
    if taken is not None:
        for one, chance in served or ():
            fate = Fate("endpoint", one.ip, one.port, not sees(one, packet.src, taken.hidden))
            fates[fate] = fates.get(fate, Fraction(0)) + chance
    if trail is not None:
        said = ", ".join(f"{show_addr(fate.ip, fate.port)}" for fate in fates if fate.ip is not None)
        trail.append(f"relay {show_addr(packet.dst, packet.port)}: {said or 'nobody'}")
    return fates or {REJECT: Fraction(1)}
