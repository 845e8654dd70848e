"""
What real modes make of clusters that change: fragments by name, for the laws of programs and of writing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hypothesis import strategies as st

from kubeway.modes.iptables import IPTABLES
from kubeway.modes.ipvs import IPVS
from kubeway.modes.nftables import NFTABLES
from kubeway.program.link import Linker, Name
from kubeway.program.plane import Mode
from kubeway.program.program import Fragment
from tests.worlds import worlds

MODES: Final[tuple[Mode, ...]] = (NFTABLES, IPTABLES, IPVS)
BASE: Final = ()
Updates = dict[Name, Fragment | None]


@st.composite
def histories(draw: st.DrawFn, mode: Mode, most: int = 4) -> list[Updates]:
    """The base, and then what changes as clusters take each other's place, some of it late.

    What comes late is there together with what it does not go with, so fragments quarrel at times.
    """
    clusters = [draw(worlds(most=2)).in_mode(mode.name) for _ in range(draw(st.integers(1, most)))]
    view = clusters[0].view
    updates: list[Updates] = [{BASE: mode.base(view)}]
    there: set[Name] = set()
    for cluster in clusters:
        wanted = {(one.name, one.family): mode.fragment(one, view) for one in cluster.forwards}
        update: Updates = {name: wanted.get(name) for name in sorted(there | wanted.keys())}
        late = draw(st.sets(st.sampled_from(sorted(update)), max_size=2)) if update else set()
        update = {name: one for name, one in update.items() if name not in late}
        updates.append(update)
        there = (there - update.keys()) | {name for name, one in update.items() if one is not None}
    return updates


def linked(*updates: Mapping[Name, Fragment | None]) -> Linker:
    """A linker that has seen these."""
    linker = Linker()
    for update in updates:
        linker.update(update)
    return linker
