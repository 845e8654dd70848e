"""
What the kernel calls a set (ipset's) that a rule asks for: a number.

Rules of ours name sets, so who writes or reads a rule as the kernel has it has to be told which number is
whose. A rule holds its set: as long as it stands the set stays, and keeps its name and number. When both
have gone the number may be another's; so what is told holds for one write or one read.

Source: net/netfilter/ipset/ip_set_core.c (ip_set_destroy, ip_set_rename, ip_set_swap).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from kubeway.planes.xtables.objects import InSet, Rule, Rules
from kubeway.program.program import Object


class Sets(Protocol):
    """The sets of one network namespace, now."""

    def index(self, name: str) -> int | None:
        """The number of the set of this name; None if there is none."""

    def name(self, index: int) -> str | None:
        """The name of the set of this number; None if there is none."""


class _NoSets:
    """A place without sets."""

    def index(self, name: str) -> int | None:
        return None

    def name(self, index: int) -> str | None:
        return None


NO_SETS: Final[Sets] = _NoSets()


def named(thing: Object) -> Iterator[str]:
    """The sets that a rule, or a chain's rules, ask for."""
    rules = thing.rules if isinstance(thing, Rules) else (thing,) if isinstance(thing, Rule) else ()
    for rule in rules:
        for match in rule.matches:
            if isinstance(match, InSet):
                yield match.name
