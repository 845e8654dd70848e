"""
The cluster's objects, as far as a service proxy reads them.

Their values are already checked: an address here is an address, a port is in
range, a name may stand in a comment. So nothing above this file meets a string
it must parse. `kubeway.model.parse` makes them from bytes; what it could not
accept is left out here and told there.

Fifty thousand slices are alive at once, so the parts are flat, share what is
equal among them, and are not tracked by the garbage collector: they refer only
downwards and cannot form a cycle.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct, field

from kubeway.model.balances import DEFAULT, Balance
from kubeway.model.forward import ServiceName
from kubeway.values import Ip, Prefix, Proto, family_of


class Identity(NamedTuple):
    """What an object is called in the cluster. `namespace` is "" for a kind without namespaces."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class ServicePort(Struct, frozen=True, gc=False):
    """One port of a Service. `node_port` is 0 where there is none."""

    name: str
    proto: Proto
    port: int
    node_port: int = 0


class Service(Struct, frozen=True, gc=False):
    """A Service.

    `created` is in seconds since 1970, 0 where the object does not say.
    `unserved`: why this proxy does nothing for it, "" if it does.
    `cluster_ips` holds at most one address of a family.
    `affinity` is the ClientIP timeout in seconds, 0 for none.
    `external_local` and `health_port` already stand for what the type allows.
    `balancer_ips` are those whose ipMode is VIP. `sources` of both families are
    the clients its load balancer addresses let in; () lets in all.
    `scheduler` is how ipvs is to choose among its endpoints, "" where that is left to the
    configuration, and `weight` what each of them weighs. `balance`, `demote` and `hold` (seconds, 0
    for none) are for the relay of userspace mode, as a Forward has them.
    """

    name: ServiceName
    created: int = 0
    unserved: str = ""
    cluster_ips: tuple[Ip, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    affinity: int = 0
    internal_local: bool = False
    external_local: bool = False
    external_ips: tuple[Ip, ...] = ()
    balancer_ips: tuple[Ip, ...] = ()
    sources: tuple[Prefix, ...] = ()
    health_port: int = 0
    scheduler: str = ""
    weight: int = 1
    balance: Balance = DEFAULT
    demote: bool = False
    hold: int = 0

    @property
    def identity(self) -> Identity:
        return Identity("Service", *self.name)

    def cluster_ip(self, family: int) -> Ip | None:
        for ip in self.cluster_ips:
            if family_of(ip) == family:
                return ip
        return None


class Hints(Struct, frozen=True, gc=False):
    """For which zones and nodes an endpoint is meant; () where it does not say."""

    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


class SliceEndpoint(Struct, frozen=True, gc=False):
    """One endpoint of a slice, before any policy. `node` is "" where it does not say."""

    ip: Ip
    node: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    hints: Hints | None = None


class SlicePort(Struct, frozen=True, gc=False):
    """A port all endpoints of a slice have; it serves the service port of the same name and protocol."""

    name: str
    proto: Proto
    port: int


class EndpointSlice(Struct, frozen=True, gc=False):
    """A slice of the endpoints of `service`; None: of no Service that a proxy serves."""

    namespace: str
    name: str
    service: ServiceName | None
    family: int
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[SliceEndpoint, ...] = ()

    @property
    def identity(self) -> Identity:
        return Identity("EndpointSlice", self.namespace, self.name)


class NodeAddress(Struct, frozen=True, gc=False):
    """`type` is the cluster's word: InternalIP or ExternalIP."""

    type: str
    ip: Ip


class Node(Struct, frozen=True, gc=False):
    """A node. `taints` are the keys of its taints; `deleting`: its deletion has begun."""

    name: str
    addresses: tuple[NodeAddress, ...] = ()
    pod_cidrs: tuple[Prefix, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    deleting: bool = False

    @property
    def identity(self) -> Identity:
        return Identity("Node", "", self.name)

    @property
    def zone(self) -> str:
        return self.labels.get("topology.kubernetes.io/zone", "")


class ServiceCIDR(Struct, frozen=True, gc=False):
    """Addresses from which Services get theirs."""

    name: str
    cidrs: tuple[Prefix, ...] = ()

    @property
    def identity(self) -> Identity:
        return Identity("ServiceCIDR", "", self.name)


KubeObject = Service | EndpointSlice | Node | ServiceCIDR
