"""
A cluster with every kind of way in, both families, TCP, UDP and SCTP; and builders for smaller ones.

Addresses are said in IPv4; their twins of IPv6 come along (`kubeway.lab.addresses`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from kubeway.lab import addresses as at
from kubeway.lab.topology import BRIDGED, PODS, REMOTE_PODS
from tests.kernel.scenario import DEFAULTS

Doc = dict[str, Any]

NODE: Final = DEFAULTS
PROTOS: Final = ("TCP", "UDP", "SCTP")

WEB, LOCAL, RANGED, STICKY, NONE, INNER = (f"10.96.0.{n}" for n in range(20, 26))
WEB_LB, LOCAL_LB, RANGED_LB = (f"198.18.0.{n}" for n in range(2, 5))
WEB_EXTERNAL, LOCAL_EXTERNAL = "198.18.0.12", "198.18.0.13"


def both(ips: Sequence[str]) -> list[str]:
    return [ip for one in ips for ip in at.both(one)]


def service(
    name: str,
    vip: str,
    *,
    protos: Sequence[str] = PROTOS,
    node_port: int = 0,
    externals: Sequence[str] = (),
    balancers: Sequence[str] = (),
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> Doc:
    ports: list[Doc] = [{"name": proto.lower(), "protocol": proto, "port": 80} for proto in protos]
    for port in ports if node_port else ():
        port["nodePort"] = node_port
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "shop", "name": name, "annotations": dict(annotations or {})},
        "spec": {
            "type": "LoadBalancer" if balancers else "NodePort" if node_port else "ClusterIP",
            "clusterIP": vip,
            "clusterIPs": list(at.both(vip)),
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": ports,
            "externalIPs": both(externals),
            **spec,
        },
        "status": {"loadBalancer": {"ingress": [{"ip": ip} for ip in both(balancers)]}},
    }


def slices(
    name: str,
    pods: Sequence[str],
    *,
    protos: Sequence[str] = PROTOS,
    leaving: Sequence[str] = (),
    port: int = 8080,
) -> Iterator[Doc]:
    """Both families' endpoints; those `leaving` terminate and serve still."""
    for family in (0, 1):
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": "shop",
                "name": f"{name}-{family}",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": ("IPv4", "IPv6")[family],
            "ports": [{"name": proto.lower(), "protocol": proto, "port": port} for proto in protos],
            "endpoints": [_endpoint(pod, family, leaving=pod in leaving) for pod in pods],
        }


def _endpoint(pod: str, family: int, *, leaving: bool) -> Doc:
    ip = {**PODS, **BRIDGED, **REMOTE_PODS}[pod]
    return {
        "addresses": [at.both(ip)[family]],
        "nodeName": "node2" if pod in REMOTE_PODS else "node1",
        "conditions": {"ready": not leaving, "serving": True, "terminating": leaving},
    }


def everything() -> list[Doc]:
    local = {"externalTrafficPolicy": "Local"}
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}}
    return [
        *NODE,
        service("web", WEB, node_port=30080, externals=[WEB_EXTERNAL], balancers=[WEB_LB]),
        *slices("web", ["a", "ra"]),
        service(
            "local",
            LOCAL,
            node_port=30081,
            externals=[LOCAL_EXTERNAL],
            balancers=[LOCAL_LB],
            healthCheckNodePort=32081,
            **local,
        ),
        *slices("local", ["a", "ra"]),
        service(
            "ranged",
            RANGED,
            node_port=30082,
            balancers=[RANGED_LB],
            loadBalancerSourceRanges=both(["203.0.113.0/24", "198.51.100.7/32"]),
        ),
        *slices("ranged", ["b"]),
        service("sticky", STICKY, annotations={"kubeway.io/ipvs-weight": "5"}, **affinity),
        *slices("sticky", ["a", "b"]),
        service("none", NONE),
        *slices("none", []),
        service("inner", INNER, internalTrafficPolicy="Local"),
        *slices("inner", ["ra"]),
    ]
