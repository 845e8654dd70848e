"""
Whatever others do to what is ours, a daemon at work notices, tells, and puts it right.

Here is what the kernel tells of cheaply, so that it is put right in a second or two; what it does not is in
`test_ipvs_levelled`.
"""

from __future__ import annotations

import re

from kubeway.lab import addresses as at
from tests.guest import market
from tests.guest.witness import unlevel
from tests.kernel.place import Place, until

VIP6 = at.twin(market.WEB)

# Commands, and how many objects of ours they change.
VANDALS = {
    "some of all": (
        (
            f"ipvsadm -D -t {market.WEB}:80",  # and its two destinations
            f"ipset del KUBE-CLUSTER-IP {market.WEB},tcp:80",
            "ipset flush KUBE-6-CLUSTER-IP",
            "echo 0 > /proc/sys/net/ipv4/vs/conntrack",
            "iptables-legacy -t nat -D KUBE-SERVICES 1",
            "iptables-legacy -t nat -D PREROUTING 1",
        ),
        3 + 1 + 3 + 1 + 1 + 1,
    ),
    "all servers, and a route": (
        ("ipvsadm -C", f"ip route del local {market.WEB} dev kube-ipvs0 table local proto 117"),
        3 * 3 * 6 + 1,
    ),
    "addresses": (
        (f"ip addr del {market.WEB}/32 dev kube-ipvs0", f"ip addr del {VIP6}/128 dev kube-ipvs0"),
        2,
    ),
    "the link": (("ip link del kube-ipvs0",), 1 + 4 + 2),
}


WITNESSES = f"""
ipvsadm -Sn
ipset save
ip -o addr show kube-ipvs0 scope global
ip route get {market.WEB} | head -n 1
ip route get {VIP6} | head -n 1
iptables-legacy-save
cat /proc/sys/net/ipv4/vs/conntrack
"""


def test_whatever_others_do_is_put_right(balanced: Place) -> None:
    place, node = balanced, balanced.lab.node

    def witnessed() -> list[str]:
        """All that stock tools tell, but for counters."""
        said = node.run(["sh", "-c", WITNESSES], check=False).stdout
        return sorted(
            re.sub(r" \[\d+:\d+\]$| initval \S+|^[\d]+: |^# .*", "", line) for line in said.splitlines()
        )

    def told() -> int:
        """How many differences have been told of."""
        found = re.findall(r" drift: (\d+) missing, (\d+) altered, (\d+) foreign ", proxy.log)
        return sum(int(count) for counts in found for count in counts)

    place.say("node.json", *market.NODE)
    web = market.service("web", market.WEB, node_port=30080, balancers=[market.WEB_LB])
    place.say("web.json", web, *market.slices("web", ["a", "ra"]))
    with place.run() as proxy:
        proxy.wait_ready()
        whole = witnessed()
        for what, (commands, count) in VANDALS.items():
            before = told()
            node.run(["sh", "-ec", "\n".join(commands)])
            until(f"{what}: repaired", lambda: witnessed() == whole)
            assert told() == before + count, (what, proxy.log)
        assert unlevel(place) == []
        assert proxy.log.count(" drift: ") == proxy.log.count(" drift repaired: ")
