"""YAML as Kubernetes reads it, built without recursion."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import BadInput
from kubeway.model.yamls import MAX_DEPTH, documents, line_and_column


def load(text: str) -> list[Any]:
    return list(documents(text.encode(), "x"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("80", 80),
        ('"80"', "80"),
        ("-7", -7),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 15),
        ("08", "08"),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("true", True),
        ("No", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("!!str 80", "80"),
        # Neither dates nor sexagesimal numbers.
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("1:30", "1:30"),
        ("10.96.0.1", "10.96.0.1"),
        ("fd00::1", "fd00::1"),
        ("::1", "::1"),
        (".", "."),
        ("-", [None]),
        ("+", "+"),
        ("=", "="),
        ("9" * 5000, "9" * 5000),
        ("1e999", math.inf),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    (found,) = load(text) or [None]
    assert found == value
    assert type(found) is type(value)


def test_collections_documents_and_aliases() -> None:
    text = "a: &x [1, {b: 2}]\nc: *x\n---\n- p\n- q: r\n---\nd: {<<: {e: 1, f: 2}, f: 3}\ng: &s word\nh: *s\n"
    assert load(text) == [
        {"a": [1, {"b": 2}], "c": [1, {"b": 2}]},
        ["p", {"q": "r"}],
        {"d": {"e": 1, "f": 3}, "g": "word", "h": "word"},
    ]


def test_what_is_written_wins_over_what_is_merged() -> None:
    assert load("a: &a {x: 1, y: 2}\nb: {x: 3, <<: *a}\nc: {<<: *a, x: 3}\n")[0] == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2},
        "c": {"x": 3, "y": 2},
    }


def test_anchors_are_of_their_document() -> None:
    with pytest.raises(BadInput, match="no finished value is called &a"):
        load("a: &a 1\n---\nb: *a\n")


def test_depth() -> None:
    assert load("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(BadInput, match=f"^x:1:{MAX_DEPTH + 1}: nested deeper than {MAX_DEPTH}$"):
        load("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def test_honest_aliases_may_be_many() -> None:
    text = "a: &a {x: 1, y: 2}\nb: [" + ", ".join(["*a"] * 1000) + "]\n"
    assert len(load(text)[0]["b"]) == 1000


def test_line_and_column() -> None:
    assert [line_and_column(b"ab\nc\n", at) for at in (0, 1, 2, 3, 5)] == [
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 1),
        (3, 1),
    ]


_letters = st.characters(codec="ascii", categories=["L"])
# Without digits: PyYAML leaves some numbers of today, such as 1e3, unquoted where they are text.
_text = st.text(st.characters(exclude_categories=["Nd", "Cs"]), max_size=20)
_floats = st.floats(allow_nan=False, allow_infinity=False)
_plain = st.none() | st.booleans() | st.integers(-(2**59), 2**59) | _floats | _text
_any = st.recursive(
    _plain,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(_letters, min_size=1, max_size=5), inner, max_size=4)
    ),
)


@given(st.lists(_any, min_size=1, max_size=3), st.booleans())
def test_reads_what_pyyaml_writes(values: list[Any], flow: bool) -> None:
    written = yaml.safe_dump_all(values, default_flow_style=flow, allow_unicode=False)
    assert list(documents(written.encode(), "x")) == values
