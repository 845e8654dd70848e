"""
A legacy iptables table as the kernel tells it: some numbers about it, or all of its entries.

A table is a row of entries. Each begins with what a rule's head asks, its size and its counters; then
come matches and one target. An entry that is no rule: a chain's head, which is an ERROR target with the
chain's name; a chain's end; and the ERROR that ends the table. What a rule means is not known here.

Source: include/uapi/linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h, netfilter/x_tables.h.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b
from struct import Struct
from typing import Final, Literal, NamedTuple

from kubeway.errors import Malformed

GET_INFO: Final = 64  # IPT_SO_GET_INFO, IP6T_SO_GET_INFO
GET_ENTRIES: Final = 65
_GET_REVISION: Final = {"match": (66, 68), "target": (67, 69)}  # IPT_SO_…, IP6T_SO_GET_REVISION_…

_INFO: Final = Struct("=32sI5I5III")
_ASKED: Final = Struct("=32sI4x")  # ipt_get_entries; the entries are aligned
_OFFSETS: Final = Struct("=HH")
_COUNTERS: Final = bytes(16)
_END: Final = "ERROR"

# xt_entry_match: size (of "set", less than 256), name (29 bytes), revision; then the number of the set. What
# stands before the name is looked at later: a pattern that begins with letters is found ten times as fast.
_SET: Final = re.compile(rb"set\0{26}.(..)", re.DOTALL)
_INDEX: Final = Struct("=H")


_REVISION: Final = Struct("=29sB")  # xt_get_revision


class Layout(NamedTuple):
    """Where an entry of one family keeps what is needed here."""

    offsets: int
    counters: int
    matches: int


V4: Final = Layout(offsets=88, counters=96, matches=112)
V6: Final = Layout(offsets=140, counters=152, matches=168)

# xt_entry_target: size, name (29 bytes), revision; of an ERROR, the chain's name (30 bytes) follows.
_TARGET: Final = 32
_NAME: Final = 30
_ERROR: Final = b"ERROR".ljust(_TARGET - 2, b"\0")


class Info(NamedTuple):
    """`hooks`: a bit for each built-in chain; `starts` and `policies`: where those begin and end."""

    hooks: int
    starts: tuple[int, ...]
    policies: tuple[int, ...]
    entries: int
    size: int


def ask_info(table: str) -> bytes:
    """The question and the room for the answer, for GET_INFO."""
    return _INFO.pack(table.encode(), *[0] * 13)


def read_info(data: bytes | bytearray) -> Info:
    if len(data) < _INFO.size:
        raise Malformed(f"xtables: {len(data)} bytes of information on a table, not {_INFO.size}")
    _, hooks, *numbers = _INFO.unpack_from(data)
    return Info(hooks, tuple(numbers[:5]), tuple(numbers[5:10]), numbers[10], numbers[11])


def ask_entries(table: str, size: int) -> bytes:
    """The question, for GET_ENTRIES; `size` bytes of entries are to follow it."""
    return _ASKED.pack(table.encode(), size)


def ask_revision(name: str, revision: int) -> bytes:
    """The question whether there is a match or target of this name that can be of this revision."""
    return _REVISION.pack(name.encode(), revision)


def get_revision(kind: Literal["match", "target"], v4: bool) -> int:
    """The option for it."""
    return _GET_REVISION[kind][not v4]


def chains(data: bytes | bytearray, layout: Layout) -> list[str]:
    """The names of the chains that somebody made."""
    names = []
    for _, target, end in _walk(data, layout):
        if data[target + 2 : target + _TARGET] == _ERROR:
            name = bytes(data[target + _TARGET : min(end, target + _TARGET + _NAME)])
            names.append(name.partition(b"\0")[0].decode(errors="replace"))
    return names[:-1] if names and names[-1] == _END else names


def rules(data: bytes | bytearray, layout: Layout, info: Info) -> int:
    """How many rules there are: entries but for policies, and heads and ends of chains."""
    made = 2 * len(chains(data, layout))
    return max(0, info.entries - made - info.hooks.bit_count() - 1)


def digest(data: bytearray, layout: Layout) -> bytes:
    """The same for tables that differ in counters only. The counters in `data` are set to 0."""
    at = layout.counters
    for start, _, _ in _walk(data, layout):
        data[start + at : start + at + 16] = _COUNTERS
    return blake2b(data, digest_size=16).digest()


def sets(data: bytes | bytearray) -> list[int]:
    """The numbers of the sets that matches may ask for, each once, in order; some may be nobody's.

    Looked for without walking the table, in 10 ms for 25 MB: what looks like the head of a set match and is
    none does no harm.
    """
    return sorted({_INDEX.unpack(one[1])[0] for one in _SET.finditer(data) if not data[one.start() - 1]})


def _walk(data: bytes | bytearray, layout: Layout) -> Iterator[tuple[int, int, int]]:
    """Where each entry, its target, and the next entry begin."""
    at, end = 0, len(data)
    offsets, least = layout.offsets, layout.matches
    read = _OFFSETS.unpack_from
    while at < end:
        if at + least > end:
            raise Malformed(f"xtables: an entry is cut off at {at} of {end} bytes")
        target, size = read(data, at + offsets)
        if target < least or target + _TARGET > size or at + size > end:
            raise Malformed(
                f"xtables: the entry at {at} of {end} bytes has size {size}, its target at {target}"
            )
        yield at, at + target, at + size
        at += size
