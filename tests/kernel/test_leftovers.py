"""What a proxy left that ran before goes, wherever it was, and nothing else does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kubeway.shell.leftovers import leads, remove, remove_kube_proxy_tables
from tests.kernel.netns import inside, needs_root, nft

pytestmark = [pytest.mark.kernel, needs_root]

# As the Go kube-proxy left them, but for its accounting objects, which would have to be made first.
KUBE_PROXY = (
    "".join(
        line + "\n"
        for line in (Path(__file__).parents[1] / "golden/xtables/kube-proxy.ip.save").read_text().splitlines()
        if "nfacct" not in line
    )
    + "*mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n"
)
OTHERS = """*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
COMMIT
*mangle
:KUBE-IPTABLES-HINT - [0:0]
COMMIT
*filter
:KUBE-ROUTER-INPUT - [0:0]
-A INPUT -j KUBE-ROUTER-INPUT
COMMIT
"""
OURS = """*nat
:KUBE-SERVICES - [0:0]
:KUBE-BY-EXTERNAL - [0:0]
:KUBE-BY-SERVICE - [0:0]
-A KUBE-SERVICES -j KUBE-BY-SERVICE
-A OUTPUT -j KUBE-SERVICES
COMMIT
"""
STEERING = """*mangle
:KUBE-RELAY-PREROUTING - [0:0]
:KUBE-RELAY-HOME - [0:0]
-A KUBE-RELAY-PREROUTING -m set --match-set KUBEWAY-RELAY-EXTERNAL dst,dst -g KUBE-RELAY-HOME
-A PREROUTING -j KUBE-RELAY-PREROUTING
COMMIT
"""
SETS = """create KUBEWAY-RELAY-EXTERNAL hash:ip,port
add KUBEWAY-RELAY-EXTERNAL 203.0.113.9,tcp:80
create KUBEWAY-6-RELAY-PORT-TCP bitmap:port range 0-65535
create KUBE-CLUSTER-IP hash:ip,port
create KUBE-SRC-NOT-OURS hash:ip
"""
BACKENDS = ("nft", "legacy")


def load(backend: str, text: str, family: str = "ip") -> None:
    tool = f"{family}tables-{backend}-restore"
    subprocess.run([tool, "--noflush"], input=text, text=True, check=True)


def saved(backend: str, family: str = "ip") -> list[str]:
    """What a save tells but for counters, built-in chains and remarks."""
    done = subprocess.run([f"{family}tables-{backend}-save"], check=True, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line[0] in ":-"]
    return [line.partition(" [")[0] for line in lines if not line.endswith(("ACCEPT [0:0]", "DROP [0:0]"))]


@pytest.mark.parametrize("backend", BACKENDS)
def test_rules_of_kube_proxy_go_and_others_stay(backend: str) -> None:
    def work() -> tuple[list[str], list[str], list[str], list[str]]:
        load(backend, OTHERS)
        before = saved(backend)
        load(backend, KUBE_PROXY)
        first = remove(everybodys=True)
        return before, first, saved(backend), remove(everybodys=True)

    before, first, after, again = inside(work)
    assert len(first) == 3
    assert all(line.startswith("rules in table ip ") for line in first), first
    # kubelet has rights in this chain too, so it stays with what keeps loopback closed.
    assert [line for line in after if "KUBE-FIREWALL" not in line] == before
    assert again == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_machine_of_its_own_only_what_is_certainly_ours_goes(backend: str) -> None:
    def work() -> tuple[list[str], list[str], list[str], list[str]]:
        load(backend, KUBE_PROXY)
        before = saved(backend)
        remove(everybodys=False)
        kept = saved(backend)
        load(backend, OURS, "ip6")
        return before, kept, remove(everybodys=False), saved(backend, "ip6")

    before, kept, removed, after = inside(work)
    assert kept == before
    assert any("ip6 nat" in line for line in removed)
    assert after == []


@pytest.mark.parametrize(("backend", "name"), [("nft", "nf_tables"), ("legacy", "legacy")])
def test_what_is_kept_stays(backend: str, name: str) -> None:
    def work() -> tuple[list[str], list[str]]:
        load(backend, OURS)
        return remove(frozenset({name}), everybodys=True), saved(backend)

    removed, after = inside(work)
    assert removed == []
    assert ":KUBE-BY-SERVICE -" in after


PORTMAP = """*nat
:CNI-HOSTPORT-SETMARK - [0:0]
-A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j KUBE-MARK-MASQ
COMMIT
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mark_that_others_count_on_is_still_set(backend: str) -> None:
    """CNI's portmap has its flows masqueraded by our chain, where it is told to."""
    marks = "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000"

    def work() -> tuple[list[str], list[str], list[str]]:
        load(backend, f"{KUBE_PROXY}{PORTMAP}")
        removed = remove(everybodys=True)
        return removed, saved(backend), remove(everybodys=True)

    removed, after, again = inside(work)
    assert "rules in table ip nat" in " ".join(removed)
    assert [line for line in after if "KUBE-FIREWALL" not in line] == [
        ":CNI-HOSTPORT-SETMARK -",
        ":KUBE-MARK-MASQ -",
        '-A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j KUBE-MARK-MASQ',
        marks,
    ]
    assert again == []


def ipset(*words: str, stdin: str = "") -> list[str]:
    done = subprocess.run(["ipset", *words], input=stdin, text=True, check=True, capture_output=True)
    return done.stdout.split()


@pytest.mark.parametrize("keep", [False, True])
def test_what_leads_to_the_relay_goes_with_its_sets_unless_it_is_in_force(keep: bool) -> None:
    def work() -> tuple[bool, list[str], list[str], list[str], bool]:
        ipset("restore", stdin=SETS)
        load("legacy", STEERING)
        led = leads("legacy")
        removed = remove(frozenset({"legacy", "relay sets"} if keep else ()), everybodys=False)
        return led, removed, saved("legacy"), sorted(ipset("list", "-name")), leads("legacy")

    led, removed, after, sets, leading = inside(work)
    assert led
    assert leading == keep
    if keep:
        assert removed == []
        assert ":KUBE-RELAY-HOME -" in after
        return
    assert removed == [
        "rules in table ip mangle (iptables, legacy)",
        "set KUBEWAY-6-RELAY-PORT-TCP",
        "set KUBEWAY-RELAY-EXTERNAL",
    ]
    assert after == []
    assert sets == ["KUBE-CLUSTER-IP", "KUBE-SRC-NOT-OURS"]


def test_looking_makes_no_tables() -> None:
    def work() -> tuple[list[str], str, str]:
        removed = remove(everybodys=True)
        listed = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
        return removed, listed, Path("/proc/thread-self/net/ip_tables_names").read_text()

    assert inside(work) == ([], "", "")


def test_tables_of_nftables_mode_go_and_no_others() -> None:
    def work() -> tuple[list[str], list[str], str]:
        nft("table ip kube-proxy { chain c { }; }\ntable ip others { chain c { }; }")
        first, again = remove_kube_proxy_tables(), remove_kube_proxy_tables()
        left = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout
        return first, again, left

    assert inside(work) == (["ip"], [], "table ip others\n")
