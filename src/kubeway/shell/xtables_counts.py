"""
How many entries each legacy table has, where its hooks begin, and its size: asked in microseconds.

A table that is not there is not asked for, as the kernel would make it. Nearly every change moves one
of these numbers; which do not says `Counts`.

Source: include/uapi/linux/netfilter_ipv4/ip_tables.h, net/ipv4/netfilter/ip_tables.c (get_info),
net/netfilter/x_tables.c (xt_find_table_lock, which makes a table that is asked for).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from struct import Struct
from typing import Final

from kubeway.errors import Refused, Unsupported
from kubeway.planes.xtables.objects import Family, TableName
from kubeway.planes.xtables.text import TABLES

_FAMILIES: Final[tuple[tuple[Family, int, int], ...]] = (
    ("ip", socket.AF_INET, socket.IPPROTO_IP),
    ("ip6", socket.AF_INET6, socket.IPPROTO_IPV6),
)
_NAMES: Final[dict[Family, str]] = {
    "ip": "/proc/thread-self/net/ip_tables_names",
    "ip6": "/proc/thread-self/net/ip6_tables_names",
}
_GET_INFO: Final = 64  # IPT_SO_GET_INFO, and IP6T_SO_GET_INFO
_INFO: Final = Struct("=32s 13I")  # ipt_getinfo: name, valid hooks, 5 entries, 5 underflows, count, size
COUNT: Final = 11
"""Where in a table's numbers its entries are counted."""

_libc: Final = ctypes.CDLL(None, use_errno=True)

Place = tuple[Family, TableName]
Numbers = tuple[int, ...]


def present(family: Family) -> list[TableName]:
    """Those of our tables that are there in this thread's network namespace."""
    try:
        with open(_NAMES[family]) as file:
            names = set(file.read().split())
    except FileNotFoundError:
        return []  # this kernel has no legacy tables, or they are not loaded
    except OSError as error:
        raise Refused(error.strerror or str(error), error.errno or 0, f"reading {_NAMES[family]}") from error
    return [table for table in TABLES if table in names]


class Counts:
    """Not seen in the numbers: a rule in the place of one of the same size, and rules in another order.

    Needs CAP_NET_ADMIN.
    """

    def __init__(self) -> None:
        self._sockets: dict[Family, socket.socket] = {}
        for family, domain, _ in _FAMILIES:
            try:
                # Any socket will do, so the one that nobody needs a privilege for.
                self._sockets[family] = socket.socket(domain, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            except OSError as error:
                if family == "ip":
                    raise Unsupported(f"this kernel has no IPv4: {error.strerror}") from error

    def close(self) -> None:
        for one in self._sockets.values():
            one.close()

    def ask(self) -> dict[Place, Numbers]:
        """The numbers of each table that is there."""
        return {
            (family, table): self._info(self._sockets[family], level, table)
            for family, _, level in _FAMILIES
            if family in self._sockets
            for table in present(family)
        }

    def _info(self, one: socket.socket, level: int, table: str) -> Numbers:
        buffer = ctypes.create_string_buffer(_INFO.size)
        _INFO.pack_into(buffer, 0, table.encode(), *[0] * 13)
        size = ctypes.c_uint(_INFO.size)
        if _libc.getsockopt(one.fileno(), level, _GET_INFO, buffer, ctypes.byref(size)):
            number = ctypes.get_errno()
            name = errno.errorcode.get(number, f"error {number}")
            raise Refused(f"{os.strerror(number)} ({name})", number, f"asking for table {table}")
        return _INFO.unpack(buffer)[1:]
