"""
Label and field selectors: which objects a request is about.

Knows their grammar (apimachinery: labels.Parse, fields.ParseSelector) and which fields
each resource lets one select by; knows no requests and no history.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

Doc = Mapping[str, Any]
Test = Callable[[Doc], bool]

ANY_KIND: Final = ("metadata.name", "metadata.namespace")
FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "services": (*ANY_KIND, "spec.clusterIP", "spec.type"),
    "nodes": (*ANY_KIND, "spec.unschedulable"),
}
"""What one may select by, beside name and namespace."""

_KEY: Final = r"[A-Za-z0-9][-A-Za-z0-9_./]*"
_VALUE: Final = r"[-A-Za-z0-9_.]*"
_EXISTS: Final = re.compile(rf"(!?)\s*({_KEY})")
_EQUAL: Final = re.compile(rf"({_KEY})\s*(==|=|!=)\s*({_VALUE})")
_AMONG: Final = re.compile(rf"({_KEY})\s+(in|notin)\s+\(([^()]*)\)")
_FIELD: Final = re.compile(r"([A-Za-z.]+)(!=|==|=)(.*)")


class BadSelector(ValueError):
    """It cannot be read, or the field is none to select by."""


def selector(resource: str, labels: str, fields: str) -> Test:
    """Both together, as the query parameters spell them. Raises BadSelector."""
    tests = [_label(part) for part in _parts(labels)]
    tests += [_field(resource, part) for part in fields.split(",") if part]
    return lambda doc: all(test(doc) for test in tests)


def _parts(labels: str) -> list[str]:
    """Split at the commas that are not in parentheses."""
    return [part.strip() for part in re.split(r",(?![^(]*\))", labels)] if labels.strip() else []


def _label(text: str) -> Test:
    if found := _EXISTS.fullmatch(text):
        wanted, key = not found[1], found[2]
        return lambda doc: (key in _labels(doc)) == wanted
    if found := _EQUAL.fullmatch(text):
        key, is_not, value = found[1], found[2] == "!=", found[3]
        # An object without the label is not equal to anything.
        return lambda doc: (_labels(doc).get(key) == value) != is_not
    if found := _AMONG.fullmatch(text):
        key, is_not, values = found[1], found[2] == "notin", {word.strip() for word in found[3].split(",")}
        return lambda doc: (_labels(doc).get(key) in values) != is_not
    raise BadSelector(f"unable to parse requirement: {text!r}")


def _labels(doc: Doc) -> Mapping[str, str]:
    return doc["metadata"].get("labels") or {}


def _field(resource: str, text: str) -> Test:
    found = _FIELD.fullmatch(text)
    if not found:
        raise BadSelector(f"invalid selector: '{text}'; can't understand '{text}'")
    path, is_not, value = found[1], found[2] == "!=", found[3]
    if path not in FIELDS.get(resource, ANY_KIND):
        raise BadSelector(f"field label not supported: {path}")
    return lambda doc: (_at(doc, path) == value) != is_not


def _at(doc: Doc, path: str) -> str:
    """The field as text; what is absent is "" (or false, for a flag)."""
    value: Any = doc
    for step in path.split("."):
        value = (value or {}).get(step)
    if value is None:
        return "false" if path == "spec.unschedulable" else ""
    return str(value).lower() if isinstance(value, bool) else str(value)
