"""A client that uses its port again at once, as one of many connections may, is served each time; and none of
its ports is used in its name."""

from __future__ import annotations

import re
import sys

import pytest

from kubeway.lab.topology import Lab
from tests.kernel.place import VIP, Place, endpoints, service
from tests.kernel.play import WAYS

pytestmark = pytest.mark.kernel

# The server ends first: so who is between keeps the connection in mind for a minute, and the client does not.
AGAIN = """
import socket, sys
for _ in range(5):
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(10)
        sock.bind(("", 40123))
        sock.connect((sys.argv[1], 80))
        sock.sendall(b"who are you?")
        while sock.recv(4096):
            pass
"""


@pytest.mark.parametrize("way", ["nftables", "userspace"])
@pytest.mark.parametrize("who", ["pod/client", "outside", "node"])
def test_a_port_that_is_used_again_at_once(who: str, way: str, place: Place, lab: Lab) -> None:
    place.way = WAYS[way]
    place.say("shop.json", service(), endpoints(lab, ["a"]))
    with place.run() as proxy:
        proxy.wait_ready()
        lab.host(who).run([sys.executable, "-c", AGAIN, VIP])


# The client ends first: so the relay keeps its connection to the endpoint in mind for a minute, and the node
# forwards nothing that looks as if it was that.
FIRST = """
import socket, sys
for _ in range(20):
    with socket.create_connection((sys.argv[1], 80), 10) as sock:
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass
"""


@pytest.mark.parametrize("who", ["pod/client", "pod/x"])
def test_whoever_asks_the_endpoint_itself_is_not_in_the_way(who: str, place: Place, lab: Lab) -> None:
    host, us, them = lab.host(who), lab.addresses[who.removeprefix("pod/")], lab.addresses["a"]
    place.way = WAYS["userspace"]
    place.say("shop.json", service(), endpoints(lab, ["a"]))
    with place.run() as proxy:
        proxy.wait_ready()
        host.run([sys.executable, "-c", FIRST, VIP])
        listed = lab.node.run(["ss", "-Htan", "state", "time-wait", "dst", f"{them}:8080"]).stdout
        ports = {int(port) for port in re.findall(rf" {us}:(\d+) ", listed)}
        assert ports
        first, last = map(int, host.run(["cat", "/proc/sys/net/ipv4/ip_local_port_range"]).stdout.split())
        assert not ports & {*range(first, last + 1)}, "the client may come to have one of these"
