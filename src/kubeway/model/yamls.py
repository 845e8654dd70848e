"""
YAML to plain values: dicts, lists, strings, numbers, booleans, None.

The values are built from libyaml's events, without recursion, because a file is
not trusted: PyYAML's own builder overflows the C stack on deep nesting and
follows aliases of aliases for ever. Scalars are read as Kubernetes reads them:
`2026-01-31` is text, not a date; `1:30` is text, not a sexagesimal number.

Knows YAML, no Kubernetes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from kubeway.errors import BadInput

MAX_DEPTH: Final = 100
# Through aliases a document may grow to this many times what is written.
MAX_GROWTH: Final = 20
_FREE_GROWTH: Final = 10_000

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN: Final[dict[str, object]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")
_BASED: Final = re.compile(r"[-+]?0(?:x[0-9a-fA-F]{1,16}|o?[0-7]{1,20})")
_FLOAT: Final = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?")
_TEXT_TAG: Final = "tag:yaml.org,2002:str"


def documents(data: bytes, where: str) -> Iterator[Any]:
    """Every document of the file. BadInput, with line and column, where it cannot be read."""
    try:
        yield from _documents(yaml.parse(data, Loader=_LOADER), where)
    except yaml.MarkedYAMLError as bad:
        mark = bad.problem_mark or bad.context_mark
        raise BadInput(f"{_place(where, mark)}: {bad.problem or bad.context}") from None
    except yaml.reader.ReaderError as bad:
        line, column = line_and_column(data, bad.position if isinstance(bad.position, int) else 0)
        raise BadInput(f"{where}:{line}:{column}: not text: {bad.reason}") from None
    except yaml.YAMLError as bad:
        raise BadInput(f"{where}:1:1: {bad}") from None


def line_and_column(data: bytes, offset: int) -> tuple[int, int]:
    """Where the byte at `offset` is, counted from 1."""
    before = data[:offset]
    return before.count(b"\n") + 1, offset - (before.rfind(b"\n") + 1) + 1


def _place(where: str, mark: Any) -> str:
    return f"{where}:{mark.line + 1}:{mark.column + 1}" if mark is not None else f"{where}:1:1"


class _Open:
    """A collection that is being read: its value, and what became of it so far."""

    __slots__ = ("anchor", "key", "size", "value")

    def __init__(self, value: dict[Any, Any] | list[Any], anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.key: Any = _NO_KEY
        self.size = 1


_NO_KEY: Final = object()


def _documents(events: Iterator[Any], where: str) -> Iterator[Any]:
    stack: list[_Open] = []
    anchors: dict[str, tuple[Any, int]] = {}
    seen = grown = 0
    for event in events:
        kind = type(event)
        anchor = None
        if kind is yaml.ScalarEvent:
            value, size, anchor = _scalar(event), 1, event.anchor
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            if len(stack) >= MAX_DEPTH:
                raise BadInput(f"{_place(where, event.start_mark)}: nested deeper than {MAX_DEPTH}")
            stack.append(_Open({} if kind is yaml.MappingStartEvent else [], event.anchor))
            continue
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            done = stack.pop()
            value, size, anchor = done.value, done.size, done.anchor
        elif kind is yaml.AliasEvent:
            if event.anchor not in anchors:
                # Unknown, or still open: a value that contains itself.
                raise BadInput(
                    f"{_place(where, event.start_mark)}: no finished value is called &{event.anchor}"
                )
            value, size = anchors[event.anchor]
            grown += size
        else:
            if kind is yaml.DocumentStartEvent:
                anchors.clear()
            continue
        seen += 1
        if grown > MAX_GROWTH * seen + _FREE_GROWTH:
            raise BadInput(f"{_place(where, event.start_mark)}: aliases blow the document up")
        if anchor is not None:
            anchors[anchor] = (value, size)
        if not stack:
            yield value
        else:
            _fill(stack[-1], value, size, event, where)


def _fill(into: _Open, value: Any, size: int, event: Any, where: str) -> None:
    into.size += size
    if isinstance(into.value, list):
        into.value.append(value)
    elif into.key is _NO_KEY:
        if isinstance(value, dict | list):
            raise BadInput(f"{_place(where, event.start_mark)}: a key must be text")
        into.key = value
    else:
        key, into.key = into.key, _NO_KEY
        if key == "<<" and isinstance(value, dict):
            into.value.update({k: v for k, v in value.items() if k not in into.value})
        else:
            into.value[key] = value


def _scalar(event: Any) -> object:
    text: str = event.value
    if not event.implicit[0] or event.tag == _TEXT_TAG:
        return text
    if text in _PLAIN:
        return _PLAIN[text]
    first = text[0]
    if first.isalpha() or first == "/":
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return _based(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _based(text: str) -> int:
    sign = -1 if text[0] == "-" else 1
    digits = text.lstrip("+-")
    return sign * (int(digits, 16) if digits[1] == "x" else int(digits.replace("o", ""), 8))
