"""What this node must be known for before rules are made, and for how long that is waited for."""

from __future__ import annotations

import asyncio

import pytest

from kubeway.errors import BadInput
from kubeway.model.node import Options
from kubeway.model.objects import Node, NodeAddress
from kubeway.records import NodeAwaited, NodeLacking, Record
from kubeway.shell.nodewait import ADDRESS_PATIENCE, POD_CIDR_PATIENCE, Look, NodeWait, wait_for_node
from kubeway.values import parse_ip, parse_prefix

IPS = (NodeAddress("InternalIP", parse_ip("192.168.0.2")),)
CIDRS = (parse_prefix("10.244.1.0/24"),)
BARE = Node("n1")
ADDRESSED = Node("n1", addresses=IPS)
WHOLE = Node("n1", addresses=IPS, pod_cidrs=CIDRS)
BEGUN = 1000.0
ADDRESS_OVER = BEGUN + ADDRESS_PATIENCE
NO_NODE, NO_ADDRESS = "there is no Node 'n1'", "node 'n1' has no address"
NO_CIDRS = "node 'n1' has no spec.podCIDRs"


def wait(*, need_cidrs: bool = False) -> NodeWait:
    return NodeWait("n1", need_cidrs, BEGUN)


# --- addresses, in every mode ---------------------------------------------------------


def test_a_node_with_an_address_is_enough() -> None:
    assert wait().look(ADDRESSED, BEGUN) == Look(True)


@pytest.mark.parametrize(("node", "lacking"), [(None, NO_NODE), (BARE, NO_ADDRESS)])
def test_an_address_is_waited_for_and_then_not(node: Node | None, lacking: str) -> None:
    waiting = wait()
    assert waiting.look(node, BEGUN) == Look(False, lacking, ADDRESS_OVER)
    assert waiting.look(node, ADDRESS_OVER - 0.1) == Look(False, lacking, ADDRESS_OVER)
    assert waiting.look(node, ADDRESS_OVER) == Look(True, lacking)


def test_a_host_name_is_no_address() -> None:
    # Neither is any other type: kube-proxy takes InternalIP and ExternalIP.
    named = Node("n1", addresses=(NodeAddress("Hostname", parse_ip("192.168.0.2")),))
    assert wait().look(named, BEGUN).lacking == NO_ADDRESS


def test_an_address_that_comes_ends_the_wait() -> None:
    waiting = wait()
    assert not waiting.look(None, BEGUN).done
    assert waiting.look(ADDRESSED, BEGUN + 1) == Look(True)


# --- pod CIDRs, in NodeCIDR mode -------------------------------------------------------


def test_a_whole_node_is_enough() -> None:
    assert wait(need_cidrs=True).look(WHOLE, BEGUN) == Look(True)


def test_pod_cidrs_are_waited_for_from_the_address_on() -> None:
    waiting = wait(need_cidrs=True)
    assert not waiting.look(BARE, BEGUN).done
    over = BEGUN + 10 + POD_CIDR_PATIENCE
    assert waiting.look(ADDRESSED, BEGUN + 10) == Look(False, NO_CIDRS, over)
    assert waiting.look(ADDRESSED, over - 0.1) == Look(False, NO_CIDRS, over)
    assert waiting.look(WHOLE, over - 0.1) == Look(True)


def test_without_pod_cidrs_it_ends() -> None:
    waiting = wait(need_cidrs=True)
    waiting.look(ADDRESSED, BEGUN)
    with pytest.raises(BadInput) as error:
        waiting.look(ADDRESSED, BEGUN + POD_CIDR_PATIENCE)
    assert str(error.value) == (
        "node 'n1' has no spec.podCIDRs after 300 s, but --detect-local-mode=NodeCIDR needs its pod CIDRs: "
        "run the controller manager with --allocate-node-cidrs, or choose another mode"
    )


def test_without_a_node_it_ends_too_and_says_so() -> None:
    waiting = wait(need_cidrs=True)
    assert waiting.look(None, ADDRESS_OVER) == Look(False, NO_NODE, ADDRESS_OVER + POD_CIDR_PATIENCE)
    with pytest.raises(
        BadInput, match=r"^there is no Node 'n1' after 300 s, .*is --hostname-override right\?$"
    ):
        waiting.look(None, ADDRESS_OVER + POD_CIDR_PATIENCE)


def test_pod_cidrs_without_an_address_are_enough_after_the_wait_for_the_address() -> None:
    cidrs = Node("n1", pod_cidrs=CIDRS)
    waiting = wait(need_cidrs=True)
    assert not waiting.look(cidrs, BEGUN).done
    assert waiting.look(cidrs, ADDRESS_OVER) == Look(True, NO_ADDRESS)


# --- with a clock ------------------------------------------------------------------------


def test_a_node_that_becomes_whole_step_by_step() -> None:
    told: list[Record] = []
    seen = iter([None, None, BARE, ADDRESSED, ADDRESSED, WHOLE])
    options = Options(hostname="n1", detect_local="NodeCIDR")
    asyncio.run(wait_for_node(options, lambda: next(seen), told.append, every=0))
    assert next(seen, None) is None
    assert told == [NodeAwaited(NO_NODE, 30), NodeAwaited(NO_ADDRESS, 30), NodeAwaited(NO_CIDRS, 300)]
    assert str(told[0]) == "there is no Node 'n1': waiting for up to 30 s"


def test_going_on_without_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Record] = []
    times = iter(range(0, 1000, 5))
    monkeypatch.setattr("kubeway.shell.clock.monotonic", lambda: float(next(times)))
    asyncio.run(wait_for_node(Options(hostname="n1"), lambda: None, told.append, every=0))
    assert isinstance(told[0], NodeAwaited)
    assert told[1:] == [NodeLacking(NO_NODE)]
    assert str(told[1]) == "there is no Node 'n1'; going on without for now"
