"""
All modes mean the same: for any world and packet, the program's own fates are the
model's, chances included.
"""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import event, given
from hypothesis import strategies as st

from kubeway.model.packet import Packet
from kubeway.modes.iptables import IPTABLES
from kubeway.modes.nftables import NFTABLES
from kubeway.program.link import Linker
from kubeway.program.plane import Mode
from kubeway.program.program import Key, Object
from tests.worlds import World, packets, worlds


def program(world: World, mode: Mode) -> Mapping[Key, Object]:
    linker = Linker()
    linker.update({(): mode.base(world.view)})
    linker.update({(f.name, f.family): mode.fragment(f, world.view) for f in world.forwards})
    return linker.objects


@given(worlds(), st.data())
def test_all_modes_mean_what_the_model_means(world: World, data: st.DataObject) -> None:
    modes: tuple[Mode, ...] = (NFTABLES, IPTABLES)
    programs = {mode.name: program(world, mode) for mode in modes}
    for _ in range(5):
        packet: Packet = data.draw(packets(world))
        meant = world.oracle.fates(packet)
        for fate in meant:
            event(fate.verdict)
        for mode in modes:
            done = mode.fates(programs[mode.name], world.view, packet)
            assert dict(done) == dict(meant), mode.name
