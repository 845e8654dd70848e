"""
Worlds to measure with: a JSON List of a Node, Services and EndpointSlices, spelled as an
API server spells them, with all the fields a proxy has no use for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NODES = 250
"""The endpoints are spread over so many nodes; ours is the first."""
NODE = "node-0"
_CREATED = "2026-01-01T00:00:00Z"


def address(base: int, number: int) -> str:
    value = base + number
    return f"{value >> 24}.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}"


def cluster_ip(number: int) -> str:
    """Of service `number`, in 10.96.0.0/12."""
    return address(0x0A600000, number + 1)


def pod_ip(number: int) -> str:
    """Of endpoint `number`, in 10.128.0.0/10."""
    return address(0x0A800000, number + 1)


def service_name(number: int) -> tuple[str, str]:
    return f"team-{number % 50}", f"service-{number}"


def service(number: int) -> dict[str, Any]:
    namespace, name = service_name(number)
    ip = cluster_ip(number)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"00000000-0000-4000-8000-{number:012x}",
            "resourceVersion": str(100_000 + number),
            "creationTimestamp": _CREATED,
            "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": namespace},
            "annotations": {"meta.helm.sh/release-name": name},
            "managedFields": [
                {
                    "manager": "helm",
                    "operation": "Update",
                    "apiVersion": "v1",
                    "time": _CREATED,
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:spec": {"f:ports": {".": {}}, "f:selector": {}, "f:type": {}}},
                }
            ],
        },
        "spec": {
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
            "selector": {"app.kubernetes.io/name": name},
            "clusterIP": ip,
            "clusterIPs": [ip],
            "type": "ClusterIP",
            "sessionAffinity": "None",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    }


def endpoint(number: int) -> dict[str, Any]:
    return {
        "addresses": [pod_ip(number)],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": f"node-{number % NODES}",
        "targetRef": {"kind": "Pod", "namespace": "team", "name": f"pod-{number}", "uid": f"{number:032x}"},
        "zone": f"zone-{number % 3}",
    }


def endpoint_slice(number: int, endpoints: list[dict[str, Any]]) -> dict[str, Any]:
    namespace, name = service_name(number)
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-x{number % 97:02d}",
            "namespace": namespace,
            "uid": f"10000000-0000-4000-8000-{number:012x}",
            "resourceVersion": str(500_000 + number),
            "creationTimestamp": _CREATED,
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": name,
            },
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": name,
                    "controller": True,
                    "uid": f"{number:032x}",
                }
            ],
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints,
    }


def objects(services: int, endpoints: int) -> Iterator[dict[str, Any]]:
    yield {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": "zone-0"}},
        "spec": {"podCIDRs": ["10.128.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.10"}]},
    }
    for number in range(services):
        yield service(number)
        members = range(number * endpoints, (number + 1) * endpoints)
        yield endpoint_slice(number, [endpoint(n) for n in members])


def write(path: Path, services: int, endpoints: int) -> None:
    """The world as one JSON List."""
    with path.open("w") as file:
        file.write('{"apiVersion":"v1","kind":"List","items":[\n')
        for number, found in enumerate(objects(services, endpoints)):
            file.write(",\n" if number else "")
            json.dump(found, file, separators=(",", ":"))
        file.write("\n]}\n")
