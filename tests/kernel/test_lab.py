"""
The lab by itself: that its answers are true before anything is concluded from them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from kubeway.lab import addresses as at
from kubeway.lab import sctp
from kubeway.lab.host import Host, LabError
from kubeway.lab.topology import Lab

pytestmark = pytest.mark.kernel

PROTOS = ["TCP", "UDP", "SCTP"]
FAMILIES = [4, 6]


@pytest.fixture
def rules(lab: Lab) -> Iterator[Host]:
    """The node, to put rules into; they are taken out afterwards."""
    yield lab.node
    lab.node.run(["nft", "flush", "ruleset"])
    lab.node.run(["conntrack", "-F"])


def of(family: int, ip: str) -> str:
    return ip if family == 4 else at.twin(ip)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("proto", PROTOS)
@pytest.mark.parametrize("who", ["node", "outside", "remote", "pod/a", "pod/x"])
@pytest.mark.parametrize(("name", "ip"), [("a", "10.244.1.11"), ("y", "10.244.1.42"), ("rb", "10.244.2.12")])
def test_everybody_reaches_every_pod(lab: Lab, who: str, name: str, ip: str, proto: str, family: int) -> None:
    answer = lab.host(who).ask(of(family, ip), 8081, proto)
    assert (answer.kind, answer.name) == ("answered", name)
    assert not answer.masqueraded
    assert answer.source == answer.client


@pytest.mark.parametrize("family", FAMILIES)
def test_a_client_may_choose_its_address(lab: Lab, family: int) -> None:
    source = of(family, "198.51.100.7")
    answer = lab.outside.ask(of(family, "10.244.1.11"), 8080, "TCP", source=source, sport=2345)
    assert answer.client in (f"{source}:2345", f"[{source}]:2345")


@pytest.mark.parametrize("family", FAMILIES)
def test_clients_at_once_do_not_share_a_port(lab: Lab, family: int) -> None:
    """So many that by chance some would, and hear each other's answers."""
    nobody = of(family, "10.244.1.99")  # so that none lets go of its port early
    answers = lab.host("pod/client").ask_many(400, nobody, 8080, "UDP", at_once=400, wait=0.5)
    assert {answer.kind for answer in answers} == {"timeout"}
    assert len({answer.source for answer in answers}) == 400


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("proto", ["TCP", "UDP"])
def test_a_closed_port_refuses(lab: Lab, proto: str, family: int) -> None:
    answers = lab.outside.ask_many(20, of(family, "10.244.1.11"), 9999, proto, at_once=5)
    assert {answer.kind for answer in answers} == {"refused"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("proto", PROTOS)
@pytest.mark.parametrize("who", ["outside", "pod/client", "node"])
def test_reject_drop_and_nat_look_different(rules: Host, lab: Lab, who: str, proto: str, family: int) -> None:
    net = "ip" if family == 4 else "ip6"
    vip = of(family, "10.96.0.10")
    to = f"{net} daddr {vip} {proto.lower()} dport"
    target = f"[{at.twin('10.244.1.11')}]:8080" if family == 6 else "10.244.1.11:8080"
    rules.run(
        ["nft", "-f", "-"],
        stdin=f"""
        table {net} lab {{
          chain verdicts {{
            {to} 81 reject
            {to} 82 drop
          }}
          chain forward {{ type filter hook forward priority -110; jump verdicts; }}
          chain output {{ type filter hook output priority -110; jump verdicts; }}
          chain nat {{ {to} 80 meta mark set 1 dnat to {target}; {to} 83 dnat to {target}; }}
          chain pre {{ type nat hook prerouting priority -100; jump nat; }}
          chain out {{ type nat hook output priority -100; jump nat; }}
          chain post {{ type nat hook postrouting priority 100; meta mark 1 masquerade; }}
        }}
        """,
    )
    host = lab.host(who)
    assert {a.kind for a in host.ask_many(10, vip, 81, proto, at_once=10)} == {"refused"}
    assert {a.kind for a in host.ask_many(3, vip, 82, proto, wait=0.4, at_once=3)} == {"timeout"}
    translated = host.ask(vip, 83, proto)
    assert (translated.name, translated.masqueraded) == ("a", False)
    masqueraded = host.ask(vip, 80, proto)
    assert (masqueraded.name, masqueraded.masqueraded) == ("a", True)
    assert masqueraded.client.rpartition(":")[0].strip("[]") in lab.node_addresses()


def test_a_flood_counts_what_is_lost(lab: Lab) -> None:
    server, client = lab.host("pod/b"), lab.host("pod/client")
    server.serve("brief", "TCP", "10.244.1.12", 7000)
    flood = client.flood("10.244.1.12", 7000)
    poll_until(lambda: flood.report().answered.get("brief", 0) > 10)
    assert flood.report().lost == {}
    server.leave("TCP", "10.244.1.12", 7000)
    poll_until(lambda: flood.report().lost.get("refused", 0) > 3)
    tally = flood.stop()
    assert tally.sent == tally.answered["brief"] + sum(tally.lost.values())


def test_a_flood_that_nobody_ended_is_ended_with_all_others(lab: Lab) -> None:
    client = lab.host("pod/client")
    floods = [client.flood("10.244.1.11", 8080) for _ in range(2)]
    poll_until(lambda: all(flood.report().sent for flood in floods))
    floods[0].stop()
    client.quiet()
    sent = [flood.report().sent for flood in floods]
    assert client.ask("10.244.1.11", 8080).kind == "answered"  # which takes longer than a flood does
    assert [flood.report().sent for flood in floods] == sent


def test_a_host_says_what_it_cannot_do(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"host pod/a: .*assign requested address"):
        lab.host("pod/a").serve("a", "TCP", "192.0.2.1", 80)
    with pytest.raises(LabError, match="there is no host 'pod/q'; there are node, outside"):
        lab.host("pod/q")


def test_killed_labs_leave_nothing() -> None:
    """Hosts, and programs in them, end with the process that made them, even if it is killed."""
    program = (
        "from kubeway.lab.host import Host; import sys; h = Host('alone'); h.settle(); "
        "p = h.popen(['sleep', '600']); print(h.pid, p.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as maker:
        assert maker.stdout is not None
        pids = [int(word) for word in maker.stdout.readline().split()]
        assert len(pids) == 2
        maker.kill()
    poll_until(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    """Running: neither gone nor a zombie that nobody has waited for yet."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def poll_until(done: object, limit: float = 20.0) -> None:
    assert callable(done)
    end = time.monotonic() + limit
    while not done():
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.02)


def test_crc32c_is_the_one_of_the_standard() -> None:
    assert sctp.crc32c(b"123456789") == 0xE3069283


def test_sctp_messages_are_read_as_written() -> None:
    for kind in (sctp.INIT, sctp.INIT_ACK):
        message = sctp.Message(40000, 80, 77, kind, b"who is there")
        assert sctp.unpack(sctp.pack(message)) == message
    assert sctp.unpack(b"short") is None
    assert sctp.unpack(bytes(64)) is None


def test_twins() -> None:
    assert at.twin("10.244.1.11") == "fd00:10:244:1::11"
    assert at.twin("203.0.113.0/24") == "2001:db8:1::/64"
    assert at.twin("198.51.100.7/32") == "2001:db8:5::7/128"
    with pytest.raises(ValueError, match="no IPv6 twin"):
        at.twin("192.0.2.1")
