"""
The privileges that `deploy` gives are enough for ipvs mode, and the least; and what it says without them.

As `tests/kernel/test_privileges.py`, whose daemon and privileges these are. Rules go to the legacy iptables.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from kubeway.lab.host import Host
from kubeway.planes import sysctl
from tests.kernel.play import IPVS
from tests.kernel.privileges import KUBEWAY, Given, as_anybody, as_root, in_the_container, in_the_unit
from tests.kernel.test_privileges import (
    ADMIN,
    PATIENCE,
    RAW,
    Daemonset,
    folder,
    host,
    kubeway,
    lock,
    manifests,
    readiness,
    running,
    server,
    until,
    until_ready,
)
from tests.test_deploy import FOR_IPVS, FOR_LEGACY, unit

__all__ = ["folder", "host", "lock", "manifests", "server"]

MODULES = ("ip_vs_rr", "ip_vs", "dummy", "xt_set", "ip_set_hash_ipport", "ip_set")
PREPARED = {sysctl.VS_CONNTRACK: "1", sysctl.VS_EXPIRE_NODEST_CONN: "1", sysctl.IP_FORWARD: "1"}
STRICT = {sysctl.ARP_IGNORE: "1", sysctl.ARP_ANNOUNCE: "2"}
PREPARE = ("--hostname-override=node1", "--init-only", "--conntrack-max-per-core=0", "--proxy-mode=ipvs")


def settings(host: Host, names: Sequence[str] = tuple(PREPARED)) -> dict[str, str]:
    """As they are now; "" for one that is not there."""
    return {name: host.run(["cat", f"/proc/sys/{name}"], check=False).stdout.strip() for name in names}


def init(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    return host.run([sys.executable, "-m", "kubeway.cli.proxy", *PREPARE, *words], check=False)


def loaded() -> set[str]:
    return {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}


@pytest.fixture
def nothing_loaded() -> None:
    """As on a node that has never had a proxy in ipvs mode."""
    for name in MODULES:

        def gone(name: str = name) -> bool:
            if name in loaded():  # a namespace that has ended keeps it for a moment
                subprocess.run(["modprobe", "-r", "--remove-holders", name], check=False)
            return name not in loaded()

        until(gone, Path("/proc/modules"))
    assert not loaded().intersection(MODULES)


# --- enough -------------------------------------------------------------------------------


def servers(host: Host) -> str:
    return host.run(["ipvsadm", "-Ln"]).stdout


def beforehand(host: Host, manifests: Path) -> None:
    """What the drop-in runs first, with all privileges."""
    (command,) = unit(FOR_IPVS)["ExecStartPre"]
    program, *words = command.removeprefix("+").split()
    assert program == KUBEWAY
    words = [word.replace("/etc/kubeway/manifests", str(manifests)) for word in words]
    host.run([sys.executable, "-m", "kubeway", *words])


CASES = {
    "container": partial(in_the_container, "ipvs"),
    # /run is the guest's, and what tests make is below it.
    "unit": partial(in_the_unit, FOR_IPVS, FOR_LEGACY, own=()),
}


@pytest.mark.parametrize("name", CASES)
def test_all_is_kept_with_the_privileges_that_are_given(
    name: str, host: Host, manifests: Path, tmp_path: Path, nothing_loaded: None
) -> None:
    given: Callable[[], Given] = CASES[name]
    log = tmp_path / "log"
    if name == "unit":
        beforehand(host, manifests)
    else:
        assert init(host).returncode == 0
    with kubeway(host, given(), log, running(manifests, IPVS)) as process:
        until_ready(host, process, log)
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert f"CapEff:\t{given().bits}\n" in status
        # The kernel has modules loaded for who may not load any.
        assert loaded().issuperset(MODULES)
        assert "10.244.1.11:8080" in servers(host)
        for path in manifests.glob("*.yaml"):
            path.write_text(path.read_text().replace("10.244.1.11", "10.244.1.99"))
        until(lambda: "10.244.1.99:8080" in servers(host), log)
        # Others' changes are seen and undone, in each of the places.
        for listing, mark, vandal in PLACES:

            def there(listing: str = listing, mark: str = mark) -> bool:
                return mark in host.run(listing.split()).stdout

            assert there(), listing
            host.run(vandal.split())
            until(there, log)


PLACES = (
    ("ipvsadm -Ln", "10.244.1.99:8080", "ipvsadm -C"),
    ("ip -o addr show kube-ipvs0", "10.96.0.10/32", "ip addr del 10.96.0.10/32 dev kube-ipvs0"),
    ("ipset list KUBE-CLUSTER-IP", "10.96.0.10,tcp:80", "ipset del KUBE-CLUSTER-IP 10.96.0.10,tcp:80"),
    ("iptables-legacy -w -t nat -S", "-j KUBE-SERVICES", "iptables-legacy -w -t nat -F"),
)
"""What lists it, what has to be there, and what takes it away."""


def test_another_user_may_do_all_but_legacy_iptables(host: Host) -> None:
    """All over netlink is a matter of the one capability; here by the planes themselves."""
    init(host)
    done = host.run([*as_anybody(ADMIN).words, sys.executable, "-c", PLANES], check=False)
    assert (done.returncode, done.stdout) == (0, "made\n"), done.stderr
    assert "10.244.1.9:80 " in servers(host)


PLANES = """
from kubeway.planes.ipset.objects import ENTRY, HASH_IP, Set, entry_key, set_key
from kubeway.planes.ipvs.objects import Destination, Server, destination_key, server_key
from kubeway.planes.link.objects import LINK, Address, Dummy, address_key
from kubeway.program.plan import diff
from kubeway.shell.ipset_plane import IpsetPlane
from kubeway.shell.ipvs_plane import IpvsPlane, probe
from kubeway.shell.link_plane import LinkPlane
from kubeway.values import parse_ip

vip, name = parse_ip("10.96.0.9"), "KUBE-IPVS-IPS"
wanted = {
    IpsetPlane: {set_key(name): Set(HASH_IP, 4), entry_key(name, vip): ENTRY},
    IpvsPlane: {
        server_key(vip, 6, 80): Server("rr"),
        destination_key(vip, 6, 80, parse_ip("10.244.1.9"), 80): Destination(1),
    },
    LinkPlane: {LINK: Dummy(), address_key(vip): Address()},
}
assert probe() == ""
for make, program in wanted.items():
    plane = make(program)
    for change in diff({}, program):
        plane.write_now([change])
    assert plane.read_now() == program
    plane.close()
print("made")
"""


# --- least --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "word"),
    [(as_root(), ADMIN), (as_root(ADMIN), RAW), (as_anybody(ADMIN, RAW), "xtables lock")],
    ids=["nothing", "no raw socket", "the lock"],
)
def test_without_a_privilege_it_says_so(
    given: Given, word: str, host: Host, manifests: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with kubeway(host, given, log, running(manifests, IPVS)) as process:
        assert process.wait(PATIENCE) == 1
    (line,) = [line for line in log.read_text().splitlines() if " info " not in line]
    assert line.startswith("kubeway: ")
    assert word in line
    assert "run as root" in line
    assert not IPVS.holds(host)


def test_without_the_settings_it_says_which(host: Host, manifests: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with kubeway(host, in_the_container("ipvs"), log, running(manifests, IPVS)) as process:
        until(lambda: readiness(host) == 503, log)
        until(lambda: sysctl.VS_CONNTRACK in log.read_text(), log)
        assert "Read-only file system; run privileged, or set it beforehand" in log.read_text()
        assert process.poll() is None
        assert readiness(host) == 503
        # They come before all else, so nothing of it is in force.
        assert not IPVS.holds(host)
        # Set by whomever, it goes on by itself.
        assert init(host).returncode == 0
        until_ready(host, process, log)


# --- preparing ----------------------------------------------------------------------------


def test_settings_are_made_by_who_may_write_them(host: Host, nothing_loaded: None) -> None:
    before = settings(host, tuple(STRICT))
    done = init(host)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert settings(host) == PREPARED
    assert settings(host, tuple(STRICT)) == before
    assert "/proc/sys/net/ipv4/vs/conntrack set to 1 (was 0)" in done.stderr
    # Nothing else of the mode is made.
    assert not IPVS.holds(host)
    assert "KUBE" not in host.run(["iptables-legacy-save"]).stdout
    # Once is enough.
    assert init(host).stderr == ""
    assert init(host, "--ipvs-strict-arp").returncode == 0
    assert settings(host, tuple(STRICT)) == STRICT


def test_a_kernel_without_ip_vs_is_told_of(host: Host, nothing_loaded: None, tmp_path: Path) -> None:
    loader = Path("/proc/sys/kernel/modprobe")
    own = loader.read_text()
    loader.write_text("/bin/false")
    try:
        done = init(host)
    finally:
        loader.write_text(own)
    assert done.returncode == 1
    assert done.stderr == "kubeway-proxy: mode ipvs: this kernel has no ip_vs (module ip_vs: CONFIG_IP_VS)\n"


# --- in a cluster -------------------------------------------------------------------------

LEFT_THERE = """
ip link add kube-ipvs0 type dummy
ip addr add 10.96.0.10/32 dev kube-ipvs0
ip addr add 10.96.77.77/32 dev kube-ipvs0
ipset create KUBE-CLUSTER-IP hash:ip,port
ipset add KUBE-CLUSTER-IP 10.96.77.77,tcp:80
ipset create KUBE-NODE-PORT-LOCAL-TCP bitmap:port range 0-65535
ipvsadm -A -t 10.96.77.77:80 -s rr
ipvsadm -a -t 10.96.77.77:80 -r 10.244.1.77 -m
ipvsadm -A -t 192.0.2.7:9 -s rr
iptables-legacy -t nat -N KUBE-SERVICES
iptables-legacy -t nat -A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
iptables-legacy -t nat -A PREROUTING -j KUBE-SERVICES
"""


def test_the_daemonset_runs_in_the_place_of_kube_proxy(host: Host, folder: Path, server: str) -> None:
    """What kube-proxy's ipvs mode left is taken over, as a difference like any other."""
    daemonset = Daemonset(host, "ipvs", folder, server)
    host.run(["sh", "-ec", LEFT_THERE])
    daemonset.prepare()
    with daemonset.run(in_the_container("ipvs")):
        there = servers(host)
        assert "10.244.1.11:8080" in there
        assert "10.96.77.77:80" not in there
        # A server of somebody else, at an address that is not ours, stays.
        assert "192.0.2.7:9" in there
        bound = host.run(["ip", "-o", "addr", "show", "kube-ipvs0"]).stdout
        assert "10.96.0.10/32" in bound
        assert "10.96.77.77" not in bound
        assert "10.96.77.77" not in host.run(["ipset", "list", "KUBE-CLUSTER-IP"]).stdout
