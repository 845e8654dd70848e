"""Manifests: what is read, what is passed over, what is told, and that nothing else ever happens."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import BadInput
from kubeway.model.forward import ServiceName
from kubeway.model.objects import (
    EndpointSlice,
    Hints,
    KubeObject,
    Node,
    NodeAddress,
    Service,
    ServiceCIDR,
    ServicePort,
    SliceEndpoint,
    SlicePort,
)
from kubeway.model.parse import decode_object, parse_manifest
from kubeway.values import TCP, UDP, parse_ip, parse_prefix
from tests.worlds import (
    Doc,
    World,
    endpoint_doc,
    port_doc,
    service_doc,
    service_docs,
    slice_doc,
    worlds,
)

SERVICE, SLICE = service_docs("shop/cart:http")


def read(text: str | bytes) -> list[KubeObject]:
    found, bad = parse_manifest(text if isinstance(text, bytes) else text.encode(), "shop.yaml")
    assert [str(one) for one in bad] == []
    return found


def problems(*docs: Any) -> list[str]:
    return [str(one) for one in parse_manifest(json.dumps(list(docs)).encode(), "shop.yaml")[1]]


def named(*docs: Any) -> list[str]:
    found, _ = parse_manifest(json.dumps(list(docs)).encode(), "shop.yaml")
    return [str(one.identity) for one in found]


# --- objects -----------------------------------------------------------------------------------------

MANIFEST = """
# A Service as people write it.
apiVersion: v1
kind: Service
metadata:
  name: cart
  namespace: shop
  creationTimestamp: 2026-01-01T00:00:00Z
  labels: {version: 1}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.010
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: dns, port: 53, protocol: UDP}
  sessionAffinity: ClientIP
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  healthCheckNodePort: 32000
  externalIPs: [198.51.100.1, 198.51.100.1]
  loadBalancerSourceRanges: ["203.0.113.7/24"]
status:
  loadBalancer:
    ingress:
    - ip: 198.51.100.2
    - {ip: 198.51.100.3, ipMode: VIP}
    - {ip: 198.51.100.4, ipMode: Proxy}
    - hostname: lb.example.com
---
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: cart-1
  namespace: shop
  labels: {kubernetes.io/service-name: cart}
addressType: IPv4
ports:
- {name: http, port: 8080}
- {name: nothing, port: null}
- {port: 9}
endpoints:
- addresses: [10.244.1.1, 10.244.1.2]
  nodeName: n1
  conditions: {ready: null, terminating: false}
- addresses: [10.244.1.3]
  conditions: {ready: false, serving: true, terminating: true}
  hints: {forZones: [{name: a}, {name: b}], forNodes: [{name: n1}]}
- addresses: []
- addresses: null
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: a, n: 1}, deletionTimestamp: 2026-01-01T00:00:00Z}
spec: {podCIDR: 10.244.1.0/24, taints: [{key: x, effect: NoSchedule}]}
status:
  addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 203.0.113.10}]
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16, fd00::/112]}
"""


def test_every_field() -> None:
    service, piece, node, cidr = read(MANIFEST)
    assert service == Service(
        name=ServiceName("shop", "cart"),
        created=1767225600,
        cluster_ips=(parse_ip("10.96.0.10"),),
        ports=(ServicePort("http", TCP, 80, 30080), ServicePort("dns", UDP, 53)),
        affinity=10800,
        internal_local=True,
        external_local=True,
        external_ips=(parse_ip("198.51.100.1"),),
        balancer_ips=(parse_ip("198.51.100.2"), parse_ip("198.51.100.3")),
        sources=(parse_prefix("203.0.113.0/24"),),
        health_port=32000,
    )
    assert piece == EndpointSlice(
        "shop",
        "cart-1",
        ServiceName("shop", "cart"),
        4,
        (SlicePort("http", TCP, 8080), SlicePort("", TCP, 9)),
        (
            SliceEndpoint(parse_ip("10.244.1.1"), "n1"),
            SliceEndpoint(parse_ip("10.244.1.3"), "", False, True, True, Hints(("a", "b"), ("n1",))),
        ),
    )
    assert node == Node(
        "n1",
        (NodeAddress("InternalIP", parse_ip("203.0.113.10")),),
        (parse_prefix("10.244.1.0/24"),),
        {"topology.kubernetes.io/zone": "a"},
        ("x",),
        True,
    )
    assert cidr == ServiceCIDR("kubernetes", (parse_prefix("10.96.0.0/16"), parse_prefix("fd00::/112")))


def test_namespace_defaults() -> None:
    (service,) = read('{"kind": "Service", "metadata": {"name": "x", "namespace": null}, "spec": null}')
    assert service == Service(ServiceName("default", "x"), unserved="without a cluster IP")


@pytest.mark.parametrize(
    ("spec", "labels", "why"),
    [
        ({"clusterIP": "None"}, {}, "headless (clusterIP None)"),
        ({"type": "ExternalName", "externalName": "x"}, {}, "of type ExternalName, which is a matter of DNS"),
        ({"clusterIP": ""}, {}, "without a cluster IP"),
        (
            {"clusterIP": "10.96.0.1"},
            {"service.kubernetes.io/service-proxy-name": ""},
            "left to another proxy (label service.kubernetes.io/service-proxy-name)",
        ),
    ],
)
def test_services_that_are_not_ours(spec: Doc, labels: Doc, why: str) -> None:
    doc = {"kind": "Service", "metadata": {"name": "x", "labels": labels}, "spec": spec}
    (service,) = read(json.dumps(doc))
    assert isinstance(service, Service)
    assert service.unserved == why


@pytest.mark.parametrize("labels", [{}, None, {"kubernetes.io/service-name": ""}, {"x": "y"}])
def test_slices_of_no_service(labels: Any) -> None:
    (piece,) = read(json.dumps({**SLICE, "metadata": {"name": "s", "labels": labels}}))
    assert isinstance(piece, EndpointSlice)
    assert (piece.service, piece.endpoints) == (None, ())


def test_slices_of_a_headless_service_are_of_none() -> None:
    labels = {"kubernetes.io/service-name": "cart", "service.kubernetes.io/headless": ""}
    (piece,) = read(json.dumps({**SLICE, "metadata": {"name": "s", "labels": labels}}))
    assert isinstance(piece, EndpointSlice)
    assert piece.service is None


@pytest.mark.parametrize(
    ("families", "ips", "wanted"),
    [
        (["IPv4", "IPv6"], ["10.96.0.1", "fd00::1"], ["10.96.0.1", "fd00::1"]),
        (["IPv6", "IPv4"], ["fd00::1", "10.96.0.1"], ["fd00::1", "10.96.0.1"]),
        (["IPv6", "IPv4"], ["fd00::1"], ["fd00::1"]),
        ([], ["fd00::1", "10.96.0.1"], ["fd00::1"]),
        (["IPv4"], [], ["10.96.0.9"]),
    ],
)
def test_cluster_ips_by_family(families: list[str], ips: list[str], wanted: list[str]) -> None:
    spec = {"clusterIP": ips[0] if ips else "10.96.0.9", "clusterIPs": ips, "ipFamilies": families}
    (service,) = read(json.dumps(service_doc("shop/cart", ["10.96.0.9"], [port_doc("", 80)], **spec)))
    assert isinstance(service, Service)
    assert service.cluster_ips == tuple(map(parse_ip, wanted))


def test_equal_parts_are_shared() -> None:
    docs = [
        slice_doc(
            f"s{n}", "shop/cart", 4, [port_doc("http", 8080)], [endpoint_doc("10.0.0.1", "n1", zones="a")]
        )
        for n in range(2)
    ]
    one, two = (piece for piece in read(json.dumps(docs)) if isinstance(piece, EndpointSlice))
    assert one.ports[0] is two.ports[0]
    assert one.endpoints[0].hints is two.endpoints[0].hints
    assert one.endpoints[0].node is two.endpoints[0].node


# --- files -------------------------------------------------------------------------------------------


@given(worlds())
def test_json_and_yaml_are_one(world: World) -> None:
    in_json = parse_manifest(world.manifest, "x")
    listed = parse_manifest(json.dumps({"kind": "List", "items": list(world.docs)}).encode(), "x")
    in_yaml = parse_manifest(yaml.safe_dump_all(world.docs).encode(), "x")
    assert in_json[0] == listed[0] == in_yaml[0]
    for _, bad in (in_json, listed, in_yaml):
        assert [str(one) for one in bad] == [str(one) for one in in_json[1]]


@pytest.mark.parametrize("dump", [json.dumps, yaml.safe_dump])
def test_lists_of_all_kinds(dump: Any) -> None:
    bare = {key: value for key, value in SERVICE.items() if key not in ("kind", "apiVersion")}
    doc = {
        "kind": "List",
        "items": [
            {"kind": "ServiceList", "apiVersion": "v1", "items": [bare]},
            {"kind": "EndpointSliceList", "items": [SLICE]},
            {"kind": "NodeList", "items": None},
            {"kind": "PodList", "items": [{"kind": "Service"}]},
            {"kind": "List"},
        ],
    }
    assert [str(one.identity) for one in read(dump(doc))] == [
        "Service shop/cart",
        "EndpointSlice shop/cart-1",
    ]


def test_other_kinds_are_passed_over() -> None:
    others = [
        {"kind": "Pod", "metadata": {"name": 3}},
        {"kind": "Service", "apiVersion": "serving.knative.dev/v1", "spec": 3},
        {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1beta1"},
        {"kind": "Deployment", "spec": {"ports": [{"port": "x"}]}},
    ]
    assert named(*others, SERVICE) == ["Service shop/cart"]
    assert problems(*others, SERVICE) == []


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n---\n", "null", "[]", "\ufeff[]", "{}\n---"])
def test_files_of_nothing(text: str) -> None:
    found, _ = parse_manifest(text.encode(), "x")
    assert found == []


def test_json_documents_set_apart_as_in_yaml() -> None:
    text = f"{json.dumps(SERVICE)}\n---\n{json.dumps(SLICE)}\n"
    assert len(read(text)) == 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            '{"kind": "Service",\n  "metadata": {"name": }}',
            "x.json:2:24: JSON is malformed: invalid character",
        ),
        ('[{"kind": "Service"}', "x.json:1:21: Input data was truncated"),
        ('\n\n{"a": 1}}', "x.json:3:9: JSON is malformed: trailing characters"),
        ("a: b\n  c: d\n", "x.json:2:4: mapping values are not allowed in this context"),
        ("a: [1\n", "x.json:2:1: did not find expected ',' or ']'"),
        ("kind: Service\nx: \x00\n", "x.json:2:4: not text: control characters are not allowed"),
        ("a: *nobody\n", "x.json:1:4: no finished value is called &nobody"),
        ("a: &a [*a]\n", "x.json:1:8: no finished value is called &a"),
        ("? [1]\n: 2\n", "x.json:1:5: a key must be text"),
    ],
)
def test_a_broken_file_is_told_with_its_place(text: str, line: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_manifest(text.encode(), "x.json")
    assert str(caught.value) == line


def test_bytes_that_are_no_text() -> None:
    for data in (b"kind: \xff\xfe", b'{"metadata": {"name": "\xff"}, "kind": "Node"}'):
        column = data.index(b"\xff") + 1
        with pytest.raises(BadInput, match=rf"^x:1:{column}: not text: "):
            parse_manifest(data, "x")


# --- objects that are bad, whole or in part ----------------------------------------------------------


def test_a_bad_object_does_not_stop_the_others() -> None:
    bad = {**SERVICE, "spec": {"ports": [{"port": "eighty"}]}}
    assert named(bad, SLICE) == ["EndpointSlice shop/cart-1"]
    assert problems(bad, SLICE) == [
        "shop.yaml: Service shop/cart: spec.ports[0].port: Expected `int | null`, got `str`"
    ]


@pytest.mark.parametrize("dump", [json.dumps, yaml.safe_dump])
@pytest.mark.parametrize(
    ("doc", "line"),
    [
        ({"kind": "Service"}, "x: Service without metadata: metadata.name: is missing"),
        (
            {"kind": "Service", "metadata": {"name": "a/b"}},
            "x: Service default/a/b: metadata.name: 'a/b' is not a name (1 to 253 letters, digits, - and .)",
        ),
        (
            {"kind": "Service", "metadata": {"name": "a\nb", "namespace": "n"}},
            "x: Service 'n/a\\nb': metadata.name: 'a\\nb' is not a name (1 to 253 letters, digits, - and .)",
        ),
        (
            {"kind": "Service", "metadata": {"name": "a", "namespace": "n\x7f"}},
            "x: Service 'n\\x7f/a': metadata.namespace: "
            "'n\\x7f' is not a name (1 to 253 letters, digits, - and .)",
        ),
        ({"kind": "Node", "metadata": {}}, "x: Node without a name: metadata.name: is missing"),
        (
            {"kind": "EndpointSlice", "metadata": {"name": "s"}, "addressType": "FQDN"},
            "x: EndpointSlice default/s: addressType: 'FQDN' is not IPv4 or IPv6",
        ),
        (
            {"kind": "Service", "metadata": {"name": 5}},
            "x: Service default/5: metadata.name: Expected `str | null`, got `int`",
        ),
        ({"metadata": {"name": "a"}}, "x: object default/a: has no kind, such as Service"),
        ({"kind": 7}, "x: document 1: kind: Expected `str | null`, got `int`"),
        ({"kind": "ServiceList", "items": 5}, "x: ServiceList: items: Expected `array | null`, got `int`"),
        ("words", "x: document 1: Expected `object`, got `str`"),
    ],
)
def test_refused_whole(dump: Any, doc: Any, line: str) -> None:
    found, bad = parse_manifest(dump([doc]).encode(), "x")
    assert found == []
    assert [str(one) for one in bad] == [line]


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (
            {"ports": [port_doc("a", 0), port_doc("http", 80)]},
            "spec.ports[0]: 0 is not a port (1 to 65535)",
        ),
        ({"ports": [{"name": "a"}, port_doc("http", 80)]}, "spec.ports[0]: has no port"),
        (
            {"ports": [port_doc("a", 1, "ICMP"), port_doc("http", 80)]},
            "spec.ports[0]: protocol 'ICMP' is not TCP, UDP or SCTP",
        ),
        (
            {"ports": [port_doc("a\nb", 1), port_doc("http", 80)]},
            "spec.ports[0]: 'a\\nb' is not a name (1 to 253 letters, digits, - and .)",
        ),
        (
            {"ports": [port_doc("http", 80, node_port=70000)]},
            "spec.ports[0].nodePort: 70000 is not a port (1 to 65535)",
        ),
        (
            {"ports": [port_doc("http", 80), port_doc("again", 80)]},
            "spec.ports[1]: an earlier port has the same protocol and the same name or number",
        ),
        (
            {"externalIPs": ["10.0.0.256"]},
            "spec.externalIPs[0]: '10.0.0.256' is not an IP address",
        ),
        (
            {"externalIPs": ["127.0.0.1"]},
            "spec.externalIPs[0]: '127.0.0.1': no Service may have a loopback address",
        ),
        ({"clusterIPs": ["10.96.0.9", "169.254.169.254"], "ipFamilies": ["IPv4", "IPv6"]}, None),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}},
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not in 1 to 86400; 10800 is used",
        ),
        (
            {"loadBalancerSourceRanges": ["10.0.0.0/8", "x"]},
            "spec.loadBalancerSourceRanges[1]: 'x' is not a CIDR such as 10.0.0.0/8",
        ),
        (
            {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": -1},
            "spec.healthCheckNodePort: -1 is not a port (1 to 65535)",
        ),
    ],
)
def test_a_bad_part_is_left_out_and_told(spec: Doc, line: str | None) -> None:
    doc = service_doc("shop/cart", ["10.96.0.9"], **{"ports": [port_doc("http", 80)], **spec})
    found, bad = parse_manifest(json.dumps(doc).encode(), "x")
    (service,) = found
    assert isinstance(service, Service)
    assert service.ports[0].name == "http"
    assert service.cluster_ips == (parse_ip("10.96.0.9"),)
    assert service.external_ips == ()
    if line is not None:
        assert [str(one) for one in bad] == [f"x: Service shop/cart: {line}"]


def test_balancer_addresses_are_refused_too() -> None:
    doc = service_doc("shop/cart", ["10.96.0.9"], [port_doc("http", 80)], ingress=["::1", "198.51.100.1"])
    found, bad = parse_manifest(json.dumps(doc).encode(), "x")
    assert isinstance(found[0], Service)
    assert found[0].balancer_ips == (parse_ip("198.51.100.1"),)
    assert [one.problem for one in bad] == ["'::1': no Service may have a loopback address"]


def test_a_firewall_that_cannot_be_read_is_not_open() -> None:
    doc = service_doc(
        "shop/cart",
        ["10.96.0.9"],
        [port_doc("http", 80)],
        ingress=["198.51.100.1"],
        loadBalancerSourceRanges=["10.0.0.0", "10.0.0.0/33"],
    )
    found, bad = parse_manifest(json.dumps(doc).encode(), "x")
    assert isinstance(found[0], Service)
    assert found[0].balancer_ips == ()
    assert bad[-1].problem == "no IPv4 range can be read; load balancer addresses of that family are left out"


def test_each_family_has_its_own_firewall() -> None:
    doc = service_doc(
        "shop/cart",
        ["10.96.0.9"],
        [port_doc("http", 80)],
        ingress=["198.51.100.1", "2001:db8::1"],
        loadBalancerSourceRanges=["10.0.0.0/33", "fd00::/8"],
    )
    found, _ = parse_manifest(json.dumps(doc).encode(), "x")
    assert isinstance(found[0], Service)
    assert found[0].balancer_ips == (parse_ip("2001:db8::1"),)


def test_bad_endpoints_are_left_out_and_told_a_few_times() -> None:
    good, bad = endpoint_doc("10.244.1.1"), endpoint_doc("10.244.1")
    doc = slice_doc(
        "s",
        "shop/cart",
        4,
        [port_doc("http", 8080), port_doc("x", 99999)],
        [good, endpoint_doc("fd00::1"), endpoint_doc("10.0.0.1", "a node"), *[bad] * 9],
    )
    found, told = parse_manifest(json.dumps(doc).encode(), "x")
    assert isinstance(found[0], EndpointSlice)
    assert found[0].ports == (SlicePort("http", TCP, 8080),)
    assert found[0].endpoints == (SliceEndpoint(parse_ip("10.244.1.1")),)
    assert [str(one) for one in told] == [
        "x: EndpointSlice shop/s: ports[1]: 99999 is not a port (1 to 65535)",
        "x: EndpointSlice shop/s: endpoints[1].addresses[0]: 'fd00::1' is not of the slice's addressType",
        "x: EndpointSlice shop/s: endpoints[2]: 'a node' is not a name (1 to 253 letters, digits, - and .)",
        "x: EndpointSlice shop/s: endpoints[3]: '10.244.1' is not an IP address",
        "x: EndpointSlice shop/s: endpoints[4]: '10.244.1' is not an IP address",
        "x: EndpointSlice shop/s: 7 more of its parts are left out",
    ]


def test_lists_in_lists_end_somewhere() -> None:
    doc: Doc = SERVICE
    for _ in range(12):
        doc = {"kind": "List", "items": [doc]}
    assert problems(doc) == ["shop.yaml: List: more than 8 lists inside each other"]


# --- one object, as the API sends it -----------------------------------------------------------------


def test_decode_object() -> None:
    (service,) = read(json.dumps(SERVICE))
    bare = {key: value for key, value in SERVICE.items() if key != "kind"}
    assert decode_object(json.dumps(bare).encode(), "Service") == (service, [])
    assert decode_object(b"{}", "Pod") == (None, [])
    found, bad = decode_object(b'{"metadata": {"name": "x"}, "spec": {"ports": 3}}', "Service")
    assert found is None
    assert [str(one) for one in bad] == ["Service default/x: spec.ports: Expected `array | null`, got `int`"]
    for raw in (b"{", b'{"spec": ' * 10_000, b'{"x": ' + b"[" * 10_000):
        with pytest.raises(BadInput, match=r"^Service from the API: "):
            decode_object(raw, "Service")


# --- any bytes ---------------------------------------------------------------------------------------

_WORDS = [
    "kind",
    "Service",
    "List",
    "EndpointSlice",
    "metadata",
    "name",
    "spec",
    "ports",
    "items",
    "a",
    "endpoints",
]
_TOKENS = [
    *"{}[]:,\"'-?&*!|>#%@ \n\t\\",
    "---\n",
    "- ",
    ": ",
    "&a ",
    "*a",
    "<<: *a",
    "1e999",
    "9" * 50,
    "\x00",
    "\xff",
]
_soup = st.lists(st.sampled_from(_WORDS + _TOKENS), max_size=40).map(
    lambda words: "".join(words).encode("latin-1")
)
_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
_fields = st.sampled_from(
    [*_WORDS, "clusterIP", "clusterIPs", "port", "addresses", "hints", "labels", "status"]
)
_values = st.recursive(
    _scalars | st.sampled_from(["Service", "Node", "List", "ServiceList", "IPv4"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_fields, inner, max_size=5),
    max_leaves=20,
)


def survives(data: bytes) -> None:
    refused = ""
    found, bad = [], []
    try:
        found, bad = parse_manifest(data, "x")
    except BadInput as problem:
        refused = str(problem)
    assert not refused or (refused.startswith("x:") and "\n" not in refused)
    assert all(str(one.identity).isprintable() for one in found)
    assert all(str(one).isprintable() for one in bad)


@given(st.binary(max_size=60) | _soup)
def test_any_bytes(data: bytes) -> None:
    survives(data)


@given(_values)
def test_any_values(value: Any) -> None:
    survives(json.dumps(value).encode())
    survives(json.dumps([{"kind": "Service", **value} if isinstance(value, dict) else value]).encode())
    survives(yaml.safe_dump(value).encode())


@given(worlds(1), st.data())
def test_any_damage(world: World, data: st.DataObject) -> None:
    """A good manifest with some bytes gone, changed or doubled."""
    raw = data.draw(st.sampled_from([world.manifest, yaml.safe_dump_all(world.docs).encode()]))
    start = data.draw(st.integers(0, len(raw)))
    end = start + data.draw(st.integers(0, 8))
    survives(raw[:start] + data.draw(st.binary(max_size=3) | st.just(raw[start:end] * 2)) + raw[end:])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"[" * 1_000_000, id="json"),
        pytest.param(b'{"kind": "Service", "x": ' * 100_000, id="json objects"),
        pytest.param(b'{"kind": "Service", "metadata": {"name": "a"}, "x": ' + b"[" * 9999, id="json inside"),
        pytest.param(b"- " * 300_000, id="yaml lists"),
        pytest.param(b"a: " + b"[" * 300_000, id="yaml flow"),
        pytest.param(b"a: " + b"{" * 300_000, id="yaml flow mappings"),
        pytest.param(b"? " * 300_000, id="yaml keys"),
    ],
)
def test_deep_nesting(data: bytes) -> None:
    with pytest.raises(BadInput):
        parse_manifest(data, "x")


def test_huge_numbers() -> None:
    digits = b"9" * 100_000
    for text in (
        b'{"kind": "Service", "spec": {"ports": [{"port": %s}]}}',
        b"kind: Service\nspec: {ports: [{port: %s}]}",
    ):
        found, bad = parse_manifest(text % digits, "x")
        assert found == []
        assert len(bad) == 1


def test_aliases_that_blow_up() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    with pytest.raises(BadInput, match=r"^x:\d+:\d+: aliases blow the document up$"):
        parse_manifest("\n".join(lines).encode(), "x")


# --- annotations -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "scheduler", "weight", "told"),
    [
        ({}, "", 1, []),
        ({"kubeway.io/ipvs-scheduler": "wlc", "kubeway.io/ipvs-weight": "65535", "x": 3}, "wlc", 65535, []),
        ({"kubeway.io/ipvs-scheduler": "fastest"}, "", 1, ["'fastest' is none of rr, wrr"]),
        ({"kubeway.io/ipvs-scheduler": 3}, "", 1, ["3 is none of rr"]),
        ({"kubeway.io/ipvs-weight": "0"}, "", 1, ["'0' is not a weight ('1' to '65535')"]),
        ({"kubeway.io/ipvs-weight": "65536"}, "", 1, ["'65536' is not a weight"]),
        ({"kubeway.io/ipvs-weight": "1000000000000"}, "", 1, ["is not a weight"]),
        ({"kubeway.io/ipvs-weight": 7}, "", 1, ["7 is not a weight"]),
    ],
)
def test_annotations_say_how_ipvs_is_to_choose(
    said: dict[str, Any], scheduler: str, weight: int, told: list[str]
) -> None:
    doc = service_doc("shop/cart", ["10.96.0.9"], [port_doc("http", 80)])
    doc["metadata"]["annotations"] = said
    found, bad = parse_manifest(json.dumps(doc).encode(), "x")
    (one,) = found
    assert isinstance(one, Service)
    assert (one.scheduler, one.weight) == (scheduler, weight)
    assert len(bad) == len(told)
    for line, part in zip(bad, told, strict=True):
        assert part in str(line)
        assert "metadata.annotations[kubeway.io/ipvs-" in str(line)


@pytest.mark.parametrize(
    ("said", "meant", "told"),
    [
        ({}, ("roundrobin", False, 0), []),
        ({"balance": "leastconn", "demote": "true", "hold": "30s"}, ("leastconn", True, 30), []),
        ({"balance": "p2c", "demote": "false", "hold": "45"}, ("p2c", False, 45), []),
        ({"balance": "sourcehash", "hold": "1m30s"}, ("sourcehash", False, 90), []),
        ({"balance": "roundrobin", "hold": "1900ms"}, ("roundrobin", False, 1), []),
        ({"hold": "0"}, ("roundrobin", False, 0), []),
        ({"hold": "5m"}, ("roundrobin", False, 300), []),
        (
            {"balance": "fastest"},
            ("roundrobin", False, 0),
            ["balance]: 'fastest' is none of roundrobin, "],
        ),
        ({"balance": ["p2c"]}, ("roundrobin", False, 0), ["balance]: ['p2c'] is none of"]),
        ({"demote": "yes"}, ("roundrobin", False, 0), ["demote]: 'yes' is neither 'true' nor 'false'"]),
        ({"demote": True}, ("roundrobin", False, 0), ["demote]: True is neither 'true' nor 'false'"]),
        ({"hold": "301"}, ("roundrobin", False, 0), ["hold]: '301' is no time from '1s' to '300s'"]),
        ({"hold": "900ms"}, ("roundrobin", False, 0), ["hold]: '900ms' is no time"]),
        ({"hold": "-3s"}, ("roundrobin", False, 0), ["hold]: '-3s' is no time"]),
        ({"hold": "long"}, ("roundrobin", False, 0), ["hold]: 'long' is no time"]),
        ({"hold": ""}, ("roundrobin", False, 0), ["hold]: '' is no time"]),
        ({"hold": 30}, ("roundrobin", False, 0), ["hold]: 30 is no time"]),
        ({"hold": "٣"}, ("roundrobin", False, 0), ["hold]: '٣' is no time"]),
        ({"hold": "9" * 5000}, ("roundrobin", False, 0), ["9' is no time"]),
        (
            {"balance": "x", "demote": "x", "hold": "x"},
            ("roundrobin", False, 0),
            ["kubeway.io/balance]", "kubeway.io/demote]", "kubeway.io/hold]"],
        ),
    ],
)
def test_annotations_say_how_the_relay_is_to_choose(
    said: dict[str, Any], meant: tuple[str, bool, int], told: list[str]
) -> None:
    doc = service_doc("shop/cart", ["10.96.0.9"], [port_doc("http", 80)])
    doc["metadata"]["annotations"] = {f"kubeway.io/{name}": value for name, value in said.items()}
    found, bad = parse_manifest(json.dumps(doc).encode(), "x")
    (one,) = found
    assert isinstance(one, Service)
    assert (one.balance, one.demote, one.hold) == meant
    assert len(bad) == len(told)
    for line, part in zip(bad, told, strict=True):
        assert part in str(line)
        assert "shop/cart: metadata.annotations[kubeway.io/" in str(line)
