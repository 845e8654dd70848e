"""
Forwards to fragments: what one service port adds, and where a packet can end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kubeway.model.forward import Endpoint, Forward, Frontend
from kubeway.model.node import FamilyView, NodeView
from kubeway.model.packet import Fates, Packet
from kubeway.modes.chains import dispatch
from kubeway.modes.chains.dispatch import Dispatch, Tree
from kubeway.modes.chains.layout import FAMILIES, speaks, to_address, to_port
from kubeway.modes.chains.picks import Picks, remembered
from kubeway.modes.iptables.base import base
from kubeway.planes import nfacct, sysctl
from kubeway.planes.xtables.fates import fates as walk
from kubeway.planes.xtables.objects import (
    KINDS,
    PLANE,
    Accept,
    Destination,
    Drop,
    Jump,
    Masquerade,
    Reject,
    Rule,
    Source,
    Target,
)
from kubeway.program.program import Fragment, Key, Object, Origin
from kubeway.values import TCP, Proto, family_of, host_prefix

_REJECT: Final = Reject()
_DROP: Final = Drop()
_NOBODY: Final = Accept()
_LET_IN: Final = Accept()
_KINDS: Final = {"ClusterIP": " cluster IP", "ExternalIP": " external IP", "LoadBalancer": " loadbalancer IP"}


class IptablesMode:
    """Pure; what it keeps is a memo of the trees' upper branches."""

    name: Final = "iptables"
    large: Final = 1000  # as kube-proxy: pkg/proxy/iptables/proxier.go (largeClusterEndpointsThreshold)
    planes: Final[Mapping[str, tuple[str, ...]]] = {
        nfacct.PLANE: nfacct.KINDS,
        PLANE: KINDS,
        sysctl.PLANE: sysctl.KINDS,
    }

    def __init__(self) -> None:
        self._view: NodeView | None = None
        self._dispatch = Dispatch()

    # --- the base --------------------------------------------------------------------

    def base(self, view: NodeView) -> Fragment:
        objects: dict[Key, Object] = {}
        for number in FAMILIES:
            objects.update(base(number, view))
        return Fragment(Origin(None, "base"), objects)

    # --- one service port --------------------------------------------------------------

    def fragment(self, forward: Forward, view: NodeView) -> Fragment:
        if view is not self._view:
            # The memo does not depend on it, but so it does not grow for ever.
            self._view, self._dispatch = view, Dispatch()
        family = FAMILIES[forward.family]
        objects: dict[Key, Object] = {}
        picks = Picks(objects, family, forward, view)
        for frontend in forward.frontends:
            self._way_in(frontend, picks, view.family(forward.family))
        for endpoint in {one for each in (forward.cluster, forward.local) for one in each if one.local}:
            rule = _itself(endpoint, forward.proto)
            self._dispatch.address(objects, family, dispatch.CLIENTS, endpoint.ip, rule)
        if forward.health_port:
            # Named by the Service, as all its ports bring the same rule.
            self._dispatch.port(
                objects,
                family,
                dispatch.HEALTH_PORTS,
                TCP,
                forward.health_port,
                f"{forward.service} health check node port",
                _LET_IN,
            )
        return Fragment(Origin(forward.name, "service port"), objects)

    def _way_in(self, frontend: Frontend, picks: Picks, view: FamilyView) -> None:
        forward, ip, name = picks.forward, frontend.ip, picks.name
        objects, family = picks.objects, picks.family
        external = frontend.kind != "ClusterIP"
        by_local = forward.external_local if external else forward.internal_local
        applies = forward.local if by_local else forward.cluster
        if not external:
            assert ip is not None
            unowned = Rule((to_address(ip),), _REJECT)
            self._dispatch.address(objects, family, dispatch.CLUSTER_IPS, ip, unowned)
        if frontend.sources is not None:
            chain = picks.firewall(frontend, frontend.sources)
            comment = f"{name} traffic not accepted by {chain}"
            self._put(picks, dispatch.FIREWALLED, frontend, comment, Jump(chain))
        if not applies:
            nobody = "has no local endpoints" if forward.usable else "has no endpoints"
            tree = dispatch.NODE_PORTS_REFUSED if ip is None else dispatch.REFUSED
            self._put(picks, tree, frontend, f"{name} {nobody}", _DROP if forward.usable else _REJECT)
        # Behind a Local policy, pods and this node itself are served by all endpoints.
        if forward.usable if external else applies:
            chain = picks.external(frontend) if external else picks.cluster_ip(frontend)
            if frontend.sources is not None:
                chain = picks.firewalled(frontend, frontend.sources, chain)
            self._put(picks, _entrance(frontend), frontend, name + _KINDS.get(frontend.kind, ""), Jump(chain))
        elif ip in view.addresses:
            # The address keeps its port: no node port of that number steps in.
            nobody = f"{name} has no endpoints, filter says so"
            self._put(picks, _entrance(frontend), frontend, nobody, _NOBODY)

    def _put(self, picks: Picks, tree: Tree, frontend: Frontend, comment: str, target: Target) -> None:
        """Let packets that come in by this way meet the target."""
        ip, proto, port = frontend.ip, picks.forward.proto, frontend.port
        put = self._dispatch
        if ip is None:
            put.port(picks.objects, picks.family, tree, proto, port, comment, target)
        else:
            shared = frontend.kind != "ClusterIP"
            put.service(picks.objects, picks.family, tree, ip, proto, port, comment, target, shared)

    # --- where a packet can end -----------------------------------------------------------

    def fates(
        self,
        objects: Mapping[Key, Object],
        view: NodeView,
        packet: Packet,
        trail: list[str] | None = None,
    ) -> Fates:
        addresses = view.family(family_of(packet.dst)).addresses
        return walk(objects, packet, addresses, trail, remembered(packet))


IPTABLES: Final = IptablesMode()


def _entrance(frontend: Frontend) -> Tree:
    """Where nat looks for this way in."""
    if frontend.ip is None:
        return dispatch.NODE_PORTS_IN
    return dispatch.WAYS_IN if frontend.kind == "ClusterIP" else dispatch.EXTERNAL_WAYS_IN


def _itself(endpoint: Endpoint, proto: Proto) -> Rule:
    """An endpoint that was sent to itself would answer itself directly, and never understand."""
    whole = host_prefix(endpoint.ip)
    matches = Source(whole), Destination(whole), speaks(proto), to_port(proto, endpoint.port)
    return Rule(matches, Masquerade())
