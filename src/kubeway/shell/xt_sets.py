"""
The kernel's sets by name and by number, as rules know them: asked with a socket option, as iptables does.

Nothing is remembered: a set may come and go, and its number become another's. An answer takes microseconds.
Looking loads no module; where ipset's is not loaded, there is no set.

Source: net/netfilter/ipset/ip_set_core.c (ip_set_sockfn_get).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from typing import Final

from kubeway.errors import Refused
from kubeway.wire import xt_set as wire

_libc: Final = ctypes.CDLL(None, use_errno=True)

_NO_SETS: Final = errno.ENOPROTOOPT
"""Nobody has taken this option: ipset's module is not loaded."""
_NO_SUCH_NUMBER: Final = errno.EINVAL
"""So high that there is no room for one."""


class XtSets:
    """The sets of the network namespace it was made in. Needs CAP_NET_ADMIN, or raises Refused."""

    def __init__(self) -> None:
        # Any socket will do, so it is one that needs no privilege. Sets of both families are asked for by
        # IPv4; a kernel without it has none.
        try:
            self._socket: socket.socket | None = socket.socket(
                socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
            )
        except OSError:
            self._socket = None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def index(self, name: str) -> int | None:
        """The number of the set of this name; None if there is none."""
        try:
            asked = wire.ask_index(name)
        except ValueError:
            return None
        told = self._ask(asked, f"set {name}")
        return None if told is None else wire.read_index(told)

    def name(self, index: int) -> str | None:
        """The name of the set of this number; None if there is none."""
        told = self._ask(wire.ask_name(index), f"set number {index}")
        return None if told is None else wire.read_name(told)

    def _ask(self, asked: bytes, what: str) -> bytearray | None:
        """None if there is no such set."""
        if self._socket is None:
            return None
        buffer = bytearray(asked)
        size = ctypes.c_uint(len(buffer))
        room = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        fileno = self._socket.fileno()
        if _libc.getsockopt(fileno, socket.IPPROTO_IP, wire.SO_IP_SET, room, ctypes.byref(size)):
            number = ctypes.get_errno()
            if number in (_NO_SETS, _NO_SUCH_NUMBER):
                return None
            words = f"{os.strerror(number)} ({errno.errorcode.get(number, f'error {number}')})"
            raise Refused(words, number, f"asking for {what}")
        return buffer
