"""The API server of the tests obeys the laws, and breaks what a client may not rely on only when told to."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import aiohttp
import pytest

from tests.apiserver.client import Client, Event, key
from tests.apiserver.faults import ANSWERS, Faults
from tests.apiserver.history import RESOURCES
from tests.apiserver.laws import END, INITIAL, LAWS, Law, is_end, refusal, rv_of
from tests.apiserver.server import ApiServer
from tests.apiserver.tls import Tls

HEADLESS = "spec.clusterIP!=None"
FOREIGN = "!service.kubernetes.io/service-proxy-name"


def service(name: str, ip: str = "10.96.0.10", **labels: str) -> dict[str, Any]:
    meta = {"namespace": "shop", "name": name, **({"labels": labels} if labels else {})}
    return {"kind": "Service", "metadata": meta, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}}


def piece(name: str, **labels: str) -> dict[str, Any]:
    meta = {"namespace": "shop", "name": name, "labels": labels}
    return {"kind": "EndpointSlice", "metadata": meta, "addressType": "IPv4", "endpoints": [], "ports": []}


def fill(api: ApiServer) -> None:
    for n in range(5):
        api.put(service(f"s{n}"))
        api.put(piece(f"s{n}-1", **{"kubernetes.io/service-name": f"s{n}"}))
        api.put({"kind": "Node", "metadata": {"name": f"node{n}"}})
    api.put({"kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}})


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[ApiServer, Client]]:
    async with ApiServer(**settings) as api, Client(api.url) as client:
        yield api, client


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not reached():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.001)


class Watching:
    """A watch in the background, and what it was told so far."""

    def __init__(self, client: Client, plural: str, **params: object) -> None:
        self.events: list[Event] = []
        self.ended: BaseException | str = ""
        self._task = asyncio.get_running_loop().create_task(self._run(client, plural, params))

    async def _run(self, client: Client, plural: str, params: dict[str, object]) -> None:
        try:
            async for event in client.watch(plural, **params):
                self.events.append(event)
            self.ended = "in order"
        except (aiohttp.ClientError, json.JSONDecodeError) as error:
            self.ended = error

    async def told(self, count: int) -> list[tuple[str, str]]:
        """The next `count` events: type, and name or resource version."""
        await until(lambda: len(self.events) >= count)
        taken, self.events = self.events[:count], self.events[count:]
        return [
            (e["type"], e["object"]["metadata"].get("name") or e["object"]["metadata"]["resourceVersion"])
            for e in taken
        ]

    async def end(self) -> None:
        await until(lambda: bool(self.ended))

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


# --- laws that hold everywhere ------------------------------------------------------


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law: Law) -> None:
    async def story() -> None:
        async with serving() as (api, client):
            fill(api)
            await asyncio.gather(*(law(client, plural) for plural in RESOURCES))

    run(story)


# --- objects and versions -----------------------------------------------------------


def test_every_change_has_a_greater_version() -> None:
    async def story() -> None:
        async with serving() as (api, client):
            made = [rv_of(api.put(service("a"))), rv_of(api.put({"kind": "Node", "metadata": {"name": "n"}}))]
            made.append(rv_of(api.put(service("a", "10.96.0.11"))))
            api.delete("Service", "shop", "a")
            assert made == sorted(set(made))
            assert api.rv > made[-1]
            assert (await client.listed("services")).rv == api.rv
            assert api.state().keys() == {("Node", "", "n")}

    run(story)


def test_what_changes_nothing_is_no_change() -> None:
    async def story() -> None:
        async with serving() as (api, _):
            first = api.put(service("a"))
            assert api.put(service("a")) == first
            assert api.rv == rv_of(first)
            second = api.put(service("a", "10.96.0.11"))
            assert second["metadata"]["uid"] == first["metadata"]["uid"]
            api.delete("Service", "shop", "a")
            assert api.put(service("a"))["metadata"]["uid"] != first["metadata"]["uid"]

    run(story)


def test_one_object() -> None:
    async def story() -> None:
        async with serving() as (api, client):
            fill(api)
            reply = await client.get("/api/v1/nodes/node1")
            assert (reply.body["kind"], key(reply.body)) == ("Node", ("", "node1"))
            refusal(await client.get("/api/v1/namespaces/shop/services/none"), 404, "NotFound")
            assert len((await client.get("/api/v1/namespaces/shop/services")).names) == 5
            assert (await client.get("/api/v1/namespaces/other/services")).names == []

    run(story)


def test_a_resource_it_does_not_have() -> None:
    async def story() -> None:
        async with serving(absent=["servicecidrs"]) as (api, client):
            fill(api)
            assert (await client.listed("servicecidrs")).status == 404
            api.absent.clear()
            assert len((await client.listed("servicecidrs")).names) == 1

    run(story)


def test_events_are_taken_in() -> None:
    async def story() -> None:
        async with serving() as (api, client):
            path = "/apis/events.k8s.io/v1/namespaces/default/events"
            event = {
                "metadata": {"name": "node1.1"},
                "eventTime": "2026-07-01T00:00:00.000000Z",
                "reportingController": "kube-proxy",
                "reason": "Starting",
                "action": "StartKubeProxy",
            }
            assert (await client.post(path, event)).status == 201
            refusal(await client.post(path, {**event, "reason": ""}), 422, "Invalid")
            assert api.events == [event]

    run(story)


# --- selectors ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"fieldSelector": HEADLESS, "labelSelector": FOREIGN}, ["plain", "red"]),
        ({"labelSelector": "service.kubernetes.io/service-proxy-name"}, ["foreign"]),
        ({"labelSelector": "colour=red"}, ["red"]),
        ({"labelSelector": "colour==red,!size"}, ["red"]),
        ({"labelSelector": "colour!=red"}, ["foreign", "headless", "plain"]),
        ({"labelSelector": "colour in (red, blue)"}, ["headless", "red"]),
        ({"labelSelector": "colour notin (red,blue),!service.kubernetes.io/service-proxy-name"}, ["plain"]),
        ({"fieldSelector": "metadata.name=red,metadata.namespace=shop"}, ["red"]),
        ({"fieldSelector": "metadata.name!=red,spec.clusterIP=10.96.0.10"}, ["foreign", "plain"]),
    ],
    ids=str,
)
def test_selectors(params: dict[str, str], names: list[str]) -> None:
    async def story() -> None:
        async with serving() as (api, client):
            api.put(service("plain"))
            api.put(service("red", colour="red"))
            api.put(service("headless", "None", colour="blue"))
            api.put(service("foreign", **{"service.kubernetes.io/service-proxy-name": ""}))
            assert [name for _, name in (await client.listed("services", **params)).names] == names

    run(story)


def test_what_leaves_a_selection_is_deleted_and_what_joins_it_is_added() -> None:
    async def story() -> None:
        async with serving() as (api, client):
            rv = rv_of(api.put(service("a")))
            watch = Watching(client, "services", resourceVersion=rv, fieldSelector=HEADLESS)
            api.put(service("a", "None"))
            assert await watch.told(1) == [("DELETED", "a")]
            api.put(service("a", "None", colour="red"))
            joined = rv_of(api.put(service("a")))
            assert await watch.told(1) == [("ADDED", "a")]
            api.put(service("a", "10.96.0.11"))
            assert await watch.told(1) == [("MODIFIED", "a")]
            api.delete("Service", "shop", "a")
            assert await watch.told(1) == [("DELETED", "a")]
            await watch.leave()
            # The same from a past version: what was, as it was seen then, at the time it left.
            past = client.watched("services", resourceVersion=rv, fieldSelector=HEADLESS, timeoutSeconds=1)
            gone, added, *_ = await past
            assert gone["object"]["spec"]["clusterIP"] == "10.96.0.10"
            assert rv < rv_of(gone["object"]) < joined == rv_of(added["object"])

    run(story)


# --- pages --------------------------------------------------------------------------


def test_pages_do_not_see_what_changes_meanwhile() -> None:
    async def story() -> None:
        async with serving() as (api, client):
            fill(api)
            first = await client.listed("services", limit=2)
            api.delete("Service", "shop", "s3")
            api.put(service("s9"))
            rest = await client.listed("services", limit=9, continue_=first.body["metadata"]["continue"])
            assert [name for _, name in rest.names] == ["s2", "s3", "s4"]
            assert rest.rv == first.rv < api.rv

    run(story)


def test_a_token_expires_and_another_is_offered() -> None:
    async def story() -> None:
        async with serving() as (api, client):
            fill(api)
            token = (await client.listed("services", limit=2)).body["metadata"]["continue"]
            api.put(service("s9"))
            api.compact()
            reply = await client.listed("services", limit=9, continue_=token)
            refusal(reply, 410, "Expired")
            other = reply.body["metadata"]["continue"]
            rest = await client.listed("services", limit=9, continue_=other)
            assert [name for _, name in rest.names] == ["s2", "s3", "s4", "s9"]
            refusal(
                await client.listed("services", continue_=token, resourceVersion=api.rv), 400, "BadRequest"
            )

    run(story)


def test_the_cache_does_not_page() -> None:
    async def story() -> None:
        async with serving() as (api, client):
            fill(api)
            assert len((await client.listed("services", limit=2, resourceVersion=0)).names) == 5
            api.cached = False
            assert len((await client.listed("services", limit=2, resourceVersion=0)).names) == 2

    run(story)


def test_a_list_of_a_past_time() -> None:
    async def story() -> None:
        async with serving(window=3) as (api, client):
            api.put(service("a"))
            rv = rv_of(api.put(service("b")))
            api.delete("Service", "shop", "a")
            api.put(service("b", "10.96.0.12"))
            exact = {"resourceVersion": rv, "resourceVersionMatch": "Exact"}
            then = await client.listed("services", **exact)
            assert [item["metadata"]["name"] for item in then.body["items"]] == ["a", "b"]
            assert then.body["items"][1]["spec"]["clusterIP"] == "10.96.0.10"
            now = await client.listed("services", resourceVersion=rv, resourceVersionMatch="NotOlderThan")
            assert (now.rv, now.names) == (api.rv, [("shop", "b")])
            # With a limit and no match, it means exactly then.
            assert (await client.listed("services", resourceVersion=rv, limit=9)).rv == rv
            for n in range(3):
                api.put(service(f"c{n}"))
            refusal(await client.listed("services", **exact), 410, "Expired")

    run(story)


def test_a_stale_list_is_of_a_time_that_was() -> None:
    async def story() -> None:
        async with serving() as (api, client):
            rv = rv_of(api.put(service("a")))
            api.compact()
            api.put(service("b"))
            api.faults.fail_next("stale")
            assert (await client.listed("services")).names == [("shop", "a"), ("shop", "b")]
            stale = await client.listed("services", resourceVersion=0)
            assert (stale.rv, stale.names) == (rv, [("shop", "a")])

    run(story)


# --- watches ------------------------------------------------------------------------


def test_a_watch_tells_all_that_came_after() -> None:
    async def story() -> None:
        async with serving() as (api, client):
            rv = rv_of(api.put(service("a")))
            api.put(service("b"))
            watch = Watching(client, "services", resourceVersion=rv)
            assert await watch.told(1) == [("ADDED", "b")]
            api.put(service("b", "10.96.0.11"))
            api.put(piece("b-1"))
            api.delete("Service", "shop", "a")
            assert await watch.told(2) == [("MODIFIED", "b"), ("DELETED", "a")]
            await watch.leave()
            await until(lambda: api.watchers == 0)

    run(story)


@pytest.mark.parametrize("gone", ["event", "status"])
def test_a_watch_from_too_long_ago(gone: str) -> None:
    async def story() -> None:
        async with serving(window=2, gone=gone) as (api, client):
            rv = rv_of(api.put(service("a")))
            for n in range(3):
                api.put(service(f"b{n}"))
            if gone == "status":
                reply = await client.listed("services", watch=True, resourceVersion=rv)
                refusal(reply, 410, "Expired")
            else:
                (error,) = await client.watched("services", resourceVersion=rv)
                assert error["type"] == "ERROR"
                assert (error["object"]["code"], error["object"]["reason"]) == (410, "Expired")
            api.delete("Service", "shop", "a")
            recent = await client.watched("services", resourceVersion=api.rv - 1, timeoutSeconds=1)
            assert [event["type"] for event in recent] == ["DELETED"]

    run(story)


def test_a_watcher_that_has_heard_all_survives_compaction() -> None:
    async def story() -> None:
        async with serving() as (api, client):
            fill(api)
            watch = Watching(client, "services", resourceVersion=api.rv)
            await until(lambda: api.watchers == 1)
            api.compact()
            api.put(service("a"))
            assert await watch.told(1) == [("ADDED", "a")]
            # But one that has not is let go of.
            api.put(service("b"))
            api.compact()
            await watch.end()
            assert (watch.ended, watch.events) == ("in order", [])

    run(story)


def test_initial_events_then_changes() -> None:
    async def story() -> None:
        async with serving() as (api, client):
            api.put(service("a"))
            rv = rv_of(api.put(piece("x")))
            watch = Watching(client, "services", **INITIAL)
            assert await watch.told(2) == [("ADDED", "a"), ("BOOKMARK", str(rv))]
            api.put(service("b"))
            assert await watch.told(1) == [("ADDED", "b")]
            await watch.leave()

    run(story)


def test_an_old_server_refuses_initial_events() -> None:
    async def story() -> None:
        async with serving(watchlist=False) as (api, client):
            fill(api)
            reply = await client.listed("services", watch=True, **INITIAL)
            refusal(reply, 422, "Invalid")
            assert "WatchList feature gate" in reply.body["message"]

    run(story)


def test_bookmarks_come_to_those_who_want_them() -> None:
    async def story() -> None:
        async with serving() as (api, client):
            fill(api)
            wants = Watching(client, "services", resourceVersion=api.rv, allowWatchBookmarks=True)
            not_so = Watching(client, "services", resourceVersion=api.rv)
            await until(lambda: api.watchers == 2)
            rv = rv_of(api.put(piece("x")))
            api.bookmark()
            assert await wants.told(1) == [("BOOKMARK", str(rv))]
            api.put(service("a"))
            assert await not_so.told(1) == [("ADDED", "a")]
            assert await wants.told(1) == [("ADDED", "a")]
            await wants.leave()
            await not_so.leave()
            # By itself too, from time to time, and at the end.
        async with serving(bookmark_every=0.01) as (api, client):
            api.put(service("a"))
            plan: dict[str, Any] = {"allowWatchBookmarks": True, "timeoutSeconds": 1}
            events = await client.watched("services", resourceVersion=api.rv, **plan)
            assert len(events) > 2
            assert {rv_of(event["object"]) for event in events} == {api.rv}
            assert not any(is_end(event) for event in events), END

    run(story)


# --- what goes wrong ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("unauthorized", 401),
        ("forbidden", 403),
        ("throttled", 429),
        ("broken", 500),
        ("garbled", 502),
        ("unavailable", 503),
        ("slow", 200),
    ],
)
def test_a_fault_in_an_answer(fault: str, status: int) -> None:
    async def story() -> None:
        async with serving(faults=Faults(Random(1), share=0.0, silence=0.01)) as (api, client):
            fill(api)
            api.faults.fail_next(fault, where="services")
            assert (await client.listed("nodes")).status == 200
            reply = await client.listed("services")
            assert reply.status == status
            if fault == "throttled":
                assert reply.headers["Retry-After"] == "1"
            assert (await client.listed("services")).status == 200
            assert [asked.fault for asked in api.requests] == ["", fault, ""]
            assert (api.faults.planned, api.faults.counts) == (0, {fault: 1})

    run(story)


@pytest.mark.parametrize("fault", ["reset", "silent"])
def test_a_connection_that_breaks(fault: str) -> None:
    async def story() -> None:
        async with serving(faults=Faults(Random(1), share=0.0, silence=0.01)) as (api, client):
            # aiohttp tries a GET a second time by itself.
            api.faults.fail_next(fault, times=2)
            with pytest.raises(aiohttp.ClientError):
                await client.listed("services")
            assert (await client.listed("services")).status == 200
            assert [asked.fault for asked in api.requests] == [fault, fault, ""]

    run(story)


def test_a_list_cut_at_any_byte() -> None:
    async def story() -> None:
        async with serving() as (api, client):
            fill(api)
            for _ in range(20):
                api.faults.fail_next("cut")
                with pytest.raises(aiohttp.ClientError):
                    await client.listed("services")

    run(story)


def test_a_page_and_a_watch_that_come_too_late() -> None:
    async def story() -> None:
        async with serving() as (api, client):
            fill(api)
            token = (await client.listed("services", limit=2)).body["metadata"]["continue"]
            api.faults.fail_next("gone", times=2)
            assert (await client.listed("services")).status == 200, "a fresh list cannot be too old"
            refusal(await client.listed("services", continue_=token), 410, "Expired")
            (error,) = await client.watched("services", resourceVersion=api.rv)
            assert error["object"]["code"] == 410

    run(story)


@pytest.mark.parametrize("fault", ["cut", "hush", "end"])
def test_a_watch_that_breaks_in_the_middle(fault: str) -> None:
    async def story() -> None:
        async with serving(faults=Faults(Random(1), share=0.0, silence=0.01)) as (api, client):
            for n in range(20):
                watch = Watching(client, "services", resourceVersion=api.rv)
                await until(lambda: api.watchers == 1)
                api.faults.fail_next(fault)
                api.put(service(f"s{n}"))
                await watch.end()
                assert watch.events == []
                assert (watch.ended == "in order") == (fault == "end")

    run(story)


def test_pieces_are_cut_within_events() -> None:
    """A client that takes what it reads for whole events would be wrong here."""

    async def story() -> None:
        async with serving(faults=Faults(Random(3), share=0.0)) as (api, _):
            fill(api)
            chunks: list[bytes] = []
            async with aiohttp.ClientSession() as session:
                for _ in range(10):
                    params = {"watch": "true", "timeoutSeconds": "1", "resourceVersion": str(api.rv - 1)}
                    api.put(service("a", f"10.96.0.{len(chunks) + 1}"))
                    async with session.get(f"{api.url}/api/v1/services", params=params) as reply:
                        chunk = await reply.content.readany()
                        chunks.append(chunk)
            assert any(not chunk.endswith(b"\n") for chunk in chunks)

    run(story)


def test_chance_hits_one_in_ten_and_every_kind_of_fault() -> None:
    async def story() -> None:
        async with serving(faults=Faults(Random(5), share=0.1, silence=0.0)) as (api, client):
            for _ in range(1000):
                try:
                    await client.listed("nodes")
                except aiohttp.ClientError:
                    continue
            assert 60 < api.faults.counts.total() < 140
            assert api.faults.counts.keys() == {*ANSWERS, "cut"}

    run(story)


def test_an_unknown_fault_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no fault is called 'fire'; there are broken, cut, "):
        Faults(Random(0)).fail_next("fire")


# --- away, and who may come in ------------------------------------------------------


def test_away_and_back() -> None:
    async def story() -> None:
        async with serving() as (api, client):
            fill(api)
            url, watch = api.url, Watching(client, "services", resourceVersion=api.rv)
            await until(lambda: api.watchers == 1)
            await api.pause()
            await watch.end()
            assert isinstance(watch.ended, aiohttp.ClientError)
            with pytest.raises(aiohttp.ClientConnectorError):
                await client.listed("services")
            api.put(service("while-away"))
            await api.resume()
            assert api.url == url
            assert ("shop", "while-away") in (await client.listed("services")).names

    run(story)


def test_tokens_are_rotated() -> None:
    async def story() -> None:
        async with ApiServer(tokens=["one"]) as api:
            async with Client(api.url) as nobody:
                refusal(await nobody.listed("services"), 401, "Unauthorized")
            async with Client(api.url, headers={"Authorization": "Bearer one"}) as client:
                watch = Watching(client, "services", resourceVersion=api.rv)
                await until(lambda: api.watchers == 1)
                api.rotate("two")
                refusal(await client.listed("services"), 401, "Unauthorized")
                api.put(service("a"))
                assert await watch.told(1) == [("ADDED", "a")], "an open watch goes on"
                await watch.leave()
            assert api.kubeconfig()["users"][0]["user"] == {"token": "two"}

    run(story)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls(tmp_path_factory.mktemp("tls"))


def test_tls_with_token_and_with_certificate(tls: Tls) -> None:
    async def story() -> None:
        async with ApiServer(tls=tls, tokens=["one"]) as api:
            assert api.url.startswith("https://")
            token = {"Authorization": "Bearer one"}
            async with Client(api.url, tls=tls.client_context(), headers=token) as client:
                assert (await client.listed("services")).status == 200
            async with Client(api.url, tls=tls.client_context()) as client:
                assert (await client.listed("services")).status == 401
            async with Client(api.url, tls=tls.client_context(certificate=True)) as client:
                assert (await client.listed("services")).status == 200
            async with Client(api.url, tls=ssl.create_default_context()) as client:
                with pytest.raises(aiohttp.ClientConnectorCertificateError):
                    await client.listed("services")

    run(story)
