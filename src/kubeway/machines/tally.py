"""
Counts over all service ports that are in force, kept change by change.

What a change costs here does not depend on how many service ports there are, so
the figures can be told after every sync. What they are for is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from kubeway.model.forward import Forward
from kubeway.model.settle import ForwardKey

Policy = Literal["internal", "external"]


class Tally:
    """`no_local[policy, family]`: service ports whose Local policy finds nobody on this node
    to serve, though there are endpoints elsewhere: their packets are dropped."""

    def __init__(self) -> None:
        self.service_ports = 0
        self.claims_lost = 0
        self.no_local: dict[tuple[Policy, int], int] = {
            ("internal", 4): 0,
            ("internal", 6): 0,
            ("external", 4): 0,
            ("external", 6): 0,
        }

    def changed(self, transitions: Iterable[tuple[ForwardKey, Forward | None, Forward | None]]) -> None:
        """Each service port with what it was and what it is; None: not there."""
        for _, old, new in transitions:
            if old is not None:
                self._count(old, -1)
            if new is not None:
                self._count(new, 1)

    def _count(self, forward: Forward, by: int) -> None:
        self.service_ports += by
        self.claims_lost += by * len(forward.lost)
        if forward.local or not forward.usable:
            return
        if forward.internal_local:
            self.no_local["internal", forward.family] += by
        # Without a way in from outside, the external policy is nobody's.
        if forward.external_local and any(way.kind != "ClusterIP" for way in forward.frontends):
            self.no_local["external", forward.family] += by
