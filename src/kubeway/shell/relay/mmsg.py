"""
Many datagrams by one call: recvmmsg(2) and sendmmsg(2), and the memory that they want, laid out once.

Python's socket has neither. Where many datagrams wait, one call for each of them costs more than all the rest
that is done with a small one here. Everything is read and written through views of plain memory: of a
structure, ctypes would make an object for every look.

Source: recvmmsg(2), sendmmsg(2), include/uapi/linux/socket.h, struct mmsghdr in include/linux/socket.h.
"""

from __future__ import annotations

import ctypes
import os
from _socket import CMSG_LEN, CMSG_SPACE, MSG_DONTWAIT
from mmap import mmap
from struct import Struct
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_recvmmsg, _sendmmsg = _libc.recvmmsg, _libc.sendmmsg


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("about", _Msghdr), ("len", ctypes.c_uint32))


_HEADER: Final = ctypes.sizeof(_Mmsghdr)
_WORD: Final = ctypes.sizeof(ctypes.c_size_t)

NAME: Final = 32
"""Room for a struct sockaddr_in or sockaddr_in6."""
DATA: Final = 1 << 16
"""Room for the largest datagram, or the largest train of them, there can be."""


class Batch:
    """Room for `count` messages, each with `head` bytes before up to 64 KiB of data, and with `control` bytes
    of ancillary data. `names`: how long their names are."""

    def __init__(self, count: int, names: int, control: int, head: int = 0) -> None:
        self._count, self._control, self._used = count, control, 0
        each = head + DATA
        # Of anonymous memory only what was used is there.
        self._memory = mmap(-1, count * each)
        self._ends = bytearray(count * (NAME + control))
        self._headers = bytearray(count * _HEADER)
        self._iovecs = bytearray(count * ctypes.sizeof(_Iovec))
        data, ends = (ctypes.addressof(ctypes.c_char.from_buffer(of)) for of in (self._memory, self._ends))
        headers = (_Mmsghdr * count).from_buffer(self._headers)
        iovecs = (_Iovec * count).from_buffer(self._iovecs)
        for at, iovec in enumerate(iovecs):
            header = headers[at].about
            iovec.base, iovec.len = data + at * each, each
            header.name, header.namelen = ends + at * (NAME + control), names
            header.iov, header.iovlen = ctypes.addressof(iovec), 1
            header.control, header.controllen = header.name + NAME, control
        self._at = [ctypes.c_void_p(ctypes.addressof(header)) for header in headers]

        memory, around = memoryview(self._memory), memoryview(self._ends)
        self.heads = [memory[at * each : at * each + head] for at in range(count)]
        self.data = [memory[at * each + head : (at + 1) * each] for at in range(count)]
        self.ends = [around[at * (NAME + control) : (at + 1) * (NAME + control)] for at in range(count)]
        """Of each message its name, in NAME bytes, and its ancillary data."""
        self.lengths = memoryview(self._iovecs).cast("L")[1::2]
        """How much of each is to be sent, its head included."""
        self.received = memoryview(self._headers).cast("I")[_Mmsghdr.len.offset // 4 :: _HEADER // 4]
        """How much of each was received."""
        self.controls = memoryview(self._headers).cast("L")[
            _Msghdr.controllen.offset // _WORD :: _HEADER // _WORD
        ]
        """How much ancillary data came with each."""

    def receive(self, fd: int) -> int:
        """How many have come. OSError: none has, BlockingIOError for want of them."""
        for at in range(self._used):
            self.controls[at] = self._control  # it says how much came with the last one
        self._used = 0
        count: int = _recvmmsg(fd, self._at[0], self._count, MSG_DONTWAIT, None)
        if count < 0:
            raise _error()
        self._used = count
        return count

    def send(self, fd: int, first: int, last: int) -> int:
        """How many of these were sent, `last` not being one of them. OSError: the first of them cannot be."""
        count: int = _sendmmsg(fd, self._at[first], last - first, MSG_DONTWAIT)
        if count < 0:
            raise _error()
        return count


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


_cmsghdr: Final = Struct("@Nii")

Told = list[tuple[int, int, bytes]]
"""Ancillary data as `socket.recvmsg` has it: level, kind and value."""


def ancillary(level: int, kind: int, value: bytes) -> bytes:
    """A struct cmsghdr with its value."""
    return _cmsghdr.pack(CMSG_LEN(len(value)), level, kind) + value


def apart(data: bytes) -> Told:
    """What is in several of these, as the kernel writes them one after the other."""
    told, at = [], 0
    while at < len(data):
        length, level, kind = _cmsghdr.unpack_from(data, at)
        told.append((level, kind, data[at + CMSG_LEN(0) : at + length]))
        at += CMSG_SPACE(length - CMSG_LEN(0))
    return told
