"""
What one service port adds to the doors: its ways in, who is let in, and what becomes of packets where
nobody serves.

Which chain a way in leads to is the mode's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from kubeway.model.forward import Forward
from kubeway.modes.maps.layout import PRESENT, Words, pack_front
from kubeway.modes.ways import Refusal, WayIn, ways_in
from kubeway.planes.nft.objects import Drop, Element, Goto, Return, Verdict, element_key
from kubeway.program.program import Key, Object

_MAX_COMMENT: Final = 127
_REFUSED: Final[dict[Refusal, Verdict]] = {"reject": Goto("reject-it"), "drop": Drop()}
_NOBODY: Final = Return()


class Served(NamedTuple):
    """A way in by which some are served. `key` and `comment` are for its element; `front` is that one's key
    as bytes."""

    way: WayIn
    key: Key
    front: bytes
    comment: str


def ways(
    objects: dict[Key, Object], forward: Forward, words: Words, served: bool = True, held: bool = False
) -> Iterator[Served]:
    """Adds to `objects` what every mode needs, and leaves the elements of the ways by which some are served.

    Not `served`: the mode cannot serve this service port, so all of its ways in are rejected. `held`: it lets
    in those whom nobody can serve yet, so none is.
    """
    family = words.family
    comment = str(forward.name)[:_MAX_COMMENT]
    for one in ways_in(forward, served, held):
        frontend = one.frontend
        if frontend.ip is None:
            front = pack_front(forward.proto, frontend.port)
            into, refused = "nodeports", "no-endpoint-nodeports"
        else:
            front = frontend.ip + pack_front(forward.proto, frontend.port)
            into, refused = "services", "no-endpoint-services"
            if not one.external:
                objects[element_key(family, "cluster-ips", frontend.ip)] = PRESENT
        if frontend.sources is not None:
            objects[element_key(family, "firewalled", front)] = Element(comment=comment)
            for source in frontend.sources:
                key = element_key(family, "allowed", front + source.ip)
                objects[key] = Element(end=front + source.last)
        if one.refused is not None:
            objects[element_key(family, refused, front)] = Element(_REFUSED[one.refused], comment=comment)
        key = element_key(family, into, front)
        if one.served:
            yield Served(one, key, front, comment)
        elif frontend.ip is not None:
            # The address keeps its port: no node port of that number steps in.
            objects[key] = Element(_NOBODY, comment=comment)
