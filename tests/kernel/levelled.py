"""
The real planes of a mode and all that levels them, without a daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Final

from kubeway.machines.aside import Aside
from kubeway.model.node import Options
from kubeway.program.link import Linker
from kubeway.program.program import Change, Fragment
from kubeway.records import Record
from kubeway.shell.dialects import lawful
from kubeway.shell.leveller import Leveller
from kubeway.shell.outfit import outfit

IPTABLES: Final = Options(mode="iptables")


class Levelled:
    """Of one back end, in the network namespace it is made in; nothing may be set aside."""

    def __init__(self, back_end: str, clock: Callable[[], float], options: Options = IPTABLES) -> None:
        self.heard: list[Record] = []
        self.linker = Linker()
        self.fit = outfit(options, self.linker, self.heard.append, back_end)
        self.leveller = Leveller(
            self.fit.mode,
            self.fit.plane,
            self.linker,
            law=lawful,
            base=(),
            withdraw=self.withdraw,
            aside=Aside[Hashable](),
            record=self.heard.append,
            clock=clock,
        )

    @staticmethod
    def withdraw(names: object) -> list[Change]:
        raise AssertionError(f"set aside: {names}")

    def want(self, fragments: Mapping[Hashable, Fragment]) -> None:
        self.leveller.keeper.desired(self.linker.update(dict(fragments)))
