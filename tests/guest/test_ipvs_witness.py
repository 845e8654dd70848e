"""
What stock tools say of the node: what the program says, and what is known of kube-proxy's mode; and what is
sent to a port of a Service that is no way in.

One daemon puts it all in force and ends. The next ones find nothing to do, however the last one ended, and
nothing is lost meanwhile.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import pytest

from kubeway.cli.compile import compile as show_program
from kubeway.lab import addresses as at
from kubeway.lab.host import Question
from kubeway.lab.topology import Lab
from tests.guest import market
from tests.guest.witness import bound, options, placed, servers, sets, sources, unlevel
from tests.kernel.place import Place
from tests.kernel.play import nothing_is_lost

SERVICES = (market.WEB, market.LOCAL, market.RANGED, market.STICKY, market.NONE, market.INNER)
OUTSIDE = (market.WEB_LB, market.LOCAL_LB, market.RANGED_LB, market.WEB_EXTERNAL, market.LOCAL_EXTERNAL)
ADDRESSES = market.both([*SERVICES, *OUTSIDE])


@pytest.fixture(scope="module")
def at_work(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with placed(lab, tmp_path_factory.mktemp("market")) as place:
        place.say("market.json", *market.everything())
        with place.run() as proxy:
            proxy.wait_ready()
            assert proxy.stop() == 0, proxy.log
        yield place


@pytest.fixture(scope="module")
def compiled(at_work: Place) -> list[str]:
    """What `kubeway compile` prints, but for how much room sets are given."""
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("builtins.print", lambda *words: said.extend(" ".join(words).splitlines()))
        show_program([str(at_work.manifests)], options(at_work), "node1", "", "text")
    return [re.sub(r" (hashsize|maxelem) \d+", "", line) for line in said]


def test_the_kernel_holds_what_compile_prints(at_work: Place, compiled: list[str]) -> None:
    node = at_work.lab.node
    assert servers(node) == sorted(line for line in compiled if re.match("-[Aa] (-[tu]|--sctp)", line))
    assert sets(node) == sorted(line for line in compiled if re.match("create|add ", line))
    addresses = [line.split()[4].partition("/")[0] for line in compiled if "ip address add" in line]
    assert bound(node) == sorted(addresses) == sorted(ADDRESSES)
    # Our jumps stand first: they are inserted.
    rules = {re.sub(r"^-I (\S+) \d+", r"-A \1", line) for line in compiled}
    for tool in ("iptables-legacy-save", "ip6tables-legacy-save"):
        said = {line for line in node.run([tool]).stdout.splitlines() if line.startswith("-A ")}
        assert said
        assert said <= rules
    assert unlevel(at_work) == []


def test_servers_are_those_of_kube_proxy(at_work: Place) -> None:
    said = servers(at_work.lab.node)
    for option in ("-t", "-u", "--sctp-service"):
        for way in (
            f"{market.WEB}:80",
            f"{market.WEB_LB}:80",
            f"{market.WEB_EXTERNAL}:80",
            f"{at.NODE}:30080",
        ):
            server = f"{option} {way}"
            assert [line for line in said if f" {server} " in line] == [
                f"-A {server} -s rr",
                f"-a {server} -r 10.244.1.11:8080 -m -w 1",
                f"-a {server} -r 10.244.2.11:8080 -m -w 1",
            ]
        # By Local policies who is not here is not asked; with nobody, the kernel refuses.
        assert [line for line in said if f" {option} {market.LOCAL_LB}:80 " in line] == [
            f"-A {option} {market.LOCAL_LB}:80 -s rr",
            f"-a {option} {market.LOCAL_LB}:80 -r 10.244.1.11:8080 -m -w 1",
        ]
        assert [line for line in said if f" {option} {market.NONE}:80 " in line] == [
            f"-A {option} {market.NONE}:80 -s rr"
        ]
    assert f"-A -t [{at.twin(market.WEB)}]:80 -s rr" in said
    assert f"-a -t [{at.twin(at.NODE)}]:30080 -r [{at.twin('10.244.1.11')}]:8080 -m -w 1" in said
    assert f"-a -t {market.STICKY}:80 -r 10.244.1.11:8080 -m -w 5" in said
    listing = at_work.lab.node.run(["ipvsadm", "-Ln"]).stdout
    assert re.search(rf"^TCP +{re.escape(market.STICKY)}:80 rr persistent 600$", listing, re.M)
    assert listing.count("persistent") == 6


def test_sets_are_those_of_kube_proxy(at_work: Place) -> None:
    said = sets(at_work.lab.node)
    own = {
        "KUBE-CLUSTER-IP": {f"{ip},{p}:80" for ip in SERVICES for p in ("tcp", "udp", "sctp")},
        "KUBE-LOAD-BALANCER": {f"{ip},{p}:80" for ip in OUTSIDE[:3] for p in ("tcp", "udp", "sctp")},
        "KUBE-LOAD-BALANCER-LOCAL": {f"{market.LOCAL_LB},{p}:80" for p in ("tcp", "udp", "sctp")},
        "KUBE-LOAD-BALANCER-FW": {f"{market.RANGED_LB},{p}:80" for p in ("tcp", "udp", "sctp")},
        "KUBE-LOAD-BALANCER-SOURCE-CIDR": {
            f"{market.RANGED_LB},{p}:80,{cidr}"
            for p in ("tcp", "udp", "sctp")
            for cidr in ("203.0.113.0/24", "198.51.100.7")
        },
        "KUBE-EXTERNAL-IP": {f"{market.WEB_EXTERNAL},{p}:80" for p in ("tcp", "udp", "sctp")},
        "KUBE-EXTERNAL-IP-LOCAL": {f"{market.LOCAL_EXTERNAL},{p}:80" for p in ("tcp", "udp", "sctp")},
        "KUBE-NODE-PORT-TCP": {"30080", "30081", "30082"},
        "KUBE-NODE-PORT-LOCAL-UDP": {"30081"},
        "KUBE-NODE-PORT-SCTP-HASH": {f"{at.NODE},sctp:{port}" for port in (30080, 30081, 30082)},
        "KUBE-HEALTH-CHECK-NODE-PORT": {"32081"},
        "KUBE-IPVS-IPS": {*SERVICES, *OUTSIDE},
        "KUBE-LOOP-BACK": {
            f"{ip},{p}:8080,{ip}" for ip in ("10.244.1.11", "10.244.1.12") for p in ("tcp", "udp", "sctp")
        },
        # Of ours: whom nobody here serves, though somebody elsewhere does.
        "KUBEWAY-DROPPED": {f"{market.INNER},{p}:80" for p in ("tcp", "udp", "sctp")},
    }
    for name, entries in own.items():
        assert {line.split()[2] for line in said if line.startswith(f"add {name} ")} == entries, name
    assert f"add KUBE-6-CLUSTER-IP {at.twin(market.WEB)},tcp:80" in said
    assert "create KUBE-6-LOAD-BALANCER-SOURCE-CID hash:ip,port,net family inet6" in said


def test_the_nodes_own_packets_come_from_its_own_address(at_work: Place) -> None:
    node = at_work.lab.node
    assert sources(node, [ip for ip in ADDRESSES if "." in ip]) == {at.NODE}
    assert sources(node, [ip for ip in ADDRESSES if ":" in ip]) == {at.twin(at.NODE)}


def test_what_is_closed_is_closed(at_work: Place) -> None:
    """A server of the node's own, at all its addresses, answers at none of a Service's."""
    node = at_work.lab.node
    node.serve("sshd", "TCP", "::", 22)  # which is 0.0.0.0, too
    try:
        for who in ("outside", "pod/client", "node"):
            host = at_work.lab.host(who)
            asked = [Question(ip, 22) for ip in market.both([market.WEB, market.LOCAL, *OUTSIDE])]
            told = {q.to: a.kind for q, a in zip(asked, host.ask_all(asked, len(asked)), strict=True)}
            assert set(told.values()) == {"refused"}, (who, told)
            assert [host.ask(ip, 22).name for ip in at.both(at.NODE)] == ["sshd"] * 2, who
    finally:
        node.leave("TCP", "::", 22)


def test_a_restart_with_nothing_changed_writes_nothing_and_loses_nothing(at_work: Place) -> None:
    outside, client = at_work.lab.outside, at_work.lab.host("pod/client")
    # Not so fast that the guest's connection tracking, which has room for some 8000 flows, drops any.
    floods = [
        outside.flood(market.WEB_LB, 80, gap=0.02),
        client.flood(at.twin(market.LOCAL), 80, "UDP", gap=0.02),
    ]
    with at_work.run() as proxy:
        proxy.wait_ready()
        os.kill(proxy.pid, signal.SIGKILL)
    assert "synced after start: 0 changes" in proxy.log
    with at_work.run() as proxy:
        proxy.wait_ready()
        assert proxy.stop() == 0
    nothing_is_lost(floods)
    assert "synced after start: 0 changes" in proxy.log
    assert "drift" not in proxy.log
