"""
A plain client of an API server: asks, and hands out what it is told. For tests only; it has no memory.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

import aiohttp

from tests.apiserver.history import RESOURCES

Event = dict[str, Any]


class Reply(NamedTuple):
    """`body` is a dict where the answer is JSON, text where it is not."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def rv(self) -> int:
        return int(self.body["metadata"]["resourceVersion"])

    @property
    def names(self) -> list[tuple[str, str]]:
        return [key(item) for item in self.body["items"]]


def key(doc: Mapping[str, Any]) -> tuple[str, str]:
    return doc["metadata"].get("namespace", ""), doc["metadata"]["name"]


class Client:
    """Within its `async with`. Parameters of requests are the API's, with `continue_` for continue."""

    def __init__(
        self, url: str, *, tls: ssl.SSLContext | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self._url = url
        self._tls = tls
        self._headers = headers
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Client:
        # `force_close`: a connection for every request, so that a broken one stands for itself.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls or True, force_close=True),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=60),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str, **params: object) -> Reply:
        async with self._session.get(self._url + path, params=_words(params)) as reply:
            text = await reply.text()
            body = json.loads(text) if reply.content_type == "application/json" else text
            return Reply(reply.status, reply.headers, body)

    async def post(self, path: str, doc: object) -> Reply:
        async with self._session.post(self._url + path, json=doc) as reply:
            return Reply(reply.status, reply.headers, await reply.json())

    async def listed(self, plural: str, **params: object) -> Reply:
        return await self.get(f"{RESOURCES[plural].root}/{plural}", **params)

    async def pages(self, plural: str, limit: int, **params: object) -> list[Reply]:
        """A list in pages, to its end."""
        pages = [await self.listed(plural, limit=limit, **params)]
        params.pop("resourceVersion", None)
        while token := pages[-1].body["metadata"].get("continue"):
            pages.append(await self.listed(plural, limit=limit, continue_=token, **params))
        return pages

    async def watch(self, plural: str, **params: object) -> AsyncIterator[Event]:
        """Each event, to the end of the stream. AssertionError if there is none to be had."""
        path = f"{self._url}{RESOURCES[plural].root}/{plural}"
        async with self._session.get(path, params=_words({"watch": True, **params})) as reply:
            assert reply.status == 200, await reply.text()
            async for line in reply.content:
                yield json.loads(line)

    async def watched(
        self, plural: str, until: Callable[[Event], bool] = lambda _: False, **params: object
    ) -> list[Event]:
        """The events up to the one that `until` is for, or to the end."""
        events = []
        stream = self.watch(plural, **params)
        async for event in stream:
            events.append(event)
            if until(event):
                break
        await stream.aclose()  # type: ignore[attr-defined]
        return events


def _words(params: Mapping[str, object]) -> dict[str, str]:
    return {
        name.rstrip("_"): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in params.items()
    }
