"""
What the relay is told of one service port, and where it sends on whom its listeners take: whichever rules
lead there.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from kubeway.model.forward import Endpoint, Forward
from kubeway.model.links import Neighbours, among
from kubeway.model.node import FamilyView
from kubeway.model.packet import REJECT, Fate, Fates, Packet
from kubeway.modes.userspace.layout import class_at
from kubeway.modes.ways import WayIn
from kubeway.planes.relay import objects as relay
from kubeway.planes.relay.fates import balance
from kubeway.planes.relay.objects import Way, sees, way_key
from kubeway.program.passage import Relay
from kubeway.program.program import Key, Object
from kubeway.values import Ip, show_addr


class Ways:
    """Makes the ways of one service port, as its ways in ask for them.

    `held`: whom nobody can serve yet waits with the relay, in whichever list somebody may come to be.
    `somebody`: whether the Local list leads to the relay.
    """

    def __init__(self, forward: Forward, view: FamilyView) -> None:
        self._forward = forward
        self.held = bool(forward.hold) and not forward.usable
        self.somebody = self.held or bool(forward.local)
        lists = forward.cluster, forward.local
        self._everyone, self._here = (_way(one, forward, view.neighbours) for one in lists)

    def put(self, objects: dict[Key, Object], one: WayIn) -> None:
        forward, ip, port = self._forward, one.frontend.ip, one.frontend.port
        proto, family = forward.proto, forward.family
        if one.external or not one.by_local:
            objects[way_key("cluster", ip, proto, port, family)] = self._everyone
        if one.by_local and self.somebody:
            objects[way_key("local", ip, proto, port, family)] = self._here


def _way(endpoints: tuple[Endpoint, ...], forward: Forward, neighbours: tuple[Neighbours, ...]) -> Way:
    return Way(
        tuple(relay.Endpoint(one.ip, one.port, among(neighbours, one.ip)) for one in endpoints),
        forward.affinity,
        forward.balance,
        forward.demote,
        forward.hold,
    )


def relay_of(objects: Mapping[Key, Object], packet: Packet, trail: list[str] | None) -> Relay:
    """Where the listener at a port sends the packet's flow on."""

    def relayed(port: int) -> Fates:
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

    return relayed
