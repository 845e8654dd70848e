"""
TCP connections: accepted, connected to an endpoint, and joined, as their machine says
(`planes/relay/stream.py`). Bytes are `carry`'s.

Source for what sockets do: tcp(7), ip(7), net/ipv4/tcp.c, net/ipv4/af_inet.c.
"""

from __future__ import annotations

import errno
import os
from _socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IP,
    IPPROTO_TCP,
    SHUT_WR,
    SO_KEEPALIVE,
    SO_MARK,
    SO_REUSEADDR,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_QUICKACK,
    inet_ntop,
    inet_pton,
    socket,
)
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from heapq import nsmallest
from math import inf
from select import EPOLLERR, EPOLLHUP
from typing import Final

from kubeway.machines.pacer import Rng
from kubeway.planes.relay.entrance import Entrance
from kubeway.planes.relay.objects import ANY, Endpoint
from kubeway.planes.relay.ports import Turn
from kubeway.planes.relay.stream import CLOSE, JOIN, WAIT, Command, Connect, HalfClose, Limits, State, Stream
from kubeway.shell.relay.carry import NO_SIDE, Side, reset_on_close
from kubeway.shell.relay.loop import BOTH, LEVEL, READ, Handler, Loop
from kubeway.shell.relay.pipes import Pipes
from kubeway.shell.relay.transparent import transparent
from kubeway.values import V4, V6, Ip, show_ip

IP_BIND_ADDRESS_NO_PORT: Final = 24

KEEPALIVE: Final = ((TCP_KEEPIDLE, 15), (TCP_KEEPINTVL, 15), (TCP_KEEPCNT, 9))
"""Seconds, seconds and a number: both sides are asked whether they still live. As Go's net package does."""

_AF: Final = {V4: AF_INET, V6: AF_INET6}
_STREAM: Final = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC
_BACKLOG: Final = 4096
_MOST_AT_ONCE: Final = 64  # accepted, before others have their turn
# Timers cannot be taken back. So that who has ended is not kept in mind for long after, nobody is looked at
# later than in as long as it has lived, however late something is due.
_SOON: Final = 0.3  # seconds, the least
_SELDOM: Final = 60.0  # and the most
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_GONE: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.EPERM})
_NO_PORT: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})
_OURS: Final = _NO_DESCRIPTORS | _NO_PORT | {errno.EAGAIN}
"""Errors of a connect that are not the endpoint's, nor the way's there."""
_PAUSE: Final = 0.1  # seconds for which nobody is taken when nobody can be
_SHED_SHARE: Final = 32  # one of so many connections is let go when there are no descriptors left
_SHED_IDLE: Final = 1.0  # seconds; none that moved later is

Ways = dict[tuple[str, int], Entrance]
"""By address (as text, as `getsockname` has it) and port."""


def place_of(ip: Ip, port: int) -> tuple[str, int]:
    return inet_ntop(AF_INET if len(ip) == 4 else AF_INET6, ip), port


_ANYWHERE: Final = {_AF[family]: place_of(ip, 0)[0] for family, ip in ANY.items()}


class Streams:
    """All connections of this process. `limits`: of each (`planes/relay/stream.py`). `mark`: of the packets
    to endpoints (SO_MARK), 0 for none."""

    def __init__(self, loop: Loop, rng: Rng, limits: Limits, mark: int = 0) -> None:
        self.loop, self.rng, self.limits, self.mark = loop, rng, limits, mark
        self.turn = Turn(rng)
        self.pipes = Pipes()
        self.all: set[Connection] = set()
        self.waiting: dict[Stream, Connection] = {}
        """Those that wait for an endpoint."""
        self.shed = 0
        """How many were let go because there were no descriptors left."""
        self._places: dict[Endpoint, tuple[str, int]] = {}
        self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def place(self, one: Endpoint) -> tuple[str, int]:
        place = self._places.get(one)
        if place is None:
            if len(self._places) > 100_000:
                self._places.clear()  # of endpoints long gone
            place = self._places[one] = (show_ip(one.ip), one.port)
        return place

    # --- changes of ways ----------------------------------------------------------------

    def changed(self, gone: set[tuple[Entrance, Endpoint]], came: set[tuple[Entrance, Endpoint]]) -> None:
        """These endpoints left these ways, or are back. Their connections may take a while to end."""
        now = self.loop.now
        gone = {(entrance, one) for entrance, one in gone if entrance.balancer.load(one)}
        came = {(entrance, one) for entrance, one in came if entrance.balancer.load(one)}
        if not gone and not came:
            return
        left = []
        for connection in self.all:
            stream = connection.stream
            if stream.endpoint is not None:
                pair = (stream.entrance, stream.endpoint)
                if pair in gone:
                    left.append(connection)
                elif pair in came:
                    stream.back()
        for connection in left:
            connection.obey(connection.stream.left(now))

    def wake(self, entrance: Entrance) -> None:
        """Those that waited for an endpoint of this way go on."""
        for stream in entrance.ready():
            one = self.waiting.get(stream)  # one before it may have taken its room
            if one is not None:
                one.obey(stream.come(self.loop.now))

    def dismiss(self) -> None:
        """No endpoint will come here for those that wait for one; they may wait with a successor."""
        for connection in [*self.waiting.values()]:
            connection.obey(connection.stream.shed())

    def count(self) -> None:
        """Put down with the ways what was carried until now."""
        for connection in self.all:
            connection.count()

    # --- descriptors --------------------------------------------------------------------

    def make_room(self) -> bool:
        """Let go of those that have been idle longest; whether there was somebody."""
        if self.pipes.clear():
            return True
        now = self.loop.now
        idle: Iterable[Connection] = (one for one in self.all if one.active < now - _SHED_IDLE)
        some = nsmallest(max(8, len(self.all) // _SHED_SHARE), idle, key=lambda one: one.active)
        for one in some:
            one.obey(one.stream.shed())
        self.shed += len(some)
        return bool(some)

    def refuse_one(self, listener: socket) -> bool:
        """There is nobody to let go: take the next connection with the last descriptor, and reset it.

        Else it would be told of again and again, and its client would wait for nothing. False if not even
        that is possible.
        """
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1
        try:
            fd, _ = listener._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            refused = True
        except OSError:
            refused = False
        else:
            refused = True
            sock = socket(AF_INET, _STREAM, 0, fd)
            reset_on_close(sock)
            sock.close()
        with suppress(OSError):
            self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        return refused


class Listener:
    """A socket that listens, of one class of ways. `keeps`: endpoints may see who the client is."""

    def __init__(self, sock: socket, ways: Ways, keeps: bool, streams: Streams) -> None:
        self.sock, self.ways, self.keeps = sock, ways, keeps
        self._streams = streams
        self.loop = streams.loop
        self._family = sock.family
        self._anywhere = _ANYWHERE[sock.family]
        self._batch = 1
        sock.setblocking(False)

    def open(self) -> None:
        """Take connections."""
        self.loop.watch(self.sock.fileno(), self.event, LEVEL)

    def close(self) -> None:
        """Take who waits to be accepted, and then nobody any more; others may have the socket, too.

        If they have, whoever cannot be taken is theirs, so nobody is reset to make room.
        """
        self.loop.unwatch(self.sock.fileno())
        self._batch = 0  # for this round's `_accept`
        with suppress(OSError):
            for _ in range(_BACKLOG):
                fd, address = self.sock._accept()  # type: ignore[attr-defined]
                self._take(fd, address[0])
        self.loop.doom(self.sock)

    def event(self, event: int) -> None:
        self.loop.last(self._accept)

    def _accept(self) -> None:
        # To be told that there is nobody left costs as much as two calls that succeed. So it is tried as
        # often as there were some to accept of late; the listener is told of again while there are.
        accept = self.sock._accept  # type: ignore[attr-defined]
        batch = self._batch
        for _ in range(batch):
            try:
                fd, address = accept()
            except BlockingIOError:
                self._batch = max(1, batch // 2)
                return
            except OSError as error:
                self._batch = 1
                self._trouble(error)
                return
            self._take(fd, address[0])
        self._batch = min(_MOST_AT_ONCE, batch * 2)

    def _take(self, fd: int, client: str) -> None:
        # Its flags are known to this object only: it never waits, whatever the kernel thinks.
        sock = socket(self._family, _STREAM, 0, fd)
        try:
            came_to = sock.getsockname()
        except OSError:
            self.loop.doom(sock)
            return
        entrance = self.ways.get(came_to[:2]) or self.ways.get((self._anywhere, came_to[1]))
        if entrance is None:
            reset_on_close(sock)
            self.loop.doom(sock)
        else:
            Connection(self._streams, entrance, not self.keeps, sock, client)

    def _trouble(self, error: OSError) -> None:
        if error.errno in _GONE:
            return  # the client's: it went before it was accepted
        if error.errno not in _NO_DESCRIPTORS:
            raise error
        if not self._streams.make_room() and not self._streams.refuse_one(self.sock):
            # They wait with the kernel until others end.
            self.loop.unwatch(self.sock.fileno())
            self.loop.at(self.loop.now + _PAUSE, self)

    def tick(self, now: float) -> None:
        """The pause is over."""
        if self.sock.fileno() >= 0:
            self.open()


class Connection:
    """A client, and the endpoint it is connected to. It has let go of both when its machine has ended."""

    __slots__ = (
        "_address",
        "_armed",
        "_born",
        "_client",
        "_endpoint",
        "_settled",
        "_streams",
        "active",
        "stream",
    )

    def __init__(self, streams: Streams, entrance: Entrance, hidden: bool, sock: socket, client: str) -> None:
        loop = streams.loop
        self._streams = streams
        self.active = self._born = loop.now
        """When something last came or went."""
        self._armed = inf
        self._settled = False
        self._address = client
        self._client = Side(self, "client", sock, loop, streams.pipes)
        self._endpoint: Side | None = None
        ip = Ip(inet_pton(sock.family, client.partition("%")[0]))
        self.stream = Stream(entrance, ip, hidden, streams.rng, streams.limits)
        streams.all.add(self)
        command = self.stream.arrived(loop.now)
        if command is WAIT:
            streams.waiting[self.stream] = self
            # Whoever waits is not asked for anything but whether it is still there.
            loop.watch(self._client.fd, self._waits)
        self.obey(command)

    # --- commands ---------------------------------------------------------------------

    def obey(self, command: Command) -> None:
        if self._streams.waiting and self.stream.state is not State.WAITING:
            self._streams.waiting.pop(self.stream, None)
        while True:
            if type(command) is Connect:
                number = self._connect(command)
                if number:
                    command = self._not_begun(number)
                    continue
            elif command is JOIN:
                self._join()
                return
            elif type(command) is HalfClose:
                side = self._client if command.side == "client" else self._endpoint
                assert side is not None
                try:
                    side.sock.shutdown(SHUT_WR)
                except OSError:
                    command = self.stream.broke(command.side, self._streams.loop.now)
                    continue
            elif command is not WAIT:
                self._let_go(command)
                return
            self.arm()
            return

    def _connect(self, command: Connect) -> int:
        """Begin to. 0, or why that cannot be done (errno)."""
        self._drop_endpoint()
        streams, endpoint = self._streams, command.endpoint
        family = AF_INET if len(endpoint.ip) == 4 else AF_INET6
        try:
            sock = socket(family, _STREAM)
        except OSError as error:
            # Who is let go is closed with this round.
            if streams.make_room():
                streams.loop.again(partial(self._connect_again, command))
                return 0
            return error.errno or errno.EIO
        now, port = streams.loop.now, 0
        try:
            if command.as_client:
                port = streams.turn.take(self._address, endpoint, now)
            number = self._dial(sock, command, port)
            if port and number in _NO_PORT:
                sock.close()
                streams.turn.refused(self._address, endpoint, now)
                sock = socket(family, _STREAM)
                number = self._dial(sock, command, 0)
        except OSError as error:
            number = error.errno or errno.EIO
        if number not in (errno.EINPROGRESS, 0):
            sock.close()
            return number
        self._endpoint = Side(self, "endpoint", sock, streams.loop, streams.pipes)
        self._endpoint.waited, self._endpoint.prompt = True, False
        streams.loop.watch(self._endpoint.fd, self._tried, BOTH)
        return 0

    def _dial(self, sock: socket, command: Connect, port: int) -> int:
        """Connect it, from this port if the endpoint sees the client, from any if that is 0. What
        `connect_ex` returns, and `bind` would."""
        streams = self._streams
        if streams.mark:
            sock.setsockopt(SOL_SOCKET, SO_MARK, streams.mark)
        if command.as_client:
            transparent(sock)
            if port:
                # Others may have the port, as long as they have it towards another endpoint.
                sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            else:
                # It is chosen with the connect, so that it need be free towards that endpoint only.
                sock.setsockopt(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            try:
                sock.bind((self._address, port))
            except OSError as error:
                return error.errno or errno.EIO
        # The acknowledgement of the endpoint's greeting goes with the client's first bytes, which mostly
        # wait already, and not in a packet of its own (tcp_rcv_synsent_state_process).
        sock.setsockopt(IPPROTO_TCP, TCP_QUICKACK, 0)
        return sock.connect_ex(streams.place(command.endpoint))

    def _connect_again(self, command: Connect) -> None:
        if self._endpoint is None and self.stream.state is State.TRYING:
            number = self._connect(command)
            if number:
                self.obey(self._not_begun(number))

    def _not_begun(self, number: int) -> Command:
        """What the machine says to that."""
        failed = self.stream.barred if number in _OURS else self.stream.failed
        return failed(self._streams.loop.now)

    def _join(self) -> None:
        client, endpoint, loop = self._client, self._endpoint, self._streams.loop
        assert endpoint is not None
        client.peer, endpoint.peer = endpoint, client
        handlers = loop.handlers
        handlers[endpoint.fd] = endpoint.event
        # A client that begins has sent its first bytes by now. They are read before its events are asked for:
        # so there is one event less.
        client.pump()
        if self in self._streams.all:
            if not client.moved:
                # Nothing waits: the endpoint may be the first to speak, once it has been acknowledged.
                endpoint.sock.setsockopt(IPPROTO_TCP, TCP_QUICKACK, 1)
            if client.fd in handlers:
                handlers[client.fd] = client.event
                loop.rewatch(client.fd, READ)
            else:
                loop.watch(client.fd, client.event)

    def _let_go(self, command: Command) -> None:
        self.count()
        self._streams.all.discard(self)
        reset = command is not CLOSE
        self._client.let_go(reset)
        if self._endpoint is not None:
            self._endpoint.let_go(reset)
        self._client, self._endpoint = NO_SIDE, None

    def _drop_endpoint(self) -> None:
        """Give up a try. A socket that is not connected sends nothing when it is closed."""
        if self._endpoint is not None:
            self._endpoint.let_go(reset=True)
            self._endpoint = None

    # --- events -----------------------------------------------------------------------

    def _tried(self, event: int) -> None:
        now = self._streams.loop.now
        if event & (EPOLLERR | EPOLLHUP):
            self._drop_endpoint()
            self.obey(self.stream.failed(now))
            return
        self.active = now
        endpoint = self._endpoint
        self.obey(self.stream.connected(now))
        if event & READ and endpoint is not None and not endpoint.over:
            endpoint.event(event)  # it was the first to speak

    def _waits(self, event: int) -> None:
        """The client has sent something, which is left where it is; or is gone."""
        if event & (EPOLLERR | EPOLLHUP):
            self.obey(self.stream.broke("client", self._streams.loop.now))

    def ended(self, side: Side) -> None:
        self.obey(self.stream.ended(side.name, self._streams.loop.now))

    def broke(self, side: Side) -> None:
        self.obey(self.stream.broke(side.name, self._streams.loop.now))

    def crashed(self) -> None:
        """Something of ours is wrong with it: it must not stay as it is."""
        self.obey(self.stream.shed())

    # --- time -------------------------------------------------------------------------

    def arm(self) -> None:
        due = self.stream.due
        if due < self._armed:
            now = self._streams.loop.now
            self._armed = min(due, now + min(_SELDOM, max(_SOON, now - self._born)))
            self._streams.loop.at(self._armed, self)

    def tick(self, now: float) -> None:
        self._armed = inf
        if self not in self._streams.all:
            return
        self._settle()
        moved = self._client.moved + (self._endpoint.moved if self._endpoint is not None else 0)
        command = self.stream.tick(now, moved)
        self.obey(command)

    def _settle(self) -> None:
        """Those that last are asked whether they live. That of clients comes with the listener."""
        if self._endpoint is None or self._settled or self.stream.state is State.TRYING:
            return
        self._settled = True
        try:
            keep_alive(self._endpoint.sock)
        except OSError:
            return  # an event will tell

    def count(self) -> None:
        client, endpoint = self._client, self._endpoint
        tally = self.stream.entrance.tally
        tally.sent += client.moved - client.counted
        client.counted = client.moved
        if endpoint is not None:
            tally.received += endpoint.moved - endpoint.counted
            endpoint.counted = endpoint.moved


def keep_alive(sock: socket) -> None:
    sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        sock.setsockopt(IPPROTO_TCP, option, value)


def owner_of(handler: Handler) -> Connection | None:
    """The connection whose event it takes."""
    owner = getattr(handler, "__self__", None)
    if isinstance(owner, Side):
        owner = owner.owner
    return owner if isinstance(owner, Connection) else None
