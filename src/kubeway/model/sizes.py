"""
How many endpoints there are in each family, and whether a mode calls that large.

A mode may say more of a few endpoints than of many: what it leaves out of a large family costs
nothing there. Which of the two holds is a matter of all Forwards together, so it is settled here and
stands in the view; where it changes, everything is compiled anew.

Counted as Forwards come and go, each endpoint once for every service port it serves (kube-proxy does
the same).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from kubeway.model.forward import Forward
from kubeway.model.node import FamilyView, NodeView
from kubeway.model.settle import ForwardKey


class Sizes:
    """`limit`: a family of more endpoints is large. None: none ever is, and nothing is counted."""

    def __init__(self, limit: int | None, forwards: Iterable[Forward] = ()) -> None:
        self._limit = limit
        self._each: dict[ForwardKey, int] = {}
        self._total: Counter[int] = Counter()
        self.change({(forward.name, forward.family): forward for forward in forwards})

    def change(self, forwards: Mapping[ForwardKey, Forward | None]) -> None:
        """These are as they are now; None: gone."""
        if self._limit is None:
            return
        for key, forward in forwards.items():
            count = 0 if forward is None else len(forward.serving)
            self._total[key[1]] += count - self._each.pop(key, 0)
            if count:
                self._each[key] = count

    def seen(self, view: NodeView) -> NodeView:
        """The view with what is large by now; the very same if that is what it says."""
        v4, v6 = self._seen(view.v4), self._seen(view.v6)
        return view if v4 is view.v4 and v6 is view.v6 else replace(view, v4=v4, v6=v6)

    def _seen(self, family: FamilyView) -> FamilyView:
        large = self._limit is not None and self._total[family.family] > self._limit
        return family if family.large == large else replace(family, large=large)
