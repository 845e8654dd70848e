from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from kubeway.planes.nft.laws import lawful, place, references
from kubeway.planes.nft.objects import (
    Chain,
    Drop,
    Dynset,
    Element,
    Goto,
    Jump,
    Lookup,
    Rule,
    Rules,
    Set,
    Table,
    chain_key,
    element_key,
    rules_key,
    set_key,
    table_key,
)
from kubeway.program.plan import apply, diff
from kubeway.program.program import Change, Key
from tests.programs import add, drop, programs, put

ELSEWHERE = Key("relay", "set", ("ip", "m"))


@pytest.mark.parametrize(
    ("key", "inside"),
    [
        (element_key("ip6", "m", b"k"), set_key("ip6", "m")),
        (rules_key("ip", "c"), chain_key("ip", "c")),
        (set_key("ip", "m"), table_key("ip")),
        (chain_key("ip6", "c"), table_key("ip6")),
        (table_key("ip"), None),
    ],
)
def test_place(key: Key, inside: Key | None) -> None:
    assert place(key) == inside


@pytest.mark.parametrize(
    ("key", "obj", "named"),
    [
        (element_key("ip", "m", b"k"), Element(Goto("c")), [chain_key("ip", "c")]),
        (element_key("ip6", "m", b"k"), Element(Jump("c")), [chain_key("ip6", "c")]),
        (element_key("ip", "m", b"k"), Element(Drop()), []),
        (element_key("ip", "m", b"k"), Element(b"data"), []),
        (
            rules_key("ip", "c"),
            Rules((Rule((Lookup(0, "s"), Goto("d"))), Rule((Dynset("update", "t", 0), Drop())))),
            [set_key("ip", "s"), chain_key("ip", "d"), set_key("ip", "t")],
        ),
        (chain_key("ip", "c"), Chain(), []),
    ],
)
def test_references(key: Key, obj: Any, named: list[Key]) -> None:
    assert list(references(key, obj)) == named


def test_changes_the_kernel_takes_are_left_as_they_are() -> None:
    changes = [
        put(rules_key("ip", "c"), Rules(), Rules((Rule((Drop(),)),))),
        put(element_key("ip", "m", b"k"), Element(Drop()), Element(Goto("c"))),
        add(chain_key("ip", "d"), Chain()),
        drop(set_key("ip", "s"), Set(("th dport",))),
        put(ELSEWHERE, 1, 2),
    ]
    assert lawful(changes, {}) is changes


OLD: dict[Key, Any] = {
    table_key("ip"): Table(),
    set_key("ip", "m"): Set(("th dport",)),
    chain_key("ip", "c"): Chain("nat", "output", -100),
    table_key("ip6"): Table(),
    set_key("ip6", "m"): Set(("th dport",)),
}
RIGID = {
    "a set": {set_key("ip", "m"): Set(("th dport",), comment="new")},
    "a base chain": {chain_key("ip", "c"): Chain("nat", "output", -99)},
    "a table": {table_key("ip"): Table("new")},
}


@pytest.mark.parametrize("case", RIGID, ids=str)
def test_what_cannot_be_changed_has_the_familys_table_made_anew(case: str) -> None:
    new = {**OLD, **RIGID[case], element_key("ip", "m", b"k"): Element(), ELSEWHERE: 1}
    other_family = drop(set_key("ip6", "m"), OLD[set_key("ip6", "m")])
    del new[set_key("ip6", "m")]
    changes = lawful(list(diff(OLD, new)), new)
    table = table_key("ip")
    assert put(table, OLD[table], new[table]) in changes
    assert add(element_key("ip", "m", b"k"), Element()) in changes
    assert {c.verb for c in changes if c.key.name[0] == "ip" and c.key != table} == {"add"}
    # Nothing else than before happens to the other family and to other planes.
    assert other_family in changes
    assert add(ELSEWHERE, 1) in changes
    assert len(changes) == 1 + 3 + 1 + 1


@given(programs(), programs())
def test_law_the_end_is_the_same(a: dict[Key, Any], b: dict[Key, Any]) -> None:
    changes = lawful(list(diff(a, b)), b)
    rebuilt = [c.key.name[0] for c in changes if c.verb == "set" and c.key.kind == "table"]
    left = {key: obj for key, obj in a.items() if key.name[0] not in rebuilt}
    assert apply(changes, left) == b
    assert all(c.verb == "add" for c in changes if c.key.name[0] in rebuilt and c.key.kind != "table")
    assert not any(c.verb == "set" and c.key.kind in ("set", "chain") for c in changes)


@given(programs(), programs())
def test_law_each_key_is_changed_once(a: dict[Key, Any], b: dict[Key, Any]) -> None:
    changes: list[Change] = lawful(list(diff(a, b)), b)
    assert len({c.key for c in changes}) == len(changes)
