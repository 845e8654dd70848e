"""
Answers to objects: what of a node's links, addresses and routes is ours, and whether it is as it has to be.

Ours are the link of our name if it is a dummy, all addresses on it but those that the kernel puts on every
link, and local routes that bear our mark.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Final

from kubeway.planes.link import steering
from kubeway.planes.link.objects import (
    LINK,
    METRIC,
    PROTOCOL,
    Address,
    Alien,
    Dummy,
    Mixed,
    Route,
    address_key,
    route_key,
)
from kubeway.program.program import Key, Object
from kubeway.values import Ip, parse_prefix
from kubeway.wire import rtnetlink as wire
from kubeway.wire.netlink import Message
from kubeway.wire.rtnetlink import IFA_F_DADFAILED, IFA_F_TENTATIVE, LOOPBACK, RT_TABLE_LOCAL, RTN_LOCAL

_DUMMY: Final = Dummy()
_ADDRESS: Final = Address()
_KERNELS: Final = tuple(map(parse_prefix, ("127.0.0.0/8", "::1/128", "fe80::/10")))


def lift(
    link: wire.Link | None,
    addresses: Iterable[Message],
    routes: Iterable[Message],
    wanted: Mapping[Key, Object],
    rules: Iterable[Message] = (),
) -> dict[Key, Object]:
    """`routes`: of each family, in the kernel's order, those of our own table last. A link of somebody
    else's is only told of if it is in the way of what is `wanted`."""
    routes = list(routes)
    objects: dict[Key, Object] = dict(steering.lift(rules, routes))
    index = 0
    if is_ours(link):
        objects[LINK] = _DUMMY
        index = link.ifindex if link else 0
    elif link and LINK in wanted:
        objects[LINK] = Alien(link.kind)
    table = host_routes(routes)
    objects.update(_addresses(on_link(addresses, index), {route.ip for route in table}))
    objects.update(_routes(table, index))
    return objects


def host_routes(answers: Iterable[Message]) -> list[wire.Route]:
    """Those that say what becomes of packets to a single address that may be this node's."""
    return [route for route in map(wire.read_route, answers) if route is not None and is_host_route(route)]


def is_ours(link: wire.Link | None) -> bool:
    return link is not None and link.kind == "dummy"


def on_link(addresses: Iterable[Message], index: int) -> Iterator[wire.Address]:
    """Those on the link that are ours: not what the kernel gives every link."""
    for answer in addresses:
        address = wire.read_address(answer)
        if address is not None and address.link == index and not is_kernels(address.ip):
            yield address


def is_kernels(ip: Ip) -> bool:
    """Whether the kernel gives addresses like this to links by itself."""
    return any(prefix.holds(ip) for prefix in _KERNELS)


def is_odd(address: wire.Address) -> bool:
    """Whether it is another than the one we would make: in another prefix, or not usable."""
    return address.length != len(address.ip) * 8 or bool(address.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED))


def _addresses(found: Iterable[wire.Address], local: Container[Ip]) -> Iterator[tuple[Key, Address]]:
    odd: dict[Ip, list[int]] = {}
    for address in found:
        lengths = odd.setdefault(address.ip, [])
        # One of IPv6 to which somebody deleted every route is this node's no more; it takes a new one.
        if is_odd(address) or (len(address.ip) == 16 and address.ip not in local):
            lengths.append(address.length)
    for ip, lengths in odd.items():
        yield address_key(ip), Address(tuple(lengths)) if lengths else _ADDRESS


def is_host_route(route: wire.Route) -> bool:
    """Whether it is in table local, to a single address, for packets of the usual kind."""
    return route.table == RT_TABLE_LOCAL and route.length == len(route.ip) * 8 and route.tos == 0


def _is_mine(route: wire.Route, index: int) -> bool:
    if route.protocol != PROTOCOL or route.kind != RTN_LOCAL:
        return False
    if len(route.ip) == 4:
        return route.source is not None and route.link == index != 0
    # One without a source would be replaced by ours, as both cannot be.
    return route.link == LOOPBACK and route.metric == METRIC


def _routes(table: Iterable[wire.Route], index: int) -> Iterator[tuple[Key, Route | Mixed]]:
    mine: dict[Ip, list[Ip | None]] = {}
    first: dict[Ip, wire.Route] = {}  # of IPv4: the one in force
    behind: set[Ip] = set()  # of IPv6: where the kernel's own is in force
    for route in table:
        first.setdefault(route.ip, route)
        if _is_mine(route, index):
            mine.setdefault(route.ip, []).append(route.source)
        elif len(route.ip) == 16 and route.link == index and route.metric < METRIC:
            behind.add(route.ip)
    made: dict[Ip, Route] = {}  # thousands of routes have one source
    for ip, sources in mine.items():
        ahead = _is_mine(first[ip], index) if len(ip) == 4 else ip not in behind
        known = [source for source in sources if source is not None]
        if ahead and len(sources) == len(known) == 1:
            yield route_key(ip), made.setdefault(known[0], Route(known[0]))
        else:
            yield route_key(ip), Mixed(tuple(known))
