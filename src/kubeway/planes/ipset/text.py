"""
A program as `ipset save` prints it, and as `ipset restore` loads it.

This is a view: nothing is read back from text. It follows ipset 7.17, but sets and entries are in order
of their names, so that equal programs have equal texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from kubeway.planes.ipset.lower import room
from kubeway.planes.ipset.objects import BITMAP_PORT, PLANE, Entry, Set
from kubeway.planes.ipset.ours import is_ipv6
from kubeway.planes.ipset.words import show_fields
from kubeway.program.program import Key, Object
from kubeway.values import V6

_FAMILIES: Final = {4: "inet", 6: "inet6"}


def show(objects: Mapping[Key, Object], family: str | None = None) -> str:
    """The whole program, or of one family (`ip`, `ip6`) its sets; "" if there is nothing of it."""
    sets: dict[str, Set] = {}
    entries: dict[str, list[tuple[Key, Entry]]] = {}
    for key, thing in objects.items():
        if key.plane == PLANE and isinstance(thing, Set):
            if family in (None, _family(key.name[0], thing)):
                sets[key.name[0]] = thing
        elif key.plane == PLANE:
            entries.setdefault(key.name[0], []).append((key, thing))
    lines = (line for name in sorted(sets) for line in _set(name, sets[name], entries.get(name, [])))
    return "".join(f"{line}\n" for line in lines)


def _family(name: str, held: Set) -> str:
    return "ip6" if held.family == V6 or (not held.family and is_ipv6(name)) else "ip"


def _set(name: str, held: Set, entries: list[tuple[Key, Entry]]) -> Iterator[str]:
    if held.type == BITMAP_PORT:
        yield f"create {name} {held.type} range 0-65535"
    else:
        hashsize, maxelem = room(len(entries))
        sized = f"hashsize {hashsize} maxelem {maxelem}"
        yield f"create {name} {held.type} family {_FAMILIES.get(held.family, 'unspec')} {sized}"
    for key, entry in sorted(entries, key=lambda item: item[0]):
        yield f"add {name} {show_fields(key.name[1:])}{' nomatch' if entry.nomatch else ''}"
