"""
A program's ways for people: a line for each, as a comment, as no tool of the system reads them.
"""

from __future__ import annotations

from collections.abc import Mapping

from kubeway.model.balances import DEFAULT
from kubeway.planes.relay.describe import describe_key
from kubeway.planes.relay.objects import PLANE, Way
from kubeway.program.program import Key, Object
from kubeway.values import show_addr


def show(objects: Mapping[Key, Object], family: str | None = None) -> str:
    """`# way 10.96.0.9:80/TCP (cluster): 10.244.1.11:8080, 10.244.1.12:8080; leastconn; remembered for 60 s`

    What is not said is as without any wish: in turn, nobody remembered, demoted or held.
    """
    ways = [key for key in objects if key.plane == PLANE and family in (None, family_of(key))]
    return "".join(f"# {describe_key(key, objects)}: {_way(objects[key])}\n" for key in sorted(ways))


def family_of(key: Key) -> str:
    """As planes with families call it."""
    return "ip" if len(key.name[1]) == 4 else "ip6"


def _way(way: Way) -> str:
    endpoints = ", ".join(show_addr(one.ip, one.port) for one in way.endpoints) or "nobody"
    return "; ".join(
        (
            endpoints,
            *([way.balance] if way.balance != DEFAULT else ()),
            *([f"remembered for {way.affinity} s"] if way.affinity else ()),
            *(["who fails is tried last"] if way.demote else ()),
            *([f"held for {way.hold} s where there is nobody"] if way.hold else ()),
        )
    )
