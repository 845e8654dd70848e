"""
From what ip_vs tells to objects, and which of them are ours.

Servers come from a dump, as only that tells their flags. Where their destinations come from is left to who
asks. Netlink tells those of one server at a time, and to ask 10,000 servers for five each took four times as
long in a User-mode Linux 6.1 as to read all in the kernel's list (/proc/net/ip_vs; some 2 s to 0.5 s, parsing
included in both). But a list passes servers over where another network namespace has some (seen on 6.1:
where one read of it ends and the next begins, the kernel counts in two ways), and a dump does where
servers of whatever namespace go meanwhile. So the list is taken for what it has, and netlink asked for the
rest; and that the dump is whole is judged by what else is known (`Told.fits`).

What the list does not tell of a destination, a threshold of connections, is never set here, and is not seen
where others set one. This file knows no Service and opens no socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from kubeway.planes.ipvs.lower import flags_of
from kubeway.planes.ipvs.objects import (
    FALLING_BACK,
    METHODS,
    PLANE,
    TIMEOUTS,
    Destination,
    Server,
    Timeouts,
    drains,
)
from kubeway.program.program import Key, Object
from kubeway.values import Ip
from kubeway.wire import ipvs as wire
from kubeway.wire.netlink import Message

Name = tuple[Ip, int, int]
"""A server's address, protocol and port."""

Ours = Callable[[Ip, int, int], bool]
"""Whether a server of this address, protocol and port, which nobody wants, is one of ours all the same."""


class Told(NamedTuple):
    """What a dump told of servers: of each by name what is set, and how many a packet mark calls."""

    servers: dict[Name, wire.Settings]
    marks: int

    def fits(self, count: int) -> bool:
        """Whether the kernel may have `count` IPv4 servers; no family is told of those with a mark."""
        some = sum(len(name[0]) == 4 for name in self.servers)
        return some <= count <= some + self.marks

    def ours(self, wanted: Mapping[Key, Object], ours: Ours) -> dict[Name, wire.Settings]:
        """Those `wanted`, and of the others those that are `ours`."""
        return {
            name: settings
            for name, settings in self.servers.items()
            if Key(PLANE, "server", name) in wanted or ours(*name)
        }


class Lifted(NamedTuple):
    """`draining`: destinations of ours that are on their way out, which are no objects."""

    objects: dict[Key, Object]
    draining: list[Key]


def read_servers(answers: Iterable[Message]) -> Told:
    """The answers to `wire.get_services`."""
    servers: dict[Name, wire.Settings] = {}
    marks = 0
    for m in answers:
        if (found := wire.read_service(m)) is None:
            marks += 1
        else:
            servers[found[0]] = found[1]
    return Told(servers, marks)


def lift(
    servers: Mapping[Name, wire.Settings],
    destinations: Mapping[Name, Iterable[wire.Destination]],
    wanted: Mapping[Key, Object],
) -> Lifted:
    """Our servers with their destinations, of which those of all servers are given.

    A destination of weight 0 that is not wanted, of a server that is, is draining, where such drain.
    """
    objects: dict[Key, Object] = {}
    draining: list[Key] = []
    for name, settings in servers.items():
        key = Key(PLANE, "server", name)
        objects[key] = _server(settings, len(name[0]))
        graceful = key in wanted and drains(name[1], settings.scheduler)
        for ip, port, method, weight, _ in destinations[name]:
            inner = Key(PLANE, "destination", (*name, ip, port))
            if weight == 0 and graceful and inner not in wanted:
                draining.append(inner)
            else:
                objects[inner] = _destination(weight, method)
    return Lifted(objects, draining)


def lift_timeouts(m: Message, wanted: Mapping[Key, Object]) -> dict[Key, Object]:
    """The timeouts, if any are wanted. One of which is wanted that it be left as it is is told as that."""
    want = wanted.get(TIMEOUTS)
    if not isinstance(want, Timeouts):
        return {}
    are = wire.read_timeouts(m)
    return {
        TIMEOUTS: Timeouts(
            are.tcp if want.tcp else 0, are.tcp_fin if want.tcp_fin else 0, are.udp if want.udp else 0
        )
    }


@lru_cache(1 << 10)
def _server(settings: wire.Settings, size: int) -> Server:
    flags = settings.flags & ~wire.F_HASHED
    server = Server(
        settings.scheduler,
        settings.timeout if flags & wire.F_PERSISTENT else 0,
        bool(flags & wire.F_SCHED2),
    )
    if settings.netmask == wire.plain(size) and not settings.engine and flags == flags_of(server):
        return server
    return Server(server.scheduler, server.persistence, server.source_port, _other(settings, flags, size))


def _other(settings: wire.Settings, flags: int, size: int) -> str:
    """What of a server is set that is never set here, or the other way round."""
    words = []
    if settings.netmask != wire.plain(size):
        words.append(f"netmask {settings.netmask.hex()}")
    if settings.engine:
        words.append(f"engine {settings.engine}")
    if flags & wire.F_PERSISTENT and not settings.timeout:
        words.append("persistent for no time")
    if flags & wire.F_ONEPACKET:
        words.append("one packet")
    if bool(flags & wire.F_SCHED1) is not (settings.scheduler in FALLING_BACK):
        words.append("flag 1" if flags & wire.F_SCHED1 else "no fallback")
    if rest := flags & ~(wire.F_PERSISTENT | wire.F_ONEPACKET | wire.F_SCHED1 | wire.F_SCHED2):
        words.append(f"flags {rest:#x}")
    return ", ".join(words)


@lru_cache(1 << 10)
def _destination(weight: int, method: int) -> Destination:
    # A method that the kernel has not had so far is none of ours, whichever it is.
    return Destination(weight, METHODS[method] if method < len(METHODS) else METHODS[-1])
