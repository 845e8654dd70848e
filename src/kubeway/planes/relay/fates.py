"""
Whom the relay connects a new client to, with exact chances.

What it goes by beside the list (whose turn it is, who has how many connections, who has failed, the client's
address) is not known here; so the chances are those over all of that, and by each way to choose they are
equal: in turn; as connections are evened out; by two lots; over all clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from kubeway.planes.relay.objects import Endpoint, List, Way, way_key
from kubeway.program.program import Key, Object
from kubeway.values import Ip, family_of

Balance = list[tuple[Endpoint, Fraction]]


def way_of(objects: Mapping[Key, Object], list_: List, dst: Ip, proto: int, port: int) -> Way | None:
    """The way that a connection to this address comes by: the address's own, else a node port's."""
    family = family_of(dst)
    way = objects.get(way_key(list_, dst, proto, port)) or objects.get(
        way_key(list_, None, proto, port, family)
    )
    return way if isinstance(way, Way) else None


def balance(
    objects: Mapping[Key, Object],
    list_: List,
    dst: Ip,
    proto: int,
    port: int,
    remembered: tuple[Ip, int] | None = None,
) -> Balance | None:
    """Who gets a new client that came to this address, protocol and port by a listener of this list.

    None: there is no such way, and the client is reset. Nobody: it waits if the way lets it, and is reset.
    `remembered`: the endpoint that the client was sent to before, which it keeps if the way has affinity and
    that one still serves.
    """
    way = way_of(objects, list_, dst, proto, port)
    if way is None:
        return None
    if way.affinity:
        for one in way.endpoints:
            if (one.ip, one.port) == remembered:
                return [(one, Fraction(1))]
    return [(one, Fraction(1, len(way.endpoints))) for one in way.endpoints]
