"""
nf_tables in bytes: its numbers, and a builder for each message and expression.

Each builder spells one object as the kernel wants it; nothing here knows what a
rule is for. Registers are counted from 0 to 15 as everywhere in kubeway.

Source: include/uapi/linux/netfilter/nf_tables.h. The set userdata, which tells
stock nft how to print a key, is nft's own and follows its src/netlink.c and the
`udata` functions of src/payload.c, src/meta.c and src/numgen.c.
"""

from __future__ import annotations

from struct import pack
from sys import byteorder
from typing import Final

from kubeway.errors import Malformed
from kubeway.wire.netlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    attr,
    be32,
    be64,
    message,
    nest,
    text,
)

SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
FAMILIES: Final = {"ip": 2, "ip6": 10}

NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
NEWRULE, GETRULE, DELRULE = 6, 7, 8
NEWSET, GETSET, DELSET = 9, 10, 11
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14
NEWGEN, GETGEN = 15, 16
GETOBJ, GETFLOWTABLE = 19, 23

# Set flags.
SET_ANONYMOUS: Final = 0x1
SET_INTERVAL: Final = 0x4
SET_MAP: Final = 0x8
SET_TIMEOUT: Final = 0x10
SET_EVAL: Final = 0x20
SET_CONCAT: Final = 0x80

ELEM_CATCHALL: Final = 0x2
TYPE_VERDICT: Final = 0xFFFFFF00

# Verdict codes: 0 and 1 are netfilter's, the negative ones nf_tables'.
DROP, ACCEPT, CONTINUE, BREAK, JUMP, GOTO, RETURN = 0, 1, -1, -2, -3, -4, -5

HOOKS: Final = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
META: Final = {"mark": 3, "priority": 2, "iifname": 6, "l4proto": 16, "iifkind": 26}
CT: Final = {"state": 0, "direction": 1, "status": 2, "mark": 3}
CT_SRC: Final = {"ip": 19, "ip6": 21}  # NFT_CT_SRC_IP, NFT_CT_SRC_IP6
CT_ORIGINAL: Final = 0  # IP_CT_DIR_ORIGINAL
# How a destination is written: where it is, its bytes; the checksum's kind and place in the IP header; and
# that the checksum behind it, which counts addresses in, is to be set right (NFT_PAYLOAD_L4CSUM_PSEUDOHDR).
DADDR_SET: Final = {"ip": (16, 4, 1, 10, 1), "ip6": (24, 16, 0, 0, 1)}
SOCKET_TRANSPARENT: Final = 0
FIB_TYPE: Final = 3  # NFT_FIB_RESULT_ADDRTYPE
FIB_SADDR, FIB_DADDR = 1, 2
PAYLOAD_BASE: Final = {"network": 1, "transport": 2}
DYNSET: Final = {"add": 0, "update": 1, "delete": 2}
CMP: Final = {"==": 0, "!=": 1}
LOOKUP_INVERT: Final = 1
NUMGEN_RANDOM: Final = 1
HASH_JENKINS: Final = 0
NAT_DNAT: Final = 1
RANDOM_FULLY: Final = 0x10
REJECT_ICMP: Final = 0
# "Port unreachable" of each family: ICMP_PORT_UNREACH, ICMPV6_PORT_UNREACH.
REJECT_CODE: Final = {"ip": 3, "ip6": 4}

MAX_ATTR: Final = 65_535
# No ack is asked for: of a transaction the kernel tells every refusal, and nothing else
# is to be told. A thousand acks of success would cost a millisecond to write and to read.
_REQUEST: Final = NLM_F_REQUEST


def kind(number: int) -> int:
    """The netlink message type of an nf_tables message."""
    return SUBSYSTEM << 8 | number


def header(family: str) -> bytes:
    """The nfgenmsg in front of every message's attributes."""
    return bytes((FAMILIES[family], 0, 0, 0))


# --- messages of a batch --------------------------------------------------------


def new_table(family: str, table: str, userdata: bytes) -> bytes:
    body = text(1, table) + be32(2, 0) + (attr(6, userdata) if userdata else b"")
    return message(kind(NEWTABLE), _REQUEST | NLM_F_CREATE, header(family) + body)


def del_table(family: str, table: str) -> bytes:
    return message(kind(DELTABLE), _REQUEST, header(family) + text(1, table))


def new_set(
    family: str,
    table: str,
    name: str,
    *,
    flags: int,
    key_type: int,
    key_size: int,
    data_type: int = 0,
    data_size: int = 0,
    fields: tuple[int, ...] = (),
    timeout: int = 0,
    size: int = 0,
    userdata: bytes = b"",
    set_id: int = 0,
) -> bytes:
    """`fields` are the sizes in bytes of a ranged concatenation's fields; `timeout` in ms."""
    description = (be32(1, size) if size else b"") + (
        nest(2, *(nest(1, be32(1, n)) for n in fields)) if fields else b""
    )
    body = (
        text(1, table)
        + text(2, name)
        + be32(3, flags)
        + be32(4, key_type)
        + be32(5, key_size)
        + (be32(6, data_type) + be32(7, data_size) if flags & SET_MAP else b"")
        + (nest(9, description) if description else b"")
        + be32(10, set_id)
        + (be64(11, timeout) if timeout else b"")
        + (attr(13, userdata) if userdata else b"")
    )
    return message(kind(NEWSET), _REQUEST | NLM_F_CREATE, header(family) + body)


def del_set(family: str, table: str, name: str) -> bytes:
    return message(kind(DELSET), _REQUEST, header(family) + text(1, table) + text(2, name))


def new_chain(
    family: str, table: str, name: str, hook: int | None, priority: int, type: str, userdata: bytes
) -> bytes:
    body = text(1, table) + text(3, name)
    if hook is not None:
        body += nest(4, be32(1, hook), be32(2, priority & 0xFFFFFFFF)) + be32(5, ACCEPT) + text(7, type)
    if userdata:
        body += attr(12, userdata)
    return message(kind(NEWCHAIN), _REQUEST | NLM_F_CREATE, header(family) + body)


def del_chain(family: str, table: str, name: str) -> bytes:
    return message(kind(DELCHAIN), _REQUEST, header(family) + text(1, table) + text(3, name))


def new_rule(family: str, table: str, chain: str, expressions: bytes, userdata: bytes) -> bytes:
    body = text(1, table) + text(2, chain) + nest(4, expressions)
    if userdata:
        body += attr(7, userdata)
    return message(kind(NEWRULE), _REQUEST | NLM_F_CREATE | NLM_F_APPEND, header(family) + body)


def del_rules(family: str, table: str, chain: str) -> bytes:
    """All rules of a chain."""
    return message(kind(DELRULE), _REQUEST, header(family) + text(1, table) + text(2, chain))


def elements(number: int, family: str, table: str, name: str, items: bytes, end: int = 0) -> bytes:
    """NEWSETELEM or DELSETELEM with elements already built; `items` is under 64 KiB."""
    body = text(1, table) + text(2, name) + nest(3, items)
    flags = _REQUEST | NLM_F_CREATE if number == NEWSETELEM else _REQUEST
    return message(kind(number), flags, header(family) + body)


def get(number: int, family: str, *attributes: bytes, dump: bool = True) -> bytes:
    flags = NLM_F_REQUEST | (NLM_F_DUMP if dump else 0)
    return message(kind(number), flags, header(family) + b"".join(attributes))


def get_generation() -> bytes:
    return message(kind(GETGEN), NLM_F_REQUEST, bytes(4))


# --- expressions -------------------------------------------------------------------


def expression(name: str, *attributes: bytes) -> bytes:
    return nest(1, text(1, name), nest(2, *attributes))


def register(reg: int) -> int:
    """The kernel's number of a four-byte register."""
    return 8 + reg


def unregister(number: int) -> int:
    """The opposite. The kernel prints registers 0, 4, 8 and 12 by the numbers of the
    sixteen-byte registers they begin, 1 to 4."""
    if 1 <= number <= 4:
        return (number - 1) * 4
    if 8 <= number <= 23:
        return number - 8
    raise Malformed(f"nf_tables: no register {number}")


def value(number: int, data: bytes) -> bytes:
    """NFTA_DATA_VALUE inside the attribute `number`."""
    return nest(number, attr(1, data))


def verdict(number: int, code: int, chain: str = "") -> bytes:
    """NFTA_DATA_VERDICT inside the attribute `number`."""
    inner = be32(1, code & 0xFFFFFFFF) + (text(2, chain) if chain else b"")
    return nest(number, nest(2, inner))


def payload(reg: int, base: str, offset: int, size: int) -> bytes:
    return expression(
        "payload", be32(1, register(reg)), be32(2, PAYLOAD_BASE[base]), be32(3, offset), be32(4, size)
    )


def meta(reg: int, key: str) -> bytes:
    return expression("meta", be32(1, register(reg)), be32(2, META[key]))


def meta_set(reg: int, key: str) -> bytes:
    return expression("meta", be32(3, register(reg)), be32(2, META[key]))


def ct(reg: int, key: str) -> bytes:
    return expression("ct", be32(1, register(reg)), be32(2, CT[key]))


def ct_set(reg: int, key: str) -> bytes:
    return expression("ct", be32(2, CT[key]), be32(4, register(reg)))


def ct_original_saddr(family: str, reg: int) -> bytes:
    return expression("ct", be32(1, register(reg)), be32(2, CT_SRC[family]), attr(3, bytes([CT_ORIGINAL])))


def daddr_set(family: str, reg: int) -> bytes:
    numbers = zip((3, 4, 6, 7, 8), DADDR_SET[family], strict=True)
    return expression(
        "payload",
        be32(5, register(reg)),
        be32(2, PAYLOAD_BASE["network"]),
        *(be32(attribute, number) for attribute, number in numbers),
    )


def socket_transparent(reg: int) -> bytes:
    return expression("socket", be32(1, SOCKET_TRANSPARENT), be32(2, register(reg)))


def tproxy(family: str, ip: int, port: int) -> bytes:
    return expression("tproxy", be32(1, FAMILIES[family]), be32(2, register(ip)), be32(3, register(port)))


def fib(reg: int, of: str) -> bytes:
    flag = FIB_SADDR if of == "saddr" else FIB_DADDR
    return expression("fib", be32(1, register(reg)), be32(2, FIB_TYPE), be32(3, flag))


def immediate(reg: int, data: bytes) -> bytes:
    return expression("immediate", be32(1, register(reg)), value(2, data))


def immediate_verdict(code: int, chain: str = "") -> bytes:
    return expression("immediate", be32(1, 0), verdict(2, code, chain))


def bitwise(reg: int, mask: bytes, xor: bytes) -> bytes:
    return expression(
        "bitwise",
        be32(1, register(reg)),
        be32(2, register(reg)),
        be32(3, len(mask)),
        be32(6, 0),
        value(4, mask),
        value(5, xor),
    )


def cmp(reg: int, op: str, data: bytes) -> bytes:
    return expression("cmp", be32(1, register(reg)), be32(2, CMP[op]), value(3, data))


def lookup(reg: int, name: str, into: int | None, invert: bool) -> bytes:
    """`into` is the kernel's register number, 0 for the verdict; None looks a set up."""
    return expression(
        "lookup",
        text(1, name),
        be32(2, register(reg)),
        be32(3, into) if into is not None else b"",
        be32(5, LOOKUP_INVERT if invert else 0),
    )


def numgen(reg: int, modulus: int, offset: int) -> bytes:
    return expression(
        "numgen", be32(1, register(reg)), be32(2, modulus), be32(3, NUMGEN_RANDOM), be32(4, offset)
    )


def jhash(reg: int, source: int, size: int, modulus: int, seed: int) -> bytes:
    return expression(
        "hash",
        be32(1, register(source)),
        be32(2, register(reg)),
        be32(3, size),
        be32(4, modulus),
        be32(5, seed),
        be32(7, HASH_JENKINS),
    )


def dynset(op: str, name: str, reg: int, data: int | None, timeout: int) -> bytes:
    return expression(
        "dynset",
        text(1, name),
        be32(3, DYNSET[op]),
        be32(4, register(reg)),
        be32(5, register(data)) if data is not None else b"",
        be64(6, timeout) if timeout else b"",
    )


def dnat(family: str, ip: int, port: int) -> bytes:
    return expression(
        "nat",
        be32(1, NAT_DNAT),
        be32(2, FAMILIES[family]),
        be32(3, register(ip)),
        be32(4, register(ip)),
        be32(5, register(port)),
        be32(6, register(port)),
    )


def masquerade() -> bytes:
    return expression("masq", be32(1, RANDOM_FULLY))


def reject(family: str) -> bytes:
    return expression("reject", be32(1, REJECT_ICMP), attr(2, bytes((REJECT_CODE[family],))))


# --- what stock nft wants to know -----------------------------------------------------

COMMENT_RULE: Final = 0
COMMENT_SET: Final = 7
MAX_COMMENT: Final = 127  # NFTNL_UDATA_COMMENT_MAXLEN less the NUL


def comment(number: int, words: str) -> bytes:
    """A comment as nft keeps it in an object's userdata: type, length, text, NUL."""
    raw = cut_comment(words)
    return bytes((number, len(raw) + 1)) + raw + b"\0"


def rule_comment(words: str) -> bytes:
    """A rule's userdata that is nothing but this comment, as an attribute of NEWRULE."""
    return attr(7, comment(COMMENT_RULE, words))


def cut_comment(words: str) -> bytes:
    """As much of the words as a comment holds."""
    raw = words.encode()
    return raw if len(raw) <= MAX_COMMENT else raw[:MAX_COMMENT].decode("utf-8", "ignore").encode()


def read_tlvs(data: bytes) -> dict[int, bytes]:
    """The opposite: the values in a userdata by type."""
    found, at = {}, 0
    while at + 2 <= len(data):
        end = at + 2 + data[at + 1]
        if end > len(data):
            raise Malformed("nf_tables: userdata that ends in the middle of a value")
        found[data[at]] = bytes(data[at + 2 : end])
        at = end
    return found


def read_comment(number: int, data: bytes) -> str:
    """The comment in a userdata, "" if there is none."""
    return read_tlvs(data).get(number, b"").rstrip(b"\0").decode("utf-8", "replace")


def _tlv(number: int, data: bytes) -> bytes:
    return bytes((number, len(data))) + data


def _u32(number: int, n: int) -> bytes:
    return _tlv(number, pack("=I", n))


_EXPR_VERDICT, _EXPR_PAYLOAD, _EXPR_META, _EXPR_CONCAT, _EXPR_NUMGEN = 1, 7, 9, 13, 23
_DESC_IP, _DESC_IP6, _DESC_TH = 12, 13, 11


def _of_payload(desc: int, field: int) -> tuple[int, bytes]:
    return _EXPR_PAYLOAD, _u32(0, desc) + _u32(1, field)


# How nft writes each field as a type: its expression number and that expression's own data.
_TYPEOF: Final[dict[str, tuple[int, bytes]]] = {
    "ip saddr": _of_payload(_DESC_IP, 11),
    "ip daddr": _of_payload(_DESC_IP, 12),
    "ip6 saddr": _of_payload(_DESC_IP6, 8),
    "ip6 daddr": _of_payload(_DESC_IP6, 9),
    "th dport": _of_payload(_DESC_TH, 2),
    "meta l4proto": (_EXPR_META, _u32(0, 16)),
    "meta priority": (_EXPR_META, _u32(0, 2)),
    "numgen random mod 65536": (_EXPR_NUMGEN, _u32(0, 1) + _u32(1, 65536) + _u32(2, 0)),
}
# nft's numbers of the fields' data types, six bits each in a concatenation.
_DATATYPE: Final = {
    "ip saddr": 7,
    "ip daddr": 7,
    "ip6 saddr": 8,
    "ip6 daddr": 8,
    "th dport": 13,
    "meta l4proto": 12,
    "meta priority": 23,
    "numgen random mod 65536": 4,
}


def datatype(fields: tuple[str, ...]) -> int:
    number = 0
    for field in fields:
        number = number << 6 | _DATATYPE[field]
    return number


def _typeof(fields: tuple[str, ...]) -> bytes:
    def one(field: str) -> bytes:
        expr, inner = _TYPEOF[field]
        return _u32(0, expr) + _tlv(1, inner)

    if len(fields) == 1:
        return one(fields[0])
    parts = b"".join(_tlv(n, one(field)) for n, field in enumerate(fields))
    return _u32(0, _EXPR_CONCAT) + _tlv(1, parts)


def typeof_userdata(
    key: tuple[str, ...], data: tuple[str, ...], verdicts: bool, host_order: bool, words: str
) -> bytes:
    """A set's userdata: the fields of its key and data, and its comment.

    `host_order`: the data is a number in the host's byte order.
    """
    is_map = verdicts or bool(data)
    told = _u32(0, _EXPR_VERDICT) + _tlv(1, b"") if verdicts else _typeof(data) if data else b""
    return (
        _u32(0, 0)
        + (_u32(1, 1 if host_order else 0) if is_map else b"")
        + _tlv(3, _typeof(key))
        + (_tlv(4, told) if told else b"")
        + (_u32(6, 0) if is_map else b"")
        + (comment(COMMENT_SET, words) if words else b"")
    )


def read_typeof(data: bytes) -> tuple[str, ...]:
    """The fields a KEY_TYPEOF or DATA_TYPEOF value tells; Malformed for others than ours."""
    names = {(expr, inner): field for field, (expr, inner) in _TYPEOF.items()}

    def one(raw: bytes) -> str:
        tlvs = read_tlvs(raw)
        expr = int.from_bytes(tlvs.get(0, b""), byteorder)
        field = names.get((expr, tlvs.get(1, b"")))
        if field is None:
            raise Malformed("nf_tables: a set key that kubeway does not use")
        return field

    tlvs = read_tlvs(data)
    if tlvs.get(0) == pack("=I", _EXPR_CONCAT):
        return tuple(one(raw) for _, raw in sorted(read_tlvs(tlvs.get(1, b"")).items()))
    return (one(data),)
