"""
From changes to the messages that make them: objects in, netlink bytes out.

One message a change, in the order of the changes: the kernel takes them one by one, and a refused one does
not keep it from the next. So a refusal finds its change by the number of its message.

To take a destination away is not always a deletion: `arrange` says which changes the kernel is to be told
instead. `lift` is the opposite of `lower`. This file knows no Service and opens no socket.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from errno import EEXIST, ENOENT, ESRCH
from typing import Final, NamedTuple

from kubeway.planes.ipvs.objects import (
    FALLING_BACK,
    METHODS,
    Destination,
    Server,
    Timeouts,
    drains,
    server_of,
)
from kubeway.program.program import Change, Key, Object
from kubeway.wire import ipvs as wire

STILL: Final = Destination(0)
"""A destination that keeps its flows and gets no new one."""

_METHOD: Final = {method: number for number, method in enumerate(METHODS)}
_GONE: Final = (ENOENT, ESRCH)


class Arranged(NamedTuple):
    """`changes` to tell the kernel, and of those the destinations that are to drain (`leaving`)."""

    changes: list[Change]
    leaving: list[Key]


def arrange(changes: Iterable[Change], draining: Container[Key], program: Mapping[Key, Object]) -> Arranged:
    """What to tell the kernel so that no flow is cut that could end by itself. `program`: what is wanted.

    A destination that goes while its server stays gets weight 0 at first, but for one of UDP, whose flows
    have no end, and of a scheduler that has no use for that (`objects.drains`). One that comes back while it
    drains (`draining`) is there still, and gets its weight. With a server its destinations go, so they are
    not told. Those that get weight 0 come last, so that there are others by then. Timeouts stay as they are
    when nobody wants them.
    """
    changes = list(changes)
    gone = {c.key.name for c in changes if c.verb == "del" and c.key.kind == "server"}
    told: list[Change] = []
    stopped: list[Change] = []
    leaving: list[Key] = []
    for change in changes:
        verb, key = change.verb, change.key
        if verb == "del" and key.kind == "timeouts":
            continue
        if key.kind == "destination":
            if verb == "del":
                if gone and key.name[:3] in gone:
                    continue
                server = program.get(server_of(key))
                if drains(key.name[1], server.scheduler if isinstance(server, Server) else ""):
                    leaving.append(key)
                    change = Change("set", key, change.old, STILL)
            elif verb == "add" and key in draining:
                change = Change("set", key, STILL, change.new)
        (stopped if _stops(change) else told).append(change)
    return Arranged(told + stopped, leaving)


def _stops(change: Change) -> bool:
    """Whether a destination gets no new flows any more."""
    new = change.new
    return change.verb == "set" and isinstance(new, Destination) and not new.weight


def lower(changes: Sequence[Change], family: int) -> list[bytes]:
    """The message of each change. `family`: the number of ip_vs among the families of generic netlink.

    Timeouts cannot be deleted.
    """
    messages: list[bytes] = []
    put = messages.append
    for change in changes:
        new, name = change.new, change.key.name
        if isinstance(new, Destination):
            command = wire.NEW_DEST if change.verb == "add" else wire.SET_DEST
            put(wire.destination(family, command, name, new.weight, _METHOD[new.method]))
        elif isinstance(new, Server):
            command = wire.NEW_SERVICE if change.verb == "add" else wire.SET_SERVICE
            put(wire.service(family, command, name, new.scheduler, flags_of(new), new.persistence))
        elif isinstance(new, Timeouts):
            put(wire.set_timeouts(family, new.tcp, new.tcp_fin, new.udp))
        else:
            assert new is None, new
            gone = wire.del_destination if change.key.kind == "destination" else wire.del_service
            put(gone(family, name))
    return messages


def flags_of(server: Server) -> int:
    """The kernel's flags of a server as wanted."""
    return (
        (wire.F_PERSISTENT if server.persistence else 0)
        | (wire.F_SCHED1 if server.scheduler in FALLING_BACK else 0)
        | (wire.F_SCHED2 if server.source_port else 0)
    )


def instead(change: Change, errno: int) -> Change | None:
    """The change that leads to the same end where this one was refused with `errno`; None: there is none.

    What is there already is set, what is gone is added. A destination whose server is gone is tried once
    more, as that may be added now.
    """
    if change.verb == "add" and errno == EEXIST:
        return Change("set", change.key, change.new, change.new)
    if change.verb == "set" and errno == (ESRCH if change.key.kind == "server" else ENOENT):
        return Change("add", change.key, None, change.new)
    if change.verb != "del" and change.key.kind == "destination" and errno == ESRCH:
        return Change("add", change.key, None, change.new)
    return None


def is_done(change: Change, errno: int) -> bool:
    """Whether a change that was refused with `errno` is as good as made: what is gone need not go."""
    return change.verb == "del" and errno in _GONE
