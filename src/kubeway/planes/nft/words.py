"""
The words nft has for values: constants, times, comments and verdicts.

Knows how nft 1.0.6 prints and reads them back; rules, sets and tables are not known here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Final

from kubeway.planes.nft.objects import Goto, Jump, Verdict

# include/uapi/linux/netfilter/nf_conntrack_common.h and <linux/rtnetlink.h>
STATES: Final = {1: "invalid", 2: "established", 4: "related", 8: "new", 64: "untracked"}
STATUSES: Final = {1: "expected", 2: "seen-reply", 4: "assured", 8: "confirmed", 16: "snat", 32: "dnat"}
# struct tcphdr, from the lowest bit of its byte 13
TCP_FLAGS: Final = ("fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr")
_ROUTES: Final = (
    "unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit",
)  # fmt: skip


def host_int(value: bytes) -> int:
    """A number in the host's byte order."""
    return int.from_bytes(value, sys.byteorder)


def show_class(value: bytes) -> str:
    """A packet priority: a traffic class handle to nft, so 0 and ~0 have names."""
    number = host_int(value)
    if number in (0, 0xFFFFFFFF):
        return "root" if number else "none"
    return f"{number >> 16:x}:{number & 0xFFFF:x}"


def show_interface(value: bytes) -> str:
    """An interface name; fewer than its 16 bytes stand for all names that begin so."""
    name = value.rstrip(b"\0").decode("ascii", "replace")
    if len(value) < 16:
        return f'"{name}*"'
    return f'"{name[:-1]}\\*"' if name.endswith("*") else f'"{name}"'


def show_time(milliseconds: int) -> str:
    """`1d2h`, `90s` is `1m30s`."""
    text = ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def show_comment(comment: str) -> str:
    """` comment "..."`, or nothing. nft has no way to write a quote or a new line inside."""
    return ' comment "%s"' % " ".join(comment.replace('"', "'").split()) if comment else ""


def show_verdict(verdict: Verdict) -> str:
    """`goto pick-5`"""
    if isinstance(verdict, Jump | Goto):
        return f"{type(verdict).__name__.lower()} {verdict.chain}"
    return type(verdict).__name__.lower()


def show_bits(names: Mapping[int, str]) -> Callable[[bytes], str]:
    """How the named bits are printed: `new,related`; as a number if one has no name."""

    def show(value: bytes) -> str:
        number = host_int(value)
        known = [name for bit, name in names.items() if number & bit]
        return ",".join(known) if number and not number & ~sum(names) else f"0x{number:x}"

    return show


def show_mark(value: bytes) -> str:
    """`0x00004000`"""
    return f"0x{host_int(value):08x}"


def show_route(value: bytes) -> str:
    """A route type, as `fib` finds it: `local`."""
    number = host_int(value)
    return _ROUTES[number] if number < len(_ROUTES) else str(number)
