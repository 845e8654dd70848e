"""
What a change is called in one line, for errors and logs.
"""

from __future__ import annotations

from collections.abc import Mapping

from kubeway.planes.nft.fields import show, width
from kubeway.planes.nft.objects import Set, set_key
from kubeway.program.program import Change, Key, Object

_VERBS = {"add": "add", "set": "change", "del": "delete"}


def describe(change: Change, program: Mapping[Key, Object]) -> str:
    """`add element services 10.96.0.9 . tcp . 80 (ip)`; `program` tells how keys read."""
    return f"{_VERBS[change.verb]} {describe_key(change.key, program)}"


def describe_key(key: Key, program: Mapping[Key, Object]) -> str:
    family, *rest = key.name
    if key.kind != "element":
        return f"{key.kind} {' '.join(map(str, rest))}".rstrip() + f" ({family})"
    name, raw = rest
    holder = program.get(set_key(family, name))
    shown = raw.hex()
    if isinstance(holder, Set) and len(raw) == width(holder.key):
        shown = show(holder.key, raw)
    return f"element {name} {shown} ({family})"
