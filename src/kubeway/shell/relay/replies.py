"""
Answers to clients, sent from the very address and port that each had asked.

By a raw socket for all of them, many at a time. A UDP socket with a way's port would keep that port from
everybody on the node who wants it at all addresses (a name server at 53, say), and be kept from it by them;
and a rule that looks for sockets of ours would lead the datagrams of all clients to it. For a train of
datagrams it takes one, though, and then one that is connected to the client: see `datagrams`.

Source: raw(7), net/ipv4/raw.c, net/ipv6/raw.c, RFC 768, RFC 1071.
"""

from __future__ import annotations

from _socket import (
    AF_INET,
    AF_INET6,
    CMSG_LEN,
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
from collections.abc import Callable
from errno import EAFNOSUPPORT, EPERM
from struct import Struct, unpack
from typing import Any, Final

from kubeway.planes.relay.entrance import Tally
from kubeway.shell.relay.mmsg import NAME, Batch, ancillary
from kubeway.shell.relay.transparent import transparent
from kubeway.values import Ip

_IP_PKTINFO: Final = 8
_IP_MTU_DISCOVER: Final = 10
_IP_PMTUDISC_DONT: Final = 0

# A raw socket is given a copy of all UDP that comes to its address. So it has one that nothing comes to: the
# dummy address (RFC 7600), and one to be discarded (RFC 6666). What it sends has the way's.
_NOBODYS: Final = ("192.0.0.8", 0)
_NOBODYS6: Final = ("100::1", 0)

_HEAD: Final = 8
_header: Final = Struct(">HHHH").pack_into  # struct udphdr: from port, to port, length, checksum
_sockaddr_in: Final = Struct(f"=HH4s{NAME - 8}x").pack  # no port: a raw socket has none
_sockaddr_in6: Final = Struct(f"=HHI16sI{NAME - 28}x").pack

_TOGETHER: Final = 16  # more take no less of a processor each, and wait longer

Later = Callable[[Callable[[], None]], None]


def _sum(data: bytes) -> int:
    return sum(unpack(f">{len(data) // 2}H", data))


def probe() -> str:
    """What is missing for UDP clients to be answered, in one sentence; "" if nothing is."""
    for family in (AF_INET, AF_INET6):
        try:
            speaker(family).close()
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


def speaker(family: int, mark: int = 0) -> socket:
    """What answers to clients of one family leave by, with this mark unless it is 0. OSError if the kernel
    has no such socket for us: needs CAP_NET_RAW."""
    sock = socket(family, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP)
    try:
        if mark:
            sock.setsockopt(SOL_SOCKET, SO_MARK, mark)
        transparent(sock)
        if family == AF_INET:
            # Who says that a datagram was too large on the way says it to the way's address, where nobody
            # hears it for us. So routers may take them apart.
            sock.setsockopt(IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
            sock.bind(_NOBODYS)
        else:
            sock.setsockopt(IPPROTO_IPV6, IPV6_CHECKSUM, 6)  # the kernel puts it there
            sock.bind(_NOBODYS6)
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 0)
    except BaseException:
        sock.close()
        raise
    return sock


class Replies:
    """To clients of one family, by a `speaker`. They leave together, when `later` does what it is given, or
    when there are many."""

    def __init__(self, sock: socket, later: Later) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self.lost = 0
        """Answers that went nowhere."""
        names, control = (16, CMSG_LEN(12)) if sock.family == AF_INET else (28, CMSG_LEN(20))
        self._batch = Batch(_TOGETHER, names, control, _HEAD)
        self._later = later
        self._count = 0
        self._tallies: list[Tally | None] = [None] * _TOGETHER
        self.room = self._batch.data[0]
        """Where the data of the next one has to be."""

    def put(self, reply: Reply, n: int, tally: Tally) -> None:
        """Send it, with the `n` bytes that are in `room`, which is another one from now on. They are put down
        with `tally`."""
        at, batch = self._count, self._batch
        check = 0
        if reply.base:
            # The ones' complement sum of 16-bit words is the number modulo 65535: big numbers do it at once.
            words = int.from_bytes(self.room[:n], "big")
            if n & 1:
                words <<= 8
            check = 65535 - (reply.base + 2 * n + words) % 65535
        _header(batch.heads[at], 0, reply.port, reply.to_port, n + _HEAD, check)
        batch.ends[at][:] = reply.ends
        batch.lengths[at] = n + _HEAD
        self._tallies[at] = tally
        tally.received += n
        if not at:
            self._later(self.flush)
        self._count = at = at + 1
        if at == _TOGETHER:
            self.flush()
        else:
            self.room = batch.data[at]

    def flush(self) -> None:
        """Have all leave that were put until now."""
        at, count = 0, self._count
        while at < count:
            try:
                at += self._batch.send(self._fd, at, count)
            except OSError:
                # A client that is gone is missed by nobody, and its session ends in time.
                tally = self._tallies[at]
                assert tally is not None
                tally.received -= self._batch.lengths[at] - _HEAD
                self.lost += 1
                at += 1
        self._count = 0
        self.room = self._batch.data[0]

    def close(self) -> None:
        self.flush()
        self._sock.close()


class Reply:
    """From a way in to a client. `client`: as the socket has it."""

    __slots__ = ("base", "ends", "port", "to_port")

    def __init__(self, ip: Ip, port: int, client_ip: Ip, client: Any) -> None:
        self.port, self.to_port = port, client[1]
        if len(ip) == 4:
            name = _sockaddr_in(AF_INET, 0, client_ip)
            told = ancillary(IPPROTO_IP, _IP_PKTINFO, bytes(4) + ip + bytes(4))
            self.base = _sum(ip + client_ip) + IPPROTO_UDP + port + int(client[1]) + 16
        else:
            name = _sockaddr_in6(AF_INET6, 0, 0, client_ip, client[3])
            told = ancillary(IPPROTO_IPV6, IPV6_PKTINFO, ip + bytes(4))
            self.base = 0
        self.ends = name + told
        """Where to and where from, as a message has it (`mmsg.Batch.ends`)."""
