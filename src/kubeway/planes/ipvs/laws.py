"""
What ip_vs demands of those who change it.

Nothing is sent here. A destination lies in its server and goes with it (`place`); nothing names anything
else; and everything can be changed in place, so every plan is lawful as it is.

Source: net/netfilter/ipvs/ip_vs_ctl.c; each law was tried on kernel 6.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kubeway.planes.ipvs.objects import server_of
from kubeway.program.program import Key, Object

RIGID: Final[frozenset[str]] = frozenset()
"""Kinds whose objects cannot be changed in place: none. A server that is set keeps its destinations."""


def place(key: Key) -> Key | None:
    """The object this one lies in: without that it cannot be (ESRCH), and with it it goes."""
    return server_of(key) if key.kind == "destination" else None


def references(key: Key, obj: Object) -> Iterator[Key]:
    """The objects that this one names: none."""
    yield from ()
