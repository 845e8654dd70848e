"""
What iptables-nft writes into nf_tables rules, in bytes: compat matches and targets with the structures
of x_tables, and the native expressions it uses in their place.

Everything is spelled as the kernel spells it when it is asked: no attribute is flagged as nested, and
registers bear their sixteen-byte numbers. So what is read is equal, byte for byte, to what was sent.
Numbers in the structures are in the host's order unless they go over the wire; `pack` of what was
unpacked gives the same bytes again unless something is set that has no name here.

Source: include/uapi/linux/netfilter/nf_tables_compat.h, xt_*.h, nf_nat.h; iptables 1.8.9, iptables/nft.c.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from struct import Struct
from typing import Any, Final

from kubeway.errors import Malformed
from kubeway.wire import nftables as nf
from kubeway.wire.netlink import (
    ATTR,
    HEADER,
    NLA_TYPE_MASK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    attr,
    be32,
    be64,
    fields,
    message,
    need,
    read_text,
    text,
)

# Expressions: an element of NFTA_RULE_EXPRESSIONS with its name and its own attributes.
EXPR_NAME, EXPR_DATA = 1, 2
COMPAT_NAME, COMPAT_REV, COMPAT_INFO = 1, 2, 3  # of a match, and of a target

EQ, NEQ, LTE, GTE = 0, 1, 3, 5
NETWORK, TRANSPORT = 1, 2
META_MARK, META_IIFNAME, META_OIFNAME, META_L4PROTO = 3, 6, 7, 16
_REGISTER: Final = be32(1, 1)
_VERDICT_REGISTER: Final = be32(1, 0)

DPORT_AT: Final = 2
TCP_FLAGS_AT: Final = 13
TCP_SYN: Final = b"\x17", b"\x02"
"""Which flags of TCP are looked at, and which of these the first packet of a connection has."""
LAST_PORT: Final = 0xFFFF
ADDRESS_AT: Final = {"ip": (12, 16), "ip6": (8, 24)}
"""Where source and destination begin in a header."""

NO_INTERFACE: Final = b"INVAL/D\0"
"""What iptables compares names with for `! -i +`, as no interface has that name."""


def expression(name: str, *attributes: bytes) -> bytes:
    return attr(1, text(EXPR_NAME, name) + attr(EXPR_DATA, b"".join(attributes)))


def _value(kind: int, data: bytes) -> bytes:
    return attr(kind, attr(1, data))


def payload(base: int, offset: int, size: int) -> bytes:
    return expression("payload", _REGISTER, be32(2, base), be32(3, offset), be32(4, size))


def meta(key: int) -> bytes:
    return expression("meta", be32(2, key), _REGISTER)


def bitwise(mask: bytes) -> bytes:
    zero = bytes(len(mask))
    return expression(
        "bitwise", _REGISTER, be32(2, 1), be32(3, len(mask)), be32(6, 0), _value(4, mask), _value(5, zero)
    )


def cmp(op: int, data: bytes) -> bytes:
    return expression("cmp", _REGISTER, be32(2, op), _value(3, data))


def between(op: int, first: bytes, last: bytes) -> bytes:
    """`op` EQ: from `first` to `last`, both included; NEQ: not there."""
    return expression("range", _REGISTER, be32(2, op), _value(3, first), _value(4, last))


def verdict(code: int, chain: str = "") -> bytes:
    inner = be32(1, code & 0xFFFFFFFF) + (text(2, chain) if chain else b"")
    return expression("immediate", _VERDICT_REGISTER, attr(2, attr(2, inner)))


COUNTER: Final = expression("counter", be64(1, 0), be64(2, 0))
"""As a new rule has it; iptables prints what it counts as the rule's counters."""


@lru_cache(maxsize=256)
def compat_head(kind: str, name: str, rev: int, size: int) -> bytes:
    """What stands before the structure, which has a size that is a multiple of four."""
    whole = expression(kind, text(COMPAT_NAME, name), be32(COMPAT_REV, rev), attr(COMPAT_INFO, bytes(size)))
    return whole[: len(whole) - size]


def match(name: str, rev: int, info: bytes) -> bytes:
    return compat_head("match", name, rev, len(info)) + info


def target(name: str, rev: int, info: bytes) -> bytes:
    return compat_head("target", name, rev, len(info)) + info


def rule_compat(proto: int, inverted: bool = False) -> bytes:
    """NFTA_RULE_COMPAT: the protocol that matches and targets may ask for."""
    return attr(5, be32(1, proto) + be32(2, 2 if inverted else 0))


# --- structures ---------------------------------------------------------------------------
# Each is padded to eight bytes (XT_ALIGN).


class Info:
    """A structure: `read` is the opposite of `pack`, for bytes in which nothing else is set."""

    def __init__(self, layout: str, significant: int = 0) -> None:
        self._struct = Struct(layout)
        # Behind that comes what only the kernel uses.
        self._significant = significant or self._struct.size
        self.pack = self._struct.pack
        self.size = self._struct.size

    def read(self, info: bytes) -> tuple[Any, ...] | None:
        """The fields; None if more is set than they tell, or the size is another."""
        if len(info) != self.size:
            return None
        found = self._struct.unpack(info)
        end = self._significant
        return found if self.pack(*found)[:end] == info[:end] else None


COMMENT: Final = Info("=256s")
MAX_COMMENT: Final = 255
STATISTIC: Final = Info("=HHIII8x", 8)
"""Mode, flags, probability in steps of 2^-31, 0, and the probability again (iptables leaves it there)."""
RECENT: Final = Info("=IIBB200sBx16s4x")
"""Seconds, hits, what to do, inverted, list, side, mask."""
ADDRTYPE: Final = Info("=HHI")
"""Source types, destination types, flags."""
CONNTRACK: Final = Info("=146xHHH16x")
"""Which questions, which of them inverted, states."""
MARK: Final = Info("=IIB7x", 9)
CONNMARK: Final = Info("=IIB3x4x", 9)
"""Mark, mask, inverted."""
SOCKET: Final = Info("=B7x", 1)
"""What is asked of the socket."""
TCP: Final = Info("=HHHHBBBB4x", 12)
"""Source ports, destination ports, option, flags asked, flags set, inverted."""
UDP: Final = Info("=HHHHB7x", 9)
"""Source ports, destination ports, inverted."""
SCTP: Final = Info("=HHHH256xI12siII4x", 292)
"""Destination ports, source ports, how chunks are asked, flags asked, their number, questions, inverted."""
NFACCT: Final = Info("=32s8x", 32)
IPVS: Final = Info("=38xBB")
"""Which questions are inverted, and which are asked; none is of the address and port before them."""
SET: Final = Info("=HBB44x")
"""The set's number, how many sides, and a bit for each that is the source; none of its counters is asked."""

MARK_SET: Final = Info("=II")
CONNMARK_SET: Final = Info("=IIIBBBx", 15)
"""Mark, mask, mask of the packet's mark, how it is shifted, by how many bits, what is done."""
TPROXY: Final = Info("=II16s2s6x", 26)
"""Mask and value of the mark; address and port, in network order."""
DNAT: Final = Info(">4s16s16sHHH6x", 42)
"""Flags, first and last address, first and last port, base port. All in network order but the flags."""
MASQUERADE: Final = {"ip": Info("=IIIIHH4x", 20), "ip6": Info("=I16s16sHH")}
"""For ip the number of ranges, which is one; then flags, addresses and ports."""
REJECT: Final = Info("=I4x", 4)

IPVS_SENT_ON: Final = 1  # XT_IPVS_IPVS_PROPERTY
RANDOM: Final = 0  # XT_STATISTIC_MODE_RANDOM
RECENT_CHECK, RECENT_SET, RECENT_UPDATE, RECENT_REAP = 1, 2, 4, 32
RECENT_NAME: Final = 199
RECENT_SOURCE: Final = 0
LOCAL: Final = 1 << 2  # 1 << RTN_LOCAL
CONNTRACK_STATE: Final = 1
CONNTRACK_DIRECTION: Final = 1 << 12  # inverted: of replies
SOCKET_TRANSPARENT: Final = 1
CONNMARK_WHOLE: Final = 0xFFFFFFFF
STATES: Final = {
    "INVALID": 1 << 0,
    "NEW": 1 << 3,
    "RELATED": 1 << 2,
    "ESTABLISHED": 1 << 1,
    "UNTRACKED": 1 << 8,
    "SNAT": 1 << 6,
    "DNAT": 1 << 7,
}
SET_INVERTED: Final = 1  # 1 << IPSET_DIM_ZERO
SET_SOURCE: Final = 2  # of the first side; each has the next bit
SCTP_DEST_PORTS: Final = 2
SCTP_NO_FLAGS: Final = b"\xff\0\0" * 4  # as iptables leaves them where none are asked
NAT_IPS_AND_PORTS: Final = Struct("=I").pack(1 | 2)  # NF_NAT_RANGE_MAP_IPS, _PROTO_SPECIFIED
NAT_RANDOM_FULLY: Final = 16
PORT_UNREACHABLE: Final = {"ip": 3, "ip6": 4}  # IPT_ICMP_PORT_UNREACHABLE, IP6T_ICMP6_PORT_UNREACH


def chars(data: bytes) -> str:
    """The text of an array of characters that ends with a NUL."""
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")


# --- messages --------------------------------------------------------------------------------


def split(expressions: bytes) -> list[bytes]:
    """The elements of NFTA_RULE_EXPRESSIONS, each with its head."""
    found, at, end = [], 0, len(expressions)
    while at < end:
        if end - at < 4:
            raise Malformed(f"nf_tables: {end - at} bytes where an expression was expected")
        size: int = ATTR.unpack_from(expressions, at)[0]
        if size < 4 or at + size > end:
            raise Malformed(f"nf_tables: an expression of {size} bytes where {end - at} are left")
        found.append(expressions[at : at + size])
        at += size + 3 & ~3
    return found


HOOKS: Final[dict[str, dict[str, tuple[int, int, str]]]] = {
    "filter": {"INPUT": (1, 0, "filter"), "FORWARD": (2, 0, "filter"), "OUTPUT": (3, 0, "filter")},
    "nat": {
        "PREROUTING": (0, -100, "nat"),
        "INPUT": (1, 100, "nat"),
        "OUTPUT": (3, -100, "nat"),
        "POSTROUTING": (4, 100, "nat"),
    },
    "mangle": {
        "PREROUTING": (0, -150, "filter"),
        "INPUT": (1, -150, "filter"),
        "FORWARD": (2, -150, "filter"),
        "OUTPUT": (3, -150, "route"),
        "POSTROUTING": (4, -150, "filter"),
    },
}
"""The built-in chains of each table: hook, priority and type."""


def new_table(family: str, table: str) -> bytes:
    """Makes it if it is missing; one that is there keeps its flags."""
    body = nf.header(family) + text(1, table)
    return message(nf.kind(nf.NEWTABLE), NLM_F_REQUEST | NLM_F_CREATE, body)


def new_chain(family: str, table: str, chain: str, again: bool = False) -> bytes:
    """A chain without a hook. If it is there the kernel refuses (EEXIST), unless `again`."""
    flags = NLM_F_REQUEST | NLM_F_CREATE | (0 if again else NLM_F_EXCL)
    return message(nf.kind(nf.NEWCHAIN), flags, nf.header(family) + text(1, table) + text(3, chain))


def new_built_in(family: str, table: str, chain: str) -> bytes:
    """A chain with its hook. It accepts what gets through; one that is there keeps its policy."""
    hook, priority, kind = HOOKS[table][chain]
    point = attr(4, be32(1, hook) + be32(2, priority & 0xFFFFFFFF))
    body = nf.header(family) + text(1, table) + text(3, chain) + point + text(7, kind)
    return message(nf.kind(nf.NEWCHAIN), NLM_F_REQUEST | NLM_F_CREATE, body)


@lru_cache(maxsize=1 << 15)
def _in_chain(family: str, table: str, chain: str) -> bytes:
    return nf.header(family) + text(1, table) + text(2, chain)


APPEND: Final = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_APPEND
INSERT: Final = NLM_F_REQUEST | NLM_F_CREATE
_NEWRULE, _DELRULE = nf.kind(nf.NEWRULE), nf.kind(nf.DELRULE)


def new_rules(
    family: str, table: str, chain: str, bodies: Iterable[bytes], flags: int = APPEND
) -> list[bytes]:
    """A message for each rule of a chain. A body is what `rule_body` makes."""
    place = _in_chain(family, table, chain)
    size, pack = len(place) + 16, HEADER.pack
    return [pack(size + len(body), _NEWRULE, flags, 0, 0) + place + body for body in bodies]


def rule_body(expressions: bytes, compat: bytes) -> bytes:
    return ATTR.pack(len(expressions) + 4, 4) + expressions + compat


def replace_rule(family: str, table: str, chain: str, handle: int, body: bytes) -> bytes:
    place = _in_chain(family, table, chain) + be64(3, handle)
    return message(_NEWRULE, NLM_F_REQUEST | NLM_F_REPLACE, place + body)


def del_rule(family: str, table: str, chain: str, handle: int) -> bytes:
    return message(_DELRULE, NLM_F_REQUEST, _in_chain(family, table, chain) + be64(3, handle))


def name_of(element: bytes) -> str:
    """The name of an expression; Malformed if it has none."""
    return read_text(need(fields(element[4:]), EXPR_NAME, "an expression's name"))


def read_place(body: bytes) -> tuple[str, str, int]:
    """The table and chain of a NEWRULE message, and where in it the attributes behind them begin."""
    at = 4
    names: dict[int, str] = {}
    while at + 4 <= len(body) and len(names) < 2:
        size, kind = ATTR.unpack_from(body, at)
        if size < 4 or at + size > len(body) or kind != len(names) + 1:
            break
        names[kind] = read_text(memoryview(body)[at + 4 : at + size])
        at += size + 3 & ~3
    if len(names) < 2:
        raise Malformed("nf_tables: a rule without its table and chain")
    return names[1], names[2], at


def read_rule(body: bytes, at: int) -> tuple[bytes, bytes]:
    """The expressions and userdata of a NEWRULE message, from the attributes that begin at `at`."""
    expressions = userdata = b""
    end, unpack = len(body), ATTR.unpack_from
    while at < end:
        if end - at < 4:
            raise Malformed(f"netlink: {end - at} bytes where an attribute was expected")
        size, kind = unpack(body, at)
        if size < 4 or at + size > end:
            raise Malformed(f"netlink: an attribute of {size} bytes where {end - at} are left")
        kind &= NLA_TYPE_MASK
        if kind == 4:
            expressions = body[at + 4 : at + size]
        elif kind == 7:
            userdata = body[at + 4 : at + size]
        at += size + 3 & ~3
    return expressions, userdata
