"""
UDP sockets as the relay needs them: for addresses that are not the node's, and for many datagrams at once.

Which session they serve is not known here. All raise OSError as the kernel does.

Source: udp(7), ip(7), ipv6(7), include/uapi/linux/udp.h, net/ipv4/udp.c.
"""

from __future__ import annotations

import sys
from _socket import (
    AF_INET,
    AF_INET6,
    CMSG_LEN,
    CMSG_SPACE,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_UDP,
    IPV6_V6ONLY,
    SO_MARK,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOL_SOCKET,
    inet_ntop,
    socket,
)
from struct import pack, unpack
from typing import Any, Final

from kubeway.shell.relay.mmsg import DATA, NAME, Batch, Told, ancillary, apart
from kubeway.shell.relay.transparent import transparent
from kubeway.values import Ip

IP_RECVORIGDSTADDR: Final = 20
IPV6_RECVORIGDSTADDR: Final = 74
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
SO_RCVBUFFORCE: Final = 33

BUFFER: Final = bytearray(DATA)
"""What is read one by one is read into this."""
VIEW: Final = memoryview(BUFFER)
BUFFERS: Final = (BUFFER,)

TOLD: Final = CMSG_SPACE(28) + CMSG_SPACE(4)
"""Room for what comes with a datagram: a struct sockaddr_in6, and the size of a train's pieces."""

_WAITING: Final = 4 << 20  # bytes of datagrams not yet read: all clients' come by one socket
_ANSWERS: Final = 1 << 20  # the same of one session: as much as a sender may have under way at once
_UDP: Final = SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC


def family(ip: bytes) -> int:
    return AF_INET if len(ip) == 4 else AF_INET6


def listen(place: Any, af: int) -> socket:
    """What `tproxy` leads to: says of each datagram where it was sent to, and takes trains of them.

    Others may listen at the same place (a daemon before this one). Clients are spread over them by address
    and port then, whatever program the group has: nf_tproxy looks for a socket without the packet
    (net/ipv4/netfilter/nf_tproxy_ipv4.c). `place`: as `bind` has it.
    """
    sock = socket(af, _UDP, IPPROTO_UDP)
    try:
        transparent(sock)
        if af == AF_INET:
            sock.setsockopt(IPPROTO_IP, IP_RECVORIGDSTADDR, 1)
        else:
            sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
            sock.setsockopt(IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1)
        sock.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)
        sock.setsockopt(SOL_SOCKET, SO_RCVBUFFORCE, _WAITING)
        gather(sock)
        sock.bind(place)
    except BaseException:
        sock.close()
        raise
    return sock


def between(af: int, here: Any, there: Any, foreign: bool = True, mark: int = 0) -> socket:
    """A socket for datagrams from one place to another, and back. `foreign`: `here` need not be the node's.
    If it has a port, others of ours may have the same one, as long as they have another `there`. `mark`: of
    what it sends, 0 for none."""
    sock = socket(af, _UDP, IPPROTO_UDP)
    try:
        if mark:
            sock.setsockopt(SOL_SOCKET, SO_MARK, mark)
        if foreign:
            transparent(sock)
        if here[1]:
            sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        sock.setsockopt(SOL_SOCKET, SO_RCVBUFFORCE, _ANSWERS)
        sock.bind(here)
        sock.connect(there)
    except BaseException:
        sock.close()
        raise
    return sock


# --- what comes by a listener ------------------------------------------------------------------

Sender = bytes
"""Who sent a datagram, and where to: two struct sockaddr_in or sockaddr_in6, as the kernel writes them with
it (the second one as ancillary data)."""

_AT_ONCE: Final = 64


class Inbox:
    """Many datagrams at a time, from sockets of `listen` of one family. What is here is there until the next
    ones are."""

    def __init__(self, af: int) -> None:
        names = 16 if af == AF_INET else 28
        self._batch = batch = Batch(_AT_ONCE, names, TOLD)
        self.sizes, self.data, self.told = batch.received, batch.data, batch.controls
        """Of each, how long it is, what it holds, and how much came with it."""
        self.lone = CMSG_SPACE(names)
        """So much does with one that is no train."""
        self.senders = [end[: NAME + CMSG_LEN(names)] for end in batch.ends]
        """Who sent each that is no train."""

    def fill(self, fd: int) -> int:
        """How many have come. OSError: none has."""
        return self._batch.receive(fd)

    def train(self, at: int) -> tuple[Sender, int]:
        """Who sent one that came with more than that, and the size of its pieces, 0 if it is no train."""
        end = bytes(self._batch.ends[at][: NAME + self.told[at]])
        told = apart(end[NAME:])
        return end[:NAME] + ancillary(*told[-1]), pieces(told)


def parties(sender: Sender) -> tuple[Any, bytes]:
    """The client, as sockets have it, and the struct sockaddr that it sent to."""
    there = sender[NAME + CMSG_LEN(0) :]
    ip, port = came_to(sender[: len(there)])
    client = inet_ntop(family(ip), ip), port
    if len(ip) == 4:
        return client, there
    flow, scope = int.from_bytes(sender[4:8], "big"), int.from_bytes(sender[24:28], sys.byteorder)
    return (*client, flow, scope), there


def came_to(told: bytes) -> tuple[Ip, int]:
    """The address and port in a struct sockaddr_in or sockaddr_in6."""
    return Ip(told[8:24] if len(told) == 28 else told[4:8]), int.from_bytes(told[2:4], "big")


# --- trains: datagrams of one size from one sender to one receiver, in one piece (GSO, GRO) ----------------


def gather(sock: socket) -> None:
    """Read trains as they are; with each is told the size of its pieces, the last of which may be smaller."""
    sock.setsockopt(IPPROTO_UDP, UDP_GRO, 1)


def pieces(told: Told) -> int:
    """The size of each datagram in what was read; 0 if it was but one."""
    for level, kind, value in told:
        if level == IPPROTO_UDP and kind == UDP_GRO:
            return int(unpack("=i", value)[0])
    return 0


def in_pieces(size: int) -> Told:
    """To be sent with a train: have the kernel, or the device, take it apart."""
    return [(IPPROTO_UDP, UDP_SEGMENT, pack("=H", size))]
