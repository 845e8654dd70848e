"""What ipvs mode makes of service ports, beyond its fates (tests/laws/test_fates.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from msgspec.structs import replace

from kubeway.model.node import Ipvs, NodeView
from kubeway.model.schedulers import SCHEDULERS
from kubeway.modes.chains.entries import put
from kubeway.modes.iptables import IPTABLES
from kubeway.modes.ipvs import IPVS, IpvsMode, sets
from kubeway.modes.nftables import NFTABLES
from kubeway.planes import sysctl
from kubeway.planes.ipset.objects import Set
from kubeway.planes.ipset.ours import KUBE_PROXYS, is_ours
from kubeway.planes.ipset.words import show_fields
from kubeway.planes.ipvs.objects import TIMEOUTS, Destination, Server, Timeouts
from kubeway.planes.link.objects import LINK, Address, Dummy, Route, address_key, route_key
from kubeway.planes.xtables.objects import Goto, InSet, Jump, Masquerade, Rule, Rules
from kubeway.program.link import Linker
from kubeway.program.plan import diff, steps
from kubeway.program.plane import Mode
from kubeway.program.program import Key, Object
from kubeway.values import family_of, parse_ip, parse_prefix, show_addr, show_ip
from tests.worlds import (
    NODE_ADDRESSES,
    NODE_IPS,
    OPTIONS,
    Doc,
    World,
    endpoint_doc,
    node_doc,
    service_docs,
    world,
    worlds,
)

IPVS_OPTIONS = replace(OPTIONS, mode="ipvs")


def program(w: World) -> Mapping[Key, Object]:
    linker = Linker()
    linker.update({(): IpvsMode().base(w.view)})
    linker.update({(f.name, f.family): IpvsMode().fragment(f, w.view) for f in w.forwards})
    return linker.objects


def one(*, ipvs: Ipvs | None = None, annotations: dict[str, str] | None = None, **spec: Any) -> World:
    """A node in ipvs mode with a Service."""
    docs = service_docs("shop/cart:http", **spec)
    if annotations:
        docs[0]["metadata"]["annotations"] = annotations
    return world(docs, options=replace(IPVS_OPTIONS, ipvs=ipvs or Ipvs()))


def members(objects: Mapping[Key, Object]) -> dict[str, list[str]]:
    """What is in each set that is not empty, as ipset prints it."""
    found: dict[str, list[str]] = {}
    for key in objects:
        if key.plane == "ipset" and key.kind != "set":
            found.setdefault(key.name[0], []).append(show_fields(key.name[1:]))
    return {name: sorted(some) for name, some in found.items()}


def servers(objects: Mapping[Key, Object]) -> dict[str, Server]:
    found = {key: thing for key, thing in objects.items() if isinstance(thing, Server)}
    return {show_addr(key.name[0], key.name[2]): thing for key, thing in found.items()}


def weights(objects: Mapping[Key, Object], server: str) -> dict[str, int]:
    return {
        show_addr(key.name[3], key.name[4]): thing.weight
        for key, thing in objects.items()
        if isinstance(thing, Destination) and show_addr(key.name[0], key.name[2]) == server
    }


def bound(objects: Mapping[Key, Object]) -> set[str]:
    return {show_ip(key.name[0]) for key, thing in objects.items() if isinstance(thing, Address)}


def rules(objects: Mapping[Key, Object]) -> list[Rule]:
    found: list[Rule] = []
    for thing in objects.values():
        found += thing.rules if isinstance(thing, Rules) else [thing] if isinstance(thing, Rule) else []
    return found


# --- sets -----------------------------------------------------------------------------


def test_sets_have_kube_proxys_names_and_types() -> None:
    types = {name: thing.type for name, thing in _sets(program(one())).items()}
    assert types == {
        "KUBE-LOOP-BACK": "hash:ip,port,ip",
        "KUBE-CLUSTER-IP": "hash:ip,port",
        "KUBE-EXTERNAL-IP": "hash:ip,port",
        "KUBE-EXTERNAL-IP-LOCAL": "hash:ip,port",
        "KUBE-LOAD-BALANCER": "hash:ip,port",
        "KUBE-LOAD-BALANCER-LOCAL": "hash:ip,port",
        "KUBE-LOAD-BALANCER-FW": "hash:ip,port",
        "KUBE-LOAD-BALANCER-SOURCE-IP": "hash:ip,port,ip",
        "KUBE-LOAD-BALANCER-SOURCE-CIDR": "hash:ip,port,net",
        "KUBE-NODE-PORT-TCP": "bitmap:port",
        "KUBE-NODE-PORT-UDP": "bitmap:port",
        "KUBE-NODE-PORT-LOCAL-TCP": "bitmap:port",
        "KUBE-NODE-PORT-LOCAL-UDP": "bitmap:port",
        "KUBE-NODE-PORT-SCTP-HASH": "hash:ip,port",
        "KUBE-NODE-PORT-LOCAL-SCTP-HASH": "hash:ip,port",
        "KUBE-HEALTH-CHECK-NODE-PORT": "bitmap:port",
        "KUBE-IPVS-IPS": "hash:ip",
        "KUBEWAY-DROPPED": "hash:ip,port",
        "KUBEWAY-OPEN": "hash:ip,port",
    }
    assert set(KUBE_PROXYS) == {name for name in types if name.startswith("KUBE-")}


def _sets(objects: Mapping[Key, Object], six: bool = False) -> dict[str, Set]:
    found = {key.name[0]: thing for key, thing in objects.items() if isinstance(thing, Set)}
    return {name: thing for name, thing in found.items() if ("-6-" in name) is six}


def test_sets_of_ipv6_have_names_no_longer_than_the_kernel_takes() -> None:
    objects = program(one())
    four, six = _sets(objects), _sets(objects, six=True)
    assert len(four) == len(six)
    assert {"KUBE-6-LOAD-BALANCER-SOURCE-CID", "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS"} <= set(six)
    assert max(map(len, six)) == 31
    assert all(map(is_ours, (*four, *six)))
    for name, held in (*four.items(), *six.items()):
        assert held.family == (0 if held.type == "bitmap:port" else 6 if name in six else 4)


ANYWHERE: dict[str, Any] = {
    "type": "LoadBalancer",
    "node_port": 30080,
    "externalIPs": ["198.51.100.1"],
    "ingress": ["198.51.100.2"],
    "healthCheckNodePort": 32000,
}
WAYS = ["10.96.0.9,tcp:80", "198.51.100.1,tcp:80", "198.51.100.2,tcp:80"]


def test_what_is_in_the_sets() -> None:
    endpoints = [endpoint_doc("10.244.1.1", "n1"), endpoint_doc("10.244.2.1", "n2")]
    assert members(program(one(endpoints=endpoints, **ANYWHERE))) == {
        "KUBE-LOOP-BACK": ["10.244.1.1,tcp:8080,10.244.1.1"],
        "KUBE-CLUSTER-IP": WAYS[:1],
        "KUBE-EXTERNAL-IP": WAYS[1:2],
        "KUBE-LOAD-BALANCER": WAYS[2:],
        "KUBE-NODE-PORT-TCP": ["30080"],
        "KUBE-IPVS-IPS": ["10.96.0.9", "198.51.100.1", "198.51.100.2"],
        "KUBEWAY-OPEN": WAYS,
    }


def test_what_is_in_the_sets_with_a_local_policy() -> None:
    assert members(program(one(externalTrafficPolicy="Local", **ANYWHERE))) == {
        "KUBE-LOOP-BACK": ["10.244.1.1,tcp:8080,10.244.1.1"],
        "KUBE-CLUSTER-IP": WAYS[:1],
        "KUBE-EXTERNAL-IP-LOCAL": WAYS[1:2],
        "KUBE-LOAD-BALANCER": WAYS[2:],
        "KUBE-LOAD-BALANCER-LOCAL": WAYS[2:],
        "KUBE-NODE-PORT-TCP": ["30080"],
        "KUBE-NODE-PORT-LOCAL-TCP": ["30080"],
        "KUBE-HEALTH-CHECK-NODE-PORT": ["32000"],
        "KUBE-IPVS-IPS": ["10.96.0.9", "198.51.100.1", "198.51.100.2"],
        "KUBEWAY-OPEN": WAYS,
    }


def test_udp_has_its_own_ports() -> None:
    spec: dict[str, Any] = {"proto": "UDP", "node_port": 30053, "externalTrafficPolicy": "Local"}
    found = members(program(one(**spec)))
    assert found["KUBE-NODE-PORT-UDP"] == found["KUBE-NODE-PORT-LOCAL-UDP"] == ["30053"]
    assert found["KUBE-CLUSTER-IP"] == ["10.96.0.9,udp:80"]
    assert "KUBE-NODE-PORT-TCP" not in found


def test_node_ports_of_sctp_stand_with_each_address() -> None:
    w = one(proto="SCTP", node_port=30080, externalTrafficPolicy="Local")
    everywhere = World(w.docs, replace(w.options, node_port_addresses=()))
    found = members(program(everywhere))
    places = ["192.168.7.10,sctp:30080", "203.0.113.10,sctp:30080"]
    assert found["KUBE-NODE-PORT-SCTP-HASH"] == found["KUBE-NODE-PORT-LOCAL-SCTP-HASH"] == places


@pytest.mark.parametrize(
    ("ranges", "cidrs", "own"),
    [
        (["192.0.2.0/24", "198.51.100.0/24"], ["192.0.2.0/24", "198.51.100.0/24"], True),
        (["192.0.2.0/24"], ["192.0.2.0/24"], False),
    ],
)
def test_source_ranges(ranges: list[str], cidrs: list[str], own: bool) -> None:
    found = members(program(one(**ANYWHERE, loadBalancerSourceRanges=ranges)))
    assert found["KUBE-LOAD-BALANCER-FW"] == WAYS[2:]
    assert found["KUBE-LOAD-BALANCER-SOURCE-CIDR"] == [f"{WAYS[2]},{cidr}" for cidr in cidrs]
    assert found.get("KUBE-LOAD-BALANCER-SOURCE-IP") == ([f"{WAYS[2]},198.51.100.2"] if own else None)


def test_a_prefix_of_length_zero_is_two_halves() -> None:
    """No set holds it; and who lets everybody in needs no set."""
    found = members(program(one(**ANYWHERE, loadBalancerSourceRanges=["0.0.0.0/0"])))
    assert not {"KUBE-LOAD-BALANCER-FW", "KUBE-LOAD-BALANCER-SOURCE-CIDR"} & set(found)
    objects: dict[Key, Object] = {}
    for text in ("0.0.0.0/0", "::/0"):
        prefix = parse_prefix(text)
        put(objects, family_of(prefix.ip), sets.SOURCE_CIDR, prefix.ip, 6, 80, prefix)
    assert [show_fields(key.name[1:]).rpartition(",")[2] for key in objects] == [
        "0.0.0.0/1",
        "128.0.0.0/1",
        "::/1",
        "8000::/1",
    ]


@pytest.mark.parametrize(
    ("node", "usable", "dropped"),
    [("n1", True, None), ("n2", True, WAYS[1:]), ("n2", False, None)],
)
def test_ways_in_that_are_served_elsewhere_only(node: str, usable: bool, dropped: list[str] | None) -> None:
    endpoints = [endpoint_doc("10.244.2.1", node, ready=usable)]
    found = members(program(one(endpoints=endpoints, externalTrafficPolicy="Local", **ANYWHERE)))
    given = found.get("KUBEWAY-DROPPED")
    # And the node port at this node's address.
    assert given == (dropped and [*dropped, "203.0.113.10,tcp:30080"])


def test_a_way_in_whose_internal_policy_finds_nobody_here() -> None:
    found = members(program(one(node="n2", internalTrafficPolicy="Local")))
    assert found["KUBEWAY-DROPPED"] == WAYS[:1]


# --- servers ---------------------------------------------------------------------------


def test_there_is_a_server_for_each_way_in() -> None:
    objects = program(one(endpoints=2, **ANYWHERE))
    assert set(servers(objects)) == {
        "10.96.0.9:80",
        "198.51.100.1:80",
        "198.51.100.2:80",
        "203.0.113.10:30080",
    }
    for server in servers(objects):
        assert weights(objects, server) == {"10.244.1.1:8080": 1, "10.244.1.2:8080": 1}


@pytest.mark.parametrize(
    ("cidrs", "places"),
    [
        ("primary", {"203.0.113.10"}),
        ((), {"203.0.113.10", "192.168.7.10"}),
        (("192.168.0.0/16",), {"192.168.7.10"}),
        (("127.0.0.0/8",), set()),
    ],
)
def test_node_ports_are_servers_at_each_accepting_address(cidrs: Any, places: set[str]) -> None:
    w = one(node_port=30080)
    chosen = cidrs if cidrs == "primary" else tuple(map(parse_prefix, cidrs))
    found = servers(program(World(w.docs, replace(w.options, node_port_addresses=chosen))))
    assert set(found) == {"10.96.0.9:80", *(f"{place}:30080" for place in places)}


def test_a_node_port_is_no_server_where_another_way_in_has_its_number() -> None:
    docs = [
        *service_docs("shop/a:http", vip="10.96.0.1", port=30080, externalIPs=["192.168.7.10"], endpoints=1),
        *service_docs("shop/b:http", vip="10.96.0.2", node_port=30080, endpoints=["10.244.1.7"]),
    ]
    w = world(docs, options=replace(IPVS_OPTIONS, node_port_addresses=()))
    objects = program(w)
    assert weights(objects, "192.168.7.10:30080") == {"10.244.1.1:8080": 1}
    assert weights(objects, "203.0.113.10:30080") == {"10.244.1.7:8080": 1}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers(scheduler: str) -> None:
    """Of the node, or of the Service. mh looks at ports, as kube-proxy has it."""
    word = {"kubeway.io/ipvs-scheduler": scheduler}
    for w in (one(ipvs=Ipvs(scheduler=scheduler)), one(ipvs=Ipvs(scheduler="lc"), annotations=word)):
        assert servers(program(w))["10.96.0.9:80"] == Server(scheduler, 0, scheduler == "mh")


def test_affinity_is_persistence() -> None:
    config = {"clientIP": {"timeoutSeconds": 60}}
    w = one(**ANYWHERE, sessionAffinity="ClientIP", sessionAffinityConfig=config)
    found = servers(program(w))
    assert len(found) == 4
    assert set(found.values()) == {Server("rr", 60)}


LEAVING = [
    endpoint_doc("10.244.1.1", "n1"),
    endpoint_doc("10.244.1.2", "n1", ready=False, serving=True, terminating=True),
    endpoint_doc("10.244.2.3", "n2", ready=False, serving=True, terminating=True),
    endpoint_doc("10.244.2.4", "n2", ready=False, serving=False, terminating=True),
]


@pytest.mark.parametrize(("scheduler", "drains"), [("rr", True), ("sh", True), ("dh", False)])
def test_who_leaves_keeps_his_connections(scheduler: str, drains: bool) -> None:
    """dh would refuse all clients of an address that falls to weight 0."""
    weighty = {"kubeway.io/ipvs-weight": "7"}
    w = one(endpoints=LEAVING, ipvs=Ipvs(scheduler=scheduler), annotations=weighty)
    leaving = {"10.244.1.2:8080": 0, "10.244.2.3:8080": 0} if drains else {}
    assert weights(program(w), "10.96.0.9:80") == {"10.244.1.1:8080": 7, **leaving}


def test_who_leaves_elsewhere_is_no_destination_of_a_local_policy() -> None:
    w = one(endpoints=LEAVING, internalTrafficPolicy="Local")
    assert weights(program(w), "10.96.0.9:80") == {"10.244.1.1:8080": 1, "10.244.1.2:8080": 0}


def test_who_leaves_serves_if_nobody_else_does() -> None:
    w = one(endpoints=LEAVING[1:])
    assert weights(program(w), "10.96.0.9:80") == {"10.244.1.2:8080": 1, "10.244.2.3:8080": 1}


# --- addresses --------------------------------------------------------------------------


def test_addresses_of_services_are_bound_with_a_route_that_says_who_asks() -> None:
    objects = program(one(**ANYWHERE))
    assert objects[LINK] == Dummy()
    assert bound(objects) == {"10.96.0.9", "198.51.100.1", "198.51.100.2"}
    for text in bound(objects):
        assert objects[route_key(parse_ip(text))] == Route(parse_ip(NODE_IPS[4]))


def test_an_address_of_this_node_is_not_bound_and_its_other_ports_stay_open() -> None:
    objects = program(one(externalIPs=["192.168.7.10"]))
    assert bound(objects) == {"10.96.0.9"}
    assert "192.168.7.10:80" in servers(objects)
    found = members(objects)
    assert found["KUBE-EXTERNAL-IP"] == ["192.168.7.10,tcp:80"]
    assert found["KUBE-IPVS-IPS"] == ["10.96.0.9"]
    assert found["KUBEWAY-OPEN"] == WAYS[:1]


@pytest.mark.parametrize(
    ("ips", "addresses", "routed"),
    [
        (NODE_IPS.values(), NODE_ADDRESSES[4] + NODE_ADDRESSES[6], True),
        ([NODE_IPS[4]], NODE_ADDRESSES[4] + NODE_ADDRESSES[6], False),
        (NODE_IPS.values(), NODE_ADDRESSES[4], False),
    ],
)
def test_a_route_needs_an_address_of_the_node(ips: Iterable[str], addresses: Any, routed: bool) -> None:
    docs = service_docs("shop/cart:http", vip="fd00:10:96::9")
    w = world(docs, node=node_doc(ips=ips), options=IPVS_OPTIONS, addresses=addresses)
    vip = parse_ip("fd00:10:96::9")
    objects = program(w)
    assert address_key(vip) in objects
    assert (route_key(vip) in objects) is routed


@given(worlds())
def test_what_is_bound_is_closed_but_for_its_ways_in(some: World) -> None:
    """And each has a server, or what is let in met this node itself."""
    w = some.in_mode("ipvs")
    objects = program(w)
    found = members(objects)
    addresses = bound(objects)
    assert {*found.get("KUBE-IPVS-IPS", ()), *found.get("KUBE-6-IPVS-IPS", ())} == addresses
    assert not addresses & {show_ip(ip) for ip in (*w.view.v4.addresses, *w.view.v6.addresses)}
    ways = [key for key in objects if key.kind == "server" and show_ip(key.name[0]) in addresses]
    opened = {*found.get("KUBEWAY-OPEN", ()), *found.get("KUBEWAY-6-OPEN", ())}
    assert opened == {show_fields(key.name) for key in ways}


# --- settings ---------------------------------------------------------------------------


def settings(**ipvs: Any) -> dict[str, str]:
    objects = program(one(ipvs=Ipvs(**ipvs)))
    return {key.name[0]: thing.text for key, thing in objects.items() if key.plane == sysctl.PLANE}


BASIC = {
    "net/ipv4/vs/conntrack": "1",
    "net/ipv4/vs/expire_nodest_conn": "1",
    "net/ipv4/vs/expire_quiescent_template": "1",
    "net/ipv4/ip_forward": "1",
}


def test_settings() -> None:
    assert settings() == BASIC
    assert settings(reuse_ports=True) == BASIC | {"net/ipv4/vs/conn_reuse_mode": "0"}
    strict = {"net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2"}
    assert settings(strict_arp=True) == BASIC | strict


def test_timeouts_are_there_if_any_was_asked_for() -> None:
    assert TIMEOUTS not in program(one())
    assert program(one(ipvs=Ipvs(udp_timeout=7)))[TIMEOUTS] == Timeouts(0, 0, 7)


# --- rules ------------------------------------------------------------------------------

_SIDES = {"bitmap:port": 1, "hash:ip": 1, "hash:ip,port": 2, "hash:ip,port,ip": 3, "hash:ip,port,net": 3}


@given(worlds())
def test_every_rule_asks_a_set_that_is_there_for_as_much_as_it_holds(some: World) -> None:
    objects = program(some.in_mode("ipvs"))
    held = {key.name[0]: thing.type for key, thing in objects.items() if isinstance(thing, Set)}
    asked = [match for rule in rules(objects) for match in rule.matches if isinstance(match, InSet)]
    assert asked
    for match in asked:
        assert len(match.sides) == _SIDES[held[match.name]], match
    # And none is there that nobody asks.
    assert {match.name for match in asked} == set(held)


@given(worlds())
def test_the_kernel_could_take_the_chains(some: World) -> None:
    objects = program(some.in_mode("ipvs"))
    chains = {key.name for key in objects if key.kind == "chain"}
    for key, thing in objects.items():
        if key.plane != "xtables" or key.kind == "chain":
            continue
        if key.kind != "jump":
            assert key.name[:3] in chains
        for rule in thing.rules if isinstance(thing, Rules) else [thing]:
            if isinstance(rule.target, Jump | Goto):
                assert (*key.name[:2], rule.target.chain) in chains
    assert all(len(name) <= 28 for *_, name in chains)


def many(count: int, **spec: Any) -> World:
    docs: list[Doc] = []
    for n in range(count):
        vip = f"10.96.{n >> 8}.{n & 255}"
        docs += service_docs(f"shop/s{n}:http", vip=vip, node_port=30000 + n, endpoints=2, **spec)
    return world(docs, options=IPVS_OPTIONS)


def test_rules_are_as_many_for_many_services_as_for_none() -> None:
    bare = len(rules(program(many(0))))
    balanced: dict[str, Any] = {
        "type": "LoadBalancer",
        "ingress": ["198.51.100.2"],
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
    }
    assert len(rules(program(many(30)))) == len(rules(program(many(1, **balanced)))) == bare
    # But where a Local policy outside does not bind everybody.
    assert len(rules(program(many(30, externalTrafficPolicy="Local")))) > bare + 30


# --- how much changes --------------------------------------------------------------------


def test_one_endpoint_elsewhere_more_is_one_change() -> None:
    was, now = program(one(endpoints=3, node="n2")), program(one(endpoints=4, node="n2"))
    (change,) = diff(was, now)
    assert (change.verb, change.key.kind, change.new) == ("add", "destination", Destination(1))


def test_one_endpoint_of_this_node_more_may_meet_itself_besides() -> None:
    was, now = program(one(endpoints=3)), program(one(endpoints=4))
    added = {change.key.kind: change.key.name for change in diff(was, now) if change.verb == "add"}
    assert len(list(diff(was, now))) == len(added) == 2
    assert added["entry"][0] == "KUBE-LOOP-BACK"
    assert "destination" in added


def test_an_endpoint_that_leaves_is_one_change() -> None:
    leaving = endpoint_doc("10.244.2.2", "n2", ready=False, serving=True, terminating=True)
    before = [endpoint_doc("10.244.2.1", "n2"), endpoint_doc("10.244.2.2", "n2")]
    was, now = program(one(endpoints=before)), program(one(endpoints=[before[0], leaving]))
    (change,) = diff(was, now)
    assert (change.verb, change.old, change.new) == ("set", Destination(1), Destination(0))


def test_a_plan_builds_upward_and_clears_downward() -> None:
    """What says that somebody is behind a way in comes after ipvs, and an address last of all."""
    w = one(**ANYWHERE, ipvs=Ipvs(udp_timeout=7))
    objects = program(w)
    order = ["sysctl", "ipset", "xtables", "ipvs", "ipset", "link"]
    there = steps(diff({}, objects), IPVS.planes)
    assert [step.plane for step in there] == order
    assert [step.plane for step in steps(diff(objects, {}), IPVS.planes)] == order[::-1]
    # Nor does anybody ask from the Service's own address meanwhile.
    assert [change.key.kind for change in there[5].changes] == ["link", *["route"] * 3, *["address"] * 3]
    late = {change.key.name[0] for change in there[4].changes}
    assert late == {"KUBEWAY-OPEN"}
    assert not {change.key.name[0] for change in there[1].changes if change.key.kind != "set"} & late


# --- what fragments depend on --------------------------------------------------------------


def other(view: NodeView) -> NodeView:
    """A view of the same shape of which all else differs."""
    families = [
        replace(family, service_cidrs=(parse_prefix(cidr),), loopback=not family.loopback)
        for family, cidr in ((view.v4, "10.1.0.0/16"), (view.v6, "fd00:1::/64"))
    ]
    if view.ipvs is None:
        ip = parse_ip("192.0.2.77"), parse_ip("2001:db8:77::1")
        families = [
            replace(family, addresses=family.addresses | {one}, node_ports=(one,), source=one)
            for family, one in zip(families, ip, strict=True)
        ]
    v4, v6 = families
    return replace(view, v4=v4, v6=v6, drop_invalid=not view.drop_invalid, accounting=not view.accounting)


@pytest.mark.parametrize("mode", [NFTABLES, IPTABLES, IPVS], ids=lambda mode: mode.name)
@given(some=worlds())
def test_fragments_depend_on_nothing_of_the_view_but_its_shape(mode: Mode, some: World) -> None:
    w = some.in_mode(mode.name)
    changed = other(w.view)
    assert changed.shape == w.view.shape
    assert changed != w.view
    for forward in w.forwards:
        first, second = mode.fragment(forward, w.view), mode.fragment(forward, changed)
        assert first.origin == second.origin
        assert dict(first.objects) == dict(second.objects)


def test_masquerading_ends_the_way_of_whoever_meets_himself() -> None:
    hairpins = [
        rule
        for rule in rules(program(one()))
        if any(isinstance(match, InSet) and match.name == sets.LOOP_BACK for match in rule.matches)
    ]
    assert [rule.target for rule in hairpins] == [Masquerade()]
