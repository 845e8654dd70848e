"""
Law: the plane in memory takes and refuses what the kernel's iptables take and refuse, by either back end.

What no plan has is left out: to make a chain that is there, which in memory, as in nftables, is no mistake.
In nf_tables here it is one, lest rules go to a chain that others have filled; and a legacy chain is made, and
emptied, by the same line, so there it is never wrong, nor is to give rules to one that is not there.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeway.planes.memory import MemoryPlane
from kubeway.planes.xtables import laws
from kubeway.planes.xtables import objects as o
from kubeway.program.program import Change, Key
from kubeway.shell.xtables_legacy import XtLegacyPlane
from kubeway.shell.xtables_nft import XtNftPlane
from tests.kernel.netns import inside, needs_root
from tests.kernel.test_memory_plane import errno_of
from tests.planes.xtprograms import rule

pytestmark = [pytest.mark.kernel, needs_root]

NAMES = [f"KUBE-SVC-{letter * 16}" for letter in "ABC"]
BY = "KUBE-BY-SERVICE"
EXAMPLES = max(5, settings.default.max_examples // 4) if settings.default else 25
LEGACY = shutil.which("iptables-legacy-restore") is not None


def objects() -> dict[Key, list[Any]]:
    """Keys of one small table, and the values each may have. Chains only lead to later ones: no circles."""
    pool: dict[Key, list[Any]] = {o.chain_key("ip", "nat", name): [o.Chain()] for name in (*NAMES, BY)}
    for n, name in enumerate(NAMES):
        leads = [o.Rules((rule(to=o.Jump(later)), rule(to=o.Return()))) for later in NAMES[n + 1 :]]
        pool[o.rules_key("ip", "nat", name)] = [o.Rules((rule(to=o.Accept()),)), *leads]
    for number in (1, 2):
        spots = [rule(o.Mark(number, number), to=o.Goto(name)) for name in NAMES]
        pool[o.branch_key("ip", "nat", BY, spots[0])] = spots
    pool[o.jump_key("ip", "nat", "OUTPUT", 1)] = [rule(to=o.Jump(name)) for name in (*NAMES, BY)]
    return pool


POOL = objects()
Tried = tuple[str, Key, Any]


@st.composite
def batches(draw: st.DrawFn, most: int) -> list[Tried]:
    keys = draw(st.lists(st.sampled_from(sorted(POOL)), min_size=1, max_size=most, unique=True))
    if draw(st.booleans()):
        keys.sort(key=list(POOL).index)  # ground first: it has a chance
    return [
        (draw(st.sampled_from(["add", "add", "set", "del"])), k, draw(st.sampled_from(POOL[k]))) for k in keys
    ]


def compare(history: list[list[Tried]], furnished: bool, kernel: Any) -> None:
    memory, legacy = MemoryPlane(laws), isinstance(kernel, XtLegacyPlane)
    try:
        if furnished:
            history = [[("add", key, values[0]) for key, values in POOL.items()], *history]
        for batch in history:
            gone = {key.name for verb, key, _ in batch if verb == "del" and key.kind == "chain"}
            changes = [
                Change(verb, key, memory.objects.get(key), None if verb == "del" else new)
                for verb, key, new in batch
                if expressible(memory, verb, key, gone, legacy)
            ]
            # What is wanted is known to a plane before it is written, in the order of jumps.
            kernel.program = {
                **memory.objects,
                **{change.key: change.new for change in changes if change.new is not None},
            }
            for change in changes:
                if change.new is None:
                    kernel.program.pop(change.key, None)
            said = errno_of(memory, changes), errno_of(kernel, changes)
            # Of the legacy tables it is the tool that says no, in words; which number those mean is a guess.
            assert bool(said[0]) == bool(said[1]) if legacy else said[0] == said[1], (said, changes)
            # In the kernel a chain without rules has rules too: none.
            held = {key: obj for key, obj in kernel.read_now().items() if obj != o.Rules()}
            assert held == memory.objects
    finally:
        kernel.close()


def expressible(memory: MemoryPlane, verb: str, key: Key, gone: set[Any], legacy: bool) -> bool:
    """Whether it is one change for the kernel too: there rules are not known by keys, but by their words."""
    there = key in memory.objects
    if key.kind == "chain":
        return verb == "del" or (verb == "add" and not there)
    if key.kind == "rules":
        chained = o.chain_key(*key.name) in memory.objects
        return (verb == "add") == (not there) and (chained or not legacy)
    # A branch of a chain that goes goes with it, whatever is said of it.
    return (verb == "add") == (not there) and key.name[:3] not in gone


@settings(max_examples=EXAMPLES)
@given(st.lists(batches(6), max_size=6), st.booleans())
def test_nf_tables_says_the_same(history: list[list[Tried]], furnished: bool) -> None:
    inside(lambda: compare(history, furnished, XtNftPlane()))


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("xtables") / "lock"


@pytest.mark.skipif(not LEGACY, reason="iptables-legacy is not installed")
@settings(max_examples=max(5, EXAMPLES // 2))
@given(history=st.lists(batches(1), max_size=6), furnished=st.booleans())
def test_the_legacy_tables_say_the_same(lock: Path, history: list[list[Tried]], furnished: bool) -> None:
    """One change at a time: of several, the plane chooses the order itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "XTABLES_LOCKFILE", str(lock))
        inside(lambda: compare(history, furnished, XtLegacyPlane()))
