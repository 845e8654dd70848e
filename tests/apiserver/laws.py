"""
What a client may rely on, of any API server: each law a few requests that change nothing.

`LAWS` are run against the API server of the tests, and against a real cluster where there
is one; so that what is tested with the former is true of the latter. The laws are told on
https://kubernetes.io/docs/reference/using-api/api-concepts/; where that is vague,
apiserver/pkg/storage/cacher is the source.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from tests.apiserver.client import Client, Event, Reply, key

Law = Callable[[Client, str], Awaitable[None]]

INITIAL: Final[dict[str, object]] = {
    "sendInitialEvents": True,
    "resourceVersionMatch": "NotOlderThan",
    "allowWatchBookmarks": True,
}
END: Final = "k8s.io/initial-events-end"
FAR_AWAY: Final = 1 << 60
PATIENCE: Final = 30
"""Seconds a watch may stay open in vain before a law counts as broken."""


def is_end(event: Event) -> bool:
    """Whether this is the bookmark that ends the initial events."""
    return bool(
        event["type"] == "BOOKMARK" and event["object"]["metadata"].get("annotations", {}).get(END) == "true"
    )


def rv_of(doc: dict[str, Any]) -> int:
    return int(doc["metadata"]["resourceVersion"])


def refusal(reply: Reply, code: int, reason: str) -> None:
    """It is refused, by a Status that says so in words and in numbers."""
    assert reply.status == code, reply
    body = reply.body
    assert (body["kind"], body["status"], body["code"], body["reason"]) == ("Status", "Failure", code, reason)
    assert body["message"]


async def a_list_says_as_of_when(client: Client, plural: str) -> None:
    reply = await client.listed(plural)
    assert reply.status == 200
    assert reply.body["kind"].endswith("List")
    assert reply.rv > 0
    assert all(0 < rv_of(item) <= reply.rv for item in reply.body["items"])
    assert len(set(reply.names)) == len(reply.names)


async def items_do_not_say_their_kind(client: Client, plural: str) -> None:
    reply = await client.listed(plural)
    assert not [item for item in reply.body["items"] if "kind" in item or "apiVersion" in item]


async def pages_are_of_one_time(client: Client, plural: str) -> None:
    first, *rest = pages = await client.pages(plural, 2)
    assert {page.rv for page in rest} <= {first.rv}
    assert all(len(page.names) == 2 for page in pages[:-1])
    whole = await client.listed(plural, resourceVersion=first.rv, resourceVersionMatch="Exact")
    assert [name for page in pages for name in page.names] == whole.names
    assert whole.rv == first.rv


async def the_rest_is_counted_unless_selected(client: Client, plural: str) -> None:
    whole, page = await client.listed(plural), await client.listed(plural, limit=1)
    if len(whole.names) > 1 and whole.rv == page.rv:
        assert page.body["metadata"]["remainingItemCount"] == len(whole.names) - 1
    selected = await client.listed(plural, limit=1, labelSelector="!nobody.example/has-this")
    assert "remainingItemCount" not in selected.body["metadata"]


async def initial_events_are_the_list(client: Client, plural: str) -> None:
    events = await client.watched(plural, is_end, timeoutSeconds=PATIENCE, **INITIAL)
    assert is_end(events[-1]), "the bookmark did not come"
    assert {event["type"] for event in events[:-1]} <= {"ADDED", "MODIFIED", "DELETED"}
    known = {key(event["object"]): rv_of(event["object"]) for event in events[:-1]}
    for event in events[:-1]:
        if event["type"] == "DELETED":
            known.pop(key(event["object"]), None)
    end = rv_of(events[-1]["object"])
    then = await client.listed(plural, resourceVersion=end, resourceVersionMatch="Exact")
    assert known == {key(item): rv_of(item) for item in then.body["items"]}


async def watched_objects_say_their_kind(client: Client, plural: str) -> None:
    events = await client.watched(plural, is_end, timeoutSeconds=PATIENCE, **INITIAL)
    assert all(event["object"].get("kind") and event["object"].get("apiVersion") for event in events)


async def a_watch_without_a_version_begins_with_all(client: Client, plural: str) -> None:
    whole = await client.listed(plural)
    events = await client.watched(plural, timeoutSeconds=1)
    assert {key(event["object"]) for event in events} >= set(whole.names)


async def a_watch_ends_in_its_time(client: Client, plural: str) -> None:
    rv = (await client.listed(plural)).rv
    events = await client.watched(plural, resourceVersion=rv, timeoutSeconds=1)
    assert all(rv_of(event["object"]) > rv for event in events)


async def what_does_not_match_is_not_shown(client: Client, plural: str) -> None:
    none = await client.listed(plural, labelSelector="nobody.example/has-this")
    assert (none.status, none.body["items"]) == (200, [])
    whole = await client.listed(plural)
    for item in whole.body["items"][:1]:
        name = item["metadata"]["name"]
        found = await client.listed(plural, fieldSelector=f"metadata.name={name}")
        assert {each[1] for each in found.names} == {name}


async def later_than_now_is_too_late(client: Client, plural: str) -> None:
    reply = await client.listed(plural, resourceVersion=FAR_AWAY)
    refusal(reply, 504, "Timeout")
    assert "Too large resource version" in reply.body["message"]


async def what_cannot_be_read_is_refused(client: Client, plural: str) -> None:
    for params in (
        {"labelSelector": "a=(b"},
        {"fieldSelector": "spec.nothing=1"},
        {"resourceVersion": "x"},
        {"limit": 1, "continue_": "!"},
    ):
        refusal(await client.listed(plural, **params), 400, "BadRequest")


async def what_does_not_go_together_is_refused(client: Client, plural: str) -> None:
    for params in (
        {"resourceVersionMatch": "Exact"},
        {"resourceVersionMatch": "Exact", "resourceVersion": 0},
        {"resourceVersionMatch": "Sometimes", "resourceVersion": 1},
        {"sendInitialEvents": True},
        {"watch": True, "sendInitialEvents": True, "timeoutSeconds": 1},
        {"watch": True, "resourceVersionMatch": "NotOlderThan", "resourceVersion": 1, "timeoutSeconds": 1},
    ):
        refusal(await client.listed(plural, **params), 422, "Invalid")


LAWS: Final[tuple[Law, ...]] = (
    a_list_says_as_of_when,
    items_do_not_say_their_kind,
    pages_are_of_one_time,
    the_rest_is_counted_unless_selected,
    initial_events_are_the_list,
    watched_objects_say_their_kind,
    a_watch_without_a_version_begins_with_all,
    a_watch_ends_in_its_time,
    what_does_not_match_is_not_shown,
    later_than_now_is_too_late,
    what_cannot_be_read_is_refused,
    what_does_not_go_together_is_refused,
)
