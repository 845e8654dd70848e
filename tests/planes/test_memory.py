from __future__ import annotations

import asyncio
import errno
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Lost, Refused, Stale
from kubeway.planes.memory import MemoryPlane, Trouble
from kubeway.planes.nft import laws
from kubeway.planes.nft.objects import (
    Chain,
    Drop,
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
from kubeway.program.plan import diff, steps
from kubeway.program.program import Change, Key
from tests.programs import ORDER, add, drop, programs, put

TABLE = table_key("ip")
MAP, CHAIN, RULES = set_key("ip", "m"), chain_key("ip", "c"), rules_key("ip", "c")
OTHER, OTHER_RULES = chain_key("ip", "d"), rules_key("ip", "d")
ELEMENT = element_key("ip", "m", b"\x0a\0\0\1")
SMALL: dict[Key, Any] = {
    TABLE: Table(),
    MAP: Set(("ip daddr",), verdicts=True),
    CHAIN: Chain(),
    OTHER: Chain(),
}
GOTO = Element(Goto("c"))


def rules(*exprs: Any) -> Rules:
    return Rules((Rule(tuple(exprs)),))


def write(plane: MemoryPlane, *changes: Change) -> None:
    asyncio.run(plane.write(changes))


def refusal(plane: MemoryPlane, *changes: Change) -> Refused:
    before, generation = dict(plane.objects), plane.generation()
    with pytest.raises(Refused) as caught:
        write(plane, *changes)
    assert plane.objects == before
    assert plane.generation() == generation
    return caught.value


# --- what it takes ----------------------------------------------------------------------


def test_adds_sets_and_deletions() -> None:
    plane = MemoryPlane(laws, SMALL)
    write(plane, add(ELEMENT, GOTO), add(RULES, rules(Drop())))
    write(plane, put(ELEMENT, GOTO, Element(Goto("d"))), put(RULES, rules(Drop()), rules(Jump("d"))))
    assert plane.objects[ELEMENT] == Element(Goto("d"))
    write(plane, drop(ELEMENT, None), drop(RULES, None))
    assert plane.objects == SMALL


def test_what_is_built_in_one_go_may_name_what_the_same_go_made_before() -> None:
    plane = MemoryPlane(laws)
    write(plane, *(add(key, obj) for key, obj in SMALL.items()), add(ELEMENT, GOTO))
    assert asyncio.run(plane.read()) == {**SMALL, ELEMENT: GOTO}


def test_what_lies_in_another_goes_with_it() -> None:
    plane = MemoryPlane(laws, {**SMALL, ELEMENT: GOTO, RULES: rules(Lookup(0, "m", "verdict"), Jump("c"))})
    write(plane, drop(TABLE, Table()))
    assert plane.objects == {}


def test_a_table_that_is_set_is_made_anew_and_empty() -> None:
    plane = MemoryPlane(laws, {**SMALL, ELEMENT: GOTO})
    write(plane, put(TABLE, Table(), Table("new")), add(MAP, Set(("th dport",))))
    assert plane.objects == {TABLE: Table("new"), MAP: Set(("th dport",))}


def test_adding_what_is_there_already_changes_nothing() -> None:
    plane = MemoryPlane(laws, SMALL)
    generation = plane.generation()
    write(plane, add(MAP, SMALL[MAP]))
    assert plane.generation() == generation


# --- what it refuses --------------------------------------------------------------------

AT_ODDS = add(ELEMENT, Element(Drop()))
REFUSED = {
    "another value for what is there": ({ELEMENT: GOTO}, [AT_ODDS], errno.EEXIST),
    "another value that names no chain": (
        {ELEMENT: GOTO},
        [add(ELEMENT, Element(Goto("nowhere")))],
        errno.ENOENT,
    ),
    "setting what is not there": ({}, [put(ELEMENT, None, GOTO)], errno.ENOENT),
    "deleting what is not there": ({}, [drop(ELEMENT, GOTO)], errno.ENOENT),
    "an element without its set": ({}, [add(element_key("ip", "no", b"1234"), Element())], errno.ENOENT),
    "an element of the other family": ({}, [add(element_key("ip6", "m", b"1234"), Element())], errno.ENOENT),
    "a verdict to no chain": ({}, [add(ELEMENT, Element(Goto("nowhere")))], errno.ENOENT),
    "a changed verdict to no chain": (
        {ELEMENT: GOTO},
        [put(ELEMENT, GOTO, Element(Goto("nowhere")))],
        errno.ENOENT,
    ),
    "rules without their chain": ({}, [add(rules_key("ip", "no"), rules(Drop()))], errno.ENOENT),
    "a jump to no chain": ({}, [add(RULES, rules(Jump("nowhere")))], errno.ENOENT),
    "a lookup in no set": ({}, [add(RULES, rules(Lookup(0, "no")))], errno.ENOENT),
    "a set without its table": ({}, [add(set_key("ip6", "m"), Set(("th dport",)))], errno.ENOENT),
    "a chain an element names": ({ELEMENT: GOTO}, [drop(CHAIN, Chain())], errno.EBUSY),
    "a chain another's rules name": ({OTHER_RULES: rules(Jump("c"))}, [drop(CHAIN, Chain())], errno.EBUSY),
    "a set that rules name": ({RULES: rules(Lookup(0, "m", "verdict"))}, [drop(MAP, None)], errno.EBUSY),
    "a set that would change": ({}, [put(MAP, SMALL[MAP], Set(("th dport",)))], errno.EEXIST),
    "a chain that would change": ({}, [put(CHAIN, Chain(), Chain("nat", "output"))], errno.EEXIST),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_it_refuses(case: str) -> None:
    more, changes, number = REFUSED[case]
    error = refusal(MemoryPlane(laws, {**SMALL, **more}), *changes)
    assert error.errno == number
    assert error.key == changes[-1].key


def test_a_refusal_takes_back_all_of_the_write() -> None:
    plane = MemoryPlane(laws, {**SMALL, ELEMENT: GOTO})
    refusal(
        plane,
        put(TABLE, Table(), Table("new")),
        add(CHAIN, Chain()),
        add(RULES, rules(Drop())),
        drop(CHAIN, Chain()),
        drop(MAP, None),
    )
    # And the counts of who names whom are as before.
    refusal(plane, drop(CHAIN, Chain()))
    write(plane, drop(ELEMENT, GOTO), drop(CHAIN, Chain()))


# --- generations and troubles -----------------------------------------------------------


def test_a_write_over_somebody_elses_is_stale_once() -> None:
    plane = MemoryPlane(laws, SMALL)
    plane.edit([add(RULES, rules(Drop()))])
    with pytest.raises(Stale):
        write(plane, add(ELEMENT, GOTO))
    assert ELEMENT not in plane.objects
    write(plane, add(ELEMENT, GOTO))
    assert ELEMENT in plane.objects


def test_a_read_makes_writing_possible_again() -> None:
    plane = MemoryPlane(laws, SMALL)
    plane.touch()
    asyncio.run(plane.read())
    write(plane, add(ELEMENT, GOTO))


def test_each_commit_moves_the_generation_by_one() -> None:
    plane = MemoryPlane(laws, SMALL)
    before = plane.generation()
    write(plane, add(ELEMENT, GOTO), add(RULES, rules(Drop())))
    assert plane.generation() == before + 1
    plane.touch()
    assert plane.generation() == before + 2


TROUBLES: list[tuple[Trouble, type[Exception], bool]] = [
    ("refused", Refused, False),
    ("stale", Stale, False),
    ("lost before", Lost, False),
    ("lost after", Lost, True),
]


@pytest.mark.parametrize(("trouble", "error", "applied"), TROUBLES)
def test_it_can_be_told_to_fail(trouble: Trouble, error: type[Exception], applied: bool) -> None:
    plane = MemoryPlane(laws, SMALL)
    plane.troubles.append(trouble)
    with pytest.raises(error):
        write(plane, add(ELEMENT, GOTO))
    assert (ELEMENT in plane.objects) == applied


@pytest.mark.parametrize(
    ("trouble", "error"), [("stale", Stale), ("lost before", Lost), ("lost after", Lost)]
)
def test_reads_fail_too(trouble: Trouble, error: type[Exception]) -> None:
    plane = MemoryPlane(laws, SMALL)
    plane.troubles.append(trouble)
    with pytest.raises(error):
        asyncio.run(plane.read())


def test_by_chance_it_fails_one_time_in_ten() -> None:
    plane = MemoryPlane(laws, SMALL, rng=Random(1))

    async def failures() -> int:
        failed = 0
        for _ in range(1000):
            try:
                await plane.write([])
            except (Refused, Stale, Lost):
                failed += 1
        return failed

    assert 70 < asyncio.run(failures()) < 130


# --- laws -------------------------------------------------------------------------------


@given(programs())
def test_law_every_program_can_be_put_in_it(program: dict[Key, Any]) -> None:
    assert MemoryPlane(laws, program).objects == program


@given(programs(), programs())
def test_law_a_lawful_plan_leads_from_any_program_to_any_other(a: dict[Key, Any], b: dict[Key, Any]) -> None:
    plane = MemoryPlane(laws, a)
    for step in steps(laws.lawful(list(diff(a, b)), b), ORDER):
        write(plane, *step.changes)
    assert plane.objects == b
    assert len(plane.writes) <= 1


@given(programs(), st.data())
def test_law_a_refused_write_leaves_no_trace(program: dict[Key, Any], data: st.DataObject) -> None:
    plane = MemoryPlane(laws, program)
    keys = st.sampled_from(sorted(program))
    doomed = [drop(key, program[key]) for key in data.draw(st.lists(keys, unique=True))]
    try:
        write(plane, *doomed, drop(Key("nft", "chain", ("ip", "never")), None))
    except Refused:
        assert plane.objects == program
    else:
        pytest.fail("what is not there was deleted")
    write(plane, *(drop(key, None) for key in program if key.kind == "table"))
    assert plane.objects == {}
    assert not +plane._named
