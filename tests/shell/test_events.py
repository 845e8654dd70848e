"""Events, told to a server on loopback: what is sent, counted, tried again and given up."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.test_utils import unused_port

from kubeway.model.forward import ServiceName
from kubeway.records import ApiRequested, EventLost, EventTold, Record
from kubeway.shell.events import Events

CART = ServiceName("shop", "cart")


class Access:
    """An API server by its address; the first token may be an old one."""

    def __init__(self, server: str, broken: Exception | None = None) -> None:
        self.server = server
        self.ssl: ssl.SSLContext | None = None
        self.server_hostname: str | None = None
        self.proxy: str | None = None
        self.token = "old"
        self.broken = broken

    async def headers(self) -> dict[str, str]:
        if self.broken:
            raise self.broken
        return {"Authorization": f"Bearer {self.token}"}

    async def refresh(self) -> None:
        self.token = "new"


class Bench:
    """A server that answers with `statuses` in turn, then with 201; and the Events that tell it."""

    def __init__(self, *statuses: int, token: str = "", broken: Exception | None = None) -> None:
        self.statuses = list(statuses)
        self.token = token
        self.broken = broken
        self.heard: list[tuple[str, str, dict[str, Any]]] = []
        self.records: list[Record] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = unused_port()
        self.events = self.made(f"http://127.0.0.1:{self.port}")

    def made(self, server: str) -> Events:
        access = Access(server, self.broken)
        return Events(access, "node1", self.records.append, pause=0.001, series=0.05)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        await self.gate.wait()
        body = await request.text()
        self.heard.append((request.method, request.path, {**json.loads(body)}))
        if self.token and request.headers["Authorization"] != f"Bearer {self.token}":
            return web.Response(status=401)
        wanted = "application/merge-patch+json" if request.method == "PATCH" else "application/json"
        assert request.headers["Content-Type"] == wanted
        return web.Response(status=self.statuses.pop(0) if self.statuses else 201)

    def run(self, story: Callable[[Events], Awaitable[None]], *, serve: bool = True) -> None:
        async def run() -> None:
            runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
            await runner.setup()
            if serve:
                await web.TCPSite(runner, "127.0.0.1", self.port).start()
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                task = group.create_task(self.events.run())
                await story(self.events)
                task.cancel()
            await runner.cleanup()

        asyncio.run(run())

    def told(self) -> list[EventTold]:
        return [record for record in self.records if isinstance(record, EventTold)]

    def lost(self) -> list[EventLost]:
        return [record for record in self.records if isinstance(record, EventLost)]


async def start(events: Events) -> None:
    events.emit("Starting", "", type="Normal")
    await events.flush(30)


async def until(reached: Callable[[], bool]) -> None:
    while not reached():  # noqa: ASYNC110 (records tell no event)
        await asyncio.sleep(0.005)


def test_an_event_of_the_node() -> None:
    bench = Bench()
    bench.run(start)
    [(method, path, body)] = bench.heard
    assert (method, path) == ("POST", "/apis/events.k8s.io/v1/namespaces/default/events")
    assert re.fullmatch(r"node1\.[0-9a-f]+", body["metadata"].pop("name"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", body.pop("eventTime"))
    assert body == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": "default"},
        "reportingController": "kube-proxy",
        "reportingInstance": f"kube-proxy-{socket.gethostname()}",
        "action": "StartKubeProxy",
        "reason": "Starting",
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": "node1"},
        "note": "",
        "type": "Normal",
    }
    requested = bench.records[0]
    assert isinstance(requested, ApiRequested)
    assert (requested.method, requested.host, requested.code) == ("POST", f"127.0.0.1:{bench.port}", "201")
    assert bench.told() == [EventTold("Starting", "Node node1")]


def test_an_event_of_a_service() -> None:
    bench = Bench()

    async def story(events: Events) -> None:
        events.emit("FailedToStartServiceHealthcheck", "port taken", action="Listen", service=CART)
        await events.flush(30)

    bench.run(story)
    [(_, path, body)] = bench.heard
    assert path == "/apis/events.k8s.io/v1/namespaces/shop/events"
    assert body["metadata"]["namespace"] == "shop"
    assert body["regarding"] == {"apiVersion": "v1", "kind": "Service", "name": "cart", "namespace": "shop"}
    assert (body["type"], body["action"], body["note"]) == ("Warning", "Listen", "port taken")


def test_an_event_that_happens_again_is_counted() -> None:
    bench = Bench()

    async def story(events: Events) -> None:
        await start(events)
        for _ in range(5):
            events.emit("Starting", "", type="Normal")
        await until(lambda: len(bench.told()) == 2)
        events.emit("Starting", "another", type="Normal")
        await events.flush(30)

    bench.run(story)
    first, again, another = bench.heard
    assert again[0] == "PATCH"
    assert again[1] == f"{first[1]}/{first[2]['metadata']['name']}"
    assert again[2]["series"]["count"] == 6
    assert set(again[2]) == {"series"}
    assert (another[0], another[2]["note"]) == ("POST", "another")
    assert bench.told()[1].count == 6


def test_what_repeats_before_it_is_told_is_told_once() -> None:
    bench = Bench()

    async def story(events: Events) -> None:
        for _ in range(3):
            events.emit("Starting", "", type="Normal")
        await events.flush(30)

    bench.run(story)
    [(method, _, body)] = bench.heard
    assert (method, body["series"]["count"]) == ("POST", 3)


def test_an_event_that_expired_there_is_told_anew() -> None:
    bench = Bench(201, 404)

    async def story(events: Events) -> None:
        await start(events)
        events.emit("Starting", "", type="Normal")
        await until(lambda: len(bench.told()) == 2)

    bench.run(story)
    assert [method for method, _, _ in bench.heard] == ["POST", "PATCH", "POST"]


def test_it_is_tried_again() -> None:
    bench = Bench(503, 429, 500)
    bench.run(start)
    assert len(bench.heard) == 4
    assert bench.told()
    assert not bench.lost()


def test_an_answer_that_was_lost() -> None:
    bench = Bench(500, 409)
    bench.run(start)
    assert bench.told(), "the first attempt had arrived after all"


def test_it_is_given_up() -> None:
    bench = Bench(*[503] * 20)
    bench.run(start)
    assert bench.lost() == [EventLost("Starting", "Node node1", "the API server answers 503")]
    assert len(bench.heard) == 5


def test_what_is_refused_is_not_tried_again() -> None:
    bench = Bench(403)
    bench.run(start)
    assert bench.lost() == [EventLost("Starting", "Node node1", "the API server answers 403")]
    assert len(bench.heard) == 1


def test_an_old_token_is_read_anew() -> None:
    bench = Bench(token="new")
    bench.run(start)
    assert len(bench.heard) == 2
    assert bench.told()


def test_an_api_server_that_is_away() -> None:
    bench = Bench()
    bench.run(start, serve=False)
    [lost] = bench.lost()
    assert "127.0.0.1" in lost.problem
    assert [r.code for r in bench.records if isinstance(r, ApiRequested)] == ["<error>"] * 5


def test_credentials_that_cannot_be_had_do_no_harm() -> None:
    bench = Bench(broken=ValueError("no such plugin"))
    bench.run(start)
    assert bench.lost() == [EventLost("Starting", "Node node1", "no such plugin")]


def test_the_queue_is_short_and_emitting_never_waits() -> None:
    bench = Bench()

    async def story(events: Events) -> None:
        bench.gate.clear()
        for number in range(70):
            events.emit("Starting", f"{number}")
        assert len(bench.lost()) == 6
        bench.gate.set()
        await events.flush(30)

    bench.run(story)
    assert len(bench.told()) == 64
    assert bench.lost()[0].problem == "64 others are waiting to be told"


def test_a_flush_does_not_wait_for_ever() -> None:
    bench = Bench()

    async def story(events: Events) -> None:
        bench.gate.clear()
        events.emit("Starting", "")
        await events.flush(0.02)
        assert not bench.told()
        bench.gate.set()

    bench.run(story)
