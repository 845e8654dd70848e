"""What follows from the node and the options: detectors, node-port addresses, service CIDRs."""

from __future__ import annotations

import pytest
from hypothesis import given
from msgspec.structs import replace

from kubeway.model.node import Detector, NodeFacts, Options
from kubeway.model.objects import Node, NodeAddress
from kubeway.model.view import node_facts, node_view
from kubeway.values import Ip, parse_ip, parse_prefix, show_ip
from tests.worlds import NODE_ADDRESSES, World, worlds

ADDRESSES = [parse_ip(text) for texts in NODE_ADDRESSES.values() for text in texts]


def node(*addresses: tuple[str, str], **more: object) -> Node:
    return Node("n1", tuple(NodeAddress(kind, parse_ip(ip)) for kind, ip in addresses), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("addresses", "ips"),
    [
        ([], []),
        ([("InternalIP", "10.0.0.1")], ["10.0.0.1"]),
        ([("ExternalIP", "8.0.0.1"), ("InternalIP", "10.0.0.1")], ["10.0.0.1"]),
        (
            [("InternalIP", "fd00::1"), ("InternalIP", "10.0.0.1"), ("InternalIP", "fd00::2")],
            ["fd00::1", "10.0.0.1"],
        ),
        ([("InternalIP", "10.0.0.1"), ("ExternalIP", "fd00::1")], ["10.0.0.1", "fd00::1"]),
    ],
)
def test_node_ips(addresses: list[tuple[str, str]], ips: list[str]) -> None:
    assert [show_ip(ip) for ip in node_facts(node(*addresses), "n1", []).ips] == ips


def test_facts_without_a_node_object() -> None:
    facts = node_facts(None, "n1", ADDRESSES)
    assert facts == NodeFacts(name="n1", addresses=frozenset(ADDRESSES))


def test_facts_of_a_node_object() -> None:
    labels = {"topology.kubernetes.io/zone": "a", "x": "y"}
    facts = node_facts(node(labels=labels, pod_cidrs=(parse_prefix("10.244.1.0/24"),)), "n1", [])
    assert (facts.zone, facts.labels, facts.pod_cidrs) == ("a", labels, (parse_prefix("10.244.1.0/24"),))


@pytest.mark.parametrize(
    ("mode", "v4", "v6"),
    [
        ("ClusterCIDR", Detector("cidr", parse_prefix("10.1.0.0/16")), None),
        (
            "NodeCIDR",
            Detector("cidr", parse_prefix("10.244.1.0/24")),
            Detector("cidr", parse_prefix("fd00::/64")),
        ),
        ("BridgeInterface", Detector("interface", interface="br0"), Detector("interface", interface="br0")),
        (
            "InterfaceNamePrefix",
            Detector("interface-prefix", interface="veth"),
            Detector("interface-prefix", interface="veth"),
        ),
    ],
)
def test_detectors(mode: str, v4: Detector | None, v6: Detector | None) -> None:
    """The first CIDR of the family; none of it: nothing tells pods from others."""
    options = Options(
        detect_local=mode,  # type: ignore[arg-type]
        cluster_cidrs=(parse_prefix("10.1.0.0/16"), parse_prefix("10.2.0.0/16")),
        bridge_interface="br0",
        interface_prefix="veth",
    )
    pods = ("10.244.1.0/24", "fd00::/64", "10.244.9.0/24")
    facts = NodeFacts(name="n1", pod_cidrs=tuple(map(parse_prefix, pods)))
    view = node_view(facts, options, [])
    assert (view.v4.detector, view.v6.detector) == (v4, v6)


@pytest.mark.parametrize(
    ("detector", "src", "iif", "local"),
    [
        (Detector("cidr", parse_prefix("10.244.0.0/16")), "10.244.255.255", "eth0", True),
        (Detector("cidr", parse_prefix("10.244.0.0/16")), "10.245.0.0", "eth0", False),
        (Detector("interface", interface="cni0"), "10.0.0.1", "cni0", True),
        (Detector("interface", interface="cni0"), "10.0.0.1", "cni01", False),
        (Detector("interface-prefix", interface="veth"), "10.0.0.1", "veth12", True),
        (Detector("interface-prefix", interface="veth"), "10.0.0.1", "", False),
    ],
)
def test_detector_says(detector: Detector, src: str, iif: str, local: bool) -> None:
    assert detector.is_local(parse_ip(src), iif) is local


@pytest.mark.parametrize(
    ("chosen", "v4", "v6"),
    [
        ("primary", ["203.0.113.10"], ["2001:db8:1::10"]),
        ((), None, None),
        (("203.0.113.0/24",), ["203.0.113.10"], None),
        (("0.0.0.0/0", "203.0.113.0/24"), None, None),
        (("10.0.0.0/8", "fd00::/8"), [], ["fd00:7::10"]),
        (("127.0.0.0/8", "::1/128"), [], []),
        (("192.168.0.0/16", "203.0.113.10/32"), ["192.168.7.10", "203.0.113.10"], None),
    ],
)
def test_node_port_addresses(chosen: object, v4: list[str] | None, v6: list[str] | None) -> None:
    """None accepts all; a family without a CIDR of its own accepts all; loopback never does."""
    cidrs = chosen if chosen == "primary" else tuple(map(parse_prefix, chosen))  # type: ignore[arg-type, call-overload]
    ips = (parse_ip("203.0.113.10"), parse_ip("2001:db8:1::10"))
    facts = NodeFacts(name="n1", ips=ips, addresses=frozenset(ADDRESSES))
    view = node_view(facts, Options(node_port_addresses=cidrs), [])

    def shown(found: tuple[Ip, ...] | None) -> list[str] | None:
        return None if found is None else [show_ip(ip) for ip in found]

    assert (shown(view.v4.node_ports), shown(view.v6.node_ports)) == (v4, v6)


@pytest.mark.parametrize(
    ("chosen", "open"),
    [
        ((), True),
        (("0.0.0.0/0",), True),
        (("::/0",), True),
        (("127.0.0.0/8",), True),
        (("127.1.2.3/32", "10.0.0.0/8"), True),
        (("64.0.0.0/2",), True),
        (("10.0.0.0/8",), False),
        ("primary", False),
    ],
)
def test_node_ports_on_loopback(chosen: object, open: bool) -> None:
    """Of IPv4 alone, in iptables mode alone, unless it is switched off, if the CIDRs hold it."""
    cidrs = chosen if chosen == "primary" else tuple(map(parse_prefix, chosen))  # type: ignore[arg-type, call-overload]
    facts = NodeFacts(name="n1", ips=(parse_ip("203.0.113.10"),), addresses=frozenset(ADDRESSES))
    options = Options(mode="iptables", node_port_addresses=cidrs)
    view = node_view(facts, options, [])
    assert (view.v4.loopback, view.v6.loopback) == (open, False)
    for other in (replace(options, mode="nftables"), replace(options, localhost_node_ports=False)):
        assert node_view(facts, other, []).v4.loopback is False


@pytest.mark.parametrize(
    ("chosen", "four", "six"),
    [
        ((), True, True),
        (("127.0.0.0/8",), True, False),
        (("::1/128",), True, True),
        (("10.0.0.0/8", "::1/128"), False, True),
        (("127.0.0.0/8", "fd00::/8"), True, False),
        ("primary", False, False),
    ],
)
def test_the_relay_takes_node_ports_on_loopback_of_both_families(
    chosen: object, four: bool, six: bool
) -> None:
    """A family without a CIDR of its own is open, here as elsewhere; but ::1, new with this mode, is not for
    who asked for addresses of IPv4 alone."""
    cidrs = chosen if chosen == "primary" else tuple(map(parse_prefix, chosen))  # type: ignore[arg-type, call-overload]
    facts = NodeFacts(name="n1", ips=(parse_ip("203.0.113.10"),), addresses=frozenset(ADDRESSES))
    options = Options(mode="userspace", node_port_addresses=cidrs)
    view = node_view(facts, options, [])
    assert (view.relayed, view.v4.loopback, view.v6.loopback) == (True, four, six)
    shut = node_view(facts, replace(options, localhost_node_ports=False), [])
    assert (shut.v4.loopback, shut.v6.loopback) == (False, False)
    assert not node_view(facts, replace(options, mode="nftables"), []).relayed


@pytest.mark.parametrize("ips", [(), ("127.0.0.1", "::1")])
def test_primary_of_an_unknown_node_accepts_all(ips: tuple[str, ...]) -> None:
    facts = NodeFacts(name="n1", ips=tuple(map(parse_ip, ips)), addresses=frozenset(ADDRESSES))
    view = node_view(facts, Options(), [])
    assert view.v4.node_ports is view.v6.node_ports is None


def test_primary_of_one_family_leaves_the_other_open() -> None:
    facts = NodeFacts(name="n1", ips=(parse_ip("203.0.113.10"),), addresses=frozenset(ADDRESSES))
    view = node_view(facts, Options(), [])
    assert (view.v4.node_ports, view.v6.node_ports) == ((parse_ip("203.0.113.10"),), None)


def test_a_primary_address_on_no_interface_opens_nothing() -> None:
    facts = NodeFacts(name="n1", ips=(parse_ip("8.0.0.1"),), addresses=frozenset(ADDRESSES))
    assert node_view(facts, Options(), []).v4.node_ports == ()


def test_the_rest_of_the_view() -> None:
    facts = NodeFacts(name="n1", addresses=frozenset(ADDRESSES))
    cidrs = ["10.96.0.0/16", "10.96.1.0/24", "fd00::/108"]
    view = node_view(facts, Options(masquerade_all=True, masquerade_bit=3), cidrs)
    assert (view.masquerade_all, view.mark) == (True, 8)
    assert (view.drop_invalid, view.accounting) == (True, False)
    other = node_view(facts, Options(drop_invalid=False, accounting=True), cidrs)
    assert (other.drop_invalid, other.accounting) == (False, True)
    assert view.v4.service_cidrs == (parse_prefix("10.96.0.0/16"),)
    assert view.v6.service_cidrs == (parse_prefix("fd00::/108"),)
    assert view == node_view(facts, Options(masquerade_all=True, masquerade_bit=3), map(parse_prefix, cidrs))
    with pytest.raises(ValueError, match="'10' is not a CIDR"):
        node_view(facts, Options(), ["10"])


@given(worlds())
def test_each_family_has_its_own(world: World) -> None:
    for view, size in ((world.view.v4, 4), (world.view.v6, 16)):
        assert all(len(ip) == size for ip in view.addresses)
        assert all(ip in view.addresses for ip in view.node_ports or ())
        assert all(len(prefix.ip) == size for prefix in view.service_cidrs)
    assert view.addresses | world.view.v4.addresses == world.facts.addresses
