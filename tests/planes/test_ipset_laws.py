from __future__ import annotations

import errno

import pytest
from hypothesis import given

from kubeway.errors import Refused
from kubeway.planes.ipset import laws
from kubeway.planes.ipset.objects import ENTRY, HASH_IP, Set, entry_key, set_key
from kubeway.planes.memory import MemoryPlane
from kubeway.program.plan import diff
from kubeway.program.program import Change
from kubeway.values import V4, parse_ip
from tests.planes.ipsets import Program, ordered, programs

NAME = "KUBEWAY-A"
ENTRY_KEY = entry_key(NAME, parse_ip("10.0.0.1"))


@given(programs(), programs())
def test_every_plan_is_one_the_plane_takes(before: Program, after: Program) -> None:
    """But for sets of another type: who writes makes those anew, with their entries."""
    for change in list(diff(before, after)):
        if change.verb == "set" and change.key.kind == "set":
            before = {key: obj for key, obj in before.items() if key.name[0] != change.key.name[0]}
    plane = MemoryPlane(laws, before)
    plane.edit(ordered(list(diff(before, after))))
    assert plane.objects == after


def test_an_entry_needs_its_set_and_goes_with_it() -> None:
    plane = MemoryPlane(laws)
    add = Change("add", ENTRY_KEY, None, ENTRY)
    with pytest.raises(Refused) as refused:
        plane.edit([add])
    assert refused.value.errno == errno.ENOENT
    plane.edit([Change("add", set_key(NAME), None, Set(HASH_IP, V4)), add])
    plane.edit([Change("del", set_key(NAME), Set(HASH_IP, V4), None)])
    assert plane.objects == {}
    assert laws.place(ENTRY_KEY) == set_key(NAME)
    assert not list(laws.references(ENTRY_KEY, ENTRY))
