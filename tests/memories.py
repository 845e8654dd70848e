"""
What a mode writes to, in memory: a plane that obeys its laws for each plane of the mode, as one.

Besides, it holds the one law that goes from plane to plane: a rule finds the sets that it asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Final

from kubeway.machines.pacer import Rng
from kubeway.planes import nfacct, sysctl
from kubeway.planes.ipset import laws as ipset
from kubeway.planes.ipset.objects import set_key
from kubeway.planes.ipvs import laws as ipvs
from kubeway.planes.link import objects as link
from kubeway.planes.memory import MemoryPlane
from kubeway.planes.nft import laws as nft
from kubeway.planes.xtables import laws as xtables
from kubeway.planes.xtables.sets import named
from kubeway.program.plane import Mode
from kubeway.program.program import Change, Key, Object
from kubeway.shell.compound import Compound

LAWS: Final[Mapping[str, ModuleType]] = {
    "nft": nft,
    "nfacct": nfacct,
    "ipset": ipset,
    "ipvs": ipvs,
    "link": link,
    "sysctl": sysctl,
    "xtables": xtables,
}


class Memories(Compound):
    """`rng`: each of the planes fails by chance, `share` of the time."""

    def __init__(
        self,
        mode: Mode,
        objects: Mapping[Key, Object] | None = None,
        *,
        rng: Rng | None = None,
        share: float = 0.1,
    ) -> None:
        self.each: dict[str, MemoryPlane] = {}
        for name in dict(mode.planes):
            laws: Any = LAWS[name]
            held = {key: thing for key, thing in (objects or {}).items() if key.plane == name}
            self.each[name] = MemoryPlane(laws, held, rng=rng, share=share)
        super().__init__(self.each)

    @property
    def objects(self) -> dict[Key, Object]:
        return {key: thing for plane in self.each.values() for key, thing in plane.objects.items()}

    @property
    def writes(self) -> int:
        return sum(len(plane.writes) for plane in self.each.values())

    def fail(self, share: float) -> None:
        for plane in self.each.values():
            plane._share = share

    async def write(self, changes: Sequence[Change]) -> None:
        try:
            await super().write(changes)
        finally:
            self._look()

    def _look(self) -> None:
        sets = self.each["ipset"].objects if "ipset" in self.each else {}
        for thing in self.each["xtables"].objects.values() if "xtables" in self.each else ():
            for name in named(thing):
                assert set_key(name) in sets, f"a rule asks for {name}, which is not there"
