"""
What iptables-restore is given for changes, tried on a small model of it; tests/kernel tries the same on
iptables itself.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeway.planes.xtables import objects as o
from kubeway.planes.xtables.restore import Commit, after_jumps, commits, standing
from kubeway.planes.xtables.shared import asked_for, is_shared
from kubeway.planes.xtables.text import parse
from kubeway.program.plan import apply, diff, steps
from kubeway.program.program import Change, Key
from tests.planes.xtprograms import FAMILIES, every_construct, programs, relative, rule

EXAMPLES = max(10, settings.default.max_examples // 4) if settings.default else 25
ORDER = {o.PLANE: o.KINDS}
A, B, BY = "KUBE-SVC-" + "A" * 16, "KUBE-SVC-" + "B" * 16, "KUBE-BY-S"
TO_A, TO_B = rule(to=o.Jump(A)), rule(to=o.Jump(B))
HERE, THERE = rule(o.Comment("here"), to=o.Jump(A)), rule(o.Comment("there"), to=o.Jump(A))
BUILT_IN = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "mangle": o.BUILT_IN,
}

Program = dict[Key, Any]
Table = dict[str, list[str]]


# --- a model of iptables-restore ------------------------------------------------------------


class Failed(Exception):
    """The tool, or the kernel, does not take this line."""


class Node:
    """The tables of one family: chains and their rules in iptables' words."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {
            name: {chain: [] for chain in chains} for name, chains in BUILT_IN.items()
        }

    def load(self, text: str) -> None:
        """As iptables-restore --noflush: a table's lines are taken all or none. Failed names the line."""
        name, table = "", None
        for number, line in enumerate(text.splitlines(), 1):
            try:
                if line[0] == "*":
                    assert table is None
                    name = line[1:]
                    table = {chain: list(rules) for chain, rules in self.tables[name].items()}
                elif line == "COMMIT":
                    assert table is not None
                    check(table)
                    self.tables[name], table = table, None
                else:
                    assert table is not None
                    obey(table, line)
            except Failed as problem:
                raise Failed(f"{problem}: line {number}: {line}") from None
        assert table is None

    def take(self, commit: Commit) -> None:
        """One commit, which is what it says: each line has its change, and the table grows as told."""
        inner = list(zip(commit.lines, commit.owners, strict=True))[1:-1]
        assert [line for line, owner in zip(commit.lines, commit.owners, strict=True) if owner is None] == [
            f"*{commit.table}",
            "COMMIT",
        ]
        for line, owner in inner:
            assert owner is not None
            assert owner in commit.changes
            assert owner.key.name[2] == line.removeprefix(":").split()[line[0] == "-"]
        before = self.count(commit.table)
        self.load(commit.text)
        assert self.count(commit.table) - before == commit.growth

    def save(self) -> str:
        lines = []
        for name, table in self.tables.items():
            lines.append(f"*{name}")
            lines += [f":{chain} {'ACCEPT' if chain in BUILT_IN[name] else '-'} [0:0]" for chain in table]
            lines += [f"-A {chain} {words}".rstrip() for chain, rules in table.items() for words in rules]
            lines.append("COMMIT")
        return "\n".join([*lines, ""])

    def count(self, name: str) -> int:
        """As the kernel counts: two for each chain that was made."""
        table = self.tables[name]
        return sum(len(rules) + 2 * (chain not in BUILT_IN[name]) for chain, rules in table.items())


def obey(table: Table, line: str) -> None:
    if line[0] == ":":
        table[line[1:].split()[0]] = []
        return
    command, chain, *rest = line.split(" ", 2)
    words = rest[0] if rest else ""
    if (command == "-N") == (chain in table):
        raise Failed("no such chain, or one too many")
    match command:
        case "-N":
            table[chain] = []
        case "-A":
            table[chain].append(words)
        case "-D":
            if words not in table[chain]:
                raise Failed("no such rule")
            table[chain].remove(words)
        case "-I":
            number, _, words = words.partition(" ")
            if int(number) > len(table[chain]) + 1:
                raise Failed("no such place")
            table[chain].insert(int(number) - 1, words)
        case "-F":
            table[chain].clear()
        case "-X":
            if table[chain] or chain in targets(table):
                raise Failed("not empty, or in use")
            del table[chain]
        case _:
            raise AssertionError(line)


def check(table: Table) -> None:
    if missing := targets(table) - table.keys():
        raise Failed(f"not there: {missing}")


def targets(table: Table) -> set[str]:
    """The chains of ours that rules lead to; the words of comments and log prefixes stand in quotes."""
    found = set()
    for rules in table.values():
        for words in rules:
            bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", words)
            found |= set(re.findall(r"-[jg] (KUBE-\S+)$", bare))
    return found


def load(node: Node, family: o.Family, changes: Iterable[Change], program: Mapping[Key, Any]) -> None:
    changes = list(changes)
    for step in steps(changes, ORDER):
        for commit in commits(step.changes, standing(step.changes, program)).get(family, []):
            node.take(commit)


def lines(changes: Sequence[Change], program: Mapping[Key, Any] | None = None) -> list[str]:
    """All lines of both families."""
    made = commits(changes, standing(changes, {} if program is None else program))
    return [line for some in made.values() for commit in some for line in commit.lines]


def add(key: Key, new: Any) -> Change:
    return Change("add", key, None, new)


def drop(key: Key, old: Any) -> Change:
    return Change("del", key, old, None)


# --- laws -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_construct(family: o.Family) -> None:
    node, program = Node(), every_construct(family)
    load(node, family, diff({}, program), program)
    assert parse(node.save(), family) == program
    load(node, family, diff(program, {}), {})
    assert node.save() == Node().save()


@settings(max_examples=EXAMPLES)
@given(programs("ip"), programs("ip"), st.randoms(use_true_random=False))
def test_law_from_any_program_to_any_other(before: Program, after: Program, rng: random.Random) -> None:
    node, theirs = shared_with_others()
    known: Program = {}
    for wanted in (before, relative(before, rng), after, {}):
        load(node, "ip", diff(known, wanted), wanted)
        known = parse(node.save(), "ip")
        assert known == wanted
        # Others' rules are as they were, and ours above them.
        assert {place: node.tables[place[0]][place[1]][-2:] for place in theirs} == theirs
    assert node.save() == shared_with_others()[0].save()


def shared_with_others() -> tuple[Node, dict[tuple[str, str], list[str]]]:
    node = Node()
    theirs = {}
    for name, chains in BUILT_IN.items():
        node.tables[name]["SOMEBODYS"] = []
        for chain in (*chains, "SOMEBODYS"):
            node.tables[name][chain] = theirs[name, chain] = ["-j SOMEBODYS", "-j ACCEPT"]
    return node, theirs


@settings(max_examples=EXAMPLES)
@given(programs("ip6"), st.randoms(use_true_random=False))
def test_law_halves_do_what_the_whole_does(program: Program, rng: random.Random) -> None:
    """However often it is halved: so a change that is refused is found, and what stands before it stays."""

    def pieces(commit: Commit) -> Iterator[Commit]:
        halves = commit.halves()
        if halves == [commit] or rng.random() < 0.2:
            yield commit
            return
        for half in halves:
            yield from pieces(half)

    node = Node()
    known: Program = {}
    for wanted in (program, relative(program, rng), {}):
        for step in steps(diff(known, wanted), ORDER):
            for commit in commits(step.changes, standing(step.changes, wanted)).get("ip6", []):
                for piece in pieces(commit):
                    node.take(piece)
        known = wanted
        assert parse(node.save(), "ip6") == wanted


# --- what is in it ----------------------------------------------------------------------------


def test_nothing_changes_nothing() -> None:
    assert commits([], {}) == {}


def test_only_what_changed_is_in_it() -> None:
    key, old, new = o.rules_key("ip", "nat", A), o.Rules((TO_B,)), o.Rules((rule(to=o.Return()),))
    assert lines([Change("set", key, old, new)]) == ["*nat", f":{A} - [0:0]", f"-A {A} -j RETURN", "COMMIT"]


def test_a_new_chain_is_declared_once() -> None:
    changes = [
        add(o.chain_key("ip6", "nat", A), o.Chain()),
        add(o.rules_key("ip6", "nat", A), o.Rules((rule(to=o.Return()),))),
    ]
    assert lines(changes) == ["*nat", f":{A} - [0:0]", f"-A {A} -j RETURN", "COMMIT"]


def test_branches_come_and_go_one_by_one() -> None:
    key = o.branch_key("ip", "nat", BY, TO_A)
    assert lines([add(key, TO_A)]) == ["*nat", f"-A {BY} -j {A}", "COMMIT"]
    assert lines([Change("set", key, TO_A, TO_B)]) == [
        "*nat",
        f"-D {BY} -j {A}",
        f"-A {BY} -j {B}",
        "COMMIT",
    ]
    assert lines([drop(key, TO_B)]) == ["*nat", f"-D {BY} -j {B}", "COMMIT"]


def test_a_chain_takes_its_branches_along() -> None:
    changes = [drop(o.branch_key("ip", "nat", BY, TO_A), TO_A), drop(o.chain_key("ip", "nat", BY), o.Chain())]
    assert lines(changes) == ["*nat", f"-F {BY}", f"-X {BY}", "COMMIT"]


def test_chains_that_lead_to_each_other_are_emptied_first() -> None:
    changes = [
        drop(o.rules_key("ip", "nat", A), o.Rules((TO_B,))),
        drop(o.chain_key("ip", "nat", B), o.Chain()),
        drop(o.chain_key("ip", "nat", A), o.Chain()),
    ]
    assert lines(changes) == ["*nat", f"-F {A}", f"-F {B}", f"-X {B}", f"-X {A}", "COMMIT"]


def test_tables_are_written_such_that_nothing_is_missing_in_between() -> None:
    changes = [
        add(o.branch_key("ip", "filter", BY, HERE), HERE),
        add(o.branch_key("ip", "nat", BY, HERE), HERE),
        add(o.branch_key("ip", "mangle", BY, HERE), HERE),
        drop(o.branch_key("ip", "filter", BY, THERE), THERE),
        drop(o.branch_key("ip", "nat", BY, THERE), THERE),
    ]
    told = [line[:2] if line[0] == "-" else line for line in lines(changes)]
    assert told == [
        *("*filter", "-A", "COMMIT"),
        *("*nat", "-A", "-D", "COMMIT"),
        *("*mangle", "-A", "COMMIT"),
        *("*filter", "-D", "COMMIT"),
    ]
    # With nothing between the two halves of filter they are one.
    alone = [change for change in changes if change.key.name[1] == "filter"]
    assert [line for line in lines(alone) if line[0] == "*"] == ["*filter"]


# --- jumps ------------------------------------------------------------------------------------


def hook(*rules: o.Rule) -> Program:
    return {o.jump_key("ip", "nat", "OUTPUT", number): one for number, one in enumerate(rules, 1)}


X, Y, Z = (rule(o.Comment(letter), to=o.Jump(A)) for letter in "xyz")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [X]),
        ([X], []),
        ([X], [Y]),
        ([X, Y], [Y, X]),
        ([X, Y, Z], [Y, Z]),
        ([X, Y, Z], [X]),
        ([X], [Z, Y, X]),
        ([X, Y], [X, Z]),
        ([X, X], [X]),
        ([X, Y, X], [X, Y]),
        ([X, X, Y], [Y, X]),
        ([X], [X, X]),
    ],
)
def test_jumps_end_at_the_top_in_their_order(before: list[o.Rule], after: list[o.Rule]) -> None:
    node = Node()
    node.tables["nat"][A] = []
    node.tables["nat"]["OUTPUT"] = ["theirs 1", *words(before), "theirs 2"]
    load(node, "ip", diff(hook(*before), hook(*after)), hook(*after))
    if before != after:
        assert node.tables["nat"]["OUTPUT"] == [*words(after), "theirs 1", "theirs 2"]


def words(rules: Sequence[o.Rule]) -> list[str]:
    return [f"-m comment --comment {one.matches[0].text} -j {A}" for one in rules]  # type: ignore[union-attr]


def test_what_stands_is_looked_up_where_it_is_touched_only() -> None:
    program = {**hook(X, Y), o.jump_key("ip", "nat", "PREROUTING", 1): X}
    changes = [Change("set", o.jump_key("ip", "nat", "OUTPUT", 1), Z, X)]
    assert standing(changes, program) == hook(Z, Y)
    assert after_jumps(changes, hook(Z, Y)) == hook(X, Y)


# --- what is shared ---------------------------------------------------------------------------

FIREWALL = "KUBE-FIREWALL"
TO_FIREWALL = rule(to=o.Jump(FIREWALL))
SHARED: Program = {
    o.chain_key("ip", "filter", FIREWALL): o.Chain(),
    o.jump_key("ip", "filter", FIREWALL, 1): o.MARTIANS,
    o.jump_key("ip", "filter", "INPUT", 1): TO_FIREWALL,
}
OURS: Program = {
    o.chain_key("ip", "filter", A): o.Chain(),
    o.rules_key("ip", "filter", A): o.Rules(),
    o.jump_key("ip", "filter", "INPUT", 1): X,
}


def kubelet_s() -> Node:
    node = Node()
    node.tables["filter"][FIREWALL] = ["-j DROP"]
    node.tables["filter"]["INPUT"] = [f"-j {FIREWALL}"]
    return node


def test_what_is_shared_is_never_taken_away() -> None:
    node, wanted = Node(), {**OURS, **SHARED, o.jump_key("ip", "filter", "INPUT", 2): X}
    load(node, "ip", diff({}, wanted), wanted)
    assert parse(node.save(), "ip") == wanted
    load(node, "ip", diff(wanted, OURS), OURS)
    assert asked_for(parse(node.save(), "ip"), OURS) == OURS
    load(node, "ip", diff(OURS, {}), {})
    assert parse(node.save(), "ip") == SHARED


def test_the_shared_chain_is_not_emptied_if_it_is_there_by_now() -> None:
    """Kubelet made it since we looked."""
    node = kubelet_s()
    with pytest.raises(Failed, match=f"-N {FIREWALL}"):
        load(node, "ip", diff({}, SHARED), SHARED)
    assert node.tables == kubelet_s().tables


def test_rules_in_it_are_put_above_those_of_others() -> None:
    node = kubelet_s()
    read = parse(node.save(), "ip")
    load(node, "ip", diff(asked_for(read, SHARED), SHARED), SHARED)
    assert parse(node.save(), "ip") == SHARED
    assert node.tables["filter"][FIREWALL][1:] == ["-j DROP"]


@pytest.mark.parametrize("wanted", [{}, OURS, SHARED])
def test_what_is_shared_is_read_if_it_is_wanted(wanted: Program) -> None:
    node = kubelet_s()
    node.tables["filter"][A] = []
    node.tables["filter"]["INPUT"] += words([X])
    read = asked_for(parse(node.save(), "ip"), wanted)
    shared = {key for key, thing in read.items() if is_shared(key, thing)}
    assert bool(shared) == (wanted is SHARED)
    number = 1 + (wanted is SHARED)
    assert read[o.jump_key("ip", "filter", "INPUT", number)] == X
    assert {key: thing for key, thing in read.items() if key.kind != "jump" and key not in shared} == {
        key: thing for key, thing in OURS.items() if key.kind != "jump"
    }


def test_a_second_jump_to_it_is_others() -> None:
    node = kubelet_s()
    node.tables["filter"]["INPUT"] *= 2
    read = asked_for(parse(node.save(), "ip"), SHARED)
    assert [key for key in read if key.kind == "jump"] == [o.jump_key("ip", "filter", "INPUT", 1)]
    assert apply([drop(key, thing) for key, thing in read.items()], read) == {}
