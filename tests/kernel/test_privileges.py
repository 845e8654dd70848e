"""
The privileges that `deploy` gives are enough, and the least: the daemon, run with just those.

What a Pod's securityContext and a unit's settings do is done by `privileges` here.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from kubeway.lab.host import Host, LabError
from tests.kernel.conftest import reason_to_skip
from tests.kernel.play import NFTABLES, WAYS, Way
from tests.kernel.privileges import ANYBODY, Given, as_anybody, as_root, in_the_container, in_the_unit
from tests.kernel.remains import succeed_nobody
from tests.kernel.test_leftovers import KUBE_PROXY, OTHERS
from tests.kernel.workers import end_workers, workers
from tests.test_deploy import CONFIG, FOR_LEGACY, FOR_USERSPACE, ROOT, container, overlay, pod

pytestmark = pytest.mark.kernel

PATIENCE = 60.0
HEALTH = ("127.0.0.1", 10256)
FLOW = (
    "conntrack -I -p udp -t 600 -s 10.244.9.9 --sport 4000 -d 10.96.0.53 --dport 53 "
    "-r 10.244.1.11 --reply-port-src 5353 -q 10.244.9.9 --reply-port-dst 4000"
)
ADMIN, RAW = "CAP_NET_ADMIN", "CAP_NET_RAW"
# Node ports are at 127.0.0.1 too, as when nothing is asked for.
NF_TABLES, LEGACY = (
    way._replace(flags={name: word for name, word in way.flags.items() if name != "nodeport-addresses"})
    for way in (WAYS["iptables-nf_tables"], WAYS["iptables-legacy"])
)
USERSPACE = WAYS["userspace"]
NO_LOOPBACK = "--iptables-localhost-nodeports=false"
ROUTE_LOCALNET = "net.ipv4.conf.all.route_localnet"
LEFT = "what a proxy before left could not be taken away"


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
        succeed_nobody(host)
    finally:
        end_workers(host.net)
        host.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may read; those of tests are their user's alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def manifests(folder: Path) -> Path:
    return Path(shutil.copytree(ROOT / "examples" / "shop", folder / "manifests"))


@pytest.fixture(autouse=True)
def lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The xtables lock of this test; as the machine's, it is root's alone."""
    lock = folder / "lock"
    lock.touch(0o600)
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    return lock


@contextmanager
def kubeway(
    host: Host, given: Given, log: Path, words: Sequence[str], module: str = "kubeway"
) -> Iterator[subprocess.Popen[bytes]]:
    """The command, run in the host with these privileges. What still runs is ended, and has to end well."""
    if f"--reuid={ANYBODY}" in given.words:
        readable = [*given.words, sys.executable, "-c", "import kubeway.cli.main"]
        if subprocess.run(readable, capture_output=True, check=False).returncode:
            pytest.skip("this Python, or the project, is not to be read by other users")
    with log.open("wb") as out:
        process = host.popen(
            [*given.words, sys.executable, "-m", module, *words], stdout=out, stderr=subprocess.STDOUT
        )
    try:
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


def can_start_another(given: Given) -> None:
    """Skip where this Python, run so, cannot run itself."""
    again = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    words = [*given.words, sys.executable, "-c", again]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("this Python is not to be run by other users")


def running(manifests: Path, way: Way, *flags: str) -> list[str]:
    """The words of a daemon on its own."""
    ip, port = HEALTH
    words = ["run", f"--manifests={manifests}", "--hostname-override=node1"]
    words += [f"--healthz-bind-address={ip}:{port}", "--metrics-bind-address="]
    return [*words, *(f"--{name}={value}" for name, value in way.flags.items()), *flags]


def until(done: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)


def readiness(host: Host) -> int:
    """The status of /readyz; 0 if nobody answers."""
    try:
        return host.fetch(*HEALTH, "/readyz", wait=2).status
    except LabError:
        return 0


def until_ready(host: Host, process: subprocess.Popen[bytes], log: Path) -> None:
    until(lambda: process.poll() is not None or readiness(host) == 200, log)
    assert process.poll() is None, log.read_text()


def listed(host: Host, way: Way) -> str:
    return host.run(way.listing).stdout


def uncounted(host: Host, way: Way) -> list[str]:
    """What is listed, but for remarks and counters."""
    return [line.partition(" [")[0] for line in listed(host, way).splitlines() if line[0] != "#"]


def load(host: Host, backend: str, text: str) -> None:
    host.run([f"iptables-{backend}-restore", "--noflush"], stdin=text)


def had_children(process: subprocess.Popen[bytes]) -> bool:
    """Whether it had any that ended: what their starts cost is on its account (cminflt, proc_pid_stat(5))."""
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[8] != "0"


# --- enough -------------------------------------------------------------------------------


class Case(NamedTuple):
    """`vandal`: what takes rules away."""

    way: Way
    given: Callable[[], Given]
    vandal: str


CASES = {
    "nftables-container": Case(NFTABLES, partial(in_the_container, "nftables"), "nft flush ruleset"),
    "nftables-unit": Case(NFTABLES, in_the_unit, "nft flush ruleset"),
    "nf_tables-container": Case(NF_TABLES, partial(in_the_container, "nftables"), "iptables-nft -t nat -F"),
    "nf_tables-unit": Case(NF_TABLES, in_the_unit, "iptables-nft -t nat -F"),
    "legacy-container": Case(LEGACY, partial(in_the_container, "iptables"), "iptables-legacy -w -t nat -F"),
    "legacy-unit": Case(LEGACY, partial(in_the_unit, FOR_LEGACY), "iptables-legacy -w -t nat -F"),
}


@pytest.mark.parametrize("name", CASES)
def test_rules_and_flows_are_kept_with_the_privileges_that_are_given(
    name: str, host: Host, manifests: Path, tmp_path: Path
) -> None:
    way, given, vandal = CASES[name]
    log = tmp_path / "log"
    words = running(manifests, way, *([] if way is NFTABLES else [NO_LOOPBACK]))
    with kubeway(host, given(), log, words) as process:
        until_ready(host, process, log)
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert f"CapEff:\t{given().bits}\n" in status
        assert "NoNewPrivs:\t1\n" in status
        assert "10.244.1.11" in listed(host, way)
        host.run(FLOW.split())
        # The endpoint leaves: out of the rules, and the flow to it is forgotten.
        for path in manifests.glob("*.yaml"):
            path.write_text(path.read_text().replace("10.244.1.11", "10.244.1.99"))

        def followed() -> bool:
            rules = listed(host, way)
            return "10.244.1.99" in rules and "10.244.1.11" not in rules

        until(followed, log)
        until(lambda: "dport=53 " not in host.run(["conntrack", "-L", "-p", "udp"]).stdout, log)
        # Others' changes are seen and undone.
        host.run(vandal.split())
        until(followed, log)
        until(lambda: "repaired" in log.read_text(), log)
        assert "warning stale flows" not in log.read_text()
        # Tools are run for the legacy iptables, and for nothing else.
        assert had_children(process) == (way is LEGACY)


def test_nothing_is_written_while_others_hold_the_lock(
    host: Host, manifests: Path, lock: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    given = in_the_container("iptables")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with kubeway(host, given, log, running(manifests, LEGACY, NO_LOOPBACK)) as process:
            until(lambda: f"is held by {_name()}, process {os.getpid()}, for over" in log.read_text(), log)
            assert not LEGACY.holds(host)
            assert readiness(host) != 200
            fcntl.flock(file, fcntl.LOCK_UN)
            until_ready(host, process, log)
            assert LEGACY.holds(host)


def _name() -> str:
    return Path("/proc/self/comm").read_text().strip()


@pytest.mark.parametrize(
    "given",
    [partial(in_the_container, "userspace"), partial(in_the_unit, FOR_USERSPACE)],
    ids=["container", "unit"],
)
def test_the_relays_worker_gets_along_with_two_capabilities(
    given: Callable[[], Given], host: Host, manifests: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    assert given().capabilities == (ADMIN, RAW)
    can_start_another(given())
    with kubeway(host, given(), log, running(manifests, USERSPACE)) as process:
        until_ready(host, process, log)
        # Its socket for answers has an address that nobody has (RFC 7600), and UDP's number for a port.
        until(lambda: "080000C0:0011" in host.run(["cat", "/proc/net/raw"]).stdout, log)
        assert "relay worker" not in log.read_text()


@pytest.mark.parametrize(
    "given",
    [partial(in_the_container, "userspace"), partial(in_the_unit, FOR_USERSPACE)],
    ids=["container", "unit"],
)
def test_a_restart_takes_no_more_than_that(
    given: Callable[[], Given], host: Host, manifests: Path, tmp_path: Path
) -> None:
    """Listeners are handed over; and root ends who lives on, whosever they are."""
    can_start_another(given())
    for number in (1, 2):
        log = tmp_path / f"log-{number}"
        with kubeway(host, given(), log, running(manifests, USERSPACE)) as process:
            until_ready(host, process, log)
            until(lambda: len(workers(host.net)) == 1, log)
    assert "takes over" in log.read_text()
    assert "the relay's workers" in host.run([sys.executable, "-m", "kubeway", "cleanup"]).stdout
    until(lambda: not workers(host.net), log)


# --- least --------------------------------------------------------------------------------

RULE = "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n"


@pytest.mark.parametrize(
    ("given", "flags", "word"),
    [
        (as_root(), NFTABLES.flags, ADMIN),
        (as_root(), NF_TABLES.flags, ADMIN),
        (as_root(ADMIN), LEGACY.flags, RAW),
        (as_root(ADMIN), {"proxy-mode": "iptables"}, RAW),
        (as_root(ADMIN), USERSPACE.flags, RAW),
        (as_anybody(ADMIN, RAW), LEGACY.flags, "xtables lock"),
    ],
    ids=["nftables", "nf_tables", "legacy", "legacy, as rules are there", "relay", "the lock"],
)
def test_without_a_privilege_it_says_so(
    given: Given, flags: dict[str, str], word: str, host: Host, manifests: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    load(host, "legacy", RULE)
    way = NFTABLES._replace(flags=flags)
    with kubeway(host, given, log, running(manifests, way)) as process:
        assert process.wait(PATIENCE) == 1
    (line,) = [line for line in log.read_text().splitlines() if " info " not in line]
    assert line.startswith("kubeway: ")
    assert word in line
    assert "run as root" in line
    assert not LEGACY.holds(host)


def test_without_the_right_to_see_the_legacy_iptables_there_are_none(
    host: Host, manifests: Path, tmp_path: Path
) -> None:
    """Their list is root's. Who may not read it may not write there either."""
    log = tmp_path / "log"
    load(host, "nft", "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n")
    load(host, "legacy", RULE)
    way = NF_TABLES._replace(flags={"proxy-mode": "iptables"})
    with kubeway(host, as_anybody(ADMIN), log, running(manifests, way, NO_LOOPBACK)) as process:
        until_ready(host, process, log)
        assert NF_TABLES.holds(host)
        (line,) = [line for line in log.read_text().splitlines() if "iptables rules go to nf_tables" in line]
        assert "only root can see what the legacy tables hold" in line
    # What is only there tells as much: it is not asked how much of it there is.
    host.run(["iptables-nft", "-t", "mangle", "-X", "KUBE-KUBELET-CANARY"])
    with kubeway(host, as_anybody(ADMIN), log, running(manifests, way, NO_LOOPBACK)) as process:
        until_ready(host, process, log)
        assert "nf_tables holds iptables' rules; only root can see" in log.read_text()


# --- node ports at loopback ---------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1])
def test_loopback_is_opened_by_who_may_write_settings(
    value: int, host: Host, manifests: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    host.sysctl({ROUTE_LOCALNET: value})
    with kubeway(host, in_the_container("nftables"), log, running(manifests, NF_TABLES)) as process:
        if value:
            until_ready(host, process, log)
            assert "route_localnet" not in log.read_text()
        else:
            until(lambda: readiness(host) == 503, log)
            until(lambda: NO_LOOPBACK in log.read_text(), log)
            assert "Read-only file system" in log.read_text()
            assert process.poll() is None
            assert readiness(host) == 503
            # The rules themselves are there.
            assert NF_TABLES.holds(host)
    assert setting(host) == value


CLOSED = "-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8"
IN_THE_WAY = {
    "a hook": "chain KUBE-FIREWALL { type filter hook input priority 0; };",  # nobody can jump there
    "no hook": "chain INPUT { };",  # nobody comes there
}


@pytest.mark.parametrize(
    ("way", "hindrance", "words"),
    [
        (NF_TABLES, "", ""),
        (NF_TABLES, "a hook", "KUBE-FIREWALL"),
        (NF_TABLES, "no hook", "INPUT"),
        (LEGACY, "", ""),
        (LEGACY, "a tool", "nothing is written today"),
    ],
    ids=["nf_tables", "nf_tables, a hook", "nf_tables, no hook", "legacy", "legacy, a tool"],
)
def test_loopback_is_not_opened_before_the_rule_that_keeps_others_out(
    way: Way, hindrance: str, words: str, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hindrance in IN_THE_WAY:
        host.run(["nft", "-f", "-"], stdin=f"table ip filter {{ {IN_THE_WAY[hindrance]} }}")
    elif hindrance:
        monkeypatch.setenv("PATH", f"{refusing(tmp_path)}:{os.environ['PATH']}")
    asked = ["--hostname-override=node1", "--init-only", "--conntrack-max-per-core=0"]
    asked += [f"--{name}={value}" for name, value in way.flags.items()]
    done = host.run([sys.executable, "-m", "kubeway.cli.proxy", *asked], check=False)
    assert "Traceback" not in done.stderr
    if hindrance:
        assert (done.returncode, setting(host)) == (1, 0), done.stderr
        assert words in done.stderr.splitlines()[-1]
    else:
        assert (done.returncode, setting(host)) == (0, 1), done.stderr
        assert CLOSED in listed(host, way)


def refusing(folder: Path) -> Path:
    """A folder with tools of the legacy iptables that write nothing."""
    tool = shutil.which("iptables-legacy-restore")
    fake = folder / "iptables-legacy-restore"
    fake.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec {tool} "$@"\necho nothing is written today >&2\nexit 1\n'
    )
    fake.chmod(0o755)
    return folder


def setting(host: Host) -> int:
    return int(host.run(["cat", f"/proc/sys/{ROUTE_LOCALNET.replace('.', '/')}"]).stdout)


# --- in a cluster -------------------------------------------------------------------------


class Daemonset:
    """The commands and the ConfigMap of an overlay, told of an API server with our manifests."""

    def __init__(self, host: Host, mode: str, folder: Path, url: str) -> None:
        self._host, self._folder = host, folder
        self.docs = overlay(mode)
        self.log = folder / "log"
        data = self.docs["ConfigMap", "kube-proxy"]["data"]
        # The limit of flows is the machine's; no network namespace can set it.
        text = data["config.conf"].replace(CONFIG, str(folder)) + "conntrack: {maxPerCore: 0}\n"
        (folder / "config.conf").write_text(text)
        (folder / "token").write_text("a-token\n")
        kubeconfig = yaml.safe_load(data["kubeconfig.conf"])
        kubeconfig["clusters"][0]["cluster"] = {"server": url}
        kubeconfig["users"][0]["user"] = {"tokenFile": str(folder / "token")}
        (folder / "kubeconfig.conf").write_text(yaml.safe_dump(kubeconfig))

    def prepare(self) -> None:
        """Run the init container, which is privileged."""
        (init,) = pod(self.docs)["initContainers"]
        assert init["securityContext"] == {"privileged": True}
        self._host.run([sys.executable, "-m", "kubeway.cli.proxy", *self._spelled(init["command"])])

    @contextmanager
    def run(self, given: Given) -> Iterator[subprocess.Popen[bytes]]:
        """The container, ready."""
        words = self._spelled(container(self.docs)["command"])
        with kubeway(self._host, given, self.log, words, "kubeway.cli.proxy") as process:
            until_ready(self._host, process, self.log)
            yield process

    def reconfigure(self) -> None:
        """As when the ConfigMap changes."""
        with (self._folder / "config.conf").open("a") as file:
            file.write("# changed\n")

    def _spelled(self, command: Sequence[str]) -> list[str]:
        program, *words = command
        assert program.endswith("/kubeway-proxy")
        return [word.replace(CONFIG, str(self._folder)).replace("$(NODE_NAME)", "node1") for word in words]


@pytest.fixture
def server(host: Host, manifests: Path, tmp_path: Path) -> Iterator[str]:
    """The address of an API server."""
    said = tmp_path / "said"
    with said.open("wb") as out:
        process = host.popen(
            [sys.executable, "-m", "tests.apiserver", "--manifests", str(manifests), "--token", "a-token"],
            env={"PYTHONPATH": str(ROOT)},
            stdout=out,
        )
    try:
        until(lambda: said.read_text().endswith("\n"), said)
        yield said.read_text().split()[1]
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.mark.parametrize(
    ("mode", "way", "backend"),
    [
        ("nftables", NFTABLES, "nft"),
        ("iptables", NF_TABLES, "nft"),
        ("iptables", LEGACY, "legacy"),
        ("userspace", USERSPACE, "legacy"),
    ],
    ids=["nftables", "iptables-nf_tables", "iptables-legacy", "userspace"],
)
def test_the_daemonset_runs_in_the_place_of_kube_proxy(
    mode: str, way: Way, backend: str, host: Host, folder: Path, server: str
) -> None:
    """Its commands and ConfigMap against an API server, where kube-proxy left its tables and chains."""
    daemonset = Daemonset(host, mode, folder, server)
    host.run(["nft", "-f", "-"], stdin="table ip kube-proxy {}\ntable ip6 kube-proxy {}\n")
    load(host, backend, KUBE_PROXY)
    chained = LEGACY if backend == "legacy" else NF_TABLES
    daemonset.prepare()
    with daemonset.run(in_the_container(mode)) as process:

        def taken_over() -> bool:
            chains, tables = listed(host, chained), host.run(["nft", "list", "tables"]).stdout.split()
            return not (":KUBE-SEP-" in chains or ":KUBE-PROXY-CANARY" in chains or "kube-proxy" in tables)

        until(taken_over, daemonset.log)
        assert LEFT not in daemonset.log.read_text()
        for probe in ("livenessProbe", "readinessProbe"):
            ask = container(daemonset.docs)[probe]["httpGet"]
            assert host.fetch(ask["host"], ask["port"], ask["path"]).status == 200
        assert way.holds(host)
        # Endpoints are the relay's matter; in the rules are ways in.
        shown = "10.96.0.53" if way is USERSPACE else "10.244.1.11"
        assert shown in listed(host, way)
        # It ends, to be started anew; the rules stay.
        daemonset.reconfigure()
        assert process.wait(PATIENCE) == 1
        assert shown in listed(host, way)


@pytest.mark.parametrize(
    ("given", "before", "after"),
    [
        (in_the_container("nftables"), KUBE_PROXY, "told"),
        (in_the_container("nftables"), OTHERS, "untold"),
        (in_the_container("iptables"), KUBE_PROXY, "gone"),
        (as_anybody(ADMIN), KUBE_PROXY, "untold"),
    ],
    ids=["without NET_RAW", "nothing of a proxy", "with NET_RAW", "another user"],
)
def test_what_is_left_in_the_legacy_iptables_is_removed_by_who_may(
    given: Given, before: str, after: str, host: Host, folder: Path, server: str
) -> None:
    """In nftables mode. Who may not says so once, and is ready all the same; and not if there is nothing."""
    daemonset = Daemonset(host, "nftables", folder, server)
    host.run(["nft", "add", "table", "ip", "kube-proxy"])
    load(host, "legacy", before)
    rules = uncounted(host, LEGACY)
    daemonset.prepare()
    with daemonset.run(given):
        until(lambda: LEFT in (said := daemonset.log.read_text()) or "took over" in said, daemonset.log)
        lines = [line for line in daemonset.log.read_text().splitlines() if LEFT in line]
        assert len(lines) == (after == "told"), lines
        assert all("legacy: " in line and RAW in line for line in lines)
        assert "table ip kube-proxy" not in host.run(["nft", "list", "tables"]).stdout.splitlines()
        if after == "gone":
            assert "KUBE-SVC-" not in listed(host, LEGACY)
        else:
            assert uncounted(host, LEGACY) == rules
        assert readiness(host) == 200
