"""
The API's lists and watches: bytes to what they tell.

A watch is a stream of lines, each a JSON document `{"type": …, "object": …}`, and
arrives cut anywhere; a list is one document, or several pages of it. Of an object
only what tells it apart is read here (its name, its namespace, its resource
version); the rest stays bytes for those who know what it means. No socket is known
here, and nothing is remembered but the line that is not yet whole.

Whatever the bytes: values, or `Malformed`. An object that cannot be told apart is a
value too (`Unreadable`), so that it does not take the others along.

Source: "Kubernetes API Concepts" (efficient detection of changes, retrieving large
results sets in chunks, streaming lists); `metav1.WatchEvent`, `metav1.ListMeta`,
`metav1.Status`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, field

from kubeway.errors import Malformed

LINE_MAX: Final = 64 << 20
"""No object is that large (etcd takes 1.5 MB, 8 where told to): a longer line has no end."""
_TEXT_MAX: Final = 300
_UNDECODABLE: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


class Item(Struct, frozen=True, gc=False):
    """An object as it came. `namespace` is "" for a kind without namespaces."""

    namespace: str
    name: str
    version: str
    raw: Raw


class Told(Struct, frozen=True, gc=False):
    """The object is now like this, or (`gone`) is no more; this was its last version then."""

    item: Item
    gone: bool = False


class Bookmark(Struct, frozen=True, gc=False):
    """All up to this version was told. `initial_end`: and with it all that there was at the start."""

    version: str
    initial_end: bool = False


class Failure(Struct, frozen=True, gc=False):
    """What the server said instead: a `metav1.Status`, as an answer or in a watch.

    `status` is HTTP's number; 0: there was no answer, or the conversation broke.
    `cause` is the reason of the first cause it names. `retry_after` is in seconds,
    0 where it does not say.
    """

    status: int
    reason: str = ""
    message: str = ""
    retry_after: float = 0.0
    cause: str = ""

    def __str__(self) -> str:
        said = " ".join(filter(None, (str(self.status) if self.status else "", self.reason)))
        return ": ".join(filter(None, (said, self.message))) or "no answer"


class Unreadable(Struct, frozen=True, gc=False):
    """One object or event that cannot be told from others; the rest can."""

    problem: str


Event = Told | Bookmark | Failure | Unreadable


class Page(Struct, frozen=True):
    """A list or a part of it. `token` asks for the next part, "" if this is the last.

    `remaining`: how many items there are beyond this page, 0 where the server does not say.
    """

    items: list[Item]
    unreadable: list[Unreadable]
    version: str
    token: str = ""
    remaining: int = 0


# --- shapes ----------------------------------------------------------------------------------------------


class _Shape(Struct, rename="camel", gc=False):
    pass


class _Line(_Shape):
    type: str
    object: Raw


class _Meta(_Shape):
    name: str | None = None
    namespace: str | None = None
    resource_version: str | None = None


class _Object(_Shape):
    metadata: _Meta | None = None


class _Marks(_Shape):
    initial_end: str | None = field(name="k8s.io/initial-events-end", default=None)


class _MarkMeta(_Shape):
    resource_version: str | None = None
    annotations: _Marks | None = None


class _Mark(_Shape):
    metadata: _MarkMeta | None = None


class _ListMeta(_Shape):
    resource_version: str | None = None
    token: str | None = field(name="continue", default=None)
    remaining_item_count: int | None = None


class _List(_Shape):
    metadata: _ListMeta | None = None
    items: list[Raw] | None = None


_LINE: Final = msgspec.json.Decoder(_Line)
_OBJECT: Final = msgspec.json.Decoder(_Object)
_MARK: Final = msgspec.json.Decoder(_Mark)
_LIST: Final = msgspec.json.Decoder(_List)
_ANY: Final = msgspec.json.Decoder()


# --- a watch ---------------------------------------------------------------------------------------------


class Stream:
    """Takes a watch's bytes as they come, and hands out the events that have become whole."""

    def __init__(self, limit: int = LINE_MAX) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events these bytes complete, in order. Malformed, at the one that is none."""
        # The lines are taken apart now and read one by one: who stops early has lost nothing but events.
        return map(read_event, self._lines(data))

    def _lines(self, data: bytes) -> list[bytes]:
        lines = data.split(b"\n")
        tail = lines.pop()
        if lines:
            if self._parts:
                # Parts are joined only once, however many pieces a line came in.
                lines[0] = b"".join((*self._parts, lines[0]))
                self._parts.clear()
            self._held = 0
        if tail:
            self._parts.append(tail)
            self._held += len(tail)
            if self._held > self._limit:
                raise Malformed(f"watch: a line of more than {self._limit} bytes")
        # Some proxies keep a connection alive with empty lines.
        return [line for line in lines if line and not line.isspace()]


def read_event(line: bytes) -> Event:
    """One line of a watch. Malformed if it is none; what is wrong within an object is Unreadable."""
    try:
        event = _LINE.decode(line)
    except _UNDECODABLE as bad:
        raise Malformed(f"watch: {_said(bad)}") from None
    if event.type in ("ADDED", "MODIFIED", "DELETED"):
        item = _item(event.object, event.type)
        return item if isinstance(item, Unreadable) else Told(item, event.type == "DELETED")
    if event.type == "BOOKMARK":
        return _bookmark(event.object)
    if event.type == "ERROR":
        return _failure(event.object, 0)
    return Unreadable(f"watch: an event of type {_printable(event.type)}")


def _item(raw: Raw, what: str) -> Item | Unreadable:
    try:
        meta = _OBJECT.decode(raw).metadata or _Meta()
    except _UNDECODABLE as bad:
        return Unreadable(f"{what}: {_said(bad)}")
    if not meta.name or not meta.resource_version:
        missing = "metadata.resourceVersion" if meta.name else "metadata.name"
        return Unreadable(f"{what}: an object without {missing}")
    return Item(meta.namespace or "", meta.name, meta.resource_version, raw)


def _bookmark(raw: Raw) -> Bookmark | Unreadable:
    try:
        meta = _MARK.decode(raw).metadata or _MarkMeta()
    except _UNDECODABLE as bad:
        return Unreadable(f"BOOKMARK: {_said(bad)}")
    if not meta.resource_version:
        return Unreadable("BOOKMARK: no metadata.resourceVersion")
    marks = meta.annotations or _Marks()
    return Bookmark(meta.resource_version, marks.initial_end == "true")


# --- a list ----------------------------------------------------------------------------------------------


def read_page(body: bytes) -> Page:
    """A list's body. Malformed if it is none.

    A list always has a resource version. A document without one is something else,
    and must not be taken for a list without items.
    """
    try:
        found = _LIST.decode(body)
    except _UNDECODABLE as bad:
        raise Malformed(f"list: {_said(bad)}") from None
    meta = found.metadata or _ListMeta()
    if not meta.resource_version:
        raise Malformed("list: no metadata.resourceVersion")
    items: list[Item] = []
    unreadable: list[Unreadable] = []
    for raw in found.items or ():
        item = _item(raw, "list")
        if isinstance(item, Item):
            items.append(item)
        else:
            unreadable.append(item)
    return Page(items, unreadable, meta.resource_version, meta.token or "", meta.remaining_item_count or 0)


# --- a failure -------------------------------------------------------------------------------------------


def read_status(body: bytes, status: int, retry_after: float = 0.0) -> Failure:
    """What an answer other than 200 says. Proxies answer in HTML: any text will do.

    `status` is the answer's own; `retry_after` is its header's, 0 if it has none.
    """
    failure = _failure(body, status)
    # The header is the older word and the one middlemen know; the longer wait is the safer one.
    wait = max(retry_after, failure.retry_after)
    return Failure(status, failure.reason, failure.message, wait, failure.cause)


def _failure(body: bytes | Raw, status: int) -> Failure:
    """Read without demands: whatever is not as it should be is passed over."""
    try:
        said = _ANY.decode(body)
    except _UNDECODABLE:
        said = None
    if not isinstance(said, dict) or said.get("kind") != "Status":
        return Failure(status, "", _printable(bytes(memoryview(body))[:_TEXT_MAX].decode("utf-8", "replace")))
    details = said.get("details")
    details = details if isinstance(details, dict) else {}
    causes = details.get("causes")
    cause = causes[0] if isinstance(causes, list) and causes else None
    return Failure(
        status=_number(said.get("code")) or status,
        reason=_text(said.get("reason")),
        message=_text(said.get("message")),
        retry_after=float(_number(details.get("retryAfterSeconds"))),
        cause=_text(cause.get("reason")) if isinstance(cause, dict) else "",
    )


def _number(value: Any) -> int:
    return value if isinstance(value, int) and 0 < value < 1 << 31 else 0


def _text(value: Any) -> str:
    return _printable(value) if isinstance(value, str) else ""


def _printable(text: str) -> str:
    """In one line, and not longer than a line of a log should be."""
    line = " ".join(text.split())[:_TEXT_MAX]
    return line if line.isprintable() else ascii(line)[1:-1]


def _said(bad: Exception) -> str:
    return "nested too deep" if isinstance(bad, RecursionError) else _printable(str(bad))
