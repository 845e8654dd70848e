"""
The kernel's legacy tables, asked for directly: numbers in microseconds, all entries in milliseconds.

A table that is not there is not asked for, as the kernel would make it, and load its module.

Source: net/ipv4/netfilter/ip_tables.c (do_ipt_get_ctl), net/netfilter/x_tables.c (xt_find_table_lock).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from typing import Final, Literal, NamedTuple

from kubeway.errors import Lost, Refused
from kubeway.planes.xtables.objects import Family, TableName
from kubeway.planes.xtables.text import TABLES
from kubeway.wire import ip_tables as wire

_libc: Final = ctypes.CDLL(None, use_errno=True)
_TRIES: Final = 20
_REVISION: Final = 1  # of what is asked for by name: revision 0 is of IPv4 alone, or of old times


class _Of(NamedTuple):
    names: str
    domain: int
    level: int
    layout: wire.Layout


_FAMILIES: Final[dict[Family, _Of]] = {
    "ip": _Of("ip_tables_names", socket.AF_INET, socket.IPPROTO_IP, wire.V4),
    "ip6": _Of("ip6_tables_names", socket.AF_INET6, socket.IPPROTO_IPV6, wire.V6),
}

Table = tuple[Family, TableName]


def present(family: Family) -> list[TableName]:
    """Those of filter, nat and mangle that are there in this thread's network namespace.

    Refused with EACCES if we are neither root nor may read what is root's.
    """
    path = f"/proc/thread-self/net/{_FAMILIES[family].names}"
    try:
        with open(path) as file:
            names = set(file.read().split())
    except FileNotFoundError:
        return []  # this kernel has no legacy tables, or nobody has used them
    except OSError as error:
        raise Refused(_words(error.errno or 0), error.errno or 0, f"reading {path}") from error
    return [table for table in TABLES if table in names]


class KernelTables:
    """Asks about the legacy tables of the network namespace it was made in. Needs CAP_NET_ADMIN."""

    def __init__(self) -> None:
        self._sockets: dict[Family, socket.socket] = {}
        for family, of in _FAMILIES.items():
            try:
                # Any socket will do, so it is one that needs no privilege.
                self._sockets[family] = socket.socket(of.domain, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            except OSError:
                continue  # a kernel without this family has no tables of it

    def close(self) -> None:
        for one in self._sockets.values():
            one.close()

    def all_info(self) -> dict[Table, wire.Info]:
        """Of each table that is there. Some 80 us."""
        return {
            (family, table): self.info(family, table) for family in self._sockets for table in present(family)
        }

    def info(self, family: Family, table: TableName) -> wire.Info:
        """Only for a table that is there: one that is not appears by this."""
        asked = bytearray(wire.ask_info(table))
        self._ask(family, wire.GET_INFO, asked, table)
        return wire.read_info(asked)

    def entries(self, family: Family, table: TableName) -> tuple[wire.Info, bytearray]:
        """All of a table that is there: 25 MB and 0.1 s for 100,000 rules. Lost if it never holds still."""
        for _ in range(_TRIES):
            info = self.info(family, table)
            asked = wire.ask_entries(table, info.size)
            buffer = bytearray(len(asked) + info.size)
            buffer[: len(asked)] = asked
            try:
                self._ask(family, wire.GET_ENTRIES, buffer, table)
            except Refused as error:
                if error.errno == errno.EAGAIN:  # its size is another one by now
                    continue
                raise
            del buffer[: len(asked)]
            return info, buffer
        raise Lost(f"table {table} ({family}) changed while it was read, {_TRIES} times in a row")

    def has_match(self, family: Family, name: str) -> bool:
        """Whether rules can have this match, in its first revision of both families or a later one.

        Has the kernel load its module. Refused where nothing of the legacy tables is loaded (ENOPROTOOPT).
        """
        return self._has(family, "match", name)

    def has_target(self, family: Family, name: str) -> bool:
        """The same of a target."""
        return self._has(family, "target", name)

    def _has(self, family: Family, kind: Literal["match", "target"], name: str) -> bool:
        asked = bytearray(wire.ask_revision(name, _REVISION))
        option = wire.get_revision(kind, v4=family == "ip")
        try:
            self._getsockopt(family, option, asked, f"{kind} {name}")
        except Refused as error:
            if error.errno not in (errno.ENOENT, errno.EPROTONOSUPPORT):
                raise
            return False
        return True

    def _ask(self, family: Family, option: int, buffer: bytearray, table: str) -> None:
        self._getsockopt(family, option, buffer, f"table {table}")

    def _getsockopt(self, family: Family, option: int, buffer: bytearray, what: str) -> None:
        size = ctypes.c_uint(len(buffer))
        room = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        one = self._sockets[family].fileno()
        if _libc.getsockopt(one, _FAMILIES[family].level, option, room, ctypes.byref(size)) < 0:
            number = ctypes.get_errno()
            raise Refused(_words(number), number, f"asking for {what} ({family})")


def digest(family: Family, entries: bytearray) -> bytes:
    return wire.digest(entries, _FAMILIES[family].layout)


def sets(entries: bytearray) -> list[int]:
    return wire.sets(entries)


def chains(family: Family, entries: bytearray) -> list[str]:
    return wire.chains(entries, _FAMILIES[family].layout)


def rules(family: Family, info: wire.Info, entries: bytearray) -> int:
    return wire.rules(entries, _FAMILIES[family].layout, info)


def _words(number: int) -> str:
    return f"{os.strerror(number)} ({errno.errorcode.get(number, f'error {number}')})"
