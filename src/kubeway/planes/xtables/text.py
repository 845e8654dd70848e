"""
A program as `iptables-restore --noflush` loads it, and a program read from `iptables-save`.

Knows tables, chains and where rules stand; a single rule is `words.py`'s. `show` and `parse` are
opposites for programs in iptables' own spelling: matches in the order `words.in_order` tells,
jumps numbered from 1 in each chain, every chain with its rules. Rules of branching chains have
no order and are told in the order of their spots.

Chains are in order of their names, so that equal programs have equal texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from kubeway.errors import Malformed
from kubeway.planes.xtables.held import held, open_chains
from kubeway.planes.xtables.objects import MARTIAN, PLANE, Chain, Family, Rule, Rules, TableName
from kubeway.planes.xtables.ours import is_held, is_our_jump
from kubeway.planes.xtables.words import PREFIX, parse_rule, show_rule, split
from kubeway.program.program import Key

__all__ = ["TABLES", "parse", "show", "show_rule"]

TABLES: Final[tuple[TableName, ...]] = ("filter", "nat", "mangle")
"""The tables we have chains in, in the order they are shown."""

_TOOLS: Final[dict[Family, str]] = {"ip": "iptables-restore", "ip6": "ip6tables-restore"}
_COUNTERS: Final = re.compile(r"\[[0-9]+:[0-9]+\] ", re.ASCII)
_COUNT: Final = re.compile(r"[0-9]{1,9}", re.ASCII)


# --- to text ----------------------------------------------------------------------------


def show(objects: Mapping[Key, object], family: Family | None = None) -> str:
    """The whole program, or one family of it; "" if there is nothing of it.

    Each family is the input of its own tool, which the line above it names. Loaded into a node
    without our rules it makes them; where they are, chains are made anew, and jumps would stand
    there twice.
    """
    families = (family,) if family else tuple(_TOOLS)
    return "\n".join(filter(None, (_show_family(objects, name) for name in families)))


def _show_family(objects: Mapping[Key, object], family: Family) -> str:
    tables = {table: _Table() for table in TABLES}
    for key, thing in objects.items():
        if key.plane == PLANE and key.name[0] == family:
            _, table, chain, *rest = cast(tuple[str, TableName, str, int | str], key.name)
            if isinstance(thing, Rule):
                rules = tables[table].jumps if key.kind == "jump" else tables[table].branches
                rules.setdefault(chain, []).append((rest[0], thing))
            elif isinstance(thing, Chain):
                tables[table].chains.setdefault(chain, ())
            elif isinstance(thing, Rules):
                # Rules whose chain is not among the objects are told all the same: of a part of a program.
                tables[table].chains[chain] = thing.rules
    lines = [line for name, table in tables.items() for line in table.lines(name, family)]
    return "\n".join([f"# for {_TOOLS[family]} --noflush", *lines, ""]) if lines else ""


class _Table:
    """One table's chains of ours and our jumps from built-in ones."""

    def __init__(self) -> None:
        self.chains: dict[str, tuple[Rule, ...]] = {}
        self.branches: dict[str, list[tuple[Any, Rule]]] = {}
        """The rules of a branching chain, each with its spot."""
        self.jumps: dict[str, list[tuple[Any, Rule]]] = {}
        """The rules of a built-in chain, each with its number."""

    def lines(self, name: str, family: Family) -> Iterator[str]:
        for chain, branches in self.branches.items():
            self.chains[chain] = tuple(rule for _, rule in sorted(branches, key=_first))
        if not self.chains and not self.jumps:
            return
        yield f"*{name}"
        chains = sorted(self.chains.items())
        for chain, _ in chains:
            yield f":{chain} - [0:0]"
        for chain, rules in chains:
            for rule in rules:
                yield f"-A {chain} {show_rule(rule, family)}".rstrip()
        for chain, jumps in sorted(self.jumps.items()):
            for place, (_, rule) in enumerate(sorted(jumps, key=_first), 1):
                yield f"-I {chain} {place} {show_rule(rule, family)}".rstrip()
        yield "COMMIT"


def _first(held: tuple[Any, Rule]) -> Any:
    return held[0]


# --- from text --------------------------------------------------------------------------


def parse(text: str, family: Family) -> dict[Key, object]:
    """Our part of what `iptables-save` (of this family, with or without `-c`) told of a whole node.

    Which chains and rules of built-in chains are ours says `ours.py`. Everything else is passed
    over: other tables, chains, rules and chain policies.
    Raises Malformed, with the line, for what iptables-save does not print; a text that ends within
    a table is a node half told, which must not look like one with fewer rules.
    """
    objects: dict[Key, object] = {}
    seen: set[str] = set()
    table: _Reading | None = None
    number = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line or line[0] == "#":
            continue
        try:
            if line[0] == "*":
                name = line[1:].strip()
                if table is not None or name in seen:
                    raise Malformed(f"table {name} begins within another one, or again")
                seen.add(name)
                table = _Reading(name, family)
            elif table is None:
                raise Malformed(f"not in a table: {line[:60]!r}")
            elif line.rstrip() == "COMMIT":
                objects.update(table.objects())
                table = None
            else:
                table.read(line)
        except Malformed as problem:
            raise Malformed(f"{_save(family)}, line {number}: {problem}") from None
    if table is not None:
        raise Malformed(f"{_save(family)}, line {number}: ends within table {table.name}")
    return objects


def _save(family: Family) -> str:
    return f"{family}tables-save"


class _Reading:
    """One table while its lines come in."""

    def __init__(self, name: str, family: Family) -> None:
        self.name = name
        self.family: Family = family
        self.known: set[str] = set()
        self.rules: dict[str, list[Rule]] = {}
        self.open: dict[str, list[Rule | None]] = {chain: [] for chain in open_chains(name)}
        """Rules of the chains that others fill, too; None: somebody else's."""

    def read(self, line: str) -> None:
        if line[0] == ":":
            self.declare(line)
            return
        if line[0] == "[" and (counters := _COUNTERS.match(line)):
            line = line[counters.end() :]
        command, _, rest = line.partition(" ")
        if command not in ("-A", "-I"):
            raise Malformed(f"not a table, chain, rule or COMMIT: {line[:60]!r}")
        chain, _, rest = rest.partition(" ")
        if self.name in TABLES and (chain in self.open or is_held(self.name, chain)):
            self.rule(command, chain, rest)

    def declare(self, line: str) -> None:
        words = line[1:].split()
        if len(words) not in (2, 3):
            raise Malformed(f"not a chain with its policy: {line[:60]!r}")
        name = words[0]
        if name in self.known:
            raise Malformed(f"chain {name} of {self.name} is told twice")
        self.known.add(name)
        if self.name in TABLES and is_held(self.name, name):
            self.rules[name] = []

    def rule(self, command: str, chain: str, rest: str) -> None:
        rules: list[Rule] | list[Rule | None]
        if chain in self.open:
            rules = self.open[chain]
            rule = self.jump(rest, command)
        else:
            if chain not in self.rules:
                raise Malformed(f"a rule of {chain}, a chain of {self.name} that is not told")
            rules = self.rules[chain]
            rule = self.parse(rest, command)
        place = len(rules) if command == "-A" else _place(rest) - 1
        if place > len(rules):
            raise Malformed(f"rule {place + 1} of {chain}, which has {len(rules)}")
        cast(list[Rule | None], rules).insert(place, rule)

    def parse(self, rest: str, command: str) -> Rule:
        words = split(rest)
        if command == "-I" and words and _COUNT.fullmatch(words[0]):
            del words[0]
        return parse_rule(words, self.family, self.known)

    def jump(self, rest: str, command: str) -> Rule | None:
        if PREFIX not in rest and MARTIAN not in rest:
            return None  # most of them; what is not ours need not be understood
        rule = self.parse(rest, command)
        return rule if is_our_jump(self.name, rule) else None

    def objects(self) -> Iterator[tuple[Key, object]]:
        return held(self.family, cast(TableName, self.name), self.rules, self.open)


def _place(rest: str) -> int:
    """The number behind `-I CHAIN`; 1 if there is none."""
    word = rest.partition(" ")[0]
    place = int(word) if _COUNT.fullmatch(word) else 1
    if not place:
        raise Malformed("rules are counted from 1")
    return place
