"""
A program as `nft list table` prints it, and as `nft -f` loads it.

Knows how tables, sets, chains and elements are written; a single rule is
`ruletext.py`'s. This is a view: nothing is read back from text. It follows nft 1.0.6,
but sets, chains and elements are in order of their names, so that equal programs have
equal texts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Final, cast

from kubeway.planes.nft.fields import FIELDS
from kubeway.planes.nft.objects import PLANE, TABLE, Alien, Chain, Element, Family, Rules, Set, Table
from kubeway.planes.nft.ruletext import prefix_length, show_rule
from kubeway.planes.nft.words import show_class, show_comment, show_time, show_verdict
from kubeway.program.program import Key

__all__ = ["show", "show_element", "show_rule"]

_HOOKS: Final = ("", "prerouting", "input", "forward", "output", "postrouting")
_PRIORITIES: Final = {-300: "raw", -150: "mangle", 0: "filter", 50: "security"}
_NAT_PRIORITIES: Final = {"prerouting": {-100: "dstnat"}, "postrouting": {100: "srcnat"}}
_HOST_ORDER: Final = ("meta priority", "numgen random mod 65536")

_Elements = dict[bytes, Element]
_Part = tuple[int, int, Callable[[bytes], str]]


def show(objects: Mapping[Key, object], family: Family | None = None) -> str:
    """The whole program, or one family of it; "" if there is nothing of it.

    What kubeway has no words for stands behind `#`, where nft passes over it. Elements
    of dynamic sets are shown if they are among the objects.
    """
    families: tuple[Family, ...] = (family,) if family else ("ip", "ip6")
    return "\n".join(filter(None, (_Listing(objects, name).text() for name in families)))


def show_element(key: bytes, element: Element, held: Set) -> str:
    """`10.96.0.1 . tcp . 80 : goto pick-5`: an element of the set `held`."""
    return next(_elements(held, {key: element}))


class _Listing:
    """One family's objects, sorted by what they are."""

    def __init__(self, objects: Mapping[Key, object], family: Family) -> None:
        self.objects = objects
        self.family = family
        self.comment: str | None = None
        self.sets: dict[str, Set] = {}
        self.chains: dict[str, Chain] = {}
        self.rules: dict[str, Rules] = {}
        self.aliens: list[str] = []
        self.elements: dict[str, _Elements] = {}
        for key, thing in objects.items():
            if key.plane == PLANE and key.name[0] == family:
                self.add(key, thing)

    def add(self, key: Key, thing: object) -> None:
        match thing:
            case Element():
                _, name, data = cast(tuple[str, str, bytes], key.name)
                self.elements.setdefault(name, {})[data] = thing
            case Table(comment):
                self.comment = comment
            case Set():
                self.sets[str(key.name[1])] = thing
            case Chain():
                self.chains[str(key.name[1])] = thing
            case Rules():
                self.rules[str(key.name[1])] = thing
            case Alien(what):
                self.aliens.append(what)
            case _:
                self.aliens.append(repr(thing))

    def text(self) -> str:
        blocks = [*self.set_blocks(), *self.chain_blocks(), *self.notes()]
        if not blocks and self.comment is None:
            return ""
        head = [f"\t{show_comment(self.comment).strip()}"] if self.comment else []
        body = "\n\n".join("\n".join(f"\t{line}" for line in block) for block in blocks)
        return "\n".join([f"table {self.family} {TABLE} {{", *head, *([body] if body else []), "}", ""])

    def set_blocks(self) -> Iterator[list[str]]:
        for name, held in sorted(self.sets.items()):
            kind = "map" if held.data or held.verdicts else "set"
            lines = [f"\t{line}" for line in _set_lines(held)]
            elements = list(_elements(held, self.elements.get(name, {})))
            if elements:
                lines.append("\telements = { " + ",\n\t\t\t     ".join(elements) + " }")
            yield [f"{kind} {name} {{", *lines, "}"]

    def chain_blocks(self) -> Iterator[list[str]]:
        # Rules whose chain is not among the objects are told all the same: of a part of a program.
        chains = {**dict.fromkeys(self.rules, Chain()), **self.chains}
        order = sorted(
            chains.items(), key=lambda c: (not c[1].hook, _HOOKS.index(c[1].hook), c[1].priority, c[0])
        )
        for name, chain in order:
            rules = self.rules.get(name, Rules()).rules
            lines = [*_chain_lines(chain), *(show_rule(rule, self.objects, self.family) for rule in rules)]
            yield [f"chain {name} {{", *(f"\t{line}" for line in lines), "}"]

    def notes(self) -> Iterator[list[str]]:
        """What is there and cannot be loaded from text."""
        for name in sorted(self.elements.keys() - self.sets.keys()):
            yield [f"# {len(self.elements[name])} elements of {name}, which is not listed"]
        for what in sorted(self.aliens):
            yield [f"# not kubeway's: {' '.join(what.split())}"]


def _set_lines(held: Set) -> Iterator[str]:
    data = "verdict" if held.verdicts else " . ".join(held.data)
    yield "typeof " + " . ".join(held.key) + (f" : {data}" if data else "")
    if held.size:
        yield f"size {held.size}"
    # nft leaves the timeout flag out where the default timeout implies it.
    flags = ["interval"] * held.ranges + ["dynamic"] * held.dynamic
    if held.dynamic and held.timeout:
        flags.append("timeout")
    if flags:
        yield "flags " + ",".join(flags)
    if held.timeout:
        yield f"timeout {show_time(held.timeout)}"
    if held.comment:
        yield show_comment(held.comment).strip()


def _chain_lines(chain: Chain) -> Iterator[str]:
    if chain.comment:
        yield show_comment(chain.comment).strip()
    if chain.hook:
        yield f"type {chain.type} hook {chain.hook} priority {_priority(chain)}; policy accept;"


def _priority(chain: Chain) -> str:
    """nft's name for a priority near one that has a name at this hook."""
    for known, name in {**_PRIORITIES, **_NAT_PRIORITIES.get(chain.hook, {})}.items():
        off = chain.priority - known
        if abs(off) <= 10:
            return f"{name} {'+' if off > 0 else '-'} {abs(off)}" if off else name
    return str(chain.priority)


# --- elements -------------------------------------------------------------------


def _parts(names: tuple[str, ...]) -> list[_Part]:
    """Where each field of a row lies, and a printer that remembers what it has printed:
    the same addresses and ports stand in thousands of rows."""
    parts, at = [], 0
    for name in names:
        field = FIELDS[name]
        printer = show_class if name == "meta priority" else field.show
        parts.append((at, at + field.size, _remembering(printer)))
        at += field.registers * 4
    return parts


def _remembering(show_value: Callable[[bytes], str]) -> Callable[[bytes], str]:
    class Memory(dict[bytes, str]):
        def __missing__(self, value: bytes) -> str:
            text = self[value] = show_value(value)
            return text

    return Memory().__getitem__


def _elements(held: Set, elements: Mapping[bytes, Element]) -> Iterator[str]:
    """Each element's text, in order."""
    key_parts, data_parts = _parts(held.key), _parts(held.data)
    for key, element in _in_order(held, elements):
        comment = show_comment(element.comment) if element.comment else ""
        text = _range(key_parts, key, element.end) if held.ranges else _row(key_parts, key)
        data = element.data
        if data is None:
            yield text + comment
        elif isinstance(data, bytes):
            yield f"{text}{comment} : {_row(data_parts, data)}"
        else:
            yield f"{text}{comment} : {show_verdict(data)}"


def _row(parts: list[_Part], row: bytes) -> str:
    return " . ".join([show_value(row[start:end]) for start, end, show_value in parts])


def _range(parts: list[_Part], key: bytes, end: bytes | None) -> str:
    """A row whose last field runs to that of `end`: a prefix, where it is one."""
    start, stop, show_value = parts[-1]
    low, high = key[start:stop], (end or key)[start:stop]
    last = show_value(low)
    if high != low:
        differ = int.from_bytes(low, "big") ^ int.from_bytes(high, "big")
        length = prefix_length((~differ & ((1 << 8 * len(low)) - 1)).to_bytes(len(low), "big"))
        whole = length is not None and not int.from_bytes(low, "big") & differ
        last += f"/{length}" if whole and len(low) >= 4 else f"-{show_value(high)}"
    return " . ".join([*([_row(parts[:-1], key)] if len(parts) > 1 else []), last])


def _in_order(held: Set, elements: Mapping[bytes, Element]) -> list[tuple[bytes, Element]]:
    """By key as people count: numbers in the host's byte order count by their value."""
    if sys.byteorder == "big" or not any(name in _HOST_ORDER for name in held.key):
        return sorted(elements.items())
    turned = [
        (at, end)
        for name, (at, end, _) in zip(held.key, _parts(held.key), strict=True)
        if name in _HOST_ORDER
    ]

    def place(item: tuple[bytes, Element]) -> bytes:
        key = item[0]
        for start, end in turned:
            key = key[:start] + key[start:end][::-1] + key[end:]
        return key

    return sorted(elements.items(), key=place)
