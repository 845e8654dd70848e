"""
The cluster as last heard, and which names have changed since.

A Snapshot is immutable and shares all that did not change with the one before,
so taking one costs nothing and whoever holds one may take its time. The store
knows objects by their identity and slices by the Service they belong to; it need
not know what any of it means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from immutables import Map

from kubeway.model.forward import ServiceName
from kubeway.model.objects import EndpointSlice, Identity, KubeObject, Node, Service, ServiceCIDR
from kubeway.values import Prefix

Slices = Map[str, EndpointSlice]
NO_SLICES: Slices = Map()


class Snapshot(NamedTuple):
    """`slices` are those of each Service by slice name, whether or not the Service is there."""

    services: Map[ServiceName, Service]
    slices: Map[ServiceName, Slices]
    nodes: Map[str, Node]
    cidrs: Map[str, ServiceCIDR]

    def slices_of(self, name: ServiceName) -> Slices:
        return self.slices.get(name, NO_SLICES)

    def names(self) -> Iterator[ServiceName]:
        """Every name that a Service or a slice goes by."""
        yield from self.services
        yield from (name for name in self.slices if name not in self.services)

    def service_cidrs(self) -> list[Prefix]:
        return [prefix for cidr in self.cidrs.values() for prefix in cidr.cidrs]


class Changed(NamedTuple):
    """What is not as it was: these Services or their slices; some Node; some ServiceCIDR."""

    names: frozenset[ServiceName]
    node: bool
    cidrs: bool

    def __bool__(self) -> bool:
        return bool(self.names) or self.node or self.cidrs


class Store:
    """Folds objects in, one by one. An object equal to the one held is no change."""

    def __init__(self) -> None:
        # Mutations of the last snapshot's maps: a put copies at most the few
        # tree nodes on its way, and only the first time after a snapshot.
        self._services = Map[ServiceName, Service]().mutate()
        self._slices = Map[ServiceName, Slices]().mutate()
        self._nodes = Map[str, Node]().mutate()
        self._cidrs = Map[str, ServiceCIDR]().mutate()
        # A slice that goes is told by its name alone, and one that changes its
        # Service leaves the old one: so each is also found by its own name.
        self._by_name: dict[tuple[str, str], EndpointSlice] = {}
        self._names: set[ServiceName] = set()
        self._node_changed = False
        self._cidrs_changed = False

    def put(self, obj: KubeObject) -> bool:
        """Take this object in place of the one of its identity; whether that changed anything."""
        if isinstance(obj, EndpointSlice):
            return self._put_slice(obj)
        if isinstance(obj, Service):
            if self._services.get(obj.name) == obj:
                return False
            self._services[obj.name] = obj
            self._names.add(obj.name)
        elif isinstance(obj, Node):
            if self._nodes.get(obj.name) == obj:
                return False
            self._nodes[obj.name] = obj
            self._node_changed = True
        else:
            if self._cidrs.get(obj.name) == obj:
                return False
            self._cidrs[obj.name] = obj
            self._cidrs_changed = True
        return True

    def drop(self, gone: KubeObject | Identity) -> bool:
        """Forget the object of this identity; whether it was there."""
        kind, namespace, name = gone if isinstance(gone, Identity) else gone.identity
        if kind == "EndpointSlice":
            return self._drop_slice(namespace, name)
        if kind == "Service":
            if self._services.pop(ServiceName(namespace, name), None) is None:
                return False
            self._names.add(ServiceName(namespace, name))
        elif kind == "Node":
            if self._nodes.pop(name, None) is None:
                return False
            self._node_changed = True
        elif kind == "ServiceCIDR":
            if self._cidrs.pop(name, None) is None:
                return False
            self._cidrs_changed = True
        else:
            return False
        return True

    def snapshot(self) -> Snapshot:
        """The cluster as of now."""
        snapshot = Snapshot(
            self._services.finish(), self._slices.finish(), self._nodes.finish(), self._cidrs.finish()
        )
        self._services = snapshot.services.mutate()
        self._slices = snapshot.slices.mutate()
        self._nodes = snapshot.nodes.mutate()
        self._cidrs = snapshot.cidrs.mutate()
        return snapshot

    def take_changed(self) -> Changed:
        """What changed since this was last asked."""
        changed = Changed(frozenset(self._names), self._node_changed, self._cidrs_changed)
        self._names.clear()
        self._node_changed = self._cidrs_changed = False
        return changed

    def _put_slice(self, piece: EndpointSlice) -> bool:
        key = (piece.namespace, piece.name)
        old = self._by_name.get(key)
        if old == piece:
            return False
        owner = piece.service
        if old is not None and old.service != owner:
            self._drop_slice(*key)
        if owner is None:
            return old is not None
        self._by_name[key] = piece
        self._slices[owner] = self._slices.get(owner, NO_SLICES).set(piece.name, piece)
        self._names.add(owner)
        return True

    def _drop_slice(self, namespace: str, name: str) -> bool:
        old = self._by_name.pop((namespace, name), None)
        if old is None or old.service is None:
            return False
        rest = self._slices[old.service].delete(name)
        if rest:
            self._slices[old.service] = rest
        else:
            del self._slices[old.service]
        self._names.add(old.service)
        return True
