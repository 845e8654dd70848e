"""
Events to whether something has changed: what the kernel tells of is held against what is known to be there.

An event that tells what is known already is no news, whoever caused it. So our own changes are none, though
the kernel does not say of all of them that they are ours, and tells of some of them later.

Each event is about one thing, and the last one about it tells how it is; so where what is known is not what
is there, some event says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Final

from kubeway.planes.link import steering
from kubeway.planes.link.lift import is_host_route, is_kernels, is_odd
from kubeway.planes.link.objects import (
    DEVICE,
    LINK,
    PROTOCOL,
    Address,
    address_key,
    place,
    route_key,
    table_key,
)
from kubeway.program.program import Change, Key, Object
from kubeway.values import V4, V6, Ip
from kubeway.wire import rtnetlink as wire
from kubeway.wire.netlink import Message
from kubeway.wire.rtnetlink import (
    GROUP_LINK,
    GROUP_V4_ADDRESS,
    GROUP_V4_ROUTE,
    GROUP_V4_RULE,
    GROUP_V6_ADDRESS,
    GROUP_V6_ROUTE,
    GROUP_V6_RULE,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_NEWADDR,
    RTM_NEWROUTE,
    RTPROT_KERNEL,
)

GROUPS: Final = (
    GROUP_LINK
    | (GROUP_V4_ADDRESS | GROUP_V6_ADDRESS)
    | (GROUP_V4_ROUTE | GROUP_V6_ROUTE)
    | (GROUP_V4_RULE | GROUP_V6_RULE)
)
"""What a socket has to listen to."""

_AF_UNSPEC: Final = b"\0"


class News:
    """`port` is that of the socket by which we make changes.

    Before anything is known, all that is about our link is news.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._link = 0
        self._known: MutableMapping[Key, Object] | None = None
        self._ahead: set[Ip] = set()  # of IPv6: where the kernel has made its own route since
        self._remade: set[Ip] = set()  # of IPv6: what we are about to take away and give back
        self._heard = False

    @property
    def known(self) -> Mapping[Key, Object]:
        """What is there, as far as known."""
        return self._known or {}

    def read(self, objects: Mapping[Key, Object], link: int) -> None:
        """This is there, and was when `begin` was called. `link`: the index of ours, 0 if there is none."""
        self._known, self._link = dict(objects), link

    def begin(self) -> None:
        """What was heard until now is part of what will be `read`."""
        self._ahead.clear()
        self._remade.clear()
        self._heard = False

    def writing(self, changes: Iterable[Change]) -> None:
        """These are about to be made; `forget` if they are not."""
        known = self._known
        if known is None:
            known = self._known = {}
        for change in changes:
            if change.new is not None:
                known[change.key] = change.new
                continue
            known.pop(change.key, None)
            if change.key == LINK:
                for key in [key for key in known if place(key) == LINK]:
                    del known[key]

    def remaking(self, ips: Iterable[Ip]) -> None:
        """These addresses are about to be deleted and made anew."""
        self._remade.update(ips)

    def found(self, link: int) -> None:
        """The index of our link is this now, 0 if there is none."""
        self._link = link

    def forget(self) -> None:
        """Nobody knows what is there."""
        self._known = None

    def missed(self) -> None:
        """There were events that nobody heard."""
        self._heard = True

    def take(self) -> bool:
        """Whether there was any news since this was last asked."""
        heard = self._heard or any(self._holds(route_key(ip)) for ip in self._ahead)
        self._heard = False
        self._ahead.clear()
        return heard

    def hear(self, events: Iterable[Message]) -> None:
        for event in events:
            if not self._heard or event.kind in (RTM_NEWROUTE, RTM_DELROUTE):
                self._heard = self._is_news(event) or self._heard

    def _is_news(self, event: Message) -> bool:
        match event.kind:
            case wire.RTM_NEWROUTE | wire.RTM_DELROUTE:
                return self._is_route_news(event)
            case wire.RTM_NEWRULE | wire.RTM_DELRULE:
                return event.port != self._port and self._is_rule_news(event)
            case wire.RTM_NEWADDR | wire.RTM_DELADDR:
                return event.port != self._port and self._is_address_news(event)
            case wire.RTM_NEWLINK | wire.RTM_DELLINK:
                # A bridge tells of its ports in messages of its own family.
                return event.body[:1].tobytes() == _AF_UNSPEC and self._is_link_news(event)
            case _:
                return False

    def _holds(self, key: Key) -> bool:
        return self._known is None or key in self._known

    def _is_link_news(self, event: Message) -> bool:
        link = wire.read_link(event)
        if link.name != DEVICE and (not self._link or link.ifindex != self._link):
            return False
        if self._known is None:
            return True
        there = LINK in self._known and link.ifindex == self._link
        return there if event.kind == RTM_DELLINK else not (there and link.name == DEVICE)

    def _is_address_news(self, event: Message) -> bool:
        address = wire.read_address(event)
        if address is None or not self._link or address.link != self._link or is_kernels(address.ip):
            return False
        if self._known is None:
            return True
        if event.kind == RTM_DELADDR and address.ip in self._remade:
            self._remade.discard(address.ip)
            return False
        held = self._known.get(address_key(address.ip))
        if not isinstance(held, Address):
            return event.kind == RTM_NEWADDR
        there = address.length in held.odd if is_odd(address) else len(address.ip) * 8 not in held.odd
        return there == (event.kind == RTM_DELADDR)

    def _is_rule_news(self, event: Message) -> bool:
        rule = wire.read_rule(event)
        if rule is None or rule.protocol != PROTOCOL:
            return False
        key = steering.key_of(rule)
        held = self._holds(key) and rule == steering.wanted(key)
        return held == (event.kind == RTM_DELRULE) or self._known is None

    def _is_route_news(self, event: Message) -> bool:
        mine = event.port == self._port
        if mine and event.kind == RTM_NEWROUTE:
            return False
        route = wire.read_route(event)
        if route is not None and steering.is_homeward(route):
            held = self._holds(table_key(V4 if len(route.ip) == 4 else V6))
            return not mine and held == (event.kind == RTM_DELROUTE)
        if route is None or not is_host_route(route):
            return False
        if route.protocol != RTPROT_KERNEL:
            known = self._holds(route_key(route.ip)) or self._holds(address_key(route.ip))
            return not mine and (known or route.protocol == PROTOCOL)
        # The kernel's own of IPv4 come after ours; those of IPv6 before, and where there is none, alone.
        if len(route.ip) == 4 or route.link != self._link:
            return False
        if event.kind == RTM_NEWROUTE:
            self._ahead.add(route.ip)
            return False
        self._ahead.discard(route.ip)
        return not mine and self._holds(address_key(route.ip)) and not self._holds(route_key(route.ip))
