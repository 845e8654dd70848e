"""
A worker: a process that accepts connections and carries bytes, told by the control process what ways there
are.

    python -m kubeway.shell.relay.worker CHANNEL BEGIN

both being descriptors it inherits: a socket to the control process, and a file of what to begin with
(`orders`). When the control process is gone it goes on by the ways it knows until it is succeeded
(`succession`). If there is no way to be succeeded, it takes nobody any more, and ends with the last
connection, or when that is to last no longer (`Limits.drain`).

It imports little, as there are several of it.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from _socket import AF_UNIX, MSG_DONTWAIT, MSG_NOSIGNAL, SOCK_STREAM, socket
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from random import Random
from select import EPOLLOUT
from typing import Final

from kubeway.planes.relay.datagram import MOST, TURNS, Sessions
from kubeway.planes.relay.entrance import Entrance, Tally
from kubeway.planes.relay.objects import Endpoint, Way
from kubeway.planes.relay.ports import PORTS
from kubeway.shell.relay import datagrams
from kubeway.shell.relay.datagrams import Datagrams, Line
from kubeway.shell.relay.loop import LEVEL, Handler, Loop
from kubeway.shell.relay.orders import (
    Answer,
    Ask,
    Begin,
    Done,
    Given,
    Memory,
    Name,
    Order,
    Put,
    Stop,
    Sums,
    Told,
    frame,
    orders,
)
from kubeway.shell.relay.streams import Connection, Listener, Streams, Ways, owner_of, place_of
from kubeway.shell.relay.succession import Succession
from kubeway.values import TCP, UDP, Ip, Proto

_READ: Final = 1 << 16
# Seconds between two looks at whether all have ended: a part of the time for which that was looked for.
_LOOK: Final = 0.25
_SELDOM: Final = 5.0
_PART: Final = 20

_NOWHERE: Final = Way(())


class Worker:
    """`channel`: to the control process."""

    def __init__(self, channel: socket, begin: Begin) -> None:
        self.loop = Loop(_crashed)
        self.streams = Streams(self.loop, Random(), begin.limits, begin.mark)
        self.entrances: dict[Name, Entrance] = {}
        self._ways: dict[tuple[str, int], Ways] = defaultdict(dict)  # by list and protocol
        self._gone = {TCP: Tally(), UDP: Tally()}
        """What was carried by ways that are no more."""
        self._leaving: dict[Entrance, int] = {}
        """Such ways, with their protocol, that still have connections."""
        self._limits, self._start = begin.limits, begin.start
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        ports = PORTS[begin.turn :: TURNS][begin.number :: begin.workers]
        sessions = Sessions(min(MOST, descriptors // 2), idle=begin.idle, ports=ports)
        self.datagrams = Datagrams(self.loop, Random(), sessions, self.streams.make_room, begin.mark)
        self._given = begin.listeners
        self._listeners: dict[int, Listener | datagrams.Listener] = {}  # by descriptor
        self._channel = channel
        self._frames = orders()
        self._unsent = b""
        self._ends_at: float | None = None
        self._stopped_at = 0.0
        self.succession = Succession(self, begin, begin.papers) if begin.papers is not None else None

    def _listener(self, one: Given) -> Listener | datagrams.Listener:
        sock, ways = socket(fileno=one.fd), self._ways[one.list_, one.proto]
        if one.proto == UDP:
            return datagrams.Listener(sock, ways, one.keeps, self.datagrams)
        return Listener(sock, ways, one.keeps, self.streams)

    def open(self) -> None:
        """Take connections from now on, or when it is this one's turn to."""
        self.loop.watch(self._channel.fileno(), self._heard, LEVEL)
        if self.succession is None:
            self.serve(self._given)
        else:
            self.succession.open()
        self._say(Done(0))

    def serve(self, given: Iterable[Given]) -> None:
        """Take those who come by these, too."""
        for one in given:
            if one.fd not in self._listeners:
                listener = self._listeners[one.fd] = self._listener(one)
                listener.open()

    def close_listeners(self) -> set[int]:
        """Take who waits, and then nobody any more. Returns the descriptors; the round's end closes them."""
        closed = set(self._listeners)
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        return closed

    # --- ways -------------------------------------------------------------------------

    def put(self, ways: Iterable[tuple[Name, Way | None]]) -> None:
        gone: set[tuple[Entrance, Endpoint]] = set()
        came: set[tuple[Entrance, Endpoint]] = set()
        changed = []
        for name, way in ways:
            entrance = self.entrances.get(name)
            list_, ip, proto, port = name
            if entrance is None:
                if way is None:
                    continue
                entrance = self.entrances[name] = Entrance(way, self._start)
                self._ways[list_, proto][place_of(Ip(ip), port)] = entrance
                continue
            before = frozenset(entrance.way.endpoints)
            left = entrance.become(way or _NOWHERE)
            if proto == UDP:
                self.datagrams.left(entrance, left)
            gone |= {(entrance, one) for one in left}
            came |= {(entrance, one) for one in entrance.way.endpoints if one not in before}
            changed.append(entrance)
            if way is None:
                del self.entrances[name]
                del self._ways[list_, proto][place_of(Ip(ip), port)]
                self._leaving[entrance] = proto
        if gone or came:
            self.streams.changed(gone, came)
        for entrance in changed:
            if entrance.waiting:
                self.streams.wake(entrance)
        if self._leaving:
            self._settle()

    # --- what was carried ---------------------------------------------------------------

    def _settle(self) -> None:
        """Put down what ways have carried that are no more and have no connections any more."""
        for entrance, proto in [*self._leaving.items()]:
            if not entrance.busy:
                self._gone[Proto(proto)].add(entrance.tally)
                del self._leaving[entrance]

    def _sums(self) -> Sums:
        found = {proto: Tally() for proto in self._gone}
        waiting = 0
        for proto, tally in self._gone.items():
            found[proto].add(tally)
        # Of most ways nobody on this node makes use.
        used = [(name[2], one) for name, one in self.entrances.items() if one.tally.connections]
        for number, one in [*used, *((proto, one) for one, proto in self._leaving.items())]:
            found[Proto(number)].add(one.tally)
            waiting += len(one.waiting)
        return Sums(
            found[TCP],
            found[UDP],
            self.streams.shed + self.datagrams.sessions.shed,
            self.datagrams.lost,
            len(self.streams.all),
            waiting,
            len(self.datagrams.sessions),
        )

    # --- the control process --------------------------------------------------------------

    def _heard(self, event: int) -> None:
        try:
            if event & EPOLLOUT:
                self._flush()
            data = self._channel.recv(_READ, MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.loop.unwatch(self._channel.fileno())
            self._unsent = b""
            if self.succession is None:
                self.stop(self._limits.drain)
            else:
                self.succession.orphaned()
            return
        for order in self._frames.feed(data):
            self.obey(order)

    def obey(self, order: Order | Answer) -> None:
        if isinstance(order, Put):
            self.put(order.ways)
            self._say(Done(order.number))
        elif isinstance(order, Ask):
            self.streams.count()
            self._settle()
            each = self.entrances.items() if order.ways else ()
            tallies = [(name, entrance.tally) for name, entrance in each]
            self._say(Told(order.number, tallies, self._sums()))
        elif isinstance(order, Stop):
            self._say(Done(order.number))
            if self.succession is not None:
                self.succession.leave()
            self.stop(order.patience)

    def _say(self, answer: Answer) -> None:
        self._unsent += frame(answer)
        self._flush()

    def _flush(self) -> None:
        try:
            sent = self._channel.send(self._unsent, MSG_DONTWAIT | MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # it is gone, as will be told
        self._unsent = self._unsent[sent:]
        if self._channel.fileno() in self.loop.handlers:
            self.loop.rewatch(self._channel.fileno(), LEVEL | (EPOLLOUT if self._unsent else 0))

    # --- who comes after --------------------------------------------------------------------

    def memory(self) -> Memory:
        """Who is to come back to which endpoint."""
        memory: Memory = []
        for name, entrance in self.entrances.items():
            if known := entrance.balancer.known():
                memory.append((name, [(bytes(client), one, at) for client, one, at in known]))
        return memory

    def recall(self, memory: Memory) -> None:
        for name, known in memory:
            entrance = self.entrances.get(name)
            if entrance is not None:
                entrance.balancer.recall((Ip(client), one, at) for client, one, at in known)

    # --- the end ------------------------------------------------------------------------

    def stop(self, patience: float) -> None:
        """Take nobody any more; end with the last connection, or after so many seconds.

        UDP sessions end with the last of their answers, or with the time that endpoints have which left. Who
        waits for an endpoint is let go: nobody tells of one any more.
        """
        self.close_listeners()
        self.streams.dismiss()
        now = self.loop.now
        if self._ends_at is None:
            self._stopped_at = now
            self.datagrams.retire()
        self._ends_at = min(now + patience, inf if self._ends_at is None else self._ends_at)
        self.tick(now)

    def tick(self, now: float) -> None:
        """Look whether this is the end."""
        if self._ends_at is None:
            return
        if len(self.datagrams.sessions) and now >= self._stopped_at + self._limits.drain:
            self.datagrams.close()
        if now >= self._ends_at or not (self.streams.all or len(self.datagrams.sessions)):
            # Who is cut off is to know that it was: the end of a process alone looks like the end of a text.
            for connection in [*self.streams.all]:
                connection.obey(connection.stream.shed())
            self.loop.stop()
        else:
            pause = min(_SELDOM, max(_LOOK, (now - self._stopped_at) / _PART))
            self.loop.at(min(now + pause, self._ends_at), self)


def _crashed(handler: Handler) -> None:
    owner = owner_of(handler) or getattr(handler, "__self__", None)
    if isinstance(owner, Connection | Line):
        owner.crashed()


def main(channel: int, begin: int) -> None:
    """Until told to stop."""
    # A terminal or a service manager may send these to all processes. How long connections may go on is the
    # control process's to say, which hears them too. What follows from that is the succession's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with open(begin, "rb") as file:
        file.seek(0)
        first, *more = orders().feed(file.read())
    assert isinstance(first, Begin)
    worker = Worker(socket(AF_UNIX, SOCK_STREAM, 0, channel), first)
    for order in more:
        assert isinstance(order, Put)
        worker.put(order.ways)
    if worker.succession is not None:
        signal.signal(signal.SIGTERM, worker.succession.terminate)
    # What is there now stays. What comes later names nothing in a circle, so it goes as soon as nobody has
    # it, and no connection ever waits for a collection.
    gc.collect()
    gc.freeze()
    gc.disable()
    worker.open()
    worker.loop.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    # There is nothing to be tidied.
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(0)
