"""
/healthz, /livez and /readyz: how the proxy tells load balancers, kubelet and people that it is well.

/healthz and /livez answer as kube-proxy's do, field by field; /readyz is ours: 200
once the kernel has held a whole program since the start. Any method will do. What
"well" means is `machines.vitals`; here it is only asked and spelled.

aiohttp takes longer to import than a first sync takes, so it is imported when the
first listener opens, and the daemon opens that after the first sync.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from kubeway.machines.vitals import Vitals
from kubeway.records import BindFailed, Listening, Recorder
from kubeway.shell import clock
from kubeway.shell.options import Address
from kubeway.values import Ip

if TYPE_CHECKING:
    from aiohttp.web import BaseRequest, Response, ServerRunner

RETRY: Final = 5.0
_NEVER: Final = "0001-01-01T00:00:00Z"  # Go's zero time, which kube-proxy shows


class Answer(NamedTuple):
    status: int
    body: str
    type: str = "application/json"
    headers: Mapping[str, str] = {}


Responder = Callable[[str], Answer]
"""From a request's path to its answer. It is asked on the loop and must not wait."""


def respond(path: str, vitals: Vitals, eligible: bool, now: int) -> Answer:
    """The answer for a path. `eligible`: no autoscaler is about to take this node away."""
    if path == "/readyz":
        return _json(vitals.ready, {"ready": vitals.ready})
    if path not in ("/healthz", "/livez"):
        return Answer(404, "404 page not found\n", "text/plain; charset=utf-8")
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
        # Both families are one program here, written in one transaction.
        body["status"] = {family: {"lastUpdated": updated, "healthy": healthy} for family in ("IPv4", "IPv6")}
    return _json(good, body)


def _json(good: bool, body: object) -> Answer:
    return Answer(200 if good else 503, msgspec.json.encode(body).decode())


async def serve_healthz(
    address: Address, vitals: Vitals, eligible: Callable[[], bool], record: Recorder, retry: float = RETRY
) -> None:
    """Answer until cancelled. An address that cannot be bound is tried again every `retry` seconds."""

    def responder(path: str) -> Answer:
        return respond(path, vitals, eligible(), clock.wall())

    server = Server()
    try:
        while True:
            try:
                await server.listen(bound(address.ip, address.port, dual=True), responder)
                break
            except OSError as error:
                record(BindFailed("healthz", str(address), words(error), retry))
            await asyncio.sleep(retry)
        record(Listening("healthz", str(address)))
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
            answer = responder(request.path)
            headers = {"Content-Type": answer.type, "X-Content-Type-Options": "nosniff", **answer.headers}
            return web.Response(status=answer.status, body=answer.body.encode(), headers=headers)

        runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        self._runners.append(runner)
        await web.SockSite(runner, sock).start()

    async def close(self) -> None:
        while self._runners:
            await self._runners.pop().cleanup()


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
