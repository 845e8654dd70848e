"""
From a rule to the expressions that iptables-nft would write for it.

First what the rule's head asks (interface, protocol, addresses), then the matches in their order, a
counter, and the target. `lift` is the opposite.

A comment behind all other matches is one of nf_tables, in the rule's userdata: iptables-nft prints it as
`-m comment` in that place, and `iptables -D` finds it by these words. So it costs 40 bytes in place of 264,
and nothing whenever the kernel validates a table, which it does at each commit: with 10,000 Services a
third of a change's time. Elsewhere among the matches, or longer than nf_tables allows, it is a compat
match, as iptables-nft writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from sys import byteorder
from typing import Final, NamedTuple

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
    Random,
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
from kubeway.planes.xtables.words import printable, steps_of
from kubeway.values import SCTP, TCP, Prefix
from kubeway.wire import nftables as nf
from kubeway.wire import xtables as wire
from kubeway.wire.xt_set import NO_SET

RAW: Final = "nft"
"""The first word of a match or target that has no words but its expressions: names, and bytes in hex."""

# In which order iptables-nft asks what a rule's head asks.
_IN_INTERFACE, _PROTOCOL, _SOURCE, _DESTINATION, _MATCH = range(5)
_ALL: Final = 0xFFFFFFFF
_PORTS: Final = 0xFFFF
_RECENT_OPS: Final = {
    "set": wire.RECENT_SET,
    "check": wire.RECENT_CHECK,
    "update": wire.RECENT_UPDATE,
}


class Part(NamedTuple):
    """What one match becomes: where it stands, its expressions, and its share of NFTA_RULE_COMPAT."""

    rank: int
    data: bytes
    compat: bytes = b""


_rank = itemgetter(0)


class RuleLower:
    """Spells the rules of one family. What matches and targets become is kept as long as this is.

    So is which set has which number: this is for one write.
    """

    def __init__(self, family: Family, sets: Sets = NO_SETS) -> None:
        self.family: Family = family
        self._sets = sets
        self._parts: dict[Match, Part] = {}
        self._targets: dict[Target | None, bytes] = {None: b""}

    def body(self, rule: Rule) -> bytes:
        """The attributes of a NEWRULE message behind table and chain. ValueError for words of others."""
        known, targets = self._parts, self._targets
        parts = []
        matches, comment = rule.matches, b""
        if matches and type(matches[-1]) is Comment and (comment := _userdata(matches[-1].text)):
            matches = matches[:-1]
        for match in matches:
            one = known.get(match)
            if one is None:
                one = known[match] = _part(self.family, match, self._sets)
            parts.append(one)
        parts.sort(key=_rank)
        end = targets.get(rule.target)
        if end is None:
            assert rule.target is not None
            end = targets[rule.target] = _target(self.family, rule.target)
        expressions = b"".join([*[one.data for one in parts], wire.COUNTER, end])
        return wire.rule_body(expressions, b"".join([one.compat for one in parts])) + comment


def _part(family: Family, match: Match, sets: Sets) -> Part:
    match match:
        case Source(prefix, invert):
            return Part(_SOURCE, _address(wire.ADDRESS_AT[family][0], prefix, invert))
        case Destination(prefix, invert):
            return Part(_DESTINATION, _address(wire.ADDRESS_AT[family][1], prefix, invert))
        case InInterface(name, begins, invert):
            return Part(_IN_INTERFACE, _interface(name, begins, invert))
        case Protocol(proto):
            data = wire.meta(wire.META_L4PROTO) + wire.cmp(wire.EQ, bytes((proto,)))
            return Part(_PROTOCOL, data, wire.rule_compat(proto))
        case Dport():
            return Part(_MATCH, _dport(match))
        case Opening(invert):
            mask, flags = wire.TCP_SYN
            loaded = wire.payload(wire.TRANSPORT, wire.TCP_FLAGS_AT, 1)
            return Part(_MATCH, loaded + wire.bitwise(mask) + wire.cmp(_equal(invert), flags))
        case Comment(text):
            return Part(_MATCH, wire.match("comment", 0, wire.COMMENT.pack(_comment(text))))
        case Random(of):
            chance = steps_of(of)
            info = wire.STATISTIC.pack(wire.RANDOM, 0, chance, 0, chance)
            return Part(_MATCH, wire.match("statistic", 0, info))
        case CtState(states, invert):
            asked = wire.CONNTRACK_STATE
            bits = sum(wire.STATES[state] for state in set(states))
            info = wire.CONNTRACK.pack(asked, asked if invert else 0, bits)
            return Part(_MATCH, wire.match("conntrack", 3, info))
        case Mark(value, mask, invert):
            masked = wire.bitwise(mask.to_bytes(4, byteorder)) if mask != _ALL else b""
            compared = wire.cmp(_equal(invert), value.to_bytes(4, byteorder))
            return Part(_MATCH, wire.meta(wire.META_MARK) + masked + compared)
        case ConnMark(value, mask, invert):
            return Part(_MATCH, wire.match("connmark", 1, wire.CONNMARK.pack(value, mask, invert)))
        case Answering():
            asked = wire.CONNTRACK_DIRECTION
            return Part(_MATCH, wire.match("conntrack", 3, wire.CONNTRACK.pack(asked, asked, 0)))
        case Transparent():
            return Part(_MATCH, wire.match("socket", 3, wire.SOCKET.pack(wire.SOCKET_TRANSPARENT)))
        case AddrType(of):
            local = (wire.LOCAL, 0) if of == "src" else (0, wire.LOCAL)
            return Part(_MATCH, wire.match("addrtype", 1, wire.ADDRTYPE.pack(*local, 0)))
        case Recent():
            return Part(_MATCH, _recent(family, match))
        case Nfacct(name):
            return Part(_MATCH, wire.match("nfacct", 1, wire.NFACCT.pack(name.encode())))
        case Balanced(invert):
            asked = wire.IPVS_SENT_ON
            return Part(_MATCH, wire.match("ipvs", 0, wire.IPVS.pack(asked if invert else 0, asked)))
        case InSet(name, sides, invert):
            index = sets.index(name)
            return Part(_MATCH, in_set(NO_SET if index is None else index, sides, invert))
        case ForeignMatch(words):
            return Part(_MATCH, _raw(words))


def _target(family: Family, target: Target) -> bytes:
    match target:
        case Jump(chain):
            return wire.verdict(nf.JUMP, chain)
        case Goto(chain):
            return wire.verdict(nf.GOTO, chain)
        case Accept():
            return wire.verdict(nf.ACCEPT)
        case Drop():
            return wire.verdict(nf.DROP)
        case Return():
            return wire.verdict(nf.RETURN)
        case Dnat(ip, port):
            info = wire.DNAT.pack(wire.NAT_IPS_AND_PORTS, ip, ip, port, port, 0)
            return wire.target("DNAT", 2, info)
        case MarkXset(value, mask):
            return wire.target("MARK", 2, wire.MARK_SET.pack(value, mask))
        case ConnMarkXset(value, mask):
            return wire.target("CONNMARK", 2, connmark(value, mask))
        case Tproxy(ip, port, value, mask):
            info = wire.TPROXY.pack(mask, value, ip, port.to_bytes(2, "big"))
            return wire.target("TPROXY", 1, info)
        case Masquerade(fully):
            return wire.target("MASQUERADE", 0, masquerade(family, fully))
        case Reject():
            return wire.target("REJECT", 0, wire.REJECT.pack(wire.PORT_UNREACHABLE[family]))
        case ForeignTarget(words):
            return _raw(words)


def in_set(index: int, sides: Sequence[Side], invert: bool) -> bytes:
    bits = sum(wire.SET_SOURCE << place for place, side in enumerate(sides) if side == "src")
    info = wire.SET.pack(index, len(sides), bits | (wire.SET_INVERTED if invert else 0))
    return wire.match("set", 4, info)


def connmark(value: int, mask: int) -> bytes:
    return wire.CONNMARK_SET.pack(value, mask, wire.CONNMARK_WHOLE, 0, 0, 0)


def masquerade(family: Family, fully: bool) -> bytes:
    flags = wire.NAT_RANDOM_FULLY if fully else 0
    if family == "ip":
        return wire.MASQUERADE[family].pack(1, flags, 0, 0, 0, 0)
    return wire.MASQUERADE[family].pack(flags, b"", b"", 0, 0)


def _equal(invert: bool) -> int:
    return wire.NEQ if invert else wire.EQ


def _address(at: int, prefix: Prefix, invert: bool) -> bytes:
    whole, bits = divmod(prefix.length, 8)
    if not bits and whole:
        # No mask is needed if just the bytes of the prefix are loaded.
        return wire.payload(wire.NETWORK, at, whole) + wire.cmp(_equal(invert), prefix.ip[:whole])
    size = len(prefix.ip)
    loaded = wire.payload(wire.NETWORK, at, size)
    return loaded + wire.bitwise(mask_of(prefix.length, size)) + wire.cmp(_equal(invert), prefix.ip)


def mask_of(length: int, size: int) -> bytes:
    """The mask of a prefix of this length, in as many bytes."""
    return ((1 << length) - 1 << size * 8 - length).to_bytes(size, "big")


def _interface(name: str, begins: bool, invert: bool) -> bytes:
    raw = name.encode()
    if begins and not raw:
        # Any interface: not asked for; none: iptables asks for an impossible one.
        return wire.meta(wire.META_IIFNAME) + wire.cmp(wire.EQ, wire.NO_INTERFACE) if invert else b""
    return wire.meta(wire.META_IIFNAME) + wire.cmp(_equal(invert), raw if begins else raw + b"\0")


def _dport(match: Dport) -> bytes:
    first, last = match.port, match.last or match.port
    if match.proto == SCTP:
        info = wire.SCTP.pack(first, last, 0, 0, 0, wire.SCTP_NO_FLAGS, 0, wire.SCTP_DEST_PORTS, 0)
        return wire.match("sctp", 0, info)
    if (first, last) == (0, _PORTS):
        # Any port: not asked for, and there is no native way not to ask.
        if match.proto == TCP:
            return wire.match("tcp", 0, wire.TCP.pack(0, _PORTS, 0, _PORTS, 0, 0, 0, 0))
        return wire.match("udp", 0, wire.UDP.pack(0, _PORTS, 0, _PORTS, 0))
    loaded = wire.payload(wire.TRANSPORT, wire.DPORT_AT, 2)
    low, high = first.to_bytes(2, "big"), last.to_bytes(2, "big")
    if first == last:
        return loaded + wire.cmp(wire.EQ, low)
    return loaded + (wire.between(wire.EQ, low, high) if first else wire.cmp(wire.LTE, high))


def _userdata(text: str) -> bytes:
    """The attribute of a rule that bears this comment; b"" if it cannot be one of nf_tables."""
    words = printable(text)
    return nf.rule_comment(words) if words and len(words.encode()) <= nf.MAX_COMMENT else b""


def _comment(text: str) -> bytes:
    return printable(text).encode()[: wire.MAX_COMMENT]


def _recent(family: Family, match: Recent) -> bytes:
    how = _RECENT_OPS[match.op] | (wire.RECENT_REAP if match.seconds else 0)
    name = match.name.encode()[: wire.RECENT_NAME]
    mask = b"\xff" * (4 if family == "ip" else 16)
    return wire.match("recent", 1, wire.RECENT.pack(match.seconds, 0, how, 0, name, wire.RECENT_SOURCE, mask))


def raw(expressions: bytes) -> tuple[str, ...]:
    """Words for expressions that have none, by which `lower` finds back to them."""
    names = (wire.name_of(one) for one in wire.split(expressions))
    return RAW, ",".join(names), expressions.hex()


def _raw(words: tuple[str, ...]) -> bytes:
    match words:
        case (str(first), _, hexes) if first == RAW:
            return bytes.fromhex(hexes)
        case _:
            raise ValueError(f"only iptables itself can write {' '.join(words)}")
