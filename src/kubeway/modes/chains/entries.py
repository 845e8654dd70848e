"""
Entries of sets, and the matches by which rules ask for them.
"""

from __future__ import annotations

from collections.abc import Mapping

from kubeway.planes.ipset.objects import BITMAP_PORT, ENTRY, Set, entry_key, set_key
from kubeway.planes.ipset.ours import name_for
from kubeway.planes.xtables.objects import InSet
from kubeway.program.program import Key, Object
from kubeway.values import Ip, Prefix


def empty(types: Mapping[str, str], family: int) -> dict[Key, Object]:
    """Sets of these names and types, in one family, with nothing in them."""
    return {
        set_key(name_for(name, family)): Set(kind, 0 if kind == BITMAP_PORT else family)
        for name, kind in types.items()
    }


def put(objects: dict[Key, Object], family: int, name: str, *fields: object) -> None:
    """`fields` are what the set's type says, in that order; a port in a hash follows its protocol."""
    full = name_for(name, family)
    last = fields[-1]
    if isinstance(last, Prefix) and last.length == 0:
        # No set holds a prefix of length zero; it has two halves.
        for half in _halves(last):
            objects[entry_key(full, *fields[:-1], half)] = ENTRY
    else:
        objects[entry_key(full, *fields)] = ENTRY


def _halves(prefix: Prefix) -> tuple[Prefix, Prefix]:
    upper = bytes((0x80,)) + prefix.ip[1:]
    return Prefix(prefix.ip, 1), Prefix(Ip(upper), 1)


class Asked:
    """Matches for the sets of one family."""

    def __init__(self, family: int) -> None:
        self._family = family

    def address(self, name: str) -> InSet:
        """The packet's destination address."""
        return InSet(name_for(name, self._family), ("dst",))

    port = address
    """The packet's destination port, in a set of ports."""

    def way(self, name: str) -> InSet:
        """The destination's address, protocol and port."""
        return InSet(name_for(name, self._family), ("dst", "dst"))

    def way_from(self, name: str) -> InSet:
        """The same, and the client."""
        return InSet(name_for(name, self._family), ("dst", "dst", "src"))
