"""
Settings of the kernel that rules depend on: names below /proc/sys, and the text each has to hold.

All of the plane stands here, as there is little of it: objects, keys, what they are called, and laws,
which ask for nothing. Files are `shell/sysctl_plane.py`'s.

A value is written after the planes below, and never taken back: what was there before us, and who else
came to rely on ours, nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct

from kubeway.program.program import Change, Key, Object

PLANE: Final = "sysctl"
KINDS: Final = ("value",)

ROUTE_LOCALNET: Final = "net/ipv4/conf/all/route_localnet"
"""Packets from and to 127.0.0.0/8 may leave this node and come in to it; else the kernel drops them."""

NAMES: Final = (ROUTE_LOCALNET,)
"""Every value that a program may want."""

RIGID: Final[frozenset[str]] = frozenset()
"""Kinds whose objects cannot be changed in place: none."""


class Value(Struct, frozen=True):
    """What the file holds, without the line's end."""

    text: str


def value_key(name: str) -> Key:
    return Key(PLANE, "value", (name,))


# --- for people -----------------------------------------------------------------------


def show(objects: Mapping[Key, Object], family: str | None = None) -> str:
    """A line for each value, in the tool's spelling, as a comment: restore tools read it over."""
    lines = [
        f"# sysctl {name.replace('/', '.')} = {objects[value_key(name)].text}\n"
        for name in NAMES
        if value_key(name) in objects and family in (None, family_of(value_key(name)))
    ]
    return "".join(lines)


def family_of(key: Key) -> str:
    """The family of packets that the value is about, as planes with families call it."""
    return "ip6" if key.name[0].startswith("net/ipv6/") else "ip"


def describe(change: Change, program: Mapping[Key, Object]) -> str:
    """`set sysctl net/ipv4/conf/all/route_localnet to 1`"""
    told = describe_key(change.key, program)
    return f"leave {told}" if change.new is None else f"set {told} to {change.new.text}"


def describe_key(key: Key, program: Mapping[Key, Object]) -> str:
    return f"sysctl {key.name[0]}"


# --- laws -----------------------------------------------------------------------------


def place(key: Key) -> Key | None:
    """The object this one lies in: none."""
    return None


def references(key: Key, obj: Object) -> Iterator[Key]:
    """The objects that this one names: none."""
    yield from ()
