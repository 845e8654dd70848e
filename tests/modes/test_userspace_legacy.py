"""userspace mode by xtables: what stands in the sets and the rules, and where packets then go."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from kubeway.modes.userspace import sets
from kubeway.modes.userspace.chains import SCTP_PORTS
from kubeway.modes.userspace.layout import homing, owning
from kubeway.modes.userspace.legacy import USERSPACE_LEGACY
from kubeway.planes.ipset.objects import Set
from kubeway.planes.ipset.ours import is_relays, name_for
from kubeway.planes.ipset.words import show_fields
from kubeway.planes.xtables.objects import InSet, Rule, Rules
from kubeway.planes.xtables.ours import is_ours
from kubeway.planes.xtables.text import show
from kubeway.program.link import Linker
from kubeway.program.program import Key, Object
from kubeway.wire.xt_set import MAX_NAME
from tests.worlds import World, packet, service_docs, world

CHAIN_NAME = 28  # XT_EXTENSION_MAXNAMELEN less the NUL


def linked(some: World) -> Mapping[Key, Object]:
    linker = Linker()
    linker.update({(): USERSPACE_LEGACY.base(some.view)})
    linker.update({(f.name, f.family): USERSPACE_LEGACY.fragment(f, some.view) for f in some.forwards})
    return linker.objects


def shop(**spec: object) -> World:
    return world(service_docs("shop/a:http", vip="10.96.0.1", **spec)).in_mode("userspace")  # type: ignore[arg-type]


def entries(objects: Mapping[Key, Object]) -> set[str]:
    return {
        f"{key.name[0]} {show_fields(key.name[1:])}"
        for key in objects
        if key.plane == "ipset" and key.kind == "entry"
    }


def in_xtables(objects: Mapping[Key, Object]) -> dict[Key, Object]:
    return {key: one for key, one in objects.items() if key.plane == "xtables"}


def test_the_kernel_has_room_for_all_names() -> None:
    base = linked(shop())
    for key, one in base.items():
        if key.kind == "chain":
            assert len(key.name[2]) <= CHAIN_NAME
            assert is_ours(key.name[1], key.name[2])
        elif isinstance(one, Set):
            assert len(key.name[0]) <= MAX_NAME
            assert is_relays(key.name[0])
    names = {key.name[0] for key, one in base.items() if isinstance(one, Set)}
    assert len(names) == 2 * len(sets.TYPES)


def test_rules_ask_sets_that_are_there_for_as_many_fields_as_they_have() -> None:
    objects = linked(shop())
    types = {key.name[0]: one.type for key, one in objects.items() if isinstance(one, Set)}
    rules = [
        rule
        for one in objects.values()
        for rule in (one.rules if isinstance(one, Rules) else (one,) if isinstance(one, Rule) else ())
    ]
    asked = [match for rule in rules for match in rule.matches if isinstance(match, InSet)]
    assert {match.name for match in asked} == set(types)
    for match in asked:
        assert len(match.sides) == len(types[match.name].partition(":")[2].split(","))


def test_services_are_entries_and_no_rules() -> None:
    few, none = linked(shop(node_port=30080)), linked(world([]).in_mode("userspace"))
    assert in_xtables(few) == in_xtables(none)
    assert entries(few) == {
        "KUBEWAY-RELAY-CLUSTER-IP 10.96.0.1,tcp:80",
        "KUBEWAY-RELAY-ADDRESSES 10.96.0.1",
        "KUBEWAY-RELAY-PORT-TCP 30080",
    }


@pytest.mark.parametrize(
    ("spec", "held"),
    [
        (
            {"endpoints": 0},
            {"UNSERVED 10.96.0.1,tcp:80", "REJECTED 10.96.0.1,tcp:80", "ADDRESSES 10.96.0.1"},
        ),
        (
            {"endpoints": ["10.244.2.1"], "node": "n2", "internalTrafficPolicy": "Local"},
            {"UNSERVED 10.96.0.1,tcp:80", "DROPPED 10.96.0.1,tcp:80", "ADDRESSES 10.96.0.1"},
        ),
        (
            {"internalTrafficPolicy": "Local"},
            {"CLUSTER-LOCAL 10.96.0.1,tcp:80", "ADDRESSES 10.96.0.1"},
        ),
        (
            {"node_port": 30080, "externalTrafficPolicy": "Local", "endpoints": ["10.244.2.1"], "node": "n2"},
            {
                "CLUSTER-IP 10.96.0.1,tcp:80",
                "ADDRESSES 10.96.0.1",
                "PORT-NOBODY-TCP 30080",
                "DROPPED-TCP 30080",
            },
        ),
        (
            {
                "ingress": ["203.0.113.80"],
                "type": "LoadBalancer",
                "loadBalancerSourceRanges": ["198.18.0.0/15"],
            },
            {
                "CLUSTER-IP 10.96.0.1,tcp:80",
                "ADDRESSES 10.96.0.1",
                "EXTERNAL 203.0.113.80,tcp:80",
                "FIREWALLED 203.0.113.80,tcp:80",
                "ALLOWED 203.0.113.80,tcp:80,198.18.0.0/15",
            },
        ),
    ],
)
def test_what_each_service_puts_into_the_sets(spec: dict[str, object], held: set[str]) -> None:
    assert entries(linked(shop(**spec))) == {f"KUBEWAY-RELAY-{one}" for one in held}


def test_sctp_is_refused_at_node_ports_by_a_rule_of_its_own() -> None:
    objects = linked(shop(proto="SCTP", node_port=30080))
    branches = {key.name[:3] for key in objects if key.kind == "branch"}
    assert branches == {("ip", "filter", SCTP_PORTS)}
    assert "KUBEWAY-RELAY-REJECTED 10.96.0.1,sctp:80" in entries(objects)
    assert f"-A {SCTP_PORTS} -p sctp -m sctp --dport 30080 " in show(objects)


def test_the_trace_names_the_rules_and_whom_the_relay_connects_to() -> None:
    some, trail = shop(), list[str]()
    USERSPACE_LEGACY.fates(linked(some), some.view, packet("203.0.113.99", "10.96.0.1:80"), trail)
    told = "\n".join(trail)
    assert "--match-set KUBEWAY-RELAY-CLUSTER-IP dst,dst -g KUBE-RELAY-CLUSTER-IP" in told
    assert "-j TPROXY --on-port 10802" in told
    assert trail[-1] == "relay 10.96.0.1:80: 10.244.1.1:8080"


@pytest.mark.parametrize("bit", range(32))
def test_the_bits_of_marks_are_three(bit: int) -> None:
    mark = 1 << bit
    bits = mark, homing(mark), owning(mark)
    assert all(one and one.bit_count() == 1 and one < 1 << 32 for one in bits)
    assert len(set(bits)) == 3


def test_other_bits_of_marks_are_left_alone() -> None:
    some = shop()
    view = replace(some.view, mark=1)
    base = USERSPACE_LEGACY.base(view).objects
    text = show(base)
    assert "0x2/0x2" in text
    assert "0x4/0x4" in text
    assert "0x2000" not in text


def test_families_have_sets_of_their_own() -> None:
    docs = service_docs("shop/a:http", vip="fd00:10:96::1")
    assert entries(linked(world(docs).in_mode("userspace"))) == {
        f"{name_for(sets.WAYS['cluster-ip'], 6)} fd00:10:96::1,tcp:80",
        f"{name_for(sets.ADDRESSES, 6)} fd00:10:96::1",
    }
