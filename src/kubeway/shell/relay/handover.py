"""
How the listeners go from the workers of one proxy to those of the next, with nobody refused in between.

There is a *desk*: an abstract unix socket, which belongs to the network namespace as the listeners do. The
workers that serve have it, whether their control process lives or not. Whoever connects, and is of their user
or root, is sent one message (`Hand`) with descriptors, and that is all that is said:

    predecessor                          successor
    hands over, goes on                  connects
                                         starts its workers on the same sockets, tells them ways
                                         raises `taken`
    takes nobody any more, puts down     raises its own `begun`
    who stays where (`memories`), closes
    `told`; ends with the last           its workers read that, and take whoever has queued up
    connection

Sockets are shared with all that waits in them, so nothing is lost between the two, and each of them alone
takes clients. A successor that dies before `taken` has changed nothing; after it, its workers can do without
it. The flag `over` is one for all who come after each other: it ends them all (`end`).

The first three descriptors mean the same in every version, so that a successor that does not understand the
rest can still be the successor: it opens listeners of its own beside the old ones.

Source: unix(7) (abstract names, SCM_RIGHTS, SO_PEERCRED).
"""

from __future__ import annotations

import errno
import os
import struct
import time
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SCM_RIGHTS,
    SO_PEERCRED,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socket,
)
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
from msgspec import Struct

from kubeway.errors import Lost
from kubeway.planes.relay.objects import List
from kubeway.shell.clock import monotonic
from kubeway.shell.relay.flags import hoist, is_flag, is_up

NAME: Final = "kubeway-relay"
"""Of the desk, without the zero byte before it."""
VERSION: Final = 1
PATIENCE: Final = 5.0
"""Seconds. Who has the desk answers at once, unless its worker is being started again."""

_ALWAYS: Final = 3  # descriptors that mean the same in every version: taken, over, desk
_AT_ONCE: Final = 200  # descriptors in one message; the kernel takes 253 (SCM_MAX_FD)
_MESSAGE: Final = 1 << 17
_BACKLOG: Final = 16
_AGAIN: Final = 0.02  # seconds
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: process, user, group


class Kept(Struct, frozen=True):
    """A listening socket: what it was opened for (`listeners.Listening`, the port 0 if it was to be any), and
    its place among those of its kind."""

    list_: List
    keeps: bool
    ip: bytes
    port: int
    transparent: bool
    proto: int
    member: int


class Hand(Struct, frozen=True):
    """Goes before `descriptors` of them: taken, over, desk, told, then `memories`, then `listeners`.

    `led`: the control process lives. `turn`: which of the shares of UDP ports is in use.
    """

    version: int
    descriptors: int
    led: bool
    turn: int
    memories: int
    listeners: list[Kept]


class _Head(Struct, frozen=True):
    """What is in it in every version."""

    version: int
    descriptors: int
    led: bool


class _Gone(Exception):
    """Who was asked has ended meanwhile."""


class Heritage:
    """What was handed over: descriptors that are ours now, until `close`."""

    def __init__(self, data: bytes, descriptors: list[int]) -> None:
        """Lost if it cannot be read at all; the descriptors are closed then."""
        try:
            head = msgspec.msgpack.decode(data, type=_Head)
            if len(descriptors) != head.descriptors or len(descriptors) < _ALWAYS:
                raise Lost(f"it sent {len(descriptors)} descriptors and spoke of {head.descriptors}")
            hand = Hand(head.version, _ALWAYS, head.led, 0, 0, [])
            if head.version == VERSION:
                hand = msgspec.msgpack.decode(data, type=Hand)
                if hand.memories < 0 or _ALWAYS + 1 + hand.memories + len(hand.listeners) != len(descriptors):
                    raise Lost("its descriptors are not what it says")
        except (msgspec.MsgspecError, Lost) as error:
            close_all(descriptors)
            raise (error if isinstance(error, Lost) else Lost(f"it cannot be understood: {error}")) from None
        self.version, self.led, self.turn = hand.version, hand.led, hand.turn
        self.taken, self.over, self.desk, *rest = descriptors
        self.told, self.memories, self.listeners = -1, list[int](), list[tuple[Kept, int]]()
        if self.version == VERSION:
            self.told, rest = rest[0], rest[1:]
            self.memories, rest = rest[: hand.memories], rest[hand.memories :]
            self.listeners = list(zip(hand.listeners, rest, strict=True))
        else:
            close_all(rest)

    @property
    def foreign(self) -> str:
        """Why its listeners cannot be had; "" if they can."""
        if self.version == VERSION:
            return ""
        return f"it hands over as version {self.version}, and this is version {VERSION}"

    def close(self) -> None:
        """What was not taken out of it."""
        rest = [self.taken, self.over, self.desk, self.told, *self.memories]
        close_all(one for one in (*rest, *(fd for _, fd in self.listeners)) if one >= 0)
        self.taken = self.over = self.desk = self.told = -1
        self.memories, self.listeners = [], []


def close_all(descriptors: Iterable[int]) -> None:
    for one in descriptors:
        with suppress(OSError):
            os.close(one)


# --- the desk ----------------------------------------------------------------------------------


def open_desk(name: str) -> socket:
    """OSError: EADDRINUSE if somebody has it."""
    desk = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC)
    try:
        desk.bind(b"\0" + name.encode())
        desk.listen(_BACKLOG)
    except OSError:
        desk.close()
        raise
    return desk


def serve(desk: socket, hand: Hand, descriptors: Sequence[int]) -> None:
    """Hand over to one who waits, if there is one and it may have them. OSError: there are no descriptors."""
    try:
        fd, _ = desk._accept()  # type: ignore[attr-defined]
    except BlockingIOError:
        return  # another worker has answered
    with_it = socket(fileno=fd)
    try:
        if user_of(with_it) in (0, os.geteuid()):
            send(with_it, hand, descriptors)
    except OSError:
        return  # it is gone
    finally:
        with_it.close()


def send(to: socket, hand: Hand, descriptors: Sequence[int]) -> None:
    data = msgspec.msgpack.encode(hand)
    for at in range(0, len(descriptors), _AT_ONCE):
        some = array("i", descriptors[at : at + _AT_ONCE])
        to.sendmsg([data or b"-"], [(SOL_SOCKET, SCM_RIGHTS, some)], MSG_DONTWAIT | MSG_NOSIGNAL)
        data = b""


def user_of(peer: socket) -> int:
    """Who it is at the other end, or who began to listen there."""
    credentials = peer.getsockopt(SOL_SOCKET, SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(credentials)[1]
    return user


# --- the successor -------------------------------------------------------------------------------


def ask(name: str, patience: float = PATIENCE, *, anybody: bool = False) -> Heritage | None:
    """Be handed over what there is; None if nobody has the desk. Waits for up to so many seconds.

    Lost if somebody has it and does not hand over, or is of another user, whose sockets are not to be
    trusted. `anybody`: root asks, and wants flags alone; then whoever it is will do.
    """
    until = monotonic() + patience
    while True:
        try:
            return _ask(name, until, anybody and os.geteuid() == 0)
        except ConnectionRefusedError:
            return None
        except _Gone as error:  # whoever it was has gone; perhaps there is another one now
            if monotonic() > until:
                raise Lost(str(error)) from None
        except TimeoutError:
            raise Lost(f"it does not answer within {patience:.3g} s") from None
        except OSError as error:
            if error.errno != errno.EAGAIN:  # many ask
                raise Lost(f"it cannot be asked: {error.strerror}") from None
            if monotonic() > until:
                raise Lost("it answers nobody") from None
        time.sleep(_AGAIN)


def _ask(name: str, until: float, anybody: bool) -> Heritage:
    sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    descriptors: list[int] = []
    try:
        sock.settimeout(max(_AGAIN, until - monotonic()))
        sock.connect(b"\0" + name.encode())
        user = user_of(sock)
        if not anybody and user not in (0, os.geteuid()):
            raise Lost(f"it is user {user}'s")
        data = _receive(sock, descriptors)
        count = msgspec.msgpack.decode(data, type=_Head).descriptors
        while len(descriptors) < count:
            _receive(sock, descriptors)
    except BaseException as error:
        close_all(descriptors)
        if isinstance(error, msgspec.MsgspecError):
            raise Lost(f"it cannot be understood: {error}") from None
        raise
    finally:
        sock.close()
    return Heritage(data, descriptors)


def _receive(sock: socket, descriptors: list[int]) -> bytes:
    """One message; its descriptors are added. _Gone if there is none any more."""
    item = array("i")
    try:
        data, control, _, _ = sock.recvmsg(_MESSAGE, CMSG_SPACE(_AT_ONCE * item.itemsize), MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        data, control = b"", []
    for level, kind, value in control:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            item.frombytes(value[: len(value) - len(value) % item.itemsize])
    descriptors.extend(item)
    if not data:
        raise _Gone("it ended before it had handed over")
    return data


# --- the end ---------------------------------------------------------------------------------------


def end(name: str = NAME, *, led: bool, patience: float = PATIENCE) -> bool:
    """Have the workers that serve take nobody any more, and end when their connections have, or with the time
    these have; so that nobody comes after them. Returns when they have heard it; False if there are none.

    `led`: also where their control process lives, which writes nothing any more then. Lost as in `ask`.
    """
    heritage = ask(name, patience, anybody=True)
    if heritage is None:
        return False
    try:
        if not is_flag(heritage.over):
            raise Lost("what it sent is no flag")  # root's writing is worth more than who sent it
        if heritage.led and not led:
            return False
        hoist(heritage.over)
        until = monotonic() + patience
        while heritage.told >= 0 and not is_up(heritage.told) and monotonic() < until:
            time.sleep(_AGAIN)
        return True
    finally:
        heritage.close()
