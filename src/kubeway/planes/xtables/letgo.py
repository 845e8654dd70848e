"""
How to wait until the kernel has let go of the sets that deleted rules asked for.

nf_tables answers before it takes apart what was deleted: a worker does that, some 5 to 40 ms later, and until
then the sets cannot be destroyed. Before it makes a rule with a match of x_tables it waits for that worker
(since 5.9). So it is asked for such a rule, in a transaction whose last message it cannot but refuse: all is
taken back, nothing is committed, and nobody notices.

Source: net/netfilter/nft_compat.c (nft_compat_wait_for_destructors).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kubeway.planes.xtables.lower import NO_HANDLE, Place, place_of
from kubeway.planes.xtables.sets import named
from kubeway.program.program import Change
from kubeway.wire import xtables as wire

_CHAIN: Final = "KUBEWAY-NEVER"
_RULE: Final = wire.rule_body(wire.match("comment", 0, wire.COMMENT.pack(b"")), b"")


def let_go(changes: Iterable[Change]) -> Place | None:
    """A chain in which rules asked for sets before these changes that none asks for after them.

    None if there is none, and nothing to wait for.
    """
    before: dict[str, Place] = {}
    after: set[str] = set()
    for change in changes:
        for name in named(change.old):
            before.setdefault(name, place_of(change.key))
        after.update(named(change.new))
    return next((place for name, place in before.items() if name not in after), None)


def wait(place: Place) -> list[bytes]:
    """The messages of the transaction, without its begin and end; it is refused (ENOENT) when all is over."""
    never = place._replace(chain=_CHAIN)
    return [
        wire.new_table(*place[:2]),
        wire.new_chain(*never, again=True),
        *wire.new_rules(*never, [_RULE]),
        wire.del_rule(*never, NO_HANDLE),
    ]
