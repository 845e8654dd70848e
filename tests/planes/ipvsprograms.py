"""
Programs for the ipvs plane: one with everything in it, any, and what ipvsadm is told for the same.
"""

from __future__ import annotations

from hypothesis import strategies as st

from kubeway.planes.ipvs.objects import (
    METHODS,
    TIMEOUTS,
    Destination,
    Server,
    Timeouts,
    destination_key,
    server_key,
)
from kubeway.program.program import Change, Key, Object
from kubeway.values import SCTP, TCP, UDP, Ip, Proto, parse_ip

VIP, VIP6 = parse_ip("10.96.0.9"), parse_ip("fd00::9")
POD, POD6 = parse_ip("10.244.1.7"), parse_ip("fd00:1::7")

WEB, WEB6 = server_key(VIP, TCP, 80), server_key(VIP6, TCP, 80)
DNS, CALLS = server_key(VIP, UDP, 53), server_key(VIP, SCTP, 80)
WEB_POD, WEB6_POD = destination_key(VIP, TCP, 80, POD, 8080), destination_key(VIP6, TCP, 80, POD6, 8080)
ROUTED = destination_key(VIP, TCP, 80, POD, 80)

PHRASES: dict[str, Change] = {
    "-A -t 10.96.0.9:80 -s rr": Change("add", WEB, None, Server("rr")),
    "-A -u 10.96.0.9:53 -s wlc -p 10800": Change("add", DNS, None, Server("wlc", 10800)),
    "-A --sctp-service 10.96.0.9:80 -s mh -b mh-fallback,mh-port": Change(
        "add", CALLS, None, Server("mh", source_port=True)
    ),
    "-A -t [fd00::9]:80 -s sh -p 300 -b sh-fallback": Change("add", WEB6, None, Server("sh", 300)),
    "-E -t 10.96.0.9:80 -s lblcr": Change("set", WEB, Server("rr"), Server("lblcr")),
    "-a -t 10.96.0.9:80 -r 10.244.1.7:8080 -m -w 1": Change("add", WEB_POD, None, Destination()),
    "-a -t [fd00::9]:80 -r [fd00:1::7]:8080 -m -w 100": Change("add", WEB6_POD, None, Destination(100)),
    "-e -t 10.96.0.9:80 -r 10.244.1.7:8080 -m -w 0": Change("set", WEB_POD, Destination(), Destination(0)),
    "-a -t 10.96.0.9:80 -r 10.244.1.7:80 -g -w 2": Change("add", ROUTED, None, Destination(2, "route")),
    "-d -t 10.96.0.9:80 -r 10.244.1.7:8080": Change("del", WEB_POD, Destination(), None),
    "-D -u 10.96.0.9:53": Change("del", DNS, Server("wlc", 10800), None),
    "--set 900 120 300": Change("add", TIMEOUTS, None, Timeouts(900, 120, 300)),
    "--set 0 0 200": Change("set", TIMEOUTS, Timeouts(900, 120, 300), Timeouts(0, 0, 200)),
}
"""What is told to ipvsadm, in this order, and the same as a change."""


def every_construct() -> dict[Key, Object]:
    return {
        TIMEOUTS: Timeouts(1000, 0, 250),
        WEB: Server("rr"),
        WEB_POD: Destination(),
        destination_key(VIP, TCP, 80, POD, 8081): Destination(0),
        server_key(VIP, TCP, 443): Server("wlc", 10800),
        DNS: Server("sh", source_port=True),
        destination_key(VIP, UDP, 53, POD, 53): Destination(7),
        CALLS: Server("mh", source_port=True),
        destination_key(VIP, SCTP, 80, POD, 80): Destination(65535),
        WEB6: Server("sh", 300),
        WEB6_POD: Destination(100),
        server_key(VIP6, UDP, 53): Server("rr", source_port=True),
    }


def ips(size: int) -> st.SearchStrategy[Ip]:
    return st.binary(min_size=size, max_size=size).map(Ip)


PORTS = st.integers(1, 65535)
PROTOS: st.SearchStrategy[Proto] = st.sampled_from([TCP, UDP, SCTP])
SERVERS = st.builds(
    Server,
    st.sampled_from(["rr", "wlc", "sh", "mh"]),
    st.just(0) | st.integers(1, 86400),
    st.booleans(),
)
DESTINATIONS = st.builds(Destination, st.just(1) | st.integers(0, 65535), st.sampled_from(METHODS))


@st.composite
def programs(draw: st.DrawFn, most: int = 4, *, few: bool = False) -> dict[Key, Object]:
    """Servers with destinations. `few`: of so few that two programs have some in common."""
    objects: dict[Key, Object] = {}
    for _ in range(draw(st.integers(0, most))):
        size = draw(st.sampled_from([4, 16]))
        addresses = st.sampled_from([Ip(bytes([10] * size)), Ip(bytes([11] * size))]) if few else ips(size)
        ports = st.sampled_from([80, 81]) if few else PORTS
        vip, proto, port = draw(addresses), draw(PROTOS), draw(ports)
        objects[server_key(vip, proto, port)] = draw(SERVERS)
        for _ in range(draw(st.integers(0, 3))):
            key = destination_key(vip, proto, port, draw(addresses), draw(ports))
            objects[key] = draw(DESTINATIONS) if not few else Destination(draw(st.integers(0, 2)))
    if draw(st.booleans()):
        objects[TIMEOUTS] = Timeouts(*(draw(st.integers(1, 10_000)) for _ in range(3)))
    return objects
