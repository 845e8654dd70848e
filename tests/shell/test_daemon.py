"""The daemon on a real kernel, each time in a network namespace of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="writes kernel rules, so it needs root"),
    pytest.mark.skipif(not shutil.which("nft"), reason="nft is not installed"),
]

NODE = "kind: Node\nmetadata: {name: node1}\nstatus: {addresses: [{type: InternalIP, address: 127.0.0.1}]}\n"
SERVICE = """
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.10, ports: [{name: http, port: 80}]}
"""
BALANCED = """
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  {type: LoadBalancer, clusterIP: 10.96.0.10, externalTrafficPolicy: Local, healthCheckNodePort: 32000,
   ports: [{name: http, port: 80, nodePort: 30080}]}
"""
ASK = """
import sys, urllib.error, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=10) as reply:
        print(reply.status, reply.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
except OSError as error:
    print(0, error)
"""


def slices(*ips: str) -> str:
    endpoints = ", ".join(f"{{addresses: [{ip}], nodeName: node1}}" for ip in ips)
    return (
        "\n---\nkind: EndpointSlice\n"
        "metadata: {name: cart-1, namespace: shop, labels: {kubernetes.io/service-name: cart}}\n"
        f"addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{endpoints}]\n"
    )


def until(reached: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < end, what
        time.sleep(0.02)


class Place:
    """A network namespace, held by a process that only sleeps, and manifests for daemons in it."""

    def __init__(self, directory: Path) -> None:
        self.manifests = directory / "manifests"
        self.manifests.mkdir()
        self._logs = directory
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        self._daemons: list[subprocess.Popen[bytes]] = []
        ours = os.stat("/proc/self/ns/net").st_ino
        until(lambda: os.stat(f"/proc/{self._holder.pid}/ns/net").st_ino != ours, "no namespace of its own")
        self.run("ip", "link", "set", "lo", "up")

    def close(self) -> None:
        for process in (*self._daemons, self._holder):
            process.kill()
            process.wait()

    def inside(self, *words: str) -> list[str]:
        return ["nsenter", "--target", str(self._holder.pid), "--net", *words]

    def run(self, *words: str) -> str:
        done = subprocess.run(self.inside(*words), capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    def kubeway(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = self.inside(sys.executable, "-m", "kubeway", *words)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def daemon(self, *words: str) -> Daemon:
        log = self._logs / f"log-{len(self._daemons)}"
        command = [sys.executable, "-m", "kubeway", "run", "--manifests", str(self.manifests)]
        command += ["--hostname-override", "node1", "--logging-format", "json", *words]
        with log.open("wb") as file:
            process = subprocess.Popen(self.inside(*command), stderr=file)
        self._daemons.append(process)
        return Daemon(self, process, log)

    def write(self, name: str, text: str) -> None:
        fresh = self.manifests / f".{name}"
        fresh.write_text(text)
        fresh.rename(self.manifests / name)

    def endpoints(self) -> set[str]:
        """The targets the kernel holds."""
        listed = json.loads(self.run("nft", "-j", "list", "map", "ip", "kubeway", "endpoints"))
        held = next(item["map"] for item in listed["nftables"] if "map" in item)
        return {target["concat"][0] for _, target in held.get("elem", [])}

    def ask(self, url: str) -> tuple[int, str]:
        status, _, body = self.run(sys.executable, "-c", ASK, url).partition(" ")
        return int(status), body.strip()


class Daemon:
    def __init__(self, place: Place, process: subprocess.Popen[bytes], log: Path) -> None:
        self._place, self._log = place, log
        self.process = process

    def records(self, kind: str = "") -> list[dict[str, object]]:
        lines = [
            json.loads(line) for line in self._log.read_text().splitlines(keepends=True) if line[-1] == "\n"
        ]
        return [line for line in lines if line["record"] == kind or not kind]

    def until(self, kind: str, count: int = 1) -> dict[str, object]:
        until(lambda: len(self.records(kind)) >= count, f"{count} x {kind} in {self._log.read_text()}")
        return self.records(kind)[count - 1]

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """The exit code, and how long it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(timeout=30), time.monotonic() - began


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    try:
        yield place
    finally:
        place.close()


def test_from_the_first_sync_to_the_signal(place: Place) -> None:
    place.write("node.yaml", NODE)
    place.write("cart.yaml", SERVICE + slices("10.244.1.11", "10.244.1.12"))
    daemon = place.daemon("--healthz-bind-address", "127.0.0.1:10256")
    assert daemon.until("Synced")["cause"] == "start"
    assert place.endpoints() == {"10.244.1.11", "10.244.1.12"}
    daemon.until("Listening")
    assert place.ask("http://127.0.0.1:10256/readyz") == (200, '{"ready":true}')
    status, body = place.ask("http://127.0.0.1:10256/healthz")
    assert status == 200
    assert json.loads(body)["nodeEligible"] is True

    place.write("cart.yaml", SERVICE + slices("10.244.1.11", "10.244.1.13"))
    daemon.until("Synced", 2)
    assert place.endpoints() == {"10.244.1.11", "10.244.1.13"}

    place.write("cart.yaml", "kind: [")
    assert "stays in force" in str(daemon.until("ManifestBad")["message"])
    assert place.endpoints() == {"10.244.1.11", "10.244.1.13"}

    place.write(
        "node.yaml",
        NODE.replace("status:", "spec: {taints: [{key: ToBeDeletedByClusterAutoscaler}]}\nstatus:"),
    )
    until(lambda: place.ask("http://127.0.0.1:10256/healthz")[0] == 503, "still eligible")
    assert place.ask("http://127.0.0.1:10256/livez")[0] == 200

    code, took = daemon.end()
    assert code == 0
    assert took < 5, "it ends at once, however busy this machine is"
    assert daemon.records("Stopped")[0]["cause"] == "SIGTERM"
    assert place.endpoints() == {"10.244.1.11", "10.244.1.13"}, "the rules stay"


def test_a_restart_writes_only_what_differs(place: Place) -> None:
    place.write("cart.yaml", SERVICE + slices("10.244.1.11"))
    first = place.daemon()
    assert int(str(first.until("Synced")["changes"])) > 50
    assert first.end(signal.SIGINT)[0] == 0
    place.write("cart.yaml", SERVICE + slices("10.244.1.12"))
    again = place.daemon()
    assert 0 < int(str(again.until("Synced")["changes"])) < 10
    assert place.endpoints() == {"10.244.1.12"}


def test_rules_that_others_take_away_come_back(place: Place) -> None:
    place.write("cart.yaml", SERVICE + slices("10.244.1.11"))
    daemon = place.daemon()
    daemon.until("Synced")
    place.run("nft", "flush", "map", "ip", "kubeway", "endpoints")
    daemon.until("Repaired")
    assert place.endpoints() == {"10.244.1.11"}
    place.run("nft", "delete", "table", "ip", "kubeway")
    daemon.until("Repaired", 2)
    assert place.endpoints() == {"10.244.1.11"}


def test_who_asks_for_a_look_at_the_kernel_is_told_of_it(place: Place) -> None:
    place.write("cart.yaml", SERVICE + slices("10.244.1.11"))
    daemon = place.daemon()
    daemon.until("Synced")
    daemon.process.send_signal(signal.SIGUSR1)
    asked = daemon.until("Synced", 2)
    assert asked["changes"] == 0
    assert float(str(asked["read_ms"])) > 0
    assert daemon.end()[0] == 0


def test_health_check_ports_follow_the_endpoints(place: Place) -> None:
    place.write("cart.yaml", BALANCED + slices("10.244.1.11", "10.244.1.12"))
    daemon = place.daemon()
    daemon.until("Synced")
    until(lambda: place.ask("http://127.0.0.1:32000/")[0] == 200, "no health check")
    assert json.loads(place.ask("http://127.0.0.1:32000/")[1])["localEndpoints"] == 2
    place.write("cart.yaml", BALANCED)
    until(lambda: place.ask("http://127.0.0.1:32000/")[0] == 503, "still healthy")
    place.write("cart.yaml", SERVICE)
    until(lambda: place.ask("http://127.0.0.1:32000/")[0] == 0, "still open")


def test_addresses_of_the_host_are_noticed(place: Place) -> None:
    place.write("cart.yaml", SERVICE + slices("10.244.1.11"))
    daemon = place.daemon()
    daemon.until("Synced")
    place.run("ip", "address", "add", "203.0.113.10/24", "dev", "lo")
    assert daemon.until("AddressesChanged")["added"] == ["203.0.113.10"]


def test_the_defaults_serve_without_a_node_object(place: Place) -> None:
    place.write("cart.yaml", SERVICE + slices("10.244.1.11"))
    daemon = place.daemon()
    seen = daemon.until("NodeSeen")
    assert seen["known"] is False
    daemon.until("Listening")
    assert place.ask("http://127.0.0.1:10256/healthz")[0] == 200


def test_cleanup_takes_all_and_may_be_repeated(place: Place) -> None:
    place.write("cart.yaml", SERVICE + slices("10.244.1.11"))
    place.run("nft", "add", "table", "ip", "somebody-else")
    daemon = place.daemon()
    daemon.until("Synced")
    daemon.end()
    cleaned = place.kubeway("cleanup")
    assert (cleaned.returncode, cleaned.stdout) == (0, "removed: table ip kubeway, table ip6 kubeway\n")
    again = place.kubeway("cleanup")
    assert (again.returncode, again.stdout) == (0, "nothing to remove\n")
    assert "kubeway" not in place.run("nft", "list", "ruleset")
    assert "somebody-else" in place.run("nft", "list", "tables")


def test_a_daemon_without_manifests_does_not_begin(place: Place) -> None:
    refused = place.kubeway("run", "--manifests", "/no/such")
    assert refused.returncode == 1
    assert refused.stderr == "kubeway: --manifests: /no/such: no such file or directory\n"


def test_rules_stay_while_a_manifest_cannot_be_read_at_the_start(place: Place) -> None:
    good = SERVICE + slices("10.244.1.1")
    place.write("shop.yaml", good)
    first = place.daemon("--healthz-bind-address", "127.0.0.1:10256")
    first.until("Synced")
    first.end(signal.SIGKILL)
    assert place.endpoints() == {"10.244.1.1"}
    place.write("shop.yaml", "kind: [")
    second = place.daemon("--healthz-bind-address", "127.0.0.1:10256")
    second.until("ManifestsAwaited")
    second.until("Listening")
    assert place.ask("http://127.0.0.1:10256/readyz")[0] == 503
    assert place.endpoints() == {"10.244.1.1"}
    place.write("shop.yaml", good)
    assert second.until("Synced")["changes"] == 0
    assert place.endpoints() == {"10.244.1.1"}
    assert second.end()[0] == 0


def test_a_node_outlives_its_object(place: Place) -> None:
    place.write("node.yaml", NODE.replace("127.0.0.1", "192.0.2.10"))
    place.write("shop.yaml", SERVICE + slices("10.244.1.1"))
    daemon = place.daemon()
    daemon.until("Synced")
    before = place.run("nft", "-j", "list", "ruleset")
    (place.manifests / "node.yaml").unlink()
    daemon.until("ManifestGone")
    place.write("shop.yaml", SERVICE + slices("10.244.1.2"))
    until(lambda: place.endpoints() == {"10.244.1.2"}, "the change is in force")
    after = place.run("nft", "-j", "list", "ruleset")
    assert before.replace("10.244.1.1", "10.244.1.2") == after
