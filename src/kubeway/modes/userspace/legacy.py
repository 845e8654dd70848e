"""
userspace mode where there is no nf_tables: the same relay, and rules of xtables with sets that lead to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kubeway.model.forward import Forward
from kubeway.model.node import NodeView
from kubeway.model.packet import Fates, Packet
from kubeway.modes.chains.entries import put
from kubeway.modes.chains.layout import FAMILIES, note, speaks, to_port
from kubeway.modes.userspace import sets
from kubeway.modes.userspace.base import chain_of
from kubeway.modes.userspace.chains import SCTP_PORTS, base
from kubeway.modes.userspace.layout import homing
from kubeway.modes.userspace.relayed import Ways, relay_of
from kubeway.modes.ways import WayIn, ways_in
from kubeway.planes.ipset import objects as ipset
from kubeway.planes.link import objects as link
from kubeway.planes.relay import objects as relay
from kubeway.planes.xtables import objects as xtables
from kubeway.planes.xtables.fates import fates as walk
from kubeway.planes.xtables.objects import Reject, Rule, branch_key
from kubeway.program.program import Fragment, Key, Object, Origin
from kubeway.values import family_of


class LegacyUserspaceMode:
    """`Mode` of the relay, with the planes that lead to it. Pure."""

    name: Final = "userspace"
    large: Final = None
    planes: Final[Mapping[str, tuple[str, ...]]] = {
        relay.PLANE: relay.KINDS,
        link.PLANE: link.KINDS,
        ipset.PLANE: ipset.KINDS,
        xtables.PLANE: xtables.KINDS,
    }

    def base(self, view: NodeView) -> Fragment:
        objects: dict[Key, Object] = {}
        for number in FAMILIES:
            if view.family(number).served:
                objects.update(base(number, view))
        return Fragment(Origin(None, "base"), objects)

    def fragment(self, forward: Forward, view: NodeView) -> Fragment:
        objects: dict[Key, Object] = {}
        seen = view.family(forward.family)
        if not seen.served:
            return Fragment(Origin(forward.name, "service port"), objects)
        relayed = Ways(forward, seen)
        for one in ways_in(forward, view.speaks(forward.proto), relayed.held):
            _enter(objects, forward, one, chain_of(one.external, one.by_local, relayed.somebody))
            if one.served:
                relayed.put(objects, one)
        return Fragment(Origin(forward.name, "service port"), objects)

    def fates(
        self,
        objects: Mapping[Key, Object],
        view: NodeView,
        packet: Packet,
        trail: list[str] | None = None,
    ) -> Fates:
        addresses = view.family(family_of(packet.dst)).addresses
        told = relay_of(objects, packet, trail)
        return walk(objects, packet, addresses, trail, homing=homing(view.mark), relay=told)


USERSPACE_LEGACY: Final = LegacyUserspaceMode()


def _enter(objects: dict[Key, Object], forward: Forward, one: WayIn, leads: str) -> None:
    """Put a way in into the sets; `leads` is where to."""
    if one.frontend.ip is None:
        _enter_port(objects, forward, one, leads)
        return
    family, front = forward.family, (one.frontend.ip, forward.proto, one.frontend.port)
    put(objects, family, sets.WAYS[leads] if one.served else sets.UNSERVED, *front)
    if not one.external:
        put(objects, family, sets.ADDRESSES, one.frontend.ip)
    if one.refused is not None:
        put(objects, family, sets.REFUSED[one.refused], *front)
    if one.frontend.sources is not None:
        put(objects, family, sets.FIREWALLED, *front)
        for source in one.frontend.sources:
            put(objects, family, sets.ALLOWED, *front, source)


def _enter_port(objects: dict[Key, Object], forward: Forward, one: WayIn, leads: str) -> None:
    family, proto, port = forward.family, forward.proto, one.frontend.port
    if proto not in sets.PROTOS:
        words = FAMILIES[family]
        rule = Rule((speaks(proto), to_port(proto, port), note(str(forward.name))), Reject())
        objects[branch_key(words, "filter", SCTP_PORTS, rule)] = rule
        return
    if one.served:
        put(objects, family, sets.PORTS[leads, proto], port)
    if one.refused is not None:
        put(objects, family, sets.REFUSED_PORTS[one.refused, proto], port)
