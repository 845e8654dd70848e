"""
What an nftables table demands of those who change it.

Three of the kernel's laws are told here, and nothing is sent. Every object lies
in another one and goes with it (`place`). Every object needs those it names
(`references`). And tables, sets and chains cannot be changed, only made and
taken away (`RIGID`), so a plan that would change one becomes a plan that makes
the family's table anew (`lawful`).

Source: net/netfilter/nf_tables_api.c; each law was tried on kernel 6.18.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from kubeway.planes.nft.objects import PLANE, Dynset, Element, Goto, Jump, Lookup, Rules
from kubeway.program.program import Change, Key, Object

RIGID: Final = frozenset({"table", "set", "chain"})
"""Kinds whose objects cannot be changed in place (EEXIST)."""


def place(key: Key) -> Key | None:
    """The object this one lies in: without that it cannot be (ENOENT), and with it it goes."""
    family, *rest = key.name
    match key.kind:
        case "element":
            return Key(PLANE, "set", (family, rest[0]))
        case "rules":
            return Key(PLANE, "chain", (family, rest[0]))
        case "set" | "chain":
            return Key(PLANE, "table", (family,))
        case _:
            return None


def references(key: Key, obj: Object) -> Iterator[Key]:
    """The sets and chains this object names: they must be there first (ENOENT), and stay (EBUSY)."""
    family = key.name[0]
    if isinstance(obj, Element) and isinstance(obj.data, Jump | Goto):
        yield Key(PLANE, "chain", (family, obj.data.chain))
    elif isinstance(obj, Rules):
        for rule in obj.rules:
            for expr in rule.exprs:
                if isinstance(expr, Jump | Goto):
                    yield Key(PLANE, "chain", (family, expr.chain))
                elif isinstance(expr, Lookup | Dynset):
                    yield Key(PLANE, "set", (family, expr.name))


def outgrown(key: Key, number: int) -> Key | None:
    """The table to make anew if a change of `key` was refused with this errno: its set is full.

    A set that is made together with many elements has room for some more (`lower`), not for any number.
    """
    return Key(PLANE, "table", key.name[:1]) if number == errno.ENFILE and key.kind == "element" else None


def lawful(changes: Sequence[Change], desired: Mapping[Key, Object]) -> list[Change]:
    """The same end by changes the kernel takes; `desired` is what the changes lead to.

    Where one would change a table, set or chain in place, its family's changes
    become `set` of the table, which takes the table away and makes it again, and
    `add` of everything else that family is to hold. All in one transaction, so no
    packet meets the family without its rules.
    """
    stiff = {
        c.key.name[0] for c in changes if c.verb == "set" and c.key.plane == PLANE and c.key.kind in RIGID
    }
    if not stiff:
        return changes if isinstance(changes, list) else list(changes)
    kept = [c for c in changes if c.key.plane != PLANE or c.key.name[0] not in stiff]
    tables = {c.key: c.old for c in changes if c.key.kind == "table" and c.key.plane == PLANE}
    for key, obj in desired.items():
        if key.plane != PLANE or key.name[0] not in stiff:
            continue
        if key.kind == "table":
            kept.append(Change("set", key, tables.get(key, obj), obj))
        else:
            kept.append(Change("add", key, None, obj))
    return kept
