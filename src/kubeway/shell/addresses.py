"""
The addresses of this node: all of all interfaces of our network namespace.
"""

from __future__ import annotations

from typing import Final

from kubeway.errors import Stale
from kubeway.shell.netlink import NetlinkSocket
from kubeway.values import Ip
from kubeway.wire.rtnetlink import NETLINK_ROUTE, addresses_request, read_address

_ATTEMPTS: Final = 5


def local_addresses() -> frozenset[Ip]:
    """Every IPv4 and IPv6 address of every interface, loopback included.

    Stale if interfaces changed during each of five readings.
    """
    with NetlinkSocket(NETLINK_ROUTE) as route:
        for _ in range(_ATTEMPTS - 1):
            try:
                return _read(route)
            except Stale:
                continue
        return _read(route)


def _read(route: NetlinkSocket) -> frozenset[Ip]:
    found = (read_address(m) for m in route.stream(addresses_request()))
    return frozenset(ip for ip in found if ip is not None)
