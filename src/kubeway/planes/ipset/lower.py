"""
From changes to the messages that make them: objects in, netlink bytes out.

Messages carry thousands of entries of one set, so entries of several sets are told apart and go set by
set; within a set they keep their order. Who is let in is entered before all others are barred. Each
parcel knows which changes are in its message.

`lift` is the opposite. This file knows no Service and opens no socket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from kubeway.planes.ipset.fields import form_of
from kubeway.planes.ipset.objects import (
    BITMAP_PORT,
    ENTRY,
    HASH_IP,
    HASH_IP_PORT,
    HASH_IP_PORT_IP,
    HASH_IP_PORT_NET,
    Entry,
    Set,
)
from kubeway.planes.ipset.ours import BARRING
from kubeway.program.program import Change, Key
from kubeway.wire import ipset as wire

HASHSIZE: Final = 1024
MAXELEM: Final = 1 << 20
"""The most entries of a set, where the kernel would say 65,536; room costs nothing until it is used."""

# Of each type the revision that kernels have had since 3.18; later ones add what is not used here.
_REVISIONS: Final = {
    HASH_IP: 4,
    HASH_IP_PORT: 5,
    HASH_IP_PORT_IP: 5,
    HASH_IP_PORT_NET: 7,
    BITMAP_PORT: 3,
}


class Parcel(NamedTuple):
    """One message about the set `name`, and the changes it makes: one of a set, or many of entries."""

    name: str
    data: bytes
    changes: Sequence[Change]

    def singly(self) -> list[Parcel]:
        """Of entries, the same in a message for each: the kernel does not tell which of a list it refused."""
        return [parcel for change in self.changes for parcel in _lists(self.name, [change])]


def room(entries: int) -> tuple[int, int]:
    """The hashsize and maxelem to make a hash with that is to hold so many, and some more."""
    hashsize, maxelem = HASHSIZE, MAXELEM
    while hashsize * 2 < entries:  # two to a bucket: hardly ever more than it holds, which makes it grow
        hashsize *= 2
    while maxelem < 2 * entries:
        maxelem *= 2
    return hashsize, maxelem


def lower(changes: Sequence[Change]) -> list[Parcel]:
    """The messages, in the order of the changes but for entries of different sets.

    ValueError for an entry that no set can hold, and for the change of a set: it has to be made anew.
    """
    coming = Counter(c.key.name[0] for c in changes if c.key.kind != "set" and c.verb == "add")
    parcels: list[Parcel] = []
    for kind, run in groupby(changes, key=lambda change: change.key.kind):
        if kind == "set":
            parcels += [_set(change, coming) for change in run]
            continue
        for going, some in groupby(run, key=lambda change: change.verb == "del"):
            by_set: dict[str, list[Change]] = {}
            for change in some:
                by_set.setdefault(change.key.name[0], []).append(change)
            for name in sorted(by_set, key=lambda name: (name in BARRING) is not going):
                parcels += _lists(name, by_set[name])
    return parcels


def fill(name: str, keys: Iterable[Key]) -> list[Parcel]:
    """The messages that put entries of any sets into the set `name`."""
    return list(_lists(name, [Change("add", key, None, ENTRY) for key in keys]))


def create(name: str, made: Set, entries: int) -> bytes:
    """The message that makes a set with room for so many. ValueError if it is of no type of ours."""
    if made.type not in _REVISIONS:
        raise ValueError(f"{made.type} is no type of set that is made here")
    data = wire.PORTS_DATA if made.type == BITMAP_PORT else wire.hash_data(*room(entries))
    return wire.create(name, made.type, made.family, _REVISIONS[made.type], data)


def _set(change: Change, coming: Counter[str]) -> Parcel:
    name = change.key.name[0]
    if change.verb == "set":
        raise ValueError(f"the set {name} cannot be changed in place")
    data = wire.destroy(name) if change.verb == "del" else create(name, change.new, coming[name])
    return Parcel(name, data, [change])


def _lists(name: str, changes: Iterable[Change]) -> Iterator[Parcel]:
    for build, run in groupby(changes, key=_operation):
        inside: list[Change] = []
        spelled: list[bytes] = []
        size = 0
        for change in run:
            element = _element(change)
            if size + len(element) > wire.LIST_LIMIT:
                yield Parcel(name, build(name, spelled), inside)
                inside, spelled, size = [], [], 0
            inside.append(change)
            spelled.append(element)
            size += len(element)
        yield Parcel(name, build(name, spelled), inside)


def _operation(change: Change) -> Callable[[str, Iterable[bytes]], bytes]:
    return wire.delete if change.verb == "del" else wire.add


def _element(change: Change) -> bytes:
    fields = change.key.name[1:]
    form = form_of(fields)
    nomatch = isinstance(change.new, Entry) and change.new.nomatch
    return form.layout.build(form.values(fields), nomatch)
