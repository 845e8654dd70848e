"""
Userspace mode where the kernel looks for the way back to a sender with the packet's own mark
(net.ipv4.conf.*.src_valid_mark), which would be the one that leads to this node.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeway.lab.topology import Lab
from tests.kernel.conftest import reason_to_skip
from tests.kernel.place import VIP, Place, endpoints, service, until
from tests.kernel.play import WAYS
from tests.kernel.workers import end_workers

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip())]

ALL = "net.ipv4.conf.all"
WHO = ("pod/a", "pod/b", "pod/y", "outside", "node")


def served(lab: Lab) -> list[str]:
    """By whom it is, of all; of the node also where its connections keep the mark of their first packet."""
    found = [who for who in WHO if lab.host(who).ask(VIP, 80, wait=1.0).name == "a"]
    found += [f"{who}, UDP" for who in WHO if lab.host(who).ask(VIP, 53, "UDP", wait=1.0).name == "a"]
    return found


EVERYBODY = [*WHO, *(f"{who}, UDP" for who in WHO)]


@pytest.fixture
def crossing() -> Iterator[Lab]:
    """A lab of its own, as sysctls of the node are turned."""
    with Lab({"a": "10.244.1.11", "b": "10.244.1.12"}, {"y": "10.244.1.42"}) as lab:
        try:
            yield lab
        finally:
            end_workers(lab.node.net)  # they go on without their daemon


@pytest.mark.parametrize("early", [True, False], ids=["before the daemon", "while it runs"])
def test_packets_come_however_senders_are_checked(crossing: Lab, tmp_path: Path, early: bool) -> None:
    lab = crossing
    place = Place(lab, tmp_path)
    place.way = WAYS["userspace"]
    ports = [
        {"name": "http", "port": 80, "targetPort": 8080},
        {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 8080},
    ]
    slices = endpoints(lab, ["a"])
    slices["ports"].append({"name": "dns", "port": 8080, "protocol": "UDP"})
    place.say("cart.json", service(ports=ports), slices)
    if early:
        lab.node.sysctl({f"{ALL}.src_valid_mark": 1, f"{ALL}.rp_filter": 1})
    with place.run() as proxy:
        proxy.wait_ready()
        assert served(lab) == EVERYBODY
        lab.node.sysctl({f"{ALL}.src_valid_mark": 1})
        until("src_valid_mark is noticed", lambda: served(lab) == EVERYBODY)
        for name, values in (("conf.all.rp_filter", (2, 1, 0)), ("tcp_fwmark_accept", (1, 0))):
            for value in values:
                lab.node.sysctl({f"net.ipv4.{name}": value})
                assert served(lab) == EVERYBODY, (name, value)
        lab.node.sysctl({f"{ALL}.src_valid_mark": 0})
        until("it is taken back", lambda: "goto" not in lab.node.run(["ip", "rule"]).stdout)
        assert served(lab) == EVERYBODY
