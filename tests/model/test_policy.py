"""Which endpoints serve: kube-proxy's tables and worked examples, and the reasons for the rest."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.model.forward import Endpoint
from kubeway.model.objects import EndpointSlice, Hints, ServicePort, SliceEndpoint, SlicePort
from kubeway.model.policy import Here, Policy, Selection, candidates, select, why_not
from kubeway.model.settle import policy_of
from kubeway.values import TCP, UDP, Ip, parse_ip
from tests.worlds import World, services_in, worlds

PORT = ServicePort("http", TCP, 80)
CLUSTER = Policy(cluster=True, local=False)
BOTH = Policy(cluster=True, local=True, cause="externalTrafficPolicy")
LOCAL = Policy(cluster=False, local=True, cause="internalTrafficPolicy")


def said(words: str, number: int) -> SliceEndpoint:
    """L: local, N: not ready, T: terminating but serving, D: terminating and done; z:a and n:n1 are hints."""
    zones = tuple(word[2:] for word in words.split() if word.startswith("z:"))
    nodes = tuple(word[2:] for word in words.split() if word.startswith("n:"))
    has = set(words.split())
    return SliceEndpoint(
        Ip(bytes([10, 0, 0, number])),
        "n1" if "L" in has else "n9",
        ready=not has & {"N", "T", "D"},
        serving=not has & {"N", "D"},
        terminating=bool(has & {"T", "D"}),
        hints=Hints(zones, nodes) if zones or nodes else None,
    )


def piece(
    endpoints: list[SliceEndpoint], name: str = "s", port: int = 8080, port_name: str = "http"
) -> EndpointSlice:
    return EndpointSlice("shop", name, None, 4, (SlicePort(port_name, TCP, port),), tuple(endpoints))


def choose(words: list[str], policy: Policy, node: str = "n1", zone: str = "a") -> Selection:
    endpoints = [said(one, number) for number, one in enumerate(words, 1)]
    return select(candidates(PORT, 4, [piece(endpoints)], node), policy, Here(node, zone))


def numbers(endpoints: tuple[Endpoint, ...]) -> list[int]:
    return [endpoint.ip[3] for endpoint in endpoints]


@pytest.mark.parametrize(
    ("words", "policy", "node", "zone", "cluster", "local"),
    [
        pytest.param(["z:a", "z:b", "z:c", "z:a"], CLUSTER, "n1", "a", [1, 4], [], id="hints for our zone"),
        pytest.param(["z:a", "z:b", "", "z:a"], CLUSTER, "n1", "a", [1, 2, 3, 4], [], id="one has no hint"),
        pytest.param(["z:a", "z:a"], CLUSTER, "n1", "b", [1, 2], [], id="none for our zone"),
        pytest.param(["z:a", "z:b", "z:c", "z:a N"], CLUSTER, "n1", "a", [1], [], id="unready do not count"),
        pytest.param(["z:a N", "z:b", "z:c"], CLUSTER, "n1", "a", [2, 3], [], id="only unready in our zone"),
        pytest.param(
            ["z:a L", "z:b L", "z:c", "z:a"],
            BOTH,
            "n1",
            "a",
            [1, 4],
            [1, 2],
            id="the Local list knows no hints",
        ),
        pytest.param(
            ["n:n1 z:a", "n:n2 z:b", "n:n3 z:c", "n:n4 z:a"],
            CLUSTER,
            "n1",
            "a",
            [1],
            [],
            id="node hints first",
        ),
        pytest.param(
            ["n:n1 z:a", "n:n2 z:b", "n:n3 z:c", "n:n4 z:a"],
            CLUSTER,
            "n0",
            "a",
            [1, 4],
            [],
            id="then zone hints",
        ),
        pytest.param(
            ["n:n1", "n:n1 z:a", "z:a"], CLUSTER, "n1", "a", [1, 2, 3], [], id="each kind must be whole"
        ),
        pytest.param(["z:a", "z:b"], CLUSTER, "n1", "", [1, 2], [], id="no zone known"),
        pytest.param(["", "", ""], LOCAL, "n1", "a", [], [], id="iTP Local, all remote"),
        pytest.param(["", "T L", "T", "D L"], BOTH, "n1", "a", [1], [2], id="local only terminating"),
        pytest.param(["", "L"], CLUSTER, "n1", "a", [1, 2], [], id="eTP Local without a way in"),
        pytest.param(["N", "D"], CLUSTER, "n1", "a", [], [], id="nothing usable"),
        pytest.param(["T z:b", "T", "N"], CLUSTER, "n1", "a", [1, 2], [], id="fallback ignores hints"),
    ],
)
def test_worked_examples(
    words: list[str], policy: Policy, node: str, zone: str, cluster: list[int], local: list[int]
) -> None:
    chosen = choose(words, policy, node, zone)
    assert (numbers(chosen.cluster), numbers(chosen.local)) == (cluster, local)


def test_who_terminates_and_serves_is_told_apart_whether_chosen_or_not() -> None:
    chosen = choose(["", "T", "D", "N", "T L"], CLUSTER, "n1", "a")
    assert (numbers(chosen.cluster), numbers(chosen.leaving)) == ([1], [2, 5])
    chosen = choose(["N", "T"], CLUSTER, "n1", "a")
    assert (numbers(chosen.cluster), numbers(chosen.leaving)) == ([2], [2])


@pytest.mark.parametrize(
    ("ready", "local_ready", "leaving", "local_leaving"),
    [case for case in product([False, True], repeat=4) if case[0] >= case[1] and case[2] >= case[3]],
)
def test_decision_table(ready: bool, local_ready: bool, leaving: bool, local_leaving: bool) -> None:
    """Chapter 3.3, every row for both policies."""
    words = ["N"]
    words += [""] * ready + ["L"] * local_ready + ["T"] * leaving + ["T L"] * local_leaving
    chosen = choose(words, BOTH)
    all_ready = [n for n, word in enumerate(words, 1) if word in ("", "L")]
    all_leaving = [n for n, word in enumerate(words, 1) if "T" in word]
    here = {n for n, word in enumerate(words, 1) if "L" in word}
    assert numbers(chosen.cluster) == (all_ready or all_leaving)
    assert numbers(chosen.local) == (
        [n for n in all_ready if n in here] or [n for n in all_leaving if n in here]
    )
    assert chosen.usable == (ready or leaving)


def test_usable_with_only_the_local_list() -> None:
    assert choose(["", "N L"], LOCAL) == Selection((), (), choose([""], CLUSTER).serving, True)
    assert not choose(["N", "D L"], LOCAL).usable


def test_serving_ignores_readiness_locality_and_hints() -> None:
    slow = SliceEndpoint(Ip(bytes([10, 0, 0, 9])), ready=False, serving=True)
    found = candidates(PORT, 4, [piece([said("z:b", 1), said("T", 2), said("N", 3), slow])], "n1")
    chosen = select(found, CLUSTER, Here("n1", "a"))
    assert (numbers(chosen.cluster), numbers(chosen.serving)) == ([1], [1, 2, 9])


def test_equal_lists_are_one_object() -> None:
    chosen = choose(["L", "L"], BOTH)
    assert chosen.serving is chosen.cluster
    assert chosen.local is chosen.cluster
    mixed = choose(["L", "N"], BOTH)
    assert mixed.local is mixed.cluster


def test_in_order_of_address_bytes_then_port() -> None:
    slices = [
        piece([SliceEndpoint(parse_ip("10.0.0.10")), SliceEndpoint(parse_ip("10.0.0.9"))], "s1", 9000),
        piece([SliceEndpoint(parse_ip("10.0.0.10"))], "s2", 80),
    ]
    found = [(e.ip[3], e.port) for e, _ in candidates(PORT, 4, slices, "n1")]
    assert found == [(9, 9000), (10, 80), (10, 9000)]


@pytest.mark.parametrize("other", ["", "N", "T", "D"])
def test_a_terminating_double_never_wins(other: str) -> None:
    """A new pod has the address of one that is leaving: whichever slice comes first."""
    new, leaving = said(f"{other} L" if other in ("", "N") else other, 1), said("T", 1)
    for pieces in (
        [piece([new], "s1"), piece([leaving], "s2")],
        [piece([leaving], "s1"), piece([new], "s2")],
    ):
        ((endpoint, winner),) = candidates(PORT, 4, pieces, "n1")
        if not new.terminating:
            assert winner is new
            assert endpoint.local


def test_of_two_doubles_the_ready_one_wins() -> None:
    for pieces in ([[said("", 1)], [said("N", 1)]], [[said("N", 1)], [said("", 1)]]):
        ((_, winner),) = candidates(PORT, 4, [piece(one, f"s{n}") for n, one in enumerate(pieces)], "n1")
        assert winner.ready


def test_ports_match_by_name_and_protocol_only() -> None:
    slices = [
        piece([said("", 1)], "s1", 8080),
        piece([said("", 2)], "s2", 8080, port_name="metrics"),
        piece([said("", 3)], "s3", 9999),
        EndpointSlice("shop", "s4", None, 4, (SlicePort("http", UDP, 8080),), (said("", 4),)),
        EndpointSlice(
            "shop", "s6", None, 6, (SlicePort("http", TCP, 8080),), (SliceEndpoint(parse_ip("::5")),)
        ),
    ]
    assert [(e.ip[3], e.port) for e, _ in candidates(PORT, 4, slices, "n1")] == [(1, 8080), (3, 9999)]


# --- reasons -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "policy", "number", "reason"),
    [
        (["", "N"], CLUSTER, 2, "not ready"),
        (["", "D"], CLUSTER, 2, "not ready, and not serving"),
        (["", "T"], CLUSTER, 2, "terminating while ready ones exist"),
        (["z:a", "z:b z:c"], CLUSTER, 2, "hinted to other zones: b, c"),
        (["n:n1", "n:n2"], CLUSTER, 2, "hinted to other nodes: n2"),
        (["L", ""], LOCAL, 2, "not on this node (internalTrafficPolicy Local)"),
        (["L", "T L"], LOCAL, 2, "terminating while ready ones exist on this node"),
        (["T L", "N L"], LOCAL, 2, "not ready"),
    ],
)
def test_reasons(words: list[str], policy: Policy, number: int, reason: str) -> None:
    endpoints = [said(one, index) for index, one in enumerate(words, 1)]
    left = why_not(PORT, 4, {"s": piece(endpoints)}, policy, Here("n1", "a"))
    assert [(one.ip[3], one.port, one.slice, one.reason) for one in left] == [(number, 8080, "s", reason)]


def test_reasons_of_what_is_no_candidate() -> None:
    slices = {
        "s1": piece([SliceEndpoint(parse_ip("127.0.0.1")), SliceEndpoint(parse_ip("169.254.169.254"))], "s1"),
        "s2": piece([said("", 1)], "s2", port_name="metrics"),
    }
    left = why_not(PORT, 4, slices, CLUSTER, Here("n1", "a"))
    assert [(one.slice, one.port, one.reason) for one in left] == [
        ("s2", 0, "its slice has no port named 'http'"),
        ("s1", 8080, "loopback address"),
        ("s1", 8080, "link-local address"),
    ]


@given(worlds())
def test_used_or_a_reason_but_never_both(world: World) -> None:
    here = Here(world.facts.name, world.facts.zone)
    for service in services_in(world.snapshot):
        slices = world.snapshot.slices_of(service.name)
        for forward in world.forwards:
            if (forward.name.namespace, forward.name.service) != service.name:
                continue
            port = next(
                p for p in service.ports if (p.name, p.proto) == (forward.name.port, forward.name.proto)
            )
            policy = policy_of(service, port, forward.family, world.options)
            left = why_not(port, forward.family, slices, policy, here)
            used = {(e.ip, e.port) for e in (*forward.cluster, *forward.local)}
            named = {
                (endpoint.ip, its.port)
                for one in slices.values()
                if one.family == forward.family
                for its in one.ports
                if (its.name, its.proto) == (port.name, port.proto)
                for endpoint in one.endpoints
            }
            refused = {(one.ip, one.port) for one in left if one.port}
            assert used | refused == named
            assert not used & refused
            assert all(one.reason for one in left)


@given(worlds(), st.data())
def test_lists_are_in_order_without_doubles(world: World, data: st.DataObject) -> None:
    for forward in world.forwards:
        for endpoints in (forward.cluster, forward.local, forward.serving):
            places = [(e.ip, e.port) for e in endpoints]
            assert places == sorted(set(places))
        assert all(endpoint.local for endpoint in forward.local)
        assert forward.usable or not (forward.cluster or forward.local)
