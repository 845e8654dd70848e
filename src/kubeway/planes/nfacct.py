"""
Counters with a name, in which rules of another plane count packets: the kernel's nfacct.

All of the plane stands here, as there is little of it: objects, keys, bytes, what they are called,
and laws. A counter has to be there before a rule that names it, and goes only after that rule; so
this plane lies below the rules'.

What was counted is no part of the object: it is read by itself, and a counter that goes on
counting has not drifted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from msgspec import Struct

from kubeway.program.program import Change, Key, Object
from kubeway.wire import nfacct as wire
from kubeway.wire.netlink import Message

PLANE: Final = "nfacct"
KINDS: Final = ("counter",)

INVALID: Final = "ct_state_invalid_dropped_pkts"
"""Packets that connection tracking takes for part of no flow, and that were dropped for it."""

LOCALHOST: Final = "localhost_nps_accepted_pkts"
"""Flows from this node that came in by a node port on loopback."""

NAMES: Final = (INVALID, LOCALHOST)
"""Every counter that a program may want: kube-proxy's."""

RIGID: Final[frozenset[str]] = frozenset()
"""Kinds whose objects cannot be changed in place: none, as there is nothing to change."""


class Counter(Struct, frozen=True):
    """A counter of ours."""


COUNTER: Final = Counter()


def counter_key(name: str) -> Key:
    return Key(PLANE, "counter", (name,))


# --- bytes ----------------------------------------------------------------------------


def lower(changes: Iterable[Change]) -> list[bytes]:
    """A request for each change: there is nothing to a counter but that it is there."""
    return [
        wire.delete(change.key.name[0]) if change.verb == "del" else wire.new(change.key.name[0])
        for change in changes
    ]


def lift(answers: Iterable[Message], wanted: Mapping[Key, Object]) -> dict[Key, Object]:
    """Our counters, out of all there are. Of those not `wanted`, the ones in nobody's use: others stay."""
    objects: dict[Key, Object] = {}
    for answer in answers:
        count = wire.read(answer)
        key = counter_key(count.name)
        if count.name in NAMES and (key in wanted or count.users <= 1):
            objects[key] = COUNTER
    return objects


def counts(answers: Iterable[Message]) -> dict[str, int]:
    """The packets that each of our counters has seen, by its name."""
    found = map(wire.read, answers)
    return {count.name: count.packets for count in found if count.name in NAMES}


# --- for people -----------------------------------------------------------------------


def show(objects: Mapping[Key, Object], family: str | None = None) -> str:
    """A line for each, in the tool's words, as a comment. A counter counts packets of both families."""
    return "".join(f"# nfacct add {name}\n" for name in NAMES if counter_key(name) in objects)


_VERBS: Final = {"add": "add", "set": "change", "del": "delete"}


def describe(change: Change, program: Mapping[Key, Object]) -> str:
    """`add counter ct_state_invalid_dropped_pkts`"""
    return f"{_VERBS[change.verb]} {describe_key(change.key, program)}"


def describe_key(key: Key, program: Mapping[Key, Object]) -> str:
    return f"counter {key.name[0]}"


# --- laws -----------------------------------------------------------------------------


def place(key: Key) -> Key | None:
    """The object this one lies in: none."""
    return None


def references(key: Key, obj: Object) -> Iterator[Key]:
    """The objects that this one names: none."""
    yield from ()
