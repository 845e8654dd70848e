"""
The whole daemon in userspace mode, with real packets: what clients do that has to do with sockets, and what
becomes of them when workers die.

What all modes have in common is in the scenarios; a relay alone is test_relay's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from kubeway.lab import addresses as at
from tests.kernel.place import VIP, Place, answered, endpoints, service, until
from tests.kernel.play import WAYS
from tests.kernel.workers import workers

pytestmark = pytest.mark.kernel

PORTS = [
    {"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080},
    {"name": "dns", "protocol": "UDP", "port": 80, "nodePort": 30080},
]
SERVED = [{"name": "http", "port": 8080}, {"name": "dns", "protocol": "UDP", "port": 8080}]

# Connects from one port, again and again, to a server that ends first; prints what it got each time.
AGAIN = """
import socket, sys
to, source, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
for _ in range(times):
    with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET) as sock:
        sock.settimeout(20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((source, 23456))
        sock.connect((to, 80))
        sock.sendall(b"who?")
        said = b""
        while part := sock.recv(4096):
            said += part
        print(said.decode().strip())
"""


def twins(place: Place, pods: list[str]) -> None:
    """shop/cart in both families, at these pods."""
    both = {"clusterIPs": list(at.both(VIP)), "ipFamilies": ["IPv4", "IPv6"]}
    place.say("service.json", service(ipFamilyPolicy="RequireDualStack", **both))
    four = endpoints(place.lab, pods)
    six = {
        **four,
        "addressType": "IPv6",
        "metadata": {**four["metadata"], "name": "cart-6"},
        "endpoints": [{**one, "addresses": [at.twin(one["addresses"][0])]} for one in four["endpoints"]],
    }
    place.say("slices.json", four, six)


def test_workers_may_be_killed_one_by_one_and_nobody_is_refused(place: Place) -> None:
    lab = place.lab
    place.way = WAYS["userspace"]
    place.say("service.json", service(type="NodePort", ports=PORTS))
    place.say("slice.json", {**endpoints(lab, ["a", "b"]), "ports": SERVED})
    with place.run() as proxy:
        proxy.wait_ready()
        floods = {
            "TCP": [
                lab.host("outside").flood(VIP, 80, wait=60),
                lab.host("pod/client").flood(VIP, 80, wait=60),
            ],
            "UDP": [lab.host("outside").flood(at.NODE, 30080, "UDP", wait=10)],
        }
        every = [one for some in floods.values() for one in some]

        def served() -> bool:
            """More than before, whichever way."""
            return all(one.report().sent > count + 50 for one, count in zip(every, counts, strict=True))

        first = workers(lab.node.net)
        assert first
        for number, victim in enumerate(first, 1):
            counts = [one.report().sent for one in every]
            until("they are served", served)
            os.kill(victim, signal.SIGKILL)
            until("it is told", lambda n=number: proxy.log.count("killed by signal 9") == n)  # type: ignore[misc]
            counts = [one.report().sent for one in every]
            until("they are served again", served)
        assert len(workers(lab.node.net)) == len(first)
        assert not set(workers(lab.node.net)) & set(first)
        assert answered(lab) == {"a", "b"}
        for proto, some in floods.items():
            for tally in [one.stop() for one in some]:
                # What two clients each had asked of the one that was killed; of UDP nobody tells.
                allowed = {"timeout"} if proto == "UDP" else set[str]()
                assert all(kind in allowed or kind.startswith("failed: ") for kind in tally.lost), tally
                assert sum(tally.lost.values()) <= 2 * len(first), tally


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("who", ["pod/client", "outside", "node"])
def test_a_port_may_be_used_again_at_once(place: Place, who: str, family: int) -> None:
    # The relay's socket of the connection before is in TIME-WAIT then, as it was the first to end.
    place.way = WAYS["userspace"]
    twins(place, ["a"])
    host = place.lab.host(who)
    source = {"pod/client": "10.244.1.20", "outside": at.OUTSIDE, "node": at.NODE}[who]
    to, source = (VIP, source) if family == 4 else (at.twin(VIP), at.twin(source))
    with place.run() as proxy:
        proxy.wait_ready()
        talks = host.popen([sys.executable, "-c", AGAIN, to, source, "8"], stdout=subprocess.PIPE)
        out, _ = talks.communicate(timeout=200)
        assert talks.returncode == 0
        assert out.decode().count('"name": "a"') == 8
