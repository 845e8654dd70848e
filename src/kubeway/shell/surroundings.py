"""
What the links of our network namespace mean for the relay: asked of rtnetlink and /proc/sys, and heard of
when it may have changed.

Whether br_netfilter keeps bridged packets from later hooks depends on when its own was registered: with the
first bridge of a network namespace, or with the module if that comes later (net/bridge/br_netfilter_hooks.c,
brnf_device_event). Both are there from then on.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from kubeway.errors import Lost, Refused, Stale
from kubeway.model.addresses import is_link_local
from kubeway.model.links import Links, Neighbours
from kubeway.shell.netlink import NetlinkSocket
from kubeway.shell.netlink_events import NetlinkEvents
from kubeway.values import V4, V6, Ip, Prefix, disjoint, host_prefix
from kubeway.wire import rtnetlink as wire
from kubeway.wire.netlink import Message

SYSCTLS: Final = Path("/proc/sys/net")

_GROUPS: Final = wire.GROUP_LINK | wire.GROUP_V4_ADDRESS | wire.GROUP_V6_ADDRESS
_FAMILIES: Final = {V4: wire.AF_INET, V6: wire.AF_INET6}
_CALLS: Final = {V4: "bridge-nf-call-iptables", V6: "bridge-nf-call-ip6tables"}
_CONF: Final = "ipv4/conf"
_TRIES: Final = 5
_AF_UNSPEC: Final = b"\0"


class Surroundings:
    """Of the network namespace of the thread that makes it. `fileno` is readable when something was heard."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(wire.NETLINK_ROUTE)
        try:
            self._socket.be_strict()
            self._events = NetlinkEvents(wire.NETLINK_ROUTE, _GROUPS)
        except BaseException:
            self._socket.close()
            raise
        self._watched: frozenset[int] = frozenset((wire.LOOPBACK,))

    def close(self) -> None:
        self._socket.close()
        self._events.close()

    def fileno(self) -> int:
        return self._events.fileno()

    def heard(self) -> bool:
        """Whether what came since this was last asked is reason to look: of loopback, or of a bridge.

        Of routes and sysctls nothing is heard.
        """
        found = False
        try:
            for event in self._events.heard():
                found = self._matters(event) or found
        except Lost:
            return True
        return found

    def _matters(self, event: Message) -> bool:
        if event.kind in (wire.RTM_NEWADDR, wire.RTM_DELADDR):
            address = wire.read_address(event)
            return address is not None and address.link in self._watched
        if event.kind not in (wire.RTM_NEWLINK, wire.RTM_DELLINK) or event.body[:1].tobytes() != _AF_UNSPEC:
            return False
        return wire.read_link(event).kind == "bridge"

    def look(self, addresses: Collection[Ip]) -> Links:
        """How it is now. `addresses` are this node's own. Stale if links or routes changed during each of
        five readings; Refused, Lost."""
        for _ in range(_TRIES - 1):
            try:
                return self._look(addresses)
            except Stale:
                continue
        return self._look(addresses)

    def _look(self, addresses: Collection[Ip]) -> Links:
        found = map(wire.read_link, self._socket.dump(wire.links_request("bridge")))
        # Kernels before 4.20 tell of all links.
        bridges = [link for link in found if link.kind == "bridge"]
        self._watched = frozenset((wire.LOOPBACK, *(link.ifindex for link in bridges)))
        asking = _is_there("bridge")
        neighbours: list[Neighbours] = []
        for family, number in _FAMILIES.items():
            all_ask = asking and _value(f"bridge/{_CALLS[family]}")
            quiet = {one.ifindex for one in bridges if not (all_ask or (asking and number in one.asks))}
            if quiet:
                neighbours += neighbours_by(self._routes(number), quiet, addresses)
        return Links(
            families=frozenset((V4, V6)) if has_ipv6() else frozenset((V4,)),
            bridged=bool(asking and bridges),
            neighbours=tuple(sorted(neighbours)),
            marks_checked=any(
                _value(f"{_CONF}/{link}/src_valid_mark") for link in os.listdir(SYSCTLS / _CONF)
            ),
        )

    def _routes(self, family: int) -> Iterator[wire.Route]:
        try:
            answers = self._socket.dump(wire.routes_request(family, wire.RT_TABLE_MAIN))
        except Refused:
            if family == wire.AF_INET:
                raise
            return  # a kernel without IPv6
        for answer in answers:
            # Asked for IPv6, a kernel without it tells of all families; before 4.20 of all tables.
            route = wire.read_route(answer) if answer.body[0] == family else None
            if route is not None and route.table == wire.RT_TABLE_MAIN:
                yield route


def neighbours_by(
    routes: Iterable[wire.Route], quiet: Collection[int], addresses: Collection[Ip]
) -> Iterator[Neighbours]:
    """Who can reach whom on these bridges, by the prefixes that are on them without a router between.

    `routes`: of one family, in the table in which all are looked up. Hosts on a link are set up with the
    prefix that the node has for it. An address of the node's own is no neighbour: what it answers comes by
    here.
    """
    routes = [route for route in routes if route.kind == wire.RTN_UNICAST]
    for bridge in quiet:
        on_it = [
            _prefix(route) for route in routes if route.link == bridge and not route.via and _many(route)
        ]
        for prefix in disjoint(on_it):
            inside = (_prefix(one) for one in routes if one.link != bridge or one.via)
            without = {one for one in inside if prefix.covers(one) and one != prefix}
            without.update(host_prefix(ip) for ip in addresses if prefix.holds(ip))
            yield Neighbours(prefix, disjoint(list(without)))


def _many(route: wire.Route) -> bool:
    """Whether it is to more than one, and to fewer than all."""
    return 0 < route.length < len(route.ip) * 8 and not is_link_local(route.ip)


def _prefix(route: wire.Route) -> Prefix:
    return Prefix(route.ip, route.length)


def has_ipv6() -> bool:
    """Whether loopback has IPv6: else the kernel takes no route of that family to this node itself."""
    return _is_there("ipv6/conf/lo") and not _value("ipv6/conf/lo/disable_ipv6")


def _is_there(name: str) -> bool:
    return (SYSCTLS / name).exists()


def _value(name: str) -> int:
    """0 if there is no such setting."""
    try:
        return int((SYSCTLS / name).read_text())
    except FileNotFoundError:
        return 0
