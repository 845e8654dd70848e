"""
What others have by as much right as we: `KUBE-FIREWALL`, the rules in it, and the jumps to it.

Kubelets make them, too, and count on them; so they are never taken away, and where nobody asks for them
here, they are none of our business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

from kubeway.planes.xtables.objects import SHARED, Family, Goto, Jump, Rule, TableName, jump_key
from kubeway.program.program import Key, Object


def is_shared(key: Key, thing: Object) -> bool:
    """Whether this is the shared chain, a rule in it, or a jump to it."""
    _, table, chain, *_ = key.name
    if (table, chain) in SHARED:
        return True
    if not isinstance(thing, Rule) or not isinstance(thing.target, Jump | Goto):
        return False
    return (table, thing.target.chain) in SHARED


def asked_for(objects: dict[Key, Object], wanted: Mapping[Key, Object]) -> dict[Key, Object]:
    """What was read, without what is shared and not `wanted`; our jumps beside that counted anew."""
    shared = [key for key, thing in objects.items() if is_shared(key, thing)]
    if not shared:
        return objects
    kept = dict(objects)
    for family, table, chain in {key.name[:3] for key in shared}:
        for key in (key for key in shared if key.kind == "chain" and key.name == (family, table, chain)):
            if key not in wanted:
                del kept[key]
        _count_anew(kept, wanted, family, table, chain)
    return kept


def _count_anew(
    kept: dict[Key, Object], wanted: Mapping[Key, Object], family: Family, table: TableName, chain: str
) -> None:
    jumps = _jumps(kept, family, table, chain)
    for number in range(1, len(jumps) + 1):
        del kept[jump_key(family, table, chain, number)]
    for number, at in enumerate(asked_rules(jumps, wanted, family, table, chain), 1):
        kept[jump_key(family, table, chain, number)] = jumps[at]


def asked_rules(
    jumps: Sequence[Rule], wanted: Mapping[Key, Object], family: Family, table: TableName, chain: str
) -> list[int]:
    """Which of these jumps in an open chain are ours alone or wanted.

    Once more than it is asked for, a shared rule is others', too.
    """
    asked = Counter(_jumps(wanted, family, table, chain))
    ours = []
    for at, rule in enumerate(jumps):
        if is_shared(jump_key(family, table, chain, 1), rule):
            asked[rule] -= 1
            if asked[rule] < 0:
                continue
        ours.append(at)
    return ours


def _jumps(objects: Mapping[Key, Object], family: Family, table: TableName, chain: str) -> list[Rule]:
    jumps: list[Rule] = []
    while (jump := objects.get(jump_key(family, table, chain, len(jumps) + 1))) is not None:
        jumps.append(cast(Rule, jump))
    return jumps
