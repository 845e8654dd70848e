"""/healthz, /livez, /readyz and the health-check node ports, asked over real sockets on loopback."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp.test_utils import unused_port

from kubeway.errors import BadInput
from kubeway.machines.vitals import PATIENCE, Vitals
from kubeway.model.forward import HealthPort, ServiceName
from kubeway.model.node import FamilyView, NodeView
from kubeway.records import BindFailed, Listening, Probed, Record
from kubeway.shell import health, http
from kubeway.shell.http import Answer, Ask, respond, serve_healthz
from kubeway.shell.options import Address
from kubeway.values import Ip, parse_ip

NOW = 1_795_000_000_397_294_243
SHOWN = "2026-11-18T11:06:40.397294243Z"
LOOPBACK = parse_ip("127.0.0.1")
CART = ServiceName("shop", "cart")


def vitals(*, begun: bool = True, ready: bool = True, late: bool = False) -> Vitals:
    made = Vitals()
    if begun:
        made.begun(NOW - 2 * PATIENCE)
    if ready:
        made.synced(NOW - 2 * PATIENCE, NOW - 2 * PATIENCE)
    if late:
        made.noted(NOW - PATIENCE)
    return made


# --- what is answered ------------------------------------------------------------------


def test_healthz_of_a_well_proxy() -> None:
    answer = respond("/healthz", vitals(), True, NOW)
    assert answer.status == 200
    assert answer.type == "application/json"
    updated = "2026-11-18T11:04:40.397294243Z"
    assert (
        answer.body
        == json.dumps(
            {
                "lastUpdated": SHOWN,
                "currentTime": SHOWN,
                "nodeEligible": True,
                "healthy": True,
                "status": {
                    "IPv4": {"lastUpdated": updated, "healthy": True},
                    "IPv6": {"lastUpdated": updated, "healthy": True},
                },
            },
            separators=(",", ":"),
        ).encode()
    )


def test_a_node_about_to_go_is_not_eligible_but_alive() -> None:
    answer = respond("/healthz", vitals(), False, NOW)
    body = json.loads(answer.body)
    assert (answer.status, body["nodeEligible"], body["healthy"]) == (503, False, True)
    assert body["lastUpdated"] == body["status"]["IPv4"]["lastUpdated"] != body["currentTime"]
    live = respond("/livez", vitals(), False, NOW)
    assert live.status == 200
    assert "nodeEligible" not in json.loads(live.body)


@pytest.mark.parametrize("path", ["/healthz", "/livez"])
def test_a_change_that_waits_too_long(path: str) -> None:
    answer = respond(path, vitals(late=True), True, NOW)
    assert answer.status == 503
    assert json.loads(answer.body)["healthy"] is False


def test_before_it_has_begun() -> None:
    answer = respond("/healthz", vitals(begun=False, ready=False), True, NOW)
    assert answer.status == 200
    assert "status" not in json.loads(answer.body)


def test_a_node_of_one_family_tells_of_one() -> None:
    one = Vitals(families=("IPv6",))
    one.begun(NOW)
    assert list(json.loads(respond("/healthz", one, True, NOW).body)["status"]) == ["IPv6"]


@pytest.mark.parametrize("path", ["/", "/healthz/", "/healthzz", "/metrics", "/readyz"])
def test_other_paths_are_not_found(path: str) -> None:
    answer = respond(path, vitals(), True, NOW)
    assert (answer.status, answer.body) == (404, "404 page not found\n")


@pytest.mark.parametrize(
    ("count", "healthy", "status"), [(2, True, 200), (0, True, 503), (2, False, 503), (0, False, 503)]
)
def test_a_health_check_s_answer(count: int, healthy: bool, status: int) -> None:
    answer = health.respond(HealthPort(CART, 30000, count), healthy)
    assert answer.status == status
    assert answer.headers == {"X-Load-Balancing-Endpoint-Weight": str(count)}
    assert answer.body == (
        '{\n\t"service": {\n\t\t"namespace": "shop",\n\t\t"name": "cart"\n\t},\n'
        f'\t"localEndpoints": {count},\n\t"serviceProxyHealthy": {str(healthy).lower()}\n}}'
    )
    json.loads(answer.body)


# --- over sockets ------------------------------------------------------------------------


class Heard(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str


async def ask(port: int, path: str = "/healthz", host: str = "127.0.0.1", method: str = "GET") -> Heard:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{host}:{port}{path}") as reply,
    ):
        return Heard(reply.status, dict(reply.headers), await reply.text())


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110 (sockets tell no event)
            await asyncio.sleep(0.01)


def refuses(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((host, port)) != 0


async def serving(address: Address, then: Callable[[list[Record]], Awaitable[None]]) -> list[Record]:
    records: list[Record] = []
    async with asyncio.TaskGroup() as group:
        task = group.create_task(serve_healthz(address, vitals(), lambda: True, records.append, 0.01))
        await then(records)
        task.cancel()
    return records


def test_it_answers_any_method_on_exact_paths() -> None:
    port = unused_port()

    async def then(records: list[Record]) -> None:
        await until(lambda: bool(records))
        for method in ("GET", "PUT", "POST"):
            heard = await ask(port, "/healthz?verbose", method=method)
            assert heard.status == 200
            assert heard.headers["Content-Type"] == "application/json"
            assert heard.headers["X-Content-Type-Options"] == "nosniff"
            assert heard.body.startswith('{"lastUpdated":"')
        ready = await ask(port, "/readyz")
        assert (ready.status, ready.body) == (200, '{"ready":true}')
        assert (await ask(port, "/nothing")).body == "404 page not found\n"

    records = asyncio.run(serving(Address(LOOPBACK, port), then))
    assert records == [Listening("healthz", f"127.0.0.1:{port}"), *[Probed("/healthz", 200)] * 3]
    assert refuses(port), "closed when it ends"


def test_the_unspecified_address_is_every_address_of_both_families() -> None:
    port = unused_port()

    async def then(records: list[Record]) -> None:
        await until(lambda: bool(records))
        assert (await ask(port, "/livez")).status == 200
        if socket.has_ipv6:
            with socket.socket(socket.AF_INET6) as sock:
                if sock.connect_ex(("::1", port)):
                    pytest.skip("this host has no ::1")
            assert (await ask(port, "/livez", host="[::1]")).status == 200

    asyncio.run(serving(Address(Ip(bytes(4)), port), then))


def test_an_address_in_use_is_tried_until_it_is_free() -> None:
    async def then(records: list[Record]) -> None:
        await until(lambda: len(records) > 2)
        taken.close()
        await until(lambda: any(isinstance(record, Listening) for record in records))
        assert (await ask(port)).status == 200

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        records = asyncio.run(serving(Address(LOOPBACK, port), then))
    assert records[0] == BindFailed("healthz", f"127.0.0.1:{port}", "Address already in use", 0.01)


def test_a_hard_fail_tells_and_ends() -> None:
    told: list[str] = []
    records: list[Record] = []

    async def tell(problem: str) -> None:
        told.append(problem)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address(LOOPBACK, taken.getsockname()[1])
        with pytest.raises(BadInput, match="Address already in use; free it, choose another"):
            asyncio.run(serve_healthz(address, vitals(), lambda: True, records.append, hard=tell))
    assert told == [f"healthz cannot listen on {address}: Address already in use"]
    assert records == [BindFailed("healthz", str(address), "Address already in use")]


def test_what_is_asked_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_SLOWEST_BODY", 0.05)
    asked: list[Ask] = []
    bodies: list[bytes] = []
    port = unused_port()

    async def responder(one: Ask) -> Answer:
        asked.append(one)
        bodies.append(await one.body())
        return Answer(200, "x" * 5000, http.TEXT)

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            records: list[Record] = []
            task = group.create_task(
                http.serve("metrics", Address(LOOPBACK, port), responder, records.append)
            )
            await until(lambda: bool(records))
            heard = await ask(port, "/a%20b?x=1&x=2&y", method="PUT")
            assert heard.headers["Content-Encoding"] == "gzip"
            assert heard.body == "x" * 5000
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PUT /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200"), "it does not wait for the body"
            writer.close()
            await writer.wait_closed()
            task.cancel()

    asyncio.run(run())
    assert (asked[0].path, asked[0].method) == ("/a b", "PUT")
    assert asked[0].query == {"x": ["1", "2"], "y": [""]}
    assert bodies == [b"", b""]


def test_readyz_is_asked_with_its_query() -> None:
    queries: list[Mapping[str, Sequence[str]]] = []
    port = unused_port()

    async def readyz(query: Mapping[str, Sequence[str]]) -> Answer:
        queries.append(query)
        return Answer(503, "{}")

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            records: list[Record] = []
            address = Address(LOOPBACK, port)
            task = group.create_task(
                serve_healthz(address, vitals(), lambda: True, records.append, readyz=readyz)
            )
            await until(lambda: bool(records))
            assert (await ask(port, "/readyz?generation=7")).status == 503
            task.cancel()

    asyncio.run(run())
    assert queries == [{"generation": ["7"]}]


# --- health-check node ports ----------------------------------------------------------------


def view(*ips: str) -> NodeView:
    """A node whose node ports are on these addresses, or on all without any."""
    v4 = tuple(parse_ip(ip) for ip in ips) if ips else None
    return NodeView(v4=FamilyView(4, node_ports=v4), v6=FamilyView(6, node_ports=() if ips else None))


def test_ports_open_change_and_close() -> None:
    async def run() -> None:
        one, other = unused_port(), unused_port()
        ports = health.HealthPorts(lambda: True, records.append)
        await ports.reconcile({CART: HealthPort(CART, one, 2)}, view("127.0.0.1"))
        heard = await ask(one, "/anything", method="PUT")
        assert (heard.status, heard.headers["X-Load-Balancing-Endpoint-Weight"]) == (200, "2")
        await ports.reconcile({CART: HealthPort(CART, one, 0)}, view("127.0.0.1"))
        assert (await ask(one)).status == 503
        await ports.reconcile({CART: HealthPort(CART, other, 1)}, view("127.0.0.1"))
        assert refuses(one)
        assert (await ask(other)).status == 200
        await ports.reconcile({CART: HealthPort(CART, other, 1)}, view("127.0.0.2"))
        assert refuses(other)
        assert (await ask(other, host="127.0.0.2")).status == 200
        await ports.reconcile({}, view("127.0.0.2"))
        assert refuses(other, "127.0.0.2")
        await ports.reconcile({CART: HealthPort(CART, one, 1)}, view())
        assert (await ask(one, host="127.0.0.3")).status == 200
        await ports.close()
        assert refuses(one)

    records: list[Record] = []
    asyncio.run(run())
    assert records == []


def test_a_port_in_use_is_told_once_and_tried_again_after_a_second() -> None:
    async def run(taken: socket.socket) -> None:
        port = taken.getsockname()[1]
        now = [0.0]
        ports = health.HealthPorts(
            lambda: True, records.append, lambda *one: failed.append(one), lambda: now[0]
        )
        wanted = {CART: HealthPort(CART, port, 1)}

        async def reconcile(at: float) -> None:
            now[0] = at
            await ports.reconcile(wanted, view("127.0.0.1", "127.0.0.2"))

        assert ports.patience == inf
        await reconcile(0.0)
        told: list[Record] = [
            BindFailed("health check of shop/cart", f"127.0.0.2:{port}", "Address already in use")
        ]
        assert records == told
        assert failed == [(wanted[CART], f"cannot listen on 127.0.0.2:{port}: Address already in use")]
        assert refuses(port), "what was open of it is closed again"
        assert ports.patience == 1.0
        await reconcile(0.5)
        assert ports.patience == 0.5
        await reconcile(1.0)
        assert ports.patience == 1.0, "it was tried again"
        assert records == told
        taken.close()
        await reconcile(1.5)
        assert refuses(port), "it is too early"
        now[0] = 7.0
        assert ports.patience == 0.0
        await reconcile(7.0)
        assert ports.patience == inf
        assert (await ask(port)).status == 200
        assert (await ask(port, host="127.0.0.2")).status == 200
        both = f"127.0.0.1:{port}, 127.0.0.2:{port}"
        assert records == [*told, Listening("health check of shop/cart", both)]
        await ports.close()

    records: list[Record] = []
    failed: list[tuple[HealthPort, str]] = []
    with socket.create_server(("127.0.0.2", 0)) as taken:
        asyncio.run(run(taken))
    assert len(failed) == 1


def test_what_is_new_of_a_refused_port_is_tried_and_told_at_once() -> None:
    async def run(one: socket.socket, other: socket.socket) -> None:
        taken, too = (sock.getsockname()[1] for sock in (one, other))
        ports = health.HealthPorts(lambda: True, records.append, clock=lambda: 0.0)
        for _ in range(2):
            await ports.reconcile({CART: HealthPort(CART, taken, 1)}, view("127.0.0.2"))
        await ports.reconcile({CART: HealthPort(CART, too, 1)}, view("127.0.0.2"))
        await ports.reconcile({CART: HealthPort(CART, too, 1)}, view("127.0.0.1"))
        assert (await ask(too)).status == 200
        # A Service that went and came back is another one.
        for wanted in ({CART: HealthPort(CART, taken, 1)}, {}, {CART: HealthPort(CART, taken, 1)}):
            await ports.reconcile(wanted, view("127.0.0.2"))
        await ports.reconcile({}, view("127.0.0.2"))
        assert ports.patience == inf
        await ports.close()
        told = [(type(record), record.address) for record in records]  # type: ignore[attr-defined]
        assert told == [
            (BindFailed, f"127.0.0.2:{taken}"),
            (BindFailed, f"127.0.0.2:{too}"),
            (Listening, f"127.0.0.1:{too}"),
            (BindFailed, f"127.0.0.2:{taken}"),
            (BindFailed, f"127.0.0.2:{taken}"),
        ]

    records: list[Record] = []
    with socket.create_server(("127.0.0.2", 0)) as one, socket.create_server(("127.0.0.2", 0)) as other:
        asyncio.run(run(one, other))


def test_the_proxy_s_health_is_told_at_once() -> None:
    async def run() -> None:
        port = unused_port()
        healthy = [True]
        ports = health.HealthPorts(lambda: healthy[0], lambda record: None)
        await ports.reconcile({CART: HealthPort(CART, port, 1)}, view("127.0.0.1"))
        assert (await ask(port)).status == 200
        healthy[0] = False
        assert (await ask(port)).status == 503
        await ports.close()

    asyncio.run(run())


def test_a_family_the_host_has_not_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_ipv6(family: socket.AddressFamily, *rest: object, **named: object) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *rest, **named)  # type: ignore[arg-type]

    real = http._bound
    monkeypatch.setattr(http, "_bound", without_ipv6)

    async def run() -> None:
        port = unused_port()
        ports = health.HealthPorts(lambda: True, records.append)
        await ports.reconcile({CART: HealthPort(CART, port, 1)}, view())
        assert (await ask(port)).status == 200
        await ports.close()

    records: list[Record] = []
    asyncio.run(run())
    assert records == []
    with http.bound(Ip(bytes(16)), 0, dual=True) as sock:
        assert sock.family == socket.AF_INET


def test_times_have_nanoseconds() -> None:
    assert http.clock.show_wall(NOW) == SHOWN
