"""The meaning of a Service: kube-proxy's decision tables, row by row, and laws over worlds."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.model.node import Options
from kubeway.model.oracle import Oracle
from kubeway.model.packet import DROP, PASS, REJECT, Fate, Packet
from kubeway.values import parse_ip, parse_prefix, show_addr
from tests.worlds import (
    OPTIONS,
    Doc,
    World,
    endpoint_doc,
    node_doc,
    packet,
    packets,
    service_cidr_doc,
    service_docs,
    world,
    worlds,
)

POD, NODE, OUTSIDE = ("10.244.1.77", "cni0"), ("203.0.113.10", ""), ("203.0.113.99", "eth0")
SOURCES = {"pod": POD, "node": NODE, "outside": OUTSIDE}
VIP, NODE_PORT, BALANCER, EXTERNAL = (
    "10.96.0.9:80",
    "203.0.113.10:30080",
    "198.51.100.2:80",
    "198.51.100.1:80",
)
TARGETS = {"ClusterIP": VIP, "NodePort": NODE_PORT, "LB": BALANCER, "ExternalIP": EXTERNAL}
HERE, THERE = "10.244.1.1:8080", "10.244.2.1:8080"


def cart(endpoints: Any = None, **spec: Any) -> list[Doc]:
    """A Service with every kind of way in, one endpoint here and one elsewhere."""
    if endpoints is None:
        endpoints = [endpoint_doc("10.244.1.1", "n1"), endpoint_doc("10.244.2.1", "n2")]
    return service_docs(
        endpoints=endpoints,
        **{
            "type": "LoadBalancer",
            "node_port": 30080,
            "externalIPs": ["198.51.100.1"],
            "ingress": ["198.51.100.2"],
            **spec,
        },
    )


def told(world: World, source: str, target: str, **more: Any) -> dict[str, Fraction]:
    """The fates in words: "10.244.1.1:8080 masqueraded", "reject"."""
    src, iif = SOURCES.get(source) or (source, "eth0")
    fates = world.oracle.fates(packet(src, target, **{"iif": iif, **more}))
    return {str(fate): chance for fate, chance in fates.items()}


def alike(*words: str) -> dict[str, Fraction]:
    return dict.fromkeys(words, Fraction(1, len(words)))


ALL, ALL_M = alike(HERE, THERE), alike(f"{HERE} masqueraded", f"{THERE} masqueraded")
LOC, LOC_M = alike(HERE), alike(f"{HERE} masqueraded")

# Chapter 4.4: a detector is there, masquerade-all is off.
_CLUSTER = {"externalTrafficPolicy": "Cluster"}
_EXTERNAL_LOCAL = {"externalTrafficPolicy": "Local"}
_INTERNAL_LOCAL = {"internalTrafficPolicy": "Local"}
MASQUERADING = [
    (_CLUSTER, "ClusterIP", {"pod": ALL, "node": ALL_M, "outside": ALL_M}),
    (_CLUSTER, "NodePort", {"pod": ALL_M, "node": ALL_M, "outside": ALL_M}),
    (_CLUSTER, "LB", {"pod": ALL_M, "node": ALL_M, "outside": ALL_M}),
    (_CLUSTER, "ExternalIP", {"pod": ALL_M, "node": ALL_M, "outside": ALL_M}),
    (_EXTERNAL_LOCAL, "ClusterIP", {"pod": ALL, "node": ALL_M, "outside": ALL_M}),
    (_EXTERNAL_LOCAL, "NodePort", {"pod": ALL, "node": ALL_M, "outside": LOC}),
    (_EXTERNAL_LOCAL, "LB", {"pod": ALL, "node": ALL_M, "outside": LOC}),
    (_EXTERNAL_LOCAL, "ExternalIP", {"pod": ALL, "node": ALL_M, "outside": LOC}),
    (_INTERNAL_LOCAL, "ClusterIP", {"pod": LOC, "node": LOC_M, "outside": LOC_M}),
    (_INTERNAL_LOCAL, "NodePort", {"pod": ALL_M, "node": ALL_M, "outside": ALL_M}),
    (_INTERNAL_LOCAL, "LB", {"pod": ALL_M, "node": ALL_M, "outside": ALL_M}),
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("spec", "target", "wanted"), MASQUERADING)
def test_endpoints_and_masquerading(spec: Doc, target: str, wanted: Any, source: str) -> None:
    assert told(world(cart(**spec)), source, TARGETS[target]) == wanted[source]


@pytest.mark.parametrize(
    ("spec", "target", "source", "wanted"),
    [
        (_CLUSTER, "ClusterIP", "node", ALL),
        (_CLUSTER, "ClusterIP", "outside", ALL),
        (_CLUSTER, "NodePort", "pod", ALL_M),
        (_EXTERNAL_LOCAL, "NodePort", "pod", LOC),
        (_EXTERNAL_LOCAL, "LB", "pod", LOC),
        (_EXTERNAL_LOCAL, "LB", "node", ALL_M),
    ],
)
def test_without_a_detector(spec: Doc, target: str, source: str, wanted: Any) -> None:
    assert told(world(cart(**spec), options=Options()), source, TARGETS[target]) == wanted


@pytest.mark.parametrize("source", SOURCES)
def test_masquerade_all_is_of_cluster_ips_only(source: str) -> None:
    options = Options(masquerade_all=True, cluster_cidrs=OPTIONS.cluster_cidrs)
    seen = world(cart(**_EXTERNAL_LOCAL), options=options)
    assert told(seen, source, VIP) == ALL_M
    assert told(seen, source, BALANCER) == {"pod": ALL, "node": ALL_M, "outside": LOC}[source]


# --- verdicts: chapter 3.4 -------------------------------------------------------------------------

_NOBODY: list[Doc] = []
_ELSEWHERE = [endpoint_doc("10.244.2.1", "n2")]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("target", TARGETS)
def test_nobody_anywhere_rejects(target: str, source: str) -> None:
    for spec in (_CLUSTER, _EXTERNAL_LOCAL, _INTERNAL_LOCAL):
        assert told(world(cart(_NOBODY, **spec)), source, TARGETS[target]) == alike("reject")
        unready = [endpoint_doc("10.244.1.1", "n1", ready=False)]
        assert told(world(cart(unready, **spec)), source, TARGETS[target]) == alike("reject")


@pytest.mark.parametrize("source", SOURCES)
def test_nobody_here_drops(source: str) -> None:
    assert told(world(cart(_ELSEWHERE, **_INTERNAL_LOCAL)), source, VIP) == alike("drop")
    # Only a ClusterIP: the Cluster list is not even made.
    plain = service_docs(endpoints=_ELSEWHERE, internalTrafficPolicy="Local")
    assert told(world(plain), source, VIP) == alike("drop")


@pytest.mark.parametrize("target", ["NodePort", "LB", "ExternalIP"])
def test_nobody_here_but_pods_and_the_node_are_served(target: str) -> None:
    seen = world(cart(_ELSEWHERE, **_EXTERNAL_LOCAL))
    assert told(seen, "outside", TARGETS[target]) == alike("drop")
    assert told(seen, "pod", TARGETS[target]) == alike(THERE)
    assert told(seen, "node", TARGETS[target]) == alike(f"{THERE} masqueraded")


# --- source ranges ---------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoints", [None, _NOBODY])
def test_source_ranges_come_first(endpoints: Any) -> None:
    docs = cart(endpoints, loadBalancerSourceRanges=["203.0.113.64/26", "10.244.1.0/24"])
    seen = world(docs)
    inside = ALL_M if endpoints is None else alike("reject")
    assert told(seen, "203.0.113.64", BALANCER) == inside
    assert told(seen, "203.0.113.127", BALANCER) == inside
    assert told(seen, "203.0.113.63", BALANCER) == alike("drop")
    assert told(seen, "203.0.113.128", BALANCER) == alike("drop")
    assert told(seen, "pod", BALANCER) == inside
    assert told(seen, "node", BALANCER) == alike("drop")
    # Of the load balancer's addresses only.
    assert told(seen, "203.0.113.63", NODE_PORT) == inside
    assert told(seen, "203.0.113.63", EXTERNAL) == inside


# --- node ports ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "accepting"),
    [
        ("primary", ["203.0.113.10"]),
        ((), ["203.0.113.10", "192.168.7.10"]),
        (("192.168.0.0/16",), ["192.168.7.10"]),
        (("127.0.0.0/8",), []),
    ],
)
def test_node_port_addresses(addresses: Any, accepting: list[str]) -> None:
    chosen = addresses if addresses == "primary" else tuple(map(parse_prefix, addresses))
    options = Options(node_port_addresses=chosen, cluster_cidrs=OPTIONS.cluster_cidrs)
    for endpoints, wanted in ((None, ALL_M), (_NOBODY, alike("reject"))):
        seen = world(cart(endpoints), options=options)
        for ip in ("203.0.113.10", "192.168.7.10", "127.0.0.1", "203.0.113.99"):
            for source in ("outside", "node"):
                verdict = wanted if ip in accepting else alike("pass")
                assert told(seen, source, f"{ip}:30080") == verdict
        assert told(seen, "outside", "203.0.113.10:30080", proto=17) == alike("pass")


def test_node_ports_at_a_link_s_own_addresses() -> None:
    """In ipvs mode there are none: each would be a server, and every pod's link has such an address."""
    ips = ("fe80::1", "2001:db8:7::1")
    docs = service_docs(vip="fd00:10:96::9", node_port=30080)
    for mode in ("nftables", "ipvs"):
        options = Options(mode=mode, node_port_addresses=())
        seen = world(docs, options=options, addresses=ips)
        found = [told(seen, "2001:db8::99", f"[{ip}]:30080") != alike("pass") for ip in ips]
        assert found == [mode != "ipvs", True]


def test_node_ports_on_loopback() -> None:
    """For what comes from this node; its addresses stay closed to others, and so do its other ports."""
    options = Options(mode="iptables", node_port_addresses=(), cluster_cidrs=OPTIONS.cluster_cidrs)
    for spec in (_CLUSTER, _EXTERNAL_LOCAL):
        seen = world(cart(**spec), options=options)
        for ip in ("127.0.0.1", "127.8.0.1"):
            assert told(seen, "127.0.0.1", f"{ip}:30080", iif="") == ALL_M
            assert told(seen, "127.0.0.1", f"{ip}:30081", iif="") == alike("pass")
            assert told(seen, "node", f"{ip}:30080") == ALL_M
            for source in ("node", "outside", "pod"):
                assert told(seen, source, f"{ip}:30081") == alike("drop")
    nobody = world(cart(_NOBODY), options=options)
    assert told(nobody, "127.0.0.1", "127.0.0.1:30080", iif="") == alike("reject")
    assert told(nobody, "outside", "127.0.0.1:30080") == alike("drop")


def test_a_relay_hides_the_client_from_whom_it_likes() -> None:
    """From this node itself too, and from every endpoint that is the client."""
    itself = "203.0.113.10:8080"
    docs = cart([endpoint_doc("203.0.113.10", "n1")])
    nat = world(docs)
    assert told(nat, "outside", VIP) == told(nat, "outside", NODE_PORT) == alike(itself)
    relayed = nat.in_mode("userspace")
    assert told(relayed, "outside", VIP) == alike(f"{itself} masqueraded")
    assert told(relayed, "outside", NODE_PORT) == alike(f"{itself} masqueraded")
    assert told(relayed, "pod", VIP) == alike(itself)
    for pod, node in (("10.244.1.1", "n1"), ("10.244.2.1", "n2")):
        meets = world(cart([endpoint_doc(pod, node)])).in_mode("userspace")
        assert told(meets, pod, VIP) == alike(f"{pod}:8080 masqueraded")


def test_a_relay_speaks_no_sctp() -> None:
    docs = service_docs("shop/a:x", vip="10.96.0.9", proto="SCTP", endpoints=2, node_port=30080)
    seen = world(docs).in_mode("userspace")
    for source in ("pod", "node", "outside"):
        for target in (VIP, NODE_PORT):
            assert told(seen, source, target, proto=132) == alike("reject")


def test_a_services_address_wins_over_a_node_port() -> None:
    docs = service_docs("shop/a:x", vip="10.96.0.1", port=30080, externalIPs=["203.0.113.10"], endpoints=0)
    docs += service_docs("shop/b:x", vip="10.96.0.2", node_port=30080)
    for source in ("outside", "node"):
        assert told(world(docs), source, NODE_PORT) == alike("reject")


def test_node_port_of_the_node_in_a_service_cidr() -> None:
    """OUTPUT is passed before INPUT, and knows no node ports."""
    docs = [*cart(_NOBODY), service_cidr_doc(["203.0.113.0/24"])]
    assert told(world(docs), "node", NODE_PORT) == alike("drop")
    assert told(world(docs), "outside", NODE_PORT) == alike("reject")


# --- what nobody owns ------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_unowned_ports_and_unallocated_addresses(source: str) -> None:
    seen = world([*cart(), service_cidr_doc()])
    assert told(seen, source, "10.96.0.9:81") == alike("reject")
    assert told(seen, source, "10.96.0.9:80", proto=17) == alike("reject")
    assert told(seen, source, "10.96.0.77:80") == alike("drop")
    assert told(seen, source, "10.97.0.77:80") == alike("pass")
    assert told(seen, source, "198.51.100.1:81") == alike("pass")
    assert told(world(cart()), source, "10.96.0.77:80") == alike("pass")


def test_a_cluster_ip_the_node_itself_has() -> None:
    """Unowned ports are rejected in FORWARD and OUTPUT; what comes in for the node is its own."""
    seen = world([*cart(), service_cidr_doc()], addresses=("10.96.0.9", "10.96.0.77", "127.0.0.1"))
    for target, made_here in (("10.96.0.9:81", "reject"), ("10.96.0.77:81", "drop")):
        assert told(seen, "outside", target) == alike("pass")
        assert told(seen, "10.96.0.77", target, iif="") == alike(made_here)


# --- hairpin, host network, affinity ---------------------------------------------------------------


def test_hairpin() -> None:
    """Only the endpoint that is the client, and only where it is on this node."""
    seen = world(cart())
    assert told(seen, "10.244.1.1", VIP) == {f"{HERE} masqueraded": Fraction(1, 2), THERE: Fraction(1, 2)}
    assert told(seen, "10.244.2.1", VIP) == ALL
    local = world(cart(**_EXTERNAL_LOCAL))
    assert told(local, "10.244.1.1", NODE_PORT)[f"{HERE} masqueraded"] == Fraction(1, 2)


def test_an_endpoint_that_is_the_node_sees_who_comes_from_outside() -> None:
    """It does not pass POSTROUTING; what the node sends to itself does."""
    seen = world(cart([endpoint_doc("203.0.113.10", "n1")]))
    assert told(seen, "outside", NODE_PORT) == alike("203.0.113.10:8080")
    assert told(seen, "outside", VIP) == alike("203.0.113.10:8080")
    assert told(seen, "node", VIP) == alike("203.0.113.10:8080 masqueraded")


@pytest.mark.parametrize("target", TARGETS)
def test_affinity(target: str) -> None:
    stays = {"remembered": ("10.244.2.1", 8080)}
    sticky = world(cart(sessionAffinity="ClientIP"))
    masqueraded = target != "ClusterIP"
    wanted = alike(f"{THERE} masqueraded" if masqueraded else THERE)
    assert told(sticky, "pod", TARGETS[target], **stays) == wanted
    # The port counts, and an endpoint that is not in the list that applies is forgotten.
    for gone in (("10.244.2.1", 1), ("10.244.9.9", 8080)):
        assert len(told(sticky, "pod", TARGETS[target], remembered=gone)) == 2
    assert len(told(world(cart()), "pod", TARGETS[target], **stays)) == 2


def test_affinity_and_the_local_list() -> None:
    seen = world(cart(sessionAffinity="ClientIP", **_EXTERNAL_LOCAL))
    assert told(seen, "outside", NODE_PORT, remembered=("10.244.2.1", 8080)) == LOC


def test_chances_are_alike() -> None:
    seen = world(service_docs(endpoints=7))
    fates = seen.oracle.fates(packet("10.244.2.1", VIP))
    assert set(fates.values()) == {Fraction(1, 7)}
    assert len(fates) == 7


def test_ipv6() -> None:
    docs = service_docs(vip="fd00:10:96::9", node_port=30080, endpoints=2)
    seen = world(docs)
    fates = seen.oracle.fates(packet("2001:db8:1::99", "[2001:db8:1::10]:30080"))
    assert {show_addr(f.ip or b"", f.port) for f in fates} == {
        "[fd00:10:244:1::1]:8080",
        "[fd00:10:244:1::2]:8080",
    }
    assert all(fate.masquerade for fate in fates)


# --- the oracle as such ----------------------------------------------------------------------------


def test_trail_gives_reasons() -> None:
    trail: list[str] = []
    seen = world(
        cart(loadBalancerSourceRanges=["203.0.113.0/24"], sessionAffinity="ClientIP", **_EXTERNAL_LOCAL)
    )
    seen.oracle.fates(packet("203.0.113.99", BALANCER, remembered=("10.244.1.1", 8080)), trail)
    assert trail == [
        "198.51.100.2:80/TCP is the LoadBalancer of shop/cart:http",
        "the client 203.0.113.99 is in its loadBalancerSourceRanges, in 203.0.113.0/24",
        "externalTrafficPolicy Local: only endpoints on this node, client address kept",
        "ClientIP affinity: it stays with 10.244.1.1:8080",
    ]


def test_refuses_what_cannot_be() -> None:
    seen = world(cart())
    with pytest.raises(ValueError, match="one family"):
        seen.oracle.fates(Packet(parse_ip("::2"), parse_ip("10.96.0.9"), seen.forwards[0].proto, 80))
    with pytest.raises(
        ValueError, match="shop/cart:http \\(TCP\\) and shop/cart:http \\(TCP\\) hold one way in"
    ):
        Oracle([seen.forwards[0], seen.forwards[0]], seen.view)


@given(worlds(), st.data())
def test_chances_add_up_and_every_answer_has_a_reason(world: World, data: st.DataObject) -> None:
    asked = data.draw(packets(world))
    trail: list[str] = []
    fates = world.oracle.fates(asked, trail)
    assert sum(fates.values()) == 1
    assert all(chance > 0 for chance in fates.values())
    assert trail
    endpoints = {(e.ip, e.port) for f in world.forwards for e in (*f.cluster, *f.local)}
    for fate in fates:
        if fate.verdict == "endpoint":
            assert (fate.ip, fate.port) in endpoints
        else:
            assert fate in (REJECT, DROP, PASS)


@given(worlds(), st.data())
def test_affinity_only_ever_narrows(world: World, data: st.DataObject) -> None:
    """Who remembers ends at one of the places where he might have ended anyway."""
    asked = data.draw(packets(world))
    fresh = Packet(asked.src, asked.dst, asked.proto, asked.port, asked.iif)
    with_memory, without = world.oracle.fates(asked), world.oracle.fates(fresh)
    assert set(with_memory) <= set(without)
    assert with_memory == without or len(with_memory) == 1


@given(worlds(), st.data())
def test_a_world_without_services_passes_everything(seen: World, data: st.DataObject) -> None:
    """Nothing is taken from a packet by a proxy that has nothing to do."""
    empty = World((node_doc(),), seen.options)
    assert empty.oracle.fates(data.draw(packets(seen))) == {Fate("pass"): 1}


# --- ipvs mode: Services' addresses are this node's own ---------------------------------


def in_ipvs(docs: list[Doc]) -> World:
    return world(docs).in_mode("ipvs")


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("target", ["10.96.0.9:81", "198.51.100.1:81", "198.51.100.2:22"])
def test_a_closed_port_of_a_services_address_is_closed(source: str, target: str) -> None:
    assert told(in_ipvs(cart()), source, target) == {"reject": 1}


def test_an_external_address_the_node_itself_has_stays_its_own() -> None:
    w = in_ipvs(cart(externalIPs=["192.168.7.10"]))
    assert told(w, "outside", "192.168.7.10:22") == {"pass": 1}


def test_health_checks_are_let_in_at_a_services_address() -> None:
    docs = cart(externalTrafficPolicy="Local", healthCheckNodePort=32000)
    assert told(in_ipvs(docs), "outside", "198.51.100.2:32000") == {"pass": 1}
    assert told(in_ipvs(docs), "outside", "198.51.100.2:32001") == {"reject": 1}


def test_an_endpoint_at_a_services_address_is_this_node() -> None:
    docs = cart(endpoints=["198.51.100.1"])
    assert told(in_ipvs(docs), "outside", VIP) == {"198.51.100.1:8080": 1}
    assert told(world(docs), "outside", VIP) == {"198.51.100.1:8080 masqueraded": 1}
