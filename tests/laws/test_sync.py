"""
Laws of writing: whatever goes wrong on the way, the plane ends as wanted, and what
others do to it is repaired.

The planes are in memory and keep the laws of those that they stand for; time is told by the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from random import Random
from typing import Any, Generic, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway import records
from kubeway.machines.aside import Aside
from kubeway.machines.keeper import Law
from kubeway.planes.memory import TROUBLES, MemoryPlane, Trouble
from kubeway.planes.nft import laws
from kubeway.planes.nft.objects import Chain, Drop, Element, Rule, Rules, Set
from kubeway.program.link import Linker, Name
from kubeway.program.plane import Mode, Plane
from kubeway.program.program import Change, Fragment, Key
from kubeway.shell.dialects import lawful
from kubeway.shell.leveller import Leveller
from tests import fragments
from tests.memories import Memories
from tests.programs import BASE, ORDER, Updates, linked, programs, updates


class OnlyPlanes:
    """As much of a mode as levelling needs."""

    planes = ORDER


P = TypeVar("P", bound=Plane)


class Node(Generic[P]):
    """A leveller over a plane in memory; the clock moves a millisecond each time it is read."""

    def __init__(
        self, linker: Linker, plane: P, mode: Any = OnlyPlanes, law: Law = laws.lawful, base: Name = BASE
    ) -> None:
        self.linker, self.plane = linker, plane
        self.now = 0.0
        self.records: list[records.Record] = []
        self.leveller = Leveller(
            mode,
            plane,
            linker,
            law=law,
            base=base,
            withdraw=lambda names: linker.update(dict.fromkeys(names)),
            aside=Aside[Hashable](),
            record=self.records.append,
            clock=self.clock,
        )

    def clock(self) -> float:
        self.now += 0.001
        return self.now

    def update(self, update: Mapping[Any, Fragment | None]) -> None:
        self.leveller.keeper.desired(self.linker.update(update))

    async def sync(self) -> None:
        await self.leveller.level()

    async def settle(self) -> None:
        """Go on trying until all is well, and then look once more for what others did."""
        for _ in range(100):
            if await self.leveller.level() is None and self.leveller.keeper.level:
                break
        self.now += 1000.0  # the next poll is due, and the budget allows a read
        assert await self.leveller.level() is None


TROUBLE = st.lists(st.none() | st.sampled_from(TROUBLES), max_size=12)


@given(programs(), st.lists(updates(), max_size=5), TROUBLE)
def test_writes_that_fail_at_any_point_end_where_those_that_do_not_end(
    there: dict[Key, Any], history: list[Updates], trouble: list[Trouble | None]
) -> None:
    node = Node(linked(), MemoryPlane(laws, there))

    async def live() -> None:
        await node.sync()
        for update in history:
            node.update(update)
            if trouble and (next_one := trouble.pop()):
                node.plane.troubles.append(next_one)
            await node.sync()
        await node.settle()

    asyncio.run(live())
    assert node.plane.objects == linked(*history).objects
    # Whom nothing was held against stays in.
    assert not any(isinstance(record, records.SetAside) for record in node.records)


@given(st.lists(updates(), min_size=1, max_size=10), st.integers())
def test_a_plane_that_fails_by_chance_is_mastered(history: list[Updates], seed: int) -> None:
    node = Node(linked(), MemoryPlane(laws, rng=Random(seed), share=0.3))

    async def live() -> None:
        for update in history:
            node.update(update)
            await node.sync()
        node.plane._share = 0.0
        await node.settle()

    asyncio.run(live())
    assert node.plane.objects == linked(*history).objects


def strangers(plane: MemoryPlane, family: str) -> list[Change]:
    """Additions that somebody else may make."""
    foreign: list[tuple[Key, Any]] = [
        (Key("nft", "chain", (family, "stranger")), Chain()),
        (Key("nft", "rules", (family, "stranger")), Rules((Rule((Drop(),)),))),
        (Key("nft", "set", (family, "stranger")), Set(("th dport",))),
        (Key("nft", "element", (family, "services", b"strg")), Element(Drop())),
    ]
    return [Change("add", key, None, obj) for key, obj in foreign if key not in plane.objects]


def edits(plane: MemoryPlane, chance: Random) -> list[Change]:
    """What somebody may do to the plane: take a table away, or add things of his own and take one of ours."""
    tables = sorted(key for key in plane.objects if key.kind == "table")
    if not tables or chance.random() < 0.2:
        return [Change("del", key, None, None) for key in tables[:1]]
    ours = sorted(k for k in plane.objects if k.kind == "element" and b"strg" not in k.name)
    lost = ours[int(chance.random() * len(ours)) :][:1]
    return [*strangers(plane, *tables[0].name), *(Change("del", key, None, None) for key in lost)]


@given(st.lists(updates() | st.none(), min_size=1, max_size=6), st.integers(0, 1000))
def test_what_others_change_is_repaired(history: list[Updates | None], seed: int) -> None:
    chance = Random(seed)
    node = Node(linked(), MemoryPlane(laws))

    async def live() -> None:
        await node.settle()
        for update in history:
            if update is None:
                node.plane.edit(edits(node.plane, chance))
            else:
                node.update(update)
            if chance.random() < 0.5:
                await node.sync()
        await node.settle()

    asyncio.run(live())
    assert node.plane.objects == node.linker.objects


def test_a_repair_is_told() -> None:
    node = Node(linked(), MemoryPlane(laws))

    async def live() -> None:
        await node.settle()
        node.plane.edit(strangers(node.plane, "ip"))
        await node.settle()

    asyncio.run(live())
    drifted, repaired = node.records
    assert isinstance(drifted, records.Drifted)
    assert (drifted.missing, drifted.altered, drifted.foreign) == (0, 0, 4)
    assert any("stranger" in example for example in drifted.examples)
    assert isinstance(repaired, records.Repaired)
    assert repaired.changes == 4


@given(programs(), st.lists(updates(), max_size=3))
def test_a_restart_writes_only_the_difference(there: dict[Key, Any], history: list[Updates]) -> None:
    linker = linked(*history)
    node = Node(linker, MemoryPlane(laws, there))
    asyncio.run(node.settle())
    again = Node(linked(*history), node.plane)
    writes = len(node.plane.writes)
    asyncio.run(again.settle())
    assert len(node.plane.writes) == writes <= 1


def test_commits_of_others_to_other_tables_are_no_drift_and_cost_few_reads() -> None:
    node = Node(linked(), MemoryPlane(laws))

    async def live() -> None:
        await node.settle()
        node.plane.reads = 0
        began = node.now
        while node.now < began + 100.0:
            node.plane.touch()
            await node.leveller.level()
            node.now += 0.2
            await node.leveller.level()

    asyncio.run(live())
    # A read here takes three thousandths of a second; it is the poll that sets the pace, once a second.
    assert 0 < node.plane.reads <= 110
    assert node.records == []


# --- the same of what the modes make, on all their planes -----------------------------------

by_mode = pytest.mark.parametrize("mode", fragments.MODES, ids=lambda mode: mode.name)


@by_mode
@given(data=st.data(), seed=st.integers())
def test_planes_that_fail_by_chance_are_mastered(mode: Mode, data: st.DataObject, seed: int) -> None:
    """One call in ten goes wrong, on whichever plane: so a plan is often done in part."""
    first, *history = data.draw(fragments.histories(mode))
    there = fragments.linked(*data.draw(fragments.histories(mode, 1))).objects
    planes = Memories(mode, there, rng=Random(seed), share=0.1)
    node = Node(fragments.linked(first), planes, mode, lawful, fragments.BASE)

    async def live() -> None:
        for update in history:
            await node.sync()
            node.update(update)
        for _ in range(5):
            await node.sync()
        planes.fail(0.0)
        await node.settle()

    asyncio.run(live())
    assert planes.objects == fragments.linked(first, *history).objects
    assert not any(isinstance(record, records.SetAside) for record in node.records)


@by_mode
@given(data=st.data())
def test_a_restart_of_a_mode_writes_nothing(mode: Mode, data: st.DataObject) -> None:
    history = data.draw(fragments.histories(mode, 2))
    node = Node(fragments.linked(*history), Memories(mode), mode, lawful, fragments.BASE)
    asyncio.run(node.settle())
    writes = node.plane.writes
    again = Node(fragments.linked(*history), node.plane, mode, lawful, fragments.BASE)
    asyncio.run(again.settle())
    assert node.plane.writes == writes
    assert node.plane.objects == node.linker.objects


ENDS = ("element", "branch", "entry", "state", "destination", "address")


@by_mode
@given(data=st.data(), seed=st.integers(0, 1000))
def test_what_others_take_from_a_mode_is_put_back(mode: Mode, data: st.DataObject, seed: int) -> None:
    node = Node(
        fragments.linked(*data.draw(fragments.histories(mode, 2))),
        Memories(mode),
        mode,
        lawful,
        fragments.BASE,
    )
    asyncio.run(node.settle())
    for plane in node.plane.each.values():
        ends = sorted(
            key
            for key in plane.objects
            if key.kind in ("element", "entry", "state", "destination", "address")
        )
        taken = Random(seed).sample(ends, min(3, len(ends)))
        plane.edit([Change("del", key, None, None) for key in taken])
    asyncio.run(node.settle())
    assert node.plane.objects == node.linker.objects
