"""
Events: what the cluster's people read under `kubectl get events`.

`emit` never waits and never fails: what is to be told goes into a short queue, and
`run` tells it to the API server, with patience while that is away. An event that
happens again and again is told once and counted (`series`); where the queue is
full, or the API server will have none of it, the event is lost and that is recorded.

Reasons, actions and names are kube-proxy's, for whatever watches for them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from urllib.parse import quote, urlsplit

from kubeway.model.forward import ServiceName
from kubeway.records import ApiRequested, EventLost, EventTold, Recorder
from kubeway.shell import clock

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from kubeway.shell.apiserver import Access

Reason = Literal[
    "Starting",
    "FailedToStartProxierHealthcheck",
    "FailedToStartMetricServer",
    "FailedToStartServiceHealthcheck",
]

_CONTROLLER: Final = "kube-proxy"
_MOST: Final = 64
_MOST_REMEMBERED: Final = 1024
_TRIES: Final = 5
_FIRST_PAUSE: Final = 1.0
_SERIES: Final = 60.0
"""Of an event that goes on happening, the count is told once in so many seconds."""
_FORGOTTEN: Final = 3600.0
"""The cluster keeps events for an hour; one that happens after that is another one."""
_TIMEOUT: Final = 10.0
_LONGEST_NOTE: Final = 1024
_LONGEST_INSTANCE: Final = 128


class _Key(NamedTuple):
    reason: str
    kind: str
    namespace: str
    name: str
    note: str

    @property
    def regarding(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class _Series:
    """One event and how often it has happened. `name`: what it is called once the cluster knows it."""

    def __init__(self, key: _Key, type: str, action: str) -> None:
        self.key, self.type, self.action = key, type, action
        self.first = self.last = clock.wall()
        self.count = 0
        self.told = 0
        self.told_at = -inf
        self.name = ""


class Events:
    """`access` is how the API server is reached; `node` is the Node that most events regard."""

    def __init__(
        self,
        access: Access,
        node: str,
        record: Recorder,
        *,
        pause: float = _FIRST_PAUSE,
        series: float = _SERIES,
        monotonic: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._access, self._node, self._record = access, node, record
        self._pause, self._every, self._monotonic = pause, series, monotonic
        self._instance = f"{_CONTROLLER}-{socket.gethostname()}"[:_LONGEST_INSTANCE]
        self._known: dict[_Key, _Series] = {}
        self._queue: dict[_Key, _Series] = {}
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def emit(
        self,
        reason: Reason,
        note: str,
        *,
        type: Literal["Normal", "Warning"] = "Warning",
        action: str = "StartKubeProxy",
        service: ServiceName | None = None,
    ) -> None:
        """This happened to the node, or to the Service if one is given."""
        key = _Key(reason, "Node", "", self._node, note[:_LONGEST_NOTE])
        if service is not None:
            key = _Key(reason, "Service", *service, note[:_LONGEST_NOTE])
        series = self._known.get(key)
        if series is None or clock.wall() - series.last > _FORGOTTEN * 1e9:
            if len(self._queue) >= _MOST:
                self._record(EventLost(reason, key.regarding, f"{_MOST} others are waiting to be told"))
                return
            self._known.pop(key, None)
            series = self._known[key] = _Series(key, type, action)
            self._forget_oldest()
        series.count += 1
        series.last = clock.wall()
        self._queue[key] = series
        self._idle.clear()
        self._news.set()

    async def run(self) -> None:
        """Tell what is emitted, until cancelled."""
        while True:
            due = min((self._due(series) for series in self._queue.values()), default=inf)
            now = self._monotonic()
            if due > now:
                if not any(not series.name for series in self._queue.values()):
                    self._idle.set()
                await self._rest(due - now)
                continue
            series = next(series for series in self._queue.values() if self._due(series) <= now)
            await self._tell(series)

    async def flush(self, seconds: float) -> None:
        """Wait until everything new is told or lost, but not longer."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            pass

    # --- telling ------------------------------------------------------------------------

    def _due(self, series: _Series) -> float:
        return series.told_at + self._every if series.name else -inf

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(None if seconds == inf else seconds):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()

    async def _tell(self, series: _Series) -> None:
        # What happens while this is told is for another time.
        count, pause = series.count, self._pause
        problem = ""
        for attempt in range(_TRIES):
            try:
                status = await self._send(series, count)
            except Exception as error:
                # Whatever is wrong with an event, it must not end the proxy.
                problem, status = str(error) or type(error).__name__, 0
            # 409: an answer was lost, and the cluster knows this event by its name.
            if 200 <= status < 300 or status == 409:
                series.told, series.told_at = count, self._monotonic()
                self._record(EventTold(series.key.reason, series.key.regarding, count))
                if series.count == count:
                    self._queue.pop(series.key, None)
                return
            if status:
                problem = f"the API server answers {status}"
            if series.name and status == 404:
                series.name = ""  # it has expired there: told anew
                continue
            if 400 <= status < 500 and status not in (401, 408, 429):
                break
            if attempt + 1 < _TRIES:
                await asyncio.sleep(pause)
                pause *= 2
        self._queue.pop(series.key, None)
        self._known.pop(series.key, None)
        self._record(EventLost(series.key.reason, series.key.regarding, problem))

    async def _send(self, series: _Series, count: int) -> int:
        """The status of the answer. A refused credential is read anew, and used once."""
        from aiohttp import ClientError, ClientSession, ClientTimeout

        try:
            # Events are rare: a connection of its own for each is cheaper than one kept.
            async with ClientSession(timeout=ClientTimeout(total=_TIMEOUT)) as session:
                status = await self._request(session, series, count)
                if status == 401:
                    await self._access.refresh()
                    status = await self._request(session, series, count)
                return status
        except ClientError as error:
            raise OSError(str(error) or type(error).__name__) from error

    async def _request(self, session: ClientSession, series: _Series, count: int) -> int:
        access = self._access
        # First this: it may read anew what the other fields say.
        credentials = await access.headers()
        namespace = series.key.namespace or "default"
        url = f"{access.server.rstrip('/')}/apis/events.k8s.io/v1/namespaces/{quote(namespace)}/events"
        method, body, content = "POST", self._body(series, namespace, count), "application/json"
        if series.name:
            method, url, content = "PATCH", f"{url}/{quote(series.name)}", "application/merge-patch+json"
            body = {"series": _series(series, count)}
        name = body["metadata"]["name"] if method == "POST" else series.name
        headers = {**credentials, "Content-Type": content, "Accept": "application/json"}
        began, code = self._monotonic(), "<error>"
        try:
            async with session.request(
                method,
                url,
                json=body,
                headers=headers,
                ssl=access.ssl if access.ssl is not None else True,
                server_hostname=access.server_hostname,
                proxy=access.proxy,
                allow_redirects=False,
            ) as answer:
                code = str(answer.status)
                if 200 <= answer.status < 300 or answer.status == 409:
                    series.name = name
                return answer.status
        finally:
            host = urlsplit(access.server).netloc.rpartition("@")[2]
            self._record(ApiRequested(method, host, code, self._monotonic() - began))

    def _body(self, series: _Series, namespace: str, count: int) -> dict[str, Any]:
        key = series.key
        regarding = {"apiVersion": "v1", "kind": key.kind, "name": key.name}
        if key.namespace:
            regarding["namespace"] = key.namespace
        body: dict[str, Any] = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{key.name}.{series.first:x}", "namespace": namespace},
            "eventTime": _micro(series.first),
            "reportingController": _CONTROLLER,
            "reportingInstance": self._instance,
            "action": series.action,
            "reason": key.reason,
            "regarding": regarding,
            "note": key.note,
            "type": series.type,
        }
        if count > 1:
            body["series"] = _series(series, count)
        return body

    def _forget_oldest(self) -> None:
        while len(self._known) > _MOST_REMEMBERED:
            oldest = next(key for key in self._known if key not in self._queue)
            del self._known[oldest]


def _series(series: _Series, count: int) -> dict[str, Any]:
    return {"count": count, "lastObservedTime": _micro(series.last)}


def _micro(nanoseconds: int) -> str:
    """The API's MicroTime, which has six digits, not nine."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"
