"""
What the xtables tables demand of those who change them.

Nothing is sent here. A chain's rules lie in it and go with it (`place`). Rules, branches and jumps
need the chains they name, and a chain stays as long as one names it (`references`). Nothing is
rigid: a chain has nothing that could change, its rules are written anew as a whole, and branches
and jumps each for themselves. So every plan is lawful as it is.

Source: iptables-restore 1.8.9 with both back ends; each law was tried on kernel 6.18.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kubeway.planes.xtables.objects import PLANE, Goto, Jump, Rule, Rules
from kubeway.planes.xtables.ours import is_held
from kubeway.program.program import Key, Object

RIGID: Final[frozenset[str]] = frozenset()
"""Kinds whose objects cannot be changed in place: none."""


def place(key: Key) -> Key | None:
    """The object this one lies in: without that it cannot be, and with it it goes.

    Tables and built-in chains are no objects: they are always there.
    """
    return Key(PLANE, "chain", key.name[:3]) if key.kind in ("rules", "branch") else None


def references(key: Key, obj: Object) -> Iterator[Key]:
    """The chains of ours that this object names: they must be there first (ENOENT), and stay (EBUSY).

    Rules that somebody else put into a chain of ours may name chains that are no objects.
    """
    family, table = key.name[:2]
    rules = obj.rules if isinstance(obj, Rules) else (obj,) if isinstance(obj, Rule) else ()
    for rule in rules:
        if isinstance(rule.target, Jump | Goto) and is_held(table, rule.target.chain):
            yield Key(PLANE, "chain", (family, table, rule.target.chain))
