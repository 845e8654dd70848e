"""
What would this node hold? A cluster's objects compiled to a program, and the program shown.

These are the steps the daemon takes, taken once and without a node: objects to
Forwards, Forwards to fragments, fragments to one program. Nothing here touches a
kernel; the node's addresses are those its Node object tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from kubeway.errors import BadInput
from kubeway.model.forward import Forward
from kubeway.model.node import NodeFacts, NodeView, Options
from kubeway.model.settle import Settler
from kubeway.model.sizes import Sizes
from kubeway.model.store import Snapshot
from kubeway.model.view import node_facts, node_view
from kubeway.planes import nfacct, sysctl
from kubeway.planes.ipset import objects as ipset
from kubeway.planes.ipset.ours import is_ipv6
from kubeway.planes.ipvs import objects as ipvs
from kubeway.planes.link import objects as link
from kubeway.planes.nft import fields
from kubeway.planes.nft.objects import Element, Family, Set, set_key
from kubeway.planes.relay import objects as relay
from kubeway.planes.relay.text import family_of as family_of_way
from kubeway.planes.xtables import objects as xtables
from kubeway.planes.xtables.text import show_rule
from kubeway.program.link import Linker, Name
from kubeway.program.plane import Mode
from kubeway.program.program import Fragment, Key, Object
from kubeway.values import parse_ip, show_addr, show_ip

LOOPBACK: Final = (parse_ip("127.0.0.1"), parse_ip("::1"))


class World(NamedTuple):
    """A cluster as one of its nodes sees it."""

    snapshot: Snapshot
    facts: NodeFacts
    view: NodeView
    forwards: list[Forward]


def settle(snapshot: Snapshot, options: Options, node: str = "") -> World:
    """The cluster as seen from the node of this name; by default, from the only Node there is.

    BadInput if there are several Nodes to choose from, or none of this name.
    """
    name = _choose(snapshot, node)
    found = snapshot.nodes.get(name)
    addresses = [address.ip for address in found.addresses] if found is not None else []
    facts = node_facts(found, name, [*addresses, *LOOPBACK])
    settler = Settler(facts, options)
    settler.update(snapshot, frozenset(snapshot.names()))
    view = node_view(facts, options, snapshot.service_cidrs())
    forwards = [settler.forwards[key] for key in sorted(settler.forwards)]
    return World(snapshot, facts, view, forwards)


def program(world: World, mode: Mode) -> Linker:
    """All that the node must hold."""
    linker = Linker()
    view = Sizes(mode.large, world.forwards).seen(world.view)
    # Named as the daemon names them, so that a key several bring has the same holder.
    fragments: dict[Name, Fragment | None] = {_BASE: mode.base(view)}
    for forward in world.forwards:
        fragments[forward.name, forward.family] = mode.fragment(forward, view)
    linker.update(fragments)
    return linker


def rows(linker: Linker, family: Family | None = None) -> list[dict[str, Any]]:
    """The program as a list for JSON: where each object lies, what it is, whose it is."""
    origins = linker.origins()
    return [
        {
            "plane": key.plane,
            "kind": key.kind,
            "name": _name(key, linker.objects),
            "object": _object(key, linker.objects),
            "origin": str(origins[key]),
        }
        for key in sorted(linker.objects)
        if family is None or _is_of(key, family)
    ]


# Names of fragments are ordered: the base comes before every service port.
_BASE: Final = ()


def _choose(snapshot: Snapshot, node: str) -> str:
    names = sorted(snapshot.nodes)
    if node and names and node not in names:
        raise BadInput(f"--node: no Node {node!r} in the manifests, which have: {', '.join(names)}")
    if not node and len(names) > 1:
        raise BadInput(f"--node: needed to choose from {len(names)} Nodes: {', '.join(names)}")
    return node or "".join(names)


def _is_of(key: Key, family: Family) -> bool:
    match key.plane:
        case sysctl.PLANE:
            return sysctl.family_of(key) == family
        case link.PLANE:
            return link.family_name(key) in (None, family)
        case nfacct.PLANE:
            return True  # rules of both families count in it
        case ipset.PLANE:
            return is_ipv6(key.name[0]) == (family == "ip6")
        case ipvs.PLANE:
            # Timeouts are of both.
            return key == ipvs.TIMEOUTS or (len(key.name[0]) == 16) == (family == "ip6")
        case relay.PLANE:
            return family_of_way(key) == family
        case _:
            return bool(key.name[0] == family)


def _name(key: Key, objects: Mapping[Key, Object]) -> list[str]:
    if key.kind != "element":
        return [_part(part) for part in key.name]
    family, name, raw = key.name
    return [str(family), str(name), fields.show(_set(key, objects).key, raw)]


def _part(part: object) -> str:
    return show_ip(part) if isinstance(part, bytes) else str(part)


def _object(key: Key, objects: Mapping[Key, Object]) -> Any:
    value = objects[key]
    if isinstance(value, xtables.Rules):
        return {"rules": [show_rule(rule, key.name[0]) for rule in value.rules]}
    if isinstance(value, xtables.Rule):
        return {"rule": show_rule(value, key.name[0])}
    if isinstance(value, link.Route):
        return {"source": show_ip(value.source)}
    if isinstance(value, relay.Way):
        endpoints = [show_addr(one.ip, one.port) for one in value.endpoints]
        return {**msgspec.to_builtins(replace(value, endpoints=())), "endpoints": endpoints}
    shown = _plain(msgspec.to_builtins(value, builtin_types=(bytes,)))
    if isinstance(value, Element):
        kind = _set(key, objects)
        if isinstance(value.data, bytes):
            shown["data"] = fields.show(kind.data, value.data)
        if value.end is not None:
            shown["end"] = fields.show(kind.key, value.end)
    return shown


def _set(key: Key, objects: Mapping[Key, Object]) -> Set:
    found = objects[set_key(key.name[0], key.name[1])]
    assert isinstance(found, Set)
    return found


def _plain(value: Any) -> Any:
    """Bytes as hexadecimal text: JSON has no bytes, and base64 is not for eyes."""
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
