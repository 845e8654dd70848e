"""
Law: the plane in memory takes and refuses what the kernel takes and refuses.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Refused
from kubeway.planes.memory import MemoryPlane
from kubeway.planes.nft import laws
from kubeway.planes.nft.objects import (
    Chain,
    Drop,
    Element,
    Goto,
    Jump,
    Lookup,
    Payload,
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
from kubeway.program.program import Change, Key
from kubeway.shell.nft import NftPlane
from tests.kernel.netns import inside, needs_root

pytestmark = [pytest.mark.kernel, needs_root]

SETS = {"m": Set(("ip daddr",), verdicts=True), "s": Set(("ip daddr",))}
# Chains only jump to later ones: circles are the one thing the plane in memory lets pass.
CHAINS = "abc"


def objects() -> dict[Key, list[Any]]:
    """Keys of one small table, and the values each may have."""
    pool: dict[Key, list[Any]] = {table_key("ip"): [Table()]}
    look = Payload(0, "network", 16, 4)
    for name, found in SETS.items():
        pool[set_key("ip", name)] = [found]
    for n, chain in enumerate(CHAINS):
        jumps = [Rules((Rule((Jump(later),)),)) for later in CHAINS[n + 1 :]]
        pool[chain_key("ip", chain)] = [Chain()]
        pool[rules_key("ip", chain)] = [
            Rules((Rule((Drop(),)),)),
            Rules((Rule((look, Lookup(0, "s"), Drop())),)),
            *jumps,
        ]
    for number in (1, 2):
        key = bytes((10, 0, 0, number))
        pool[element_key("ip", "m", key)] = [Element(Drop()), *(Element(Goto(chain)) for chain in CHAINS)]
        pool[element_key("ip", "s", key)] = [Element()]
    return pool


POOL = objects()


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[str, Key, Any]]:
    keys = draw(st.lists(st.sampled_from(sorted(POOL)), min_size=1, max_size=6, unique=True))
    if draw(st.booleans()):
        keys.sort(key=list(POOL).index)  # ground first: it has a chance
    return [
        (draw(st.sampled_from(["add", "add", "set", "del"])), k, draw(st.sampled_from(POOL[k]))) for k in keys
    ]


def errno_of(plane: Any, changes: list[Change]) -> int:
    """0 if the plane takes them."""
    try:
        asyncio.run(plane.write(changes))
    except Refused as error:
        return error.errno
    return 0


@given(st.lists(batches(), max_size=6), st.booleans())
def test_both_say_the_same(history: list[list[tuple[str, Key, Any]]], furnished: bool) -> None:
    inside(lambda: compare(history, furnished))


def compare(history: list[list[tuple[str, Key, Any]]], furnished: bool) -> None:
    memory, kernel = MemoryPlane(laws), NftPlane()
    try:
        if furnished:
            all_in = [Change("add", key, None, values[0]) for key, values in POOL.items()]
            assert errno_of(memory, all_in) == errno_of(kernel, all_in) == 0
        for batch in history:
            changes = [
                Change(verb, key, memory.objects.get(key), None if verb == "del" else new)
                for verb, key, new in batch
                if expressible(memory, verb, key, new)
            ]
            assert (errno_of(memory, changes), changes) == (errno_of(kernel, changes), changes)
            # In the kernel a chain without rules has rules too: none.
            held = {key: obj for key, obj in asyncio.run(kernel.read()).items() if obj != Rules()}
            assert held == memory.objects
    finally:
        kernel.close()


def expressible(memory: MemoryPlane, verb: str, key: Key, new: Any) -> bool:
    """Whether it is one change for the kernel too.

    There the rules of a chain are not one object, and what cannot be changed in
    place is spelled as taking away and making.
    """
    there = memory.objects.get(key)
    if key.kind == "rules":
        return (verb == "add") == (there is None)
    if key.kind in laws.RIGID:
        return verb != "set"
    return verb != "set" or there is not None
