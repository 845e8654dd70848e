"""
The memory plane accepts what the kernel accepts, and refuses what it refuses: both are
given the same random changes, sensible ones and senseless ones.

Only what a writer could believe of rules is tried: `add` where there are none, else `set`.
(The kernel appends to rules that are there; no plan does that.)
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernel.netns import inside, needs_root

from kubeway.errors import Refused
from kubeway.planes.memory import MemoryPlane
from kubeway.planes.nft import laws
from kubeway.planes.nft import objects as o
from kubeway.program.program import Change, Key
from kubeway.shell.nft import NftPlane

pytestmark = [pytest.mark.kernel, needs_root]

GROUND: dict[Key, Any] = {
    o.table_key("ip"): o.Table(),
    o.set_key("ip", "m"): o.Set(("ip daddr",), verdicts=True),
    o.set_key("ip", "s"): o.Set(("ip daddr",)),
    o.chain_key("ip", "c"): o.Chain(),
    o.chain_key("ip", "d"): o.Chain(),
    o.rules_key("ip", "c"): o.Rules(),
    o.rules_key("ip", "d"): o.Rules(),
}


def look(name: str, into: Any = None) -> o.Rules:
    return o.Rules(
        (
            o.Rule(
                (o.Payload(0, "network", 16, 4), o.Lookup(0, name, into), o.Drop())[
                    : 3 if into is None else 2
                ]
            ),
        )
    )


def element(name: str, n: int) -> Key:
    return o.element_key("ip", name, bytes((10, 0, 0, n)))


# What may lie under each key; rules of `c` may name `d` but not the other way round, so
# that no circle comes about, which the memory plane does not see.
CHOICES: dict[Key, list[Any]] = {
    o.set_key("ip", "m"): [GROUND[o.set_key("ip", "m")], o.Set(("th dport",), verdicts=True)],
    o.set_key("ip", "s"): [GROUND[o.set_key("ip", "s")]],
    o.chain_key("ip", "c"): [o.Chain(), o.Chain("filter", "input", 5)],
    o.chain_key("ip", "d"): [o.Chain()],
    o.rules_key("ip", "c"): [
        o.Rules(),
        look("s"),
        look("m", "verdict"),
        o.Rules((o.Rule((o.Jump("d"),)),)),
        o.Rules((o.Rule((o.Jump("missing"),)),)),
        look("missing"),
    ],
    o.rules_key("ip", "d"): [o.Rules(), o.Rules((o.Rule((o.Drop(),)),)), look("s")],
    **{element("s", n): [o.Element()] for n in (1, 2)},
    **{
        element("m", n): [o.Element(o.Drop()), o.Element(o.Goto("d")), o.Element(o.Goto("missing"))]
        for n in (1, 2)
    },
}


@st.composite
def batches(draw: st.DrawFn) -> list[list[tuple[Key, Any, bool]]]:
    """Some transactions of wishes: a key, what is to lie there (None: nothing), and
    whether the writer looks first what lies there now."""
    keys = st.sampled_from(sorted(CHOICES))
    wish = keys.flatmap(
        lambda key: st.tuples(st.just(key), st.sampled_from([*CHOICES[key], None]), st.booleans())
    )
    return draw(st.lists(st.lists(wish, min_size=1, max_size=5), min_size=1, max_size=4))


def changes_of(wishes: list[tuple[Key, Any, bool]], held: dict[Key, Any]) -> list[Change]:
    """What a writer asks for who may be wrong about sets, chains and elements."""
    held = dict(held)
    changes = []
    for key, wanted, looks in {wish[0]: wish for wish in wishes}.values():  # a plan has a key once
        there = held.get(key)
        if wanted is None:
            if there is None and (looks or key.kind != "element"):
                continue
            if key.kind == "rules":
                wanted, verb = o.Rules(), "set"
            else:
                verb = "del"
        elif key.kind == "rules":
            verb = "add" if there is None else "set"
            if key not in held:
                continue  # its chain is not there, and nobody writes rules into nothing
        else:
            # Sets and chains are never asked to change: `laws.lawful` sees to that.
            verb = "set" if there is not None and looks and key.kind == "element" else "add"
            if verb == "set" and there == wanted:
                continue
        changes.append(Change(verb, key, there, None if verb == "del" else wanted))
        if verb == "del":
            gone = [k for k in held if k == key or laws.place(k) == key]
            for k in gone:
                del held[k]
        else:
            held[key] = wanted
            if key.kind == "chain":
                held.setdefault(o.rules_key("ip", key.name[1]), o.Rules())
    return changes


def outcome(write: Any) -> bool:
    try:
        write()
    except Refused:
        return False
    return True


@given(batches())
@settings(max_examples=60)
def test_the_memory_plane_takes_what_the_kernel_takes(story: list[list[tuple[Key, Any, bool]]]) -> None:
    def run() -> None:
        plane = NftPlane()
        memory = MemoryPlane(laws, GROUND, strict=False)
        try:
            plane.write_now([Change("add", key, None, obj) for key, obj in GROUND.items()])
            for wishes in story:
                changes = changes_of(wishes, memory.objects)
                taken = outcome(lambda c=changes: plane.write_now(c))
                said = outcome(lambda c=changes: asyncio.run(memory.write(c)))
                assert said == taken, changes
                if not taken:
                    plane.read_now()
                held = plane.read_now()
                rules = {k: v for k, v in memory.objects.items() if k.kind == "chain"}
                wanted = {o.rules_key("ip", k.name[1]): o.Rules() for k in rules} | memory.objects
                assert held == wanted
        finally:
            plane.close()

    inside(run)
