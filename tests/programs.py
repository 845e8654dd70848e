"""
Small nft programs for tests: a base, services that share chains and quarrel over keys,
and hypothesis strategies over what may happen to them.

Whatever services there are, base and services together are a program the kernel
would take: everything named is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import strategies as st

from kubeway.planes.nft.objects import (
    KINDS,
    PLANE,
    Chain,
    Drop,
    Element,
    Family,
    Goto,
    Jump,
    Lookup,
    Payload,
    Rule,
    Rules,
    Set,
    Table,
    chain_key,
    element_key,
    rules_key,
    set_key,
    table_key,
)
from kubeway.program.link import Linker
from kubeway.program.program import Change, Fragment, Key, Object, Origin

ORDER: Mapping[str, tuple[str, ...]] = {PLANE: KINDS}
BASE = ""
FAMILIES: tuple[Family, ...] = ("ip", "ip6")
Updates = dict[str, Fragment | None]


def base(comment: str = "") -> Fragment:
    """Tables, maps and chains of both families. Another `comment` changes a set, which the kernel cannot."""
    objects: dict[Key, Object] = {}
    for family in FAMILIES:
        look = Rule((Payload(0, "network", 16, 4), Lookup(0, "services", "verdict")))
        objects |= {
            table_key(family): Table(),
            set_key(family, "services"): Set(("ip daddr",), verdicts=True),
            set_key(family, "used"): Set(("ip daddr",), comment=comment),
            chain_key(family, "entry"): Chain("nat", "prerouting", -100),
            rules_key(family, "entry"): Rules((Rule((Jump("dispatch"),)),)),
            chain_key(family, "dispatch"): Chain(),
            rules_key(family, "dispatch"): Rules((look,)),
        }
    return Fragment(Origin(None, "base"), objects)


def service(size: int, addresses: Iterable[int], family: Family = "ip") -> Fragment:
    """Sends each of `addresses` (0 to 255) to the chain all services of this size share."""
    chain = f"pick-{size}"
    objects: dict[Key, Object] = {
        chain_key(family, chain): Chain(),
        rules_key(family, chain): Rules(tuple(Rule((Drop(),), f"endpoint {i}") for i in range(size))),
    }
    for address in addresses:
        key = bytes((10, 0, 0, address))
        objects[element_key(family, "services", key)] = Element(Goto(chain))
        objects[element_key(family, "used", key)] = Element()
    return Fragment(Origin(None, f"service of {size}"), objects)


def services() -> st.SearchStrategy[Fragment]:
    return st.builds(
        service, st.integers(1, 3), st.sets(st.integers(1, 6), max_size=3), st.sampled_from(FAMILIES)
    )


def updates() -> st.SearchStrategy[Updates]:
    """Some services come, change or go; now and then a set changes, and the tables are made anew."""
    names = st.sampled_from("abcde")
    some: st.SearchStrategy[Updates] = st.dictionaries(names, st.none() | services(), max_size=4)
    rigid = st.builds(lambda u, n: u | {BASE: base(f"version {n}")}, some, st.integers(0, 2))
    return st.one_of(some, some, some, rigid)


def linked(*all_updates: Mapping[str, Fragment | None]) -> Linker:
    """A linker that has seen the base and then these updates."""
    linker = Linker()
    linker.update({BASE: base()})
    for update in all_updates:
        linker.update(update)
    return linker


def programs() -> st.SearchStrategy[dict[Key, Object]]:
    return st.lists(updates(), max_size=3).map(lambda us: dict(linked(*us).objects))


def add(key: Key, obj: Any) -> Change:
    return Change("add", key, None, obj)


def put(key: Key, old: Any, new: Any) -> Change:
    return Change("set", key, old, new)


def drop(key: Key, old: Any) -> Change:
    return Change("del", key, old, None)
