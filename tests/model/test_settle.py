"""Services to Forwards: ways in, policies, who holds what; updates end where settling at once does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kubeway.model import settle
from kubeway.model.forward import Forward, Frontend, HealthPort, Lost, ServiceName, ServicePortName
from kubeway.model.node import NodeFacts, Options
from kubeway.model.objects import Identity, Service
from kubeway.model.settle import Settler, settle_service
from kubeway.model.store import Store
from kubeway.values import TCP, UDP, family_of, parse_ip, parse_prefix, show_ip
from tests.worlds import (
    Doc,
    World,
    endpoint_doc,
    node_doc,
    port_doc,
    service,
    service_doc,
    service_docs,
    services_in,
    slice_doc,
    snapshot_of,
    world,
    worlds,
)

FACTS = NodeFacts(name="n1", ips=(parse_ip("203.0.113.10"), parse_ip("2001:db8::10")), zone="a")
CART = ServicePortName("shop", "cart", "http", TCP)


def only(docs: list[Doc], **more: Any) -> Forward:
    (forward,) = world(docs, **more).forwards
    return forward


def ways(forward: Forward) -> list[str]:
    return [f"{f.kind} {show_ip(f.ip) if f.ip else '*'}:{f.port}" for f in forward.frontends]


# --- ways in -----------------------------------------------------------------------------------------


def test_every_way_in() -> None:
    docs = service_docs(
        type="LoadBalancer",
        node_port=30080,
        externalIPs=["198.51.100.1"],
        ingress=["198.51.100.2"],
        endpoints=2,
    )
    forward = only(docs)
    assert forward.name == CART
    assert ways(forward) == [
        "ClusterIP 10.96.0.9:80",
        "LoadBalancer 198.51.100.2:80",
        "ExternalIP 198.51.100.1:80",
        "NodePort *:30080",
    ]
    assert [show_ip(e.ip) for e in forward.cluster] == ["10.244.1.1", "10.244.1.2"]
    assert forward.usable


def test_an_address_of_two_kinds_is_of_the_first() -> None:
    docs = service_docs(externalIPs=["198.51.100.2", "10.96.0.9"], ingress=["198.51.100.2"])
    assert ways(only(docs)) == ["ClusterIP 10.96.0.9:80", "LoadBalancer 198.51.100.2:80"]


def test_external_ips_can_be_switched_off() -> None:
    docs = service_docs(externalIPs=["198.51.100.1"], externalTrafficPolicy="Local")
    forward = only(docs, options=Options(external_ips=False))
    assert ways(forward) == ["ClusterIP 10.96.0.9:80"]
    # So no way in is left that the Local policy could apply to.
    assert forward.local == ()


def test_what_was_asked_of_the_relay_is_every_port_s_but_only_tcp_is_held() -> None:
    said = {"kubeway.io/balance": "p2c", "kubeway.io/demote": "true", "kubeway.io/hold": "30"}
    ports = [port_doc("http", 80), port_doc("dns", 53, "UDP"), port_doc("x", 9, "SCTP")]
    docs = [service_doc("shop/cart", ["10.96.0.9"], ports, annotations=said)]
    found = {f.name.port: (f.balance, f.demote, f.hold) for f in world(docs).forwards}
    assert found == {"http": ("p2c", True, 30), "dns": ("p2c", True, 0), "x": ("p2c", True, 0)}


def test_one_forward_for_each_port_and_family() -> None:
    ports = [port_doc("http", 80), port_doc("dns", 53, "UDP")]
    docs = [
        service_doc(
            "shop/cart", ["10.96.0.9", "fd00::9"], ports, externalIPs=["198.51.100.1", "2001:db8::5"]
        ),
        slice_doc("s4", "shop/cart", 4, [port_doc("http", 8080)], [endpoint_doc("10.244.1.1")]),
        slice_doc("s6", "shop/cart", 6, [port_doc("dns", 5353, "UDP")], [endpoint_doc("fd00::1")]),
    ]
    found = {(str(f.name), f.family): (ways(f), len(f.cluster)) for f in world(docs).forwards}
    assert found == {
        ("shop/cart:http", 4): (["ClusterIP 10.96.0.9:80", "ExternalIP 198.51.100.1:80"], 1),
        ("shop/cart:http", 6): (["ClusterIP fd00::9:80", "ExternalIP 2001:db8::5:80"], 0),
        ("shop/cart:dns", 4): (["ClusterIP 10.96.0.9:53", "ExternalIP 198.51.100.1:53"], 0),
        ("shop/cart:dns", 6): (["ClusterIP fd00::9:53", "ExternalIP 2001:db8::5:53"], 1),
    }


@pytest.mark.parametrize(
    "spec", [{"type": "ExternalName"}, {"clusterIP": "None", "clusterIPs": ["None"]}, {"clusterIP": ""}]
)
def test_what_is_not_served(spec: dict[str, Any]) -> None:
    assert world(service_docs(**spec)).forwards == []


@pytest.mark.parametrize(
    ("ranges", "sources"),
    [
        ([], None),
        (["192.0.2.0/24"], ["192.0.2.0/24"]),
        ([" 192.0.2.9/24 "], ["192.0.2.0/24"]),
        (["192.0.2.0/24", "192.0.2.128/25", "10.0.0.0/8"], ["10.0.0.0/8", "192.0.2.0/24"]),
        (["192.0.2.0/24", "0.0.0.0/0"], None),
        (["2001:db8::/32"], None),
        # This node is let in, so what it sends from the address itself is, too.
        (["203.0.113.0/24"], ["198.51.100.2/32", "198.51.100.3/32", "203.0.113.0/24"]),
    ],
)
def test_source_ranges(ranges: list[str], sources: list[str] | None) -> None:
    docs = service_docs(
        type="LoadBalancer", ingress=["198.51.100.2", "198.51.100.3"], loadBalancerSourceRanges=ranges
    )
    found = {f.kind: f.sources for f in only(docs).frontends}
    wanted = None if sources is None else tuple(map(parse_prefix, sources))
    assert found == {"ClusterIP": None, "LoadBalancer": wanted}


# --- policies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "cluster", "local"),
    [
        ({}, 2, 0),
        ({"internalTrafficPolicy": "Local"}, 0, 1),
        ({"internalTrafficPolicy": "Local", "externalIPs": ["198.51.100.1"]}, 2, 1),
        ({"externalTrafficPolicy": "Local"}, 2, 0),
        ({"externalTrafficPolicy": "Local", "externalIPs": ["198.51.100.1"]}, 2, 1),
        ({"externalTrafficPolicy": "Local", "type": "NodePort"}, 2, 0),
        ({"externalTrafficPolicy": "Local", "node_port": 30080}, 2, 1),
    ],
)
def test_lists_are_made_if_a_way_in_needs_them(spec: dict[str, Any], cluster: int, local: int) -> None:
    endpoints = [endpoint_doc("10.244.1.1", "n1"), endpoint_doc("10.244.2.1", "n2")]
    forward = only(service_docs(endpoints=endpoints, **spec))
    assert (len(forward.cluster), len(forward.local)) == (cluster, local)
    assert len(forward.serving) == 2


def test_flags() -> None:
    docs = service_docs(
        type="LoadBalancer",
        internalTrafficPolicy="Local",
        externalTrafficPolicy="Local",
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 5}},
    )
    forward = only(docs)
    assert (forward.internal_local, forward.external_local, forward.affinity) == (True, True, 5)


def test_zone_and_node_of_hints_are_this_nodes() -> None:
    endpoints = [endpoint_doc("10.244.1.1", zones="a"), endpoint_doc("10.244.2.1", zones="b")]
    for zone, count in (("a", 1), ("b", 1), ("c", 2), ("", 2)):
        assert len(only(service_docs(endpoints=endpoints), node=node_doc(zone=zone)).cluster) == count


@pytest.mark.parametrize(
    ("spec", "port"),
    [
        ({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}, 32000),
        ({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}, None),
        ({"type": "LoadBalancer", "healthCheckNodePort": 32000}, None),
        ({"type": "NodePort", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}, None),
    ],
)
def test_health_port(spec: dict[str, Any], port: int | None) -> None:
    endpoints = [
        endpoint_doc("10.244.1.1", "n1"),
        endpoint_doc("10.244.1.2", "n1", ready=False, serving=True, terminating=True),
        endpoint_doc("10.244.2.1", "n2"),
    ]
    health = world(service_docs(endpoints=endpoints, **spec)).settler().health
    name = ServiceName("shop", "cart")
    assert health == ({} if port is None else {name: HealthPort(name, port, 1)})


def test_health_counts_addresses_not_ports() -> None:
    ports = [port_doc("http", 80), port_doc("dns", 53)]
    docs = [
        service_doc(
            "shop/cart",
            ["10.96.0.9", "fd00::9"],
            ports,
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            healthCheckNodePort=32000,
        ),
        slice_doc("s1", "shop/cart", 4, ports, [endpoint_doc(f"10.244.1.{n}", "n1") for n in (1, 2)]),
        slice_doc("s2", "shop/cart", 4, ports, [endpoint_doc("10.244.1.2", "n1")]),
        slice_doc("s6", "shop/cart", 6, ports, [endpoint_doc("fd00::1", "n1")]),
    ]
    (health,) = world(docs).settler().health.values()
    assert health.endpoints == 2


# --- claims ------------------------------------------------------------------------------------------


OLD, NEW = "2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("a", "b", "winner"),
    [
        pytest.param(
            {"externalIPs": ["10.96.0.2"], "created": OLD}, {"created": NEW}, "b", id="ClusterIP first"
        ),
        pytest.param(
            {"externalIPs": ["198.51.100.1"], "created": OLD},
            {"ingress": ["198.51.100.1"]},
            "b",
            id="then balancers",
        ),
        pytest.param(
            {"externalIPs": ["198.51.100.1"], "created": NEW},
            {"externalIPs": ["198.51.100.1"], "created": OLD},
            "b",
            id="then the older",
        ),
        pytest.param(
            {"externalIPs": ["198.51.100.1"]},
            {"externalIPs": ["198.51.100.1"], "created": NEW},
            "b",
            id="one of unknown age is youngest",
        ),
        pytest.param(
            {"externalIPs": ["198.51.100.1"]}, {"externalIPs": ["198.51.100.1"]}, "a", id="then the name"
        ),
        pytest.param(
            {"node_port": 30080, "created": NEW}, {"node_port": 30080, "created": OLD}, "b", id="node port"
        ),
        pytest.param({"vip": "10.96.0.9"}, {"vip": "10.96.0.9"}, "a", id="cluster IP"),
    ],
)
def test_who_holds_what_two_claim(a: Doc, b: Doc, winner: str) -> None:
    docs = service_docs("shop/a:http", **{"vip": "10.96.0.1", **a})
    docs += service_docs("shop/b:http", **{"vip": "10.96.0.2", **b})
    for order in (docs, docs[2:] + docs[:2]):
        by_name = {f.name.service: f for f in world(order).forwards}
        loser = by_name["b" if winner == "a" else "a"]
        assert by_name[winner].lost == ()
        assert [one.holder.service for one in loser.lost] == [winner]
        assert loser.lost[0].frontend not in loser.frontends
        held = {(f.ip, f.port) for f in by_name[winner].frontends}
        assert (loser.lost[0].frontend.ip, loser.lost[0].frontend.port) in held


def test_other_protocols_ports_and_families_are_no_contest() -> None:
    docs = service_docs("shop/a:x", vip="10.96.0.1", externalIPs=["198.51.100.1"], node_port=30080)
    docs += service_docs(
        "shop/b:x", vip="10.96.0.2", externalIPs=["198.51.100.1"], node_port=30080, proto="UDP"
    )
    docs += service_docs("shop/c:x", vip="10.96.0.3", externalIPs=["198.51.100.1"], port=81, node_port=30081)
    docs += service_docs("shop/d:x", vip="fd00::4", node_port=30080)
    assert all(not f.lost for f in world(docs).forwards)


def test_the_loser_gets_it_when_the_holder_leaves() -> None:
    store = Store()
    for name, vip in (("a", "10.96.0.1"), ("b", "10.96.0.2")):
        for one in service(f"shop/{name}:http", vip=vip, externalIPs=["198.51.100.1"]):
            store.put(one)
    settler = Settler(FACTS, Options())
    first = settler.update(store.snapshot(), store.take_changed().names)
    a, b = (ServicePortName("shop", name, "http", TCP) for name in "ab")
    contested = Frontend("ExternalIP", parse_ip("198.51.100.1"), 80)
    assert first[b, 4] is not None
    assert settler.forwards[b, 4].lost == (Lost(contested, a),)

    store.drop(Identity("Service", "shop", "a"))
    second = settler.update(store.snapshot(), store.take_changed().names)
    assert second == {(a, 4): None, (b, 4): settler.forwards[b, 4]}
    assert contested in settler.forwards[b, 4].frontends
    assert settler.forwards[b, 4].lost == ()


def test_a_service_in_its_own_way_holds_by_the_ports_name() -> None:
    """The parser does not let such a Service through; the settler must not fail over it."""
    (cart,) = [one for one in service("shop/cart:http") if isinstance(one, Service)]
    twin = replace(cart, ports=(*cart.ports, replace(cart.ports[0], name="again")))
    store = Store()
    for objects in ((twin,), (cart,), (twin,)):
        for one in objects:
            store.put(one)
        settler = Settler(FACTS, Options())
        settler.update(store.snapshot(), store.take_changed().names)
        assert sum(len(f.frontends) for f in settler.forwards.values()) == 1
    settler.update(snapshot_of([cart]), [cart.name])
    assert list(settler.forwards) == [(CART, 4)]


# --- updates -----------------------------------------------------------------------------------------


def test_an_update_settles_only_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    docs = [doc for n in range(50) for doc in service_docs(f"shop/s{n}:http", vip=f"10.96.1.{n}")]
    store = Store()
    for one in world(docs).objects:
        store.put(one)
    settler = Settler(FACTS, Options())
    settler.update(store.snapshot(), store.take_changed().names)
    settled: list[ServiceName] = []

    def spy(service: Service, *rest: Any) -> Any:
        settled.append(service.name)
        return settle_service(service, *rest)

    monkeypatch.setattr(settle, "settle_service", spy)
    for one in service("shop/s7:http", vip="10.96.1.7", endpoints=3):
        store.put(one)
    changed = settler.update(store.snapshot(), store.take_changed().names)
    assert settled == [ServiceName("shop", "s7")]
    assert [(str(name), family) for name, family in changed] == [("shop/s7:http", 4)]


def test_what_changes_nothing_is_not_told() -> None:
    endpoints = [endpoint_doc("10.244.1.1", "n1"), endpoint_doc("10.244.2.1", ready=False)]
    first = world(service_docs(endpoints=endpoints))
    settler = first.settler()
    before = dict(settler.forwards)
    endpoints[1] = endpoint_doc("10.244.2.2", ready=False, serving=False)
    second = world(service_docs(endpoints=[endpoints[0], {**endpoints[1], "conditions": {"ready": False}}]))
    # The unready endpoint has another address: it is in `serving`, so that is told.
    assert settler.update(second.snapshot, [ServiceName("shop", "cart")])
    third = world(service_docs(endpoints=[endpoints[0], endpoint_doc("10.244.2.2", "n5", ready=False)]))
    assert settler.update(third.snapshot, [ServiceName("shop", "cart")]) == {}
    assert settler.update(third.snapshot, [ServiceName("shop", "unknown")]) == {}
    assert before != settler.forwards


def test_ports_that_did_not_change_keep_their_object() -> None:
    def docs(count: int) -> list[Doc]:
        listed = [endpoint_doc(f"10.244.1.{n + 1}") for n in range(count)]
        return [
            service_doc("shop/cart", ["10.96.0.9"], [port_doc("http", 80), port_doc("dns", 53, "UDP")]),
            slice_doc("s1", "shop/cart", 4, [port_doc("http", 8080)], listed),
            slice_doc("s2", "shop/cart", 4, [port_doc("dns", 53, "UDP")], [endpoint_doc("10.244.1.1")]),
        ]

    settler = world(docs(1)).settler()
    dns = settler.forwards[ServicePortName("shop", "cart", "dns", UDP), 4]
    changed = settler.update(world(docs(2)).snapshot, [ServiceName("shop", "cart")])
    assert set(changed) == {(CART, 4)}
    assert settler.forwards[dns.name, 4] is dns


@given(st.lists(worlds(2), min_size=2, max_size=3), st.data())
def test_step_by_step_is_as_at_once(many: list[World], data: st.DataObject) -> None:
    """Whatever came and went in whatever order, the outcome is that of settling the end anew."""
    facts, options = many[0].facts, many[0].options
    store, settler = Store(), Settler(facts, options)
    seen: dict[Any, Forward] = {}
    present: list[Any] = []
    for one in (one for seen_world in many for one in seen_world.objects):
        store.put(one)
        present.append(one.identity)
        if data.draw(st.integers(0, 3)) == 0:
            store.drop(data.draw(st.sampled_from(present)))
        if data.draw(st.booleans()):
            continue
        changed = settler.update(store.snapshot(), store.take_changed().names)
        for key, forward in changed.items():
            assert seen.get(key) != forward
            if forward is None:
                del seen[key]
            else:
                seen[key] = forward
        assert seen == settler.forwards
    settler.update(store.snapshot(), store.take_changed().names)
    at_once = Settler(facts, options)
    at_once.update(store.snapshot(), store.snapshot().names())
    assert dict(settler.forwards) == dict(at_once.forwards)
    assert dict(settler.health) == dict(at_once.health)


@given(worlds())
def test_each_claim_has_one_holder_and_losers_know_it(world: World) -> None:
    held: dict[Any, Forward] = {}
    for forward in world.forwards:
        for frontend in forward.frontends:
            claim = (forward.family, frontend.ip, forward.proto, frontend.port)
            assert claim not in held
            held[claim] = forward
    for forward in world.forwards:
        for one in forward.lost:
            holder = held[forward.family, one.frontend.ip, forward.proto, one.frontend.port]
            assert holder.name == one.holder != forward.name


@given(worlds())
def test_alone_and_together_differ_only_in_what_was_lost(world: World) -> None:
    for one in services_in(world.snapshot):
        alone = settle_service(one, world.snapshot.slices_of(one.name), world.facts, world.options)
        for forward in alone:
            together = world.settled[forward.name, forward.family]
            assert replace(together, frontends=forward.frontends, lost=()) == forward
            lost = {one.frontend for one in together.lost}
            kept = {replace(one, own=False, taken=()) for one in together.frontends}
            assert kept | lost == set(forward.frontends)


@given(worlds())
def test_a_node_port_knows_where_its_number_is_another_way_in(world: World) -> None:
    ways = {(f.proto, way.port, way.ip) for f in world.forwards for way in f.frontends if way.ip}
    for forward in world.forwards:
        for way in forward.frontends:
            own = [ip for ip in world.facts.addresses if (forward.proto, way.port, ip) in ways]
            family = [ip for ip in own if family_of(ip) == forward.family]
            assert way.taken == (tuple(sorted(family)) if way.ip is None else ())
            assert way.own == (way.ip in world.facts.addresses)


@given(worlds(), st.data())
def test_addresses_that_come_and_go_are_settled_as_if_they_always_had(
    world: World, data: st.DataObject
) -> None:
    settler, now = world.settler(), world.facts.addresses
    known = sorted({*now, *(way.ip for f in world.forwards for way in f.frontends if way.ip)})
    for _ in range(3):
        before = dict(settler.forwards)
        now = data.draw(st.frozensets(st.sampled_from(known)))
        changed = settler.move(now)
        fresh = Settler(replace(world.facts, addresses=now), world.options)
        fresh.update(world.snapshot, world.snapshot.names())
        assert dict(settler.forwards) == dict(fresh.forwards)
        assert changed == {key: new for key, new in settler.forwards.items() if new != before[key]}
