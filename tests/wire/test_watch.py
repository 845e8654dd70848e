from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.wire.watch import (
    Bookmark,
    Event,
    Failure,
    Stream,
    Told,
    Unreadable,
    read_event,
    read_page,
    read_status,
)

GONE = {
    "kind": "Status",
    "apiVersion": "v1",
    "metadata": {},
    "status": "Failure",
    "message": "too old resource version: 10 (20)",
    "reason": "Expired",
    "code": 410,
}


def dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def line(type: str, object: object) -> bytes:
    return dump({"type": type, "object": object}) + b"\n"


def thing(name: str, version: str = "7", **more: Any) -> dict[str, Any]:
    return {
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": version, **more},
        "spec": {"ports": [{"port": 80}], "text": 'a "quoted" {brace}\n'},
    }


def seen(event: Event) -> object:
    """An event so that it can be compared: what is bytes, as its value."""
    if isinstance(event, Told):
        item = event.item
        return (item.namespace, item.name, item.version, json.loads(bytes(item.raw)), event.gone)
    return event


# --- events ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("type", "gone"), [("ADDED", False), ("MODIFIED", False), ("DELETED", True)])
def test_an_object_is_told_with_all_its_bytes(type: str, gone: bool) -> None:
    event = read_event(line(type, thing("cart", labels={"a": "b"})))
    assert seen(event) == ("shop", "cart", "7", thing("cart", labels={"a": "b"}), gone)


def test_a_kind_without_namespaces() -> None:
    event = read_event(line("ADDED", {"metadata": {"name": "node1", "resourceVersion": "3"}}))
    assert isinstance(event, Told)
    assert (event.item.namespace, event.item.name) == ("", "node1")


@pytest.mark.parametrize(
    ("annotations", "end"),
    [
        (None, False),
        ({}, False),
        ({"k8s.io/initial-events-end": "true"}, True),
        ({"k8s.io/initial-events-end": "false"}, False),
    ],
)
def test_a_bookmark(annotations: object, end: bool) -> None:
    mark = {"kind": "Service", "metadata": {"resourceVersion": "12", "annotations": annotations}}
    assert read_event(line("BOOKMARK", mark)) == Bookmark("12", end)


def test_an_error_event_is_a_failure() -> None:
    assert read_event(line("ERROR", GONE)) == Failure(410, "Expired", "too old resource version: 10 (20)")


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        (line("ADDED", {"metadata": {"name": 5}}), "got `int` - at `$.metadata.name`"),
        (line("ADDED", {"metadata": {"resourceVersion": "7"}}), "without metadata.name"),
        (line("ADDED", {"metadata": {"name": "x"}}), "without metadata.resourceVersion"),
        (line("ADDED", {"metadata": None}), "without metadata.name"),
        (line("ADDED", 5), "got `int`"),
        (line("BOOKMARK", {"metadata": {}}), "no metadata.resourceVersion"),
        (line("BOOKMARK", []), "got `array`"),
        (line("SOMETHING\n\x07", {}), "an event of type SOMETHING \\x07"),
        (b'{"type":"ADDED","object":{"metadata":{"name":"\xff"}}}', "invalid start byte"),
    ],
)
def test_what_cannot_be_told_apart_is_unreadable(event: bytes, problem: str) -> None:
    found = read_event(event)
    assert isinstance(found, Unreadable)
    assert problem in found.problem


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"type":"ADDED"}',
        b'{"type":5,"object":{}}',
        b'{"type":"ADDED","object":{',
    ],
)
def test_what_is_no_event_is_malformed(junk: bytes) -> None:
    with pytest.raises(Malformed, match="watch: "):
        read_event(junk)


def test_nesting_without_end_is_malformed() -> None:
    with pytest.raises(Malformed, match="nested too deep"):
        read_event(b'{"type":"ADDED","object":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


# --- the stream ------------------------------------------------------------------------------------------

EVENTS = [
    line("ADDED", thing("cart")),
    line("ADDED", {"metadata": {}}),
    line("BOOKMARK", {"metadata": {"resourceVersion": "12"}}),
    b"\n \r\n",
    line("DELETED", thing("ünï-cödé", "13")).replace(b"\n", b"\r\n"),
    line("ERROR", GONE),
]


@given(st.lists(st.sampled_from(EVENTS)).map(b"".join), st.data())
def test_cut_anywhere_the_events_are_the_same(data: bytes, draw: st.DataObject) -> None:
    whole = [seen(event) for event in Stream().feed(data)]
    assert len(whole) == len([part for part in data.split(b"\n") if part.strip()])
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=30)))
    stream, parts = Stream(), []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        parts += [seen(event) for event in stream.feed(data[start:end])]
    assert parts == whole


def test_byte_by_byte() -> None:
    data, stream = b"".join(EVENTS), Stream()
    events = [event for byte in data for event in stream.feed(bytes([byte]))]
    assert len(events) == 5


def test_events_before_the_broken_one_are_told() -> None:
    events = Stream().feed(EVENTS[0] + b"junk\n" + EVENTS[0])
    assert isinstance(next(events), Told)
    with pytest.raises(Malformed):
        next(events)


def test_a_line_without_an_end_is_malformed() -> None:
    stream = Stream(limit=100)
    assert list(stream.feed(b"x" * 60)) == []
    with pytest.raises(Malformed, match="a line of more than 100 bytes"):
        stream.feed(b"x" * 60)


def test_many_lines_are_not_one_long_line() -> None:
    stream = Stream(limit=100)
    for _ in range(20):
        assert len(list(stream.feed(line("BOOKMARK", {"metadata": {"resourceVersion": "1"}})))) == 1


# --- lists -----------------------------------------------------------------------------------------------


def test_a_page_of_a_list() -> None:
    meta = {"resourceVersion": "99", "continue": "token", "remainingItemCount": 3}
    page = read_page(
        dump({"kind": "ServiceList", "metadata": meta, "items": [thing("a", "1"), thing("b", "2")]})
    )
    assert (page.version, page.token, page.remaining) == ("99", "token", 3)
    assert [(item.name, item.version, json.loads(bytes(item.raw))) for item in page.items] == [
        ("a", "1", thing("a", "1")),
        ("b", "2", thing("b", "2")),
    ]


@pytest.mark.parametrize("items", [None, []])
def test_a_list_may_have_no_items(items: object) -> None:
    page = read_page(dump({"metadata": {"resourceVersion": "99"}, "items": items}))
    assert (page.items, page.token, page.remaining) == ([], "", 0)


def test_one_bad_item_does_not_take_the_others_along() -> None:
    page = read_page(dump({"metadata": {"resourceVersion": "99"}, "items": [5, thing("a"), {}]}))
    assert [item.name for item in page.items] == ["a"]
    assert [bad.problem for bad in page.unreadable] == [
        "list: Expected `object`, got `int`",
        "list: an object without metadata.name",
    ]


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", dump(GONE), dump({"items": []}), dump({"metadata": {"resourceVersion": "1"}})[:-1]],
)
def test_what_is_no_list_is_malformed_and_not_an_empty_one(body: bytes) -> None:
    with pytest.raises(Malformed, match="list: "):
        read_page(body)


# --- refusals --------------------------------------------------------------------------------------------


def test_a_status_says_when_to_come_again_and_why() -> None:
    body = {
        "kind": "Status",
        "code": 504,
        "reason": "Timeout",
        "message": "Timeout: Too large resource version: 9, current: 8",
        "details": {
            "retryAfterSeconds": 1,
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "…"}],
        },
    }
    failure = read_status(dump(body), 504, 3.0)
    assert failure == Failure(
        504, "Timeout", "Timeout: Too large resource version: 9, current: 8", 3.0, "ResourceVersionTooLarge"
    )
    assert str(failure) == "504 Timeout: Timeout: Too large resource version: 9, current: 8"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>\n<b>Bad Gateway</b>\n</html>", "502: <html> <b>Bad Gateway</b> </html>"),
        (b"", "502"),
        (b"\xff\x00", "502: \\ufffd\\x00"),
        (dump({"kind": "Status", "code": "x", "reason": 5, "message": [], "details": []}), "502"),
        (dump({"kind": "Status", "details": {"causes": [5], "retryAfterSeconds": -1}}), "502"),
    ],
)
def test_other_answers_are_told_in_one_line(body: bytes, words: str) -> None:
    failure = read_status(body, 502)
    assert str(failure) == words
    assert failure.retry_after == 0.0


def test_the_answer_s_own_status_counts() -> None:
    assert read_status(dump(GONE), 500).status == 500


def test_nobody_answered() -> None:
    assert str(Failure(0)) == "no answer"
    assert str(Failure(0, message="connection refused")) == "connection refused"


# --- any bytes -------------------------------------------------------------------------------------------

PIECES = [
    *EVENTS,
    dump(GONE),
    b'{"type":"ADDED","object":',
    b'{"metadata":',
    b'"resourceVersion":"1"',
    b"}",
    b"\n",
]
ANY_BYTES = st.one_of(
    st.binary(max_size=200),
    st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)), max_size=8).map(b"".join),
)


@given(ANY_BYTES)
def test_whatever_the_bytes_it_reads_or_says_malformed(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        list(Stream().feed(data))
    with contextlib.suppress(Malformed):
        read_page(data)
    failure = read_status(data, 500)
    assert "\n" not in str(failure)
    assert str(failure).isprintable()
