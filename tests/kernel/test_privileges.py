"""
The privileges that `deploy` gives are enough, and the least: the daemon, run with just those.

What a Pod's securityContext and a unit's settings do is done by setpriv here.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from kubeway.lab.host import Host, LabError
from tests.kernel.conftest import reason_to_skip
from tests.test_deploy import CONFIG, ROOT, container, overlay, unit

pytestmark = pytest.mark.kernel

PATIENCE = 60.0
ANYBODY = 65532
HEALTH = ("127.0.0.1", 10256)
FLOW = (
    "conntrack -I -p udp -t 600 -s 10.244.9.9 --sport 4000 -d 10.96.0.53 --dport 53 "
    "-r 10.244.1.11 --reply-port-src 5353 -q 10.244.9.9 --reply-port-dst 4000"
)


def only(*names: str) -> str:
    return ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in names)])


def as_in_the_container() -> list[str]:
    """Root, but without what the container drops, and without any way to get it back."""
    context = container(overlay())["securityContext"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert not context["allowPrivilegeEscalation"]
    kept = only(*context["capabilities"]["add"])
    return ["setpriv", f"--bounding-set={kept}", "--inh-caps=-all", "--no-new-privs"]


def as_in_the_unit() -> list[str]:
    """Some other user, who is given the unit's capabilities."""
    (names,) = unit()["AmbientCapabilities"]
    kept = only(*names.split())
    return [
        "setpriv",
        *(f"--reuid={ANYBODY}", f"--regid={ANYBODY}", "--clear-groups"),
        *(f"--bounding-set={kept}", f"--inh-caps={kept}", f"--ambient-caps={kept}", "--no-new-privs"),
    ]


WAYS: dict[str, Callable[[], list[str]]] = {"container": as_in_the_container, "unit": as_in_the_unit}


@pytest.fixture
def host() -> Iterator[Host]:
    if why := reason_to_skip():
        pytest.skip(why)
    if shutil.which("setpriv") is None:
        pytest.skip("not installed: setpriv")
    host = Host("privileges")
    try:
        host.settle()
        host.ip(["link set lo up"])
        yield host
    finally:
        host.close()


@pytest.fixture
def manifests() -> Iterator[Path]:
    """A folder that everybody may read; those of tests are their user's alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "manifests"
        shutil.copytree(ROOT / "examples" / "shop", folder)
        Path(name).chmod(0o755)
        yield folder


def kubeway(host: Host, way: Sequence[str], manifests: Path, log: Path) -> subprocess.Popen[bytes]:
    """The daemon, started that way in the host."""
    ip, port = HEALTH
    words = ["run", f"--manifests={manifests}", "--hostname-override=node1"]
    words += [f"--healthz-bind-address={ip}:{port}", "--metrics-bind-address="]
    with log.open("wb") as out:
        return host.popen(
            [*way, sys.executable, "-m", "kubeway", *words], stdout=out, stderr=subprocess.STDOUT
        )


def until(done: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)


def ready(host: Host) -> bool:
    try:
        return host.fetch(*HEALTH, "/readyz", wait=2).status == 200
    except LabError:
        return False


@pytest.mark.parametrize("way", WAYS)
def test_rules_and_flows_are_kept_with_the_privileges_that_are_given(
    way: str, host: Host, manifests: Path, tmp_path: Path
) -> None:
    words, log = WAYS[way](), tmp_path / "log"
    probe = [*words, sys.executable, "-c", "import kubeway.cli.main"]
    if way == "unit" and subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this Python, or the project, is not to be read by other users")
    process = kubeway(host, words, manifests, log)
    try:
        until(lambda: process.poll() is not None or ready(host), log)
        assert process.poll() is None, log.read_text()
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "CapEff:\t0000000000001000\n" in status  # bit 12, CAP_NET_ADMIN
        assert "NoNewPrivs:\t1\n" in status
        assert "10.244.1.11" in host.run(["nft", "list", "ruleset"]).stdout
        host.run(FLOW.split())
        # The endpoint leaves: out of the rules, and the flow to it is forgotten.
        for path in manifests.glob("*.yaml"):
            path.write_text(path.read_text().replace("10.244.1.11", "10.244.1.99"))

        def followed() -> bool:
            rules = host.run(["nft", "list", "ruleset"]).stdout
            return "10.244.1.99" in rules and "10.244.1.11" not in rules

        until(followed, log)
        until(lambda: "dport=53 " not in host.run(["conntrack", "-L", "-p", "udp"]).stdout, log)
        # Others' changes are seen and undone.
        host.run(["nft", "flush", "ruleset"])
        until(followed, log)
        assert "warning stale flows" not in log.read_text()
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()


def test_without_the_capability_it_says_so(host: Host, manifests: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    nothing = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    process = kubeway(host, nothing, manifests, log)
    assert process.wait(PATIENCE) == 1
    (line,) = log.read_text().splitlines()
    assert line.startswith("kubeway: ")
    assert "CAP_NET_ADMIN" in line


def test_the_daemonset_runs_in_the_place_of_kube_proxy(host: Host, manifests: Path, tmp_path: Path) -> None:
    """Its command and ConfigMap against an API server, where kube-proxy left its tables."""
    # The limit of flows is the machine's; no network namespace can set it. In a Pod the init container does.
    docs = overlay()
    data = docs["ConfigMap", "kube-proxy"]["data"]
    (tmp_path / "config.conf").write_text(
        data["config.conf"].replace(CONFIG, str(tmp_path)) + "conntrack: {maxPerCore: 0}\n"
    )
    (tmp_path / "token").write_text("a-token\n")
    said, log = tmp_path / "said", tmp_path / "log"
    with said.open("wb") as out:
        server = host.popen(
            [sys.executable, "-m", "tests.apiserver", "--manifests", str(manifests), "--token", "a-token"],
            env={"PYTHONPATH": str(ROOT)},
            stdout=out,
        )
    process = None
    try:
        until(lambda: said.read_text().endswith("\n"), said)
        kubeconfig = yaml.safe_load(data["kubeconfig.conf"])
        kubeconfig["clusters"][0]["cluster"] = {"server": said.read_text().split()[1]}
        kubeconfig["users"][0]["user"] = {"tokenFile": str(tmp_path / "token")}
        (tmp_path / "kubeconfig.conf").write_text(yaml.safe_dump(kubeconfig))
        host.run(["nft", "-f", "-"], stdin="table ip kube-proxy {}\ntable ip6 kube-proxy {}\n")
        program, *words = container(docs)["command"]
        assert program.endswith("/kubeway-proxy")
        spelled = [word.replace(CONFIG, str(tmp_path)).replace("$(NODE_NAME)", "node1") for word in words]
        with log.open("wb") as out:
            process = host.popen(
                [*as_in_the_container(), sys.executable, "-m", "kubeway.cli.proxy", *spelled],
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        until(lambda: process.poll() is not None or ready(host), log)
        assert process.poll() is None, log.read_text()

        def taken_over() -> bool:
            tables = host.run(["nft", "list", "tables"]).stdout.split()
            return "kubeway" in tables and "kube-proxy" not in tables

        until(taken_over, log)
        for probe in ("livenessProbe", "readinessProbe"):
            ask = container(docs)[probe]["httpGet"]
            assert host.fetch(ask["host"], ask["port"], ask["path"]).status == 200
        assert "10.244.1.11" in host.run(["nft", "list", "ruleset"]).stdout
        # As when a ConfigMap changes: it ends, to be started anew; the rules stay.
        with (tmp_path / "config.conf").open("a") as file:
            file.write("# changed\n")
        assert process.wait(PATIENCE) == 1
        assert "10.244.1.11" in host.run(["nft", "list", "ruleset"]).stdout
    finally:
        for one in (process, server):
            if one is not None and one.poll() is None:
                os.kill(one.pid, signal.SIGTERM)
                one.wait(PATIENCE)
