"""What iptables mode makes of service ports, beyond its fates (tests/laws/test_fates.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from msgspec.structs import replace

from kubeway.model.forward import Forward
from kubeway.model.packet import DROP, REJECT
from kubeway.modes.chains import dispatch
from kubeway.modes.chains.layout import front_text, hashed, suffix
from kubeway.modes.iptables import IPTABLES, IptablesMode
from kubeway.planes.sysctl import Value
from kubeway.planes.xtables.objects import (
    BRANCHING,
    MARTIANS,
    SHARED,
    Accept,
    Comment,
    CtState,
    Destination,
    Dnat,
    Drop,
    Goto,
    Jump,
    Nfacct,
    Random,
    Recent,
    Rule,
    Rules,
    branch_key,
    jump_key,
    rules_key,
)
from kubeway.planes.xtables.words import show_rule
from kubeway.program.link import Linker, Name
from kubeway.program.plan import diff, steps
from kubeway.program.program import Fragment, Key, Object
from kubeway.values import TCP, parse_ip, parse_prefix
from tests.worlds import (
    Doc,
    World,
    packet,
    port_doc,
    service_cidr_doc,
    service_doc,
    service_docs,
    world,
    worlds,
)

Fragments = dict[Name, Fragment | None]


def fill(linker: Linker, w: World, mode: IptablesMode = IPTABLES) -> None:
    linker.update({(f.name, f.family): mode.fragment(f, w.view) for f in w.forwards})


def program(w: World) -> Mapping[Key, Object]:
    linker = Linker()
    linker.update({(): IptablesMode().base(w.view)})
    fill(linker, w, IptablesMode())
    return linker.objects


def chain(objects: Mapping[Key, Object], name: str, family: str = "ip", table: str = "nat") -> list[Rule]:
    found: Rules = objects[Key("xtables", "rules", (family, table, name))]
    return list(found.rules)


def chains(objects: Iterable[Key], beginning: str) -> set[str]:
    return {key.name[2] for key in objects if key.kind == "chain" and key.name[2].startswith(beginning)}


def one(**spec: Any) -> World:
    return world(service_docs("shop/cart:http", **spec))


def forward(w: World) -> Forward:
    (found,) = w.forwards
    return found


def targets(rules: Iterable[Rule]) -> list[object]:
    return [rule.target for rule in rules]


# --- names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("ns1/svc1:p80tcp", "XPGD46QRK7WJZT7O"),
        ("ns1/svc1tcp", "AQI2S6QIMU7PVVRP"),
        ("ns3/svc3:p80udp", "SGI4TAWZPNC67VHM"),
        ("ns1/svc1:p80tcp10.180.0.1:80", "SXIVWICOYRO3J4NJ"),
    ],
)
def test_hashes_are_kube_proxys(text: str, end: str) -> None:
    assert hashed(text) == end


def test_chains_of_a_service_port_have_kube_proxys_names() -> None:
    w = world(service_docs("ns1/svc1:p80", endpoints=1))
    assert suffix(forward(w)) == "XPGD46QRK7WJZT7O"
    assert chains(program(w), "KUBE-SVC-") == {"KUBE-SVC-XPGD46QRK7WJZT7O"}


def test_jumps_stand_as_kube_proxy_leaves_them() -> None:
    objects = IPTABLES.base(one().view).objects
    found: dict[tuple[str, str], list[tuple[str, bool]]] = {}
    for key in sorted(key for key in objects if key.kind == "jump" and key.name[0] == "ip"):
        rule = objects[key]
        found.setdefault(key.name[1:3], []).append((rule.target.chain, CtState(("NEW",)) in rule.matches))
    assert found == {
        ("filter", "INPUT"): [
            ("KUBE-FIREWALL", False),
            ("KUBE-PROXY-FIREWALL", True),
            ("KUBE-NODEPORTS", False),
            ("KUBE-EXTERNAL-SERVICES", True),
        ],
        ("filter", "FORWARD"): [
            ("KUBE-PROXY-FIREWALL", True),
            ("KUBE-FORWARD", False),
            ("KUBE-SERVICES", True),
            ("KUBE-EXTERNAL-SERVICES", True),
        ],
        ("filter", "OUTPUT"): [
            ("KUBE-FIREWALL", False),
            ("KUBE-PROXY-FIREWALL", True),
            ("KUBE-SERVICES", True),
        ],
        ("nat", "PREROUTING"): [("KUBE-SERVICES", False)],
        ("nat", "OUTPUT"): [("KUBE-SERVICES", False)],
        ("nat", "POSTROUTING"): [("KUBE-POSTROUTING", False)],
    }


def test_every_way_in_is_told_by_a_comment() -> None:
    w = one(
        node_port=30080,
        type="LoadBalancer",
        ingress=["198.51.100.2"],
        externalIPs=["198.51.100.1"],
    )
    told = {
        match.text
        for key, rule in program(w).items()
        if key.kind == "branch" and key.name[1] == "nat"
        for match in rule.matches
        if isinstance(match, Comment)
    }
    assert told == {
        "shop/cart:http cluster IP",
        "shop/cart:http loadbalancer IP",
        "shop/cart:http external IP",
        "shop/cart:http",
    }


@pytest.mark.parametrize("affinity", ["None", "ClientIP"])
def test_endpoints_are_told_by_comments_unless_they_are_many(affinity: str) -> None:
    w = one(endpoints=2, sessionAffinity=affinity)
    view = w.view
    for large in (False, True):
        seen = replace(view, v4=replace(view.v4, large=large))
        rules = [
            show_rule(rule, "ip")
            for thing in IPTABLES.fragment(forward(w), seen).objects.values()
            if isinstance(thing, Rules)
            for rule in thing.rules
            if isinstance(rule.target, Dnat)
        ]
        for rule in rules:
            target = rule.rpartition(" ")[2]
            comment = f' -m comment --comment "shop/cart:http -> {target}" -j DNAT'
            assert (comment in rule) != large
        if not large:
            said = '-m comment --comment "shop/cart:http -> 10.244.1.1:8080"'
            draw = "-p tcp -m statistic --mode random --probability 0.50000000000"
            assert any(rule.startswith(draw) and said in rule for rule in rules)


def test_comments_are_no_longer_than_the_kernel_keeps_them() -> None:
    """Names in manifests may have 253 letters each; a comment that is cut by others would be a difference."""
    name = f"{'a' * 253}/{'b' * 250}:{'c' * 253}"
    more = {"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"], "ingress": ["198.51.100.2"]}
    w = world(
        service_docs(
            name,
            node_port=30080,
            externalTrafficPolicy="Local",
            healthCheckNodePort=31000,
            sessionAffinity="ClientIP",
            **more,
        )
    )
    lengths = [
        len(match.text)
        for thing in program(w).values()
        for rule in (thing.rules if isinstance(thing, Rules) else (thing,) if isinstance(thing, Rule) else ())
        for match in rule.matches
        if isinstance(match, Comment)
    ]
    assert max(lengths) == 255


def test_addresses_ever_new_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_KEPT", 10)
    ways = dispatch.Dispatch()
    objects: dict[Key, Object] = {}
    for number in range(100):
        ip = parse_ip(f"2001:db8::{number:x}:1")
        again = dict[Key, Object]()
        for kept in (objects, again):
            ways.address(kept, "ip6", dispatch.CLUSTER_IPS, ip, Rule((), Drop()))
        assert again.items() <= objects.items()
        assert len(ways._places) <= 10


@given(worlds())
def test_the_kernel_could_take_it(w: World) -> None:
    """Names are short enough, what is named is there, and no way through it is too deep."""
    objects = program(w.in_mode("iptables"))
    rules: dict[tuple[str, str, str], list[Rule]] = {}
    for key, thing in objects.items():
        if key.plane != "xtables":
            continue
        place = key.name[:3]
        if key.kind == "chain":
            rules.setdefault(place, [])
            assert place[2].startswith("KUBE-")
            assert len(place[2]) <= 28
            if place[1:] not in SHARED:
                assert place[2].startswith(BRANCHING) != (rules_key(*place) in objects)
        elif key.kind == "rules":
            assert Key("xtables", "chain", place) in objects
            rules.setdefault(place, []).extend(thing.rules)
        elif key.kind == "branch":
            assert Key("xtables", "chain", place) in objects
            assert key == branch_key(place[0], place[1], place[2], thing)
            rules.setdefault(place, []).append(thing)
        else:
            rules.setdefault(place, []).append(thing)

    def depth(place: tuple[str, str, str]) -> int:
        below = [rule.target.chain for rule in rules[place] if isinstance(rule.target, Jump | Goto)]
        return 1 + max((depth((*place[:2], chain)) for chain in below), default=0)

    for key in objects:
        if key.kind == "jump":
            assert depth(key.name[:3]) <= 16
    led_to = {
        (*place[:2], rule.target.chain)
        for place, held in rules.items()
        for rule in held
        if isinstance(rule.target, Jump | Goto)
    }
    unused = {key.name for key in objects if key.kind == "chain"} - led_to
    # Nothing may be masqueraded, and no address may accept node ports.
    assert {name[2] for name in unused} <= {"KUBE-MARK-MASQ", "KUBE-NODEPORTS", "KUBE-BY-PORT"}


# --- how much there is, and how much changes --------------------------------------------


def many(count: int) -> list[Doc]:
    docs: list[Doc] = []
    for n in range(count):
        docs += service_docs(
            f"shop/s{n}:http", vip=f"10.96.{n >> 8}.{n & 255}", node_port=30000 + n, endpoints=2
        )
    return docs


def met(objects: Mapping[Key, Object], w: World, target: str) -> int:
    """How many rules stand in the chains a packet goes through, at most."""
    trail: list[str] = []
    IPTABLES.fates(objects, w.view, packet("10.244.1.77", target), trail)
    been = {tuple(line.split(":")[0].split()[1:]) for line in trail}
    sizes: dict[tuple[str, str], int] = {}
    for key, thing in objects.items():
        place = key.name[1], key.name[2]
        if key.name[0] == "ip" and place in been:
            sizes[place] = sizes.get(place, 0) + (len(thing.rules) if key.kind == "rules" else 1)
    return sum(sizes.values())


def test_a_packet_meets_few_rules_whatever_the_number_of_services() -> None:
    w = world(many(600))
    objects = program(w)
    for n in (0, 299, 599):
        assert met(objects, w, f"10.96.{n >> 8}.{n & 255}:80") < 100
        assert met(objects, w, f"203.0.113.10:{30000 + n}") < 120


def test_one_endpoint_more_rewrites_one_chain() -> None:
    was, now = program(one(endpoints=3, node="n2")), program(one(endpoints=4, node="n2"))
    (change,) = diff(was, now)
    assert (change.verb, change.key.kind) == ("set", "rules")
    assert change.key.name[2].startswith("KUBE-SVC-")


def test_one_endpoint_of_this_node_more_is_one_rule_more_beside_it() -> None:
    was, now = program(one(endpoints=3)), program(one(endpoints=4))
    changes = sorted((change.verb, change.key.kind) for change in diff(was, now))
    assert changes == [("add", "branch"), ("set", "rules")]


def test_a_service_beside_others_adds_its_own_rules_and_no_more() -> None:
    others = [service_docs(f"shop/s{n}:http", vip=f"10.96.0.{n}", node="n2") for n in (1, 2, 4)]
    docs = [doc for docs in others for doc in docs]
    was = program(world(docs))
    now = program(world([*docs, *service_docs("shop/cart:http", vip="10.96.0.3", node="n2")]))
    changes = list(diff(was, now))
    assert {change.verb for change in changes} == {"add"}
    # Its chain and the rules in it; in nat the rule that leads to it, in filter the one about its cluster IP.
    assert sorted(c.key.kind for c in changes) == ["branch", "branch", "chain", "rules"]


@given(worlds(), worlds())
def test_services_that_go_leave_nothing(first: World, other: World) -> None:
    linker = Linker()
    linker.update({(): IPTABLES.base(first.view)})
    bare = dict(linker.objects)
    fill(linker, first)
    view = first.view
    kept: Fragments = {(f.name, f.family): IPTABLES.fragment(f, view) for f in other.forwards}
    gone: Fragments = {(f.name, f.family): None for f in first.forwards}
    linker.update({**gone, **kept})
    straight = Linker()
    straight.update({(): IPTABLES.base(view), **kept})
    assert dict(linker.objects) == dict(straight.objects)
    linker.update(dict.fromkeys(kept))
    assert dict(linker.objects) == bare


def test_nothing_is_made_for_one_endpoint_alone() -> None:
    objects = program(one(endpoints=5))
    (svc,) = chains(objects, "KUBE-SVC-")
    assert [t for t in targets(chain(objects, svc)) if isinstance(t, Jump)] == []
    assert sum(isinstance(t, Dnat) for t in targets(chain(objects, svc))) == 5
    assert not chains(objects, "KUBE-SEP-")


# --- what is particular to this mode ------------------------------------------------------


def test_ways_in_share_chains_unless_clients_are_remembered() -> None:
    spec: dict[str, Any] = {"node_port": 30080, "externalIPs": ["198.51.100.1"], "endpoints": 2}
    plain = program(one(**spec))
    assert len(chains(plain, "KUBE-EXT-")) == len(chains(plain, "KUBE-SVC-")) == 1
    sticky = program(one(**spec, sessionAffinity="ClientIP"))
    assert len(chains(sticky, "KUBE-EXT-")) == 2
    assert len(chains(sticky, "KUBE-SVC-")) == 3


def test_lists_of_clients_are_of_one_way_in_and_endpoint() -> None:
    w = one(endpoints=2, externalIPs=["198.51.100.1"], sessionAffinity="ClientIP")
    lists = [
        (match.op, match.seconds, match.name)
        for key, thing in program(w).items()
        if key.kind == "rules"
        for rule in thing.rules
        for match in rule.matches
        if isinstance(match, Recent)
    ]
    assert len(lists) == 8
    assert {(op, seconds) for op, seconds, _ in lists} == {("update", 10800), ("set", 0)}
    assert len({name for _, _, name in lists}) == 4
    assert front_text(parse_ip("10.96.0.9"), TCP, 80) == "10.96.0.9:80/tcp"


def test_a_draw_comes_before_remembering_it() -> None:
    objects = program(one(endpoints=2, sessionAffinity="ClientIP"))
    (svc,) = chains(objects, "KUBE-SVC-")
    for rule in chain(objects, svc):
        ops = [match.op for match in rule.matches if isinstance(match, Recent)]
        if ops == ["set"]:
            kinds = [type(match) for match in rule.matches]
            assert Random not in kinds[kinds.index(Recent) :]


def test_an_address_of_this_node_keeps_its_port_from_node_ports() -> None:
    docs = [
        *service_docs("shop/a:http", vip="10.96.0.1", port=30080, endpoints=0, externalIPs=["203.0.113.10"]),
        *service_docs("shop/b:http", vip="10.96.0.2", node_port=30080, endpoints=1),
    ]
    w = world(docs)
    found = IPTABLES.fates(program(w), w.view, packet("8.8.8.8", "203.0.113.10:30080"))
    assert dict(found) == {REJECT: 1}


def test_who_is_not_let_in_is_dropped_though_a_node_port_has_the_number() -> None:
    docs = [
        *service_docs(
            "shop/a:http",
            vip="10.96.0.1",
            port=30080,
            endpoints=1,
            type="LoadBalancer",
            ingress=["203.0.113.10"],
            loadBalancerSourceRanges=["198.18.0.0/15"],
        ),
        *service_docs("shop/b:http", vip="10.96.0.2", node_port=30080, endpoints=1),
    ]
    w = world(docs)
    found = IPTABLES.fates(program(w), w.view, packet("8.8.8.8", "203.0.113.10:30080"))
    assert dict(found) == {DROP: 1}


def test_a_local_policy_with_nobody_here_leaves_nothing_to_a_node_port() -> None:
    docs = [
        *service_docs(
            "shop/a:http",
            vip="10.96.0.1",
            port=30080,
            node="n2",
            externalIPs=["203.0.113.10"],
            externalTrafficPolicy="Local",
        ),
        *service_docs("shop/b:http", vip="10.96.0.2", node_port=30080, endpoints=1),
    ]
    w = world(docs)
    found = IPTABLES.fates(program(w), w.view, packet("8.8.8.8", "203.0.113.10:30080"))
    assert dict(found) == {DROP: 1}


def test_many_services_at_one_address_are_found_by_port() -> None:
    docs: list[Doc] = []
    for n in range(200):
        docs += service_docs(
            f"shop/s{n}:http", vip=f"10.96.0.{n}", port=1000 + 37 * n, externalIPs=["198.51.100.1"]
        )
    w = world(docs)
    assert met(program(w), w, "198.51.100.1:4700") < 100


def test_a_detector_that_takes_all_for_pods_needs_no_rule() -> None:
    docs = [*service_docs("shop/cart:http", endpoints=1), service_cidr_doc()]
    w = world(docs)
    options = replace(w.options, cluster_cidrs=(parse_prefix("0.0.0.0/0"), parse_prefix("::/0")))
    everyone = World(w.docs, options)
    assert everyone.view.v4.detector is not None
    objects = program(everyone)
    (svc,) = chains(objects, "KUBE-SVC-")
    assert len(chain(objects, svc)) == 1
    asked = packet("8.8.8.8", "10.96.0.9:80")
    assert dict(IPTABLES.fates(objects, everyone.view, asked)) == dict(everyone.oracle.fates(asked))


# --- health-check node ports -----------------------------------------------------------


BALANCED: dict[str, Any] = {
    "type": "LoadBalancer",
    "externalTrafficPolicy": "Local",
    "healthCheckNodePort": 32123,
}


@pytest.mark.parametrize("endpoints", [0, 1])
def test_who_asks_for_health_is_let_in(endpoints: int) -> None:
    """Whatever the answer will be; a rule of this node's own may drop what nobody lets in."""
    objects = program(one(endpoints=endpoints, node_port=30080, **BALANCED))
    assert chain(objects, "KUBE-NODEPORTS", table="filter") == [Rule((), Jump("KUBE-BY-HEALTH"))]
    (leaf,) = [
        show_rule(rule, "ip")
        for key, rule in objects.items()
        if key.kind == "branch" and key.name[2].startswith("KUBE-BY-H-") and rule.target == Accept()
    ]
    said = '-m comment --comment "shop/cart health check node port"'
    assert leaf == f"-p tcp -m tcp --dport 32123 {said} -j ACCEPT"


def test_the_ports_of_a_service_share_that_rule() -> None:
    ports = [port_doc("http", 80, node_port=30080), port_doc("alt", 81, node_port=30081)]
    w = world([service_doc("shop/cart", ["10.96.0.9"], ports, **BALANCED)])
    assert len(w.forwards) == 2
    linker = Linker()
    linker.update({(): IPTABLES.base(w.view)})
    fill(linker, w)
    leaf = next(key for key in linker.objects if key.name[-1] == "p 6, dport 32123")
    assert len(linker.claimants(leaf)) == 2
    linker.update({(w.forwards[0].name, 4): None})
    assert leaf in linker.objects
    linker.update({(w.forwards[1].name, 4): None})
    assert linker.objects == IPTABLES.base(w.view).objects


def test_a_service_without_such_a_port_has_no_such_rule() -> None:
    objects = program(one())
    assert not chains(objects, "KUBE-BY-H-")
    assert chains(objects, "KUBE-BY-HEALTH")


# --- packets of no flow, and what is counted ------------------------------------------------


def forwarded(**options: Any) -> list[str]:
    w = one()
    objects = program(World(w.docs, replace(w.options, **options)))
    return [show_rule(rule, "ip6") for rule in chain(objects, "KUBE-FORWARD", "ip6", "filter")]


def test_packets_of_no_flow_are_not_forwarded() -> None:
    first, *rest = forwarded()
    assert first == "-m conntrack --ctstate INVALID -j DROP"
    assert forwarded(drop_invalid=False) == rest
    named = "-m nfacct --nfacct-name ct_state_invalid_dropped_pkts"
    assert forwarded(accounting=True) == [f"-m conntrack --ctstate INVALID {named} -j DROP", *rest]


def test_flows_from_loopback_are_counted_by_one_rule() -> None:
    counted = "-s 127.0.0.0/8 -m conntrack --ctstate DNAT -m nfacct --nfacct-name localhost_nps_accepted_pkts"
    objects = program(on_loopback(accounting=True))
    for family, first in (("ip", counted), ("ip6", None)):
        rules = [show_rule(rule, "ip") for rule in chain(objects, "KUBE-POSTROUTING", family)]
        assert (rules[0] == first) == (counted in rules) == (family == "ip")
    for options in ({"accounting": False}, {"accounting": True, "localhost_node_ports": False}):
        rules = chain(program(on_loopback(**options)), "KUBE-POSTROUTING")
        assert counted not in [show_rule(rule, "ip") for rule in rules]


@given(worlds())
def test_there_is_a_counter_for_each_that_a_rule_counts_in_and_no_other(w: World) -> None:
    objects = IPTABLES.base(w.in_mode("iptables").view).objects
    named = {
        match.name
        for key, thing in objects.items()
        if key.kind == "rules"
        for rule in thing.rules
        for match in rule.matches
        if isinstance(match, Nfacct)
    }
    assert {key.name[0] for key in objects if key.kind == "counter"} == named
    assert w.options.accounting or not named


def test_counters_are_made_before_the_rules_that_count_in_them() -> None:
    objects = program(on_loopback(accounting=True))
    order = [step.plane for step in steps(diff({}, objects), IPTABLES.planes)]
    assert order == ["nfacct", "xtables", "sysctl"]
    assert [step.plane for step in steps(diff(objects, {}), IPTABLES.planes)] == order[::-1]


# --- node ports on loopback ---------------------------------------------------------------


def on_loopback(**options: Any) -> World:
    """A Service with a node port, on a node in iptables mode."""
    w = one(node_port=30080).in_mode("iptables")
    return World(w.docs, replace(w.options, node_port_addresses=(), **options))


ROUTE_LOCALNET = Key("sysctl", "value", ("net/ipv4/conf/all/route_localnet",))
MARTIAN = jump_key("ip", "filter", "KUBE-FIREWALL", 1)


def test_loopback_is_opened_after_it_is_closed_to_others() -> None:
    """CVE-2020-8558: with route_localnet and without the rule, neighbours reach what listens on 127.0.0.1."""
    objects = program(on_loopback())
    assert objects[ROUTE_LOCALNET] == Value("1")
    assert objects[MARTIAN] == MARTIANS
    there = steps(diff({}, objects), IPTABLES.planes)
    at = {key: n for n, step in enumerate(there) for key in [change.key for change in step.changes]}
    assert at[MARTIAN] < at[ROUTE_LOCALNET]


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_the_shared_chain_is_there_whether_or_not_we_have_a_rule_in_it(family: str) -> None:
    objects = program(on_loopback(localhost_node_ports=False))
    assert ROUTE_LOCALNET not in objects
    assert Key("xtables", "chain", (family, "filter", "KUBE-FIREWALL")) in objects
    jumps = [objects[Key("xtables", "jump", (family, "filter", hook, 1))] for hook in ("INPUT", "OUTPUT")]
    assert jumps == [Rule((), Jump("KUBE-FIREWALL"))] * 2
    assert not [key for key in objects if key.kind == "jump" and key.name[2] == "KUBE-FIREWALL"]


@pytest.mark.parametrize(
    ("cidrs", "into"),
    [
        ((), ["-m addrtype --dst-type LOCAL"]),
        (("127.0.0.0/8",), ["-d 127.0.0.0/8"]),
        (("203.0.113.0/24",), ["-d 203.0.113.10/32"]),
        (("203.0.113.0/24", "127.0.0.1/32"), ["-d 203.0.113.10/32", "-d 127.0.0.0/8"]),
    ],
)
def test_addresses_that_lead_to_node_ports(cidrs: tuple[str, ...], into: list[str]) -> None:
    w = on_loopback()
    options = replace(w.options, node_port_addresses=tuple(map(parse_prefix, cidrs)))
    rules = chain(program(World(w.docs, options)), "KUBE-SERVICES")
    shown = [show_rule(rule, "ip") for rule in rules if rule.target == Jump("KUBE-NODEPORTS")]
    comment = '"kubernetes service nodeports; NOTE: this must be the last rule in this chain"'
    assert [line.replace(f"-m comment --comment {comment} ", "") for line in shown] == [
        f"{one} -j KUBE-NODEPORTS" for one in into
    ]


def test_without_node_ports_on_loopback_nothing_leads_from_there() -> None:
    rules = chain(program(on_loopback(localhost_node_ports=False)), "KUBE-SERVICES")
    (into,) = [rule for rule in rules if rule.target == Jump("KUBE-NODEPORTS")]
    assert Destination(parse_prefix("127.0.0.0/8"), invert=True) in into.matches
