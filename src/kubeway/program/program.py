"""
What a node must hold: objects with keys.

A key is what an object is called on both the desired and the actual side. The
object is whatever the plane says it is; here only its equality matters. Beside
the object, never in it, stands its origin: which service port it came from and
why, so that a refusal, a drift or a counter can be told in the cluster's words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from kubeway.model.forward import ServicePortName

Object = Any
"""An immutable value with equality that tells types apart; see docs/decisions."""


class Key(Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """`plane` holds the object, `kind` is one of the plane's kinds, `name` is the object's own."""

    plane: str
    kind: str
    name: tuple[Any, ...]


class Origin(NamedTuple):
    """Whose object it is. `service` is None for what is there even with no service."""

    service: ServicePortName | None
    reason: str

    def __str__(self) -> str:
        return f"{self.service.label}, {self.reason}" if self.service else self.reason


class Fragment(NamedTuple):
    """What one service port (or the base) adds to the program.

    `objects` may hold keys that other fragments hold too: chains they share.
    """

    origin: Origin
    objects: Mapping[Key, Object]


class Change(Struct, frozen=True, gc=False):
    """`verb` is "add", "set" or "del"; `old` is None for add, `new` for del."""

    verb: str
    key: Key
    old: Any
    new: Any


class Step(NamedTuple):
    """What one plane takes in one go."""

    plane: str
    changes: list[Change]
