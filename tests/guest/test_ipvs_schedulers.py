"""
How endpoints are chosen, by the kernel's own schedulers; and what of ipvs can be set.
"""

from __future__ import annotations

import re

from kubeway.lab import addresses as at
from kubeway.lab.host import Question
from tests.guest import market
from tests.guest.witness import servers
from tests.kernel.place import Place

SH, WRR, LC, BAD, LACKING, PLAIN = (f"10.96.0.{n}" for n in range(40, 46))
SAID = {SH: "sh", WRR: "wrr", LC: "lc", BAD: "rrr", LACKING: "twos"}
PODS = ["a", "b", "c", "ra", "rb", "rc"]
FLAGS = (
    "--ipvs-scheduler=wlc",
    "--ipvs-strict-arp",
    "--ipvs-tcp-timeout=1000s",
    "--ipvs-tcpfin-timeout=20s",
    "--ipvs-udp-timeout=200s",
)


def service(vip: str) -> list[market.Doc]:
    name = f"s{vip.rpartition('.')[2]}"
    said = {"kubeway.io/ipvs-scheduler": SAID[vip]} if vip in SAID else None
    return [
        market.service(name, vip, protos=["TCP"], annotations=said),
        *market.slices(name, PODS, protos=["TCP"]),
    ]


def test_schedulers(balanced: Place) -> None:
    place, node = balanced, balanced.lab.node
    place.say("all.json", *market.NODE, *(doc for vip in (*SAID, PLAIN) for doc in service(vip)))

    def answered(vip: str, times: int = 18, host: str = "pod/client", source: str = "") -> set[str]:
        asked = [Question(vip, 80, source=source, wait=1)] * times
        return {answer.name or answer.kind for answer in place.lab.host(host).ask_all(asked)}

    with place.run(*FLAGS) as proxy:
        proxy.wait_ready()
        said = {line for line in servers(node) if line.startswith("-A")}
        assert said == {
            f"-A -t {ip}:80 -s {how}"
            for vip, how in {SH: "sh -b sh-fallback", WRR: "wrr", LC: "lc", BAD: "wlc", PLAIN: "wlc"}.items()
            for ip in (vip, f"[{at.twin(vip)}]")
        }
        for vip in (WRR, LC, BAD, PLAIN):
            assert answered(vip) == set(PODS), vip
        assert answered(at.twin(WRR)) == set(PODS)
        # By the client's address, which always meets the same; others meet others.
        places = [("outside", source) for source in (at.OUTSIDE, *at.CLIENTS)]
        places += [(f"pod/{pod}", "") for pod in ("client", "a", "b", "c", "x", "y")]
        met = [answered(SH, 4, host, source) for host, source in places]
        assert {len(names) for names in met} == {1}
        assert len(set.union(*met)) > 1
        # One kernel's lack of one scheduler is the loss of who asks for it alone.
        assert answered(LACKING, 1) == {"timeout"}
        lines = [line for line in proxy.log.splitlines() if "set aside" in line]
        for line, ip in zip(lines, (LACKING, f"[{at.twin(LACKING)}]"), strict=True):
            assert f"shop/s44:tcp (TCP), service port set aside: refused: add server {ip}:80/TCP -> " in line
            assert "this kernel has no ip_vs scheduler twos (module ip_vs_twos)" in line
        assert re.search(
            r"kubeway.io/ipvs-scheduler\].*'rrr' is none of rr, .*; the node's own is used", proxy.log
        )
        timeouts = node.run(["ipvsadm", "-L", "--timeout"]).stdout.strip()
        assert timeouts == "Timeout (tcp tcpfin udp): 1000 20 200"
        arp = node.run(
            [
                "sh",
                "-c",
                "cat /proc/sys/net/ipv4/conf/all/arp_ignore /proc/sys/net/ipv4/conf/all/arp_announce",
            ]
        )
        assert arp.stdout.split() == ["1", "2"]
