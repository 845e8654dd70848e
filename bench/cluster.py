"""
From an API server to the kernel: a cold start, an idle daemon, and a steady churn of endpoints.

Runs in a network namespace of its own and prints one line of JSON. The churn is measured inside
the daemon's own parts (source, syncer, plane), as the time from when the server sent a change
to the kernel's ack of it; so the way through the loopback and two processes' turns is in it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.cold import PORT, memory, ready
from bench.pipeline import OPTIONS
from bench.worlds import NODE
from kubeway.machines.triggers import Triggers
from kubeway.model.node import NodeFacts
from kubeway.model.store import Store
from kubeway.modes.nftables import NFTABLES
from kubeway.program.link import Linker
from kubeway.records import Programmed, Record
from kubeway.shell import clock
from kubeway.shell.apiserver import ApiSource
from kubeway.shell.nft import NftPlane
from kubeway.shell.syncer import Syncer
from kubeway.values import parse_ip

_PATIENCE = 300.0


class Server:
    """The bare API server, in a process of its own."""

    def __init__(self, services: int, endpoints: int) -> None:
        command = [sys.executable, "-m", "bench.api", str(services), str(endpoints)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"

    def churn(self, count: int, rate: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count} {rate}\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class Access:
    """Plain HTTP, and nobody in particular."""

    ssl = server_hostname = proxy = None

    def __init__(self, server: str) -> None:
        self.server = server

    async def headers(self) -> dict[str, str]:
        return {}

    async def refresh(self) -> None:
        return


def cpu(pid: int) -> float:
    """Seconds of CPU the process has used."""
    after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after[11]) + int(after[12])) / os.sysconf("SC_CLK_TCK")


def cold(url: str, idle: float) -> dict[str, float]:
    """Start the daemon on the API server: seconds to ready, peak in MiB, share of a core when idle."""
    with tempfile.TemporaryDirectory(prefix="kubeway-bench-") as folder:
        path = Path(folder) / "kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
            "current-context": "c",
        }
        path.write_text(json.dumps(config))
        command = [sys.executable, "-m", "kubeway", "run", "--kubeconfig", str(path)]
        command += ["--hostname-override", NODE, "--cluster-cidr", "10.128.0.0/10"]
        command += ["--healthz-bind-address", f"127.0.0.1:{PORT}", "--conntrack-max-per-core", "0"]
        command += ["--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0"]
        began = time.perf_counter()
        daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not ready():
                if daemon.poll() is not None or time.perf_counter() - began > _PATIENCE:
                    raise SystemExit("the daemon did not become ready")
                time.sleep(0.005)
            took = time.perf_counter() - began
            time.sleep(2)
            used, since = cpu(daemon.pid), time.perf_counter()
            time.sleep(idle)
            share = (cpu(daemon.pid) - used) / (time.perf_counter() - since)
            return {"ready": took, "peak": memory(daemon.pid), "idle": share}
        finally:
            daemon.kill()
            daemon.wait()


async def churn(server: Server, count: int, rate: float) -> list[float]:
    """Seconds from each change's sending to the kernel's ack."""
    gc.disable()
    took: list[float] = []
    done = asyncio.Event()

    def hear(record: Record) -> None:
        if isinstance(record, Programmed):
            took.append(record.seconds)
            if len(took) >= count:
                done.set()

    store, linker, triggers = Store(), Linker(), Triggers(clock.wall())
    facts = NodeFacts(name=NODE, addresses=frozenset({parse_ip("127.0.0.1")}))
    syncer = Syncer(
        mode=NFTABLES,
        plane=NftPlane(linker.origin, linker.objects),
        options=OPTIONS,
        facts=facts,
        store=store,
        record=hear,
        linker=linker,
        triggers=triggers,
    )
    source = ApiSource(Access(server.url), store, syncer.note, hear, node=NODE, triggers=triggers)
    async with asyncio.timeout(_PATIENCE), asyncio.TaskGroup() as group:
        following = group.create_task(source.run())
        await source.synced.wait()
        syncing = group.create_task(syncer.run())
        await syncer.ready.wait()
        gc.freeze()
        gc.enable()
        await asyncio.sleep(1)
        server.churn(count, rate)
        await done.wait()
        following.cancel()
        syncing.cancel()
    return took


def main(services: int, endpoints: int, idle: float, count: int) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    server = Server(services, endpoints)
    try:
        found: dict[str, Any] = cold(server.url, idle)
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        found["took"] = asyncio.run(churn(server, count, 100.0))
    finally:
        server.end()
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
