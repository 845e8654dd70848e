"""
From changes to the messages that make them: objects in, netlink bytes out.

The changes come in the order the plan gave them, and the messages keep it. One
message may carry thousands of elements; each parcel knows which changes are in
its message, so that a refusal finds its way back to the one that was refused.

`lift` is the opposite. This file knows no Service and opens no socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from struct import Struct
from typing import Any, Final, NamedTuple

from kubeway.planes.nft.fields import FIELDS, width
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
)
from kubeway.program.program import Change
from kubeway.wire import nftables as wire
from kubeway.wire.netlink import ATTR, NLA_F_NESTED, attr, be32, nest, walk

# An element list is one attribute, and an attribute is under 64 KiB.
_LIST_LIMIT: Final = wire.MAX_ATTR - 64
_LARGE: Final = 2000
_LIST_START: Final = 20  # a message's header and its nfgenmsg, where attributes begin


class Parcel(NamedTuple):
    """One message, and the changes it makes."""

    data: bytes
    changes: Sequence[Change]

    def culprit(self, offset: int) -> Change:
        """The change whose element begins at `offset` of the message, else the first."""
        if len(self.changes) > 1 and offset:
            at = _LIST_START
            for kind, value in walk(self.data[_LIST_START:]):
                if kind == 3:
                    place = at + 4
                    for change, (_, item) in zip(self.changes, walk(value), strict=False):
                        if place == offset:
                            return change
                        place += 4 + (len(item) + 3 & ~3)
                at += 4 + (len(value) + 3 & ~3)
        return self.changes[0]


def lower(changes: Sequence[Change]) -> list[Parcel]:
    """The messages of one transaction, without its begin and end."""
    runs = _ranges_go_first(_runs(changes))
    sizes = _sizes(runs)
    parcels: list[Parcel] = []
    for run in runs:
        if run.place is None:
            for change in run.changes:
                one = [change]
                parcels += (Parcel(data, one) for data in _messages(change, sizes))
        else:
            parcels += _elements(*run.place, run.changes, run.keys)
    return parcels


_Place = tuple[str, str, bool]  # of a run of elements: family, set, whether they go


class _Run(NamedTuple):
    """Changes that go together. Of elements, with their keys beside them."""

    place: _Place | None
    changes: list[Change]
    keys: list[bytes]


def _runs(changes: Sequence[Change]) -> list[_Run]:
    """The changes in their order, but with the elements of one set together: they do
    not point at each other. One pass, as there may be a million."""
    runs: list[_Run] = []
    others: list[Change] | None = None
    # Of the family and side that the loop is at: where each set's elements go.
    places: dict[str, tuple[Callable[[Change], None], Callable[[bytes], None]]] = {}
    family, gone = "", False
    for change in changes:
        key = change.key
        if key.kind != "element":
            if others is None:
                others, places = [], {}
                runs.append(_Run(None, others, []))
            others.append(change)
            continue
        others = None
        name = key.name
        if name[0] is not family or (change.new is None) is not gone:
            family, gone, places = name[0], change.new is None, {}
        place = places.get(name[1])
        if place is None:
            run = _Run((family, name[1], gone), [], [])
            runs.append(run)
            place = places[name[1]] = run.changes.append, run.keys.append
        place[0](change)
        place[1](name[2])
    return runs


def _ranges_go_first(runs: list[_Run]) -> list[_Run]:
    """A range cannot come while one that overlaps it is still there (EEXIST). So of a set of
    ranges what goes goes first; no packet sees the time in between."""
    going = {run.place[:2]: run for run in runs if run.place and run.place[2] and _is_range(run.changes[0])}
    if not going:
        return runs
    moved = []
    for run in runs:
        if run.place and run.place[:2] in going:
            first = going.pop(run.place[:2])
            moved += [first] if first is run else [first, run]
        elif not (run.place and run.place[2] and _is_range(run.changes[0])):
            moved.append(run)
    return moved


def _is_range(change: Change) -> bool:
    return isinstance(change.old, Element) and change.old.end is not None


def _messages(change: Change, sizes: Mapping[tuple[str, str], int]) -> Iterator[bytes]:
    match change.key.kind:
        case "table":
            return _table(change)
        case "set":
            return _set(change, sizes)
        case "chain":
            return _chain(change)
        case _:
            return _rules(change)


def _sizes(runs: list[_Run]) -> dict[tuple[str, str], int]:
    """Room for each large set that is made and filled in this transaction.

    The kernel fills a hash of known size in half the time of one that has to grow,
    but such a hash refuses elements over its size (ENFILE). So there is some room
    for more, and when that is full the table is made anew.
    """
    made = {c.key.name for run in runs if run.place is None for c in run.changes if c.key.kind == "set"}
    return {
        run.place[:2]: 1 << (len(run.keys) * 5 // 4).bit_length()
        for run in runs
        if run.place is not None and run.place[:2] in made and len(run.keys) >= _LARGE
    }


# --- tables, sets, chains, rules --------------------------------------------------


def _table(change: Change) -> Iterator[bytes]:
    (family,) = change.key.name
    if change.verb != "add":
        yield wire.del_table(str(family), TABLE)
    if isinstance(change.new, Table):
        words = change.new.comment
        yield wire.new_table(str(family), TABLE, wire.comment(0, words) if words else b"")


def _set(change: Change, sizes: Mapping[tuple[str, str], int]) -> Iterator[bytes]:
    family, name = change.key.name
    if change.verb != "add":
        yield wire.del_set(family, TABLE, name)
    if isinstance(change.new, Set):
        yield lower_set(family, name, change.new, sizes.get((family, name), 0))


def lower_set(family: str, name: str, new: Set, room: int = 0) -> bytes:
    """The NEWSET message of a set or map; `room` for so many elements, 0 for as many as come."""
    is_map = new.verdicts or bool(new.data)
    flags = (
        (wire.SET_MAP if is_map else 0)
        | (wire.SET_INTERVAL if new.ranges else 0)
        | (wire.SET_CONCAT if new.ranges and len(new.key) > 1 else 0)
        | (wire.SET_EVAL if new.dynamic else 0)
        | (wire.SET_TIMEOUT if new.timeout else 0)
    )
    return wire.new_set(
        family,
        TABLE,
        name,
        flags=flags,
        key_type=wire.datatype(new.key),
        key_size=width(new.key),
        data_type=wire.TYPE_VERDICT if new.verdicts else wire.datatype(new.data),
        data_size=16 if new.verdicts else width(new.data),
        fields=tuple(FIELDS[f].size for f in new.key) if new.ranges else (),
        timeout=new.timeout,
        size=new.size or (0 if new.ranges else room),
        userdata=wire.typeof_userdata(
            new.key, new.data, new.verdicts, new.data == ("meta priority",), new.comment
        ),
        set_id=1,
    )


def _chain(change: Change) -> Iterator[bytes]:
    family, name = map(str, change.key.name)
    if change.verb != "add":
        yield wire.del_chain(family, TABLE, name)
    if isinstance(change.new, Chain):
        new = change.new
        hook = wire.HOOKS[new.hook] if new.hook else None
        words = wire.comment(0, new.comment) if new.comment else b""
        yield wire.new_chain(family, TABLE, name, hook, new.priority, new.type, words)


def _rules(change: Change) -> Iterator[bytes]:
    family, chain = map(str, change.key.name)
    # Emptying comes first also for "add" when the chain was there without being ours to know.
    if change.verb != "add":
        yield wire.del_rules(family, TABLE, chain)
    if isinstance(change.new, Rules):
        for rule in change.new.rules:
            yield lower_rule(family, chain, rule)


def lower_rule(family: str, chain: str, rule: Rule) -> bytes:
    """The NEWRULE message of a rule, to be the chain's last."""
    words = wire.comment(0, rule.comment) if rule.comment else b""
    body = b"".join(lower_expr(family, expr) for expr in rule.exprs)
    return wire.new_rule(family, TABLE, chain, body, words)


# --- instructions -------------------------------------------------------------------


def lower_expr(family: str, expr: Expr) -> bytes:
    """The attribute of one instruction."""
    match expr:
        case Payload(reg, base, offset, size):
            return wire.payload(reg, base, offset, size)
        case Meta(reg, key):
            return wire.meta(reg, key)
        case MetaSet(reg, key):
            return wire.meta_set(reg, key)
        case Ct(reg, key):
            return wire.ct(reg, key)
        case CtSet(reg, key):
            return wire.ct_set(reg, key)
        case CtOriginal(reg):
            return wire.ct_original_saddr(family, reg)
        case SetDaddr(reg):
            return wire.daddr_set(family, reg)
        case SocketTransparent(reg):
            return wire.socket_transparent(reg)
        case Fib(reg, of):
            return wire.fib(reg, of)
        case Immediate(reg, value):
            return wire.immediate(reg, value)
        case Bitwise(reg, mask, xor):
            return wire.bitwise(reg, mask, xor)
        case Cmp(reg, op, value):
            return wire.cmp(reg, op, value)
        case Lookup(reg, name, into, invert):
            number = None if into is None else 0 if into == "verdict" else wire.register(into)
            return wire.lookup(reg, name, number, invert)
        case Numgen(reg, modulus, offset):
            return wire.numgen(reg, modulus, offset)
        case Hash(reg, source, size, modulus, seed):
            return wire.jhash(reg, source, size, modulus, seed)
        case Dynset(op, name, reg, data, timeout):
            return wire.dynset(op, name, reg, data, timeout)
        case Dnat(ip, port):
            return wire.dnat(family, ip, port)
        case Tproxy(ip, port):
            return wire.tproxy(family, ip, port)
        case Masquerade():
            return wire.masquerade()
        case Reject():
            return wire.reject(family)
        case Foreign(name, data):
            return nest(1, attr(1, name.encode() + b"\0"), attr(2 | NLA_F_NESTED, data))
        case _:
            return wire.immediate_verdict(*_verdict(expr))


def _verdict(verdict: Drop | Accept | Return | Jump | Goto) -> tuple[int, str]:
    match verdict:
        case Drop():
            return wire.DROP, ""
        case Accept():
            return wire.ACCEPT, ""
        case Return():
            return wire.RETURN, ""
        case Jump(chain):
            return wire.JUMP, chain
        case Goto(chain):
            return wire.GOTO, chain


# --- elements ---------------------------------------------------------------------------


def _elements(family: str, name: str, gone: bool, run: list[Change], keys: list[bytes]) -> Iterator[Parcel]:
    """The messages for a run of changes to one set's elements."""
    if gone:
        yield from _lists(wire.DELSETELEM, family, name, run, [_key_item(c) for c in run])
        return
    # A key that is there with other data cannot be overwritten (EEXIST), so it goes
    # and comes back; both in one transaction, no packet sees it missing.
    again = [change for change in run if change.verb == "set"]
    if again:
        yield from _lists(wire.DELSETELEM, family, name, again, [_key_item(c) for c in again])
    plain = [one.data for change in run if (one := change.new).end is None and not one.comment]
    first = run[0].new.data
    if len(plain) < len(run) or not (first is None or isinstance(first, bytes)):
        yield from _lists(wire.NEWSETELEM, family, name, run, _items(keys, [change.new for change in run]))
        return
    # The hot path of a cold start: all keys of a set are of one size, and so is a map's
    # data, so what stands around them is built once and an element is four fields of a struct.
    before, between = frame(len(keys[0]), first)
    row = Struct(f"{len(before)}s{len(keys[0])}s{len(between)}s{len(first or b'')}s")
    count = _LIST_LIMIT // row.size
    for start in range(0, len(run), count):
        some = slice(start, start + count)
        data = plain[some] if first is not None else repeat(b"")
        body = b"".join(map(row.pack, repeat(before), keys[some], repeat(between), data))
        yield Parcel(wire.elements(wire.NEWSETELEM, family, TABLE, name, body), run[some])


def _lists(
    number: int, family: str, name: str, changes: list[Change], items: list[bytes]
) -> Iterator[Parcel]:
    """The elements in as many messages as it takes; an even number in each."""
    longest = max(map(len, items))
    count = _LIST_LIMIT // longest
    for start in range(0, len(items), count):
        data = wire.elements(number, family, TABLE, name, b"".join(items[start : start + count]))
        yield Parcel(data, changes[start : start + count])


def _key_item(change: Change) -> bytes:
    """An element by its key alone, as deletions name it."""
    key, old = change.key.name[2], change.old
    if isinstance(old, Alien) and key == CATCH_ALL:
        return nest(1, be32(3, wire.ELEM_CATCHALL))
    end = old.end if isinstance(old, Element) else None
    return nest(1, wire.value(1, key), wire.value(10, end) if end is not None else b"")


def _items(keys: list[bytes], found: list[Element]) -> list[bytes]:
    """Elements with anything, as additions name them."""
    size = len(keys[0])
    # Thousands of elements lead to the same chain, and the lengths of their comments are
    # few: what stands around key and comment is made once for each shape.
    frames: dict[Any, tuple[bytes, bytes, bytes]] = {}
    items = []
    for key, one in zip(keys, found, strict=True):
        words = one.comment.encode()
        if len(words) > wire.MAX_COMMENT:
            words = wire.cut_comment(one.comment)
        shape = (one.data, one.end, len(words))
        around = frames.get(shape)
        if around is None:
            around = frames[shape] = _around(size, *shape)
        before, between, behind = around
        items.append(b"".join((before, key, between, words, behind)))
    return items


def _around(key: int, data: Any, end: bytes | None, words: int) -> tuple[bytes, bytes, bytes]:
    """What stands before a key of that size, between it and a comment of so many bytes, and behind."""
    if data is None:
        tail = b""
    elif isinstance(data, bytes):
        tail = wire.value(2, data)
    else:
        tail = wire.verdict(2, *_verdict(data))
    if end is not None:
        tail += wire.value(10, end)
    behind = b""
    if words:
        comment = attr(6, wire.comment(0, "x" * words))
        tail, behind = tail + comment[:6], comment[6 + words :]
    whole = 12 + key + len(tail) + words + len(behind)
    head = ATTR.pack(whole, 1 | NLA_F_NESTED) + ATTR.pack(8 + key, 1 | NLA_F_NESTED)
    return head + ATTR.pack(4 + key, 1), tail, behind


def frame(key: int, data: bytes | None) -> tuple[bytes, bytes]:
    """What stands before a plain element's key of that size, and between its key and its
    data (None: it has none). Both have a size that is a multiple of four."""
    before, tail, _ = _around(key, data, None, 0)
    return before, tail[: len(tail) - len(data or b"")]
