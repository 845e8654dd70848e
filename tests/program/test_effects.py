from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kubeway.model.forward import Endpoint, Forward, Frontend, ServicePortName
from kubeway.program.effects import Judge, Question, Stale, stale
from kubeway.values import SCTP, TCP, UDP, Ip, Proto, parse_ip
from kubeway.wire.conntrack import IPS_SEEN_REPLY, Flow

VIP, OTHER, NODE, CLIENT = (parse_ip(f"10.96.0.{n}") for n in (10, 11, 12, 13))
A, B, C = (Endpoint(parse_ip(f"10.244.1.{n}"), 5353) for n in (1, 2, 3))
NODE_ADDRESSES = frozenset({NODE})
CLUSTER_IP = Frontend("ClusterIP", VIP, 53)
EXTERNAL = Frontend("ExternalIP", OTHER, 53)
NODE_PORT = Frontend("NodePort", None, 30053)


def forward(
    *serving: Endpoint, ways: tuple[Frontend, ...] = (CLUSTER_IP,), proto: Proto = UDP, name: str = "dns"
) -> Forward:
    return Forward(
        ServicePortName("shop", name, "", proto), 4, ways, serving, (), usable=bool(serving), serving=serving
    )


def keep(*endpoints: Endpoint) -> frozenset[tuple[Ip, int]]:
    return frozenset((e.ip, e.port) for e in endpoints)


def flow(
    to: Endpoint | None, dst: Ip = VIP, dport: int = 53, proto: Proto = UDP, answered: bool = False
) -> Flow:
    """A client's flow to a way in, sent on to an endpoint, or let through unchanged."""
    ip, port = (to.ip, to.port) if to is not None else (dst, dport)
    status = IPS_SEEN_REPLY if answered else 0
    return Flow(4, proto, CLIENT, 40000, dst, dport, ip, port, CLIENT, 40000, status, b"")


def condemned(old: Forward | None, new: Forward | None, one: Flow) -> bool:
    return Judge(stale(old, new), NODE_ADDRESSES).condemns(one)


# --- what a change makes stale -------------------------------------------------------


def test_nothing_changed_nothing_is_stale() -> None:
    one = forward(A, B)
    assert stale(one, one) == ()
    assert stale(one, forward(A, B)) == ()


def test_an_endpoint_left() -> None:
    assert stale(forward(A, B), forward(B)) == (Stale(UDP, 4, VIP, 53, keep(B)),)


def test_an_endpoint_came_beside_others() -> None:
    assert stale(forward(A), forward(A, B)) == ()


def test_an_endpoint_that_serves_no_new_flows_may_keep_its_old_ones() -> None:
    before, draining = forward(A, B), replace(forward(A, B), cluster=(B,))
    assert stale(before, draining) == ()


def test_the_first_endpoint_came() -> None:
    assert stale(forward(), forward(A)) == (Stale(UDP, 4, VIP, 53, keep(A)),)


def test_the_first_endpoint_to_choose_came() -> None:
    before = replace(forward(A), cluster=())
    assert stale(before, forward(A)) == (Stale(UDP, 4, VIP, 53, keep(A)),)


def test_the_last_endpoint_left() -> None:
    assert stale(forward(A), forward()) == (Stale(UDP, 4, VIP, 53, frozenset()),)


def test_a_way_in_came() -> None:
    new = forward(A, ways=(CLUSTER_IP, EXTERNAL))
    assert stale(forward(A), new) == (Stale(UDP, 4, OTHER, 53, keep(A)),)


def test_a_way_in_went() -> None:
    old = forward(A, ways=(CLUSTER_IP, EXTERNAL))
    assert stale(old, forward(A)) == (Stale(UDP, 4, OTHER, 53, frozenset()),)


def test_a_node_port_moved() -> None:
    old, new = forward(A, ways=(NODE_PORT,)), forward(A, ways=(replace(NODE_PORT, port=30054),))
    assert stale(old, new) == (Stale(UDP, 4, None, 30054, keep(A)), Stale(UDP, 4, None, 30053, frozenset()))


def test_a_way_in_that_only_changed_its_kind_or_clients_is_the_same_way_in() -> None:
    as_load_balancer = Frontend("LoadBalancer", OTHER, 53, sources=())
    assert stale(forward(A, ways=(EXTERNAL,)), forward(A, ways=(as_load_balancer,))) == ()


def test_a_service_port_came_or_went() -> None:
    one = forward(A, ways=(CLUSTER_IP, NODE_PORT))
    assert stale(None, one) == (Stale(UDP, 4, VIP, 53, keep(A)), Stale(UDP, 4, None, 30053, keep(A)))
    assert stale(one, None) == (Stale(UDP, 4, VIP, 53, frozenset()), Stale(UDP, 4, None, 30053, frozenset()))


# --- judging -------------------------------------------------------------------------


def test_a_flow_to_the_endpoint_that_left_is_forgotten_others_stay() -> None:
    old, new = forward(A, B), forward(B)
    assert condemned(old, new, flow(A))
    assert condemned(old, new, flow(A, answered=True))
    assert not condemned(old, new, flow(B))
    assert not condemned(old, new, flow(A, dst=OTHER))
    assert not condemned(old, new, flow(A, dport=54))
    assert not condemned(old, new, flow(A, proto=TCP))


def test_an_endpoints_port_counts() -> None:
    moved = replace(A, port=5454)
    assert condemned(forward(A), forward(moved), flow(A))
    assert not condemned(forward(A), forward(moved), flow(moved))


def test_a_flow_let_through_unchanged_is_forgotten_when_there_is_an_endpoint() -> None:
    assert condemned(forward(), forward(A), flow(None))
    assert condemned(None, forward(A), flow(None))
    assert condemned(forward(A), forward(A, ways=(CLUSTER_IP, EXTERNAL)), flow(None, dst=OTHER))


@pytest.mark.parametrize("proto", [TCP, SCTP])
def test_a_connection_once_answered_is_left_alone(proto: Proto) -> None:
    old, new = forward(A, B, proto=proto), forward(B, proto=proto)
    assert condemned(old, new, flow(A, proto=proto))
    assert not condemned(old, new, flow(B, proto=proto))
    assert not condemned(old, new, flow(A, proto=proto, answered=True))
    assert not condemned(old, None, flow(A, proto=proto, answered=True))


def test_a_node_port_is_one_of_this_nodes_addresses() -> None:
    old, new = forward(A, B, ways=(NODE_PORT,)), forward(B, ways=(NODE_PORT,))
    assert condemned(old, new, flow(A, dst=NODE, dport=30053))
    assert not condemned(old, new, flow(B, dst=NODE, dport=30053))
    assert not condemned(old, new, flow(A, dst=OTHER, dport=30053)), "another node's: only passing through"
    assert not condemned(old, new, flow(A, dst=NODE, dport=30054))


def test_a_way_in_that_passed_on_keeps_the_flows_of_its_new_holder() -> None:
    passed_on = [*stale(forward(A, name="old"), None), *stale(None, forward(B, name="new"))]
    for order in (passed_on, passed_on[::-1]):
        judge = Judge(order, NODE_ADDRESSES)
        assert judge.condemns(flow(A))
        assert not judge.condemns(flow(B))


def test_families_and_protocols_are_told_apart() -> None:
    vip6 = parse_ip("fd00::10")
    judge = Judge(
        [Stale(UDP, 6, None, 30053, frozenset()), Stale(UDP, 6, vip6, 53, frozenset())], NODE_ADDRESSES
    )
    assert not judge.condemns(flow(A, dst=NODE, dport=30053))
    pod = parse_ip("fd00::1")
    assert judge.condemns(Flow(6, UDP, pod, 1, vip6, 53, pod, 5353, pod, 1, 0, b""))
    assert not judge.condemns(Flow(6, TCP, pod, 1, vip6, 53, pod, 5353, pod, 1, 0, b""))


# --- what to ask for -----------------------------------------------------------------


def test_few_ways_in_are_asked_for_one_by_one() -> None:
    judge = Judge(stale(forward(A, ways=(CLUSTER_IP, NODE_PORT)), None), NODE_ADDRESSES)
    assert len(judge) == 2
    assert judge.questions(2) == [Question(4, UDP, VIP, 53), Question(4, UDP, None, 30053)]


def test_many_ways_in_are_asked_for_by_protocol() -> None:
    udp, tcp = forward(A, ways=(CLUSTER_IP, NODE_PORT)), forward(A, proto=TCP)
    judge = Judge([*stale(udp, None), *stale(tcp, None)], NODE_ADDRESSES)
    assert judge.questions(2) == [Question(4, TCP, unanswered=True), Question(4, UDP)]
    assert judge.wanted == {TCP, UDP}


def test_nothing_stale_asks_nothing() -> None:
    judge = Judge((), NODE_ADDRESSES)
    assert (len(judge), judge.questions(4), judge.wanted) == (0, [], set())
    assert not judge.condemns(flow(A))


# --- laws ----------------------------------------------------------------------------

endpoint_lists = st.lists(st.sampled_from([A, B, C]), unique=True).map(tuple)
ways_in = st.lists(st.sampled_from([CLUSTER_IP, EXTERNAL, NODE_PORT]), unique=True, min_size=1).map(tuple)
protos = st.sampled_from([TCP, UDP, SCTP])


@st.composite
def forwards(draw: st.DrawFn, proto: Proto) -> Forward:
    serving = draw(endpoint_lists)
    chosen = tuple(e for e in serving if draw(st.booleans()))
    return replace(forward(*serving, ways=draw(ways_in), proto=proto), cluster=chosen)


@st.composite
def transitions(draw: st.DrawFn) -> tuple[Forward | None, Forward | None]:
    proto = draw(protos)
    one = st.one_of(st.none(), forwards(proto))
    return draw(one), draw(one)


def flows_of(one: Forward) -> list[Flow]:
    """Every kind of flow there can be to a service port's ways in."""
    places = [(f.ip if f.ip is not None else NODE, f.port) for f in one.frontends]
    return [
        flow(to, dst, port, one.proto, answered)
        for dst, port in places
        for to in (A, B, C, None)
        for answered in (False, True)
    ]


@given(transitions())
def test_a_flow_to_an_endpoint_that_serves_is_never_condemned(
    pair: tuple[Forward | None, Forward | None],
) -> None:
    old, new = pair
    if new is None:
        return
    for stales in (stale(old, new), stale(None, new)):
        judge = Judge(stales, NODE_ADDRESSES)
        serving = keep(*new.serving)
        assert not [f for f in flows_of(new) if (f.reply_src, f.reply_sport) in serving and judge.condemns(f)]


@given(protos.flatmap(forwards))
def test_of_a_deleted_service_port_no_flow_is_left_but_answered_connections(one: Forward) -> None:
    judge = Judge(stale(one, None), NODE_ADDRESSES)
    for f in flows_of(one):
        assert judge.condemns(f) == (one.proto == UDP or not f.status & IPS_SEEN_REPLY)


@given(transitions())
def test_no_flow_is_left_with_an_endpoint_that_went(pair: tuple[Forward | None, Forward | None]) -> None:
    """Of all flows the old rules could have made, none of UDP is with an endpoint that does not serve."""
    old, new = pair
    if old is None:
        return
    judge = Judge(stale(old, new), NODE_ADDRESSES)
    served, serving = keep(*old.serving), keep(*new.serving) if new else frozenset()
    ways = {f.ip if f.ip is not None else NODE for f in new.frontends} if new else set()
    for f in flows_of(old):
        made = (f.reply_src, f.reply_sport) in served
        may_stay = (f.reply_src, f.reply_sport) in serving and f.dst in ways
        if made and not may_stay:
            assert judge.condemns(f) == (old.proto == UDP or not f.status & IPS_SEEN_REPLY)


@given(protos.flatmap(forwards))
def test_a_first_sync_forgets_just_what_is_with_no_serving_endpoint(one: Forward) -> None:
    judge = Judge(stale(None, one), NODE_ADDRESSES)
    for f in flows_of(one):
        astray = (f.reply_src, f.reply_sport) not in keep(*one.serving)
        unsettled = one.proto == UDP or not f.status & IPS_SEEN_REPLY
        assert judge.condemns(f) == (astray and unsettled)


@given(protos.flatmap(lambda proto: st.lists(forwards(proto), max_size=3)))
def test_the_order_of_what_is_stale_does_not_matter(many: list[Forward]) -> None:
    stales = tuple(each for one in many for each in stale(None, one))
    one, other = Judge(stales, NODE_ADDRESSES), Judge(stales[::-1], NODE_ADDRESSES)
    assert set(one.questions(99)) == set(other.questions(99))
    for f in [f for each in many for f in flows_of(each)]:
        assert one.condemns(f) == other.condemns(f)
