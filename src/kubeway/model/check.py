"""
From the API's shapes to the cluster's objects, their values judged.

One bad part is left out and told, and the rest goes on, as in kube-proxy; an
object without a proper name is refused whole. Absent fields mean what the API
server would have filled in. No bytes here, and no policy.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from sys import intern
from typing import Final

from kubeway.errors import BadObject
from kubeway.model import api
from kubeway.model.check_service import service
from kubeway.model.forward import ServiceName
from kubeway.model.objects import (
    EndpointSlice,
    Hints,
    KubeObject,
    Node,
    NodeAddress,
    ServiceCIDR,
    SliceEndpoint,
    SlicePort,
)
from kubeway.model.scalars import (
    NAME,
    NAME_RULE,
    Complain,
    addresses,
    name_of,
    namespace_of,
    port_of,
    prefixes,
    proto_of,
    word,
)
from kubeway.values import V4, V6, family_of, parse_ip

_FAMILIES: Final = {"IPv4": V4, "IPv6": V6}


def endpoint_slice(shape: api.EndpointSlice, complain: Complain) -> EndpointSlice:
    """Raises BadObject if it has no proper name or no family."""
    meta = shape.metadata or api.SliceMetadata()
    namespace, name = intern(namespace_of(meta.namespace)), name_of(meta.name)
    family = _FAMILIES.get(shape.address_type or "")
    if family is None:
        raise BadObject("addressType", f"{shape.address_type!r} is not IPv4 or IPv6")
    labels = meta.labels
    if labels is None or not labels.service_name or labels.headless is not None:
        return EndpointSlice(namespace, name, None, family)
    if not NAME.fullmatch(labels.service_name):
        raise BadObject("metadata.labels[kubernetes.io/service-name]", f"{labels.service_name!r} {NAME_RULE}")
    return EndpointSlice(
        namespace,
        name,
        ServiceName(namespace, labels.service_name),
        family,
        _slice_ports(shape.ports or (), complain),
        tuple(_endpoints(shape.endpoints or (), family, complain)),
    )


def node(shape: api.Node, complain: Complain) -> Node:
    """Raises BadObject if it has no proper name."""
    meta = shape.metadata or api.NodeMetadata()
    spec = shape.spec or api.NodeSpec()
    said = shape.status.addresses if shape.status else None
    known: list[NodeAddress] = []
    for index, address in enumerate(said or ()):
        # A Hostname or DNS entry is no address, and the proxy has no use for it.
        if address.type in ("InternalIP", "ExternalIP"):
            found = addresses(f"status.addresses[{index}].address", [address.address or ""], complain)
            known += [NodeAddress(address.type, ip) for ip in found]
    pod_cidrs = spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])
    return Node(
        name_of(meta.name),
        tuple(known),
        tuple(prefixes("spec.podCIDRs", pod_cidrs, complain)),
        {key: value for key, value in (meta.labels or {}).items() if isinstance(value, str)},
        tuple(taint.key for taint in spec.taints or () if taint.key),
        meta.deletion_timestamp is not None,
    )


def service_cidr(shape: api.ServiceCIDR, complain: Complain) -> ServiceCIDR:
    """Raises BadObject if it has no proper name."""
    name = name_of(shape.metadata.name if shape.metadata else None)
    cidrs = (shape.spec.cidrs if shape.spec else None) or ()
    return ServiceCIDR(name, tuple(prefixes("spec.cidrs", cidrs, complain)))


def check(shape: api.Shape, complain: Complain) -> KubeObject:
    """The object that this shape is; BadObject if it is none."""
    if isinstance(shape, api.EndpointSlice):
        return endpoint_slice(shape, complain)
    if isinstance(shape, api.Service):
        return service(shape, complain)
    if isinstance(shape, api.Node):
        return node(shape, complain)
    assert isinstance(shape, api.ServiceCIDR)
    return service_cidr(shape, complain)


def _slice_ports(shapes: Iterable[api.SlicePort], complain: Complain) -> tuple[SlicePort, ...]:
    found = []
    for index, shape in enumerate(shapes):
        # A port of null stands for all ports, which means nothing to a Service.
        if not shape.port:
            continue
        try:
            found.append(_slice_port(shape.name or "", shape.protocol, shape.port))
        except ValueError as problem:
            complain(f"ports[{index}]", str(problem))
    return tuple(found)


@lru_cache(maxsize=4096)
def _slice_port(name: str, protocol: str | None, port: int) -> SlicePort:
    """Equal ports of many slices are one object."""
    return SlicePort(word(name) if name else "", proto_of(protocol), port_of(port))


def _endpoints(shapes: Iterable[api.Endpoint], family: int, complain: Complain) -> Iterable[SliceEndpoint]:
    for index, shape in enumerate(shapes):
        if not shape.addresses:
            continue
        text = shape.addresses[0]
        try:
            ip = parse_ip(text)
            node = word(shape.node_name) if shape.node_name else ""
            hints = _hints(shape.hints) if shape.hints is not None else None
        except ValueError as problem:
            complain(f"endpoints[{index}]", str(problem))
            continue
        if family_of(ip) != family:
            complain(f"endpoints[{index}].addresses[0]", f"{text!r} is not of the slice's addressType")
            continue
        is_ = shape.conditions
        if is_ is None:
            yield SliceEndpoint(ip, node, hints=hints)
        else:
            # Unknown readiness counts as ready (the API's own rule).
            yield SliceEndpoint(
                ip, node, is_.ready is not False, is_.serving is not False, is_.terminating is True, hints
            )


def _hints(shape: api.Hints) -> Hints | None:
    zones = tuple([hint.name for hint in shape.for_zones or ()])
    nodes = tuple([hint.name for hint in shape.for_nodes or ()])
    return _shared_hints(zones, nodes) if zones or nodes else None


@lru_cache(maxsize=4096)
def _shared_hints(zones: tuple[str, ...], nodes: tuple[str, ...]) -> Hints:
    return Hints(tuple(map(word, zones)), tuple(map(word, nodes)))
