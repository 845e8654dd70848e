"""
From another proxy to ipvs mode and back, under floods: a kube-proxy's ipvs mode, and our own iptables mode.
"""

from __future__ import annotations

import errno
import os

from kubeway.lab import addresses as at
from kubeway.lab.host import Flood
from tests.guest import market
from tests.guest.witness import CLUSTER_CIDRS, servers, sets, unlevel
from tests.kernel.place import Place, until
from tests.kernel.play import UNDER_WAY, WAYS, nothing_is_lost

CLIENTS = 2
"""Of each flood, at most."""
CUT_OFF = UNDER_WAY | {f"failed: {OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))}"}

IPTABLES = WAYS["iptables-legacy"]._replace(
    flags={**WAYS["iptables-legacy"].flags, "cluster-cidr": CLUSTER_CIDRS}
)

# What kube-proxy's ipvs mode leaves of one Service with a node port (pkg/proxy/ipvs/proxier.go), and of one
# that goes meanwhile.
KUBE_PROXY = f"""
ip link add kube-ipvs0 type dummy
ip addr add {market.WEB}/32 dev kube-ipvs0
ipset create KUBE-LOOP-BACK hash:ip,port,ip family inet hashsize 1024 maxelem 65536
ipset create KUBE-CLUSTER-IP hash:ip,port family inet hashsize 1024 maxelem 65536
ipset create KUBE-NODE-PORT-TCP bitmap:port range 0-65535
ipset create KUBE-IPVS-IPS hash:ip family inet hashsize 1024 maxelem 65536
ipset create KUBE-6-CLUSTER-IP hash:ip,port family inet6 hashsize 1024 maxelem 65536
ipset add KUBE-LOOP-BACK 10.244.1.11,tcp:8080,10.244.1.11
ipset add KUBE-CLUSTER-IP {market.WEB},tcp:80
ipset add KUBE-NODE-PORT-TCP 30080
ipset add KUBE-IPVS-IPS {market.WEB}
echo 1 > /proc/sys/net/ipv4/vs/conntrack
for way in {market.WEB}:80 {at.NODE}:30080; do
    ipvsadm -A -t $way -s rr
    ipvsadm -a -t $way -r 10.244.1.11:8080 -m
    ipvsadm -a -t $way -r 10.244.2.11:8080 -m
done
ip addr add 10.96.0.99/32 dev kube-ipvs0
ipvsadm -A -t 10.96.0.99:80 -s rr
iptables-legacy-restore --noflush <<EOF
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES -s 127.0.0.0/8 -j RETURN
-A KUBE-POSTROUTING -m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-NODE-PORT -p tcp -m set --match-set KUBE-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES ! -s 10.244.0.0/16 -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-IPVS-OUT-FILTER - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A INPUT -m comment --comment "kubernetes health check rules" -j KUBE-NODE-PORT
-A INPUT -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A OUTPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-OUT-FILTER
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-IPVS-FILTER -m set --match-set KUBE-CLUSTER-IP dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set KUBE-IPVS-IPS dst -j REJECT
COMMIT
EOF
"""


def flooded(place: Place) -> list[Flood]:
    """Not so fast that the guest's connection tracking, which has room for some 8000 flows, drops any."""
    client, outside = place.lab.host("pod/client"), place.lab.outside
    return [
        client.flood(market.WEB, 80, gap=0.02),
        outside.flood(at.NODE, 30080, gap=0.02),
        client.flood(at.twin(market.WEB), 80, "UDP", at_once=1, gap=0.02),
    ]


def web(place: Place) -> None:
    place.say("node.json", *market.NODE)
    service = market.service("web", market.WEB, node_port=30080, balancers=[market.WEB_LB])
    place.say("web.json", service, *market.slices("web", ["a", "ra"]))


def test_what_a_kube_proxy_left_is_taken_over_under_a_flood(balanced: Place) -> None:
    place, node = balanced, balanced.lab.node
    node.run(["sh", "-ec", KUBE_PROXY])
    web(place)
    floods = flooded(place)[:2]
    with place.run() as proxy:
        proxy.wait_ready()
        nothing_is_lost(floods)
        assert unlevel(place) == []
        assert not [line for line in servers(node) if "10.96.0.99" in line]


def test_to_ipvs_mode_and_back_under_a_flood(balanced: Place) -> None:
    place, node, client = balanced, balanced.lab.node, balanced.lab.host("pod/client")

    def resolver() -> str:
        """A client that keeps its port."""
        return client.ask(market.WEB, 80, "UDP", sport=5353, wait=1).kind

    web(place)
    with place.run(way=IPTABLES) as proxy:
        proxy.wait_ready()
        floods = flooded(place)
        proxy.stop()
    with place.run() as proxy:
        proxy.wait_ready()
        assert unlevel(place) == []
        assert resolver() == "answered"
        assert [flood.report().lost for flood in floods] == [{}] * 3
        proxy.stop()
    with place.run(way=IPTABLES) as proxy:
        proxy.wait_ready()
        assert resolver() == "answered"
        until("the servers are gone", lambda: servers(node) == [])
        until("the log tells", lambda: "took over" in proxy.log)
        assert resolver() == "answered"
        # Each of a flood's clients may have had a connection, or a datagram under way, when the servers went;
        # whoever came before or after was answered (docs/theory/ipvs.md).
        nothing_is_lost(floods, under_way=CLIENTS, how=CUT_OFF)
        assert sets(node) == []
        assert "kube-ipvs0" not in node.run(["ip", "link"]).stdout
        assert "KUBE-IPVS" not in node.run(["iptables-legacy-save"]).stdout
        place.way = IPTABLES
        assert unlevel(place) == []
