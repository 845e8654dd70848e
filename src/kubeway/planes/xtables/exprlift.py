"""
From the expressions of a rule back to the rule: the opposite of `exprs`.

A rule's expressions fall into runs: what loads something, with the comparison that ends it; a compat
match; the counter; the target. A run is read once, and known by its bytes ever after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from sys import byteorder
from typing import Final, Literal, NamedTuple

from kubeway.planes.xtables.exprs import mask_of, masquerade, raw
from kubeway.planes.xtables.objects import (
    Accept,
    AddrType,
    Comment,
    CtState,
    Destination,
    Dnat,
    Dport,
    Drop,
    Family,
    ForeignMatch,
    ForeignTarget,
    Goto,
    InInterface,
    Jump,
    Mark,
    MarkXset,
    Masquerade,
    Match,
    Nfacct,
    Protocol,
    Recent,
    Reject,
    Return,
    Rule,
    Source,
    Target,
)
from kubeway.planes.xtables.words import in_order, one_of, states_in_order
from kubeway.values import PROTO_NAMES, SCTP, TCP, UDP, Ip, Prefix, Proto
from kubeway.wire import nftables as nf
from kubeway.wire import xtables as wire
from kubeway.wire.netlink import fields, need, read_be32, read_text

_ALL: Final = 0xFFFFFFFF
_PORTS: Final = 0xFFFF
_RECENT_OPS: Final[dict[int, Literal["check", "update", "set"]]] = {
    wire.RECENT_SET: "set",
    wire.RECENT_CHECK: "check",
    wire.RECENT_UPDATE: "update",
}

# What an expression does in a run. By the attribute of its name, which the kernel sends first.
_LOAD, _CHANGE, _COMPARE, _MATCH, _COUNT, _END = range(6)
_ROLES: Final = {
    wire.expression(name)[4:12]: role
    for name, role in {
        "payload": _LOAD,
        "meta": _LOAD,
        "bitwise": _CHANGE,
        "cmp": _COMPARE,
        "range": _COMPARE,
        "match": _MATCH,
        "counter": _COUNT,
        "immediate": _END,
        "target": _END,
    }.items()
}


class _Ports(NamedTuple):
    """A comparison of destination ports: of which protocol, the rule has said before."""

    first: int
    last: int
    run: bytes


class RuleLift:
    """Reads the rules of one family. What runs say is kept as long as this is."""

    def __init__(self, family: Family) -> None:
        self.family: Family = family
        self._said: dict[bytes, Match | _Ports | None] = {}
        self._targets: dict[bytes, Target | None] = {b"": None}

    def rule(self, expressions: bytes, userdata: bytes = b"") -> Rule:
        """The rule with these NFTA_RULE_EXPRESSIONS. Raises Malformed for bytes that are none."""
        matches: list[Match] = []
        proto: Proto | None = None
        said, targets = self._said, self._targets
        runs, end = _runs(wire.split(expressions))
        for run in runs:
            try:
                found = said[run]
            except KeyError:
                found = said[run] = _match(self.family, run)
            if isinstance(found, Protocol):
                proto = found.proto
            elif isinstance(found, _Ports):
                found = _dport(proto, found)
            if found is not None:
                matches.append(found)
        if end not in targets:
            targets[end] = _target(self.family, end)
        # iptables prints a comment of nf_tables, too: behind all others.
        if userdata and (words := nf.read_comment(nf.COMMENT_RULE, userdata)):
            matches.append(Comment(words))
        return Rule(in_order(matches), targets[end])


def _runs(elements: list[bytes]) -> tuple[list[bytes], bytes]:
    """The runs of a rule, and its target with whatever stands behind it; counters are left out."""
    runs: list[bytes] = []
    run = b""
    for at, element in enumerate(elements):
        role = _ROLES.get(element[4:12])
        if role == _COUNT:
            continue
        if run and role in (_LOAD, _MATCH, _END):
            runs.append(run)
            run = b""
        if role == _END:
            return runs, b"".join(e for e in elements[at:] if _ROLES.get(e[4:12]) != _COUNT)
        run += element
        if role not in (_LOAD, _CHANGE):
            runs.append(run)
            run = b""
    if run:
        runs.append(run)
    return runs, b""


# --- matches ---------------------------------------------------------------------------


class _Expression(NamedTuple):
    name: str
    attrs: dict[int, memoryview]

    def number(self, kind: int) -> int | None:
        return read_be32(self.attrs[kind]) if kind in self.attrs else None

    def value(self, kind: int) -> bytes:
        """NFTA_DATA_VALUE of an attribute; b"" for a verdict, or nothing."""
        return bytes(fields(self.attrs.get(kind, b"")).get(1, b""))


def _read(element: bytes) -> _Expression:
    attrs = fields(element[4:])
    name = read_text(need(attrs, wire.EXPR_NAME, "an expression's name"))
    return _Expression(name, fields(attrs.get(wire.EXPR_DATA, b"")))


def _match(family: Family, run: bytes) -> Match | _Ports | None:
    """What a run asks; None if nothing."""
    first, *others = map(_read, wire.split(run))
    found: Match | _Ports | None = None
    if not others:
        if first.name == "match":
            known, found = _compat_match(family, first)
        else:
            # `-i +` and `-o +`: a name is loaded, and not compared with anything.
            known = first.name == "meta" and first.number(2) in (wire.META_IIFNAME, wire.META_OIFNAME)
    else:
        found = _native(family, first, others, run)
        known = found is not None
    return found if known else ForeignMatch(raw(run))


class _Compared(NamedTuple):
    """How a loaded value is compared: with the bits of `mask`, if any."""

    mask: bytes | None
    op: int
    low: bytes
    high: bytes


def _native(
    family: Family, load: _Expression, others: list[_Expression], run: bytes
) -> Match | _Ports | None:
    register = load.number(1)
    compared = _compared(register, others) if register is not None else None
    if compared is None:
        return None
    if load.name == "meta" and 3 not in load.attrs:
        return _meta(load.number(2), compared)
    if load.name != "payload":
        return None
    match load.number(2), load.number(3), load.number(4):
        case (wire.NETWORK, int(at), int(size)):
            return _address(family, at, size, compared)
        case (wire.TRANSPORT, wire.DPORT_AT, 2):
            return _ports(compared, run)
        case _:
            return None


def _compared(register: int | None, others: list[_Expression]) -> _Compared | None:
    mask: bytes | None = None
    *changes, last = others
    if changes:
        (change, *more) = changes
        mask = change.value(4)
        plain = not change.number(6) and not any(change.value(5)) and mask
        if change.name != "bitwise" or more or not plain:
            return None
        if change.number(1) != register or change.number(2) != register:
            return None
    op = last.number(2)
    if last.number(1) != register or op is None or last.name not in ("cmp", "range"):
        return None
    low = last.value(3)
    return _Compared(mask, op, low, last.value(4) if last.name == "range" else low)


def _inverted(compared: _Compared) -> bool | None:
    """None for an order, a range, or nothing."""
    if compared.low != compared.high or not compared.low:
        return None
    return {wire.EQ: False, wire.NEQ: True}.get(compared.op)


def _meta(key: int | None, compared: _Compared) -> Match | None:
    invert, value = _inverted(compared), compared.low
    if invert is None:
        return None
    if key == wire.META_MARK and len(value) == 4:
        mask = int.from_bytes(compared.mask, byteorder) if compared.mask is not None else _ALL
        return Mark(int.from_bytes(value, byteorder), mask, invert) if mask <= _ALL else None
    if compared.mask is not None:
        return None
    if key == wire.META_IIFNAME:
        if value == wire.NO_INTERFACE:
            return InInterface("", True, not invert)
        return InInterface(wire.chars(value), value[-1] != 0, invert)
    if key == wire.META_L4PROTO and len(value) == 1 and value[0] in PROTO_NAMES and not invert:
        return Protocol(Proto(value[0]))
    return None


def _address(family: Family, at: int, size: int, compared: _Compared) -> Match | None:
    invert, whole = _inverted(compared), 4 if family == "ip" else 16
    if invert is None or at not in wire.ADDRESS_AT[family] or len(compared.low) != size or size > whole:
        return None
    length = size * 8
    if compared.mask is not None:
        length = int.from_bytes(compared.mask, "big").bit_count()
        if size != whole or compared.mask != mask_of(length, size):
            return None
    ip = Ip(compared.low.ljust(whole, b"\0"))
    prefix = Prefix(ip, length)
    if not length or int.from_bytes(ip, "big") & (1 << whole * 8 - length) - 1:
        return None
    return (Source if at == wire.ADDRESS_AT[family][0] else Destination)(prefix, invert)


def _ports(compared: _Compared, run: bytes) -> _Ports | None:
    low, high = (int.from_bytes(value, "big") for value in (compared.low, compared.high))
    if compared.mask is not None or len(compared.low) != 2 or len(compared.high) != 2:
        return None
    match compared.op:
        case wire.EQ if low <= high:
            return _Ports(low, high, run)
        case wire.LTE if low == high:
            return _Ports(0, high, run)
        case wire.GTE if low == high:
            return _Ports(low, _PORTS, run)
        case _:
            return None


def _dport(proto: Proto | None, ports: _Ports) -> Match:
    if proto is None:
        return ForeignMatch(raw(ports.run))
    return Dport(proto, ports.first, ports.last if ports.last > ports.first else 0)


# --- compat matches -------------------------------------------------------------------------

_Reader = Callable[[Family, bytes], tuple[bool, Match | None]]
_UNKNOWN: Final = False, None


def _compat(expression: _Expression) -> tuple[str, int, bytes]:
    """Name, revision and structure; Malformed if one of them is missing."""
    name = read_text(need(expression.attrs, wire.COMPAT_NAME, "the name of a match or target"))
    rev = read_be32(need(expression.attrs, wire.COMPAT_REV, "the revision of a match or target"))
    return name, rev, bytes(need(expression.attrs, wire.COMPAT_INFO, "the structure of a match or target"))


def _compat_match(family: Family, expression: _Expression) -> tuple[bool, Match | None]:
    """Whether it is one kubeway has a word for, and what it asks."""
    name, rev, info = _compat(expression)
    reader = _MATCHES.get((name, rev))
    return reader(family, info) if reader else _UNKNOWN


def _known(found: Match | None) -> tuple[bool, Match | None]:
    return found is not None, found


def _comment(family: Family, info: bytes) -> tuple[bool, Match | None]:
    return (True, Comment(wire.chars(info))) if len(info) == wire.COMMENT.size else _UNKNOWN


def _statistic(family: Family, info: bytes) -> tuple[bool, Match | None]:
    match wire.STATISTIC.read(info):
        case (wire.RANDOM, 0, steps, *_):
            return _known(one_of(steps))
        case _:
            return _UNKNOWN


def _conntrack(family: Family, info: bytes) -> tuple[bool, Match | None]:
    match wire.CONNTRACK.read(info):
        case (wire.CONNTRACK_STATE, (0 | wire.CONNTRACK_STATE) as inverted, bits):
            states = [state for state, bit in wire.STATES.items() if bits & bit]
            if sum(wire.STATES[state] for state in states) != bits:
                return _UNKNOWN
            return True, CtState(tuple(states_in_order(states)), bool(inverted))
        case _:
            return _UNKNOWN


def _mark(family: Family, info: bytes) -> tuple[bool, Match | None]:
    match wire.MARK.read(info):
        case (value, mask, (0 | 1) as invert):
            return True, Mark(value, mask, bool(invert))
        case _:
            return _UNKNOWN


def _addrtype(family: Family, info: bytes) -> tuple[bool, Match | None]:
    match wire.ADDRTYPE.read(info):
        case (wire.LOCAL, 0, 0):
            return True, AddrType("src")
        case (0, wire.LOCAL, 0):
            return True, AddrType("dst")
        case _:
            return _UNKNOWN


def _recent(family: Family, info: bytes) -> tuple[bool, Match | None]:
    whole = (b"\xff" * (4 if family == "ip" else 16)).ljust(16, b"\0")
    match wire.RECENT.read(info):
        case (seconds, 0, how, 0, name, wire.RECENT_SOURCE, mask) if mask == whole:
            op = _RECENT_OPS.get(how & ~wire.RECENT_REAP)
            # A time without --reap, and the opposite, are not ours.
            if op is None or bool(seconds) != bool(how & wire.RECENT_REAP) or (op == "set" and seconds):
                return _UNKNOWN
            return True, Recent(wire.chars(name), op, seconds)
        case _:
            return _UNKNOWN


def _nfacct(family: Family, info: bytes) -> tuple[bool, Match | None]:
    return (True, Nfacct(wire.chars(info[:32]))) if len(info) == wire.NFACCT.size else _UNKNOWN


def _some_dport(proto: Proto, first: int, last: int) -> tuple[bool, Match | None]:
    if (first, last) == (0, _PORTS):
        return True, None  # `-m tcp` alone asks no more than the `-p tcp` it comes with
    return _known(Dport(proto, first, last if last > first else 0) if first <= last else None)


def _tcp(family: Family, info: bytes) -> tuple[bool, Match | None]:
    match wire.TCP.read(info):
        case (0, wire.LAST_PORT, first, last, 0, 0, 0, 0):
            return _some_dport(TCP, first, last)
        case _:
            return _UNKNOWN


def _udp(family: Family, info: bytes) -> tuple[bool, Match | None]:
    match wire.UDP.read(info):
        case (0, wire.LAST_PORT, first, last, 0):
            return _some_dport(UDP, first, last)
        case _:
            return _UNKNOWN


def _sctp(family: Family, info: bytes) -> tuple[bool, Match | None]:
    match wire.SCTP.read(info):
        case (first, last, 0, 0, 0, _, 0, wire.SCTP_DEST_PORTS, 0):
            return _known(Dport(SCTP, first, last if last > first else 0) if first <= last else None)
        case (0, 0, 0, 0, 0, _, 0, 0, 0):
            return True, None
        case _:
            return _UNKNOWN


_MATCHES: Final[Mapping[tuple[str, int], _Reader]] = {
    ("addrtype", 1): _addrtype,
    ("comment", 0): _comment,
    ("conntrack", 3): _conntrack,
    ("mark", 1): _mark,
    ("nfacct", 0): _nfacct,
    ("nfacct", 1): _nfacct,
    ("recent", 1): _recent,
    ("sctp", 0): _sctp,
    ("statistic", 0): _statistic,
    ("tcp", 0): _tcp,
    ("udp", 0): _udp,
}


# --- targets ---------------------------------------------------------------------------------


def _target(family: Family, end: bytes) -> Target:
    elements = wire.split(end)
    found: Target | None = None
    if len(elements) == 1:
        expression = _read(elements[0])
        found = _verdict(expression) if expression.name == "immediate" else _compat_target(family, expression)
    return ForeignTarget(raw(end)) if found is None else found


def _verdict(expression: _Expression) -> Target | None:
    if expression.number(1) != 0:
        return None
    attrs = fields(fields(expression.attrs.get(2, b"")).get(2, b""))
    code = read_be32(need(attrs, 1, "a verdict's code"))
    chain = read_text(attrs[2]) if 2 in attrs else ""
    match code - (1 << 32) if code >> 31 else code:
        case nf.ACCEPT:
            return Accept()
        case nf.DROP:
            return Drop()
        case nf.RETURN:
            return Return()
        case nf.JUMP if chain:
            return Jump(chain)
        case nf.GOTO if chain:
            return Goto(chain)
        case _:
            return None


def _compat_target(family: Family, expression: _Expression) -> Target | None:
    name, rev, info = _compat(expression)
    match name, rev:
        case "DNAT", 2:
            return _dnat(family, info)
        case "MARK", 2:
            fields_ = wire.MARK_SET.read(info)
            return MarkXset(*fields_) if fields_ else None
        case "MASQUERADE", 0:
            for fully in (True, False):
                if info == masquerade(family, fully):
                    return Masquerade(fully)
        case "REJECT", 0 if wire.REJECT.read(info) == (wire.PORT_UNREACHABLE[family],):
            return Reject()
        case _:
            pass
    return None


def _dnat(family: Family, info: bytes) -> Target | None:
    """One address and one port. Ranges, and addresses alone, are not ours."""
    size = 4 if family == "ip" else 16
    match wire.DNAT.read(info):
        case (wire.NAT_IPS_AND_PORTS, first, last, port, end, 0) if first == last and port == end:
            return Dnat(Ip(first[:size]), port) if not any(first[size:]) else None
        case _:
            return None
