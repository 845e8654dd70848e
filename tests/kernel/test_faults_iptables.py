"""
What may happen to a proxy in iptables mode, with real packets, in each of the kernel's two iptables: it is
killed, its rules are taken away, table by table, others write beside it, and another proxy's rules are there
before it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from kubeway.lab.proxy import cleanup
from kubeway.lab.topology import Lab
from tests.kernel.place import CLIENT, SERVER, VIP, Place, answered, endpoints, service, until
from tests.kernel.play import WAYS

pytestmark = pytest.mark.kernel

BACKENDS = {"nft": "iptables-nf_tables", "legacy": "iptables-legacy"}
GOLDEN = Path(__file__).parents[1] / "golden/xtables"


class Tables(Place):
    """A place whose proxies are in iptables mode; `tool` is the iptables of its back end."""

    def __init__(self, lab: Lab, folder: Path, backend: str) -> None:
        super().__init__(lab, folder)
        self.backend = backend
        self.way = WAYS[BACKENDS[backend]]

    def tool(self, words: str, family: str = "ip") -> None:
        self.lab.node.run([f"{family}tables-{self.backend}", *words.split()])

    def save(self, family: str = "ip") -> list[str]:
        """What a save tells, but for counters and remarks."""
        told = self.lab.node.run([f"{family}tables-{self.backend}-save"]).stdout
        return [line.partition(" [")[0] for line in told.splitlines() if line[:1] in ("*", ":", "-")]

    def load(self, text: str, family: str = "ip") -> None:
        self.lab.node.run([f"{family}tables-{self.backend}-restore", "--noflush"], stdin=text)


@pytest.fixture(params=list(BACKENDS))
def tables(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path, node: None) -> Iterator[Tables]:
    tables = Tables(lab, tmp_path, request.param)
    try:
        yield tables
    finally:
        tables.end()


def test_a_kill_loses_no_connection_and_a_restart_mends_what_was_missed(tables: Tables) -> None:
    lab = tables.lab
    pods = sorted(lab.addresses)[:3]
    tables.say("service.json", service())
    tables.say("slice.json", endpoints(lab, pods[:1], 9999))
    tables.start(lab.host(f"pod/{pods[0]}"), SERVER, "0.0.0.0", 9999)
    with tables.run() as first:
        first.wait_ready()
        until("the server is up", lambda: lab.host("outside").ask(VIP, 80, "TCP").kind != "refused")
        lines = tables.start(lab.host("outside"), CLIENT, VIP, 80)
        until("the connection is made", lines)
        os.kill(first.pid, signal.SIGKILL)
        served = lines()
        until("the connection goes on without the proxy", lambda: lines() > served + 20)
    # While nobody looks: the endpoints change, rules go, a rule comes.
    tables.say("slice.json", endpoints(lab, pods[1:3]))
    tables.tool("-t nat -F KUBE-MARK-MASQ")
    tables.tool("-t filter -I KUBE-SERVICES -j ACCEPT")
    with tables.run() as second:
        second.wait_ready()
        assert answered(lab) == set(pods[1:3])
        served = lines()
        until("the connection goes on with the new proxy", lambda: lines() > served + 20)
        assert "-A KUBE-SERVICES -j ACCEPT" not in tables.save()
        assert any(line.startswith("-A KUBE-MARK-MASQ") for line in tables.save())
        assert "synced after start" in second.log


def test_a_restart_with_nothing_changed_writes_nothing(tables: Tables) -> None:
    tables.say("all.json", service(), endpoints(tables.lab, sorted(tables.lab.addresses)[:2]))
    with tables.run() as first:
        first.wait_ready()
    before = tables.save()
    with tables.run() as second:
        second.wait_ready()
        until("it says so", lambda: "synced after start: 0 changes" in second.log)
    assert tables.save() == before


def test_killed_again_and_again_while_all_changes_it_ends_up_right(tables: Tables) -> None:
    lab = tables.lab
    pods = sorted(lab.addresses)[:4]
    tables.say("service.json", service())
    tables.say("slice.json", endpoints(lab, pods[:1]))
    for round_ in range(5):
        with tables.run() as proxy:
            if round_:
                # Sooner or later in its start, so that it dies before, in or after a write.
                time.sleep(0.15 * round_)
            else:
                proxy.wait_ready()
            tables.say("slice.json", endpoints(lab, pods[round_ % 3 : round_ % 3 + 2]))
            os.kill(proxy.pid, signal.SIGKILL)
    tables.say("slice.json", endpoints(lab, pods[:2]))
    with tables.run() as last:
        last.wait_ready()
        assert answered(lab) == set(pods[:2])


@pytest.mark.parametrize(
    "vandal",
    [
        ["-t nat -F", "-t nat -X"],
        ["-t nat -F KUBE-SERVICES"],
        ["-t nat -D PREROUTING 1"],
        ["-t nat -F", "-t nat -X", "-t filter -F", "-t filter -X"],
    ],
    ids=["nat alone", "a chain", "a jump", "all"],
)
def test_rules_taken_away_come_back_by_themselves(tables: Tables, vandal: list[str]) -> None:
    lab = tables.lab
    pods = sorted(lab.addresses)[:2]
    tables.say("all.json", service(), endpoints(lab, pods))
    with tables.run() as proxy:
        proxy.wait_ready()
        before = tables.save()
        assert answered(lab) == set(pods)
        for words in vandal:
            tables.tool(words)
        until("the rules are there again", lambda: tables.save() == before)
        until("the Service answers again", lambda: answered(lab, 10) <= set(pods))
        until("the log tells", lambda: "repaired" in proxy.log)


def test_a_flush_of_filter_alone_is_seen_too(tables: Tables) -> None:
    lab = tables.lab
    tables.say("all.json", service(), endpoints(lab, []))
    with tables.run() as proxy:
        proxy.wait_ready()
        assert answered(lab, 4) == {"refused"}
        tables.tool("-t filter -F KUBE-EXTERNAL-SERVICES")
        tables.tool("-t filter -F KUBE-SERVICES")
        until("the Service refuses again", lambda: answered(lab, 2) == {"refused"})
        until("the log tells", lambda: "repaired" in proxy.log)


def test_what_others_write_stays(tables: Tables) -> None:
    lab = tables.lab
    pods = sorted(lab.addresses)[:2]
    tables.load(
        "*filter\n:INPUT DROP\n:KUBE-ROUTER-INPUT - [0:0]\n:KUBE-FIREWALL - [0:0]\n"
        "-A INPUT -j KUBE-ROUTER-INPUT\n-A INPUT -j ACCEPT\n"
        "-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP\nCOMMIT\n"
        "*nat\n:KUBE-MARK-DROP - [0:0]\n-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE\nCOMMIT\n"
    )
    before = [line for line in tables.save() if line[0] != "*"]
    tables.say("all.json", service(), endpoints(lab, pods))
    with tables.run() as proxy:
        proxy.wait_ready()
        assert answered(lab) == set(pods)
        tables.tool("-t nat -A OUTPUT -d 192.0.2.9 -j ACCEPT")
        tables.say("all.json", service(), endpoints(lab, pods[:1]))
        until("a change is in force", lambda: answered(lab, 10) == set(pods[:1]))
        assert set(before) <= set(tables.save())
    cleanup(lab.node)
    after = [line for line in tables.save() if line[0] != "*"]
    assert set(before) <= set(after)
    assert "-A OUTPUT -d 192.0.2.9/32 -j ACCEPT" in after
    assert not [line for line in after if "KUBE-SERVICES" in line or "KUBE-SVC-" in line]


def kube_proxys(lab: Lab, pods: list[str]) -> str:
    """The rules of a Go kube-proxy for the place's Service, as its restore input has them."""
    svc, lines = "KUBE-SVC-AAAAAAAAAAAAAAAA", []
    seps = [f"KUBE-SEP-{'B' * 15}{'ABCDEFG'[n]}" for n in range(len(pods))]
    for n, (sep, pod) in enumerate(zip(seps, pods, strict=True)):
        left = len(pods) - n
        chance = f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
        lines.append(f"-A {svc}{chance} -j {sep}")
        lines.append(f"-A {sep} -s {lab.addresses[pod]}/32 -j KUBE-MARK-MASQ")
        lines.append(f"-A {sep} -p tcp -m tcp -j DNAT --to-destination {lab.addresses[pod]}:8080")
    own = (svc, *seps, "KUBE-SERVICES", "KUBE-MARK-MASQ", "KUBE-POSTROUTING", "KUBE-PROXY-CANARY")
    portals = '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
    return "\n".join(
        [
            "*mangle",
            ":KUBE-PROXY-CANARY - [0:0]",
            ":KUBE-KUBELET-CANARY - [0:0]",
            "COMMIT",
            "*nat",
            *(f":{chain} - [0:0]" for chain in own),
            f"-A PREROUTING {portals}",
            f"-A OUTPUT {portals}",
            "-A POSTROUTING -j KUBE-POSTROUTING",
            f"-A KUBE-SERVICES -d {VIP}/32 -p tcp -m tcp --dport 80 -j {svc}",
            f"-A {svc} ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ",
            *lines,
            "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
            "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
            "-A KUBE-POSTROUTING -j MASQUERADE",
            "COMMIT",
            "",
        ]
    )


@contextmanager
def nothing_lost(lab: Lab) -> Iterator[None]:
    """New connections all the while, each of which is answered."""
    flood = lab.host("outside").flood(VIP, 80, "TCP")
    try:
        yield
    finally:
        tally = flood.stop()
    assert tally.lost == {}, tally
    assert tally.sent > 0


def test_rules_of_kube_proxy_are_taken_over_without_a_gap(tables: Tables) -> None:
    lab = tables.lab
    pods = sorted(lab.addresses)[:3]
    tables.load(kube_proxys(lab, pods))
    assert answered(lab) == set(pods)
    tables.say("all.json", service(), endpoints(lab, pods))
    with nothing_lost(lab), tables.run() as proxy:
        proxy.wait_ready()
        assert answered(lab) == set(pods)
        until("nothing of it stays", lambda: not [line for line in tables.save() if "KUBE-SEP-" in line])
    assert ":KUBE-PROXY-CANARY -" not in tables.save()
    assert ":KUBE-KUBELET-CANARY -" in tables.save()


def test_modes_switch_without_a_lost_connection(lab: Lab, place: Place) -> None:
    pods = sorted(lab.addresses)[:2]
    place.say("all.json", service(), endpoints(lab, pods))
    place.start(lab.host(f"pod/{pods[0]}"), SERVER, "0.0.0.0", 9999)
    ways = ["nftables", "iptables-nf_tables", "iptables-legacy", "nftables", "iptables-legacy", "nftables"]
    with place.run(way=WAYS[ways[0]]) as proxy:
        proxy.wait_ready()
    with nothing_lost(lab):
        for before, now in pairwise(ways):
            with place.run(way=WAYS[now]) as proxy:
                proxy.wait_ready()
                assert answered(lab) == set(pods)
                until(f"nothing of {before} stays", lambda way=WAYS[before]: not way.holds(lab.node))
                until("the log tells", lambda proxy=proxy: "took over" in proxy.log)
                assert answered(lab) == set(pods)
                assert WAYS[now].holds(lab.node)


def test_node_ports_at_loopback(tables: Tables) -> None:
    lab = tables.lab
    pods = sorted(lab.addresses)[:2]
    spec = {
        "type": "NodePort",
        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}],
    }
    tables.say("all.json", service(**spec), endpoints(lab, pods))
    switch = "/proc/sys/net/ipv4/conf/all/route_localnet"
    lab.node.run(["sh", "-c", f"echo 0 > {switch}"])
    with tables.run("--iptables-localhost-nodeports=false", "--nodeport-addresses=0.0.0.0/0") as proxy:
        proxy.wait_ready()
        assert lab.node.ask("127.0.0.1", 30080, "TCP").kind == "refused"
        assert lab.node.run(["cat", switch]).stdout == "0\n"
    with tables.run("--nodeport-addresses=0.0.0.0/0") as proxy:
        proxy.wait_ready()
        names = {lab.node.ask("127.0.0.1", 30080, "TCP").name for _ in range(40)}
        assert names == set(pods)
        assert lab.node.run(["cat", switch]).stdout == "1\n"
        # Somebody turns it off: it is on again soon.
        lab.node.run(["sh", "-c", f"echo 0 > {switch}"])
        until("it is on again", lambda: lab.node.run(["cat", switch]).stdout == "1\n")
    martians = [line for line in tables.save() if line.startswith("-A KUBE-FIREWALL ! -s 127.0.0.0/8")]
    assert len(martians) == 1
    lab.node.run(["sh", "-c", f"echo 0 > {switch}"])
