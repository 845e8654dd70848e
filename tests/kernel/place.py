"""
The lab's node with manifests of one Service, the proxies run on them, and programs that talk through it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kubeway.lab.host import Host
from kubeway.lab.proxy import Proxy
from kubeway.lab.topology import Lab
from tests.kernel.play import NFTABLES, Way

VIP = "10.96.0.10"
PATIENCE = 100.0

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
        self.way = NFTABLES
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self._started: list[subprocess.Popen[bytes]] = []
        self.log = 0

    def say(self, name: str, *objects: dict[str, Any]) -> None:
        """Put these objects into a file, in one go as editors and kubelets do."""
        fresh = self.folder / f"{name}.new"
        fresh.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        fresh.replace(self.manifests / name)

    def run(self, *flags: str, way: Way | None = None, within: Sequence[str] = ()) -> Proxy:
        """A proxy in the place's way, or in this one; `within` the command that runs it."""
        self.log += 1
        wanted = {"cluster-cidr": "10.244.0.0/16", **(way or self.way).flags}
        said = {flag.removeprefix("--").partition("=")[0] for flag in flags}
        words = [f"--{name}={text}" for name, text in wanted.items() if name not in said]
        words += flags
        return Proxy(self.lab.node, self.manifests, self.folder / f"log-{self.log}", words, within=within)

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


def until(what: str, check: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def answered(lab: Lab, n: int = 40) -> set[str]:
    return {answer.name or answer.kind for answer in lab.host("outside").ask_many(n, VIP, 80, "TCP")}
