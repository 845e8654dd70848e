"""
Words to build rules with: each function gives the instructions of one phrase of nft.

A phrase loads what it needs into the registers from 0 up and leaves nothing
behind that a later phrase relies on, as the phrases that nft itself makes.
"""

from __future__ import annotations

import sys
from typing import Literal

from kubeway.planes.nft.fields import FIELDS, pad
from kubeway.planes.nft.objects import (
    Bitwise,
    Cmp,
    Ct,
    CtOriginal,
    CtSet,
    Dnat,
    Dynset,
    Expr,
    Fib,
    Goto,
    Hash,
    Immediate,
    Jump,
    Lookup,
    Meta,
    MetaSet,
    Numgen,
    Payload,
    Rule,
    SetDaddr,
    SocketTransparent,
    Tproxy,
)
from kubeway.values import TCP, Prefix

Phrase = tuple[Expr, ...]

CT_ESTABLISHED, CT_RELATED = 2, 4
CT_NEW = 8  # NF_CT_STATE_BIT(IP_CT_NEW)
CT_DNAT = 0x20  # IPS_DST_NAT
RTN_LOCAL = 2
SYN, ACK = 0x02, 0x10  # struct tcphdr


def host32(number: int) -> bytes:
    """A number as the kernel has it in a register: in the host's byte order."""
    return number.to_bytes(4, sys.byteorder)


def rule(*phrases: Phrase | Expr, comment: str = "") -> Rule:
    exprs: list[Expr] = []
    for phrase in phrases:
        if isinstance(phrase, tuple):
            exprs += phrase
        else:
            exprs.append(phrase)
    return Rule(tuple(exprs), comment)


def load(fields: tuple[str, ...], slot: Numgen | None = None) -> Phrase:
    """The fields of a key, one after the other from register 0.

    `slot` takes the place of the last field, which is a slot number.
    """
    exprs: list[Expr] = []
    reg = 0
    for name in fields:
        field = FIELDS[name]
        exprs.append(field.load(reg))
        reg += field.registers
    if slot is not None:
        exprs[-1] = Numgen(reg - 1, slot.modulus, slot.offset)
    return tuple(exprs)


def in_set(fields: tuple[str, ...], name: str, invert: bool = False) -> Phrase:
    """`ip daddr . th dport @name`, or `!= @name`"""
    return *load(fields), Lookup(0, name, None, invert)


def vmap(fields: tuple[str, ...], name: str) -> Phrase:
    """`ip daddr . th dport vmap @name`"""
    return *load(fields), Lookup(0, name, "verdict")


def spread(field: str, among: int, seed: int, name: str) -> Phrase:
    """`jhash ip saddr mod 2 seed 0x1 vmap @shares`: what is alike in this field goes the same way."""
    return *load((field,)), Hash(0, 0, FIELDS[field].size, among, seed), Lookup(0, name, "verdict")


def dnat(fields: tuple[str, ...], name: str, ip_size: int, slot: Numgen | None = None) -> Phrase:
    """`dnat ip to ip daddr . th dport map @name`; the map's data is an address and a port."""
    return *load(fields, slot), Lookup(0, name, 0), Dnat(0, ip_size // 4)


def priority_from(fields: tuple[str, ...], name: str, slot: Numgen | None = None) -> Phrase:
    """`meta priority set ip daddr . th dport map @name`"""
    return *load(fields, slot), Lookup(0, name, 0), MetaSet(0, "priority")


def remember(op: Literal["update", "delete"], fields: tuple[str, ...], name: str, timeout: int) -> Phrase:
    """`update @name { ip saddr . … timeout 3h : meta priority }`; timeout in milliseconds."""
    # Where nft puts it too: at the next sixteen bytes.
    reg = -(-sum(FIELDS[field].registers for field in fields) // 4) * 4
    return (
        *load(fields),
        Meta(reg, "priority"),
        Dynset(op, name, 0, reg, timeout if op == "update" else 0),
    )


def priority_is(number: int, mask: int) -> Phrase:
    """`meta priority & f000:0 == b000:0`"""
    return Meta(0, "priority"), Bitwise(0, host32(mask), bytes(4)), Cmp(0, "==", host32(number))


def priority(number: int) -> Phrase:
    """`meta priority set b000:1`"""
    return Immediate(0, host32(number)), MetaSet(0, "priority")


def priority_zero() -> Phrase:
    """`meta priority set none`"""
    return Immediate(0, bytes(4)), MetaSet(0, "priority")


def prefix(field: str, wanted: Prefix, op: Literal["==", "!="] = "==") -> Phrase:
    """`ip saddr 10.0.0.0/8`, or `!= 10.0.0.0/8`"""
    size = len(wanted.ip)
    value = FIELDS[field].load(0)
    if wanted.length and wanted.length % 8 == 0 and isinstance(value, Payload):
        # Whole bytes need no mask, only fewer of them; nft spells it so too.
        length = wanted.length // 8
        return Payload(0, value.base, value.offset, length), Cmp(0, op, wanted.ip[:length])
    mask = ((1 << wanted.length) - 1 << size * 8 - wanted.length).to_bytes(size, "big")
    return value, Bitwise(0, mask, bytes(size)), Cmp(0, op, wanted.ip)


def interface(name: str, begins: bool, op: Literal["==", "!="] = "==") -> Phrase:
    """`iifname "cni0"`, or with `begins` `iifname "veth*"`"""
    raw = name.encode()
    return Meta(0, "iifname"), Cmp(0, op, raw if begins else raw.ljust(16, b"\0"))


def local(of: Literal["saddr", "daddr"]) -> Phrase:
    """`fib saddr type local`: an address of this node."""
    return Fib(0, of), Cmp(0, "==", host32(RTN_LOCAL))


def _bits(load_them: Expr, bits: int) -> Phrase:
    return load_them, Bitwise(0, host32(bits), bytes(4)), Cmp(0, "!=", bytes(4))


def new_flow() -> Phrase:
    """`ct state new`"""
    return _bits(Ct(0, "state"), CT_NEW)


def known_flow() -> Phrase:
    """`ct state established,related`"""
    return _bits(Ct(0, "state"), CT_ESTABLISHED | CT_RELATED)


def translated() -> Phrase:
    """`ct status dnat`"""
    return _bits(Ct(0, "status"), CT_DNAT)


def untranslated() -> Phrase:
    """`ct status ! dnat`"""
    return Ct(0, "status"), Bitwise(0, host32(CT_DNAT), bytes(4)), Cmp(0, "==", bytes(4))


def marked(mark: int) -> Phrase:
    """`meta mark & 0x4000 != 0`"""
    return _bits(Meta(0, "mark"), mark)


def mark_on(mark: int) -> Phrase:
    """`meta mark set meta mark | 0x4000`"""
    rest = 0xFFFFFFFF ^ mark
    return Meta(0, "mark"), Bitwise(0, host32(rest), host32(mark)), MetaSet(0, "mark")


def mark_off(mark: int) -> Phrase:
    """`meta mark set meta mark & 0xffffbfff`"""
    return Meta(0, "mark"), Bitwise(0, host32(0xFFFFFFFF ^ mark), bytes(4)), MetaSet(0, "mark")


def mark_flip(mark: int) -> Phrase:
    """`meta mark set meta mark ^ 0x4000`"""
    return Meta(0, "mark"), Bitwise(0, host32(0xFFFFFFFF), host32(mark)), MetaSet(0, "mark")


def unmarked(mark: int) -> Phrase:
    """`meta mark & 0x4000 == 0`"""
    return Meta(0, "mark"), Bitwise(0, host32(mark), bytes(4)), Cmp(0, "==", bytes(4))


def flow_marked(mark: int, op: Literal["==", "!="] = "!=") -> Phrase:
    """`ct mark & 0x4000 != 0`, or `== 0`: it is not marked."""
    return Ct(0, "mark"), Bitwise(0, host32(mark), bytes(4)), Cmp(0, op, bytes(4))


def flow_mark_on(mark: int) -> Phrase:
    """`ct mark set ct mark | 0x4000`"""
    return Ct(0, "mark"), Bitwise(0, host32(0xFFFFFFFF ^ mark), host32(mark)), CtSet(0, "mark")


def reply() -> Phrase:
    """`ct direction reply`"""
    return Ct(0, "direction"), Cmp(0, "==", b"\1")


def by_bridge() -> Phrase:
    """`meta iifkind "bridge"`"""
    return Meta(0, "iifkind"), Cmp(0, "==", b"bridge".ljust(16, b"\0"))


def daddr_set(ip: bytes) -> Phrase:
    """`ip daddr set 192.0.0.8`"""
    return Immediate(0, ip), SetDaddr(0)


def daddr_original() -> Phrase:
    """`ip daddr set ct original ip saddr`"""
    return CtOriginal(0), SetDaddr(0)


def protocol(proto: int) -> Phrase:
    """`meta l4proto udp`"""
    return Meta(0, "l4proto"), Cmp(0, "==", bytes([proto]))


def not_opening() -> Phrase:
    """`tcp flags != syn / syn,ack`: TCP, but not the first packet of a connection"""
    flags = Payload(0, "transport", 13, 1), Bitwise(0, bytes([SYN | ACK]), b"\0")
    return *protocol(TCP), *flags, Cmp(0, "!=", bytes([SYN]))


def transparent() -> Phrase:
    """`socket transparent 1`"""
    return SocketTransparent(0), Cmp(0, "==", b"\1")


def tproxy(proto: int, ip: bytes, port: int) -> Phrase:
    """`meta l4proto tcp tproxy to 127.0.0.1:7001`; nft wants to be told the protocol."""
    return (
        *protocol(proto),
        Immediate(0, ip),
        Immediate(len(ip) // 4, port.to_bytes(2, "big")),
        Tproxy(0, len(ip) // 4),
    )


def goto(chain: str) -> Phrase:
    return (Goto(chain),)


def jump(chain: str) -> Phrase:
    return (Jump(chain),)


def row(*values: bytes) -> bytes:
    """A key or a map's data: the values as they lie in registers."""
    return b"".join(map(pad, values))
