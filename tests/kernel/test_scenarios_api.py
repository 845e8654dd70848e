"""
Every scenario once more; the daemon follows an API server, of whose requests one in ten fails.

The server runs in the node's namespace and serves the scenario's manifests. What is asked and
what must be answered is the same; to save time nothing is repeated for IPv6 and UDP. Every
other scenario has a server that does not know WatchList, and pages its lists.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubeway.lab.proxy import cleanup
from kubeway.lab.topology import Lab
from tests.apiserver.server import kubeconfig
from tests.kernel.play import FILES, Source, World, nothing_is_lost, play, start, until_it_holds
from tests.kernel.scenario import load

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
TOKEN = "a-token"
PATIENCE = 60.0
CONTAINED = ("--conntrack-max-per-core=0",)
"""The size of the flow table is the machine's, and no network namespace may set it."""


class Server:
    """The API server of the tests as a process in the node, serving the directory `manifests`."""

    def __init__(self, lab: Lab, manifests: Path, log: Path, *more: str) -> None:
        self._log = log
        words = ["--manifests", str(manifests), "--token", TOKEN, *more]
        with log.open("wb") as out:
            self._process = lab.node.popen(
                [sys.executable, "-m", "tests.apiserver", *words],
                env={"PYTHONPATH": str(ROOT)},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def source(self) -> Source:
        """What the daemon is told of it, once it serves."""
        self._until(lambda: "\n" in self.log)
        word, url = self.log.splitlines()[0].split()
        assert word == "serving", self.log
        path = self._log.with_suffix(".kubeconfig")
        path.write_text(json.dumps(kubeconfig(url, {"token": TOKEN})))
        return Source("kubeconfig", path, CONTAINED)

    def away(self) -> None:
        """Break all connections and take no more."""
        os.kill(self._process.pid, signal.SIGUSR1)
        self._until(lambda: "away" in self.log)

    def back(self) -> None:
        os.kill(self._process.pid, signal.SIGUSR2)
        self._until(lambda: "back" in self.log)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        try:
            assert self._process.wait(PATIENCE) == 0, self.log
        finally:
            self._process.kill()
            self._process.wait()
        assert "Traceback" not in self.log, self.log

    def _until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not reached():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.005)


@contextmanager
def serving(lab: Lab, manifests: Path, *more: str) -> Iterator[Server]:
    server = Server(lab, manifests, manifests.with_name("apiserver.log"), *more)
    try:
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize(("seed", "path"), list(enumerate(FILES)), ids=[path.stem for path in FILES])
def test_scenario(seed: int, path: Path, lab: Lab, tmp_path: Path, node: None) -> None:
    @contextmanager
    def api(manifests: Path) -> Iterator[Source]:
        with serving(lab, manifests, f"--faults={seed}", *(["--old"] if seed % 2 else [])) as server:
            yield server.source()

    play(load(path, brief=True), lab, tmp_path, api)


def test_one_fault_after_another(lab: Lab, tmp_path: Path, node: None) -> None:
    """What chance may do to a scenario, done for certain."""
    scenario = load(FILES[0].with_name("endpoint-joins-leaves.yaml"), brief=True)
    faults = ["unavailable", "cut", "end"]
    logs: list[str] = []

    @contextmanager
    def api(manifests: Path) -> Iterator[Source]:
        with serving(lab, manifests, *(f"--fail={name}@endpointslices" for name in faults)) as server:
            yield server.source()
            logs.extend(server.log.splitlines())

    play(scenario, lab, tmp_path, api)
    assert logs[1:] == [f"fault {name}" for name in faults]


def test_the_api_server_goes_away_and_comes_back(lab: Lab, tmp_path: Path, node: None) -> None:
    """Connections go on all the time; what changed meanwhile, deletions too, is in force soon after."""
    scenario = load(FILES[0].with_name("endpoint-joins-leaves.yaml"), brief=True)
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    world = World(lab, scenario)
    first, joined, *_ = scenario.steps
    world.change(first, manifests)
    with (
        serving(lab, manifests) as server,
        start(scenario, lab, tmp_path, server.source()) as proxy,
    ):
        proxy.wait_ready()
        world.check(first.asks)
        floods = [lab.host(ask.host).flood(ask.ip, ask.port, ask.proto) for ask in scenario.meanwhile]
        server.away()
        world.check(first.asks)
        world.change(joined, manifests)
        server.back()
        until_it_holds(lambda: world.check(joined.asks))
        nothing_is_lost(floods)
        assert proxy.stop() == 0, proxy.log
        assert "Traceback" not in proxy.log
    cleanup(lab.node)
