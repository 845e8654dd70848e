"""
What a client may ask of a collection, and how it is told that it may not.

The rules are those of apimachinery's ValidateListOptions and of the API concepts page on
resource versions; a refusal is a Status object. Knows no history and no sockets.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from tests.apiserver.selectors import BadSelector, Test, selector

TOKEN = "meta.k8s.io/v1"
"""What a continue token says it is."""


class Refused(Exception):
    """Answered with a Status of this code; `extra` goes into its metadata or details."""

    def __init__(self, code: int, reason: str, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.extra = extra

    def status(self) -> dict[str, Any]:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.extra.get("metadata", {}),
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            **({"details": self.extra["details"]} if "details" in self.extra else {}),
            "code": self.code,
        }


def bad_request(message: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, "BadRequest", message)


def invalid(message: str) -> Refused:
    return Refused(
        HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {message}'
    )


def gone(message: str, **extra: Any) -> Refused:
    return Refused(HTTPStatus.GONE, "Expired", message, **extra)


def too_large(asked: int, current: int) -> Refused:
    """The cache is asked for a time that has not come: the client is to try again."""
    return Refused(
        HTTPStatus.GATEWAY_TIMEOUT,
        "Timeout",
        f"Timeout: Too large resource version: {asked}, current: {current}",
        details={
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        },
    )


class Query(NamedTuple):
    """The parameters of a LIST or WATCH. `rv` None: not given; `limit` 0: none."""

    watch: bool
    wanted: Test
    selects: bool
    rv: int | None
    match: str
    limit: int
    token: str
    bookmarks: bool
    initial: bool | None
    timeout: float | None


def read(resource: str, given: Mapping[str, str], *, watchlist: bool) -> Query:
    """Raises Refused. `watchlist`: whether this server knows sendInitialEvents."""
    labels, fields = given.get("labelSelector", ""), given.get("fieldSelector", "")
    try:
        wanted = selector(resource, labels, fields)
    except BadSelector as bad:
        raise bad_request(str(bad)) from None
    initial = given.get("sendInitialEvents")
    timeout = _number(given, "timeoutSeconds")
    query = Query(
        watch=_flag(given.get("watch", "")),
        wanted=wanted,
        selects=bool(labels or fields),
        rv=_number(given, "resourceVersion"),
        match=given.get("resourceVersionMatch", ""),
        limit=_number(given, "limit") or 0,
        token=given.get("continue", ""),
        bookmarks=_flag(given.get("allowWatchBookmarks", "")),
        initial=None if initial is None else _flag(initial),
        timeout=timeout or None,
    )
    if query.match not in ("", "Exact", "NotOlderThan"):
        raise invalid(f'resourceVersionMatch: Unsupported value: "{query.match}"')
    (_check_watch if query.watch else _check_list)(query, watchlist)
    return query


def _check_watch(query: Query, watchlist: bool) -> None:
    if query.initial is None:
        if query.match:
            raise invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch "
                "unless sendInitialEvents is provided"
            )
    elif not watchlist:
        raise invalid(
            "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch "
            "unless the WatchList feature gate is enabled"
        )
    elif query.match != "NotOlderThan":
        raise invalid(
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting "
            "resourceVersionMatch to NotOlderThan"
        )


def _check_list(query: Query, _: bool) -> None:
    if query.initial is not None:
        raise invalid("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list")
    if query.token and query.match:
        raise invalid(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided"
        )
    if query.token and query.rv:
        raise bad_request("specifying resource version is not allowed when using continue")
    if query.match and query.rv is None:
        raise invalid(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless "
            "resourceVersion is provided"
        )
    if query.match == "Exact" and query.rv == 0:
        raise invalid(
            'resourceVersionMatch: Forbidden: resourceVersionMatch "exact" is forbidden '
            'for resourceVersion "0"'
        )


def continue_token(rv: int, start: tuple[str, str]) -> str:
    """Where the next page begins, and as of when. A client must not look inside."""
    said = json.dumps({"v": TOKEN, "rv": rv, "start": "/".join(start)})
    return base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")


def read_token(token: str) -> tuple[int, tuple[str, str]]:
    """`rv` -1: as of whenever. Raises Refused."""
    try:
        said = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, _, name = said["start"].partition("/")
        if said["v"] != TOKEN:
            raise ValueError("not understood")
        return int(said["rv"]), (namespace, name)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise bad_request(f"continue key is not valid: {error}") from None


def _flag(text: str) -> bool:
    # As Go's strconv.ParseBool; a parameter without a value counts as given.
    return text in ("1", "t", "T", "true", "TRUE", "True")


def _number(given: Mapping[str, str], name: str) -> int | None:
    text = given.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise bad_request(f'{name}: Invalid value: "{text}": not a number from 0 up')
    return int(text)
