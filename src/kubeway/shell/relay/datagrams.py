"""
UDP: datagrams from clients to endpoints and back, by sessions as their machine keeps them
(`planes/relay/datagram.py`).

All clients' datagrams come by a listener, many at a time, and where to they were sent is told with each. To
the endpoint every session has a socket of its own, connected: so an answer, and an ICMP error, is known to be
this session's. Answers leave by `replies`, many at a time; trains of them (GRO) by a second socket, `face`,
connected to the client: it may be that the client's next datagrams come by that, so it is read, too.

Source: net/ipv4/udp.c, net/ipv4/icmp.c (icmp_err_convert), net/ipv4/netfilter/nf_tproxy_ipv4.c.
"""

from __future__ import annotations

import errno
from _socket import AF_INET, AF_INET6, socket
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from typing import Any, Final

from kubeway.machines.pacer import Rng
from kubeway.planes.relay.datagram import Session, Sessions
from kubeway.planes.relay.entrance import Entrance
from kubeway.planes.relay.objects import ANY, Endpoint
from kubeway.shell.relay.loop import LEVEL, Loop
from kubeway.shell.relay.replies import Replies, Reply, speaker
from kubeway.shell.relay.streams import Ways, place_of
from kubeway.shell.relay.udp import (
    BUFFERS,
    TOLD,
    VIEW,
    Inbox,
    Sender,
    between,
    came_to,
    family,
    gather,
    in_pieces,
    parties,
    pieces,
)

_AT_ONCE: Final = 64  # datagrams read from one endpoint, before others have their turn
_BRISK: Final = 8  # so many at once from an endpoint, and it is asked for trains
_NOW_AND_THEN: Final = 64  # answers of an endpoint, until it is seen whether there are more than one
_LATELY: Final = 0.1  # seconds; that a session was spoken in later than that need not be put down again
_TRIES: Final = 4  # endpoints for one datagram, if the way to some is known to be barred
_ASIDE: Final = 64  # datagrams that wait for descriptors
_SHED_SHARE: Final = 32  # one of so many sessions ends when there are no descriptors or ports left

Data = memoryview | bytes

_ANYWHERE: Final = {family(ip): place_of(ip, 0)[0] for ip in ANY.values()}

_NO_ROOM: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN, errno.EADDRINUSE}
)
_THIS_ONE: Final = frozenset(
    {
        *(errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM),
        *(errno.EMSGSIZE, errno.EPERM, errno.EINVAL, errno.EIO),
    }
)
"""Errors that are the datagram's, or the moment's, and not the other end's."""
_NO_TRAINS: Final = frozenset({errno.EMSGSIZE, errno.EINVAL, errno.EIO})
"""The kernel cannot take this one apart: its pieces are larger than what fits the device, say."""


class Datagrams:
    """All UDP of this process. `spare`: asked for descriptors when none are left and no session can end.
    `mark`: of what is sent (SO_MARK), 0 for none."""

    def __init__(
        self,
        loop: Loop,
        rng: Rng,
        sessions: Sessions | None = None,
        spare: Callable[[], bool] = lambda: False,
        mark: int = 0,
    ) -> None:
        self.loop, self.rng, self.mark = loop, rng, mark
        self.sessions = Sessions() if sessions is None else sessions
        self._lost = 0
        self._spare = spare
        self._replies: dict[int, Replies] = {}
        self._inboxes: dict[int, Inbox] = {}
        self._aside: list[tuple[Listener, Sender, bytes, int]] = []
        self._armed = inf

    def replies(self, af: int) -> Replies:
        if af not in self._replies:
            self._replies[af] = Replies(speaker(af, self.mark), self.loop.last)
        return self._replies[af]

    def inbox(self, af: int) -> Inbox:
        if af not in self._inboxes:
            self._inboxes[af] = Inbox(af)
        return self._inboxes[af]

    @property
    def lost(self) -> int:
        """Datagrams that went nowhere."""
        return self._lost + sum(replies.lost for replies in self._replies.values())

    def lose(self) -> None:
        """One more."""
        self._lost += 1

    # --- sessions -----------------------------------------------------------------------

    def begin(self, listener: Listener, sender: Sender) -> Line | None:
        """A session for a client that has none. None if there is nobody for it. OSError: there is no room."""
        client, told = parties(sender)
        ip, port = came_to(told)
        way = place_of(ip, port)
        entrance = listener.ways.get(way) or listener.ways.get((listener.anywhere, port))
        if entrance is None:
            return None
        now, (client_ip, _) = self.loop.now, came_to(sender[: len(told)])
        for _ in range(_TRIES):
            one, gone = self.sessions.open(
                (listener, sender), entrance, client_ip, not listener.keeps, now, self.rng
            )
            if gone is not None:
                gone.line.let_go()
            if one is None:
                return None
            try:
                sock = connect(one, client, self.mark)
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self.sessions.end(one)
                    raise
                self.sessions.refused(one, now)
                continue
            reply = Reply(ip, port, client_ip, client)
            line = one.line = Line(self, one, sock, listener.replies, reply, way, client)
            self.loop.watch(sock.fileno(), line.answer, LEVEL)
            self.arm()
            return line
        return None

    def left(self, entrance: Entrance, gone: Iterable[Endpoint]) -> None:
        """These endpoints serve this way no more (`Entrance.become`). To be told at once."""
        for one in self.sessions.left(entrance, gone, self.loop.now):
            if one.over:
                one.line.let_go()
            else:
                one.line.leave()
        self.arm()

    def arm(self) -> None:
        due = self.sessions.due
        if due < self._armed:
            self._armed = due
            self.loop.at(due, self)

    def tick(self, now: float) -> None:
        self._armed = inf
        for one in self.sessions.expired(now):
            one.line.let_go()
        self.arm()

    # --- descriptors --------------------------------------------------------------------

    def make_room(self) -> bool:
        """End some of those that are missed least; whether there were any. Their descriptors are free when
        the round is over."""
        count = 0
        while count < max(8, len(self.sessions) // _SHED_SHARE):
            one = self.sessions.make_room()
            if one is None:
                break
            one.line.let_go()
            count += 1
        return count > 0 or self._spare()

    def put_aside(self, listener: Listener, sender: Sender, data: bytes, size: int) -> None:
        """There are no descriptors, or no ports, left for it. Make room, and try again after this round."""
        if not self._aside:
            if not self.make_room():
                self._lost += 1
                return
            self.loop.last(self._again)
        if len(self._aside) < _ASIDE:
            self._aside.append((listener, sender, data, size))
        else:
            self._lost += 1

    def _again(self) -> None:
        some, self._aside = self._aside, []
        for listener, sender, data, size in some:
            try:
                listener.take(data, size, sender)
            except OSError:
                self._lost += 1

    def retire(self) -> None:
        """Clients speak to another carrier from now on. What was asked for may still be answered: sessions go
        on until their endpoints have been silent for as long as a first answer may take."""
        self.sessions.idle = min(self.sessions.idle, self.sessions.first)
        for one in self.sessions:
            one.line.turn_away()
        self.arm()

    def close(self) -> None:
        """Let go of everything, except of listeners."""
        for one in self.sessions.clear():
            one.line.let_go()
        for replies in self._replies.values():
            replies.close()


class Listener:
    """A socket of `udp.listen`, of one class of ways. `keeps`: endpoints may see who the client is."""

    def __init__(self, sock: socket, ways: Ways, keeps: bool, datagrams: Datagrams) -> None:
        self.sock, self.ways, self.keeps = sock, ways, keeps
        self.replies = datagrams.replies(sock.family)
        self.anywhere = _ANYWHERE[sock.family]
        self._datagrams = datagrams
        sock.setblocking(False)
        self._fd, self._inbox = sock.fileno(), datagrams.inbox(sock.family)

    def open(self) -> None:
        self._datagrams.loop.watch(self.sock.fileno(), self.event, LEVEL)

    def close(self) -> None:
        """Take nothing any more; others may have the socket, too. Here it must not stay open: of several at
        one port, as those of a successor are, the kernel would go on to give it its share."""
        self._datagrams.loop.unwatch(self.sock.fileno())
        self._datagrams.loop.doom(self.sock)

    def event(self, event: int) -> None:
        inbox, sessions, loop = self._inbox, self._datagrams.sessions, self._datagrams.loop
        loop.brisk, now = True, loop.now
        try:
            count = inbox.fill(self._fd)
        except BlockingIOError:
            return  # others had it
        find, told, lone = sessions.find, inbox.told, inbox.lone
        for at in range(count):
            data = inbox.data[at][: inbox.sizes[at]]
            if told[at] != lone:
                sender, size = inbox.train(at)
                self.resume(data, size, sender)
                continue
            sender = inbox.senders[at].tobytes()
            one = find((self, sender))
            if one is not None:
                if now - one.heard > _LATELY:
                    sessions.asked(one, now)
                line = one.line
                try:  # as `carry` does it, for what comes most
                    line.tally.sent += line.send(data)
                    continue
                except OSError as error:
                    if line.not_sent(error, data, 0):
                        continue
            self.resume(data, 0, sender)

    def resume(self, data: Data, size: int, sender: Sender) -> None:
        """As `take`; without room it is tried again when there is some."""
        try:
            self.take(data, size, sender)
        except OSError:
            self._datagrams.put_aside(self, sender, bytes(data), size)

    def take(self, data: Data, size: int, sender: Sender) -> None:
        """What came, in pieces of `size` if that is not 0. OSError if a session is needed, and there is no
        room for one."""
        datagrams = self._datagrams
        one = datagrams.sessions.find((self, sender))
        if one is not None:
            datagrams.sessions.asked(one, datagrams.loop.now)
            if one.line.carry(data, size):
                return
        line = datagrams.begin(self, sender)
        if line is None or not line.carry(data, size):
            datagrams.lose()


class Line:
    """What carries a session's datagrams. `way`, `client`: as sockets have it."""

    __slots__ = (
        "_batch",
        "_client",
        "_datagrams",
        "_face",
        "_faceless",
        "_gathers",
        "_recv",
        "_replies",
        "_reply",
        "_session",
        "_sock",
        "_way",
        "answers",
        "send",
        "tally",
    )

    def __init__(
        self,
        datagrams: Datagrams,
        session: Session,
        sock: socket,
        replies: Replies,
        reply: Reply,
        way: Any,
        client: Any,
    ) -> None:
        self._datagrams, self._session, self._sock = datagrams, session, sock
        self._replies, self._reply = replies, reply
        self._way, self._client = way, client
        self.tally = session.entrance.tally
        self._recv, self.send = sock.recv_into, sock.send
        self._batch = 2
        self._gathers = False
        self.answers = 0
        self._face: socket | None = None
        self._faceless = False

    # --- to the endpoint ----------------------------------------------------------------

    def carry(self, data: Data, size: int) -> bool:
        """What was read, in pieces of `size` if that is not 0. False if the session has ended by it, as an
        earlier datagram was refused. Then nothing has been sent."""
        try:
            if size and len(data) > size:
                self.tally.sent += self._sock.sendmsg((data,), in_pieces(size))
            else:
                self.tally.sent += self.send(data)
        except OSError as error:
            return self.not_sent(error, data, size)
        return True

    def not_sent(self, error: OSError, data: Data, size: int) -> bool:
        """What `carry` returns when the kernel has said so."""
        if error.errno not in _THIS_ONE:
            self.refused()
            return False
        if size and len(data) > size and error.errno in _NO_TRAINS:
            self._one_by_one(data, size)
        else:
            self._datagrams.lose()
        return True

    def _one_by_one(self, data: Data, size: int) -> None:
        for at in range(0, len(data), size):
            try:
                self.tally.sent += self.send(data[at : at + size])
            except OSError as error:
                if error.errno not in _THIS_ONE:
                    self.refused()
                    return
                self._datagrams.lose()

    # --- and back -----------------------------------------------------------------------

    def answer(self, event: int) -> None:
        """The endpoint has spoken, or an ICMP error has."""
        datagrams, session, replies = self._datagrams, self._session, self._replies
        try:
            n = self._recv(replies.room)
        except OSError as error:
            self._not_read(error)
            return
        loop = datagrams.loop
        loop.brisk, now = True, loop.now
        if now - session.heard > _LATELY or not session.answered:
            datagrams.sessions.answered(session, now)
            if not self.answers:
                datagrams.arm()  # it may be due earlier now
        if self._face is None:
            replies.put(self._reply, n, self.tally)
        else:
            self._back(replies.room[:n], 0)
        # To find that there is no more costs half as much as one: so it is tried now and then only.
        self.answers += 1
        if not self.answers % _NOW_AND_THEN:
            loop.handlers[self._sock.fileno()] = self.burst
            self._batch = 2

    def burst(self, event: int) -> None:
        """As `answer`, of an endpoint that may have more than one thing to say."""
        datagrams, session = self._datagrams, self._session
        recv = self._sock.recvmsg_into
        for count in range(self._batch):
            try:
                n, told, _, _ = recv(BUFFERS, TOLD)
            except BlockingIOError:
                self._batch = max(2, count)
                if count < 2 and not self._gathers:
                    datagrams.loop.handlers[self._sock.fileno()] = self.answer
                return
            except OSError as error:
                if not self._not_read(error):
                    return
                continue
            datagrams.sessions.answered(session, datagrams.loop.now)
            self._back(VIEW[:n], pieces(told))
        self._batch = min(_AT_ONCE, self._batch * 2)
        if self._batch > _BRISK and not self._gathers:
            self._gathers = True
            gather(self._sock)

    def _not_read(self, error: OSError) -> bool:
        """Whether the session goes on."""
        if error.errno in _THIS_ONE:
            return True
        self.refused()
        return False

    def _back(self, data: memoryview, size: int) -> None:
        """To the client, in pieces of `size` if that is not 0."""
        face, train = self._face, 0 < size < len(data)
        if train and face is None:
            face = self._open_face()
        if face is not None:
            self._replies.flush()  # what was said before comes first
            try:
                if not train:
                    self.tally.received += face.send(data)
                    return
                if self._train(face, data, size):
                    return
            except OSError:
                self._datagrams.lose()  # a client that is gone, as with `Replies.flush`
                return
        for piece in [data[at : at + size] for at in range(0, len(data), size)] if train else [data]:
            self._replies.room[: len(piece)] = piece
            self._replies.put(self._reply, len(piece), self.tally)

    def _train(self, face: socket, data: memoryview, size: int) -> bool:
        try:
            self.tally.received += face.sendmsg((data,), in_pieces(size))
        except OSError as error:
            if error.errno not in _NO_TRAINS:
                raise
            return False
        return True

    def _open_face(self) -> socket | None:
        if self._faceless:
            return None
        try:
            af = AF_INET if len(self._client) == 2 else AF_INET6
            face = between(af, self._way, self._client, mark=self._datagrams.mark)
        except OSError:
            self._faceless = True  # somebody on the node has the port
            return None
        gather(face)
        self._face = face
        self._datagrams.loop.watch(face.fileno(), self.ask, LEVEL)
        return face

    def ask(self, event: int) -> None:
        """The client has spoken, by the face; or an ICMP error says that it is gone."""
        datagrams, session, face = self._datagrams, self._session, self._face
        if face is None:
            return
        for _ in range(_BRISK):
            try:
                n, told, _, _ = face.recvmsg_into(BUFFERS, TOLD)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _THIS_ONE:
                    datagrams.sessions.end(session)
                    self.let_go()
                    return
                continue
            datagrams.sessions.asked(session, datagrams.loop.now)
            size = pieces(told)
            if not self.carry(VIEW[:n], size):
                listener, sender = session.key
                listener.resume(VIEW[:n], size, sender)
                return

    # --- the end ------------------------------------------------------------------------

    def turn_away(self) -> None:
        """The client's next datagrams are to come by the listener."""
        self._faceless = True
        if self._face is not None:
            self._datagrams.loop.doom(self._face)
            self._face = None

    def refused(self) -> None:
        """By the endpoint, or the way there."""
        self._datagrams.sessions.refused(self._session, self._datagrams.loop.now)
        self._hand_over()
        self.let_go()

    def crashed(self) -> None:
        """Something of ours is wrong with it: it must not stay as it is."""
        if not self._session.over:
            self._datagrams.sessions.end(self._session)
            self.let_go()

    def leave(self) -> None:
        """Its endpoint has left, and what the client says from now on is for another one."""
        self._datagrams.loop.handlers[self._sock.fileno()] = self.late_answer
        self._faceless = True
        self._hand_over()

    def late_answer(self, event: int) -> None:
        """The endpoint that has left has spoken after all, or an ICMP error has."""
        try:
            n, told, _, _ = self._sock.recvmsg_into(BUFFERS, TOLD)
        except OSError as error:
            self._not_read(error)
            return
        self._back(VIEW[:n], pieces(told))

    def let_go(self) -> None:
        """Its session is over."""
        self._session.line = None
        self._datagrams.loop.doom(self._sock)
        if self._face is not None:
            self._datagrams.loop.doom(self._face)
            self._face = None

    def _hand_over(self) -> None:
        """What the client has said by the face, and nobody has read, comes by the listener after all.

        When the round is over: a datagram may be on its way now.
        """
        loop, face = self._datagrams.loop, self._face
        if face is not None:
            self._face = None
            loop.unwatch(face.fileno())
            loop.last(partial(self._read_out, face))

    def _read_out(self, face: socket) -> None:
        listener, sender = self._session.key
        try:
            for _ in range(_AT_ONCE):
                n, told, _, _ = face.recvmsg_into(BUFFERS, TOLD)
                listener.resume(VIEW[:n], pieces(told), sender)
        except OSError:
            return  # that was all
        finally:
            self._datagrams.loop.doom(face)


def connect(one: Session, client: Any, mark: int) -> socket:
    """A socket to the session's endpoint, seen from there as the session says, by packets with this mark."""
    af = family(one.client)
    there = place_of(one.endpoint.ip, one.endpoint.port)
    host, *more = (client[0], *client[2:]) if one.as_client else (_ANYWHERE[af],)
    if one.port:
        try:
            return between(af, (host, one.port, *more), there, one.as_client, mark)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            # Somebody on the node has that port, at all addresses.
    return between(af, (host, 0, *more), there, one.as_client, mark)
