"""
Which endpoints serve, and for each one left out, why.

The rules are Kubernetes' (pkg/proxy/topology.go): ready endpoints, narrowed
by hints; failing those, endpoints that terminate but still serve; for the Local
policies the same among the endpoints of this node, without hints.

`select` is the hot path and gives only the answer. `why_not` tells the same
rules as reasons; a law in the tests holds the two together. Nothing here knows
addresses of Services or how packets are sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from kubeway.model.addresses import refusal
from kubeway.model.forward import Endpoint
from kubeway.model.objects import EndpointSlice, Hints, ServicePort, SliceEndpoint

Topology = Literal["", "node", "zone"]


class Here(NamedTuple):
    """The place for which endpoints are chosen."""

    node: str
    zone: str


class Policy(NamedTuple):
    """Which lists a service port needs.

    `cluster`, `local`: a way in exists that is served by the Cluster (Local) list.
    `cause` names the field that asks for Local, for reasons.
    """

    cluster: bool
    local: bool
    cause: str = ""


class Selection(Struct, frozen=True, gc=False):
    """The answer; see `Forward` for what each list is. All are in order and without doubles."""

    cluster: tuple[Endpoint, ...] = ()
    local: tuple[Endpoint, ...] = ()
    serving: tuple[Endpoint, ...] = ()
    usable: bool = False
    leaving: tuple[Endpoint, ...] = ()


NOBODY = Selection()

Candidates = list[tuple[Endpoint, SliceEndpoint]]
"""Every distinct address and port of a service port, in order, with what its slice says of it."""


def candidates(port: ServicePort, family: int, slices: Iterable[EndpointSlice], node: str) -> Candidates:
    """The endpoints of all slices that belong to this service port, merged.

    A slice's port belongs if its name and protocol are the service port's. Of two
    endpoints with one address and port, one that is not terminating wins, then one
    that is ready: a pod that got the address of a pod just leaving must be reached.
    `slices` are to be in a fixed order, so that the rest is decided alike each time.
    """
    found: Candidates = []
    name, proto = port.name, port.proto
    for piece in slices:
        if piece.family != family:
            continue
        for its in piece.ports:
            if its.name == name and its.proto == proto:
                number = its.port
                found += [
                    (Endpoint(said.ip, number, said.node == node), said)
                    for said in piece.endpoints
                    if not refusal(said.ip)
                ]
    # By address and port; the sort is stable and `local` is not part of the identity.
    found.sort(key=_place)
    return _merged(found) if _has_doubles(found) else found


def _place(candidate: tuple[Endpoint, SliceEndpoint]) -> tuple[bytes, int]:
    endpoint = candidate[0]
    return endpoint.ip, endpoint.port


def _has_doubles(found: Candidates) -> bool:
    return len({(endpoint.ip, endpoint.port) for endpoint, _ in found}) != len(found)


def _merged(found: Candidates) -> Candidates:
    best: dict[tuple[bytes, int], tuple[Endpoint, SliceEndpoint]] = {}
    for candidate in found:
        place = _place(candidate)
        rival = best.get(place)
        if rival is None or _standing(candidate[1]) > _standing(rival[1]):
            best[place] = candidate
    return list(best.values())


def _standing(said: SliceEndpoint) -> tuple[bool, bool]:
    return not said.terminating, said.ready


def topology(found: Candidates, here: Here) -> Topology:
    """Which kind of hint narrows the ready endpoints; "" for none.

    Hints count only if every ready endpoint has one of their kind and one of them
    is for here. Those for nodes are tried first.
    """
    hints = [said.hints for _, said in found if said.ready]
    if not hints:
        return ""
    if all(h is not None and h.nodes for h in hints) and any(h and here.node in h.nodes for h in hints):
        return "node"
    if all(h is not None and h.zones for h in hints) and any(h and here.zone in h.zones for h in hints):
        return "zone"
    return ""


def _meant_for(said: SliceEndpoint, kind: Topology, here: Here) -> bool:
    if not kind or said.hints is None:
        return not kind
    return here.node in said.hints.nodes if kind == "node" else here.zone in said.hints.zones


def select(found: Candidates, policy: Policy, here: Here) -> Selection:
    """Which of the candidates serve whom."""
    if not found:
        return NOBODY
    everyone = tuple([endpoint for endpoint, _ in found])
    if _plain(found):
        # Nearly always: all are ready and nothing is hinted, so all lists but the Local one are this one.
        cluster = everyone if policy.cluster else ()
        local = _same_or(everyone, [e for e in everyone if e.local]) if policy.local else ()
        return Selection(cluster, local, everyone, True)
    cluster = _same_or(everyone, _cluster(found, here)) if policy.cluster else ()
    local = _same_or(cluster, _local(found)) if policy.local else ()
    serving = _same_or(cluster, [endpoint for endpoint, said in found if said.serving])
    usable = bool(cluster) or (policy.local and any(said.ready or _leaving(said) for _, said in found))
    leaving = tuple([endpoint for endpoint, said in found if _leaving(said)])
    return Selection(cluster, local, serving, usable, leaving)


def _plain(found: Candidates) -> bool:
    # A plain loop takes half the time of all() with a generator.
    for _, said in found:  # noqa: SIM110
        if not (said.ready and said.serving) or said.hints is not None:
            return False
    return True


def _same_or(known: tuple[Endpoint, ...], found: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """`found`, as the very object `known` if that is equal."""
    made = tuple(found)
    return known if made == known else made


def _leaving(said: SliceEndpoint) -> bool:
    """It terminates but still answers: of use where nothing is ready."""
    return said.serving and said.terminating


def _cluster(found: Candidates, here: Here) -> list[Endpoint]:
    kind = topology(found, here)
    ready = [endpoint for endpoint, said in found if said.ready and _meant_for(said, kind, here)]
    # Hints narrow ready endpoints only: when nothing is ready, anything that answers will do.
    return ready or [endpoint for endpoint, said in found if _leaving(said)]


def _local(found: Candidates) -> list[Endpoint]:
    here = [(endpoint, said) for endpoint, said in found if endpoint.local]
    ready = [endpoint for endpoint, said in here if said.ready]
    return ready or [endpoint for endpoint, said in here if _leaving(said)]


# --- reasons ---------------------------------------------------------------------------------------


class LeftOut(NamedTuple):
    """An endpoint that serves nobody through a service port, and why.

    `port` is 0 where its slice has no port for the service port.
    """

    ip: bytes
    port: int
    slice: str
    reason: str


def why_not(
    port: ServicePort, family: int, slices: Mapping[str, EndpointSlice], policy: Policy, here: Here
) -> list[LeftOut]:
    """Every endpoint of this family that is in neither list, with the reason, in order.

    Not for the hot path: it decides everything anew.
    """
    found = candidates(port, family, [slices[name] for name in sorted(slices)], here.node)
    chosen = select(found, policy, here)
    used = {(e.ip, e.port) for e in (*chosen.cluster, *chosen.local)}
    left = [
        LeftOut(e.ip, e.port, _slice_of(said, port, slices), _reason(e, said, found, policy, here))
        for e, said in found
        if (e.ip, e.port) not in used
    ]
    return sorted([*left, *_never_candidates(port, family, slices)])


def _slice_of(said: SliceEndpoint, port: ServicePort, slices: Mapping[str, EndpointSlice]) -> str:
    return next(
        name
        for name, piece in sorted(slices.items())
        if any(one is said for one in piece.endpoints) and _port_of(piece, port)
    )


def _port_of(piece: EndpointSlice, port: ServicePort) -> int:
    return next((its.port for its in piece.ports if (its.name, its.proto) == (port.name, port.proto)), 0)


def _never_candidates(
    port: ServicePort, family: int, slices: Mapping[str, EndpointSlice]
) -> Iterable[LeftOut]:
    for name, piece in slices.items():
        if piece.family != family:
            continue
        number = _port_of(piece, port)
        for said in piece.endpoints:
            if refused := refusal(said.ip):
                yield LeftOut(said.ip, number, name, refused)
            elif not number:
                wanted = f"no port named {port.name!r}" if port.name else "no unnamed port"
                yield LeftOut(said.ip, 0, name, f"its slice has {wanted}")


def _reason(endpoint: Endpoint, said: SliceEndpoint, found: Candidates, policy: Policy, here: Here) -> str:
    """Why this candidate is in no list: its own state is told before a policy's choice."""
    if not said.ready and not _leaving(said):
        return "not ready, and not serving" if said.terminating else "not ready"
    if not policy.cluster:
        # Only the Local list is in use.
        if not endpoint.local:
            return f"not on this node ({policy.cause} Local)" if policy.cause else "not on this node"
        return "terminating while ready ones exist on this node"
    if not said.ready:
        return "terminating while ready ones exist"
    kind = topology(found, here)
    hints = said.hints or Hints()
    meant = hints.nodes if kind == "node" else hints.zones
    return f"hinted to other {kind}s: {', '.join(sorted(meant))}"
