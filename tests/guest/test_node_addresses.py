"""
In ipvs mode Services' addresses are the node's own; what else is at the node is not reached by them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kubeway.lab import addresses as at
from kubeway.lab.topology import Lab
from tests.guest.test_scenarios import cleaned
from tests.kernel.place import VIP, Place, endpoints, service
from tests.kernel.play import IPVS

EXTERNAL = "198.51.100.77"
PORT = 9177
"""Of a server on the node that listens at all of its addresses."""
CLIENTS = ("outside", "node", "pod/client")


@pytest.fixture
def served(place: Place) -> Iterator[Place]:
    place.way = IPVS
    place.say("a.json", service(externalIPs=[EXTERNAL]), endpoints(place.lab, ["a"]))
    yield place
    cleaned(place.lab.node)


def test_host_ports_are_closed_at_services_addresses(served: Place) -> None:
    """kubernetes#72236."""
    lab = served.lab
    lab.node.serve("host", "TCP", "0.0.0.0", PORT)
    try:
        with served.run() as proxy:
            proxy.wait_ready()
            for name in CLIENTS:
                host = lab.host(name)
                assert host.ask(at.NODE, PORT).name == "host"
                for ip in (VIP, EXTERNAL):
                    assert host.ask(ip, 80).name == "a", (name, ip)
                    assert host.ask(ip, PORT).kind == "refused", (name, ip)
    finally:
        lab.node.leave("TCP", "0.0.0.0", PORT)


def answers_for(lab: Lab, ip: str) -> bool:
    """Whether the node tells its neighbour that the address is there."""
    lab.outside.ip([f"route replace {ip}/32 dev eth0"])
    try:
        lab.outside.run(["ip", "neigh", "flush", "to", ip])
        lab.outside.ask(ip, 80, wait=4.0)
        return "lladdr" in lab.outside.run(["ip", "neigh", "show", "to", ip]).stdout
    finally:
        lab.outside.ip([f"route del {ip}/32 dev eth0"])
        lab.outside.run(["ip", "neigh", "flush", "to", ip])


@pytest.mark.parametrize("strict", [False, True])
def test_strict_arp(strict: bool, served: Place) -> None:
    """Who announces an address (MetalLB in layer 2) is to be the only one who answers for it."""
    node = served.lab.node
    try:
        with served.run(f"--ipvs-strict-arp={str(strict).lower()}") as proxy:
            proxy.wait_ready()
            assert answers_for(served.lab, EXTERNAL) is not strict
            # A node's own address it answers for all the same.
            assert served.lab.outside.ask(at.NODE, PORT).kind == "refused"
    finally:
        node.sysctl({"net.ipv4.conf.all.arp_ignore": 0, "net.ipv4.conf.all.arp_announce": 0})
