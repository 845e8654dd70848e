"""
Which packets are in the sets that rules ask for.

Sets are another plane's, and are found in the program by their keys: `("set", (name,))` has a `type`, in the
words of ipset, and `("entry", (name, *fields))`, or "state", is there or not, or there as an exception
(`nomatch`). Knows what the fields of a type are, and which packets have them.

Source: net/netfilter/ipset/ip_set_core.c (ip_set_test), ip_set_getport.c, ip_set_bitmap_port.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from kubeway.errors import Unknowable
from kubeway.program.program import Key
from kubeway.values import TCP, UDP, Ip, Prefix, Proto, prefix_of

_PLANE: Final = "ipset"
_ENTRIES: Final = ("entry", "state")
_TYPES: Final = frozenset({"hash:ip", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net", "bitmap:port"})
"""Those kubeway uses."""

_BARE_PORTS: Final = frozenset({TCP, UDP})
"""The protocols whose ports a bitmap holds (ip_set_get_ip_port); it does not tell them apart."""

Side = tuple[Ip, int | None]
"""An address of the packet and the port beside it, where that is known."""


class Members:
    """The sets among these objects."""

    def __init__(self, objects: Mapping[Key, object]) -> None:
        self._objects = objects
        self._lengths: dict[str, list[int]] | None = None

    def has(self, name: str, proto: Proto, sides: Sequence[Side]) -> bool:
        """Whether a packet that has this at the sides it is asked for is in the set.

        Raises Unknowable if the set is not in the program or of a type kubeway does not use, or if it depends
        on a port that is not known.
        """
        held: Any = self._objects.get(Key(_PLANE, "set", (name,)))
        if held is None:
            raise Unknowable(f"set {name} is not in the program")
        if held.type not in _TYPES:
            raise Unknowable(f"set {name} is of type {held.type}, which kubeway does not use")
        method, _, words = held.type.partition(":")
        fields = words.split(",")
        # Asked for too few sides, the kernel finds nothing; those too many it passes over.
        if len(sides) < len(fields) or (method == "bitmap" and proto not in _BARE_PORTS):
            return False
        known: list[tuple[object, ...]] = [()]
        for word, (ip, port) in zip(fields, sides, strict=False):
            if word == "port":
                if port is None:
                    raise Unknowable(f"set {name} is asked for the port a packet comes from")
                known = [(*one, port) if method == "bitmap" else (*one, proto, port) for one in known]
            elif word == "net":
                known = [(*one, prefix) for one in known for prefix in self._prefixes(name, ip)]
            else:
                known = [(*one, ip) for one in known]
        keys = (Key(_PLANE, kind, (name, *one)) for one in known for kind in _ENTRIES)
        found = next((key for key in keys if key in self._objects), None)
        return found is not None and not getattr(self._objects[found], "nomatch", False)

    def _prefixes(self, name: str, ip: Ip) -> Iterator[Prefix]:
        """Those with this address, of every length that occurs in the set; the narrowest first."""
        if self._lengths is None:
            self._lengths = {}
            for key in self._objects:
                if key.plane == _PLANE and key.kind == "entry" and isinstance(key.name[-1], Prefix):
                    lengths = self._lengths.setdefault(key.name[0], [])
                    if key.name[-1].length not in lengths:
                        lengths.append(key.name[-1].length)
        for length in sorted(self._lengths.get(name, ()), reverse=True):
            if length <= len(ip) * 8:
                yield prefix_of(ip, length)
