"""The source on a server over loopback: what it asks, what it folds in, and what no fault makes it lose."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import unused_port

import kubeway
from kubeway.machines.convergence import Convergence
from kubeway.machines.reflector import Timing
from kubeway.machines.triggers import ANNOTATION, Triggers
from kubeway.model.forward import ServiceName
from kubeway.model.parse import decode_object
from kubeway.model.store import Snapshot, Store
from kubeway.records import (
    ApiAbsent,
    ApiBack,
    ApiListed,
    ApiRequested,
    ApiTrouble,
    Heard,
    ObjectBad,
    Record,
)
from kubeway.shell.apiserver import KINDS, ApiSource, _number
from tests.apiserver.faults import Faults
from tests.apiserver.server import ApiServer
from tests.apiserver.tls import Tls

FAST = Timing(first=0.01, cap=0.05, watch=60.0, silent_list=5.0, silent_watch=30.0, absent=0.05)
"""As the real one, but in a hurry."""
PATHS = {
    "/api/v1/services",
    "/apis/discovery.k8s.io/v1/endpointslices",
    "/api/v1/nodes",
    "/apis/networking.k8s.io/v1/servicecidrs",
}


def service(name: str, port: int = 80, ip: str = "10.96.0.10", **labels: str) -> dict[str, Any]:
    meta = {"namespace": "shop", "name": name, "labels": labels}
    return {"kind": "Service", "metadata": meta, "spec": {"clusterIP": ip, "ports": [{"port": port}]}}


def piece(name: str, ip: str = "10.244.0.1", note: str = "", **labels: str) -> dict[str, Any]:
    meta: dict[str, Any] = {"namespace": "shop", "name": f"{name}-1"}
    meta["labels"] = {"kubernetes.io/service-name": name, **labels}
    if note:
        meta["annotations"] = {ANNOTATION: note}
    endpoints = [{"addresses": [ip]}]
    ports = [{"name": "", "port": 8080, "protocol": "TCP"}]
    return {
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    }


def node(name: str = "node1") -> dict[str, Any]:
    address = {"type": "InternalIP", "address": "192.0.2.1"}
    return {"kind": "Node", "metadata": {"name": name}, "status": {"addresses": [address]}}


def cidr() -> dict[str, Any]:
    return {"kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}


class Access:
    """A server and a token; `refresh` reads the token from where it is kept."""

    def __init__(self, server: str, token: str = "", kept: Callable[[], str] = str) -> None:
        self.server = server
        self.ssl: ssl.SSLContext | None = None
        self.server_hostname: str | None = None
        self.proxy: str | None = None
        self.token, self.kept = token, kept
        self.refreshed = 0
        self.slow = 0.0

    async def headers(self) -> dict[str, str]:
        if self.slow:
            await asyncio.sleep(self.slow)
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    async def refresh(self) -> None:
        self.refreshed += 1
        self.token = self.kept()


class Home:
    """A source, the store it fills, and what it told."""

    def __init__(self, access: Access, **more: Any) -> None:
        self.store = Store()
        self.records: list[Record] = []
        self.changes = 0
        settings = {"timing": FAST, "rng": Random(1), **more}
        self.source = ApiSource(
            access, self.store, self._changed, self.records.append, node="node1", **settings
        )

    def _changed(self) -> None:
        self.changes += 1

    @property
    def now(self) -> Snapshot:
        return self.store.snapshot()

    def ports(self) -> dict[str, int]:
        return {s.name.name: s.ports[0].port for s in self.now.services.values()}

    def told(self, kind: type[Record]) -> list[str]:
        return [str(record) for record in self.records if type(record) is kind]

    @asynccontextmanager
    async def following(self, synced: bool = True) -> AsyncIterator[None]:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            task = group.create_task(self.source.run())
            if synced:
                await self.source.synced.wait()
            yield
            task.cancel()


@asynccontextmanager
async def at_home(fill: Callable[[ApiServer], None] | None = None, **server: Any) -> AsyncIterator[Any]:
    """A server, and a source that follows it."""
    async with ApiServer(**server) as api:
        if fill is not None:
            fill(api)
        home = Home(Access(api.url))
        async with home.following():
            yield api, home


def fill(api: ApiServer) -> None:
    for n in range(3):
        api.put(service(f"s{n}", 80 + n))
        api.put(piece(f"s{n}", f"10.244.0.{n + 1}"))
    api.put(node())
    api.put(node("node2"))
    api.put(cidr())


async def until(reached: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not reached():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.002)


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


def expected(api: ApiServer) -> Snapshot:
    """What a store holds that has been told the server's state, as far as a proxy asks for it."""
    store = Store()
    for (kind, _, name), doc in api.state().items():
        labels = doc["metadata"].get("labels") or {}
        foreign = "service.kubernetes.io/service-proxy-name" in labels
        headless = kind == "Service" and doc["spec"].get("clusterIP") == "None"
        unseen = kind == "EndpointSlice" and "service.kubernetes.io/headless" in labels
        if foreign or headless or unseen or (kind == "Node" and name != "node1"):
            continue
        found = decode_object(json.dumps(doc).encode(), kind).object
        if found is not None:
            store.put(found)
    return store.snapshot()


# --- what it asks ----------------------------------------------------------------------------------------


def test_it_asks_as_kube_proxy_does() -> None:
    async def story() -> None:
        async with at_home(fill) as (api, _):
            asked = {request.path: request for request in api.requests}
        assert set(asked) == PATHS
        selectors = {
            path: {k: v for k, v in request.params.items() if k.endswith("Selector")}
            for path, request in asked.items()
        }
        assert selectors == {
            "/api/v1/services": {
                "labelSelector": "!service.kubernetes.io/service-proxy-name",
                "fieldSelector": "spec.clusterIP!=None",
            },
            "/apis/discovery.k8s.io/v1/endpointslices": {"labelSelector": "!service.kubernetes.io/headless"},
            "/api/v1/nodes": {"fieldSelector": "metadata.name=node1"},
            "/apis/networking.k8s.io/v1/servicecidrs": {},
        }
        for request in asked.values():
            assert request.method == "GET"
            assert request.headers["User-Agent"] == f"kubeway/{kubeway.__version__}"
            assert request.headers["Accept"] == "application/json"
            assert request.headers["Accept-Encoding"] == "identity"

    run(story)


def test_a_server_behind_a_path_and_a_proxy() -> None:
    async def story() -> None:
        async with ApiServer() as api:
            access = Access("http://api.invalid:1/k8s/clusters/c-1/")
            access.proxy = api.url
            async with Home(access).following(synced=False):
                await until(lambda: len(api.requests) >= 4)
            paths = {request.path for request in api.requests}
        assert paths == {f"/k8s/clusters/c-1{path}" for path in PATHS}

    run(story)


def test_tls_with_a_certificate_of_our_own(tmp_path: Path) -> None:
    async def story() -> None:
        tls = Tls(tmp_path, names="DNS:api.example")
        async with ApiServer(tls=tls, tokens=["nobody has it"]) as api:
            fill(api)
            access = Access(api.url)
            access.ssl, access.server_hostname = tls.client_context(certificate=True), "api.example"
            home = Home(access)
            async with home.following():
                assert len(home.now.services) == 3

    run(story)


def test_a_server_that_is_not_who_it_should_be_is_told_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        tls = Tls(tmp_path, names="DNS:other.example")
        async with ApiServer(tls=tls) as api:
            access = Access(api.url, token="secret")
            access.ssl = tls.client_context()
            home = Home(access)
            async with home.following(synced=False):
                await until(lambda: len(home.told(ApiTrouble)) >= 4)
            assert not api.requests
        assert any("certificate verify failed" in words for words in home.told(ApiTrouble))
        assert not any("\n" in words for words in home.told(ApiTrouble))

    run(story)


# --- what it folds in ------------------------------------------------------------------------------------

SERVERS: dict[str, dict[str, Any]] = {
    "streams": {},
    "lists": {"watchlist": False},
    "pages": {"watchlist": False, "cached": False},
}


@pytest.mark.parametrize("server", SERVERS)
def test_what_is_there_and_what_changes(server: str) -> None:
    async def story() -> None:
        async with at_home(fill, **SERVERS[server]) as (api, home):
            assert home.now == expected(api)
            assert set(home.now.nodes) == {"node1"}
            api.put(service("s0", 8080))
            api.put(service("new", 81))
            api.delete("Service", "shop", "s1")
            api.delete("EndpointSlice", "shop", "s2-1")
            api.delete("ServiceCIDR", "", "kubernetes")
            await until(lambda: home.now == expected(api))
            assert home.ports() == {"s0": 8080, "new": 81, "s2": 82}

    run(story)


@pytest.mark.parametrize("server", SERVERS)
def test_more_than_a_page(server: str) -> None:
    def many(api: ApiServer) -> None:
        for n in range(1200):
            api.put(service(f"s{n}", 1 + n))

    async def story() -> None:
        async with at_home(many, **SERVERS[server]) as (api, home):
            assert home.ports() == {f"s{n}": 1 + n for n in range(1200)}
            if server == "pages":
                await until(lambda: api.watchers == 4)
                asked = [r.params for r in api.requests if r.path == "/api/v1/services"]
                assert [p.get("limit") for p in asked] == [None, "500", "500", "500", None]
                assert ["continue" in p for p in asked] == [False, False, True, True, False]

    run(story)


def test_what_stops_to_match_goes() -> None:
    async def story() -> None:
        async with at_home(fill) as (api, home):
            api.put(service("s0", **{"service.kubernetes.io/service-proxy-name": "other"}))
            api.put(piece("s1", **{"service.kubernetes.io/headless": ""}))
            await until(lambda: home.now == expected(api))
            assert set(home.ports()) == {"s1", "s2"}
            assert ServiceName("shop", "s1") not in home.now.slices

    run(story)


def test_synced_means_all_four() -> None:
    async def story() -> None:
        # One of the four has to wait; the other three are there long before.
        async with ApiServer(absent=["nodes"]) as api:
            fill(api)
            home = Home(Access(api.url))
            async with home.following(synced=False):
                await until(lambda: len(home.told(ApiListed)) == 3 and len(home.told(ApiTrouble)) >= 3)
                assert not home.source.synced.is_set()
                assert len(home.now.services) == 3
                api.absent.clear()
                await home.source.synced.wait()
                assert set(home.now.nodes) == {"node1"}

    run(story)


def test_a_cluster_without_service_cidrs_until_it_has_them() -> None:
    async def story() -> None:
        async with at_home(fill, absent=["servicecidrs"]) as (api, home):
            assert not home.now.cidrs
            assert home.told(ApiAbsent) == [
                "ServiceCIDR: not to be had from the API (404: 404 page not found); going on without"
            ]
            api.absent.clear()
            await until(lambda: home.now.cidrs)
            assert len(home.told(ApiAbsent)) == 1

    run(story)


def test_a_bad_object_is_told_once_and_left_out_and_the_rest_goes_on() -> None:
    async def story() -> None:
        async with at_home(fill) as (api, home):
            for n in range(3):
                bad = service("s0")
                bad["spec"]["ports"] = "eighty"
                bad["metadata"]["annotations"] = {"n": str(n)}
                api.put(bad)
            api.put(service("s1", 8081))
            await until(lambda: home.ports() == {"s1": 8081, "s2": 82})
            [words] = home.told(ObjectBad)
            assert words == "Service shop/s0: spec.ports: Expected `array | null`, got `str`"
            api.put(service("s0", 8080))
            await until(lambda: home.ports() == {"s0": 8080, "s1": 8081, "s2": 82})

    run(story)


def test_all_that_comes_in_one_go_is_one_change() -> None:
    """The server sends two hundred events in one write."""

    async def story() -> None:
        events = b"".join(_line("ADDED", service(f"s{n}"), n + 1) for n in range(200))
        end = {"k8s.io/initial-events-end": "true"}

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            body = events if request.path.endswith("services") else b""
            mark = {"metadata": {"annotations": end}}
            await response.write(body + _line("BOOKMARK", mark, 300))
            await done.wait()
            return response

        done = asyncio.Event()
        async with _serving(answer) as url, (home := Home(Access(url))).following():
            assert len(home.now.services) == 200
            # 30 kB: as many pieces as the kernel makes of them, and no more.
            assert 1 <= home.changes <= 10
            heard = [record.services for record in home.records if isinstance(record, Heard)]
            assert (len(heard), sum(heard)) == (home.changes, 200)
            done.set()

    run(story)


def test_a_refusal_counts_though_its_words_never_come() -> None:
    async def story() -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse(status=401, headers={"Content-Length": "100"})
            await response.prepare(request)
            await response.write(b"{")
            await done.wait()
            return response

        done = asyncio.Event()
        async with _serving(answer) as url:
            access = Access(url)
            home = Home(access, timing=Timing(first=0.01, cap=0.05, silent_list=0.1))
            async with home.following(synced=False):
                await until(lambda: access.refreshed >= 4)
                assert any("401" in words for words in home.told(ApiTrouble))
            done.set()

    run(story)


def test_a_plugin_may_be_slower_than_the_server_may_be() -> None:
    async def story() -> None:
        async with ApiServer(tokens=["good"]) as api:
            fill(api)
            access = Access(api.url, "good")
            access.slow = 0.6
            home = Home(access, timing=Timing(first=0.01, cap=0.05, silent_list=0.3))
            async with home.following():
                assert len(home.now.services) == 3
            # What is recorded is the server's time.
            assert all(record.seconds < 0.6 for record in home.records if isinstance(record, ApiRequested))

    run(story)


def test_credentials_are_read_when_they_are_to_be_used() -> None:
    """After a second refusal there is a wait, here of a minute: what it is for may come meanwhile."""

    async def story() -> None:
        async with ApiServer(tokens=["nobody has it"]) as api:
            access = Access(api.url)
            home = Home(access, timing=Timing(first=60.0, cap=60.0))
            async with home.following(synced=False):
                await until(lambda: len(home.told(ApiTrouble)) == 8)
                # The first refusal of each is followed at once by another attempt.
                waits = sorted(r.retry_in for r in home.records if isinstance(r, ApiTrouble))
                assert waits[3] < 1 < 59 < waits[4]
                assert access.refreshed == 4

    run(story)


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("17", 17),
        ("9223372036854775807", 9223372036854775807),
        ("", 0),
        ("-1", 0),
        ("1e3", 0),
        ("²", 0),
        ("1" * 20, 0),
        ("9" * 5000, 0),
    ],
)
def test_versions_as_numbers(version: str, number: int) -> None:
    assert _number(version) == number


def test_versions_that_are_no_numbers_end_nothing() -> None:
    """Thousands of digits are more than Python makes a number of."""

    async def story() -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            kind = "Service" if request.path.endswith("services") else "Node"
            doc = service("s0") if kind == "Service" else node()
            doc["metadata"]["resourceVersion"] = "9" * 5000
            meta = {"resourceVersion": "9" * 5000, "annotations": {"k8s.io/initial-events-end": "true"}}
            for line in (
                {"type": "BOOKMARK", "object": {"metadata": meta}},
                {"type": "ADDED", "object": doc},
            ):
                await response.write(json.dumps(line).encode() + b"\n")
            await done.wait()
            return response

        done, convergence = asyncio.Event(), Convergence(KINDS)
        async with _serving(answer) as url:
            home = Home(Access(url), progress=convergence)
            async with home.following():
                await until(lambda: home.ports() == {"s0": 80} and home.now.nodes)
                assert set(convergence.streams.values()) == {0}
            done.set()

    run(story)


@asynccontextmanager
async def _serving(
    answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    port = unused_port()
    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def _line(type: str, doc: dict[str, Any], version: int) -> bytes:
    meta = {**doc["metadata"], "resourceVersion": str(version)}
    return json.dumps({"type": type, "object": {**doc, "metadata": meta}}).encode() + b"\n"


# --- what goes wrong -------------------------------------------------------------------------------------


def test_while_the_api_is_away_all_stays_and_on_return_nothing_flaps() -> None:
    async def story() -> None:
        async with at_home(fill) as (api, home):
            before, changes = home.now, home.changes
            await api.pause()
            await until(lambda: len(home.told(ApiTrouble)) >= 12)
            assert home.now == before
            await api.resume()
            await until(lambda: api.watchers == 4)
            api.put(service("new"))
            await until(lambda: "new" in home.ports())
            assert home.changes == changes + 1
            assert len(home.told(ApiBack)) == 4
            assert any("Connect" in words or "refused" in words for words in home.told(ApiTrouble))

    run(story)


@pytest.mark.parametrize("gone", ["event", "status"])
@pytest.mark.parametrize("server", SERVERS)
def test_what_went_while_nobody_could_tell_is_seen(server: str, gone: str) -> None:
    async def story() -> None:
        async with at_home(fill, gone=gone, **SERVERS[server]) as (api, home):
            changes = home.changes
            await api.pause()
            api.delete("Service", "shop", "s1")
            api.compact()
            await api.resume()
            await until(lambda: set(home.ports()) == {"s0", "s2"})
            await until(lambda: api.watchers == 4)
            assert home.now == expected(api)
            # Three kinds were listed anew and were as before.
            assert home.changes == changes + 1

    run(story)


def test_news_of_a_list_are_those_that_the_watch_has_not_told() -> None:
    async def story() -> None:
        async with at_home(fill) as (api, home):
            for port in range(8080, 8085):
                api.put(service("s0", port))
            await until(lambda: home.ports()["s0"] == 8084)
            await api.pause()
            api.delete("Service", "shop", "s1")
            api.compact()
            await api.resume()
            await until(lambda: len(listed(home)) == 2)
            first, second = listed(home)
            assert (first.objects, first.news) == (3, 3)
            assert (second.objects, second.news) == (2, 1)

    def listed(home: Home) -> list[ApiListed]:
        return [r for r in home.records if isinstance(r, ApiListed) and r.kind == "Service"]

    run(story)


def test_a_rotated_token_is_read_anew() -> None:
    async def story() -> None:
        async with ApiServer(tokens=["old"]) as api:
            fill(api)
            access = Access(api.url, "old", lambda: "new")
            home = Home(access)
            async with home.following():
                api.rotate("new")
                api.hang_up()
                await until(lambda: access.refreshed)
                await until(lambda: api.watchers == 4)
                api.put(service("new"))
                await until(lambda: "new" in home.ports())
                assert any("401 Unauthorized" in words for words in home.told(ApiTrouble))

    run(story)


def test_a_busy_server_is_given_its_time() -> None:
    async def story() -> None:
        faults = Faults(Random(0), share=0.0)
        faults.fail_next("throttled", where="nodes")
        async with ApiServer(faults=faults) as api:
            fill(api)
            home = Home(Access(api.url))
            async with home.following():
                [words] = home.told(ApiTrouble)
                assert words.startswith("Node: the API does not tell: 429: Too many requests")
                assert words.endswith("; trying again in 1 s")

    run(story)


@pytest.mark.parametrize("when", ["before the head", "after the head", "in a watch"])
def test_silence_is_not_waited_out_for_ever(when: str) -> None:
    """The server goes silent for an hour, with the connection open."""

    async def story() -> None:
        faults = Faults(Random(0), share=0.0, silence=3600.0)
        timing = Timing(
            first=0.01,
            cap=0.05,
            silent_list=0.2 if when != "in a watch" else 5.0,
            silent_watch=0.2 if when == "in a watch" else 30.0,
        )
        where = "services"
        if when == "before the head":
            faults.fail_next("silent", where=where)
        elif when == "after the head":
            faults.fail_next("hush", where=where)
        async with ApiServer(faults=faults) as api:
            fill(api)
            home = Home(Access(api.url), timing=timing)
            async with home.following():
                if when == "in a watch":
                    faults.fail_next("hush", where=where)
                api.put(service("new"))
                await until(lambda: "new" in home.ports())
                assert home.now == expected(api)
                assert not faults.planned

    run(story)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_whatever_breaks(seed: int) -> None:
    """A third of all requests and batches fail; history is short and is forgotten now and then."""

    async def story() -> None:
        rng = Random(seed)
        faults = Faults(Random(seed), share=0.3, silence=0.05)
        how = {
            "watchlist": rng.random() < 0.5,
            "cached": rng.random() < 0.5,
            "gone": rng.choice(["event", "status"]),
        }
        timing = Timing(first=0.005, cap=0.02, watch=2.0, silent_list=1.0, silent_watch=1.0, absent=0.05)
        async with ApiServer(faults=faults, window=20, **how) as api:
            fill(api)
            home = Home(Access(api.url), timing=timing)
            async with home.following():
                for _ in range(300):
                    _change(api, rng)
                    if rng.random() < 0.03:
                        api.compact()
                    if rng.random() < 0.03:
                        api.hang_up()
                    await asyncio.sleep(0.001)
                faults.share = 0.0
                # Retry-After of the last 429 is a whole second: nothing to be done about that.
                await until(lambda: home.now == expected(api))
                assert sum(faults.counts.values()) > 10
                assert not home.told(ObjectBad)

    run(story)


def _change(api: ApiServer, rng: Random) -> None:
    number = rng.randrange(8)
    name = f"s{number}"
    there = {(kind, key) for kind, _, key in api.state()}
    if rng.random() < 0.5:
        if ("Service", name) in there and rng.random() < 0.4:
            api.delete("Service", "shop", name)
        else:
            foreign = {"service.kubernetes.io/service-proxy-name": "x"} if rng.random() < 0.1 else {}
            api.put(service(name, rng.randrange(1, 60000), **foreign))
    elif ("EndpointSlice", f"{name}-1") in there and rng.random() < 0.4:
        api.delete("EndpointSlice", "shop", f"{name}-1")
    else:
        api.put(piece(name, f"10.244.{number}.{rng.randrange(1, 250)}"))


# --- who else is told ------------------------------------------------------------------------------------


def test_how_far_it_has_come() -> None:
    async def story() -> None:
        convergence = Convergence(KINDS)
        async with ApiServer(absent=["servicecidrs"]) as api:
            fill(api)
            home = Home(Access(api.url), progress=convergence)
            async with home.following():
                start = api.rv
                convergence.taken()
                convergence.arrived()
                assert convergence.holds(start)
                put = api.put(service("s0", 8080))
                version = int(put["metadata"]["resourceVersion"])
                await until(lambda: convergence.streams["Service"] >= version)
                assert home.ports()["s0"] == 8080
                assert convergence.holds(version)
                api.delete("EndpointSlice", "shop", "s0-1")
                await until(lambda: convergence.streams["EndpointSlice"] >= api.rv)
                assert convergence.holds(api.rv)
                assert home.source.versions["EndpointSlice"] == str(api.rv)
                assert home.source.versions["ServiceCIDR"] == ""
                api.bookmark()
                await until(lambda: convergence.streams["Node"] >= api.rv)

    run(story)


def test_a_write_that_cannot_be_read_is_not_said_to_be_held() -> None:
    """By itself, that is: once all streams are further, its number says nothing any more."""

    async def story() -> None:
        convergence = Convergence(KINDS)
        async with ApiServer() as api:
            fill(api)
            home = Home(Access(api.url), progress=convergence)
            async with home.following():
                bad = service("s0")
                bad["spec"]["ports"] = "eighty"
                version = int(api.put(bad)["metadata"]["resourceVersion"])
                good = int(api.put(service("s1", 8081))["metadata"]["resourceVersion"])
                await until(lambda: convergence.streams["Service"] >= good)
                assert home.ports() == {"s1": 8081, "s2": 82}
                assert convergence.holds(good)
                assert not convergence.holds(version)
                api.bookmark()
                await until(lambda: min(convergence.streams.values()) >= good)
                assert convergence.holds(version)

    run(story)


def test_the_store_has_it_before_progress_is_told() -> None:
    async def story() -> None:
        order: list[str] = []

        class Witness:
            def heard(self, stream: str, rv: int, *, writes: Any = (), anew: bool = False) -> None:
                if list(writes):
                    order.append(f"heard {stream} {home.ports()['s0']} {home.changes - changes}")

            def absent(self, stream: str) -> None:
                raise AssertionError(stream)

        async with ApiServer() as api:
            fill(api)
            home = Home(Access(api.url), progress=Witness())
            async with home.following():
                changes = home.changes
                api.put(service("s0", 8080))
                await until(lambda: order)
        assert order == ["heard Service 8080 1"]

    run(story)


def test_the_times_noted_on_slices() -> None:
    async def story() -> None:
        triggers = Triggers(0)
        async with ApiServer() as api:
            api.put(piece("s0", note="2026-01-01T00:00:00Z"))
            home = Home(Access(api.url), triggers=triggers)
            async with home.following():
                api.put(piece("s0", "10.244.0.2", note="2026-01-01T00:00:05.5Z"))
                api.put(piece("s1", "10.244.0.3", note="2026-01-01T00:00:06Z"))
                api.put(piece("s2", "10.244.0.4", note="nonsense"))
                await until(lambda: len(home.now.slices) == 3)
                api.delete("EndpointSlice", "shop", "s1-1")
                await until(lambda: len(home.now.slices) == 2)
                triggers.take()
                [(family, seconds)] = triggers.arrived(1_767_225_606_000_000_000)
                assert (family, seconds) == ("IPv4", 0.5)

    run(story)


def test_every_request_is_recorded() -> None:
    async def story() -> None:
        faults = Faults(Random(0), share=0.0)
        # Twice: aiohttp itself asks again once.
        faults.fail_next("reset", times=2, where="nodes")
        faults.fail_next("broken", where="services")
        async with ApiServer(faults=faults) as api:
            home = Home(Access(api.url))
            async with home.following():
                pass
            host = api.url.removeprefix("http://")
        requests = [record for record in home.records if isinstance(record, ApiRequested)]
        assert {(r.method, r.host) for r in requests} == {("GET", host)}
        codes = Counter(r.code for r in requests)
        assert codes["200"] >= 4
        assert codes["500"] == 1
        assert codes["<error>"] == 1
        assert set(codes) == {"200", "500", "<error>"}

    run(story)
