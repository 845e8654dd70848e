"""
The text that kube-proxy would hand to `iptables-restore` for the same Forwards.

Written as its iptables mode writes it (pkg/proxy/iptables/proxier.go; docs/decisions/0009): a list of all
Services, a chain per Service and one per endpoint; the parts of a rule in its order; and of a
cluster with more than 1,000 endpoints no comments but the list's.

Knows cluster IPs only, as the worlds of the bench have no other way in.
"""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Collection, Iterable, Iterator
from hashlib import sha256
from typing import Final

from kubeway.model.forward import Endpoint, Forward, ServicePortName
from kubeway.values import PROTO_NAMES, Prefix, show_addr, show_ip

LARGE: Final = 1000
"""With more endpoints than this, kube-proxy leaves out the comments of the Services' own chains."""

_MARK: Final = "0x4000"
_FILTER: Final = (
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-FORWARD",
    "KUBE-NODEPORTS",
    "KUBE-PROXY-FIREWALL",
)
_NAT: Final = ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ")

JUMPS: Final = """\
*filter
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" \
-j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" \
-j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" \
-j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" \
-j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" \
-j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
COMMIT
"""
"""What it makes one by one before its first restore: the ways from the hooks to its chains."""


def restore(
    forwards: Collection[Forward], pods: Prefix, changed: Collection[ServicePortName] | None = None
) -> str:
    """The input of `iptables-restore --noflush --counters`; `pods` are the cluster's own clients.

    `changed`: of a partial sync, which tells all places in the lists, but the chains of these Services alone.
    """
    commented = sum(len(forward.cluster) for forward in forwards) <= LARGE
    chains, rules = list(_NAT), []
    for forward in forwards:
        if changed is None or forward.name in changed:
            made, told = _service(forward, pods, commented)
            chains += made
            rules += told
    lines = ["*filter", *_declared(_FILTER), *_refused(forwards), *_forward(), "COMMIT"]
    lines += ["*nat", *_declared(chains), *_masquerade(), *_listed(forwards), *rules, "COMMIT", ""]
    return "\n".join(lines)


def _declared(chains: Iterable[str]) -> Iterator[str]:
    return (f":{chain} - [0:0]" for chain in chains)


def _refused(forwards: Iterable[Forward]) -> Iterator[str]:
    for forward in forwards:
        if not forward.cluster:
            yield (
                f'-A KUBE-SERVICES -m comment --comment "{forward.name} has no endpoints" {_to(forward)} '
                "-j REJECT"
            )


def _forward() -> Iterator[str]:
    yield "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"
    yield (
        f'-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark {_MARK}/{_MARK} '
        "-j ACCEPT"
    )
    yield (
        '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" '
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    )


def _masquerade() -> Iterator[str]:
    yield f"-A KUBE-POSTROUTING -m mark ! --mark {_MARK}/{_MARK} -j RETURN"
    yield f"-A KUBE-POSTROUTING -j MARK --xor-mark {_MARK}"
    yield (
        '-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" '
        "-j MASQUERADE --random-fully"
    )
    yield f"-A KUBE-MARK-MASQ -j MARK --or-mark {_MARK}"


def _listed(forwards: Iterable[Forward]) -> Iterator[str]:
    """The list that a packet walks until it meets its Service."""
    for forward in forwards:
        if forward.cluster:
            yield f"-A KUBE-SERVICES {_cluster_ip(forward)} -j {chain(forward)}"
    yield (
        '-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last '
        'rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS'
    )


def _service(forward: Forward, pods: Prefix, commented: bool) -> tuple[list[str], list[str]]:
    """The chains of one Service, and their rules."""
    if not forward.cluster:
        return [], []
    name, own = forward.name, chain(forward)
    chains, proto = [own], _proto(forward)
    rules = [f"-A {own} {_cluster_ip(forward)} ! -s {pods} -j KUBE-MARK-MASQ"]
    whose = f"-m comment --comment {name} " if commented else ""
    left = len(forward.cluster)
    for endpoint in forward.cluster:
        address, one = show_addr(endpoint.ip, endpoint.port), endpoint_chain(forward, endpoint)
        which = f'-m comment --comment "{name} -> {address}" ' if commented else ""
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        chains.append(one)
        rules += [
            f"-A {own} {which}{chance}-j {one}",
            f"-A {one} {whose}-s {show_ip(endpoint.ip)} -j KUBE-MARK-MASQ",
            f"-A {one} {whose}-m {proto} -p {proto} -j DNAT --to-destination {address}",
        ]
        left -= 1
    return chains, rules


def _cluster_ip(forward: Forward) -> str:
    return f'-m comment --comment "{forward.name} cluster IP" {_to(forward)}'


def _to(forward: Forward) -> str:
    (frontend,) = forward.frontends
    if frontend.ip is None or frontend.kind != "ClusterIP" or forward.internal_local or forward.affinity:
        raise ValueError(f"{forward.name}: the bench knows plain cluster IPs only")
    proto = _proto(forward)
    return f"-m {proto} -p {proto} -d {show_ip(frontend.ip)} --dport {frontend.port}"


def _proto(forward: Forward) -> str:
    return PROTO_NAMES[forward.proto].lower()


def chain(forward: Forward) -> str:
    """Of a Service: draws an endpoint."""
    return f"KUBE-SVC-{_hashed(f'{forward.name}{_proto(forward)}')}"


def endpoint_chain(forward: Forward, endpoint: Endpoint) -> str:
    address = show_addr(endpoint.ip, endpoint.port)
    return f"KUBE-SEP-{_hashed(f'{forward.name}{_proto(forward)}{address}')}"


def _hashed(text: str) -> str:
    return b32encode(sha256(text.encode()).digest()[:10]).decode()
