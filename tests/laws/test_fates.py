"""
All modes mean the same: for any world and packet, the program's own fates are the
model's, chances included.
"""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import event, given
from hypothesis import strategies as st
from tests.worlds import World, packets, worlds

from kubeway.model.packet import Packet
from kubeway.modes.nftables import NFTABLES
from kubeway.program.link import Linker
from kubeway.program.program import Key, Object


def program(world: World) -> Mapping[Key, Object]:
    linker = Linker()
    linker.update({(): NFTABLES.base(world.view)})
    linker.update({(f.name, f.family): NFTABLES.fragment(f, world.view) for f in world.forwards})
    return linker.objects


@given(worlds(), st.data())
def test_nftables_means_what_the_model_means(world: World, data: st.DataObject) -> None:
    objects = program(world)
    for _ in range(5):
        packet: Packet = data.draw(packets(world))
        meant = world.oracle.fates(packet)
        for fate in meant:
            event(fate.verdict)
        assert dict(NFTABLES.fates(objects, world.view, packet)) == dict(meant)
