"""
A scenario file: a small cluster, and what packets must come to in it.

    title: one sentence
    flags: {masquerade-all: true}       of `kubeway run`; the pods' CIDRs are given unless said otherwise
    families: [4, 6]                    6: all objects and questions again, with IPv6 twins (lab/addresses.py)
    manifests: [objects]                beside a Node `node1` and a ServiceCIDR, unless they are among them
    meanwhile: {from: HOST, to: TO}     connections made all the time, none of which may be lost
    ask: [questions]
    steps: [{then: what changes, put: [objects], drop: [KIND NS/NAME], ask: [questions]}]

A question is `from` (a host of the lab, or several), `to` (`IP:PORT/PROTO`, or several; without a protocol
TCP and UDP are both tried), perhaps `source`, `sport` and `families`, and `expect`:

    {answered: [a, b]}        each of these pods answers at times, and no other; `a:8081` says the port too
    {sticky: [a, b]}          one of these answers, always the same
    refused, timeout          a reset or an ICMP error; nothing at all
    {status: 200, local: 1}   for a health port: the HTTP status, and how many local endpoints it tells

`masqueraded` beside the first two says whether the pods see the node's address: true, false, or which do.
This file reads scenarios and repeats them for UDP and IPv6, unless told to be `brief`; it sends no packet.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from msgspec import Struct

from kubeway.lab import addresses as at

Manifest = dict[str, Any]

DEFAULTS: list[Manifest] = [
    {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node1", "labels": {"topology.kubernetes.io/zone": "zone-a"}},
        "spec": {"podCIDRs": list(at.both(at.POD_CIDR))},
        "status": {"addresses": [{"type": "InternalIP", "address": ip} for ip in at.both(at.NODE)]},
    },
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": list(at.both(at.SERVICE_CIDR))},
    },
]
KEYS = {"title", "flags", "families", "manifests", "meanwhile", "ask", "steps"}
STEP_KEYS = {"then", "put", "drop", "ask"}
ASK_KEYS = {"from", "to", "source", "sport", "families", "expect"}
OUTCOME_KEYS = {"answered", "sticky", "masqueraded", "status", "local"}


class Expect(Struct, frozen=True):
    """`kind`: answered, sticky, refused, timeout or http. `masqueraded` None: not looked at."""

    kind: str
    names: tuple[str, ...] = ()
    masqueraded: bool | tuple[str, ...] | None = None
    status: int = 0
    local: int | None = None

    def masquerades(self, name: str) -> bool | None:
        if isinstance(self.masqueraded, tuple):
            return name in self.masqueraded
        return self.masqueraded


class Ask(Struct, frozen=True):
    """One question of one host to one address."""

    host: str
    ip: str
    port: int
    proto: str
    expect: Expect
    source: str = ""
    sport: int = 0

    def __str__(self) -> str:
        source = f" ({self.source})" if self.source else ""
        to = f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"
        return f"{self.host}{source} -> {to}/{self.proto}"


class Step(NamedTuple):
    """What changes, then what is asked. `drop` names objects as `identity` does."""

    then: str
    put: list[Manifest]
    drop: list[str]
    asks: list[Ask]


class Scenario(Struct, frozen=True):
    """The first of `steps` is the beginning: all objects, nothing dropped."""

    name: str
    title: str
    flags: dict[str, Any]
    steps: list[Step]
    meanwhile: list[Ask]


def identity(manifest: Manifest) -> str:
    meta = manifest["metadata"]
    where = f"{meta['namespace']}/" if "namespace" in meta else ""
    return f"{manifest['kind']} {where}{meta['name']}"


class Extent(NamedTuple):
    """For which families and protocols to ask what is spelled for one, or for none.

    `spelled6`: whether what is spelled in IPv6 can be asked: the objects for it are there.
    """

    families: list[int]
    protos: list[str]
    spelled6: bool = True


def load(path: Path, *, brief: bool = False) -> Scenario:
    """ValueError that names the file and the part if it is not as told above.

    `brief`: nothing is repeated: IPv4 only, and TCP unless a question names its protocol.
    """
    try:
        return _scenario(path.stem, yaml.safe_load(path.read_text()), brief)
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{path.name}: {type(error).__name__}: {error}") from error


def _scenario(name: str, raw: dict[str, Any], brief: bool) -> Scenario:
    _only(KEYS, raw)
    families = raw.get("families", [4, 6])
    extent = Extent([4], ["TCP"], 6 not in families) if brief else Extent(families, ["TCP", "UDP"])
    both = 6 in extent.families
    first = {identity(m): m for m in [*copy.deepcopy(DEFAULTS), *raw["manifests"]]}
    begin = Step("at first", list(_doubled(first.values(), both)), [], list(_asks(raw["ask"], extent)))
    later = [_step(step, extent) for step in raw.get("steps", [])]
    flags = {"cluster-cidr": ",".join([at.CLUSTER_CIDR, at.twin(at.CLUSTER_CIDR)]), **raw.get("flags", {})}
    meanwhile = [{**raw["meanwhile"], "expect": {"answered": []}}] if "meanwhile" in raw else []
    return Scenario(name, raw["title"], flags, [begin, *later], list(_asks(meanwhile, extent)))


def _step(raw: dict[str, Any], extent: Extent) -> Step:
    _only(STEP_KEYS, raw)
    both = 6 in extent.families
    drop = list(raw.get("drop", []))
    if both:
        drop += [f"{name}-v6" for name in drop if name.startswith("EndpointSlice ")]
    return Step(raw["then"], list(_doubled(raw.get("put", []), both)), drop, list(_asks(raw["ask"], extent)))


def _only(known: set[str], raw: Mapping[str, Any]) -> None:
    if unknown := set(raw) - known:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _asks(raws: Iterable[dict[str, Any]], extent: Extent) -> Iterator[Ask]:
    for raw in raws:
        _only(ASK_KEYS, raw)
        expect = _expect(raw["expect"])
        for host in _many(raw["from"]):
            for to in _many(raw["to"]):
                for ask in _protocols(host, to, raw, expect, extent):
                    if ":" in ask.ip and not extent.spelled6:
                        continue
                    families = [
                        each for each in raw.get("families", extent.families) if each in extent.families
                    ]
                    yield from _families(ask, families)


def _protocols(host: str, to: str, raw: dict[str, Any], expect: Expect, extent: Extent) -> Iterator[Ask]:
    where, _, proto = to.partition("/")
    ip, _, port = where.rpartition(":")
    protos = [proto] if proto else ["TCP"] if expect.kind == "http" else extent.protos
    for each in protos:
        yield Ask(host, ip.strip("[]"), int(port), each, expect, raw.get("source", ""), raw.get("sport", 0))


def _families(ask: Ask, families: list[int]) -> Iterator[Ask]:
    """The question itself, and its twin; one that is spelled in IPv6 stands for itself only."""
    if ":" in ask.ip:
        yield ask
        return
    if 4 in families:
        yield ask
    if 6 in families:
        source = at.twin(ask.source) if ask.source else ""
        yield Ask(ask.host, at.twin(ask.ip), ask.port, ask.proto, ask.expect, source, ask.sport)


def _expect(raw: Any) -> Expect:
    if raw in ("refused", "timeout"):
        return Expect(raw)
    _only(OUTCOME_KEYS, raw)
    if "status" in raw:
        return Expect("http", status=raw["status"], local=raw.get("local"))
    kind = "sticky" if "sticky" in raw else "answered"
    masqueraded = raw.get("masqueraded")
    if isinstance(masqueraded, list):
        masqueraded = tuple(masqueraded)
    return Expect(kind, tuple(raw[kind]), masqueraded)


def _doubled(manifests: Iterable[Manifest], both: bool) -> Iterator[Manifest]:
    for manifest in manifests:
        yield _dual_stack(manifest) if both and manifest["kind"] == "Service" else manifest
        if both and manifest["kind"] == "EndpointSlice" and manifest["addressType"] == "IPv4":
            yield _twin_slice(manifest)


def _dual_stack(service: Manifest) -> Manifest:
    """The Service with a twin for every address it has; one that lists its cluster IPs stays as it is."""
    service = copy.deepcopy(service)
    spec = service["spec"]
    if "clusterIPs" in spec:
        return service
    if spec.get("clusterIP", "None") != "None":
        spec["clusterIPs"] = list(at.both(spec["clusterIP"]))
        spec |= {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]}
    for field in ("externalIPs", "loadBalancerSourceRanges"):
        if field in spec:
            spec[field] += [at.twin(text) for text in spec[field]]
    ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress", [])
    ingress += [{**entry, "ip": at.twin(entry["ip"])} for entry in ingress]
    return service


def _twin_slice(piece: Manifest) -> Manifest:
    piece = copy.deepcopy(piece)
    piece["metadata"]["name"] += "-v6"
    piece["addressType"] = "IPv6"
    for endpoint in piece["endpoints"] or []:
        endpoint["addresses"] = [at.twin(ip) for ip in endpoint["addresses"]]
    return piece
