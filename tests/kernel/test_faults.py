"""
What may happen to a proxy in its life, with real packets: it is killed at any moment,
its rules are taken away, its manifests spoil, its clients' time runs out.

The kernel side of faults (refusals, stale generations, lost answers) is test_nft_plane's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kubeway.lab.host import Host
from kubeway.lab.proxy import Proxy
from kubeway.lab.topology import Lab

pytestmark = pytest.mark.kernel

VIP = "10.96.0.10"
PATIENCE = 30.0

# A server that answers line by line for as long as its client likes, and such a client:
# one connection, a line every few milliseconds, each answer printed. It ends with an
# error if the connection does.
SERVER = """
import socket, sys, threading
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
def serve(peer):
    with peer:
        while data := peer.recv(4096):
            peer.sendall(data)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
CLIENT = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as talk:
    n = 0
    while True:
        n += 1
        talk.sendall(b"%d\\n" % n)
        if not talk.recv(4096):
            raise SystemExit("the connection was closed")
        print(n, flush=True)
        time.sleep(0.005)
"""


def service(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "shop", "name": "cart"},
        "spec": {
            "clusterIP": VIP,
            "clusterIPs": [VIP],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
            **spec,
        },
    }


def endpoints(lab: Lab, pods: Sequence[str], port: int = 8080) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "shop",
            "name": "cart-1",
            "labels": {"kubernetes.io/service-name": "cart"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port}],
        "endpoints": [{"addresses": [lab.addresses[pod]], "nodeName": "node1"} for pod in pods],
    }


class Place:
    """The lab's node with a folder of manifests and whatever was started."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self._started: list[subprocess.Popen[bytes]] = []
        self.log = 0

    def say(self, name: str, *objects: dict[str, Any]) -> None:
        """Put these objects into a file, in one go as editors and kubelets do."""
        fresh = self.folder / f"{name}.new"
        fresh.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        fresh.replace(self.manifests / name)

    def run(self, *flags: str) -> Proxy:
        self.log += 1
        flags = ("--cluster-cidr=10.244.0.0/16", *flags)
        return Proxy(self.lab.node, self.manifests, self.folder / f"log-{self.log}", flags)

    def start(self, host: Host, code: str, *arguments: object) -> Callable[[], int]:
        """Run a program; returns how many lines it has printed, and fails if it ended."""
        out = self.folder / f"out-{len(self._started)}"
        with out.open("wb") as file:
            argv = [sys.executable, "-c", code, *map(str, arguments)]
            process = host.popen(argv, stdout=file, stderr=subprocess.STDOUT)
        self._started.append(process)

        def lines() -> int:
            assert process.poll() is None, out.read_text()
            return out.read_text().count("\n")

        return lines

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()


@pytest.fixture
def place(lab: Lab, tmp_path: Path) -> Iterator[Place]:
    place = Place(lab, tmp_path)
    try:
        yield place
    finally:
        place.end()
        lab.node.run(["nft", "flush", "ruleset"])
        lab.node.run(["conntrack", "-F"])


def until(what: str, check: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def answered(lab: Lab, n: int = 40) -> set[str]:
    return {answer.name or answer.kind for answer in lab.host("outside").ask_many(n, VIP, 80, "TCP")}


def test_a_kill_loses_no_connection_and_a_restart_mends_what_was_missed(place: Place) -> None:
    lab = place.lab
    pods = sorted(lab.addresses)[:3]
    place.say("service.json", service())
    place.say("slice.json", endpoints(lab, pods[:1], 9999))
    place.start(lab.host(f"pod/{pods[0]}"), SERVER, "0.0.0.0", 9999)
    first = place.run()
    with first:
        first.wait_ready()
        served = 0

        def connected() -> bool:
            return lab.host("outside").ask(VIP, 80, "TCP").kind != "refused"

        until("the server is up", connected)
        lines = place.start(lab.host("outside"), CLIENT, VIP, 80)
        until("the connection is made", lines)
        os.kill(first.pid, signal.SIGKILL)
        served = lines()
        until("the connection goes on without the proxy", lambda: lines() > served + 20)
    # While nobody looks: the endpoints change, an element goes, a rule comes.
    place.say("slice.json", endpoints(lab, pods[1:3]))
    lab.node.run(["nft", "delete", "element", "ip", "kubeway", "cluster-ips", "{", VIP, "}"])
    lab.node.run(["nft", "insert", "rule", "ip", "kubeway", "unowned", "counter"])
    with place.run() as second:
        second.wait_ready()
        assert answered(lab) == set(pods[1:3])
        served = lines()
        until("the connection goes on with the new proxy", lambda: lines() > served + 20)
        listing = lab.node.run(["nft", "list", "table", "ip", "kubeway"]).stdout
        assert "counter" not in listing
        assert "synced after start" in second.log


def test_a_restart_with_nothing_changed_writes_nothing(place: Place) -> None:
    lab = place.lab
    place.say("all.json", service(), endpoints(lab, sorted(lab.addresses)[:2]))
    with place.run() as first:
        first.wait_ready()
    generation = lab.node.run(["nft", "--json", "list", "ruleset"]).stdout
    with place.run() as second:
        second.wait_ready()
        until("it says so", lambda: "synced after start: 0 changes" in second.log)
    assert lab.node.run(["nft", "--json", "list", "ruleset"]).stdout == generation


def test_killed_again_and_again_while_all_changes_it_ends_up_right(place: Place) -> None:
    lab = place.lab
    pods = sorted(lab.addresses)[:4]
    place.say("service.json", service())
    place.say("slice.json", endpoints(lab, pods[:1]))
    for round_ in range(6):
        proxy = place.run()
        with proxy:
            if round_:
                # Sooner or later in its start, so that it dies before, in or after a write.
                time.sleep(0.12 * round_)
            else:
                proxy.wait_ready()
            place.say("slice.json", endpoints(lab, pods[round_ % 3 : round_ % 3 + 2]))
            os.kill(proxy.pid, signal.SIGKILL)
    place.say("slice.json", endpoints(lab, pods[:2]))
    with place.run() as last:
        last.wait_ready()
        assert answered(lab) == set(pods[:2])


@pytest.mark.parametrize(
    "vandal", ["flush ruleset", "flush chain ip kubeway dispatch", "delete table ip kubeway"]
)
def test_rules_taken_away_come_back_by_themselves(place: Place, vandal: str) -> None:
    lab = place.lab
    pods = sorted(lab.addresses)[:2]
    place.say("all.json", service(), endpoints(lab, pods))
    with place.run() as proxy:
        proxy.wait_ready()
        assert answered(lab) == set(pods)
        lab.node.run(["nft", *vandal.split()])
        until("the Service answers again", lambda: answered(lab, 10) <= set(pods))
        until("the log tells", lambda: "repaired" in proxy.log)


def test_affinity_ends_when_its_time_is_over_and_not_before(place: Place) -> None:
    lab = place.lab
    pods = sorted(lab.addresses)[:3]
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}
    place.say("all.json", service(**affinity), endpoints(lab, pods))

    def remembered() -> bool:
        listing = lab.node.run(["nft", "list", "map", "ip", "kubeway", "affinity"]).stdout
        return "expires" in listing

    with place.run() as proxy:
        proxy.wait_ready()
        chosen = set()
        end = time.monotonic() + 60
        # One client chooses anew each time it was forgotten: one of three, so soon another one.
        while len(chosen) < 2:
            assert time.monotonic() < end, chosen
            names = answered(lab, 20)
            assert len(names) == 1, "the client strayed within its time"
            chosen |= names
            until("the client is forgotten", lambda: not remembered())


def test_a_spoilt_manifest_is_told_in_a_line_and_what_was_good_stays(place: Place) -> None:
    lab = place.lab
    pods = sorted(lab.addresses)[:2]
    place.say("service.json", service())
    place.say("slice.json", endpoints(lab, pods))
    with place.run() as proxy:
        proxy.wait_ready()
        (place.manifests / "slice.json").write_text('{"kind": "EndpointSlice", "metadata": {"name": ')
        until("the log tells", lambda: "slice.json" in proxy.log)
        (line,) = [line for line in proxy.log.splitlines() if "slice.json" in line]
        assert "slice.json:1:" in line
        assert answered(lab) == set(pods)
        place.say("slice.json", endpoints(lab, pods[:1]))
        until("the mended file is in force", lambda: answered(lab, 10) == set(pods[:1]))
