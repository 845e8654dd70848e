"""
The lab's hosts and what lies between them.

                                     pod-a ─ pod/a        10.244.1.11
    outside ──────── eth0  node  ────  …                  each pod on a link of its own,
    203.0.113.99           │         cni0 ─┬ pod/x        or on the bridge cni0
                          eth1             └ …
                           │
                         remote: another node, with its pods' addresses 10.244.2.11-13

Every host has both families (see `addresses`). The outside and the node know no
route to Service addresses but this node, as for a client behind a load balancer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping

from kubeway.lab import addresses as at
from kubeway.lab.host import Host, LabError

QUIET: dict[str, object] = {
    # Addresses serve at once, without asking first whether they are taken.
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.default.dad_transmits": 0,
    "net.ipv6.conf.default.accept_ra": 0,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    # Nobody is told of shorter ways: what the packets go through is what is tested.
    "net.ipv4.conf.all.accept_redirects": 0,
    "net.ipv4.conf.default.accept_redirects": 0,
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
    "net.ipv6.conf.default.accept_redirects": 0,
    # By default a host gets six "port unreachable" and then one a second.
    "net.ipv4.icmp_ratelimit": 0,
    "net.ipv6.icmp.ratelimit": 0,
}
ROUTER: dict[str, object] = {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}

PORTS = (8080, 8081)
"""Where every pod answers."""

PODS: Mapping[str, str] = {
    "a": "10.244.1.11",
    "b": "10.244.1.12",
    "c": "10.244.1.13",
    "client": "10.244.1.20",
}
BRIDGED: Mapping[str, str] = {"x": "10.244.1.41", "y": "10.244.1.42"}
REMOTE_PODS: Mapping[str, str] = {"ra": "10.244.2.11", "rb": "10.244.2.12", "rc": "10.244.2.13"}
"""Pods of the other node: addresses of the host "remote"."""


class Lab:
    """All hosts up and connected, every pod answering; `close` or leave the `with` to end it.

    `pods` have links of their own, `bridged` ones are on cni0. Pod names have at most 11 characters.
    """

    def __init__(self, pods: Mapping[str, str] = PODS, bridged: Mapping[str, str] = BRIDGED) -> None:
        self.node, self.outside, self.remote = Host("node"), Host("outside"), Host("remote")
        self.pods = {name: Host(f"pod/{name}") for name in [*pods, *bridged]}
        self.addresses = {**pods, **bridged}
        self._bridged = frozenset(bridged)
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for host in self.hosts():
            host.close()

    def hosts(self) -> list[Host]:
        return [self.node, self.outside, self.remote, *self.pods.values()]

    def host(self, who: str) -> Host:
        """`node`, `outside`, `remote` or `pod/NAME`; LabError for others."""
        for host in self.hosts():
            if host.name == who:
                return host
        raise LabError(f"there is no host {who!r}; there are {', '.join(h.name for h in self.hosts())}")

    def interface(self, who: str) -> str:
        """The interface by which packets of that host come into the node; "" for the node itself."""
        if who.startswith("pod/"):
            name = who.removeprefix("pod/")
            return "cni0" if name in self._bridged else f"pod-{name}"
        return {"node": "", "outside": "eth0", "remote": "eth1"}[who]

    def node_addresses(self) -> list[str]:
        """Every address of the node's interfaces, loopback included."""
        listing = json.loads(self.node.run(["ip", "-j", "addr"]).stdout)
        return [entry["local"] for link in listing for entry in link.get("addr_info", [])]

    def _build(self) -> None:
        for host in self.hosts():
            host.settle()
            host.sysctl(QUIET)
        for host in (self.node, self.remote):
            host.sysctl(ROUTER)
        self.node.ip(list(self._node_lines()))
        self.outside.ip([*_peer("eth0", [at.OUTSIDE, *at.CLIENTS, at.BALANCER]), *_default(at.NODE)])
        self.remote.ip([*_peer("eth0", [at.REMOTE, *REMOTE_PODS.values()]), *_default(at.NODE_ETH1)])
        for name, host in self.pods.items():
            host.ip([*_peer("eth0", [self.addresses[name]], length=32), *_default(at.GATEWAY, via_link=True)])
            self._serve(host, name, self.addresses[name])
        for name, ip in REMOTE_PODS.items():
            self._serve(self.remote, name, ip)
        self._serve(self.outside, "balancer", at.BALANCER, [80])
        self._wait()

    def _node_lines(self) -> Iterable[str]:
        yield "link set lo up"
        yield f"link add eth0 type veth peer name eth0 netns {self.outside.pid}"
        yield f"link add eth1 type veth peer name eth0 netns {self.remote.pid}"
        yield from _addresses("eth0", [at.NODE], 24)
        yield from _addresses("eth1", [at.NODE_ETH1], 24)
        if self._bridged:
            yield "link add cni0 type bridge forward_delay 0 mcast_snooping 0"
            yield from _addresses("cni0", [at.GATEWAY], 32)
        for name, host in self.pods.items():
            link = f"pod-{name}"
            yield f"link add {link} type veth peer name eth0 netns {host.pid}"
            if name in self._bridged:
                yield f"link set {link} master cni0 up"
                # Where bridged packets pass the packet filter (br_netfilter), the bridge itself sends on
                # what was translated; back to where it came from only if told so, as CNI plugins do.
                yield f"link set {link} type bridge_slave hairpin on"
            else:
                yield from _addresses(link, [at.GATEWAY], 32)
            for ip in at.both(self.addresses[name]):
                yield f"route add {ip} dev {self.interface(host.name)}"
        for cidr, via in zip(at.both(at.REMOTE_POD_CIDR), at.both(at.REMOTE), strict=True):
            yield f"route add {cidr} via {via}"
        for cidr, via in zip(at.both("198.51.100.0/24"), at.both(at.OUTSIDE), strict=True):
            yield f"route add {cidr} via {via}"
        yield from _default(at.OUTSIDE)

    def _serve(self, host: Host, name: str, ip: str, ports: Iterable[int] = PORTS) -> None:
        for address in at.both(ip):
            for proto in ("TCP", "UDP", "SCTP"):
                for port in ports:
                    host.serve(name, proto, address, port)

    def _wait(self, limit: float = 20.0) -> None:
        """Until the node, the outside and the first pod reach every pod: links take their time."""
        goals = [ip for plain in [*self.addresses.values(), *REMOTE_PODS.values()] for ip in at.both(plain)]
        end = time.monotonic() + limit
        for asker in [self.node, self.outside, *list(self.pods.values())[:1]]:
            for ip in goals:
                while asker.ask(ip, PORTS[0], wait=0.5).kind != "answered":
                    if time.monotonic() > end:
                        raise LabError(f"{asker.name} cannot reach {ip}: the lab's network does not come up")
                    time.sleep(0.02)


def _addresses(link: str, ips: Iterable[str], length: int) -> Iterable[str]:
    for ip in ips:
        v4, v6 = at.both(ip)
        yield f"addr add {v4}/{length} dev {link}"
        yield f"addr add {v6}/{64 if length == 24 else 128} dev {link} nodad"
    yield f"link set {link} up"


def _peer(link: str, ips: list[str], length: int = 24) -> Iterable[str]:
    """A host's only link: the first address with its network, the others just themselves."""
    yield "link set lo up"
    yield from _addresses(link, ips[:1], length)
    yield from _addresses(link, ips[1:], 32)


def _default(via: str, *, via_link: bool = False) -> Iterable[str]:
    """`via_link`: the router is on the link although no network of the link holds it."""
    for ip in at.both(via):
        if via_link:
            yield f"route add {ip} dev eth0"
        yield f"route add default via {ip}"
