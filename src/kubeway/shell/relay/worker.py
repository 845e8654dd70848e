"""
A worker: a process that accepts connections and carries bytes, told by the control process what ways there
are.

    python -m kubeway.shell.relay.worker CHANNEL BEGIN

both being descriptors it inherits: a socket to the control process, and a file of what to begin with
(`orders`). When the control process is gone it takes nobody any more, and ends with the last connection, or
when that is to last no longer (`Limits.drain`).

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
from random import Random
from select import EPOLLOUT
from typing import Final

from kubeway.planes.relay.datagram import MOST, PORTS, Sessions
from kubeway.planes.relay.entrance import Entrance
from kubeway.planes.relay.objects import Endpoint, Way
from kubeway.shell.relay import datagrams
from kubeway.shell.relay.datagrams import Datagrams, Line
from kubeway.shell.relay.loop import LEVEL, Handler, Loop
from kubeway.shell.relay.orders import (
    Answer,
    Ask,
    Begin,
    Done,
    Given,
    Name,
    Order,
    Put,
    Stop,
    Told,
    frame,
    orders,
)
from kubeway.shell.relay.streams import Connection, Listener, Streams, Ways, owner_of, place_of
from kubeway.values import UDP, Ip

_READ: Final = 1 << 16
_LOOK: Final = 0.25  # seconds between two looks at whether all have ended

_NOWHERE: Final = Way(())


class Worker:
    """`channel`: to the control process."""

    def __init__(self, channel: socket, begin: Begin) -> None:
        self.loop = Loop(_crashed)
        self.streams = Streams(self.loop, Random(), begin.limits)
        self.entrances: dict[Name, Entrance] = {}
        self._ways: dict[tuple[str, int], Ways] = defaultdict(dict)  # by list and protocol
        self._limits, self._start = begin.limits, begin.start
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        ports = PORTS[begin.number :: begin.workers]
        sessions = Sessions(min(MOST, descriptors // 2), idle=begin.idle, ports=ports)
        self.datagrams = Datagrams(self.loop, Random(), sessions, self.streams.make_room)
        self._listeners = [self._listener(one) for one in begin.listeners]
        self._channel = channel
        self._frames = orders()
        self._unsent = b""
        self._ends_at: float | None = None

    def _listener(self, one: Given) -> Listener | datagrams.Listener:
        sock, ways = socket(fileno=one.fd), self._ways[one.list_, one.proto]
        if one.proto == UDP:
            return datagrams.Listener(sock, ways, one.keeps, self.datagrams)
        return Listener(sock, ways, one.keeps, self.streams)

    def open(self) -> None:
        """Take connections from now on."""
        for listener in self._listeners:
            listener.open()
        self.loop.watch(self._channel.fileno(), self._heard, LEVEL)
        self._say(Done(0))

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
        if gone or came:
            self.streams.changed(gone, came)
        for entrance in changed:
            if entrance.waiting:
                self.streams.wake(entrance)

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
            self.stop(self._limits.drain)
            return
        for order in self._frames.feed(data):
            self.obey(order)

    def obey(self, order: Order | Answer) -> None:
        if isinstance(order, Put):
            self.put(order.ways)
            self._say(Done(order.number))
        elif isinstance(order, Ask):
            self.streams.count()
            tallies = [(name, entrance.tally) for name, entrance in self.entrances.items()]
            shed = self.streams.shed + self.datagrams.sessions.shed
            sessions, lost = len(self.datagrams.sessions), self.datagrams.lost
            self._say(Told(order.number, tallies, len(self.streams.all), shed, sessions, lost))
        elif isinstance(order, Stop):
            self._say(Done(order.number))
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

    # --- the end ------------------------------------------------------------------------

    def stop(self, patience: float) -> None:
        """Take nobody any more; end with the last connection, or after so many seconds."""
        for listener in self._listeners:
            listener.close()
        self._ends_at = self.loop.now + patience
        self.tick(self.loop.now)

    def tick(self, now: float) -> None:
        """Look whether this is the end."""
        if self._ends_at is not None and (now >= self._ends_at or not self.streams.all):
            self.loop.stop()
        else:
            self.loop.at(now + _LOOK, self)


def _crashed(handler: Handler) -> None:
    owner = owner_of(handler) or getattr(handler, "__self__", None)
    if isinstance(owner, Connection | Line):
        owner.crashed()


def main(channel: int, begin: int) -> None:
    """Until told to stop."""
    # A terminal or a service manager may send these to all processes. How long connections may go on is the
    # control process's to say, which hears them too.
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
    # What is there now stays. What comes later names nothing in a circle, so it goes as soon as nobody has
    # it, and no connection ever waits for a collection.
    gc.collect()
    gc.freeze()
    gc.disable()
    worker.open()
    worker.loop.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    # Whoever is still connected is reset or told the end by the kernel; there is nothing to be tidied.
    sys.stderr.flush()
    os._exit(0)
