"""
Small HTTP servers: an address, what answers there, and what to do while it cannot be had.

`respond` spells the answers of /healthz and /livez, field by field as kube-proxy
does; any method will do. What "well" means is `machines.vitals`; here it is only
asked. What else is answered is in `readyz`, `health` and `metrics_pages`.

aiohttp takes longer to import than a first sync takes, so it is imported when the
first listener opens, and the daemon opens that after the first sync.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from kubeway.errors import BadInput
from kubeway.machines.vitals import Vitals
from kubeway.records import BindFailed, Listening, Probed, Recorder
from kubeway.shell import clock
from kubeway.shell.options import Address
from kubeway.values import Ip

if TYPE_CHECKING:
    from aiohttp.web import BaseRequest, Response, ServerRunner

RETRY: Final = 5.0
TEXT: Final = "text/plain; charset=utf-8"
_NEVER: Final = "0001-01-01T00:00:00Z"  # Go's zero time, which kube-proxy shows
_MOST_BODY: Final = 1024
_SLOWEST_BODY: Final = 5.0


async def _no_body() -> bytes:
    return b""


class Ask(NamedTuple):
    """What is asked. `body` reads the first kilobyte of what was sent along."""

    path: str
    method: str = "GET"
    query: Mapping[str, Sequence[str]] = {}
    accept: str = ""
    body: Callable[[], Awaitable[bytes]] = _no_body


class Answer(NamedTuple):
    status: int
    body: str | bytes
    type: str = "application/json"
    headers: Mapping[str, str] = {}


NOT_FOUND: Final = Answer(404, "404 page not found\n", TEXT)

Responder = Callable[[Ask], Awaitable[Answer]]


def respond(path: str, vitals: Vitals, eligible: bool, now: int) -> Answer:
    """The answer for a path. `eligible`: no autoscaler is about to take this node away."""
    if path not in ("/healthz", "/livez"):
        return NOT_FOUND
    healthy = vitals.healthy(now)
    good = healthy and (eligible or path == "/livez")
    updated = _NEVER if vitals.updated is None else clock.show_wall(vitals.updated)
    body: dict[str, object] = {
        "lastUpdated": clock.show_wall(now) if good else updated,
        "currentTime": clock.show_wall(now),
    }
    if path == "/healthz":
        body["nodeEligible"] = eligible
    body["healthy"] = healthy
    if vitals.updated is not None:
        # All families are one program here, written in one transaction.
        body["status"] = {family: {"lastUpdated": updated, "healthy": healthy} for family in vitals.families}
    return json_answer(200 if good else 503, body)


def json_answer(status: int, body: object) -> Answer:
    return Answer(status, msgspec.json.encode(body))


async def serve_healthz(
    address: Address,
    vitals: Vitals,
    eligible: Callable[[], bool],
    record: Recorder,
    retry: float = RETRY,
    *,
    readyz: Callable[[Mapping[str, Sequence[str]]], Awaitable[Answer]] | None = None,
    hard: Callable[[str], Awaitable[None]] | None = None,
) -> None:
    """/healthz, /livez and /readyz, until cancelled; `readyz` answers the last one's queries."""

    async def responder(ask: Ask) -> Answer:
        if ask.path == "/readyz":
            if readyz is not None:
                return await readyz(ask.query)
            return json_answer(200 if vitals.ready else 503, {"ready": vitals.ready})
        answer = respond(ask.path, vitals, eligible(), clock.wall())
        if answer is not NOT_FOUND:
            record(Probed(ask.path, answer.status))
        return answer

    await serve("healthz", address, responder, record, retry=retry, hard=hard)


async def serve(
    what: str,
    address: Address,
    responder: Responder,
    record: Recorder,
    *,
    retry: float = RETRY,
    hard: Callable[[str], Awaitable[None]] | None = None,
) -> None:
    """Answer until cancelled. An address that cannot be had is tried again every `retry` seconds.

    `hard`: instead, this is told the problem, and then BadInput is raised
    (kube-proxy's bindAddressHardFail).
    """
    server = Server()
    try:
        while True:
            try:
                await server.listen(bound(address.ip, address.port, dual=True), responder)
                break
            except OSError as error:
                if hard is not None:
                    problem = f"{what} cannot listen on {address}: {words(error)}"
                    record(BindFailed(what, str(address), words(error)))
                    await hard(problem)
                    raise BadInput(
                        f"{problem}; free it, choose another, or do not ask for a hard fail"
                    ) from None
                record(BindFailed(what, str(address), words(error), retry))
            await asyncio.sleep(retry)
        record(Listening(what, str(address)))
        await asyncio.Event().wait()
    finally:
        await server.close()


class Server:
    """Some listeners that answer alike."""

    def __init__(self) -> None:
        self._runners: list[ServerRunner] = []

    async def listen(self, sock: socket.socket, responder: Responder) -> None:
        """Answer on this bound socket, which is ours from now on."""
        from aiohttp import web

        async def handle(request: BaseRequest) -> Response:
            answer = await responder(_ask(request))
            body = answer.body.encode() if isinstance(answer.body, str) else answer.body
            headers = {"Content-Type": answer.type, "X-Content-Type-Options": "nosniff", **answer.headers}
            response = web.Response(status=answer.status, body=body, headers=headers)
            if len(body) > _MOST_BODY and "gzip" in request.headers.get("Accept-Encoding", ""):
                response.enable_compression(web.ContentCoding.gzip)
            return response

        runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        self._runners.append(runner)
        await web.SockSite(runner, sock).start()

    async def close(self) -> None:
        while self._runners:
            await self._runners.pop().cleanup()


def _ask(request: BaseRequest) -> Ask:
    async def body() -> bytes:
        try:
            async with asyncio.timeout(_SLOWEST_BODY):
                return await request.content.read(_MOST_BODY)
        except TimeoutError:
            return b""

    query = {key: request.query.getall(key) for key in request.query}
    return Ask(request.path, request.method, query, request.headers.get("Accept", ""), body)


def bound(ip: Ip, port: int, dual: bool = False) -> socket.socket:
    """A TCP socket bound to the address; OSError if it cannot be.

    `dual`: the unspecified address of either family stands for all addresses of
    both, as in Go's `net.Listen("tcp", …)`; of one family, where the host has no IPv6.
    """
    everywhere = dual and not any(ip)
    if everywhere:
        try:
            return _bound(socket.AF_INET6, "::", port, v6only=False)
        except OSError as error:
            if not without_family(error):
                raise
            ip = Ip(bytes(4))
    family = socket.AF_INET if len(ip) == 4 else socket.AF_INET6
    return _bound(family, socket.inet_ntop(family, ip), port, v6only=True)


def _bound(family: socket.AddressFamily, host: str, port: int, v6only: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        sock.setblocking(False)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def without_family(error: OSError) -> bool:
    """Whether the error says that this host has no such family (IPv6 off)."""
    return error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


def words(error: OSError) -> str:
    """`Address already in use`, without the number and the address."""
    return error.strerror or str(error)
