"""
Endpoints that leave, with real connections: who is connected stays so until he ends or the limit is over,
nobody new comes, and the kernel's weight 0 is memory enough for a daemon that is started anew.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import pytest

from kubeway.lab.host import Host
from kubeway.lab.topology import PODS
from tests.guest import market
from tests.guest.witness import at_node, unlevel, weights
from tests.kernel.place import Place, until

TALK, DNS = "10.96.0.30", "10.96.0.31"
PORT = 9090
A, B = (f"{PODS[pod]}:{PORT}" for pod in "ab")
LIMIT = 8.0
SHORT_FINS = "--ipvs-tcpfin-timeout=2s"
"""For connections that the server has ended and the client has not, which end so here.

For others there are a minute and two that nobody can set (ip_vs_proto_tcp.c: CLOSE_WAIT, TIME_WAIT).
"""


@contextmanager
def answering(pods: Host, name: str) -> Iterator[None]:
    """On this pod: each question is answered with the pod's name, until the client says goodbye."""
    listener = at_node(pods, lambda: socket.create_server((PODS[name], PORT)))

    def serve(peer: socket.socket) -> None:
        with peer:
            while peer.recv(100) == b"?":
                peer.sendall(name.encode())

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


class Talk:
    """A connection to the Service that goes on."""

    ended: ClassVar[list[Talk]] = []
    """Whose server has closed."""

    def __init__(self, client: Host) -> None:
        self.socket = at_node(client, lambda: socket.create_connection((TALK, 80), 10))

    def says(self) -> str:
        self.socket.sendall(b"?")
        return self.socket.recv(100).decode()

    def end(self) -> None:
        self.socket.sendall(b"!")
        assert self.socket.recv(100) == b""
        self.ended.append(self)


def talk_to(client: Host, name: str) -> Talk:
    while (talk := Talk(client)).says() != name:
        talk.end()
    return talk


def served_by(place: Place, *pods: str) -> None:
    service = market.service("talk", TALK, protos=["TCP"])
    place.say("talk.json", service, *market.slices("talk", pods, protos=["TCP"], port=PORT))


@pytest.fixture
def talking(balanced: Place) -> Iterator[Place]:
    place = balanced
    place.say("node.json", *market.NODE)
    served_by(place, "a", "b")
    with answering(place.lab.pods["a"], "a"), answering(place.lab.pods["b"], "b"):
        yield place
    while Talk.ended:
        Talk.ended.pop().socket.close()


def test_who_is_connected_stays_so(talking: Place) -> None:
    place, node, client = talking, talking.lab.node, talking.lab.host("pod/client")

    def news() -> set[str]:
        talks = [Talk(client) for _ in range(10)]
        names = {talk.says() for talk in talks}
        for talk in talks:
            talk.end()
        return names

    with place.run(SHORT_FINS, "--kubeway-ipvs-drain=300s") as proxy:
        proxy.wait_ready()
        talk = talk_to(client, "a")
        served_by(place, "b")
        until("a drains", lambda: weights(node, TALK) == {A: 0, B: 1})
        assert talk.says() == "a"
        assert news() == {"b"}

        # It comes back, and he who was connected never knew.
        served_by(place, "a", "b")
        until("a is back", lambda: weights(node, TALK) == {A: 1, B: 1})
        assert talk.says() == "a"
        assert news() == {"a", "b"}

        # It goes when the last one has ended: long before the limit.
        served_by(place, "b")
        until("a drains", lambda: weights(node, TALK) == {A: 0, B: 1})
        talk.end()
        until("a has gone", lambda: weights(node, TALK) == {B: 1})

        served_by(place, "a", "b")
        until("a is back", lambda: weights(node, TALK) == {A: 1, B: 1})
        talk = talk_to(client, "a")
        served_by(place, "b")
        until("a drains", lambda: weights(node, TALK) == {A: 0, B: 1})
        os.kill(proxy.pid, signal.SIGKILL)

    began = time.monotonic()
    with place.run(SHORT_FINS, f"--kubeway-ipvs-drain={LIMIT:.0f}s") as proxy:
        proxy.wait_ready()
        assert "synced after start: 0 changes" in proxy.log
        assert weights(node, TALK) == {A: 0, B: 1}
        assert unlevel(place) == []
        assert talk.says() == "a"
        assert news() == {"b"}
        # Connected or not, the limit is the limit.
        until("a has gone", lambda: weights(node, TALK) == {B: 1})
        assert time.monotonic() - began > LIMIT
        assert news() == {"b"}
        assert "drift" not in proxy.log
        talk.socket.close()


def test_a_flow_stays_as_long_as_its_endpoint_serves(balanced: Place) -> None:
    place, client = balanced, balanced.lab.host("pod/client")
    service = market.service("dns", DNS, protos=["UDP"])

    def served(*pods: str, leaving: str = "") -> None:
        place.say("dns.json", service, *market.slices("dns", pods, protos=["UDP"], leaving=leaving.split()))

    def flow() -> str:
        return client.ask(DNS, 80, "UDP", sport=5353, wait=0.5).name

    served("a", "b")
    with place.run() as proxy:
        proxy.wait_ready()
        was = flow()
        other = "b" if was == "a" else "a"
        served("a", "b", leaving=was)
        until("it drains", lambda: 0 in weights(place.lab.node, DNS, option="-u").values())
        assert {answer.name for answer in client.ask_many(10, DNS, 80, "UDP")} == {other}
        assert [flow() for _ in range(3)] == [was] * 3
        served(other)
        until("the flow has moved", lambda: flow() == other)
        assert len(weights(place.lab.node, DNS, option="-u")) == 1
