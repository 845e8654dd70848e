"""
A netlink socket: sends requests to the kernel and collects its answers.

It knows how the kernel answers (acks, dumps, overruns) and nothing of what is
asked. The kernel works inside the send call, so an answer is never waited for
long. One thread at a time may use a socket.

Source: include/uapi/linux/netlink.h, net/netlink/af_netlink.c.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from struct import Struct
from types import TracebackType
from typing import Final, Self

from kubeway.errors import Lost, Malformed, Refused, Stale, Unsupported
from kubeway.wire.netlink import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    Ack,
    Message,
    messages,
    read_ack,
)
from kubeway.wire.nfnetlink import NETLINK_NETFILTER

_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_NETLINK_GET_STRICT_CHK: Final = 12
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_SO_RCVTIMEO: Final = 20

_SEND_BUFFER: Final = 1 << 30  # room for any batch; memory is only used by what is sent
_RECEIVE_BUFFER: Final = 64 << 20  # room for the acks of 100,000 refused messages
_SCRATCH: Final = 1 << 20
_OVERHEAD: Final = 32  # what the kernel keeps of the send buffer for itself
_PATIENCE: Final = 30  # seconds; only a broken kernel takes as long

_SEQUENCE: Final = Struct("=I")
_TIMEVAL: Final = Struct("@ll")


def describe(ack: Ack) -> str:
    """The kernel's words for an error: its own if it sent any, and the number's name."""
    name = errno.errorcode.get(ack.errno, f"error {ack.errno}")
    words = ack.words or (os.strerror(ack.errno) if ack.errno in errno.errorcode else "unknown")
    return f"{words} ({name})"


def refused(ack: Ack, change: str = "", origin: str = "") -> Refused:
    """The error to raise for an ack that is one."""
    return Refused(describe(ack), ack.errno, change, origin)


class NetlinkSocket:
    """A blocking netlink socket in the network namespace of the thread that makes it."""

    def __init__(self, protocol: int = NETLINK_NETFILTER) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise Unsupported(f"this kernel has no netlink protocol {protocol}: {error.strerror}") from error
        self._buffer = bytearray(_SCRATCH)
        self._view = memoryview(self._buffer)
        self._next = 1
        try:
            self._configure()
        except BaseException:
            self._socket.close()
            raise

    def _configure(self) -> None:
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVTIMEO, _TIMEVAL.pack(_PATIENCE, 0))
        self._grow(_SO_SNDBUFFORCE, socket.SO_SNDBUF, _SEND_BUFFER)
        self._grow(_SO_RCVBUFFORCE, socket.SO_RCVBUF, _RECEIVE_BUFFER)

    def be_strict(self) -> None:
        """Have rtnetlink tell in a dump only what was asked for. Kernels before 4.20 go on telling all."""
        with suppress(OSError):
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)

    def _grow(self, force: int, ask: int, size: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:
            # A user namespace's root may not force; the system's limit applies.
            self._socket.setsockopt(socket.SOL_SOCKET, ask, size)

    @property
    def send_limit(self) -> int:
        """The most bytes one `transact` can send."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _OVERHEAD

    @property
    def port(self) -> int:
        """This socket's address: what the kernel calls the author of our changes."""
        pid: int = self._socket.getsockname()[0]
        return pid

    def reserve(self, count: int) -> int:
        """The first of `count` sequence numbers nobody else uses on this socket."""
        first = self._next
        if first + count > 0xFFFFFFFF:
            first = 1
        self._next = first + count
        return first

    def transact(self, data: bytes | bytearray) -> list[Ack]:
        """Send one buffer of requests and return every ack and refusal, in the kernel's order.

        A request is acked if it fails or bears NLM_F_ACK; so no refusal in the
        list means that all were done. Replies that are not acks are left out.

        Unsupported if the buffer is larger than this socket may send: nothing
        was done. Lost if the kernel had more to say than the socket could hold.
        """
        self._send(data)
        acks: list[Ack] = []
        while (received := self._receive(socket.MSG_DONTWAIT)) is not None:
            acks += [read_ack(m) for m in messages(received) if m.kind in (NLMSG_ERROR, NLMSG_DONE)]
        return acks

    def stream(self, request: bytes) -> Iterator[Message]:
        """The answers to a dump request, as they come in. The request's sequence number is set here.

        Ask nothing else before it has ended. Stale, after the last answer, if the
        kernel's list changed while it was read. Refused, Lost.
        """
        sequence = self._ask(request)
        done: Ack | None = None
        torn = 0
        try:
            while done is None:
                received = self._receive(0)
                if received is None:
                    raise Lost(f"netlink: no answer to a dump within {_PATIENCE} s")
                for m in messages(received):
                    if m.sequence != sequence:
                        continue  # what an earlier, broken conversation left behind
                    torn |= m.flags & NLM_F_DUMP_INTR
                    if m.kind == NLMSG_DONE or m.kind == NLMSG_ERROR:
                        done = read_ack(m)
                        break
                    yield m
        finally:
            if done is None:  # abandoned: a dump that is not read to its end blocks the next one
                self._discard()
        self._finish(done, bool(torn))

    @staticmethod
    def _finish(ack: Ack, torn: bool) -> None:
        if ack.errno:
            raise refused(ack, "a dump")
        if torn:
            raise Stale("netlink: what was being read changed meanwhile (NLM_F_DUMP_INTR)")

    def dump(self, request: bytes) -> list[Message]:
        """All answers to a dump request. Stale, Refused or Lost as `stream`."""
        return list(self.stream(request))

    def ask(self, request: bytes) -> Message:
        """The single answer to a request that is no dump. Refused with its errno, or Lost."""
        sequence = self._ask(request)
        while (received := self._receive(0)) is not None:
            for m in messages(received):
                if m.sequence != sequence:
                    continue
                if m.kind != NLMSG_ERROR:
                    return m
                ack = read_ack(m)
                if ack.errno:
                    raise refused(ack, "a request")
                raise Malformed("netlink: an ack where an answer was expected")
        raise Lost(f"netlink: no answer within {_PATIENCE} s")

    def _ask(self, request: bytes) -> int:
        sequence = self.reserve(1)
        self._send(request[:8] + _SEQUENCE.pack(sequence) + request[12:])
        return sequence

    def _send(self, data: bytes | bytearray) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise Unsupported(
                    f"netlink: {len(data)} bytes are over this socket's limit of {self.send_limit}; "
                    "raise net.core.wmem_max or run with CAP_NET_ADMIN in the first user namespace"
                ) from error
            raise refused(Ack(0, error.errno or 0, ""), f"sending {len(data)} bytes") from error

    def _receive(self, flags: int) -> bytes | None:
        """One datagram; None if there is none (now, or in all patience)."""
        try:
            # With MSG_TRUNC the kernel returns the true length, so a cut is noticed.
            size = self._socket.recv_into(self._buffer, 0, flags | socket.MSG_TRUNC)
        except BlockingIOError:
            return None
        except OSError as error:
            self._discard()
            raise Lost(f"netlink: answers were lost: {error.strerror}") from error
        if size > len(self._buffer):
            self._discard()
            raise Lost(f"netlink: an answer of {size} bytes, where {len(self._buffer)} can be read")
        return bytes(self._view[:size])

    def _discard(self) -> None:
        """Empty the queue, so that the next conversation begins with its own answers."""
        while True:
            try:
                self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # told once per overrun, then reading goes on
                    return

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
