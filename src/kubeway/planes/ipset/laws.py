"""
What ipset demands of those who change it.

Nothing is sent here. An entry lies in its set, and goes with it (`place`). Nothing that lies here names
anything else here (`references`); rules of another plane name sets, which is for the order of planes to
mind. A set cannot be changed (`RIGID`): who writes makes it anew and swaps the two.

Source: net/netfilter/ipset/ip_set_core.c; each law was tried on kernel 6.18.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kubeway.planes.ipset.objects import set_key
from kubeway.program.program import Key, Object

RIGID: Final = frozenset({"set"})
"""Kinds whose objects cannot be changed in place."""


def place(key: Key) -> Key | None:
    """The object this one lies in: without that it cannot be (ENOENT), and with it it goes."""
    return set_key(key.name[0]) if key.kind != "set" else None


def references(key: Key, obj: Object) -> Iterator[Key]:
    """The objects of this plane that this one names: none."""
    yield from ()
