"""
Forwards to virtual servers, sets and rules: what one service port adds, and where a packet can end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kubeway.model.forward import Endpoint, Forward, Frontend
from kubeway.model.node import FamilyView, NodeView
from kubeway.model.packet import Fates, Packet
from kubeway.modes.chains import dispatch
from kubeway.modes.chains.dispatch import Dispatch
from kubeway.modes.chains.entries import put
from kubeway.modes.chains.layout import FAMILIES
from kubeway.modes.chains.picks import Picks, remembered
from kubeway.modes.ipvs import sets
from kubeway.modes.ipvs.base import base, settings
from kubeway.planes import sysctl
from kubeway.planes.ipset import objects as ipset
from kubeway.planes.ipvs import objects as ipvs
from kubeway.planes.ipvs.fates import Balance, balance
from kubeway.planes.link import objects as link
from kubeway.planes.xtables import objects as xtables
from kubeway.planes.xtables.fates import fates as walk
from kubeway.planes.xtables.objects import Jump
from kubeway.program.program import Fragment, Key, Object, Origin
from kubeway.values import SCTP, Ip, Proto, family_of, host_prefix

_ADDRESS: Final = link.Address()
_DRAINED: Final = ipvs.Destination(0)
_BY_PORT: Final = frozenset({"mh"})
"""Schedulers that are to look at the client's port, too: kube-proxy."""


class IpvsMode:
    """Pure; what it keeps is a memo of the trees' upper branches."""

    name: Final = "ipvs"
    large: Final = 1000  # as iptables mode
    # What points comes after what is pointed at: rules ask sets, packets reach an address when all stands
    # behind it. A port of such an address is open only while there is a server, or packets came in to this
    # node itself; and who is sent on by rules is not dropped as long as he is.
    planes: Final = (
        (sysctl.PLANE, sysctl.KINDS),
        (ipset.PLANE, ipset.KINDS[:-1]),
        (xtables.PLANE, xtables.KINDS),
        (ipvs.PLANE, ipvs.KINDS),
        (ipset.PLANE, ipset.KINDS[-1:]),
        (link.PLANE, link.KINDS),
    )
    # At the start, where rules of another proxy lead packets already: these do so until all that ours ask is
    # there.
    taking_over: Final = (
        *(one for one in planes if one[0] != xtables.PLANE),
        (xtables.PLANE, xtables.KINDS),
    )

    def __init__(self) -> None:
        self._view: NodeView | None = None
        self._dispatch = Dispatch()

    # --- the base --------------------------------------------------------------------

    def base(self, view: NodeView) -> Fragment:
        assert view.ipvs is not None
        objects = settings(view.ipvs)
        for number in FAMILIES:
            objects.update(base(number, view))
        return Fragment(Origin(None, "base"), objects)

    # --- one service port --------------------------------------------------------------

    def fragment(self, forward: Forward, view: NodeView) -> Fragment:
        assert view.ipvs is not None
        if view is not self._view:
            # The memo does not depend on it, but so it does not grow for ever.
            self._view, self._dispatch = view, Dispatch()
        objects: dict[Key, Object] = {}
        family, its = forward.family, view.family(forward.family)
        server = _server(forward, view.ipvs.scheduler)
        drains = server.scheduler not in ipvs.REFUSING
        for frontend in forward.frontends:
            _in_sets(objects, forward, frontend, its)
            external = frontend.kind != "ClusterIP"
            by_local = forward.external_local if external else forward.internal_local
            endpoints = _endpoints(forward, by_local, drains)
            nobody = forward.usable and not (forward.local if by_local else forward.cluster)
            for ip in _places(frontend, its):
                _balanced(objects, forward, (ip, forward.proto, frontend.port), server, endpoints)
                if nobody:
                    put(objects, family, sets.DROPPED, ip, forward.proto, frontend.port)
            if frontend.ip is not None and not frontend.own:
                _bind(objects, frontend.ip, its)
                put(objects, family, sets.OPEN, frontend.ip, forward.proto, frontend.port)
            if external and forward.external_local and forward.cluster:
                self._unbound(objects, forward, frontend, view)
        for endpoint in {one for each in (forward.cluster, forward.local) for one in each if one.local}:
            where = endpoint.ip, forward.proto, endpoint.port, endpoint.ip
            put(objects, family, sets.LOOP_BACK, *where)
        if forward.health_port:
            put(objects, family, sets.HEALTH_CHECK, forward.health_port)
        return Fragment(Origin(forward.name, "service port"), objects)

    def _unbound(
        self, objects: dict[Key, Object], forward: Forward, frontend: Frontend, view: NodeView
    ) -> None:
        """Rules for clients whom the Local policy outside does not bind."""
        family, ip, proto = FAMILIES[forward.family], frontend.ip, forward.proto
        picks = Picks(objects, family, forward, view)
        chain = picks.unbound(frontend)
        if frontend.sources is not None:
            chain = picks.firewalled(frontend, frontend.sources, chain)
        comment = f"{picks.name} from inside"
        if ip is None:
            self._dispatch.port(
                objects, family, dispatch.NODE_PORTS_IN, proto, frontend.port, comment, Jump(chain)
            )
        else:
            tree = dispatch.EXTERNAL_WAYS_IN
            self._dispatch.service(
                objects, family, tree, ip, proto, frontend.port, comment, Jump(chain), shared=True
            )

    # --- where a packet can end -----------------------------------------------------------

    def fates(
        self,
        objects: Mapping[Key, Object],
        view: NodeView,
        packet: Packet,
        trail: list[str] | None = None,
    ) -> Fates:
        number = family_of(packet.dst)
        bound = [key.name[0] for key in objects if key.plane == link.PLANE and key.kind == "address"]
        addresses = view.family(number).addresses.union(ip for ip in bound if family_of(ip) == number)

        def balancer(ip: Ip, proto: Proto, port: int) -> Balance | None:
            return balance(objects, ip, proto, port, packet.remembered)

        return walk(objects, packet, addresses, trail, remembered(packet), balancer)


IPVS: Final = IpvsMode()


def _server(forward: Forward, scheduler: str) -> ipvs.Server:
    chosen = forward.scheduler or scheduler
    return ipvs.Server(chosen, forward.affinity, chosen in _BY_PORT)


def _endpoints(forward: Forward, by_local: bool, drains: bool) -> dict[Endpoint, ipvs.Destination]:
    """Whom new flows are sent to; and who keeps those it has, if the scheduler passes them by."""
    leaving = [one for one in forward.leaving if drains and (one.local or not by_local)]
    chosen = forward.local if by_local else forward.cluster
    return dict.fromkeys(leaving, _DRAINED) | dict.fromkeys(chosen, ipvs.Destination(forward.weight))


def _places(frontend: Frontend, view: FamilyView) -> tuple[Ip, ...]:
    """The addresses of a virtual server for this way in."""
    if frontend.ip is not None:
        return (frontend.ip,)
    return tuple(ip for ip in view.accepting if ip not in frontend.taken)


def _balanced(
    objects: dict[Key, Object],
    forward: Forward,
    way: tuple[Ip, Proto, int],
    server: ipvs.Server,
    endpoints: Mapping[Endpoint, ipvs.Destination],
) -> None:
    objects[ipvs.server_key(*way)] = server
    for endpoint, destination in endpoints.items():
        objects[ipvs.destination_key(*way, endpoint.ip, endpoint.port)] = destination


def _bind(objects: dict[Key, Object], ip: Ip, view: FamilyView) -> None:
    """Packets for this address are for this node; its own bear its own address."""
    objects[link.address_key(ip)] = _ADDRESS
    put(objects, view.family, sets.ADDRESSES, ip)
    if view.source is not None:
        objects[link.route_key(ip)] = link.Route(view.source)


def _in_sets(objects: dict[Key, Object], forward: Forward, frontend: Frontend, view: FamilyView) -> None:
    """What the rules are to know of this way in."""
    family, ip, proto, port = forward.family, frontend.ip, forward.proto, frontend.port
    local = forward.external_local
    match frontend.kind:
        case "ClusterIP":
            put(objects, family, sets.CLUSTER_IP, ip, proto, port)
        case "ExternalIP":
            put(objects, family, sets.EXTERNAL_IP_LOCAL if local else sets.EXTERNAL_IP, ip, proto, port)
        case "LoadBalancer":
            put(objects, family, sets.LOAD_BALANCER, ip, proto, port)
            if local:
                put(objects, family, sets.LOAD_BALANCER_LOCAL, ip, proto, port)
        case "NodePort":
            for name in (sets.NODE_PORT[proto], *((sets.NODE_PORT_LOCAL[proto],) if local else ())):
                if proto == SCTP:
                    for place in _places(frontend, view):
                        put(objects, family, name, place, proto, port)
                else:
                    put(objects, family, name, port)
    if frontend.sources is not None:
        put(objects, family, sets.FIREWALLED, ip, proto, port)
        own = None if ip is None else host_prefix(ip)
        for source in frontend.sources:
            if source != own:
                put(objects, family, sets.SOURCE_CIDR, ip, proto, port, source)
        if any(source.holds(ip or b"") for source in frontend.sources):
            put(objects, family, sets.SOURCE_IP, ip, proto, port, ip)
