"""
What the relay demands of those who change it: nothing. A way lies in nothing and names nothing, and each can
be changed in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kubeway.program.program import Key, Object

RIGID: Final[frozenset[str]] = frozenset()
"""Kinds whose objects cannot be changed in place: none. A way that is set keeps its connections."""


def place(key: Key) -> Key | None:
    """The object this one lies in: none."""
    return None


def references(key: Key, obj: Object) -> Iterator[Key]:
    """The objects that this one names: none."""
    yield from ()
