"""
Pods of one bridge in userspace mode: on a bridge that was not there when the daemon began, and where bridges
ask the rules as well as where they do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeway.lab import addresses as at
from kubeway.lab.host import Answer
from kubeway.lab.proxy import Proxy
from kubeway.lab.topology import Lab
from tests.kernel.conftest import reason_to_skip
from tests.kernel.place import Place, until
from tests.kernel.play import WAYS
from tests.kernel.workers import end_workers
from tests.worlds import Doc, service_docs

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip())]

PODS = {"p": "10.244.1.11", "q": "10.244.1.12", "away": "10.244.1.20"}
BRIDGE = "cni7"
EACH = [(family, proto) for family in (4, 6) for proto in ("TCP", "UDP")]
ASK = {"net.bridge.bridge-nf-call-iptables": 1, "net.bridge.bridge-nf-call-ip6tables": 1}


def twin(text: str, family: int) -> str:
    return text if family == 4 else at.twin(text)


def vip(family: int) -> str:
    return twin("10.96.0.10", family)


def shop() -> list[Doc]:
    """Of each family and protocol a Service that pod/p serves."""
    return [
        doc
        for family, proto in EACH
        for doc in service_docs(
            f"shop/{proto.lower()}{family}:web",
            vip=vip(family),
            proto=proto,
            endpoints=[twin(PODS["p"], family)],
            node="node1",
        )
    ]


@pytest.fixture
def street() -> Iterator[Lab]:
    """A lab without a bridge."""
    with Lab(PODS, bridged={}) as lab:
        try:
            yield lab
        finally:
            end_workers(lab.node.net)  # they go on without their daemon


@pytest.fixture
def proxy(street: Lab, tmp_path: Path) -> Iterator[Proxy]:
    """It runs, and all is in force."""
    place = Place(street, tmp_path)
    place.way = WAYS["userspace"]
    place.say("shop.json", *shop())
    with place.run("--cluster-cidr=10.244.0.0/16,fd00:10:244::/48") as proxy:
        proxy.wait_ready()
        for family, proto in EACH:
            assert asked(street, "pod/q", family, proto).masqueraded is False
        yield proxy


def asked(lab: Lab, who: str, family: int, proto: str, wait: float = 5.0) -> Answer:
    return lab.host(who).ask(vip(family), 80, proto, wait=wait)


def build_a_bridge(lab: Lab) -> None:
    """pod/p and pod/q become neighbours on it."""
    lab.node.ip([f"link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0", f"link set {BRIDGE} up"])
    for ip, length in zip(at.both(at.GATEWAY), (24, 64), strict=True):
        lab.node.ip([f"addr add {ip}/{length} dev {BRIDGE} {'nodad' * (length == 64)}"])
    for pod, other in (("p", "q"), ("q", "p")):
        link = f"pod-{pod}"
        for ip in at.both(PODS[pod]):
            lab.node.ip([f"route del {ip} dev {link}"])
        lab.node.ip([f"addr flush dev {link}", f"link set {link} master {BRIDGE}"])
        # It has to be sent back by the port it came by, where an endpoint is its own client.
        lab.node.ip([f"link set {link} type bridge_slave hairpin on"])
        lab.host(f"pod/{pod}").ip([f"route add {ip} dev eth0" for ip in at.both(PODS[other])])


def bridges_can_ask(lab: Lab) -> bool:
    return lab.node.run(["test", "-e", "/proc/sys/net/bridge"], check=False).returncode == 0


@pytest.mark.parametrize("ask", [1, 0], ids=["rules asked", "rules not asked"])
def test_pods_on_a_bridge_that_came_later_reach_services(street: Lab, proxy: Proxy, ask: int) -> None:
    if bridges_can_ask(street):
        street.node.sysctl(dict.fromkeys(ASK, ask))
    elif ask:
        pytest.skip("br_netfilter is not there")
    build_a_bridge(street)

    def neighbours(who: str, family: int, proto: str) -> bool:
        """The endpoint sees the client where its answer comes by the rules; else it has to see the node."""
        answer = asked(street, who, family, proto, wait=1.0)
        return answer.name == "p" and answer.masqueraded is (not ask or who == "pod/p")

    for family, proto in EACH:
        for who in ("pod/q", "pod/p"):
            until(f"{who} by IPv{family}, {proto}", lambda w=who, f=family, p=proto: neighbours(w, f, p))  # type: ignore[misc]
        # Who is not on it is seen.
        answer = asked(street, "pod/away", family, proto)
        assert (answer.name, answer.masqueraded) == ("p", False)
        assert asked(street, "node", family, proto).name == "p"
    # Nothing is written for it again and again.
    assert "not as" not in proxy.log


def test_a_switch_that_is_turned_later_is_noticed(street: Lab, proxy: Proxy) -> None:
    if not bridges_can_ask(street):
        pytest.skip("br_netfilter is not there")
    street.node.sysctl(ASK)
    build_a_bridge(street)
    for value in (1, 0, 1):
        street.node.sysctl(dict.fromkeys(ASK, value))
        until(
            f"bridge-nf-call-iptables {value}",
            lambda hidden=not value: (
                asked(street, "pod/q", 4, "TCP", wait=1.0).masqueraded is hidden
                and asked(street, "pod/q", 4, "TCP", wait=1.0).name == "p"
            ),
        )
