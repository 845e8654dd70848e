"""
What is others' stays, under a daemon at work and when all of ours is taken away; what one before left goes.
"""

from __future__ import annotations

from kubeway.lab import addresses as at
from kubeway.lab.proxy import cleanup
from tests.guest import market
from tests.guest.witness import bound, servers, sets, unlevel
from tests.kernel.place import Place

# A virtual server by address, one by mark; one at an address of our link whose range is excluded.
SERVERS = {
    "-A -t 192.0.2.1:80 -s wrr",
    "-a -t 192.0.2.1:80 -r 10.244.1.11:8080 -m -w 3",
    "-A -f 7 -s rr",
    "-a -f 7 -r 10.244.1.12:0 -m -w 1",
    "-A -t 198.51.100.9:80 -s rr",
    "-A -t [2001:db8:5::9]:80 -s rr",
    f"-A -t {at.NODE}:8443 -s rr",
}
OTHERS = """
ipvsadm -A -t 192.0.2.1:80 -s wrr
ipvsadm -a -t 192.0.2.1:80 -r 10.244.1.11:8080 -m -w 3
ipvsadm -A -f 7 -s rr
ipvsadm -a -f 7 -r 10.244.1.12:0 -m
ipvsadm -A -t 198.51.100.9:80 -s rr
ipvsadm -A -t [2001:db8:5::9]:80 -s rr
ipvsadm -A -t 203.0.113.10:8443 -s rr
ipset create OTHERS hash:ip
ipset add OTHERS 192.0.2.7
ipset create KUBE-SRC-ABCDEFGHIJKLMNOP hash:ip
ip link add others0 type dummy
ip addr add 192.0.2.9/32 dev others0
iptables-legacy -N MINE
iptables-legacy -A INPUT -p tcp --dport 9999 -j MINE
iptables-legacy -A MINE -m set --match-set OTHERS src -j DROP
iptables-legacy -t nat -A PREROUTING -p tcp --dport 9998 -j REDIRECT --to-ports 9997
"""
# An address on our link, an entry of a set, a node port: each tells whose a server was.
STALE = """
ip link add kube-ipvs0 type dummy
ip addr add 198.18.0.77/32 dev kube-ipvs0
ip addr add 198.51.100.9/32 dev kube-ipvs0
ip addr add 2001:db8:5::9/128 dev kube-ipvs0 nodad
ipvsadm -A -t 198.18.0.77:80 -s rr
ipset create KUBE-CLUSTER-IP hash:ip,port maxelem 65536
ipset add KUBE-CLUSTER-IP 10.96.0.77,tcp:80
ipvsadm -A -t 10.96.0.77:80 -s rr
ipvsadm -a -t 10.96.0.77:80 -r 10.244.1.13:8080 -m
ipset create KUBE-NODE-PORT-UDP bitmap:port range 0-65535
ipset add KUBE-NODE-PORT-UDP 31977
ipvsadm -A -u 203.0.113.10:31977 -s rr
"""


def test_what_is_others_stays(balanced: Place) -> None:
    place, node = balanced, balanced.lab.node
    node.run(["sh", "-ec", OTHERS])

    def others() -> tuple[object, ...]:
        saved = node.run(["iptables-legacy-save"]).stdout.splitlines()
        return (
            SERVERS & set(servers(node)),
            [line for line in sets(node) if "OTHERS" in line or "KUBE-SRC" in line],
            [line for line in saved if line.startswith("-A") and "KUBE" not in line],
            node.run(["ip", "addr", "show", "others0"]).stdout,
        )

    whole = others()
    assert whole[0] == SERVERS
    node.run(["sh", "-ec", STALE])
    try:
        place.say("all.json", *market.NODE, market.service("web", market.WEB, node_port=30080))
        with place.run("--ipvs-exclude-cidrs=198.51.100.0/24,2001:db8:5::/64") as proxy:
            proxy.wait_ready()
            assert others() == whole
            assert not [
                line for line in servers(node) if "198.18.0.77" in line or ".77:" in line or ":31977" in line
            ]
            assert not [line for line in sets(node) if "77" in line]
            assert bound(node) == sorted(at.both(market.WEB))
            assert unlevel(place, "--ipvs-exclude-cidrs=198.51.100.0/24,2001:db8:5::/64") == []
            # Still so, when something of ours has changed.
            place.say("all.json", *market.NODE, market.service("web", market.STICKY, node_port=30081))
            proxy.stop()
            assert others() == whole
        cleanup(node)
        assert others() == whole
        assert set(servers(node)) == SERVERS
        assert not [line for line in sets(node) if "OTHERS" not in line and "KUBE-SRC" not in line]
        for tool in ("iptables-legacy-save", "ip6tables-legacy-save"):
            assert "KUBE" not in node.run([tool]).stdout
        assert "kube-ipvs0" not in node.run(["ip", "link"]).stdout
        assert "proto 117" not in node.run(["ip", "-4", "route", "show", "table", "local"]).stdout
        assert "proto 117" not in node.run(["ip", "-6", "route", "show", "table", "local"]).stdout
    finally:
        node.run(["ip", "link", "del", "others0"])
