"""
One side of a joined connection, and how its bytes get to the other side.

Short exchanges are copied; a long run of bytes is spliced through a pipe, so that it never comes into this
process (splice(2)). Either way nothing is read before what was read has been sent: what the receiver does not
take stays in the kernel, and its sender is told to wait by TCP itself.

Whoever owns a side is told of its end, after the last byte has been sent on, and when it broke.

Events are edges: after each one, all is read until there is no more, or until the other side takes no more.
"""

from __future__ import annotations

import os
from _socket import IPPROTO_TCP, MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, TCP_NODELAY, socket
from contextlib import suppress
from select import EPOLLERR, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from typing import TYPE_CHECKING, Final, Protocol

from kubeway.shell.relay.loop import BOTH
from kubeway.shell.relay.pipes import SIZE, Pipe

if TYPE_CHECKING:
    from kubeway.planes.relay.stream import Side as SideName
    from kubeway.shell.relay.loop import Loop
    from kubeway.shell.relay.pipes import Pipes

LONG: Final = 256 * 1024
"""Bytes copied in a run before the rest is spliced: below, a pipe and two calls cost more than the copy."""

_MUCH: Final = 256 * 1024
"""Bytes. After so many, more are on their way, and whoever sends or receives them goes first if it waits for
this processor: who sleeps at once is woken at once, for little."""

_SMALL: Final = 4096
"""A read of less ends a run: messages are small again."""

_ROUNDS: Final = 8
"""Reads at a time, before others have their turn."""

_COPIED: Final = 64 * 1024
_BUFFER: Final = bytearray(_COPIED)
_VIEW: Final = memoryview(_BUFFER)

_SEND: Final = MSG_DONTWAIT | MSG_NOSIGNAL
_LAST: Final = _SEND | MSG_MORE
_MOVE: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_ENDING: Final = EPOLLRDHUP | EPOLLPRI | EPOLLERR
_OVER: Final = EPOLLIN | EPOLLRDHUP | EPOLLERR


class Owner(Protocol):
    active: float

    def ended(self, side: Side) -> None: ...

    def broke(self, side: Side) -> None: ...


class Side:
    """A socket, and what was read from it and not yet sent to its `peer`. `moved`: bytes that were."""

    __slots__ = (
        "_pending",
        "_pipe",
        "_piped",
        "_pipes",
        "_run",
        "_seen",
        "_spliced",
        "counted",
        "fd",
        "loop",
        "moved",
        "name",
        "over",
        "owner",
        "peer",
        "prompt",
        "sock",
        "waited",
    )

    peer: Side
    owner: Owner

    def __init__(self, owner: Owner, name: SideName, sock: socket, loop: Loop, pipes: Pipes) -> None:
        self.owner, self.name, self.sock, self.fd = owner, name, sock, sock.fileno()
        self.loop, self._pipes = loop, pipes
        self.over = False
        """Nothing more will be read."""
        self.moved = self.counted = 0
        self._pending = b""
        self._pipe: Pipe | None = None
        self._piped = 0
        self._run = 0
        self._seen = 0  # events: an edge is told once, and what it said holds on
        self._spliced = False
        self.prompt = True
        """Whether small messages are sent at once; accepted sockets have it from their listener."""
        self.waited = False
        """Whether there being room in it again is asked for."""

    def event(self, event: int) -> None:
        """Something has come, or there is room again, or both."""
        self.owner.active = self.loop.now
        if event & _OVER and not self.over:
            self.pump(event)
        if event & EPOLLOUT and (self.peer._pending or self.peer._piped):
            self.peer.pump()
        if event & EPOLLERR:
            self.owner.broke(self)

    def pump(self, event: int = 0) -> None:
        """Carry what can be carried. `event`: what has come of this side."""
        self._seen |= event
        if self._spliced:
            self._splice()
            return
        recv_into, send = self.sock.recv_into, self.peer.sock.send
        if self._pending:
            if not self._send_pending():
                return
            if self.over:
                self.owner.ended(self)
                return
        rounds = 0
        while True:
            try:
                count = recv_into(_BUFFER, _COPIED, MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self.owner.broke(self)
                return
            if not count:
                self.over = True
                self.owner.ended(self)
                return
            short = count < _COPIED
            # What came before the end has been read if a read was short; but for urgent data, at which a
            # read stops (tcp_recvmsg_locked). A reset is told as an end and an error (tcp_reset).
            if short and self._seen & _ENDING == EPOLLRDHUP:
                self.over = True
            if self.moved and not self.peer.prompt:
                self.peer.be_prompt()
            try:
                # The end that follows the last bytes goes with them, and not in a packet of its own.
                sent = send(_VIEW[:count], _LAST if self.over else _SEND)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.owner.broke(self.peer)
                return
            self.moved += sent
            if sent < count:
                self._pending = bytes(_VIEW[sent:count])
                self.peer.want_room()
                return
            if self.over:
                self.owner.ended(self)
                return
            self._run = self._run + count if count >= _SMALL else 0
            if self._run >= LONG and self._go_splicing():
                self._splice()
                return
            if short:
                return
            rounds += 1
            if rounds == _ROUNDS:
                self.loop.again(self._go_on)
                return

    def _send_pending(self) -> bool:
        """Whether all of it is sent."""
        try:
            sent = self.peer.sock.send(self._pending, _SEND)
        except BlockingIOError:
            return False
        except OSError:
            self.owner.broke(self.peer)
            return False
        self.moved += sent
        self._pending = self._pending[sent:]
        return not self._pending

    def be_prompt(self) -> None:
        """Send small messages at once, though not all before is acknowledged (TCP_NODELAY).

        The first message is sent at once anyway; so many connections do without this call.
        """
        self.prompt = True
        with suppress(OSError):  # it broke, as its events tell
            self.sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)

    def want_room(self) -> None:
        """Tell when this side takes bytes again."""
        if not self.waited:
            self.waited = True
            self.loop.rewatch(self.fd, BOTH)

    def _go_on(self) -> None:
        if not self.over and self.fd in self.loop.handlers:
            self.pump()

    # --- splicing ---------------------------------------------------------------------

    def _go_splicing(self) -> bool:
        self._run = 0
        # Of a socket, only its own flag is heeded, not the call's (splice_direct_to_actor, tcp_splice_read).
        self.sock.setblocking(False)
        self.peer.sock.setblocking(False)
        self._spliced = True
        return True

    def _splice(self) -> None:
        splice, fd, out = os.splice, self.fd, self.peer.fd
        pipe = self._pipe
        carried = rounds = yielded = 0
        while True:
            if pipe is not None and self._piped:
                try:
                    while self._piped:
                        sent = splice(pipe[0], out, self._piped, flags=_MOVE)
                        self._piped -= sent
                        self.moved += sent
                        carried += sent
                except BlockingIOError:
                    self.peer.want_room()
                    return
                except OSError:
                    self.owner.broke(self.peer)
                    return
            if self.over:
                self._give_back()
                self.owner.ended(self)
                return
            if rounds == _ROUNDS:
                self.loop.again(self._go_on)
                return
            rounds += 1
            if pipe is None:
                try:
                    pipe = self._pipe = self._pipes.take()
                except OSError:
                    self._spliced = False  # there are no descriptors: copying does without
                    self.loop.again(self._go_on)
                    return
            try:
                count = splice(fd, pipe[1], SIZE, flags=_MOVE)
            except BlockingIOError:
                if carried - yielded >= _MUCH and rounds < _ROUNDS:
                    yielded = carried
                    os.sched_yield()
                    continue
                self._give_back()
                if 0 < carried < _SMALL:
                    self._spliced = False  # messages are small again
                return
            except OSError:
                self.owner.broke(self)
                return
            if not count:
                self.over = True
            self._piped = count

    def _give_back(self) -> None:
        if self._pipe is not None:
            self._pipes.give(self._pipe)
            self._pipe = None

    def let_go(self, reset: bool = False) -> None:
        """Close the socket, and what is left in the pipe is lost. It names nobody any more, so that there
        is no circle to be collected."""
        if self._pipe is not None:
            (self._pipes.drop if self._piped else self._pipes.give)(self._pipe)
            self._pipe = None
        self._piped, self._pending, self.over = 0, b"", True
        if reset:
            reset_on_close(self.sock)
        self.loop.doom(self.sock)
        self.owner, self.peer = NOBODY, NO_SIDE


class _Nobody:
    active = 0.0

    def ended(self, side: Side) -> None:
        """Nobody minds."""

    broke = ended


NOBODY: Final[Owner] = _Nobody()
"""Owns what was let go of."""


def _no_side() -> Side:
    side = Side.__new__(Side)
    side._pending, side._piped = b"", 0
    return side


NO_SIDE: Final = _no_side()
"""The peer of what has none any more: has nothing to send."""


def reset_on_close(sock: socket) -> None:
    """Its close is to be a reset: RST instead of FIN (SO_LINGER of 0 seconds, tcp_close)."""
    with suppress(OSError):  # it is gone already
        sock.setsockopt(_SOL_SOCKET, _SO_LINGER, _AT_ONCE)


_SOL_SOCKET: Final = 1
_SO_LINGER: Final = 13
_AT_ONCE: Final = b"\1\0\0\0\0\0\0\0"  # struct linger {1, 0}; little endian or not, 1 is on
