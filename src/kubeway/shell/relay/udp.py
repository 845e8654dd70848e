"""
UDP sockets as the relay needs them: for addresses that are not the node's, and for many datagrams at once.

Which session they serve is not known here. All raise OSError as the kernel does.

Source: udp(7), ip(7), ipv6(7), include/uapi/linux/udp.h, net/ipv4/udp.c.
"""

from __future__ import annotations

from _socket import (
    AF_INET,
    AF_INET6,
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
    socket,
)
from struct import pack, unpack
from typing import Any, Final

from kubeway.shell.relay.streams import IP_TRANSPARENT, IPV6_TRANSPARENT

IP_RECVORIGDSTADDR: Final = 20
IPV6_RECVORIGDSTADDR: Final = 74
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
SO_RCVBUFFORCE: Final = 33

BUFFER: Final = bytearray(1 << 16)
"""What every datagram is read into; it holds the largest, and the largest train of them, there can be."""
VIEW: Final = memoryview(BUFFER)
BUFFERS: Final = (BUFFER,)

TOLD: Final = CMSG_SPACE(28) + CMSG_SPACE(4)
"""Room for what comes with a datagram: a struct sockaddr_in6, and the size of a train's pieces."""

Told = list[tuple[int, int, bytes]]

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


def transparent(sock: socket) -> None:
    """Have it speak for addresses that are not the node's, too (CAP_NET_ADMIN). Of any protocol."""
    if sock.family == AF_INET:
        sock.setsockopt(IPPROTO_IP, IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(IPPROTO_IPV6, IPV6_TRANSPARENT, 1)


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
