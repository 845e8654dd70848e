"""
What the workers of one control process share with one another, with those before and with those after them
(`handover`): made, and taken over, by the control process.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping

from kubeway.errors import KubewayError
from kubeway.planes.relay.datagram import TURNS
from kubeway.shell.relay.flags import flag, hoist, is_up
from kubeway.shell.relay.handover import Heritage, ask, close_all, open_desk
from kubeway.shell.relay.listeners import Listening, port_of
from kubeway.shell.relay.orders import Papers
from kubeway.values import UDP, Proto, show_ip

Handed = Mapping[Listening, list[socket.socket]]


class Generation:
    """`workers`: how many. `past`: what those before handed over, None if there were none. OSError."""

    def __init__(self, workers: int, desk: int, past: Heritage | None) -> None:
        self._past = past
        self._desk = desk
        self.turn = 0 if past is None else (past.turn + 1) % TURNS
        self.over = flag() if past is None else os.dup(past.over)
        self.taken, self._begun = flag(), flag()
        self._told, self._telling = os.pipe()
        self._memories = [os.memfd_create("kubeway-relay-memory") for _ in range(workers)]
        self._lives = [os.pipe() for _ in range(workers)]

    def papers(self, number: int) -> Papers:
        past = self._past
        return Papers(
            self._desk,
            self.taken,
            self.over,
            self._begun,
            self._told,
            self._telling,
            self._memories,
            [ends for ends, _ in self._lives],
            self._lives[number][1],
            -1 if past is None else past.told,
            [] if past is None else past.memories,
        )

    def take(self) -> bool:
        """It is the turn of these now. False if others were faster: then it never is."""
        past = self._past
        if past is not None and not hoist(past.taken):
            return False
        hoist(self._begun)
        return True

    def is_alone(self) -> bool:
        """Those before take nobody any more: all of them have said so, or are gone."""
        return self._past is None or self._past.told < 0 or is_up(self._past.told)

    def forget(self) -> None:
        """Those before; workers that are started later know nothing of them."""
        if self._past is not None:
            self._past.close()
            self._past = None

    def close(self) -> None:
        some = (self._desk, self.over, self.taken, self._begun, self._told, self._telling, *self._memories)
        close_all([*some, *(fd for both in self._lives for fd in both)])
        if self._past is not None:
            self._past.close()


def inherit(name: str, workers: int) -> tuple[Generation | None, Handed, str]:
    """A new generation; the listeners that those before it have; and a word if there is something the matter.

    Without a generation the workers cannot be succeeded, nor is there anybody whom they succeed.
    """
    try:
        past = ask(name)
        if past is None:
            return Generation(workers, open_desk(name).detach(), None), {}, ""
    except OSError as error:
        held = error.errno == errno.EADDRINUSE
        return None, {}, "somebody has begun at the same time" if held else str(error)
    except KubewayError as error:
        return None, {}, str(error)
    handed: dict[Listening, list[socket.socket]] = {}
    for what, sock in _sockets(past):
        handed.setdefault(what, []).append(sock)
    return Generation(workers, os.dup(past.desk), past), handed, past.foreign


def _sockets(past: Heritage) -> Iterator[tuple[Listening, socket.socket]]:
    """Of each kind in order; those that are not what they are said to be are closed."""
    for kept, fd in sorted(past.listeners, key=lambda one: one[0].member):
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            continue
        what = Listening(kept.list_, kept.keeps, kept.ip, kept.port, kept.transparent, Proto(kept.proto))
        if _is(sock, what, kept.member):
            yield what, sock
        else:
            sock.close()
    past.listeners = []


def _is(sock: socket.socket, what: Listening, member: int) -> bool:
    try:
        ip, port = sock.getsockname()[:2]
    except (OSError, ValueError, TypeError):
        return False
    kind = socket.SOCK_DGRAM if what.proto == UDP else socket.SOCK_STREAM
    return sock.type == kind and ip == show_ip(what.ip) and port_of(what, member) in (0, port)
