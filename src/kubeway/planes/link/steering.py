"""
Rules that lead packets to this node by their mark, and the table they lead to: changes to requests, and
answers to objects.

Ours are the rules that bear our mark, and of our table the local route to everything that does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kubeway.planes.link.objects import (
    PRIORITIES,
    PRIORITY,
    PROTOCOL,
    TABLE,
    Homeward,
    Rule,
    role_key,
    role_of,
    rule_key,
    table_key,
)
from kubeway.planes.link.parcel import GONE, THERE, Parcel
from kubeway.program.program import Change, Key, Object
from kubeway.values import V4, V6
from kubeway.wire import rtnetlink as wire
from kubeway.wire.netlink import Message

FAMILIES: Final = {V4: wire.AF_INET, V6: wire.AF_INET6}
_NAMES: Final = {number: family for family, number in FAMILIES.items()}
_HOMEWARD: Final = Homeward()


def lift(rules: Iterable[Message], routes: Iterable[Message]) -> Iterator[tuple[Key, Object]]:
    """`routes`: those of our table, of each family; others are passed over."""
    for message in routes:
        route = wire.read_route(message)
        if route is not None and is_homeward(route):
            yield table_key(V4 if len(route.ip) == 4 else V6), _HOMEWARD
    found: dict[Key, list[wire.Rule]] = {}
    for message in rules:
        rule = wire.read_rule(message)
        if rule is not None and rule.protocol == PROTOCOL:
            found.setdefault(key_of(rule), []).append(rule)
    for key, those in found.items():
        right = wanted(key)
        yield key, Rule(() if those == [right] else tuple(those))


def is_homeward(route: wire.Route) -> bool:
    there = (route.table, route.length, route.protocol, route.kind, route.link)
    return there == (TABLE, 0, PROTOCOL, wire.RTN_LOCAL, wire.LOOPBACK)


def key_of(rule: wire.Rule) -> Key:
    family, late = _NAMES[rule.family], PRIORITIES["late"]
    if rule.action == wire.FR_ACT_TO_TBL:
        home = rule.priority != late
        return rule_key(family, rule.mark) if home else role_key(family, rule.mark, "late")
    return role_key(family, rule.mark, "pass" if rule.action == wire.FR_ACT_GOTO else "end")


def wanted(key: Key) -> wire.Rule:
    """The rule of this key, as it has to be."""
    number, mark = key.name[:2]
    family, role = FAMILIES[number], role_of(key)
    if role is None:
        return wire.Rule(family, PRIORITY, mark, mark, TABLE, PROTOCOL, plain=True)
    priority, end = PRIORITIES[role], PRIORITIES["end"]
    if role == "late":
        return wire.Rule(family, priority, mark, mark, TABLE, PROTOCOL, plain=True)
    if role == "end":
        return wire.Rule(family, priority, 0, 0, 0, PROTOCOL, True, wire.FR_ACT_NOP)
    return wire.Rule(family, priority, mark, mark, 0, PROTOCOL, True, wire.FR_ACT_GOTO, end, "lo")


def lower(changes: Iterable[Change]) -> list[Parcel]:
    """In the order given."""
    parcels: list[Parcel] = []
    for change in changes:
        if change.key.kind == "table":
            parcels.append(_table(change))
        else:
            parcels += _rule(change)
    return parcels


def _table(change: Change) -> Parcel:
    family = FAMILIES[change.key.name[0]]
    if change.new is None:
        return Parcel(change, wire.del_homeward(family, TABLE, PROTOCOL), GONE)
    return Parcel(change, wire.new_homeward(family, TABLE, PROTOCOL), THERE)


def _rule(change: Change) -> Iterator[Parcel]:
    right = wanted(change.key)
    odd = change.old.odd if isinstance(change.old, Rule) else ()
    # What asks for more may be found in place of ours, so it goes first; each is deleted by what it has in
    # common.
    for one in odd or ((right,) if change.new is None else ()):
        yield Parcel(change, wire.del_rule(one), GONE)
    if change.new is not None:
        yield Parcel(change, wire.new_rule(right), THERE)
