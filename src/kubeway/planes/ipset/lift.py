"""
From what the kernel says it holds back to objects: the opposite of `lower`.

It reads the answers of a dump, which are spelled like requests, so `lift(lower(p)) == p`. A set of ours
that cannot be what its name says (of another type, or one that changes what is put into it) becomes a Set
of a type in its own words, and its entries are left out: it is to be made anew. An entry that has not what
the set's type says is left out too.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from kubeway.errors import Malformed
from kubeway.planes.ipset.fields import FORMS, Form
from kubeway.planes.ipset.objects import ENTRY, PLANE, Entry, Set, kind_in, set_key
from kubeway.program.program import Key, Object
from kubeway.wire import ipset as wire
from kubeway.wire.netlink import Message


def lift(answers: Iterable[Message]) -> dict[Key, Object]:
    """The sets that the answers are about, with their entries."""
    objects: dict[Key, Object] = {}
    forms: dict[str, Form | None] = {}
    for answer in answers:
        name, header, listed = wire.read(answer)
        if header is not None:
            found = lift_set(header)
            objects[set_key(name)] = found
            forms[name] = FORMS.get((found.type, found.family))
        form = forms.get(name)
        if form is not None and listed is not None:
            _entries(objects, name, form, listed)
    return objects


def lift_set(header: wire.Header) -> Set:
    return Set(f"{header.type} {header.odd}".rstrip(), header.family)


def _entries(objects: dict[Key, Object], name: str, form: Form, listed: memoryview) -> None:
    fields, kind = form.fields, kind_in(name)
    usual = form.layout.read_usual(listed)
    if usual is not None:
        for values in usual:
            objects[Key(PLANE, kind, (name, *fields(values)))] = ENTRY
        return
    for element in wire.elements(listed):
        with suppress(Malformed):
            values, nomatch = form.layout.read(element)
            objects[Key(PLANE, kind, (name, *fields(values)))] = Entry(True) if nomatch else ENTRY
