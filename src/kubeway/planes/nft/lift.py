"""
From what the kernel says it holds back to objects: the opposite of `lower`.

It reads the messages of a dump, which are spelled like those of a transaction, so
`lift(lower(p)) == p`. What it does not recognise in our table becomes a value too
(`Foreign`, `Alien`): a difference that can be shown and taken away, never a crash.
Elements of dynamic sets are the packets' own and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from kubeway.errors import Malformed
from kubeway.planes.nft.fields import width
from kubeway.planes.nft.lower import frame
from kubeway.planes.nft.objects import (
    CATCH_ALL,
    TABLE,
    Accept,
    Alien,
    Bitwise,
    Chain,
    Cmp,
    Ct,
    CtOriginal,
    CtSet,
    Dnat,
    Drop,
    Dynset,
    Element,
    Expr,
    Family,
    Fib,
    Foreign,
    Goto,
    Hash,
    Immediate,
    Jump,
    Lookup,
    Masquerade,
    Meta,
    MetaSet,
    Numgen,
    Payload,
    Reject,
    Return,
    Rule,
    Rules,
    Set,
    SetDaddr,
    SocketTransparent,
    Table,
    Tproxy,
    chain_key,
    element_key,
    rules_key,
    set_key,
    table_key,
)
from kubeway.program.program import Key, Object
from kubeway.wire import nftables as wire
from kubeway.wire.netlink import (
    ATTR,
    NLA_TYPE_MASK,
    Message,
    fields,
    need,
    read_be32,
    read_be64,
    read_text,
    walk,
)

_FAMILIES: Final[dict[int, Family]] = {2: "ip", 10: "ip6"}


def _reverse(names: dict[str, int]) -> dict[int, str]:
    return {number: name for name, number in names.items()}


_HOOK, _META, _CT = _reverse(wire.HOOKS), _reverse(wire.META), _reverse(wire.CT)
_BASE, _CMP, _DYNSET = _reverse(wire.PAYLOAD_BASE), _reverse(wire.CMP), _reverse(wire.DYNSET)


def lift(messages: Iterable[Message]) -> dict[Key, Object]:
    """The objects in these NEWTABLE, NEWSET, NEWCHAIN, NEWRULE and NEWSETELEM messages.

    Messages of other tables and families are passed over. Sets come before their
    elements, chains before their rules. Raises Malformed.
    """
    objects: dict[Key, Object] = {}
    rules: dict[Key, list[Rule]] = {}
    for message in messages:
        if len(message.body) < 4 or message.kind >> 8 != wire.SUBSYSTEM:
            raise Malformed("nf_tables: a message that is none")
        family = _FAMILIES.get(message.body[0])
        attrs = fields(message.body[4:])
        if family is None or 1 not in attrs or read_text(attrs[1]) != TABLE:
            continue
        number = message.kind & 0xFF
        if number == wire.NEWSETELEM:
            _lift_elements(objects, family, attrs)
        elif number == wire.NEWRULE:
            chain = read_text(need(attrs, 2, "a rule's chain"))
            rules.setdefault(rules_key(family, chain), []).append(_lift_rule(attrs))
        elif number == wire.NEWCHAIN:
            name = read_text(need(attrs, 3, "a chain's name"))
            objects[chain_key(family, name)] = _lift_chain(attrs)
            rules.setdefault(rules_key(family, name), [])
        elif number == wire.NEWSET:
            _lift_set(objects, family, attrs)
        elif number == wire.NEWTABLE:
            objects[table_key(family)] = _lift_table(attrs)
    objects.update((key, Rules(tuple(found))) for key, found in rules.items())
    return objects


Attrs = dict[int, memoryview]


def _lift_table(attrs: Attrs) -> Table | Alien:
    if 2 in attrs and read_be32(attrs[2]):
        return Alien("a table with flags")
    return Table(wire.read_comment(0, bytes(attrs.get(6, b""))))


def _lift_chain(attrs: Attrs) -> Chain | Alien:
    words = wire.read_comment(0, bytes(attrs.get(12, b"")))
    if 4 not in attrs:
        return Chain(comment=words)
    hook = fields(attrs[4])
    type_ = read_text(need(attrs, 7, "a base chain's type"))
    point = _HOOK.get(read_be32(need(hook, 1, "a base chain's hook")))
    policy = read_be32(attrs[5]) if 5 in attrs else wire.ACCEPT
    if type_ not in ("filter", "nat", "route") or point is None or policy != wire.ACCEPT:
        return Alien("a base chain of another kind")
    priority = read_be32(need(hook, 2, "a base chain's priority"))
    signed = priority - (1 << 32) if priority >> 31 else priority
    return Chain(type_, point, signed, words)  # type: ignore[arg-type]


def _lift_set(objects: dict[Key, Object], family: Family, attrs: Attrs) -> None:
    name = read_text(need(attrs, 2, "a set's name"))
    flags = read_be32(attrs[3]) if 3 in attrs else 0
    if flags & wire.SET_ANONYMOUS:
        return  # goes with the rule it belongs to
    try:
        objects[set_key(family, name)] = _read_set(flags, attrs)
    except Malformed as error:
        objects[set_key(family, name)] = Alien(str(error))


def _read_set(flags: int, attrs: Attrs) -> Set | Alien:
    told = wire.read_tlvs(bytes(attrs.get(13, b"")))
    if 3 not in told:
        return Alien("a set whose key is not told by typeof")
    key = wire.read_typeof(told[3])
    verdicts = 6 in attrs and read_be32(attrs[6]) == wire.TYPE_VERDICT
    data = wire.read_typeof(told[4]) if 4 in told and not verdicts else ()
    description = fields(attrs.get(9, memoryview(b"")))
    found = Set(
        key=key,
        data=data,
        verdicts=verdicts,
        ranges=bool(flags & wire.SET_INTERVAL),
        dynamic=bool(flags & wire.SET_EVAL),
        timeout=read_be64(attrs[11]) if 11 in attrs else 0,
        size=read_be32(description[1]) if 1 in description and flags & wire.SET_EVAL else 0,
        comment=told.get(wire.COMMENT_SET, b"").rstrip(b"\0").decode("utf-8", "replace"),
    )
    if read_be32(need(attrs, 5, "a set's key length")) != width(key):
        return Alien("a set whose key is not what its typeof tells")
    return found


# --- rules ---------------------------------------------------------------------------


def _lift_rule(attrs: Attrs) -> Rule:
    exprs = tuple(_lift_expr(value) for _, value in walk(attrs.get(4, memoryview(b""))))
    return Rule(exprs, wire.read_comment(0, bytes(attrs.get(7, b""))))


def _lift_expr(data: memoryview) -> Expr:
    attrs = fields(data)
    name = read_text(need(attrs, 1, "an expression's name"))
    inner = attrs.get(2, memoryview(b""))
    read = _LIFT.get(name)
    found = read(fields(inner)) if read is not None else None
    return found if found is not None else Foreign(name, bytes(inner))


def _reg(a: Attrs, number: int) -> int:
    return wire.unregister(read_be32(need(a, number, "a register")))


def _number(a: Attrs, number: int, default: int = 0) -> int:
    return read_be32(a[number]) if number in a else default


def _data(a: Attrs, number: int) -> bytes:
    return bytes(need(fields(need(a, number, "data")), 1, "a value"))


def _payload(a: Attrs) -> Expr | None:
    base = _BASE.get(_number(a, 2))
    if 5 in a:
        how = tuple(_number(a, n) for n in (3, 4, 6, 7, 8))
        return SetDaddr(_reg(a, 5)) if base == "network" and how in wire.DADDR_SET.values() else None
    if 1 not in a or base is None:
        return None
    return Payload(_reg(a, 1), base, _number(a, 3), _number(a, 4))  # type: ignore[arg-type]


def _meta(a: Attrs) -> Expr | None:
    key = _META.get(_number(a, 2))
    if key is None:
        return None
    if 3 not in a:
        return Meta(_reg(a, 1), key)  # type: ignore[arg-type]
    return MetaSet(_reg(a, 3), key) if key in ("mark", "priority") else None  # type: ignore[arg-type]


def _ct(a: Attrs) -> Expr | None:
    key = _CT.get(_number(a, 2))
    if _number(a, 2) in wire.CT_SRC.values() and 1 in a:
        return CtOriginal(_reg(a, 1)) if bytes(a.get(3, b"")) == bytes([wire.CT_ORIGINAL]) else None
    if key == "mark" and 4 in a:
        return CtSet(_reg(a, 4), key)  # type: ignore[arg-type]
    return Ct(_reg(a, 1), key) if key is not None and 1 in a and 3 not in a else None  # type: ignore[arg-type]


def _socket(a: Attrs) -> Expr | None:
    if _number(a, 1, 99) != wire.SOCKET_TRANSPARENT or 2 not in a:
        return None
    return SocketTransparent(_reg(a, 2))


def _tproxy(a: Attrs) -> Expr | None:
    if _number(a, 1) not in _FAMILIES or 2 not in a or 3 not in a:
        return None
    return Tproxy(_reg(a, 2), _reg(a, 3))


def _fib(a: Attrs) -> Expr | None:
    flags = _number(a, 3)
    if _number(a, 2) != wire.FIB_TYPE or flags not in (wire.FIB_SADDR, wire.FIB_DADDR):
        return None
    return Fib(_reg(a, 1), "saddr" if flags == wire.FIB_SADDR else "daddr")


def _bitwise(a: Attrs) -> Expr | None:
    reg = _reg(a, 1)
    if reg != _reg(a, 2) or _number(a, 6) or 4 not in a or 5 not in a:
        return None
    return Bitwise(reg, _data(a, 4), _data(a, 5))


def _cmp(a: Attrs) -> Expr | None:
    op = _CMP.get(_number(a, 2))
    return Cmp(_reg(a, 1), op, _data(a, 3)) if op is not None else None  # type: ignore[arg-type]


def _lookup(a: Attrs) -> Expr | None:
    name = read_text(need(a, 1, "a set's name"))
    into: Any = None
    if 3 in a:
        into = "verdict" if read_be32(a[3]) == 0 else _reg(a, 3)
    return Lookup(_reg(a, 2), name, into, bool(_number(a, 5) & wire.LOOKUP_INVERT))


def _numgen(a: Attrs) -> Expr | None:
    if _number(a, 3) != wire.NUMGEN_RANDOM:
        return None
    return Numgen(_reg(a, 1), _number(a, 2), _number(a, 4))


def _hash(a: Attrs) -> Expr | None:
    # Without a seed the kernel takes one by chance.
    if _number(a, 7) != wire.HASH_JENKINS or 5 not in a or _number(a, 6):
        return None
    return Hash(_reg(a, 2), _reg(a, 1), _number(a, 3), _number(a, 4), _number(a, 5))


def _dynset(a: Attrs) -> Expr | None:
    op = _DYNSET.get(_number(a, 3))
    if op is None or 7 in a or 10 in a:
        return None
    data = _reg(a, 5) if 5 in a else None
    name = read_text(need(a, 1, "a set's name"))
    return Dynset(op, name, _reg(a, 4), data, read_be64(a[6]) if 6 in a else 0)  # type: ignore[arg-type]


def _nat(a: Attrs) -> Expr | None:
    # A range of one is one: the kernel leaves the end out or repeats the beginning.
    if _number(a, 1, 99) != wire.NAT_DNAT or 3 not in a or 5 not in a:
        return None
    ip, port = _reg(a, 3), _reg(a, 5)
    if (4 in a and _reg(a, 4) != ip) or (6 in a and _reg(a, 6) != port):
        return None
    if _number(a, 7) & wire.RANDOM_FULLY:
        return None
    return Dnat(ip, port)


def _masq(a: Attrs) -> Expr | None:
    return Masquerade() if _number(a, 1) == wire.RANDOM_FULLY and not a.keys() - {1} else None


def _reject(a: Attrs) -> Expr | None:
    code = bytes(a.get(2, b""))
    known = code in (b"\3", b"\4") and _number(a, 1) == wire.REJECT_ICMP
    return Reject() if known else None


def _immediate(a: Attrs) -> Expr | None:
    data = need(a, 2, "data")
    if read_be32(need(a, 1, "a register")) == 0:
        return _verdict(data)
    return Immediate(_reg(a, 1), _data(a, 2))


_LIFT: Final[dict[str, Callable[[Attrs], Expr | None]]] = {
    "payload": _payload,
    "meta": _meta,
    "ct": _ct,
    "socket": _socket,
    "tproxy": _tproxy,
    "fib": _fib,
    "bitwise": _bitwise,
    "cmp": _cmp,
    "lookup": _lookup,
    "numgen": _numgen,
    "hash": _hash,
    "dynset": _dynset,
    "nat": _nat,
    "masq": _masq,
    "reject": _reject,
    "immediate": _immediate,
}


def _verdict(data: memoryview) -> Drop | Accept | Return | Jump | Goto | None:
    attrs = fields(need(fields(data), 2, "a verdict"))
    code = read_be32(need(attrs, 1, "a verdict's code"))
    code = code - (1 << 32) if code >> 31 else code
    chain = read_text(attrs[2]) if 2 in attrs else ""
    match code:
        case wire.DROP:
            return Drop()
        case wire.ACCEPT:
            return Accept()
        case wire.RETURN:
            return Return()
        case wire.JUMP:
            return Jump(chain)
        case wire.GOTO:
            return Goto(chain)
        case _:
            return None


# --- elements -----------------------------------------------------------------------------


def _lift_elements(objects: dict[Key, Object], family: Family, attrs: Attrs) -> None:
    name = read_text(need(attrs, 2, "a set's name"))
    holder = objects.get(set_key(family, name))
    if not isinstance(holder, Set) or holder.dynamic or 3 not in attrs:
        return
    # The plain elements of a data map are by far the most, and all alike: they are
    # told by their frame and cut out of it without walking their attributes.
    key, data = width(holder.key), width(holder.data)
    heads, betweens = _spellings(key, data)
    start, middle, end = 8, 8 + key, 16 + key + data
    for _, item in walk(attrs[3]):
        raw = bytes(item)
        if data and len(raw) == end and raw[:start] in heads and raw[middle : middle + 8] in betweens:
            objects[element_key(family, name, raw[start:middle])] = Element(raw[middle + 8 :])
        else:
            _lift_element(objects, family, name, item)


def _spellings(key: int, data: int) -> tuple[set[bytes], set[bytes]]:
    """How the attribute heads before the key and before the data can look: the kernel
    leaves out the NESTED flag that a request may have."""
    head, between = frame(key, bytes(data))
    head = head[4:]  # the list's own head is already taken off
    return {head, _unflagged(head)}, {between, _unflagged(between)}


def _unflagged(heads: bytes) -> bytes:
    pairs = (ATTR.unpack_from(heads, at) for at in range(0, len(heads), 4))
    return b"".join(ATTR.pack(size, kind & NLA_TYPE_MASK) for size, kind in pairs)


def _lift_element(objects: dict[Key, Object], family: Family, name: str, item: memoryview) -> None:
    attrs = fields(item)
    if 1 not in attrs:
        objects[element_key(family, name, CATCH_ALL)] = Alien("a catch-all element")
        return
    key = _data(attrs, 1)
    data: Any = None
    if 2 in attrs:
        value = fields(attrs[2])
        data = bytes(value[1]) if 1 in value else _verdict(attrs[2])
    end = _data(attrs, 10) if 10 in attrs else None
    comment = wire.read_comment(0, bytes(attrs.get(6, b"")))
    objects[element_key(family, name, key)] = Element(data, end, comment)
