"""
Law: the plane in memory takes and refuses what the kernel takes and refuses; here of sets and entries.

Neither refuses to add what is there, nor does the kernel refuse to delete what is not.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeway.errors import Refused
from kubeway.planes.ipset import laws
from kubeway.planes.ipset.objects import BITMAP_PORT, ENTRY, HASH_IP_PORT, Set, entry_key, set_key
from kubeway.planes.memory import MemoryPlane
from kubeway.program.program import Change, Key
from kubeway.shell.ipset_plane import IpsetPlane, probe
from kubeway.values import TCP, V4, parse_ip
from tests.kernel.netns import inside, needs_root

pytestmark = [pytest.mark.kernel, needs_root]

POOL: dict[Key, Any] = {
    set_key("KUBEWAY-A"): Set(HASH_IP_PORT, V4),
    set_key("KUBEWAY-B"): Set(BITMAP_PORT, 0),
    entry_key("KUBEWAY-A", parse_ip("10.0.0.1"), TCP, 80): ENTRY,
    entry_key("KUBEWAY-A", parse_ip("10.0.0.2"), TCP, 80): ENTRY,
    entry_key("KUBEWAY-B", 80): ENTRY,
}


def errno_of(plane: Any, change: Change) -> int:
    """0 if the plane takes it."""
    try:
        asyncio.run(plane.write([change]))
    except Refused as error:
        return error.errno
    return 0


@given(
    st.lists(st.tuples(st.sampled_from(["add", "add", "del"]), st.sampled_from(sorted(POOL))), max_size=12)
)
@settings(max_examples=50)
def test_both_say_the_same(history: list[tuple[str, Key]]) -> None:
    inside(lambda: compare(history))


def compare(history: list[tuple[str, Key]]) -> None:
    if why := probe():  # what it says is tested with the plane
        pytest.skip(why)
    memory = MemoryPlane(laws)
    with closing(IpsetPlane(POOL)) as kernel:
        for verb, key in history:
            there = memory.objects.get(key)
            if verb == "del" and there is None:
                continue
            change = Change(verb, key, there, None if verb == "del" else POOL[key])
            assert (errno_of(memory, change), change) == (errno_of(kernel, change), change)
            assert asyncio.run(kernel.read()) == memory.objects
