"""Userspace mode where loopback has no IPv6: then a packet of that family cannot be handed to this node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeway.lab import addresses as at
from kubeway.lab.topology import Lab
from tests.kernel.conftest import reason_to_skip
from tests.kernel.place import VIP, Place, endpoints, service, until
from tests.kernel.play import WAYS
from tests.kernel.workers import end_workers
from tests.worlds import service_docs

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip())]

VIP6 = at.twin("10.96.0.20")
LINE = "only Services of IPv4 are served"


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Place]:
    """A lab of its own, as half of it is switched off."""
    with Lab({"a": "10.244.1.11", "b": "10.244.1.12"}, bridged={}) as lab:
        place = Place(lab, tmp_path)
        place.way = WAYS["userspace"]
        place.say("cart.json", service(), endpoints(lab, ["a"]))
        pods = [at.twin(lab.addresses["a"])]
        place.say("six.json", *service_docs("shop/six:web", vip=VIP6, endpoints=pods, node="node1"))
        try:
            yield place
        finally:
            place.end()
            end_workers(lab.node.net)  # they go on without their daemon


def served(lab: Lab, vip: str, by: str = "a") -> bool:
    return lab.host("pod/b").ask(vip, 80, wait=1.0).name == by


def switch(lab: Lab, where: str, off: int) -> None:
    lab.node.sysctl({f"net.ipv6.conf.{where}.disable_ipv6": off})


@pytest.mark.parametrize("where", ["lo", "all"])
def test_services_of_ipv4_are_served_all_the_same(field: Place, where: str) -> None:
    lab = field.lab
    switch(lab, where, 1)
    with field.run() as proxy:
        proxy.wait_ready()
        assert served(lab, VIP)
        assert served(lab, VIP) == (lab.node.ask(VIP, 80).name == "a")
        assert proxy.log.count(LINE) == 1
        assert "refused" not in proxy.log.lower()
        assert "117" not in lab.node.run(["ip", "-6", "rule"]).stdout
        assert "ip6 kubeway" not in lab.node.run(["nft", "list", "tables"]).stdout


def test_it_comes_and_goes_while_running(field: Place) -> None:
    lab = field.lab
    switch(lab, "lo", 1)
    with field.run() as proxy:
        proxy.wait_ready()
        assert not served(lab, VIP6)
        switch(lab, "lo", 0)
        until("IPv6 is served", lambda: served(lab, VIP6))
        assert proxy.log.count("Services of IPv6 are served from now on") == 1
        switch(lab, "lo", 1)
        until("IPv6 is served no more", lambda: proxy.log.count(LINE) == 2)
        # Of IPv4 changes come into force as ever.
        field.say("cart.json", service(), endpoints(lab, ["b"]))
        until("the other endpoint", lambda: lab.host("pod/a").ask(VIP, 80, wait=1.0).name == "b")
        assert "ip6 kubeway" not in lab.node.run(["nft", "list", "tables"]).stdout
