"""
Small clusters for tests: builders to write one by hand, and strategies that invent them.

A world is made of manifests, as a user would write them, and goes through the real
parser; so what fails can be printed, put into a file and given to `kubeway`.

    world([service("shop/cart:http", vip="10.96.0.9", endpoints=3)])

The strategies aim at what is awkward: few addresses that many claim, endpoints in
several slices and in every condition, hints for others, lists that are empty,
packets at the edges of ranges.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace as with_fields

from kubeway.model.balances import BALANCES
from kubeway.model.forward import Endpoint, Forward, Frontend
from kubeway.model.links import Links, Neighbours
from kubeway.model.node import NodeFacts, NodeView, Options
from kubeway.model.objects import EndpointSlice, KubeObject, Service
from kubeway.model.oracle import Oracle
from kubeway.model.packet import Packet
from kubeway.model.parse import parse_manifest
from kubeway.model.settle import ForwardKey, Settler
from kubeway.model.store import Snapshot, Store
from kubeway.model.view import node_facts, node_view
from kubeway.values import PROTOS, TCP, Ip, Prefix, Proto, parse_ip, parse_prefix

Doc = dict[str, Any]

NODE, ZONE = "n1", "a"
NODE_IPS = {4: "203.0.113.10", 6: "2001:db8:1::10"}
NODE_ADDRESSES = {
    4: ("203.0.113.10", "192.168.7.10", "127.0.0.1"),
    6: ("2001:db8:1::10", "fd00:7::10", "fe80::10", "::1"),
}
POD_CIDRS = {4: "10.244.1.0/24", 6: "fd00:10:244:1::/64"}
CLUSTER_CIDRS = {4: "10.244.0.0/16", 6: "fd00:10:244::/48"}
SERVICE_CIDRS = {4: "10.96.0.0/16", 6: "fd00:10:96::/112"}

# --- builders ----------------------------------------------------------------------------------------


def endpoint_doc(
    ip: str,
    node: str = "",
    *,
    ready: bool | None = None,
    serving: bool | None = None,
    terminating: bool | None = None,
    zones: Sequence[str] = (),
    nodes: Sequence[str] = (),
) -> Doc:
    doc: Doc = {"addresses": [ip]}
    said = {"ready": ready, "serving": serving, "terminating": terminating}
    if any(value is not None for value in said.values()):
        doc["conditions"] = {key: value for key, value in said.items() if value is not None}
    if node:
        doc["nodeName"] = node
    if zones or nodes:
        doc["hints"] = {
            **({"forZones": [{"name": zone} for zone in zones]} if zones else {}),
            **({"forNodes": [{"name": name} for name in nodes]} if nodes else {}),
        }
    return doc


def port_doc(name: str, port: int, proto: str = "TCP", node_port: int = 0) -> Doc:
    doc: Doc = {"port": port, "protocol": proto}
    if name:
        doc["name"] = name
    if node_port:
        doc["nodePort"] = node_port
    return doc


def service_doc(
    name: str,
    vips: Sequence[str],
    ports: Sequence[Doc],
    *,
    created: str = "",
    ingress: Any = (),
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> Doc:
    """`name` is "namespace/name"; `spec` is in Kubernetes' own words and may replace anything."""
    namespace, _, short = name.partition("/")
    metadata = {"namespace": namespace, "name": short, **({"creationTimestamp": created} if created else {})}
    if annotations:
        metadata["annotations"] = dict(annotations)
    families = ["IPv6" if ":" in vip else "IPv4" for vip in vips]
    doc: Doc = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "ClusterIP",
            "clusterIP": vips[0],
            "clusterIPs": list(vips),
            "ipFamilies": families,
            "ports": list(ports),
            **spec,
        },
    }
    if ingress:
        doc["status"] = {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"} for ip in ingress]}}
    return doc


def slice_doc(name: str, service: str, family: int, ports: Sequence[Doc], endpoints: Sequence[Doc]) -> Doc:
    """`name` is the slice's own, in the namespace of `service`."""
    namespace, _, short = service.partition("/")
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": short}},
        "addressType": f"IPv{family}",
        "ports": list(ports),
        "endpoints": list(endpoints),
    }


def node_doc(
    name: str = NODE, *, zone: str = ZONE, ips: Iterable[str] = NODE_IPS.values(), pod_cidrs: Any = POD_CIDRS
) -> Doc:
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    cidrs = list(pod_cidrs.values() if isinstance(pod_cidrs, Mapping) else pod_cidrs)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs} if cidrs else {},
        "status": {"addresses": [{"type": "InternalIP", "address": ip} for ip in ips]},
    }


def service_cidr_doc(cidrs: Iterable[str] = SERVICE_CIDRS.values()) -> Doc:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": list(cidrs)},
    }


def objects(docs: Sequence[Doc]) -> list[KubeObject]:
    """The objects of these documents; all of them must be good."""
    found, bad = parse_manifest(json.dumps(list(docs)).encode(), "test")
    assert not bad, bad
    return found


def service_docs(
    name: str = "shop/cart:http",
    *,
    vip: str = "10.96.0.9",
    port: int = 80,
    proto: str = "TCP",
    target: int = 8080,
    node_port: int = 0,
    endpoints: int | Sequence[str | Doc] = 1,
    node: str = NODE,
    **spec: Any,
) -> list[Doc]:
    """One Service of one port and family, and its slice.

    `name` is "namespace/name:port". `endpoints`: how many (10.244.1.1 and so on, all
    on `node`), or their addresses, or their documents.
    """
    full, _, port_name = name.partition(":")
    family = 6 if ":" in vip else 4
    prefix = POD_CIDRS[family].partition("0/" if family == 4 else "/")[0]
    listed = [f"{prefix}{n + 1}" for n in range(endpoints)] if isinstance(endpoints, int) else endpoints
    docs = [endpoint_doc(one, node) if isinstance(one, str) else one for one in listed]
    if node_port:
        spec.setdefault("type", "NodePort")
    short = full.partition("/")[2]
    return [
        service_doc(full, [vip], [port_doc(port_name, port, proto, node_port)], **spec),
        slice_doc(f"{short}-1", full, family, [port_doc(port_name, target, proto)], docs),
    ]


def service(name: str = "shop/cart:http", **more: Any) -> list[KubeObject]:
    """The objects of `service_docs`."""
    return objects(service_docs(name, **more))


# --- a world -----------------------------------------------------------------------------------------


ALL_LINKED = Links()
OPTIONS = Options(cluster_cidrs=tuple(map(parse_prefix, CLUSTER_CIDRS.values())))


@dataclass(frozen=True, eq=False)
class World:
    """A cluster and the node it is seen from. All that follows from them is made when asked for."""

    docs: tuple[Doc, ...]
    options: Options = OPTIONS
    node: str = NODE
    addresses: tuple[str, ...] = NODE_ADDRESSES[4] + NODE_ADDRESSES[6]
    links: Links = ALL_LINKED

    def __repr__(self) -> str:
        docs = "\n".join(json.dumps(doc) for doc in self.docs)
        return f"World(node={self.node!r}, options={self.options}, links={self.links},\n{docs})"

    @property
    def manifest(self) -> bytes:
        return json.dumps(list(self.docs)).encode()

    def in_mode(self, mode: str) -> World:
        """The same cluster on a node in this mode."""
        if mode == self.options.mode:
            return self
        return replace(self, options=with_fields(self.options, mode=mode))

    @cached_property
    def objects(self) -> list[KubeObject]:
        return parse_manifest(self.manifest, "world")[0]

    @cached_property
    def snapshot(self) -> Snapshot:
        return snapshot_of(self.objects)

    @cached_property
    def facts(self) -> NodeFacts:
        node = self.snapshot.nodes.get(self.node)
        return node_facts(node, self.node, map(parse_ip, self.addresses), links=self.links)

    @cached_property
    def view(self) -> NodeView:
        return node_view(self.facts, self.options, self.snapshot.service_cidrs())

    def settler(self) -> Settler:
        """A new one that has settled everything at once."""
        settler = Settler(self.facts, self.options)
        settler.update(self.snapshot, self.snapshot.names())
        return settler

    @cached_property
    def settled(self) -> Mapping[ForwardKey, Forward]:
        return self.settler().forwards

    @cached_property
    def forwards(self) -> list[Forward]:
        return [self.settled[key] for key in sorted(self.settled)]

    @cached_property
    def oracle(self) -> Oracle:
        return Oracle(self.forwards, self.view)


def world(docs: Iterable[Doc], *, node: Doc | None = None, **more: Any) -> World:
    """A world of these documents and the usual Node; `more` are fields of `World`."""
    return World((*docs, node or node_doc()), **more)


def snapshot_of(found: Iterable[KubeObject]) -> Snapshot:
    store = Store()
    for one in found:
        store.put(one)
    return store.snapshot()


def packet(
    src: str,
    target: str,
    *,
    iif: str = "eth0",
    proto: Proto = TCP,
    remembered: tuple[str, int] | None = None,
) -> Packet:
    """`target` is "10.96.0.9:80" or "[fd00::9]:80"; `iif` "" for a packet made on the node."""
    host, _, port = target.rpartition(":")
    last = None if remembered is None else (parse_ip(remembered[0]), remembered[1])
    return Packet(parse_ip(src), parse_ip(host.strip("[]")), proto, int(port), iif, last)


# --- strategies --------------------------------------------------------------------------------------

# Who an address belongs to is fixed, as in a cluster; which Services use it is not.
_PODS = {
    4: {
        "10.244.1.1": "n1",
        "10.244.1.2": "n1",
        "10.244.1.3": "n1",
        "10.244.2.1": "n2",
        "10.244.2.10": "n2",
        "10.244.2.9": "n2",
        "10.245.0.1": "",
        "203.0.113.10": "n1",
        "203.0.113.20": "n2",
        # An address that Services may claim too: whoever is sent there has met its fate.
        "198.51.100.1": "n2",
    },
    6: {
        "fd00:10:244:1::1": "n1",
        "fd00:10:244:1::2": "n1",
        "fd00:10:244:2::1": "n2",
        "fd00:10:244:2::a": "n2",
        "2001:db8:1::10": "n1",
        "2001:db8:1::20": "n2",
    },
}
_CLUSTER_IPS = {
    4: [f"10.96.0.{n}" for n in (1, 2, 3, 10)],
    6: [f"fd00:10:96::{n}" for n in ("1", "2", "a")],
}
# Among them addresses of this node, cluster IPs of others, and one that nobody has been given.
_CAPTURED = {
    4: ["198.51.100.1", "198.51.100.2", "203.0.113.10", "192.168.7.10", "10.96.0.1", "10.96.0.77"],
    6: ["2001:db8:99::1", "2001:db8:99::2", "2001:db8:1::10", "fd00:10:96::1"],
}
_SOURCES = [
    "203.0.113.0/24",
    "203.0.113.10/32",
    "10.244.1.0/24",
    "10.244.0.0/16",
    "198.18.0.0/15",
    "198.18.0.64/26",
    "0.0.0.0/0",
    "2001:db8:1::/64",
    "fd00:10:244::/48",
    "::/0",
]
_LOOPBACK = {4: ["127.0.0.1", "127.8.0.1"], 6: ["::1"]}
_OUTSIDE = {4: ["203.0.113.99", "198.18.0.127", "8.8.8.8"], 6: ["2001:db8:1::99", "2001:4860::8888"]}
_PORTS = [
    ("alt", 8080, "TCP", 8080),
    ("http", 80, "TCP", 8080),
    ("", 443, "TCP", 8443),
    ("dns", 53, "UDP", 5353),
    ("m", 30080, "TCP", 9090),
]
_NODE_PORTS = [30080, 30081]
_CONDITIONS: list[Doc] = [
    {},
    {"ready": True, "serving": True, "terminating": False},
    {"ready": False},
    {"ready": False, "serving": False},
    {"ready": False, "serving": True, "terminating": True},
    {"ready": False, "serving": False, "terminating": True},
    {"ready": True, "serving": True, "terminating": True},
]
_NODE_PORT_ADDRESSES: list[Any] = [
    "primary",
    "primary",
    (),
    ("203.0.113.0/24",),
    ("192.168.0.0/16", "fd00:7::/64"),
    ("0.0.0.0/0",),
    ("127.0.0.0/8", "::1/128"),
    ("127.0.0.1/32", "192.168.0.0/16"),
    ("64.0.0.0/2",),
    ("10.0.0.0/8",),
]
_IIFS = ["eth0", "cni0", "veth7"]


def _some(pool: Sequence[Any], most: int, least: int = 0) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(pool), min_size=least, max_size=most, unique=True)


def _once_in(times: int) -> st.SearchStrategy[bool]:
    # Of integers hypothesis prefers small ones; of a list it draws evenly.
    return st.sampled_from([False] * (times - 1) + [True])


@st.composite
def _endpoints(draw: st.DrawFn, family: int) -> list[Doc]:
    # Whole lists of one mind are as frequent as mixed ones: most rules ask about "all" and "none".
    mixed = _some(range(len(_CONDITIONS)), 3)
    conditions = [_CONDITIONS[index] for index in draw(st.just([0]) | mixed) or [0]]
    hinted = draw(st.sampled_from(["", "", "", "zones", "nodes", "both"]))
    docs = []
    for ip in draw(_some(sorted(_PODS[family]), 5, least=draw(st.sampled_from([0, 1, 2, 3])))):
        zones = draw(_some("abc", 2)) if hinted in ("zones", "both") else []
        nodes = draw(_some(["n1", "n2"], 1)) if hinted in ("nodes", "both") else []
        said = draw(st.sampled_from(conditions))
        docs.append(endpoint_doc(ip, _PODS[family][ip], zones=zones, nodes=nodes, **said))
    return docs


@st.composite
def slices_of(
    draw: st.DrawFn, service: str, family: int, ports: Sequence[tuple[str, int, str, int]]
) -> list[Doc]:
    """Up to two slices, which may overlap and may lack some of the ports."""
    docs = []
    for number in range(draw(st.sampled_from([0, 1, 1, 1, 2, 2]))):
        has = [port for port in ports if not draw(_once_in(10))]
        named = [port_doc(name, target, proto) for name, _, proto, target in has]
        name = f"{service.partition('/')[2]}-v{family}-{number}"
        docs.append(slice_doc(name, service, family, named, draw(_endpoints(family))))
    return docs


@st.composite
def services(draw: st.DrawFn, name: str) -> list[Doc]:
    """One Service and its slices."""
    families = draw(st.sampled_from([(4,), (6,), (4, 6), (6, 4)]))
    ports = draw(st.lists(st.sampled_from(_PORTS), min_size=1, max_size=2, unique=True))
    kind = draw(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]))
    spec: Doc = {
        "type": kind,
        "internalTrafficPolicy": draw(st.sampled_from(["Cluster", "Cluster", "Local"])),
        "externalTrafficPolicy": draw(st.sampled_from(["Cluster", "Local"])),
    }
    captured = [ip for family in families for ip in _CAPTURED[family]]
    if draw(st.booleans()):
        spec["externalIPs"] = draw(_some(captured, 2))
    if draw(_once_in(4)):
        timeout = draw(st.sampled_from([60, 10800]))
        spec |= {
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": timeout}},
        }
    if kind == "LoadBalancer":
        spec["loadBalancerSourceRanges"] = draw(st.just([]) | _some(_SOURCES, 3, 1))
        spec["healthCheckNodePort"] = 32000
    annotations = {
        f"kubeway.io/{word}": draw(st.sampled_from(values))
        for word, values in {"balance": sorted(BALANCES), "demote": ["true", "false"], "hold": ["7s"]}.items()
        if draw(_once_in(3))
    }
    docs = [
        service_doc(
            name,
            [draw(st.sampled_from(_CLUSTER_IPS[family])) for family in families],
            [
                port_doc(named, port, proto, draw(st.sampled_from(_NODE_PORTS)) if kind != "ClusterIP" else 0)
                for named, port, proto, _ in ports
            ],
            created=draw(st.sampled_from(["", "2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"])),
            ingress=draw(_some(captured, 2)) if kind == "LoadBalancer" else (),
            annotations=annotations,
            **spec,
        )
    ]
    for family in families:
        docs += draw(slices_of(name, family, ports))
    return docs


@st.composite
def options(draw: st.DrawFn) -> Options:
    cidrs = draw(st.sampled_from([(), (4,), (6,), (4, 6)]))
    node_ports = draw(st.sampled_from(_NODE_PORT_ADDRESSES))
    return Options(
        cluster_cidrs=tuple(parse_prefix(CLUSTER_CIDRS[family]) for family in cidrs),
        detect_local=draw(
            st.sampled_from(
                ["ClusterCIDR", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]
            )
        ),
        bridge_interface="cni0",
        interface_prefix="veth",
        masquerade_all=draw(_once_in(5)),
        node_port_addresses=node_ports if node_ports == "primary" else tuple(map(parse_prefix, node_ports)),
        localhost_node_ports=draw(st.booleans()),
        drop_invalid=draw(st.booleans()),
        accounting=draw(st.booleans()),
        external_ips=not draw(_once_in(10)),
        relay_workers=draw(st.sampled_from((0, 0, 3))),
    )


@st.composite
def links(draw: st.DrawFn) -> Links:
    """Now and then there is a bridge past which pods answer each other, or no IPv6."""
    near = (
        Neighbours(parse_prefix(POD_CIDRS[4]), (parse_prefix("10.244.1.2/32"),)),
        Neighbours(parse_prefix(POD_CIDRS[6])),
        Neighbours(parse_prefix("203.0.113.0/24"), (parse_prefix(f"{NODE_IPS[4]}/32"),)),
    )
    return Links(
        families=frozenset((4,)) if draw(_once_in(10)) else frozenset((4, 6)),
        bridged=draw(st.booleans()),
        neighbours=near if draw(st.booleans()) else (),
        marks_checked=draw(st.booleans()),
    )


@st.composite
def worlds(draw: st.DrawFn, most: int = 3) -> World:
    """A small world of up to `most` Services that are likely to be in each other's way."""
    docs: list[Doc] = []
    for name in ["shop/a", "shop/b", "shop/c", "bank/a"][: draw(st.integers(1, most))]:
        docs += draw(services(name))
    if draw(st.booleans()):
        docs.append(service_cidr_doc())
    if not draw(_once_in(10)):
        ips = draw(st.sampled_from([tuple(NODE_IPS.values()), (NODE_IPS[4],), (NODE_IPS[6], NODE_IPS[4])]))
        zone = draw(st.sampled_from(["a", "a", "b", ""]))
        docs.append(node_doc(ips=ips, zone=zone, pod_cidrs=draw(st.sampled_from([POD_CIDRS, {}]))))
    return World(tuple(docs), draw(options()), links=draw(links()))


@st.composite
def packets(draw: st.DrawFn, world: World) -> Packet:
    """Packets that are likely to meet something in this world."""
    ways = [(forward, frontend) for forward in world.forwards for frontend in forward.frontends]
    if ways and not draw(_once_in(6)):
        forward, frontend = draw(st.sampled_from(ways))
        family, proto, port = forward.family, forward.proto, frontend.port
        dst = frontend.ip or draw(st.sampled_from(_ips(NODE_ADDRESSES[family])))
        endpoints = sorted({*forward.cluster, *forward.local, *forward.serving})
        edges = _edges(frontend)
    else:
        family = draw(st.sampled_from([4, 6]))
        proto, endpoints, edges = draw(st.sampled_from(sorted(PROTOS.values()))), [], []
        port, dst = (
            draw(st.sampled_from([80, 53, 30080, 30081, 8080])),
            draw(st.sampled_from(_places(family))),
        )
    if draw(_once_in(8)):
        port = draw(st.sampled_from([80, 443, 53, 30080, 30081, 9999]))
    if draw(_once_in(8)):
        dst = draw(st.sampled_from(_places(family)))
    src, iif = draw(_origin(family, edges + [e.ip for e in endpoints]))
    return Packet(src, dst, proto, port, iif, draw(_memory(family, endpoints)))


def _places(family: int) -> list[Ip]:
    """Where packets are sent: Services' addresses, used or not, and others."""
    texts = [
        *_LOOPBACK[family],
        *_CLUSTER_IPS[family],
        *_CAPTURED[family],
        *NODE_ADDRESSES[family],
        *_PODS[family],
        *_OUTSIDE[family],
    ]
    return _ips(texts)


def _ips(texts: Iterable[str]) -> list[Ip]:
    return [parse_ip(text) for text in texts]


def _edges(frontend: Frontend) -> list[Ip]:
    """The first and last addresses of its source ranges, and those beside them."""
    return [ip for prefix in frontend.sources or () for ip in _around(prefix)]


def _around(prefix: Prefix) -> list[Ip]:
    size = len(prefix.ip)
    first, last = int.from_bytes(prefix.ip, "big"), int.from_bytes(prefix.last, "big")
    numbers = [number for number in (first - 1, first, last, last + 1) if 0 <= number < 1 << size * 8]
    return [Ip(number.to_bytes(size, "big")) for number in numbers]


@st.composite
def _origin(draw: st.DrawFn, family: int, likely: list[Ip]) -> tuple[Ip, str]:
    """A source, and the interface by which it comes in."""
    kind = draw(st.sampled_from(["likely", "likely", "pod", "node", "outside"])) if likely else "pod"
    if kind == "likely":
        src = draw(st.sampled_from(likely))
    elif kind == "node":
        return draw(st.sampled_from(_ips(NODE_ADDRESSES[family]))), ""
    else:
        src = draw(st.sampled_from(_ips([*_PODS[family], *_OUTSIDE[family]])))
    own = src in _ips(NODE_ADDRESSES[family])
    return src, draw(st.sampled_from(["", "", "eth0"] if own else _IIFS))


def _memory(family: int, endpoints: list[Endpoint]) -> st.SearchStrategy[tuple[Ip, int] | None]:
    known = [(endpoint.ip, endpoint.port) for endpoint in endpoints]
    gone = [(parse_ip(next(iter(_PODS[family]))), 1)]
    return st.none() | st.sampled_from(known * 2 + gone)


def services_in(snapshot: Snapshot) -> list[Service]:
    return [snapshot.services[name] for name in sorted(snapshot.services)]


def slices_in(found: Iterable[KubeObject]) -> list[EndpointSlice]:
    return [one for one in found if isinstance(one, EndpointSlice)]
