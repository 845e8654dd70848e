"""
Commits counted by looking: for planes whose kernel side counts none.

What is looked at is something cheap that changes when others write: sizes, numbers of entries, texts. Between
two looks there is one commit or none, however many there were.
"""

from __future__ import annotations

from typing import Generic, TypeVar

Seen = TypeVar("Seen")


class Sightings(Generic[Seen]):
    """`seen`: what was seen last; None before the first look, which counts nothing."""

    def __init__(self) -> None:
        self.seen: Seen | None = None
        self.count = 0

    def look(self, seen: Seen) -> int:
        """How many commits there were by now."""
        if seen != self.seen:
            self.count += self.seen is not None
            self.seen = seen
        return self.count

    def wrote(self, seen: Seen, *, alone: bool) -> None:
        """A commit of ours, after which this is seen; `alone`: and nobody else's."""
        self.seen = seen
        self.count += 1 if alone else 2
