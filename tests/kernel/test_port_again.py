"""A client that uses its port again at once, as one of many connections may, is served each time."""

from __future__ import annotations

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
