"""
The addresses of this node: all of all interfaces of our network namespace but the one that bears Services'.
"""

from __future__ import annotations

import errno
from typing import Final

from kubeway.errors import Refused, Stale
from kubeway.planes.link import DEVICE
from kubeway.shell.netlink import NetlinkSocket
from kubeway.values import Ip
from kubeway.wire.rtnetlink import (
    NETLINK_ROUTE,
    addresses_request,
    is_on,
    link_request,
    read_address,
    read_link,
)

_ATTEMPTS: Final = 5


def local_addresses() -> frozenset[Ip]:
    """Every IPv4 and IPv6 address of every interface, loopback included.

    Those of `kube-ipvs0` are Services', whichever proxy put them there, and in whatever mode we are.
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
    services = _index_of_services(route)
    # There may be ten thousand, and this is asked every few seconds.
    found = (read_address(m) for m in route.stream(addresses_request()) if not is_on(m, services))
    return frozenset(address.ip for address in found if address is not None)


def _index_of_services(route: NetlinkSocket) -> int:
    """The link's index; 0, which none has, if there is no such link."""
    try:
        return read_link(route.ask(link_request(DEVICE))).ifindex
    except Refused as error:
        if error.errno != errno.ENODEV:
            raise
        return 0
