"""
From what the kernel tells of its tables to objects: the opposite of `lower`.

It also reads what iptables-nft itself wrote, and gives what `text.parse` makes of the words that
iptables-nft-save would tell. Expressions that spell nothing kubeway has a word for become ForeignMatch
and ForeignTarget, which no wanted rule is equal to; so somebody's rule among ours is a difference
that can be shown and taken away, never a crash.

Most expressions occur in many rules, and each is read once (`exprlift`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, cast

from kubeway.errors import Malformed
from kubeway.planes.xtables.exprlift import RuleLift
from kubeway.planes.xtables.held import branches, held, jumps, open_chains
from kubeway.planes.xtables.lower import Place
from kubeway.planes.xtables.objects import BUILT_IN, Family, Rule, TableName
from kubeway.planes.xtables.ours import is_held, is_open, is_our_jump
from kubeway.planes.xtables.text import TABLES
from kubeway.program.program import Key, Object
from kubeway.wire import nftables as nf
from kubeway.wire.netlink import (
    NLM_F_APPEND,
    NLM_F_MULTI,
    Message,
    fields,
    need,
    read_be64,
    read_text,
)

_FAMILIES: Final[dict[int, Family]] = {2: "ip", 10: "ip6"}
_TABLE, _RULE_CHAIN, _HANDLE, _CHAIN_NAME, _CHAIN_HOOK, _EXPRESSIONS, _USERDATA = 1, 2, 3, 3, 4, 4, 7
_NOTHING: Final = memoryview(b"")


class _Table:
    """What is read of one table."""

    def __init__(self, family: Family, table: TableName) -> None:
        self.family: Family = family
        self.table: TableName = table
        self.chains: dict[str, list[Rule]] = {}
        self.open: dict[str, list[Rule | None]] = {chain: [] for chain in open_chains(table)}
        self.unhooked: set[str] = set()

    def rules(self, chain: str) -> list[Rule] | list[Rule | None] | None:
        """Where the rules of a chain go; None if they are not ours to know."""
        if chain in self.unhooked:
            return None
        return self.open[chain] if chain in self.open else self.chains.get(chain)


def lift(messages: Iterable[Message]) -> dict[Key, Object]:
    """The objects in these NEWCHAIN and NEWRULE messages.

    Other messages, other tables and chains of others are passed over. Chains come before their rules.
    Raises Malformed.
    """
    lifts = {family: RuleLift(family) for family in _FAMILIES.values()}
    tables: dict[tuple[Family, str], _Table] = {
        (family, table): _Table(family, table) for family in _FAMILIES.values() for table in TABLES
    }
    for message in messages:
        if len(message.body) < 4 or message.kind >> 8 != nf.SUBSYSTEM:
            raise Malformed("nf_tables: a message that is none")
        number = message.kind & 0xFF
        family = _FAMILIES.get(message.body[0])
        if family is None or number not in (nf.NEWCHAIN, nf.NEWRULE):
            continue
        attrs = fields(message.body[4:])
        name = read_text(need(attrs, _TABLE, "a table's name"))
        table = tables.get((family, name))
        if table is None:
            continue
        if number == nf.NEWCHAIN:
            chain = read_text(need(attrs, _CHAIN_NAME, "a chain's name"))
            if is_unhooked(attrs, chain):
                table.unhooked.add(chain)
            elif is_held(name, chain):
                table.chains.setdefault(chain, [])
            continue
        chain = read_text(need(attrs, _RULE_CHAIN, "a rule's chain"))
        rules = table.rules(chain)
        if rules is None:
            continue
        rule: Rule | None = _rule(lifts[family], attrs)
        if is_open(name, chain) and not is_our_jump(name, cast(Rule, rule)):
            rule = None
        if message.flags & (NLM_F_APPEND | NLM_F_MULTI):
            cast(list[Rule | None], rules).append(rule)
        else:
            cast(list[Rule | None], rules).insert(0, rule)
    objects: dict[Key, Object] = {}
    for one in tables.values():
        objects.update(held(one.family, one.table, one.chains, one.open))
    return objects


def is_unhooked(chain: Mapping[int, memoryview], name: str) -> bool:
    """Whether it only has the name of a built-in chain: no packet comes by, so a jump there is none."""
    return name in BUILT_IN and _CHAIN_HOOK not in chain


def _rule(lift: RuleLift, attrs: Mapping[int, memoryview]) -> Rule:
    return lift.rule(bytes(attrs.get(_EXPRESSIONS, _NOTHING)), bytes(attrs.get(_USERDATA, _NOTHING)))


def handles(messages: Iterable[Message], place: Place) -> dict[Key, int]:
    """The handles of the branches, or of our jumps, in the NEWRULE messages of this one chain."""
    found: list[int] = []
    rules: list[Rule] = []
    opened = is_open(place.table, place.chain)
    lift = RuleLift(place.family)
    for message in messages:
        attrs = fields(message.body[4:])
        rule = _rule(lift, attrs)
        if not opened or is_our_jump(place.table, rule):
            rules.append(rule)
            found.append(read_be64(need(attrs, _HANDLE, "a rule's handle")))
    keyed = (jumps if opened else branches)(*place, rules)
    return {key: handle for (key, _), handle in zip(keyed, found, strict=True)}
