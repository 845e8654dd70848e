"""
All modes mean the same: for any world and packet, the program's own fates are the
model's, chances included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from msgspec.structs import replace

from kubeway.model.addresses import is_loopback
from kubeway.model.links import Links, Neighbours
from kubeway.model.node import Ipvs
from kubeway.model.packet import REJECT, Fates, Packet
from kubeway.model.schedulers import SCHEDULERS
from kubeway.modes.iptables import IPTABLES
from kubeway.modes.ipvs import IPVS
from kubeway.modes.nftables import NFTABLES
from kubeway.modes.userspace import USERSPACE
from kubeway.modes.userspace.legacy import USERSPACE_LEGACY
from kubeway.program.link import Linker
from kubeway.program.plane import Mode
from kubeway.program.program import Key, Object
from kubeway.values import parse_prefix
from tests.worlds import OPTIONS, World, packet, packets, service_docs, world, worlds

MODES: Final[Mapping[str, Mode]] = {
    "nftables": NFTABLES,
    "iptables": IPTABLES,
    "ipvs": IPVS,
    "userspace": USERSPACE,
    "userspace by xtables": USERSPACE_LEGACY,
}


def program(world: World, mode: Mode) -> Mapping[Key, Object]:
    linker = Linker()
    linker.update({(): mode.base(world.view)})
    linker.update({(f.name, f.family): mode.fragment(f, world.view) for f in world.forwards})
    return linker.objects


@given(worlds(), st.data())
def test_all_modes_mean_what_the_model_means(some: World, data: st.DataObject) -> None:
    seen = {name: some.in_mode(mode.name) for name, mode in MODES.items()}
    programs = {name: program(seen[name], mode) for name, mode in MODES.items()}
    for _ in range(5):
        one: Packet = data.draw(packets(some))
        for name, mode in MODES.items():
            its = seen[name]
            meant = its.oracle.fates(one)
            if mode is IPVS and is_balanced_again(its, one, meant):
                event("balanced again")
                continue
            way = its.oracle.address(one) or its.oracle.node_port(one)
            if mode is USERSPACE and way is not None and way.forward.hold and not way.forward.usable:
                event("held, perhaps")
            for fate in meant:
                event(f"{name} {fate.verdict}")
            if is_loopback(one.dst):
                event(f"{name} to loopback: {' '.join(sorted({fate.verdict for fate in meant}))}")
            done = mode.fates(programs[name], its.view, one)
            assert dict(done) == dict(meant), name


def is_balanced_again(world: World, sent: Packet, meant: Fates) -> bool:
    """ipvs looks at whom a rule has sent on, too: to an endpoint that is a way in (docs/theory/ipvs.md)."""
    way = world.oracle.address(sent) or world.oracle.node_port(sent)
    if way is None or way.frontend.kind == "ClusterIP" or not way.forward.external_local:
        return False
    endpoints = [replace(sent, dst=fate.ip, port=fate.port) for fate in meant if fate.ip is not None]
    return any(world.oracle.address(one) or world.oracle.node_port(one) for one in endpoints)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("by", ["node", "Service"])
def test_schedulers_choose_among_the_endpoints_the_model_says(name: str, by: str) -> None:
    docs = service_docs("shop/a:http", vip="10.96.0.1", endpoints=4)
    if by == "Service":
        docs[0]["metadata"]["annotations"] = {"kubeway.io/ipvs-scheduler": name}
        scheduler = "rr"
    else:
        scheduler = name
    w = world(docs, options=replace(OPTIONS, mode="ipvs", ipvs=Ipvs(scheduler=scheduler)))
    sent = packet("203.0.113.99", "10.96.0.1:80")
    meant, done = w.oracle.fates(sent), IPVS.fates(program(w, IPVS), w.view, sent)
    # Of fo and ovf too, as long as nobody knows which of equals was added last.
    assert done == meant


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_who_was_sent_to_this_node_itself_is_not_asked_at_its_door(mode: Mode) -> None:
    """What goes on to an endpoint here comes in by loopback, where its address may be a firewalled one."""
    docs = service_docs("shop/a:http", vip="10.96.0.1", endpoints=["203.0.113.10"])
    docs += service_docs(
        "shop/b:http",
        vip="10.96.0.2",
        port=8080,
        type="LoadBalancer",
        ingress=["203.0.113.10"],
        loadBalancerSourceRanges=["198.18.0.0/15"],
    )
    w = world(docs).in_mode(mode.name)
    sent = packet("203.0.113.10", "10.96.0.1:80", iif="")
    (fate,) = w.oracle.fates(sent)
    assert fate.verdict == "endpoint"
    assert list(mode.fates(program(w, mode), w.view, sent)) == [fate]


@pytest.mark.parametrize(
    ("client", "hidden"),
    [("10.244.1.7", True), ("10.244.1.9", False), ("10.244.2.7", False)],
    ids=["neighbour", "excepted", "elsewhere"],
)
def test_who_would_be_answered_past_this_node_is_hidden(client: str, hidden: bool) -> None:
    near = Neighbours(parse_prefix("10.244.1.0/24"), (parse_prefix("10.244.1.9/32"),))
    docs = service_docs("shop/a:http", vip="10.96.0.1", endpoints=1)
    w = world(docs, links=Links(neighbours=(near,))).in_mode("userspace")
    sent = packet(client, "10.96.0.1:80", iif="cni0")
    (fate,) = w.oracle.fates(sent)
    assert (fate.verdict, fate.masquerade) == ("endpoint", hidden)
    assert list(USERSPACE.fates(program(w, USERSPACE), w.view, sent)) == [fate]
    (elsewhere,) = world(docs, links=w.links).oracle.fates(sent)
    assert not elsewhere.masquerade


def test_of_a_family_that_the_node_cannot_hand_to_itself_nothing_is_done() -> None:
    docs = service_docs("shop/a:http", vip="10.96.0.1") + service_docs("shop/b:http", vip="fd00:10:96::1")
    w = world(docs, links=Links(families=frozenset((4,)))).in_mode("userspace")
    objects = program(w, USERSPACE)
    assert not any(key.name[0] in ("ip6", 6) for key in objects)
    four, six = packet("10.244.2.7", "10.96.0.1:80"), packet("fd00:10:244:2::7", "[fd00:10:96::1]:80")
    for sent, verdict in ((four, "endpoint"), (six, "pass")):
        (fate,) = w.oracle.fates(sent)
        assert fate.verdict == verdict
        assert list(USERSPACE.fates(objects, w.view, sent)) == [fate]


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
@pytest.mark.parametrize("src", ["10.244.1.9", "203.0.113.99", "192.168.7.10"])
@pytest.mark.parametrize(
    "target", ["10.96.0.1:80", "198.51.100.1:80", "192.168.7.10:30080", "127.0.0.1:30080", "10.96.0.1:81"]
)
def test_whom_the_relay_holds_is_rejected_if_nobody_comes(policy: str, src: str, target: str) -> None:
    docs = service_docs(
        "shop/a:http",
        vip="10.96.0.1",
        node_port=30080,
        endpoints=0,
        type="LoadBalancer",
        ingress=["198.51.100.1"],
        annotations={"kubeway.io/hold": "30s"},
        internalTrafficPolicy=policy,
        externalTrafficPolicy=policy,
    )
    w = world(docs, options=replace(OPTIONS, mode="userspace", node_port_addresses=()))
    sent = packet(src, target, iif="" if src.startswith("192.") else "eth0")
    trail: list[str] = []
    meant = w.oracle.fates(sent, trail)
    steps: list[str] = []
    done = USERSPACE.fates(program(w, USERSPACE), w.view, sent, steps)
    assert dict(done) == dict(meant) == {REJECT: 1}
    way_in = not target.endswith(":81")
    assert trail[-1].startswith("no endpoint can serve: it waits for one, 30 s at most") == way_in
    assert any(step.startswith("relay ") for step in steps) == way_in
