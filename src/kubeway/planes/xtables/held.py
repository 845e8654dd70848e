"""
What a table holds, as objects: its chains of ours with their rules, and our rules in open chains.

Whoever reads a table, from text or from the kernel's messages, ends here; so both name the same
things by the same keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from kubeway.planes.xtables.objects import (
    BRANCHING,
    BUILT_IN,
    PLANE,
    SHARED,
    Chain,
    Family,
    Rule,
    Rules,
    TableName,
    branch_key,
    chain_key,
    jump_key,
    rules_key,
)
from kubeway.program.program import Key

_CHAIN = Chain()


def open_chains(table: str) -> list[str]:
    """The chains of a table that others fill, too; not all of the built-in ones are in each."""
    return [*BUILT_IN, *(chain for where, chain in SHARED if where == table)]


def held(
    family: Family,
    table: TableName,
    chains: Mapping[str, Sequence[Rule]],
    opened: Mapping[str, Iterable[Rule | None]],
) -> Iterator[tuple[Key, object]]:
    """`chains`: what is an object, each with its rules; `opened`: open chains, None for rules of others."""
    for chain, rules in chains.items():
        yield chain_key(family, table, chain), _CHAIN
        if chain in opened:
            continue
        if chain.startswith(BRANCHING):
            yield from branches(family, table, chain, rules)
        else:
            yield rules_key(family, table, chain), Rules(tuple(rules))
    for chain, shared in opened.items():
        yield from jumps(family, table, chain, shared)


def jumps(
    family: Family, table: TableName, chain: str, rules: Iterable[Rule | None]
) -> Iterator[tuple[Key, Rule]]:
    """Ours among the rules of an open chain, by their numbers."""
    for number, jump in enumerate(filter(None, rules), 1):
        yield jump_key(family, table, chain, number), jump


def branches(
    family: Family, table: TableName, chain: str, rules: Iterable[Rule]
) -> Iterator[tuple[Key, Rule]]:
    """Each rule by its spot; where a spot is taken, somebody's rule too many gets a name all the same."""
    taken: dict[Key, int] = {}
    for rule in rules:
        key = branch_key(family, table, chain, rule)
        taken[key] = count = taken.get(key, 0) + 1
        if count > 1:
            key = Key(PLANE, "branch", (*key.name[:-1], f"{key.name[-1]}#{count}"))
        yield key, rule
