"""
The shapes of the Kubernetes API, as far as a service proxy reads them.

Every field may be absent or null, fields not named here are passed over, and a
field of the wrong type refuses the object with its path. What the values mean is
not known here; `kubeway.model.check` makes objects of them.

Of labels and annotations only those that matter are read: `version: 1` (a number, which the API
would refuse) in a hand-written Service is nothing to a proxy.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class Shape(Struct, rename="camel", gc=False):
    """Base of all of them: camelCase outside; values only, so no garbage collection."""


class ServiceLabels(Shape):
    proxy_name: Any = field(name="service.kubernetes.io/service-proxy-name", default=None)


class ServiceAnnotations(Shape):
    scheduler: Any = field(name="kubeway.io/ipvs-scheduler", default=None)
    weight: Any = field(name="kubeway.io/ipvs-weight", default=None)
    balance: Any = field(name="kubeway.io/balance", default=None)
    demote: Any = field(name="kubeway.io/demote", default=None)
    hold: Any = field(name="kubeway.io/hold", default=None)


class SliceLabels(Shape):
    service_name: str | None = field(name="kubernetes.io/service-name", default=None)
    headless: Any = field(name="service.kubernetes.io/headless", default=None)


class Metadata(Shape):
    name: str | None = None
    namespace: str | None = None


class ServiceMetadata(Metadata):
    creation_timestamp: str | None = None
    labels: ServiceLabels | None = None
    annotations: ServiceAnnotations | None = None


class SliceMetadata(Metadata):
    labels: SliceLabels | None = None


class NodeMetadata(Metadata):
    deletion_timestamp: str | None = None
    labels: dict[str, Any] | None = None


# --- Service -----------------------------------------------------------------------------------------


class ServicePort(Shape):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    node_port: int | None = None


class ClientIPConfig(Shape):
    timeout_seconds: int | None = None


class AffinityConfig(Shape):
    client_ip: ClientIPConfig | None = field(name="clientIP", default=None)


class ServiceSpec(Shape):
    type: str | None = None
    cluster_ip: str | None = field(name="clusterIP", default=None)
    cluster_ips: list[str] | None = field(name="clusterIPs", default=None)
    ip_families: list[str] | None = None
    ports: list[ServicePort] | None = None
    session_affinity: str | None = None
    session_affinity_config: AffinityConfig | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    external_ips: list[str] | None = field(name="externalIPs", default=None)
    load_balancer_source_ranges: list[str] | None = None
    health_check_node_port: int | None = None


class Ingress(Shape):
    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancerStatus(Shape):
    ingress: list[Ingress] | None = None


class ServiceStatus(Shape):
    load_balancer: LoadBalancerStatus | None = None


class Service(Shape):
    metadata: ServiceMetadata | None = None
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


# --- EndpointSlice -----------------------------------------------------------------------------------


class Conditions(Shape):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(Shape):
    name: str


class Hints(Shape):
    for_zones: list[Hint] | None = None
    for_nodes: list[Hint] | None = None


class Endpoint(Shape):
    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    hints: Hints | None = None


class SlicePort(Shape):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class EndpointSlice(Shape):
    metadata: SliceMetadata | None = None
    address_type: str | None = None
    ports: list[SlicePort] | None = None
    endpoints: list[Endpoint] | None = None


# --- Node, ServiceCIDR -------------------------------------------------------------------------------


class Taint(Shape):
    key: str | None = None


class NodeSpec(Shape):
    pod_cidr: str | None = field(name="podCIDR", default=None)
    pod_cidrs: list[str] | None = field(name="podCIDRs", default=None)
    taints: list[Taint] | None = None


class NodeAddress(Shape):
    type: str | None = None
    address: str | None = None


class NodeStatus(Shape):
    addresses: list[NodeAddress] | None = None


class Node(Shape):
    metadata: NodeMetadata | None = None
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class CIDRSpec(Shape):
    cidrs: list[str] | None = None


class ServiceCIDR(Shape):
    metadata: Metadata | None = None
    spec: CIDRSpec | None = None
