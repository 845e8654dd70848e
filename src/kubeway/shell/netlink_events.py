"""
Events of the kernel's netlink, for who looks at them now and then: a socket in groups that never waits.

What the events are about is not known here. They are lost when nobody looks for long, and that is told.

Source: net/netlink/af_netlink.c (netlink_overrun), include/uapi/linux/filter.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from struct import Struct
from typing import Final

from kubeway.errors import Lost, Unsupported
from kubeway.wire.netlink import Message, messages

_SO_ATTACH_FILTER: Final = 26
_SO_RCVBUFFORCE: Final = 33
_PROGRAM: Final = Struct("@HP")  # struct sock_fprog: steps, where they are
_STEP: Final = 8  # bytes of a struct sock_filter

_RECEIVE_BUFFER: Final = 8 << 20  # some thousand events between two looks; memory is only used by what comes
_SCRATCH: Final = 1 << 16


class NetlinkEvents:
    """Listens in the network namespace of the thread that makes it.

    `groups`: bits, as in the socket's address. `sieve`: a classic BPF program that says which events are
    let through; b"" lets all.
    """

    def __init__(self, protocol: int, groups: int, sieve: bytes = b"") -> None:
        try:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        except OSError as error:
            raise Unsupported(f"this kernel has no netlink protocol {protocol}: {error.strerror}") from error
        try:
            if sieve:
                self._attach(sieve)
            with suppress(PermissionError):  # then the system's default has to do
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
            self._socket.bind((0, groups))
        except BaseException:
            self._socket.close()
            raise

    def _attach(self, sieve: bytes) -> None:
        steps = ctypes.create_string_buffer(sieve, len(sieve))  # the kernel copies them within the call
        program = _PROGRAM.pack(len(sieve) // _STEP, ctypes.addressof(steps))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def heard(self) -> Iterator[Message]:
        """What came since the last look. Lost if there was more than could be kept: some of it is missing."""
        while True:
            try:
                data = self._socket.recv(_SCRATCH)
            except BlockingIOError:
                return
            except OSError as error:
                number = error.errno or errno.EIO
                raise Lost(f"netlink: events were lost: {os.strerror(number)}") from error
            yield from messages(data)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
