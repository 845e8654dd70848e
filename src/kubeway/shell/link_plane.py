"""
The link plane: a dummy link with the addresses of Services, local routes to them, and rules by which packets
are this node's, over netlink.

A write is many requests in a row and not atomic: what was done before a refusal stays done. Who else changes
the link is heard by a second socket, which is asked as often as the generation is.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Mapping, Sequence
from typing import Final

from kubeway.errors import KubewayError, Lost, Refused, Stale
from kubeway.planes.link import steering
from kubeway.planes.link.lift import host_routes, is_ours, lift, on_link
from kubeway.planes.link.lower import clear, lower, lower_link, needs_link, settle
from kubeway.planes.link.news import GROUPS, News
from kubeway.planes.link.objects import DEVICE, LINK, STEERING, TABLE, Alien, describe
from kubeway.planes.link.parcel import THERE, Parcel
from kubeway.program.program import Change, Key, Object
from kubeway.shell.netlink import NetlinkSocket
from kubeway.shell.netlink import describe as failure
from kubeway.shell.netlink_events import NetlinkEvents
from kubeway.values import Ip
from kubeway.wire import rtnetlink as wire
from kubeway.wire.netlink import Message, acked
from kubeway.wire.nfnetlink import number

_READ_TRIES: Final = 10
_AT_ONCE: Final = 1000  # requests in one send; the kernel's answers and events to them have room then

# The kernel makes its route to a new address of IPv6 in a worker of its own.
_PATIENCE: Final = 5.0
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


def probe() -> str:
    """What is the matter, in a sentence, where no dummy link can be made; "" where one can."""
    name = f"kubeway{os.getpid() & 0xFFFFFFFF:x}"
    try:
        with NetlinkSocket(wire.NETLINK_ROUTE) as netlink:
            if is_ours(_link(netlink, DEVICE)):
                return ""
            for request in (wire.new_dummy(name), wire.del_link(name)):
                for ack in netlink.transact(number([request], netlink.reserve(1))):
                    if ack.errno == errno.EOPNOTSUPP:
                        return "this kernel has no dummy links: load the module dummy (modprobe dummy)"
                    if ack.errno:
                        return f"cannot make a dummy link: {failure(ack)}"
    except KubewayError as error:
        return f"cannot make a dummy link: {error}"
    return ""


class LinkPlane:
    """The link `kube-ipvs0` of this network namespace. `program` is what is wanted. Needs CAP_NET_ADMIN."""

    def __init__(self, program: Mapping[Key, Object] | None = None) -> None:
        self.program: Mapping[Key, Object] = {} if program is None else program
        self._socket = NetlinkSocket(wire.NETLINK_ROUTE)
        try:
            self._socket.be_strict()
            self._events = NetlinkEvents(
                wire.NETLINK_ROUTE, GROUPS, wire.only_routes_of(wire.RT_TABLE_LOCAL, TABLE)
            )
        except BaseException:
            self._socket.close()
            raise
        self._news = News(self._socket.port)
        self._generation = 0

    def close(self) -> None:
        self._socket.close()
        self._events.close()

    def generation(self) -> int:
        """Another number after each write, and one more if anybody else has changed what we hold."""
        self._listen()
        self._generation += self._news.take()
        return self._generation

    def _listen(self) -> None:
        try:
            self._news.hear(self._events.heard())
        except Lost:
            self._news.missed()

    # --- reading ----------------------------------------------------------------------

    async def read(self) -> dict[Key, Object]:
        return await asyncio.to_thread(self.read_now)

    def read_now(self) -> dict[Key, Object]:
        """The link, its addresses and our routes. Stale if others keep changing them meanwhile."""
        self._listen()
        self._news.begin()
        link = self._link()
        addresses = self._dump(wire.addresses_request()) if link else []
        families = wire.AF_INET, wire.AF_INET6
        routes = [
            m for table in (wire.RT_TABLE_LOCAL, TABLE) for f in families for m in self._routes(f, table)
        ]
        rules = [m for family in families for m in self._of_family(family, wire.rules_request(family))]
        objects = lift(link, addresses, routes, self.program, rules)
        self._news.read(objects, link.ifindex if link and is_ours(link) else 0)
        return objects

    def bound(self) -> set[Ip]:
        """The addresses that are on the link now. Stale, Refused, Lost."""
        link = self._link()
        if link is None or not is_ours(link):
            return set()
        return {address.ip for address in on_link(self._dump(wire.addresses_request()), link.ifindex)}

    def _link(self) -> wire.Link | None:
        return _link(self._socket, DEVICE)

    def _routes(self, family: int, table: int = wire.RT_TABLE_LOCAL) -> list[Message]:
        try:
            return self._of_family(family, wire.routes_request(family, table))
        except Refused as error:
            if error.errno != errno.ENOENT:
                raise
            return []  # there never was such a table

    def _of_family(self, family: int, request: bytes) -> list[Message]:
        try:
            answers = self._dump(request)
        except Refused as error:
            if family == wire.AF_INET or error.errno == errno.ENOENT:
                raise
            return []  # a kernel without IPv6 has nothing of it
        # ... or tells of those of all families it has.
        return [m for m in answers if m.body[0] == family]

    def _dump(self, request: bytes) -> list[Message]:
        for _ in range(_READ_TRIES):
            try:
                return self._socket.dump(request)
            except Stale:
                continue
        raise Stale("addresses or routes changed while they were read, ten times in a row")

    # --- writing ----------------------------------------------------------------------

    async def write(self, changes: Sequence[Change]) -> None:
        # In a thread, however few they are: a new address of IPv6 has to be waited for.
        await asyncio.to_thread(self.write_now, changes)

    def write_now(self, changes: Sequence[Change]) -> None:
        """Make the changes in the order given; after Refused those before it were made, and some others."""
        self._news.writing(changes)
        try:
            self._write(changes)
        except BaseException:
            self._news.forget()
            raise
        finally:
            self._listen()
            self._generation += 1

    def _write(self, changes: Sequence[Change]) -> None:
        steered = [change for change in changes if change.key.kind in STEERING]
        self._send(steering.lower(steered))
        if len(steered) < len(changes):
            self._write_link([change for change in changes if change.key.kind not in STEERING])

    def _write_link(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.key == LINK and change.new is not None:
                self._make_link(change)
        link = self._link()
        index = link.ifindex if link and is_ours(link) else 0
        self._news.found(index)
        if not index:
            for change in changes:
                if change.key != LINK and needs_link(change):
                    raise self._refusal(change, f"there is no link {DEVICE}", errno.ENODEV)
        parcels = lower(changes, index)
        before = {parcel.data for parcel in self._send(parcels)}
        self._send(clear(changes, index))
        if index:
            fresh = {_ip(p) for p in parcels if p.well is THERE and p.data not in before}
            last = settle(changes, index, self._news.known)
            remade = {_ip(parcel) for parcel in last if parcel.well is THERE}
            self._news.remaking(remade)
            self._settle(last, fresh)
            without = {_ip(parcel) for parcel in last} - remade
            self._await_routes((fresh | remade) - without)
        if any(change.key == LINK and change.new is None for change in changes):
            self._news.found(0)

    def _make_link(self, change: Change) -> None:
        if isinstance(change.old, Alien):
            words = (
                f"there is a link of this name that is no dummy but {change.old.kind or 'a card'}; remove it"
            )
            raise self._refusal(change, words, errno.EEXIST)
        self._send_some([lower_link(change)])  # to be heard of when its index is known

    def _settle(self, parcels: Sequence[Parcel], fresh: set[Ip]) -> None:
        """Send them until none is left that comes too early: to an address that is new (`fresh`)."""
        until, pause = time.monotonic() + _PATIENCE, _FIRST_PAUSE
        while parcels:
            early = [p for p in self._send(parcels) if p.well is not THERE and _ip(p) in fresh]
            if not early or time.monotonic() > until:
                return  # what comes later than this is heard of
            time.sleep(pause)
            parcels, pause = early, min(2 * pause, _LONGEST_PAUSE)

    def _await_routes(self, ips: set[Ip]) -> None:
        """Until the kernel has made its own to these, so that they are found when next somebody looks."""
        missing = {ip for ip in ips if len(ip) == 16}
        until, pause = time.monotonic() + _PATIENCE, _FIRST_PAUSE
        while missing and time.monotonic() < until:
            missing -= {route.ip for route in host_routes(self._routes(wire.AF_INET6))}
            if missing:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _send(self, parcels: Sequence[Parcel]) -> list[Parcel]:
        """Those that were done before. Refused with the first that was refused, when it is over with all of
        its send."""
        done: list[Parcel] = []
        for start in range(0, len(parcels), _AT_ONCE):
            done += self._send_some(parcels[start : start + _AT_ONCE])
            self._listen()
        return done

    def _send_some(self, parcels: Sequence[Parcel]) -> list[Parcel]:
        first = self._socket.reserve(len(parcels))
        requests = [parcel.data for parcel in parcels]
        requests[-1] = acked(requests[-1])
        acks = self._socket.transact(number(requests, first))
        if not any(ack.sequence == first + len(parcels) - 1 for ack in acks):
            raise Lost("netlink: no answer to the last of several requests")
        done: list[Parcel] = []
        for ack in acks:
            parcel = parcels[ack.sequence - first]
            if ack.errno in parcel.well:
                done.append(parcel)
            elif ack.errno:
                raise self._refusal(parcel.change, failure(ack), ack.errno)
        return done

    def _refusal(self, change: Change, words: str, number: int) -> Refused:
        return Refused(words, number, describe(change, self.program), key=change.key)

    def remove(self, *, steering: bool = False) -> list[str]:
        """Take our routes and the link away, with every address on it; returns what that was, in words.

        `steering`: instead of them the rules and routes for packets with a mark.
        """
        program, self.program = self.program, {}
        try:
            objects = self.read_now()
        finally:
            self.program = program
        gone = [Change("del", key, obj, None) for key, obj in objects.items()]
        # The link last; addresses need not be asked for one by one.
        order = ("rule", "table") if steering else ("route", "link")
        self.write_now([change for kind in order for change in gone if change.key.kind == kind])
        words: list[str] = []
        if steering:
            return (
                ["rules and routes for steered packets"] if any(k.kind in STEERING for k in objects) else []
            )
        if LINK in objects:
            words.append(f"link {DEVICE} with {sum(key.kind == 'address' for key in objects)} addresses")
        if routes := sum(key.kind == "route" for key in objects):
            words.append(f"{routes} local routes to addresses of Services")
        return words


def _link(netlink: NetlinkSocket, name: str) -> wire.Link | None:
    try:
        return wire.read_link(netlink.ask(wire.link_request(name)))
    except Refused as error:
        if error.errno != errno.ENODEV:
            raise
        return None


def _ip(parcel: Parcel) -> Ip:
    ip: Ip = parcel.change.key.name[0]
    return ip
