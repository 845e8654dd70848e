"""
A Forward: one service port of one family, settled for this node.

All Kubernetes policy ends here. A mode that turns a Forward into packet rules
reads no condition, no hint and no traffic policy of an object; it finds here
which addresses lead in, and which endpoints serve whom.

Values only; `kubeway.model.settle` makes them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec import Struct

from kubeway.model.balances import DEFAULT, Balance
from kubeway.values import PROTO_NAMES, Ip, Prefix, Proto


class ServiceName(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePortName(NamedTuple):
    """What a service port is called: `shop/cart:http` over TCP. An unnamed port is ""."""

    namespace: str
    service: str
    port: str
    proto: Proto

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"{self.namespace}/{self.service}{port}"

    @property
    def label(self) -> str:
        """With the protocol, for people: `shop/cart:http (TCP)`."""
        return f"{self} ({PROTO_NAMES[self.proto]})"


class Endpoint(Struct, frozen=True, gc=False, order=True):
    """Where packets can be sent. `local`: it is on this node."""

    ip: Ip
    port: int
    local: bool = False


FrontendKind = Literal["ClusterIP", "ExternalIP", "LoadBalancer", "NodePort"]


class Frontend(Struct, frozen=True, gc=False):
    """One way in: an address and port that packets are sent to.

    `ip` is None for a node port: any of the node's node-port addresses leads in.
    `sources`, where not None, are the only clients let in (disjoint, in order).
    `own`: the address is one that this node has anyway. `taken`: the addresses of this node, in
    order, at which another way in has the node port's number, so that it does not lead in there.
    """

    kind: FrontendKind
    ip: Ip | None
    port: int
    sources: tuple[Prefix, ...] | None = None
    own: bool = False
    taken: tuple[Ip, ...] = ()


class Lost(Struct, frozen=True, gc=False):
    """A way in that another service port holds: it claimed the same address and port first."""

    frontend: Frontend
    holder: ServicePortName


class Forward(Struct, frozen=True, gc=False):
    """One service port of one family, settled.

    `cluster` serves whom the Cluster policy applies to, `local` whom the Local
    policy applies to; both are in order and without doubles. Which applies:

    - ClusterIP: `internal_local` says.
    - NodePort, ExternalIP, LoadBalancer: `external_local` says; but pods of this
      cluster and this node itself are always served by `cluster`.

    `usable` says whether any endpoint anywhere could serve. If the list that
    applies is empty, a packet is dropped if `usable`, else rejected.

    `affinity` is the ClientIP timeout in seconds, 0 for none. `serving` are the
    endpoints that flows already under way may stay with; `leaving` those of them that
    terminate, which get new flows only if they are in a list all the same. `health_port` is the
    Service's health-check node port, 0 for none: all its service ports have the same.
    `scheduler` and `weight` say how a balancer of the kernel's is to choose (`model.schedulers`);
    "" leaves that to the node.

    Of the relay of userspace mode: `balance` is how it chooses (`model.balances`); with `demote`, who refuses
    or does not answer is tried after the others for a while; `hold` is for how many seconds clients may wait
    where packets would be rejected for want of endpoints, 0 for not at all, and always 0 but for TCP: of
    other protocols nothing is kept that could wait.
    """

    name: ServicePortName
    family: int
    frontends: tuple[Frontend, ...]
    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    internal_local: bool = False
    external_local: bool = False
    usable: bool = False
    affinity: int = 0
    serving: tuple[Endpoint, ...] = ()
    lost: tuple[Lost, ...] = ()
    health_port: int = 0
    leaving: tuple[Endpoint, ...] = ()
    scheduler: str = ""
    weight: int = 1
    balance: Balance = DEFAULT
    demote: bool = False
    hold: int = 0

    @property
    def service(self) -> ServiceName:
        return ServiceName(self.name.namespace, self.name.service)

    @property
    def proto(self) -> Proto:
        return self.name.proto


class HealthPort(Struct, frozen=True, gc=False):
    """A health-check node port: what a load balancer asks to learn whether to send here.

    `endpoints` counts the distinct addresses of ready endpoints on this node.
    """

    service: ServiceName
    port: int
    endpoints: int
