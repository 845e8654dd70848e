"""
An API server for tests, over real sockets: it obeys the laws a client may rely on, and nothing else.

Services, EndpointSlices, this and other Nodes, and ServiceCIDRs are listed and watched;
Events are taken in. What the laws are is tested in `test_server.py`, and the same tests
ask a real cluster where one is at hand (`tests/cluster`). What a client may *not* rely on
happens here all the time: answers come in pieces cut at any byte, history is short, and
with `Faults` requests fail and connections break.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from itertools import pairwise
from math import inf
from types import TracebackType
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web

from tests.apiserver import faults as faulty
from tests.apiserver import query as asked
from tests.apiserver.faults import Faults, On
from tests.apiserver.history import RESOURCES, Change, Doc, Expired, History, Resource, Version
from tests.apiserver.query import Query, Refused
from tests.apiserver.tls import Tls

END_OF_INITIAL: Final = "k8s.io/initial-events-end"
_PIECES: Final = 4
_ERRORS: Final = {
    "unauthorized": Refused(HTTPStatus.UNAUTHORIZED, "Unauthorized", "Unauthorized"),
    "forbidden": Refused(HTTPStatus.FORBIDDEN, "Forbidden", "forbidden: not allowed for now"),
    "broken": Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", "Internal error occurred"),
    "unavailable": Refused(
        HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable", "apiserver is shutting down"
    ),
}


class Asked(NamedTuple):
    """A request that was made, and the fault it met ("": none)."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    fault: str


class ApiServer:
    """
    Serves within its `async with`.

    `tokens` are the bearer tokens that are let in; () lets everybody in. A client certificate of
    `tls` is let in too. `watchlist` False is a server that refuses sendInitialEvents; `cached`
    False one that pages even lists of resourceVersion 0. `gone` is how a watch learns that it
    is too old: by an ERROR "event" or by the HTTP "status". `window` changes of each resource
    are remembered. `absent` are resources this server does not have.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        faults: Faults | None = None,
        tls: Tls | None = None,
        tokens: Collection[str] = (),
        watchlist: bool = True,
        cached: bool = True,
        gone: str = "event",
        window: int = 1000,
        bookmark_every: float = 60.0,
        absent: Collection[str] = (),
    ) -> None:
        self.faults = faults or faulty.none()
        self.tls = tls
        self.tokens = set(tokens)
        self.watchlist = watchlist
        self.cached = cached
        self.gone = gone
        self.absent = set(absent)
        self.requests: list[Asked] = []
        self.events: list[Doc] = []
        self._host, self._port = host, port
        self._bookmark_every = bookmark_every
        self._bookmarks = 0
        self._history = History(window, self._tell)
        self._watchers: set[asyncio.Event] = set()
        self._runner: web.AppRunner
        self._site: web.TCPSite | None = None

    # --- the cluster --------------------------------------------------------------------

    def put(self, doc: Mapping[str, Any]) -> Doc:
        """Create or replace; the object as it is now, with its resource version."""
        return self._history.put(doc)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """KeyError if it is not there. `namespace` "" for a kind without."""
        self._history.delete(kind, namespace, name)

    def state(self) -> dict[tuple[str, str, str], Doc]:
        """All there is, by kind, namespace and name."""
        return {(version.doc["kind"], *version.key): version.doc for version in self._history.all()}

    @property
    def rv(self) -> int:
        """The resource version of the latest change."""
        return self._history.rv

    def compact(self) -> None:
        """Forget history: whoever has not heard all of it has to list anew."""
        self._history.compact()

    def bookmark(self) -> None:
        """Send every watcher who wants bookmarks one now."""
        self._bookmarks += 1
        self._tell()

    @property
    def watchers(self) -> int:
        """How many watches are open."""
        return len(self._watchers)

    # --- the server ---------------------------------------------------------------------

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self.tls else 'http'}://{host}:{self._port}"

    def kubeconfig(self, *, certificate: bool = False) -> Doc:
        """How to reach it: with one of the tokens, or with the client's certificate."""
        user: Doc = {"token": min(self.tokens)} if self.tokens else {}
        if certificate:
            assert self.tls is not None
            user = {"client-certificate": str(self.tls.client_cert), "client-key": str(self.tls.client_key)}
        return kubeconfig(self.url, user, str(self.tls.ca) if self.tls else "")

    def rotate(self, *tokens: str) -> None:
        """From now on only these are let in; open watches go on."""
        self.tokens = set(tokens)

    async def pause(self) -> None:
        """Be away: every connection breaks, and new ones are refused."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
        self.hang_up()

    async def resume(self) -> None:
        """Be back, at the same address."""
        await self._listen()

    def hang_up(self) -> None:
        """Break every connection, once."""
        assert self._runner.server is not None
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def __aenter__(self) -> ApiServer:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        # A handler whose client has left is of no more use.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)
        await self._runner.setup()
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.pause()
        await self._runner.cleanup()

    async def _listen(self) -> None:
        context: ssl.SSLContext | None = self.tls.server_context() if self.tls else None
        self._site = web.TCPSite(
            self._runner, self._host, self._port, ssl_context=context, reuse_address=True
        )
        await self._site.start()
        self._port = self._runner.addresses[0][1]

    def _tell(self) -> None:
        for news in self._watchers:
            news.set()

    # --- a request ----------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        on, also = self._occasion(request)
        fault = self.faults.next(on, request.path, also)
        self.requests.append(
            Asked(request.method, request.path, dict(request.query), dict(request.headers), fault)
        )
        if fault in ("silent", "slow"):
            await asyncio.sleep(self.faults.silence)
        if fault in ("silent", "reset"):
            return await _abort(request)
        if fault == "garbled":
            return web.Response(
                status=502, text="<html><body>Bad Gateway</body></html>", content_type="text/html"
            )
        if fault == "throttled":
            # As the flow control answers: no Status object, but a header.
            return web.Response(
                status=429,
                text="Too many requests, please try again later.\n",
                headers={"Retry-After": "1"},
            )
        try:
            if fault in _ERRORS:
                raise _ERRORS[fault]
            self._authenticate(request)
            return await self._route(request, fault)
        except Refused as refused:
            return web.json_response(refused.status(), status=refused.code)

    def _occasion(self, request: web.Request) -> tuple[On, tuple[str, ...]]:
        """What may go wrong with this request, and what besides if a test plans it."""
        params = request.query
        if request.method != "GET" or request.path.rpartition("/")[2] not in RESOURCES:
            return On.OTHER, ()
        if params.get("watch", "") in ("", "0", "false"):
            fresh = params.get("resourceVersion") == "0"
            return (On.PAGE if params.get("continue") else On.LIST), ("stale",) if fresh else ()
        old = params.get("resourceVersion", "0") not in ("", "0") and "sendInitialEvents" not in params
        return (On.WATCH if old else On.FRESH_WATCH), ()

    def _authenticate(self, request: web.Request) -> None:
        assert request.transport is not None
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        known = scheme == "Bearer" and token in self.tokens
        if self.tokens and not known and not request.transport.get_extra_info("peercert"):
            raise _ERRORS["unauthorized"]

    async def _route(self, request: web.Request, fault: str) -> web.StreamResponse:
        if request.path in ("/readyz", "/livez", "/healthz"):
            return web.Response(text="ok")
        if request.path == "/version":
            return web.json_response({"major": "1", "minor": "36", "gitVersion": "v1.36.0"})
        if request.path.startswith("/apis/events.k8s.io/v1/namespaces/"):
            return await self._take_event(request)
        for resource in RESOURCES.values():
            if resource.plural not in self.absent and request.path.startswith(f"{resource.root}/"):
                place = _place(resource, request.path.removeprefix(f"{resource.root}/").split("/"))
                if place is None:
                    continue
                if request.method != "GET":
                    raise Refused(405, "MethodNotAllowed", "this server's objects are changed by its owner")
                return await self._read(request, resource, place, fault)
        return web.Response(status=404, text="404 page not found\n")

    async def _read(
        self, request: web.Request, resource: Resource, place: tuple[str, str], fault: str
    ) -> web.StreamResponse:
        namespace, name = place
        if name:
            version = self._history.get(resource.plural, (namespace, name))
            if version is None:
                raise Refused(404, "NotFound", f'{resource.plural} "{name}" not found')
            return web.Response(body=version.json(typed=True), content_type="application/json")
        query = asked.read(resource.plural, request.query, watchlist=self.watchlist)
        if namespace:
            query = query._replace(wanted=_within(namespace, query), selects=True)
        if query.watch:
            return await self._watch(request, resource, query, fault)
        return await self._list(request, resource, query, fault)

    async def _take_event(self, request: web.Request) -> web.Response:
        try:
            doc = msgspec.json.decode(await request.read(), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise asked.bad_request(f"the object provided is unrecognized: {error}") from None
        if request.method == "POST":
            for name in ("eventTime", "reportingController", "action", "reason"):
                if not doc.get(name):
                    raise Refused(422, "Invalid", f"Event.events.k8s.io is invalid: {name}: Required value")
        self.events.append(doc)
        return web.json_response(doc, status=201 if request.method == "POST" else 200)

    # --- list ---------------------------------------------------------------------------

    async def _list(
        self, request: web.Request, resource: Resource, query: Query, fault: str
    ) -> web.StreamResponse:
        if fault == "gone":
            raise _expired_page(("", ""))
        rv, start = self._as_of(resource, query, stale=fault == "stale")
        try:
            versions = self._history.at(resource.plural, rv)
        except Expired as expired:
            if query.token:
                raise _expired_page(start) from None
            raise asked.gone(f"The resourceVersion for the provided list is too old. ({expired})") from None
        found = [v for v in versions if v.key >= start and query.wanted(v.doc)]
        # The watch cache has all in memory, and answers with all of it.
        limit = 0 if query.rv == 0 and self.cached and not query.token else query.limit
        page, rest = (found[:limit], found[limit:]) if limit else (found, [])
        meta: Doc = {"resourceVersion": str(rv)}
        if rest:
            meta["continue"] = asked.continue_token(rv, rest[0].key)
            if not query.selects:
                meta["remainingItemCount"] = len(rest)
        return await self._send_list(request, resource, meta, page, fault)

    def _as_of(self, resource: Resource, query: Query, *, stale: bool) -> tuple[int, tuple[str, str]]:
        """The resource version a list is to show, and the first key of its page."""
        now = self._history.rv
        if query.token:
            rv, start = asked.read_token(query.token)
            return (now if rv < 0 else rv), start
        if query.rv is not None and query.rv > now:
            raise asked.too_large(query.rv, now)
        exact = query.match == "Exact" or (query.match == "" and query.limit and query.rv)
        if exact and query.rv:
            return query.rv, ("", "")
        return (self._history.oldest(resource.plural) if stale else now), ("", "")

    async def _send_list(
        self, request: web.Request, resource: Resource, meta: Doc, page: list[Version], fault: str
    ) -> web.StreamResponse:
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": meta}
        items = b",".join(version.json(typed=False) for version in page)
        body = msgspec.json.encode(head)[:-1] + b',"items":[' + items + b"]}\n"
        stream = await self._open(request)
        if fault == "cut":
            return await self._cut(request, stream, body)
        await self._send(stream, body)
        await stream.write_eof()
        return stream

    # --- watch --------------------------------------------------------------------------

    async def _watch(
        self, request: web.Request, resource: Resource, query: Query, fault: str
    ) -> web.StreamResponse:
        if fault == "gone":
            return await self._too_old(request, Expired(query.rv or 0, self._history.rv))
        now = self._history.rv
        if query.initial and query.rv and query.rv > now:
            raise asked.too_large(query.rv, now)
        since, initial = now, b""
        if query.initial or (query.initial is None and not query.rv):
            initial = self._initial(resource, query)
        elif query.rv:
            since = query.rv
            try:
                self._history.since(resource.plural, since)
            except Expired as expired:
                return await self._too_old(request, expired)
        stream = await self._open(request)
        with self._watcher() as news:
            async for events in self._batches(resource, query, since, initial, news):
                fault = self.faults.next(On.EVENTS, request.path)
                if fault == "hush":
                    await asyncio.sleep(self.faults.silence)
                    return await _abort(request)
                if fault == "cut":
                    return await self._cut(request, stream, events)
                if fault == "end":
                    break
                await self._send(stream, events)
        await stream.write_eof()
        return stream

    async def _batches(
        self, resource: Resource, query: Query, since: int, initial: bytes, news: asyncio.Event
    ) -> AsyncIterator[bytes]:
        """What to send, as it comes, until the watch's time is over or it has fallen behind."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + query.timeout if query.timeout else inf
        next_bookmark = loop.time() + self._bookmark_every
        told = self._bookmarks
        if initial:
            yield initial
        while True:
            news.clear()
            try:
                changes = self._history.since(resource.plural, since)
            except Expired:
                return  # too slow: the server lets go of such watchers without a word
            since = max(since, self._history.rv)
            if events := b"".join(_event(change, query) for change in changes):
                yield events
                continue  # more may have come meanwhile
            over = loop.time() >= ends
            if query.bookmarks and (over or told != self._bookmarks or loop.time() >= next_bookmark):
                told, next_bookmark = self._bookmarks, loop.time() + self._bookmark_every
                yield _bookmark(resource, since)
            elif not over:
                await _until(news, min(ends, next_bookmark if query.bookmarks else inf))
            if over:
                return

    def _initial(self, resource: Resource, query: Query) -> bytes:
        now = self._history.rv
        events = [
            _line("ADDED", version.json(typed=True))
            for version in self._history.at(resource.plural, now)
            if query.wanted(version.doc)
        ]
        if query.initial and query.bookmarks:
            events.append(_bookmark(resource, now, {END_OF_INITIAL: "true"}))
        return b"".join(events)

    @contextmanager
    def _watcher(self) -> Iterator[asyncio.Event]:
        news = asyncio.Event()
        self._watchers.add(news)
        try:
            yield news
        finally:
            self._watchers.discard(news)

    async def _too_old(self, request: web.Request, expired: Expired) -> web.StreamResponse:
        refused = asked.gone(str(expired))
        if self.gone == "status":
            raise refused
        stream = await self._open(request)
        await self._send(stream, _line("ERROR", msgspec.json.encode(refused.status())))
        await stream.write_eof()
        return stream

    # --- bytes --------------------------------------------------------------------------

    async def _open(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache"})
        stream.enable_chunked_encoding()
        await stream.prepare(request)
        return stream

    async def _send(self, stream: web.StreamResponse, data: bytes) -> None:
        """In pieces, cut anywhere: a client must not take a chunk for an event."""
        rng = self.faults.rng
        cuts = sorted({rng.randrange(len(data) + 1) for _ in range(rng.randrange(_PIECES))} | {0, len(data)})
        for begin, end in pairwise(cuts):
            await stream.write(data[begin:end])
            await asyncio.sleep(0)

    async def _cut(self, request: web.Request, stream: web.StreamResponse, data: bytes) -> web.StreamResponse:
        if part := data[: self.faults.rng.randrange(len(data))]:
            await self._send(stream, part)
        return await _abort(request)


def kubeconfig(url: str, user: Mapping[str, str], ca: str = "") -> Doc:
    """A kubeconfig of one context."""
    cluster = {"server": url, **({"certificate-authority": ca} if ca else {})}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "kube-proxy", "user": dict(user)}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "kube-proxy"}}],
        "current-context": "test",
    }


def _place(resource: Resource, path: list[str]) -> tuple[str, str] | None:
    """The namespace and the name a path is about, "" for all of them; None if it is another resource's."""
    match path:
        case [plural] if plural == resource.plural:
            return "", ""
        case [plural, name] if plural == resource.plural and not resource.namespaced:
            return "", name
        case ["namespaces", namespace, plural] if plural == resource.plural and resource.namespaced:
            return namespace, ""
        case ["namespaces", namespace, plural, name] if plural == resource.plural and resource.namespaced:
            return namespace, name
    return None


def _within(namespace: str, query: Query) -> Callable[[Mapping[str, Any]], bool]:
    return lambda doc: doc["metadata"]["namespace"] == namespace and query.wanted(doc)


def _expired_page(start: tuple[str, str]) -> Refused:
    return asked.gone(
        "The provided continue parameter is too old to display a consistent list result. You can start "
        "a new list without the continue parameter, or use the continue token in this response to retrieve "
        "the remainder of the results.",
        metadata={"continue": asked.continue_token(-1, start)},
    )


def _event(change: Change, query: Query) -> bytes:
    """The change as a watcher with these selectors sees it; b"" if it does not."""
    was = change.old is not None and query.wanted(change.old.doc)
    if change.new is not None and query.wanted(change.new.doc):
        return _line("MODIFIED" if was else "ADDED", change.new.json(typed=True))
    if not was:
        return b""
    assert change.old is not None
    # The last state that was seen, at the time it ceased to be.
    doc = change.old.doc
    meta = {**doc["metadata"], "resourceVersion": str(change.rv)}
    return _line("DELETED", msgspec.json.encode({**doc, "metadata": meta}))


def _bookmark(resource: Resource, rv: int, annotations: Mapping[str, str] | None = None) -> bytes:
    meta: Doc = {"resourceVersion": str(rv), "creationTimestamp": None}
    if annotations:
        meta["annotations"] = annotations
    doc = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}
    return _line("BOOKMARK", msgspec.json.encode(doc))


def _line(kind: str, obj: bytes) -> bytes:
    return b'{"type":"' + kind.encode() + b'","object":' + obj + b"}\n"


async def _abort(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _until(event: asyncio.Event, when: float) -> None:
    """The event, or that time of the loop's."""
    try:
        async with asyncio.timeout_at(None if when == inf else when):
            await event.wait()
    except TimeoutError:
        pass
