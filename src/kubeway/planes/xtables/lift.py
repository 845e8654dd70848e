"""
From what the kernel tells of its tables to objects: the opposite of `lower`.

It also reads what iptables-nft itself wrote, and gives what `text.parse` makes of the words that
iptables-nft-save would tell. Expressions that spell nothing kubeway has a word for become ForeignMatch
and ForeignTarget, which no wanted rule is equal to; so somebody's rule among ours is a difference
that can be shown and taken away, never a crash.

Most expressions occur in many rules, and each is read once (`exprlift`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

from kubeway.errors import Malformed
from kubeway.planes.xtables.exprlift import RuleLift
from kubeway.planes.xtables.held import branches, held, jumps, open_chains
from kubeway.planes.xtables.lower import Place
from kubeway.planes.xtables.objects import BUILT_IN, Family, Rule, TableName
from kubeway.planes.xtables.ours import is_held, is_open, is_our_jump
from kubeway.planes.xtables.sets import NO_SETS, Sets
from kubeway.planes.xtables.shared import asked_rules
from kubeway.planes.xtables.text import TABLES
from kubeway.program.program import Key, Object
from kubeway.wire import nftables as nf
from kubeway.wire import xtables as wire
from kubeway.wire.netlink import (
    NLM_F_APPEND,
    NLM_F_MULTI,
    Message,
    fields,
    need,
    read_be64,
)

_FAMILIES: Final[dict[int, Family]] = {2: "ip", 10: "ip6"}
_HOOK: Final = 4  # NFTA_CHAIN_HOOK
_NEWCHAIN, _NEWRULE = nf.kind(nf.NEWCHAIN), nf.kind(nf.NEWRULE)


class _Table:
    """What is read of one table."""

    def __init__(self, family: Family, table: TableName) -> None:
        self.family: Family = family
        self.table: TableName = table
        self.chains: dict[str, list[Rule]] = {}
        self.open: dict[str, list[Rule | None]] = {chain: [] for chain in open_chains(table)}

    def rules(self, chain: str) -> list[Rule | None] | None:
        """Where the rules of a chain go; None if they are not ours to know."""
        return self.open[chain] if chain in self.open else cast(Any, self.chains.get(chain))


def lift(messages: Iterable[Message], sets: Sets = NO_SETS) -> dict[Key, Object]:
    """The objects in these NEWCHAIN and NEWRULE messages; `sets` tells the names of those they ask for.

    Other messages, other tables and chains of others are passed over. Chains come before their rules.
    Raises Malformed.
    """
    lifts = {family: RuleLift(family, sets) for family in _FAMILIES.values()}
    tables: dict[tuple[Family, str], _Table] = {
        (family, table): _Table(family, table) for family in lifts for table in TABLES
    }
    # Rules of one chain come together: how their messages begin, and where they go.
    begin, at = b"?", 0
    name, opened = "", False
    rules: list[Rule | None] | None = None
    read = lifts["ip"].rule
    for message in messages:
        if len(message.body) < 4 or message.kind >> 8 != nf.SUBSYSTEM:
            raise Malformed("nf_tables: a message that is none")
        if message.kind == _NEWRULE:
            body = bytes(message.body)
            if not body.startswith(begin):
                name, chain, at = wire.read_place(body)
                begin = body[:at]
                family = _FAMILIES.get(body[0])
                table = tables.get((family, name)) if family else None
                rules = table.rules(chain) if table else None
                opened = is_open(name, chain)
                read = lifts[family or "ip"].rule
            if rules is None:
                continue
            rule: Rule | None = read(*wire.read_rule(body, at))
            if opened and not is_our_jump(name, cast(Rule, rule)):
                rule = None
            # One that was to be inserted, not appended, goes in front; a dump is in order.
            rules.insert(len(rules) if message.flags & (NLM_F_APPEND | NLM_F_MULTI) else 0, rule)
        elif message.kind == _NEWCHAIN:
            _chain(tables, message)
    objects: dict[Key, Object] = {}
    for one in tables.values():
        objects.update(held(one.family, one.table, one.chains, one.open))
    return objects


def _chain(tables: Mapping[tuple[Family, str], _Table], message: Message) -> None:
    place = _place(message)
    table = tables.get(place[:2]) if place else None
    if table is not None and place is not None and is_held(place.table, place.chain):
        table.chains.setdefault(place.chain, [])


def _place(message: Message) -> Place | None:
    """Which chain a NEWCHAIN message tells of; None if it is one of another family.

    All chains of the node come by here, and the kernel takes any bytes for a name: one that is no text is
    somebody else's, and nothing to stumble over.
    """
    attrs = fields(message.body[4:])
    family, table = _FAMILIES.get(message.body[0]), wire.chars(bytes(need(attrs, 1, "a table's name")))
    chain = wire.chars(bytes(need(attrs, 3, "a chain's name")))
    return Place(family, cast(TableName, table), chain) if family else None


def places(messages: Iterable[Message]) -> Iterator[Place]:
    """The chains in these NEWCHAIN messages in which there may be rules of ours."""
    for message in messages:
        place = _place(message)
        if place is None or place.table not in TABLES or is_unhooked(message, place):
            continue
        if is_open(*place[1:]) or is_held(*place[1:]):
            yield place


def is_unhooked(message: Message, place: Place) -> bool:
    """Whether this NEWCHAIN's chain only has the name of a built-in: no packet comes by."""
    return place.chain in BUILT_IN and _HOOK not in fields(message.body[4:])


def handles(
    messages: Iterable[Message], place: Place, wanted: Mapping[Key, Object], sets: Sets = NO_SETS
) -> dict[Key, int]:
    """The handles of the branches, or of our jumps, in the NEWRULE messages of this one chain.

    Without those of jumps that others have by as much right, and that are not `wanted`.
    """
    found: list[int] = []
    rules: list[Rule] = []
    opened = is_open(place.table, place.chain)
    lift = RuleLift(place.family, sets)
    for message in messages:
        attrs = fields(message.body[4:])
        rule = lift.rule(bytes(attrs.get(4, b"")), bytes(attrs.get(7, b"")))
        if not opened or is_our_jump(place.table, rule):
            rules.append(rule)
            found.append(read_be64(need(attrs, 3, "a rule's handle")))
    if opened:
        ours = asked_rules(rules, wanted, *place)
        rules, found = [rules[at] for at in ours], [found[at] for at in ours]
    keyed = (jumps if opened else branches)(*place, rules)
    return {key: handle for (key, _), handle in zip(keyed, found, strict=True)}
