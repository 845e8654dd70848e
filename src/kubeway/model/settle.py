"""
From Services and slices to Forwards: all Kubernetes policy, settled for this node.

`settle_service` is a pure function of one Service and its slices. What one Service
cannot know is whether another claims the same address and port; the `Settler`
knows, lets one of them hold it, and tells the loser (`Forward.lost`).

A change costs what the changed Services cost, however many others there are.
Bytes, files and packets are not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from kubeway.model.claims import NEVER, Claim, Claims, bids, claim_of, family_of_claim
from kubeway.model.forward import (
    Forward,
    Frontend,
    HealthPort,
    Lost,
    ServiceName,
    ServicePortName,
)
from kubeway.model.node import NodeFacts, Options
from kubeway.model.objects import EndpointSlice, Service, ServicePort
from kubeway.model.policy import Here, Policy, candidates, select
from kubeway.model.store import Slices, Snapshot
from kubeway.values import TCP, V4, V6, Ip, Prefix, disjoint, family_of, host_prefix

ForwardKey = tuple[ServicePortName, int]
"""A Forward's name and family."""

_FAMILIES: Final = (V4, V6)


def settle_service(
    service: Service,
    slices: Mapping[str, EndpointSlice],
    facts: NodeFacts,
    options: Options,
) -> tuple[Forward, ...]:
    """The Forwards of one Service with all that it claims; one for each port and family, in order."""
    if service.unserved:
        return ()
    here = Here(facts.name, facts.zone)
    pieces = _in_order(slices)
    return tuple(
        [
            _settle_port(service, port, family, ways, pieces, here)
            for family in _FAMILIES
            if (ways := _ways(service, family, facts, options)) is not None
            for port in service.ports
        ]
    )


def _in_order(slices: Mapping[str, EndpointSlice]) -> list[EndpointSlice]:
    if len(slices) < 2:
        return list(slices.values())
    return [slices[name] for name in sorted(slices)]


class _Ways(NamedTuple):
    """The addresses of a Service in one family, alike for all its ports."""

    cluster_ip: Ip
    balancer: tuple[Ip, ...]
    external: tuple[Ip, ...]
    sources: tuple[Prefix, ...] | None


def _ways(service: Service, family: int, facts: NodeFacts, options: Options) -> _Ways | None:
    cluster_ip = service.cluster_ip(family)
    if cluster_ip is None:
        return None
    balancer = _of_family(service.balancer_ips, family)
    external = _of_family(service.external_ips, family) if options.external_ips else ()
    return _Ways(cluster_ip, balancer, external, _sources(service, family, balancer, facts))


def _of_family(ips: tuple[Ip, ...], family: int) -> tuple[Ip, ...]:
    return tuple([ip for ip in ips if family_of(ip) == family]) if ips else ()


def _sources(
    service: Service, family: int, balancer: tuple[Ip, ...], facts: NodeFacts
) -> tuple[Prefix, ...] | None:
    """Whom the load balancer addresses let in; None for all.

    A list without a range of this family lets all of this family in, and so does a
    range of length zero (kube-proxy). Where this node itself is let in, so are the
    addresses themselves: a node that holds one sends from it.
    """
    ranges = [prefix for prefix in service.sources if family_of(prefix.ip) == family]
    if not ranges or any(prefix.length == 0 for prefix in ranges):
        return None
    if any(prefix.holds(ip) for ip in facts.ips for prefix in ranges):
        ranges += [host_prefix(ip) for ip in balancer]
    return disjoint(ranges)


def _settle_port(
    service: Service, port: ServicePort, family: int, ways: _Ways, pieces: list[EndpointSlice], here: Here
) -> Forward:
    name = ServicePortName(*service.name, port.name, port.proto)
    external = bool(port.node_port or ways.balancer or ways.external)
    policy = _policy(service, external)
    chosen = select(candidates(port, family, pieces, here.node), policy, here)
    return Forward(
        name,
        family,
        _frontends(port, ways),
        chosen.cluster,
        chosen.local,
        service.internal_local,
        service.external_local,
        chosen.usable,
        service.affinity,
        chosen.serving,
        health_port=service.health_port,
        leaving=chosen.leaving,
        scheduler=service.scheduler,
        weight=service.weight,
        balance=service.balance,
        demote=service.demote,
        hold=service.hold if port.proto == TCP else 0,
    )


def policy_of(service: Service, port: ServicePort, family: int, options: Options) -> Policy:
    """Which lists of endpoints this service port needs; for whoever asks why."""
    external = bool(
        port.node_port
        or _of_family(service.balancer_ips, family)
        or (options.external_ips and _of_family(service.external_ips, family))
    )
    return _policy(service, external)


def _policy(service: Service, external: bool) -> Policy:
    if not service.internal_local and not (service.external_local and external):
        return _CLUSTER
    cluster = external or not service.internal_local
    cause = "internalTrafficPolicy" if service.internal_local else "externalTrafficPolicy"
    return Policy(cluster, True, cause)


_CLUSTER: Final = Policy(cluster=True, local=False)


def _frontends(port: ServicePort, ways: _Ways) -> tuple[Frontend, ...]:
    """The ways in, the highest-ranked kind first; an address that is of two kinds is of the first."""
    number = port.port
    frontends = [Frontend("ClusterIP", ways.cluster_ip, number)]
    if ways.balancer or ways.external:
        seen = {ways.cluster_ip}
        for ip in ways.balancer:
            if ip not in seen:
                seen.add(ip)
                frontends.append(Frontend("LoadBalancer", ip, number, ways.sources))
        for ip in ways.external:
            if ip not in seen:
                seen.add(ip)
                frontends.append(Frontend("ExternalIP", ip, number))
    if port.node_port:
        frontends.append(Frontend("NodePort", None, port.node_port))
    return tuple(frontends)


def settle_health(
    service: Service, slices: Mapping[str, EndpointSlice], facts: NodeFacts
) -> HealthPort | None:
    """The health-check port of this Service; None if it has none.

    Counts the addresses of ready endpoints here over all ports. Of a Service with
    two families the higher count is told: they are the same pods.
    """
    if service.unserved or not service.health_port:
        return None
    pieces = _in_order(slices)
    counts = [
        len(
            {
                endpoint.ip
                for port in service.ports
                for endpoint, said in candidates(port, family, pieces, facts.name)
                if endpoint.local and said.ready
            }
        )
        for family in _FAMILIES
    ]
    return HealthPort(service.name, service.health_port, max(counts))


# --- all Services together ---------------------------------------------------------------------------


class _Settled(Struct, frozen=True, gc=False):
    """One Service settled alone: with all that it claims."""

    born: int
    forwards: tuple[Forward, ...]


_NOTHING: Final = _Settled(NEVER, ())


class Settler:
    """Keeps every Forward of this node, and who holds what several claim.

    `facts` and `options` are fixed, but for the node's addresses: where they change, make a new one.
    """

    def __init__(self, facts: NodeFacts, options: Options) -> None:
        self.facts = facts
        self.options = options
        self._settled: dict[ServiceName, _Settled] = {}
        self._forwards: dict[ForwardKey, Forward] = {}
        self._health: dict[ServiceName, HealthPort] = {}
        self._claims = Claims(facts.addresses)
        self.forwards: Mapping[ForwardKey, Forward] = MappingProxyType(self._forwards)
        self.health: Mapping[ServiceName, HealthPort] = MappingProxyType(self._health)

    def update(self, snapshot: Snapshot, names: Iterable[ServiceName]) -> dict[ForwardKey, Forward | None]:
        """Settle these Services anew. Returns the Forwards that are not as they were; None: it is gone.

        Among them are Forwards of other Services that won or lost a claim by it.
        """
        touched: dict[ForwardKey, Forward | None] = {}
        shaken: set[Claim] = set()
        for name in names:
            service = snapshot.services.get(name)
            slices = snapshot.slices_of(name)
            old = self._settled.get(name, _NOTHING)
            new = self._settle(service, slices, old)
            self._set_health(name, service, slices)
            if new is old:
                continue
            self._claims.change(bids(old.born, old.forwards), bids(new.born, new.forwards), shaken)
            if new is _NOTHING:
                del self._settled[name]
            else:
                self._settled[name] = new
            for forward in old.forwards:
                touched[forward.name, forward.family] = None
            for forward in new.forwards:
                touched[forward.name, forward.family] = forward
        for claim in shaken:
            self._touch_bidders(claim, touched)
        return dict(self._publish(touched))

    def move(self, addresses: frozenset[Ip]) -> dict[ForwardKey, Forward | None]:
        """This node has these addresses now. Returns the Forwards that are not as they were."""
        self.facts = replace(self.facts, addresses=addresses)
        touched: dict[ForwardKey, Forward | None] = {}
        shaken: set[Claim] = set()
        self._claims.move(addresses, shaken)
        for claim in shaken:
            self._touch_bidders(claim, touched)
        return dict(self._publish(touched))

    def _settle(self, service: Service | None, slices: Slices, old: _Settled) -> _Settled:
        """The Service settled alone; `old` itself if it is as it was."""
        if service is None:
            return _NOTHING
        forwards = settle_service(service, slices, self.facts, self.options)
        if not forwards:
            return _NOTHING
        born = service.created or NEVER
        if born == old.born and forwards == old.forwards:
            return old
        # Ports the change did not touch keep their very object.
        known = {(f.name, f.family): f for f in old.forwards}
        return _Settled(
            born, tuple([was if (was := known.get((f.name, f.family))) == f else f for f in forwards])
        )

    def _set_health(self, name: ServiceName, service: Service | None, slices: Slices) -> None:
        health = None
        if service is not None and service.health_port:
            health = settle_health(service, slices, self.facts)
        if health is None:
            self._health.pop(name, None)
        elif self._health.get(name) != health:
            self._health[name] = health

    def _touch_bidders(self, claim: Claim, touched: dict[ForwardKey, Forward | None]) -> None:
        """Everybody who claims it may have won or lost it."""
        family = family_of_claim(claim)
        for name in self._claims.bidders(claim):
            if (name, family) not in touched:
                touched[name, family] = self._alone(name, family)

    def _alone(self, name: ServicePortName, family: int) -> Forward:
        settled = self._settled[ServiceName(name.namespace, name.service)]
        return next(f for f in settled.forwards if f.name == name and f.family == family)

    # --- the outcome ---------------------------------------------------------------------------------

    def _publish(
        self, touched: dict[ForwardKey, Forward | None]
    ) -> Iterator[tuple[ForwardKey, Forward | None]]:
        for key, alone in touched.items():
            was = self._forwards.get(key)
            if alone is None:
                if was is not None:
                    del self._forwards[key]
                    yield key, None
                continue
            forward = self._contend(alone) if self._claims.contested or self._claims.at_home else alone
            if was is None or was != forward:
                self._forwards[key] = forward
                yield key, forward

    def _contend(self, alone: Forward) -> Forward:
        """The Forward without what others hold, in whole or at some addresses."""
        kept: list[Frontend] = []
        lost: list[Lost] = []
        for frontend in alone.frontends:
            claim = claim_of(alone, frontend)
            holder = self._claims.holder(claim)
            if holder != alone.name:
                lost.append(Lost(frontend, holder))
            elif frontend.ip is None:
                taken = self._claims.taken(claim)
                kept.append(replace(frontend, taken=taken) if taken else frontend)
            else:
                kept.append(replace(frontend, own=True) if self._claims.is_own(frontend.ip) else frontend)
        if kept == list(alone.frontends):
            return alone
        return replace(alone, frontends=tuple(kept), lost=tuple(lost))
