"""
Changes as the input of `iptables-restore --noflush`: only what changes is in it.

Nothing is sent here. What is between `*table` and COMMIT is one commit: the kernel takes all of it or
nothing. A change may need several commits, and there is a moment between them, so their order is chosen
such that no packet is worse off in it than before and after:

1. `filter` builds: what shuts somebody out (source ranges, ways in that lead to nobody) is there before
   `nat` opens a way, or takes one away.
2. `nat`, in one: an endpoint that comes, one that goes, and the rules that lead to them.
3. `mangle`, on which nothing depends.
4. `filter` clears: who was refused until now is refused until `nat` leads on, and a way in is guarded as
   long as it is there.

`:CHAIN` makes a chain, or empties it. So a chain of ours is written anew as a whole, while a branching one
is added to (`-A`) and taken from (`-D`, with the rule's own words), as are open chains, whose other rules
belong to others. The shared chain is made by `-N`, which fails where `:` would empty what others put
there; it stays, and so do the rules in it and the jumps to it.

Source: iptables/iptables-restore.c and libiptc of iptables 1.8.9.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, cast

from kubeway.planes.xtables.objects import (
    FAMILIES,
    SHARED,
    Family,
    Goto,
    Jump,
    Rule,
    Rules,
    TableName,
    jump_key,
)
from kubeway.planes.xtables.shared import is_shared
from kubeway.planes.xtables.words import show_rule
from kubeway.program.program import Change, Key, Object

Standing = Mapping[Key, Rule]
"""Our jumps as they stand now, in the chains that a write touches."""

_PIECE: Final = 2000
"""Lines that are spelled at once: some 200 kB."""

_CHAIN_ENTRIES: Final = 2
"""What the kernel counts for a chain without rules: its head, and the end that returns."""


class Commit:
    """One table's lines, and beside each the change it is for; None for `*table` and COMMIT.

    `changes` are those it makes, `standing` our jumps before it. The lines are made as they are asked for.
    """

    def __init__(
        self,
        family: Family,
        table: TableName,
        changes: Sequence[Change],
        standing: Standing,
        told: Iterator[tuple[str, Change]],
    ) -> None:
        self.family, self.table, self.changes, self.standing = family, table, changes, standing
        self._lines: list[str] = [f"*{table}"]
        self._owners: list[Change | None] = [None]
        self._told: Iterator[tuple[str, Change]] | None = told

    @property
    def lines(self) -> list[str]:
        for _ in self.pieces():
            pass
        return self._lines

    @property
    def owners(self) -> list[Change | None]:
        for _ in self.pieces():
            pass
        return self._owners

    @property
    def text(self) -> str:
        return "".join(self.pieces())

    def pieces(self) -> Iterator[str]:
        """The text as it is made, so that the tool reads one piece while the next is spelled."""
        said = 0
        while said < len(self._lines) or self._told is not None:
            if self._told is not None:
                self._spell(_PIECE)
            yield "\n".join([*self._lines[said:], ""])
            said = len(self._lines)

    def _spell(self, count: int) -> None:
        assert self._told is not None
        some = list(itertools.islice(self._told, count))
        self._lines += [line for line, _ in some]
        self._owners += [change for _, change in some]
        if len(some) < count:
            self._told = None
            self._lines.append("COMMIT")
            self._owners.append(None)

    @property
    def growth(self) -> int:
        """By how many entries, as the kernel counts them, the table grows."""
        others = sum(_entries(change) for change in self.changes if change.key.kind != "jump")
        return others + sum(
            1 if line.startswith("-I") else -1
            for line, owner in zip(self.lines, self.owners, strict=True)
            if owner is not None and owner.key.kind == "jump"
        )

    def halves(self) -> list[Commit]:
        """The same by two commits, one after the other; itself if it is a single change.

        Chains are led to before they are filled. So what the kernel refuses because of the hook it is
        reached from is in the piece that is refused, and not the rule that leads there.
        """
        middle = len(self.changes) // 2
        if not middle:
            return [self]
        changes = _from_the_hooks(self.changes)
        first, then = changes[:middle], changes[middle:]
        both = (first, self.standing), (then, after_jumps(first, self.standing))
        made = (_commit(self.family, self.table, some, standing) for some, standing in both)
        return [commit for commit in made if commit is not None]


def standing(changes: Iterable[Change], program: Mapping[Key, Object]) -> dict[Key, Rule]:
    """Our jumps as they are before these changes, in every open chain where the changes touch any.

    `program` is what is wanted: there, and not among the changes, is what is there already.
    """
    touched = {change.key: change for change in changes if change.key.kind == "jump"}
    found: dict[Key, Rule] = {key: change.old for key, change in touched.items() if change.old is not None}
    for family, table, chain in {key.name[:3] for key in touched}:
        number = 1
        while (key := jump_key(family, table, chain, number)) in touched or key in program:
            if key not in touched:
                found[key] = program[key]
            number += 1
    return found


def after_jumps(changes: Iterable[Change], before: Standing) -> dict[Key, Rule]:
    """Our jumps when these changes have been made."""
    jumps = dict(before)
    for change in changes:
        if change.key.kind == "jump":
            if change.new is None:
                jumps.pop(change.key, None)
            else:
                jumps[change.key] = change.new
    return jumps


def commits(changes: Iterable[Change], before: Standing) -> dict[Family, list[Commit]]:
    """What makes the changes, by family, in the order in which it is to be loaded.

    `before`: what `standing` says of these changes.
    """
    sides: dict[tuple[str, str], tuple[list[Change], list[Change]]] = {}
    for change in changes:
        sides.setdefault(change.key.name[:2], ([], []))[change.verb == "del"].append(change)
    made: dict[Family, list[Commit]] = {}
    for family in FAMILIES:
        turns = list(_turns(family, sides))
        known = before
        for table, some in turns:
            commit = _commit(family, table, some, known)
            if commit is not None:
                made.setdefault(family, []).append(commit)
            known = after_jumps(some, known)
    return made


def _from_the_hooks(changes: Sequence[Change]) -> list[Change]:
    """Empty chains first, then our jumps, then what is in a chain before what is in those it leads to."""
    leads: dict[str, list[str]] = {}
    for change in changes:
        if change.key.kind in ("rules", "branch") and change.new is not None:
            to = leads.setdefault(change.key.name[2], [])
            to += (
                rule.target.chain
                for rule in (change.new.rules if isinstance(change.new, Rules) else (change.new,))
                if isinstance(rule.target, Jump | Goto)
            )
    ranks = _ranks(leads)

    def rank(change: Change) -> tuple[int, int]:
        if change.verb == "del":
            return 3, 0
        if change.key.kind in ("chain", "jump"):
            return int(change.key.kind == "jump"), 0
        return 2, ranks[change.key.name[2]]

    return sorted(changes, key=rank)


def _ranks(leads: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Numbers by which a chain comes before all those it leads to."""
    ranks: dict[str, int] = {}
    seen: set[str] = set()
    for start in leads:
        way = [(start, iter(leads[start]))] if start not in seen else []
        seen.add(start)
        while way:
            chain, rest = way[-1]
            following = next((name for name in rest if name in leads and name not in seen), None)
            if following is None:
                ranks[chain] = -len(ranks)
                way.pop()
            else:
                seen.add(following)
                way.append((following, iter(leads[following])))
    return ranks


def _turns(
    family: Family, sides: Mapping[tuple[str, str], tuple[list[Change], list[Change]]]
) -> Iterator[tuple[TableName, list[Change]]]:
    """Tables with the changes that are made in them in one commit."""
    built, cleared = sides.get((family, "filter"), ([], []))
    others = [
        (table, [*both[0], *both[1]])
        for table in cast(tuple[TableName, ...], ("nat", "mangle"))
        if (both := sides.get((family, table)))
    ]
    if not others:
        built, cleared = [*built, *cleared], []
    if built:
        yield "filter", built
    yield from others
    if cleared:
        yield "filter", cleared


def _commit(family: Family, table: TableName, changes: Sequence[Change], before: Standing) -> Commit | None:
    """None if nothing is to be done for these changes."""
    told = _lines(family, table, changes, before)
    first = next(told, None)
    return None if first is None else Commit(family, table, changes, before, itertools.chain([first], told))


def _lines(
    family: Family, table: TableName, changes: Sequence[Change], before: Standing
) -> Iterator[tuple[str, Change]]:
    """What is pointed at comes before what points at it, and goes after it."""
    builds = [change for change in changes if change.verb != "del"]
    clears = [change for change in changes if change.verb == "del"]
    yield from _chains(table, builds)
    for change in builds:
        chain = change.key.name[2]
        if isinstance(change.new, Rules):
            for rule in change.new.rules:
                yield _words(f"-A {chain}", rule, family), change
        elif change.key.kind == "branch":
            if change.old is not None:
                yield _words(f"-D {chain}", change.old, family), change
            yield _words(f"-A {chain}", change.new, family), change
    yield from _jumps(family, table, changes, before)
    yield from _cleared(family, table, clears)


def _chains(table: TableName, builds: Sequence[Change]) -> Iterator[tuple[str, Change]]:
    """Each chain that is made, or emptied to be written anew."""
    declared: set[str] = set()
    for change in builds:
        chain = change.key.name[2]
        if change.key.kind not in ("chain", "rules") or chain in declared:
            continue
        declared.add(chain)
        yield f"-N {chain}" if (table, chain) in SHARED else f":{chain} - [0:0]", change


def _jumps(
    family: Family, table: TableName, changes: Sequence[Change], before: Standing
) -> Iterator[tuple[str, Change]]:
    """In every open chain that is touched all our jumps are taken away and put at the top in their order.

    Others may have put theirs between or above ours, and at what place those stand is not known.
    """
    touched: dict[str, Change] = {}
    for change in changes:
        if change.key.kind == "jump":
            touched.setdefault(change.key.name[2], change)
    if not touched:
        return
    after = after_jumps(changes, before)
    for chain, change in touched.items():
        at = (family, table, chain)
        olds, news = (
            {key: rule for key, rule in sorted(jumps.items()) if key.name[:3] == at}
            for jumps in (before, after)
        )
        anew = set(news.values())
        for key, rule in olds.items():
            if rule in anew or not is_shared(key, rule):
                yield _words(f"-D {chain}", rule, family), change
        for number, rule in enumerate(news.values(), 1):
            yield _words(f"-I {chain} {number}", rule, family), change


def _cleared(family: Family, table: TableName, clears: Sequence[Change]) -> Iterator[tuple[str, Change]]:
    gone = {
        change.key.name[2]: change
        for change in clears
        if change.key.kind == "chain" and (table, change.key.name[2]) not in SHARED
    }
    # All are emptied before any goes: one may lead to another.
    emptied = {change.key.name[2]: change for change in clears if change.key.kind == "rules"} | gone
    for change in clears:
        if change.key.kind == "branch" and change.key.name[2] not in emptied:
            yield _words(f"-D {change.key.name[2]}", change.old, family), change
    for chain, change in emptied.items():
        yield f"-F {chain}", change
    for chain, change in gone.items():
        yield f"-X {chain}", change


def _words(command: str, rule: Rule, family: Family) -> str:
    return f"{command} {show_rule(rule, family)}".rstrip()


def _entries(change: Change) -> int:
    """By how many entries a change of a chain, its rules or a branch makes the table grow."""
    if change.verb == "del" and is_shared(change.key, change.old):
        return 0
    if change.key.kind == "rules":
        return _length(change.new) - _length(change.old)
    each = _CHAIN_ENTRIES if change.key.kind == "chain" else 1
    return each * ((change.new is not None) - (change.old is not None))


def _length(rules: Rules | None) -> int:
    return len(rules.rules) if rules else 0
