"""
Answers to clients, sent from the very address and port that each had asked.

By a raw socket for all of them. A UDP socket with a way's port would keep that port from everybody on the
node who wants it at all addresses (a name server at 53, say), and be kept from it by them; and a rule that
looks for sockets of ours would lead the datagrams of all clients to it. For a train of datagrams it takes
one, though, and then one that is connected to the client: see `datagrams`.

Source: raw(7), net/ipv4/raw.c, net/ipv6/raw.c, RFC 768, RFC 1071.
"""

from __future__ import annotations

from _socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_UDP,
    IPV6_CHECKSUM,
    IPV6_PKTINFO,
    SO_MARK,
    SO_RCVBUF,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_RAW,
    SOL_SOCKET,
    socket,
)
from errno import EAFNOSUPPORT, EPERM
from struct import Struct, unpack
from typing import Any, Final

from kubeway.shell.relay.streams import IP_TRANSPARENT, IPV6_TRANSPARENT
from kubeway.values import Ip

_IP_PKTINFO: Final = 8
_IP_MTU_DISCOVER: Final = 10
_IP_PMTUDISC_DONT: Final = 0

# A raw socket is given a copy of all UDP that comes to its address. So it has one that nothing comes to: the
# dummy address (RFC 7600), and one to be discarded (RFC 6666). What it sends has the way's.
_NOBODYS: Final = ("192.0.0.8", 0)
_NOBODYS6: Final = ("100::1", 0)

_header: Final = Struct(">HHHH").pack  # struct udphdr: from port, to port, length, checksum


def _sum(data: bytes) -> int:
    return sum(unpack(f">{len(data) // 2}H", data))


def probe() -> str:
    """What is missing for UDP clients to be answered, in one sentence; "" if nothing is."""
    for family in (AF_INET, AF_INET6):
        try:
            Replies(family).close()
        except OSError as error:
            if error.errno == EPERM:
                return (
                    "UDP clients can only be answered with CAP_NET_RAW: run as root, or in a container with "
                    "securityContext.capabilities.add: [NET_ADMIN, NET_RAW]"
                )
            if error.errno == EAFNOSUPPORT and family == AF_INET6:
                continue  # where there is no IPv6, nobody asks by it
            version = 4 if family == AF_INET else 6
            return f"UDP clients of IPv{version} cannot be answered: {error.strerror}"
    return ""


class Replies:
    """To clients of one family, with this mark unless it is 0. OSError if the kernel has no such socket for
    us: needs CAP_NET_RAW."""

    def __init__(self, family: int, mark: int = 0) -> None:
        self._sock = sock = socket(family, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP)
        try:
            if mark:
                sock.setsockopt(SOL_SOCKET, SO_MARK, mark)
            if family == AF_INET:
                sock.setsockopt(IPPROTO_IP, IP_TRANSPARENT, 1)
                # Who says that a datagram was too large on the way says it to the way's address, where nobody
                # hears it for us. So routers may take them apart.
                sock.setsockopt(IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
                sock.bind(_NOBODYS)
            else:
                sock.setsockopt(IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
                sock.setsockopt(IPPROTO_IPV6, IPV6_CHECKSUM, 6)  # the kernel puts it there
                sock.bind(_NOBODYS6)
            sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 0)
        except BaseException:
            sock.close()
            raise
        self.send = sock.sendmsg

    def close(self) -> None:
        self._sock.close()


class Reply:
    """From a way in to a client. `client`: as the socket has it."""

    __slots__ = ("_base", "_from", "_port", "_send", "_to", "_to_port")

    def __init__(self, replies: Replies, ip: Ip, port: int, client_ip: Ip, client: Any) -> None:
        self._send = replies.send
        self._port, self._to_port = port, client[1]
        if len(ip) == 4:
            self._to: Any = (client[0], 0)
            self._from = [(IPPROTO_IP, _IP_PKTINFO, bytes(4) + ip + bytes(4))]
            self._base = _sum(ip + client_ip) + IPPROTO_UDP + port + int(client[1]) + 16
        else:
            self._to = (client[0], 0, 0, client[3])
            self._from = [(IPPROTO_IPV6, IPV6_PKTINFO, ip + bytes(4))]
            self._base = 0

    def send(self, data: memoryview, size: int) -> None:
        """One datagram of `size` bytes. OSError, as `sendmsg` has it."""
        check = 0
        if self._base:
            # The ones' complement sum of 16-bit words is the number modulo 65535: big numbers do it at once.
            words = int.from_bytes(data, "big")
            if size & 1:
                words <<= 8
            check = 65535 - (self._base + 2 * size + words) % 65535
        self._send((_header(self._port, self._to_port, size + 8, check), data), self._from, 0, self._to)
