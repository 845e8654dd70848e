"""
From the API's shape of a Service to a Service.

One bad part is left out and told, and the rest goes on, as in kube-proxy; only
a Service without a proper name is refused whole. Absent fields mean what the API
server would have filled in. No bytes here, and no policy.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from sys import intern
from typing import Final

from kubeway.model import api, balances
from kubeway.model.balances import BALANCES, LONGEST_HOLD, Balance
from kubeway.model.config_words import parse_duration
from kubeway.model.forward import ServiceName
from kubeway.model.objects import Service, ServicePort
from kubeway.model.scalars import Complain, captured, name_of, namespace_of, port_of, prefixes, proto_of, word
from kubeway.model.schedulers import MAX_WEIGHT, SCHEDULERS
from kubeway.values import V4, V6, Ip, Prefix, family_of

_FAMILIES: Final = {"IPv4": V4, "IPv6": V6}
_AFFINITY_DEFAULT: Final = 10800
_AFFINITY_MAX: Final = 86400


def service(shape: api.Service, complain: Complain) -> Service:
    """Raises BadObject if it has no proper name."""
    meta = shape.metadata or api.ServiceMetadata()
    name = ServiceName(intern(namespace_of(meta.namespace)), name_of(meta.name))
    spec = shape.spec or api.ServiceSpec()
    kind = spec.type or "ClusterIP"
    unserved = _unserved(meta, spec, kind)
    if unserved:
        return Service(name, unserved=unserved)
    cluster_ips = _cluster_ips(spec, complain)
    external_ips = captured("spec.externalIPs", spec.external_ips or (), complain)
    external_local = spec.external_traffic_policy == "Local" and (
        kind in ("LoadBalancer", "NodePort") or bool(spec.external_ips)
    )
    sources, closed = _sources(spec, complain)
    return Service(
        name,
        _created(meta, complain),
        "" if cluster_ips else "its cluster IP cannot be used",
        cluster_ips,
        _ports(spec.ports or (), complain),
        _affinity(spec, complain),
        spec.internal_traffic_policy == "Local",
        external_local,
        external_ips,
        _not_closed(_balancer_ips(shape.status, complain), closed, complain),
        sources,
        _health_port(spec, kind, external_local, complain),
        _scheduler(meta.annotations, complain),
        _weight(meta.annotations, complain),
        _balance(meta.annotations, complain),
        _demote(meta.annotations, complain),
        _hold(meta.annotations, complain),
    )


def _unserved(meta: api.ServiceMetadata, spec: api.ServiceSpec, type: str) -> str:
    if meta.labels is not None and meta.labels.proxy_name is not None:
        return "left to another proxy (label service.kubernetes.io/service-proxy-name)"
    if type == "ExternalName":
        return "of type ExternalName, which is a matter of DNS"
    if spec.cluster_ip == "None":
        return "headless (clusterIP None)"
    return "" if spec.cluster_ip else "without a cluster IP"


def _created(meta: api.ServiceMetadata, complain: Complain) -> int:
    text = meta.creation_timestamp
    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        complain("metadata.creationTimestamp", f"{text!r} is not a time such as 2026-01-31T12:00:00Z")
        return 0


def _cluster_ips(spec: api.ServiceSpec, complain: Complain) -> tuple[Ip, ...]:
    """At most one of each family: `ipFamilies` names the families of `clusterIPs`, in order."""
    first = spec.cluster_ip or ""
    if not spec.ip_families:
        return captured("spec.clusterIP", [first], complain)
    texts = spec.cluster_ips or [first]
    found: dict[int, Ip] = {}
    for index, family in enumerate(spec.ip_families[: len(texts)]):
        for ip in captured(f"spec.clusterIPs[{index}]", [texts[index]], complain):
            if _FAMILIES.get(family) != family_of(ip):
                complain(f"spec.clusterIPs[{index}]", f"{texts[index]!r} is not of family {family!r}")
            else:
                found.setdefault(family_of(ip), ip)
    return tuple(found.values())


def _ports(shapes: Iterable[api.ServicePort], complain: Complain) -> tuple[ServicePort, ...]:
    """Port by port; of two that are the same to a client the first counts."""
    found: list[ServicePort] = []
    taken: set[tuple[object, ...]] = set()
    for index, shape in enumerate(shapes):
        path = f"spec.ports[{index}]"
        try:
            name = word(shape.name) if shape.name else ""
            proto, port = proto_of(shape.protocol), port_of(shape.port)
        except ValueError as problem:
            complain(path, str(problem))
            continue
        node_port = shape.node_port or 0
        if not 0 <= node_port <= 65535:
            complain(f"{path}.nodePort", f"{node_port} is not a port (1 to 65535)")
            node_port = 0
        if (name, proto) in taken or (proto, port) in taken:
            complain(path, "an earlier port has the same protocol and the same name or number")
            continue
        if node_port and ("node", proto, node_port) in taken:
            complain(f"{path}.nodePort", f"an earlier port has node port {node_port}, too")
            node_port = 0
        taken |= {(name, proto), (proto, port), ("node", proto, node_port)}
        found.append(ServicePort(name, proto, port, node_port))
    return tuple(found)


def _affinity(spec: api.ServiceSpec, complain: Complain) -> int:
    if spec.session_affinity != "ClientIP":
        return 0
    config = spec.session_affinity_config
    seconds = config.client_ip.timeout_seconds if config and config.client_ip else None
    if seconds is None:
        return _AFFINITY_DEFAULT
    if not 1 <= seconds <= _AFFINITY_MAX:
        complain(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            f"{seconds} is not in 1 to {_AFFINITY_MAX}; {_AFFINITY_DEFAULT} is used",
        )
        return _AFFINITY_DEFAULT
    return seconds


def _sources(spec: api.ServiceSpec, complain: Complain) -> tuple[tuple[Prefix, ...], frozenset[int]]:
    """The ranges, and the families of which nobody is let in: some range cannot be read, and
    of that family not one can.

    kube-proxy would then let everybody in; a firewall that cannot be read must not be open.
    """
    texts = spec.load_balancer_source_ranges
    if not texts:
        return (), frozenset()
    found = prefixes("spec.loadBalancerSourceRanges", texts, complain)
    if len(found) == len(texts):
        return tuple(found), frozenset()
    return tuple(found), frozenset((V4, V6)) - {family_of(prefix.ip) for prefix in found}


def _not_closed(ips: tuple[Ip, ...], closed: frozenset[int], complain: Complain) -> tuple[Ip, ...]:
    """The addresses of families that anybody is let in to."""
    kept = tuple(ip for ip in ips if family_of(ip) not in closed)
    for family in sorted({family_of(ip) for ip in ips} & closed):
        complain(
            "spec.loadBalancerSourceRanges",
            f"no IPv{family} range can be read; load balancer addresses of that family are left out",
        )
    return kept


def _balancer_ips(status: api.ServiceStatus | None, complain: Complain) -> tuple[Ip, ...]:
    balancer = status.load_balancer if status else None
    if balancer is None or not balancer.ingress:
        return ()
    texts = [entry.ip for entry in balancer.ingress if entry.ip and entry.ip_mode in (None, "VIP")]
    return captured("status.loadBalancer.ingress", texts, complain)


def _health_port(spec: api.ServiceSpec, type: str, external_local: bool, complain: Complain) -> int:
    port = spec.health_check_node_port or 0
    if not port or type != "LoadBalancer" or not external_local:
        return 0
    if not 1 <= port <= 65535:
        complain("spec.healthCheckNodePort", f"{port} is not a port (1 to 65535)")
        return 0
    return port


def _scheduler(said: api.ServiceAnnotations | None, complain: Complain) -> str:
    if said is None or said.scheduler is None:
        return ""
    if not isinstance(said.scheduler, str) or said.scheduler not in SCHEDULERS:
        complain(
            "metadata.annotations[kubeway.io/ipvs-scheduler]",
            f"{said.scheduler!r} is none of {', '.join(SCHEDULERS)}; the node's own is used",
        )
        return ""
    return said.scheduler


def _weight(said: api.ServiceAnnotations | None, complain: Complain) -> int:
    if said is None or said.weight is None:
        return 1
    text = said.weight
    if isinstance(text, str) and text.isascii() and text.isdecimal() and 1 <= int(text[:6]) <= MAX_WEIGHT:
        return int(text)
    complain(
        "metadata.annotations[kubeway.io/ipvs-weight]",
        f"{text!r} is not a weight ('1' to '{MAX_WEIGHT}'); 1 is used",
    )
    return 1


def _balance(said: api.ServiceAnnotations | None, complain: Complain) -> Balance:
    if said is None or said.balance is None:
        return balances.DEFAULT
    for name in BALANCES:
        if said.balance == name:
            return name
    complain(
        "metadata.annotations[kubeway.io/balance]",
        f"{said.balance!r} is none of {', '.join(BALANCES)}; {balances.DEFAULT} is used",
    )
    return balances.DEFAULT


def _demote(said: api.ServiceAnnotations | None, complain: Complain) -> bool:
    if said is None or said.demote is None:
        return False
    if said.demote not in ("true", "false"):
        complain(
            "metadata.annotations[kubeway.io/demote]",
            f"{said.demote!r} is neither 'true' nor 'false'; 'false' is used",
        )
    return bool(said.demote == "true")


def _hold(said: api.ServiceAnnotations | None, complain: Complain) -> int:
    """Whole seconds; of a duration with a fraction, what is before it."""
    if said is None or said.hold is None:
        return 0
    text = said.hold
    if isinstance(text, str):
        try:
            seconds = int(parse_duration(f"{text}s" if text.isascii() and text.isdecimal() else text).seconds)
        except ValueError:
            seconds = -1
        if 1 <= seconds <= LONGEST_HOLD or text in ("0", "0s"):
            return seconds
    complain(
        "metadata.annotations[kubeway.io/hold]",
        f"{text!r} is no time from '1s' to '{LONGEST_HOLD}s', such as '30s', nor '0'; nobody waits",
    )
    return 0
