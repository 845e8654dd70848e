"""
How many rules of ours there are in each table, and how many were written: told by what was read and written.

Counted are rules of our chains. Not our jumps in chains that others fill, too; kube-proxy does not
count them, either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from kubeway.planes.xtables.objects import PLANE, Family, Rules, TableName
from kubeway.program.program import Change, Key, Object

Table = tuple[Family, TableName]


class Tally:
    """`there`: rules that the tables hold. `written`: rules that were put there since the start."""

    def __init__(self) -> None:
        self.there: Counter[Table] = Counter()
        self.written: Counter[Table] = Counter()

    def read(self, objects: Mapping[Key, Object]) -> None:
        """This is what the tables hold now."""
        self.there.clear()
        for key, obj in objects.items():
            self._count(self.there, key, obj, 1)

    def wrote(self, changes: Iterable[Change]) -> None:
        """These changes were made."""
        for change in changes:
            self._count(self.there, change.key, change.old, -1)
            self._count(self.there, change.key, change.new, 1)
            self._count(self.written, change.key, change.new, 1)

    @staticmethod
    def _count(counts: Counter[Table], key: Key, obj: Object | None, by: int) -> None:
        if obj is None or key.plane != PLANE or key.kind not in ("rules", "branch"):
            return
        counts[key.name[0], key.name[1]] += by * (len(obj.rules) if isinstance(obj, Rules) else 1)
