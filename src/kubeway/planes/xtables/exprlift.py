"""
From the expressions of a rule back to the rule: the opposite of `exprs`.

A rule's expressions fall into runs: what loads something, with the comparison that ends it; a compat
match; the counter; the target. A run is read once, and known by its bytes ever after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from sys import byteorder
from typing import Final, Literal, NamedTuple, cast

from kubeway.errors import Malformed
from kubeway.planes.xtables.exprs import connmark, mask_of, masquerade, raw
from kubeway.planes.xtables.objects import (
    Accept,
    AddrType,
    Answering,
    Balanced,
    Comment,
    ConnMark,
    ConnMarkXset,
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
    InSet,
    Jump,
    Mark,
    MarkXset,
    Masquerade,
    Match,
    Nfacct,
    Opening,
    Protocol,
    Recent,
    Reject,
    Return,
    Rule,
    Side,
    Source,
    Target,
    Tproxy,
    Transparent,
)
from kubeway.planes.xtables.sets import NO_SETS, Sets
from kubeway.planes.xtables.words import LAST_RANK, MOST_SIDES, one_of, rank, states_in_order
from kubeway.values import PROTO_NAMES, SCTP, TCP, UDP, Ip, Prefix, Proto
from kubeway.wire import nftables as nf
from kubeway.wire import xtables as wire
from kubeway.wire.netlink import ATTR, fields, need, read_be32, read_text

_ALL: Final = 0xFFFFFFFF
_PORTS: Final = 0xFFFF
_RECENT_OPS: Final[dict[int, Literal["check", "update", "set"]]] = {
    wire.RECENT_SET: "set",
    wire.RECENT_CHECK: "check",
    wire.RECENT_UPDATE: "update",
}

# What an expression does in a run. Told by the attribute of its name, which the kernel sends first.
_LOAD, _CHANGE, _CLOSE, _MATCH, _COUNT, _END = range(6)
_ROLES: Final = {
    wire.expression(name)[4:12]: role
    for name, role in {
        "payload": _LOAD,
        "meta": _LOAD,
        "bitwise": _CHANGE,
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


_Placed = tuple[int, Match | _Ports | None]
"""What a run asks (None: nothing), and where iptables prints that."""


class RuleLift:
    """Reads the rules of one family. What runs say is kept as long as this is.

    So is which number is which set's: this is for one read.
    """

    def __init__(self, family: Family, sets: Sets = NO_SETS) -> None:
        self.family: Family = family
        self._sets = sets
        self._said: dict[bytes, _Placed] = {}
        self._targets: dict[bytes, Target | None] = {b"": None}

    def rule(self, expressions: bytes, userdata: bytes = b"") -> Rule:
        """The rule with these NFTA_RULE_EXPRESSIONS. Raises Malformed for bytes that are none."""
        said, targets = self._said, self._targets
        runs, end = _runs(expressions)
        placed: list[_Placed] = []
        for run in runs:
            one = said.get(run)
            if one is None:
                one = said[run] = _placed(_match(self.family, run, self._sets))
            placed.append(one)
        # iptables prints a comment of nf_tables, too: behind all others.
        if userdata and (words := _words(userdata)):
            placed.append(_placed(Comment(words)))
        if end not in targets:
            targets[end] = _target(self.family, end)
        if len(placed) > 1:
            placed.sort(key=_rank)
        return Rule(_matches(placed), targets[end])


_rank = itemgetter(0)


def _words(userdata: bytes) -> str:
    """The comment in it. It is anybody's to fill, so what is no userdata of nft's has none."""
    try:
        return nf.read_comment(nf.COMMENT_RULE, userdata)
    except Malformed:
        return ""


def _placed(match: Match | _Ports | None) -> _Placed:
    return (rank(match) if isinstance(match, Match) else LAST_RANK), match


def _matches(placed: list[_Placed]) -> tuple[Match, ...]:
    matches: list[Match] = []
    proto: Proto | None = None
    for _, one in placed:
        if type(one) is _Ports:
            one = _dport(proto, one)
        elif type(one) is Protocol:
            proto = one.proto
        if one is not None:
            matches.append(cast(Match, one))
    return tuple(matches)


def _runs(expressions: bytes) -> tuple[list[bytes], bytes]:
    """The runs of a rule, and its target with whatever stands behind it; counters are left out."""
    runs: list[bytes] = []
    roles, unpack = _ROLES.get, ATTR.unpack_from
    begin = at = 0
    end = len(expressions)
    while at < end:
        if end - at < 12:
            raise Malformed(f"nf_tables: {end - at} bytes where an expression was expected")
        size = unpack(expressions, at)[0]
        then = at + (size + 3 & ~3)
        if size < 12 or then > end:
            raise Malformed(f"nf_tables: an expression of {size} bytes where {end - at} are left")
        role = roles(expressions[at + 4 : at + 12], _CLOSE)
        if role >= _MATCH or (role == _LOAD and begin != at):
            # What stands before it ends here, whether it is whole or not.
            if begin != at:
                runs.append(expressions[begin:at])
                begin = at
            if role == _END:
                return runs, _without_counters(expressions, at, then)
        if role >= _CLOSE:
            if role != _COUNT:
                runs.append(expressions[begin:then])
            begin = then
        at = then
    if begin != at:
        runs.append(expressions[begin:])
    return runs, b""


def _without_counters(expressions: bytes, at: int, then: int) -> bytes:
    if then == len(expressions):
        return expressions[at:]
    return b"".join(e for e in wire.split(expressions[at:]) if _ROLES.get(e[4:12]) != _COUNT)


# --- matches ---------------------------------------------------------------------------


class _Expression(NamedTuple):
    name: str
    attrs: dict[int, memoryview]

    def number(self, kind: int) -> int | None:
        """None if there is none, or it is none: another expression's attribute may be a name."""
        value = self.attrs.get(kind, b"")
        return read_be32(memoryview(value)) if len(value) == 4 else None

    def value(self, kind: int) -> bytes:
        """NFTA_DATA_VALUE of an attribute; b"" for a verdict, or nothing."""
        return bytes(fields(self.attrs.get(kind, b"")).get(1, b""))


def _read(element: bytes) -> _Expression:
    attrs = fields(element[4:])
    name = read_text(need(attrs, wire.EXPR_NAME, "an expression's name"))
    return _Expression(name, fields(attrs.get(wire.EXPR_DATA, b"")))


# Most runs that are read for the first time are a comment, or a whole address; most targets a DNAT. Those
# are known by what stands around the one thing that differs, and are cut out of it.
_COMMENT: Final = wire.compat_head("match", "comment", 0, wire.COMMENT.size)
_COMMENT_SIZE: Final = len(_COMMENT) + wire.COMMENT.size
_DNAT: Final = wire.compat_head("target", "DNAT", 2, wire.DNAT.size)
_DNAT_SIZE: Final = len(_DNAT) + wire.DNAT.size
_SIZES: Final[dict[Family, int]] = {"ip": 4, "ip6": 16}
_Side = type[Source] | type[Destination]
_SIDES: Final[tuple[_Side, _Side]] = (Source, Destination)
_ADDRESSES: Final[dict[Family, dict[bytes, tuple[_Side, bool]]]] = {
    family: {
        wire.payload(wire.NETWORK, at, size) + wire.cmp(op, bytes(size))[:-size]: (side, op == wire.NEQ)
        for side, at in zip(_SIDES, wire.ADDRESS_AT[family], strict=True)
        for op in (wire.EQ, wire.NEQ)
    }
    for family, size in _SIZES.items()
}


def _match(family: Family, run: bytes, sets: Sets) -> Match | _Ports | None:
    """What a run asks; None if nothing."""
    size = _SIZES[family]
    if around := _ADDRESSES[family].get(run[:-size]):
        side, invert = around
        return side(Prefix(Ip(run[-size:]), size * 8), invert)
    if len(run) == _COMMENT_SIZE and run.startswith(_COMMENT):
        return Comment(wire.chars(run[len(_COMMENT) :]))
    first, *others = map(_read, wire.split(run))
    found: Match | _Ports | None = None
    if not others:
        if first.name == "match":
            known, found = _compat_match(family, first, sets)
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
    if load.name not in ("meta", "payload") or (register := load.number(1)) is None:
        return None
    compared = _compared(register, others)
    if compared is None:
        return None
    if load.name == "meta":
        return _meta(load.number(2), compared)
    match load.number(2), load.number(3), load.number(4):
        case (wire.NETWORK, int(at), int(size)):
            return _address(family, at, size, compared)
        case (wire.TRANSPORT, wire.DPORT_AT, 2):
            return _ports(compared, run)
        case (wire.TRANSPORT, wire.TCP_FLAGS_AT, 1):
            return _opening(compared)
        case _:
            return None


def _compared(register: int, others: list[_Expression]) -> _Compared | None:
    *changes, last = others
    op = last.number(2)
    if last.name not in ("cmp", "range") or last.number(1) != register or op is None:
        return None
    low = last.value(3)
    high = last.value(4) if last.name == "range" else low
    match changes:
        case []:
            return _Compared(None, op, low, high)
        case [change] if _only_masks(change, register):
            return _Compared(change.value(4), op, low, high)
        case _:
            return None


def _only_masks(change: _Expression, register: int) -> bool:
    """Whether this is `register & mask`, and that is all."""
    if change.name != "bitwise" or change.number(1) != register or change.number(2) != register:
        return False
    return not change.number(6) and not any(change.value(5)) and bool(change.value(4))


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
    invert, whole = _inverted(compared), _SIZES[family]
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
    return _SIDES[wire.ADDRESS_AT[family].index(at)](prefix, invert)


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


def _opening(compared: _Compared) -> Match | None:
    invert = _inverted(compared)
    return None if invert is None or (compared.mask, compared.low) != wire.TCP_SYN else Opening(invert)


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


def _compat_match(family: Family, expression: _Expression, sets: Sets) -> tuple[bool, Match | None]:
    """Whether it is one kubeway has a word for, and what it asks."""
    name, rev, info = _compat(expression)
    if (name, rev) == ("set", 4):
        return _known(_set(info, sets))
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
        case (wire.CONNTRACK_DIRECTION, wire.CONNTRACK_DIRECTION, 0):
            return True, Answering()
        case _:
            return _UNKNOWN


def _mark(family: Family, info: bytes) -> tuple[bool, Match | None]:
    match wire.MARK.read(info):
        case (value, mask, (0 | 1) as invert):
            return True, Mark(value, mask, bool(invert))
        case _:
            return _UNKNOWN


def _connmark(family: Family, info: bytes) -> tuple[bool, Match | None]:
    match wire.CONNMARK.read(info):
        case (value, mask, (0 | 1) as invert):
            return True, ConnMark(value, mask, bool(invert))
        case _:
            return _UNKNOWN


def _socket(family: Family, info: bytes) -> tuple[bool, Match | None]:
    return (True, Transparent()) if wire.SOCKET.read(info) == (wire.SOCKET_TRANSPARENT,) else _UNKNOWN


def _addrtype(family: Family, info: bytes) -> tuple[bool, Match | None]:
    match wire.ADDRTYPE.read(info):
        case (wire.LOCAL, 0, 0):
            return True, AddrType("src")
        case (0, wire.LOCAL, 0):
            return True, AddrType("dst")
        case _:
            return _UNKNOWN


def _recent(family: Family, info: bytes) -> tuple[bool, Match | None]:
    whole = (b"\xff" * _SIZES[family]).ljust(16, b"\0")
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


def _ipvs(family: Family, info: bytes) -> tuple[bool, Match | None]:
    match wire.IPVS.read(info):
        case (inverted, wire.IPVS_SENT_ON) if inverted in (0, wire.IPVS_SENT_ON):
            return True, Balanced(bool(inverted))
        case _:
            return _UNKNOWN


def _set(info: bytes, sets: Sets) -> Match | None:
    match wire.SET.read(info):
        case (index, count, bits) if 0 < count <= MOST_SIDES and bits < wire.SET_SOURCE << count:
            name = sets.name(index)
            sides: list[Side] = ["src" if bits & wire.SET_SOURCE << at else "dst" for at in range(count)]
            # A number that is nobody's: the set went, with the rule, while this was read.
            return None if name is None else InSet(name, tuple(sides), bool(bits & wire.SET_INVERTED))
        case _:
            return None


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
    ("connmark", 1): _connmark,
    ("conntrack", 3): _conntrack,
    ("mark", 1): _mark,
    ("ipvs", 0): _ipvs,
    ("nfacct", 0): _nfacct,
    ("nfacct", 1): _nfacct,
    ("recent", 1): _recent,
    ("sctp", 0): _sctp,
    ("socket", 3): _socket,
    ("statistic", 0): _statistic,
    ("tcp", 0): _tcp,
    ("udp", 0): _udp,
}


# --- targets ---------------------------------------------------------------------------------


def _target(family: Family, end: bytes) -> Target:
    if len(end) == _DNAT_SIZE and end.startswith(_DNAT):
        return _dnat(family, end[len(_DNAT) :]) or ForeignTarget(raw(end))
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
    chain = wire.chars(bytes(attrs[2])) if 2 in attrs else ""
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
        case "CONNMARK", 2:
            match wire.CONNMARK_SET.read(info):
                case (value, mask, *_) if info == connmark(value, mask):
                    return ConnMarkXset(value, mask)
        case "TPROXY", 1:
            return _tproxy(family, info)
        case "MASQUERADE", 0:
            for fully in (True, False):
                if info == masquerade(family, fully):
                    return Masquerade(fully)
        case "REJECT", 0 if wire.REJECT.read(info) == (wire.PORT_UNREACHABLE[family],):
            return Reject()
        case _:
            pass
    return None


def _tproxy(family: Family, info: bytes) -> Target | None:
    size = _SIZES[family]
    match wire.TPROXY.read(info):
        case (mask, value, ip, port) if not any(ip[size:]):
            return Tproxy(Ip(ip[:size]), int.from_bytes(port, "big"), value, mask)
        case _:
            return None


def _dnat(family: Family, info: bytes) -> Target | None:
    """One address and one port. Ranges, and addresses alone, are not ours."""
    size = _SIZES[family]
    match wire.DNAT.read(info):
        case (wire.NAT_IPS_AND_PORTS, first, last, port, end, 0) if first == last and port == end:
            return Dnat(Ip(first[:size]), port) if not any(first[size:]) else None
        case _:
            return None
