"""
What can be asked of the relay, by annotations and by flags, with packets through the whole daemon: how an
endpoint is chosen, who is tried last, who waits, how many carry, and what is told of it.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kubeway.lab import addresses as at
from kubeway.lab.host import Host, LabError
from kubeway.lab.proxy import Proxy
from kubeway.lab.topology import Lab
from kubeway.planes.relay.balance import Balancer
from kubeway.planes.relay.objects import Endpoint, Way
from kubeway.values import parse_ip
from tests.kernel.netns import needs_root
from tests.kernel.place import VIP, Place, endpoints, service, until
from tests.kernel.play import WAYS

pytestmark = [pytest.mark.kernel, needs_root]

METRICS = ("127.0.0.1", 10249)
NODE_PORT = 30080
PORT = 9090
MOST = 128

# Says its name to whoever connects, and keeps the connection for as long as the other end does.
NAMED = """
import socket, sys, threading
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=1024)
def serve(peer):
    with peer:
        peer.sendall(sys.argv[3].encode())
        while peer.recv(4096):
            pass
print("up", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""

# Connects again and again and keeps all connections: so often, and if somebody is to be met, so often after
# that one was. Prints who answered, in the order of connecting.
KEEPER = """
import socket, sys, time
kept, left, wanted = [], int(sys.argv[3]), sys.argv[4:]
while left:
    kept.append(socket.create_connection((sys.argv[1], int(sys.argv[2])), 20))
    name = kept[-1].recv(99).decode()
    if not wanted:
        left -= 1
    elif name in wanted:
        wanted = []
    print(name, flush=True)
time.sleep(600)
"""

# Connects so often, and prints what became of each once that is known. A reset may be there so soon that
# it is the connecting that fails.
CROWD = """
import socket, sys, threading
def tell(what):
    sys.stdout.write(what + "\\n")
    sys.stdout.flush()
def one(peer):
    try:
        tell(peer.recv(99).decode() or "closed")
    except ConnectionResetError:
        tell("reset")
    threading.Event().wait()
for _ in range(int(sys.argv[3])):
    try:
        peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
    except ConnectionResetError:
        tell("reset")
    else:
        threading.Thread(target=one, args=(peer,)).start()
threading.Event().wait()
"""

Printed = Callable[[], list[str]]


def started(place: Place, host: Host, code: str, *arguments: object) -> Printed:
    """Run a program; returns what it has printed, line by line, and fails if it ended."""
    out = place.folder / f"out-{len(place._started)}"
    lines = place.start(host, code, *arguments)

    def printed() -> list[str]:
        lines()
        return out.read_text().split("\n")[:-1]

    return printed


def serve(place: Place, *pods: str) -> None:
    """Have these pods say their names at PORT."""
    for pod in pods:
        lines = place.start(place.lab.pods[pod], NAMED, place.lab.addresses[pod], PORT, pod)
        until(f"{pod} serves", lines)


def say(place: Place, pods: Sequence[str], port: int = PORT, **annotations: str) -> None:
    """The Service as it asks, and who serves it."""
    asked = {f"kubeway.io/{name}": text for name, text in annotations.items()}
    own: dict[str, Any] = {
        "type": "NodePort",
        "ports": [
            {"name": "http", "port": 80, "nodePort": NODE_PORT},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ],
    }
    cart = service(**own)
    cart["metadata"]["annotations"] = asked
    place.say("shop.json", cart, endpoints(place.lab, pods, port))


def run(place: Place, *flags: str) -> Proxy:
    proxy = place.run("--kubeway-relay-workers=1", *flags, way=WAYS["userspace"])
    proxy.wait_ready()
    return proxy


def told(lab: Lab, name: str) -> float:
    """A metric of the relay's, of TCP where it is told by protocol; NaN if the page cannot be had now."""
    try:
        page = lab.node.fetch(*METRICS, "/metrics").body
    except LabError:
        return float("nan")
    (value,) = re.findall(rf'^kubeway_relay_{name}(?:{{protocol="TCP"}})? (\S+)$', page, flags=re.M)
    return float(value)


@pytest.mark.parametrize("balance", ["roundrobin", "leastconn", "p2c"])
def test_who_has_fewer_connections_gets_the_next_where_that_is_asked_for(place: Place, balance: str) -> None:
    serve(place, "a", "b")
    say(place, ["a"], balance=balance)
    with run(place) as proxy:
        first = started(place, place.lab.outside, KEEPER, VIP, 80, 6)
        until("six are with a", lambda: len(first()) == 6)
        assert set(first()) == {"a"}
        say(place, ["a", "b"], balance=balance)
        more = started(place, place.lab.outside, KEEPER, VIP, 80, 5, "b")
        until("b is met, and five more", lambda: "b" in more() and len(more()) >= more().index("b") + 6)
        after = Counter(more()[more().index("b") + 1 :])
        # One is with b by now, and six or more with a.
        assert after == ({"a": 3, "b": 2} if balance == "roundrobin" else {"b": 5})
        assert proxy.stop() == 0
        assert "Traceback" not in proxy.log


def test_by_its_address_a_client_meets_the_same_one_after_a_restart_too(place: Place) -> None:
    lab, pods = place.lab, ["a", "b", "c"]
    clients = (at.OUTSIDE, *at.CLIENTS)
    ours = Way(
        tuple(sorted(Endpoint(parse_ip(lab.addresses[pod]), 8080) for pod in pods)), balance="sourcehash"
    )
    names = {parse_ip(lab.addresses[pod]): pod for pod in pods}
    expected = {
        client: names[next(Balancer(ours).choose(parse_ip(client), 0.0, Random(1))).ip] for client in clients
    }
    say(place, pods, port=8080, balance="sourcehash")
    for _ in range(2):
        with run(place):
            for client in clients:
                answers = lab.outside.ask_many(8, VIP, 80, source=client)
                assert {answer.name for answer in answers} == {expected[client]}


@pytest.mark.parametrize("demote", ["true", "false"])
def test_who_refuses_is_tried_last_where_that_is_asked_for(place: Place, demote: str) -> None:
    lab = place.lab
    serve(place, "a")  # and b refuses
    say(place, ["a", "b"], demote=demote)
    with run(place):
        began = time.monotonic()
        kept = started(place, lab.outside, KEEPER, VIP, 80, 40)
        until("forty are served", lambda: len(kept()) == 40)
        assert set(kept()) == {"a"}
        until("they are counted", lambda: told(lab, "connections_total") == 40)
        retries = told(lab, "retries_total")
        if demote == "false":
            assert retries == 20
        else:
            # Once, and once more for each time that it was forgiven.
            assert 1 <= retries <= 1 + (time.monotonic() - began) / 10
        assert told(lab, "refused_total") == 0
        assert told(lab, "open_connections") == 40


def test_who_comes_while_nobody_serves_waits_and_is_served(place: Place) -> None:
    lab = place.lab
    serve(place, "a")
    say(place, [], hold="120s")
    with run(place):
        crowd = started(place, lab.outside, CROWD, VIP, 80, MOST + 2)
        until("two are too many", lambda: crowd() == ["reset", "reset"])
        until("the others wait", lambda: told(lab, "waiting_connections") == MOST)
        # Another way in has its own room: of this node itself, and at loopback.
        others = [
            started(place, host, CROWD, ip, NODE_PORT, 1)
            for host, ip in ((lab.outside, at.NODE), (lab.node, "127.0.0.1"))
        ]
        until("these wait, too", lambda: told(lab, "waiting_connections") == MOST + 2)
        assert [other() for other in others] == [[], []]
        say(place, ["a"], hold="120s")
        until("all are served", lambda: len(crowd()) == MOST + 2 and all(other() for other in others))
        assert Counter(crowd()) == {"reset": 2, "a": MOST}
        assert [other() for other in others] == [["a"], ["a"]]
        assert told(lab, "waiting_connections") == 0
        # And when all endpoints have gone, the next one waits; the others stay.
        say(place, [], hold="120s")
        late: list[Printed] = []

        def waits() -> bool:
            late.append(started(place, lab.outside, CROWD, VIP, 80, 1))
            until("it is seen", lambda: late[-1]() or told(lab, "waiting_connections") >= 1)
            return not late[-1]()

        until("somebody waits", waits)
        assert told(lab, "open_connections") >= MOST + 3


def test_who_waited_long_enough_is_reset_and_udp_is_refused_as_ever(place: Place) -> None:
    lab = place.lab
    say(place, [], hold="1s")
    with run(place):
        for host, ip, port in (
            (lab.outside, VIP, 80),
            (lab.pods["client"], VIP, 80),
            (lab.node, VIP, 80),
            (lab.node, "127.0.0.1", NODE_PORT),
        ):
            began = time.monotonic()
            answer = host.ask(ip, port, wait=20)
            assert "reset" in answer.kind, answer
            assert time.monotonic() - began > 0.9
        assert told(lab, "refused_total") == 4
        assert told(lab, "connections_total") == 4
        assert lab.outside.ask(VIP, 53, "UDP", wait=20).kind == "refused"
        # Without the wish a client is refused before it is connected.
        say(place, [])
        until("refused", lambda: lab.outside.ask(VIP, 80, wait=20).kind == "refused")


def test_as_many_carry_as_were_asked_for_and_sessions_last_as_long(place: Place, tmp_path: Path) -> None:
    lab = place.lab
    say(place, ["a"], port=8080)
    slices = endpoints(lab, ["a"])
    slices["metadata"]["name"] = "cart-2"
    slices["ports"] = [{"name": "dns", "port": 8080, "protocol": "UDP"}]
    place.say("dns.json", slices)
    with run(place, "--kubeway-relay-workers=3", "--udp-timeout=1s") as proxy:
        until("three work", lambda: told(lab, "workers") == 3)
        assert lab.outside.ask(VIP, 53, "UDP").name == "a"
        until("its session ends", lambda: told(lab, "sessions") == 0)
        assert "udpIdleTimeout" not in proxy.log


def test_what_is_not_spoken_is_said_once(place: Place) -> None:
    ports = [{"name": "http", "port": 80}, {"name": "signal", "port": 81, "protocol": "SCTP"}]
    place.say("shop.json", service(ports=ports), endpoints(place.lab, ["a"]))
    with run(place) as proxy:
        assert place.lab.outside.ask(VIP, 80).name == "a"
        place.say("shop.json", service(ports=ports), endpoints(place.lab, ["b"]))
        until("b serves", lambda: place.lab.outside.ask(VIP, 80).name == "b")
        assert proxy.stop() == 0
        said = "shop/cart:signal (SCTP) is refused to all: userspace mode does not speak its protocol"
        assert proxy.log.count(said) == 1
