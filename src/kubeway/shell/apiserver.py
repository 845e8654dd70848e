"""
The cluster's API as the source of objects, followed as they change.

Which kinds a proxy asks for, by which selectors; each has a follower of its own
(`shell.apifollow`), and all share one store. `synced` once all of them have been told
everything; after that the store is never emptied because the API cannot be reached.

What the objects mean is not known here, nor where credentials come from (`Access`).
aiohttp takes long to import, so that is done when the following begins.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from random import Random
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import kubeway
from kubeway.machines.pacer import Rng
from kubeway.machines.reflector import Reflector, Timing
from kubeway.machines.triggers import Triggers
from kubeway.model.store import Store
from kubeway.records import Recorder
from kubeway.shell.apifollow import Batch, Follower
from kubeway.shell.clock import monotonic
from kubeway.shell.noted import Noted

_READ: Final = 1 << 18
# Versions are of 63 bits.
_DIGITS: Final = 20
# A connection whose other end has silently gone is noticed after about 45 s.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
_USER_TIMEOUT_MS: Final = 30_000


class Access(Protocol):
    """Where the API is, whom we trust there, who we are. Ask for `headers` first: it may change the rest."""

    @property
    def server(self) -> str:
        """The API's base URL."""

    @property
    def ssl(self) -> ssl.SSLContext | None:
        """None for plain HTTP."""

    @property
    def server_hostname(self) -> str | None:
        """The name to be verified, where it is not the server's."""

    @property
    def proxy(self) -> str | None: ...

    async def headers(self) -> dict[str, str]:
        """What a request has to carry to be ours."""

    async def refresh(self) -> None:
        """Read all of it anew, because it was refused."""


class Progress(Protocol):
    """Who wants to know how far each kind has come (`machines.convergence.Convergence`)."""

    def heard(self, stream: str, rv: int, *, writes: Iterable[int] = (), anew: bool = False) -> None: ...

    def absent(self, stream: str) -> None: ...


class Resource(NamedTuple):
    """One kind of objects, and how to ask for those that matter. `optional`: as the Reflector's."""

    kind: str
    path: str
    selectors: Mapping[str, str]
    optional: bool = False


def resources(node: str) -> tuple[Resource, ...]:
    """What kube-proxy watches, by the same selectors. ServiceCIDRs are not in every cluster."""
    return (
        Resource(
            "Service",
            "/api/v1/services",
            {
                "labelSelector": "!service.kubernetes.io/service-proxy-name",
                "fieldSelector": "spec.clusterIP!=None",
            },
        ),
        Resource(
            "EndpointSlice",
            "/apis/discovery.k8s.io/v1/endpointslices",
            {"labelSelector": "!service.kubernetes.io/headless"},
        ),
        Resource("Node", "/api/v1/nodes", {"fieldSelector": f"metadata.name={node}"}),
        Resource("ServiceCIDR", "/apis/networking.k8s.io/v1/servicecidrs", {}, optional=True),
    )


KINDS: Final = tuple(resource.kind for resource in resources(""))
"""The streams `Progress` is told of."""


class ApiSource:
    """The objects of a cluster, folded into a store.

    `changed` is called when the store changed, once for all that came in one go, and
    before `progress` is told of it. `triggers` is told the times noted on EndpointSlices.
    """

    def __init__(
        self,
        access: Access,
        store: Store,
        changed: Callable[[], None],
        record: Recorder,
        *,
        node: str,
        progress: Progress | None = None,
        triggers: Triggers | None = None,
        timing: Timing | None = None,
        rng: Rng | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.synced = asyncio.Event()
        """All kinds have been heard: from now on the store holds what the API does, as last heard."""
        self._versions = dict.fromkeys(KINDS, "")
        self.versions: Mapping[str, str] = MappingProxyType(self._versions)
        """Of each kind, the resource version up to which all is in the store; "" at first."""
        self._waiting_for = set(KINDS)
        self._followers = [
            Follower(
                kind=kind,
                path=path,
                machine=Reflector(kind, selectors, rng or Random(), optional=optional, timing=timing),
                access=access,
                store=store,
                record=record,
                clock=clock,
                changed=changed,
                folded=self._folded if progress is None else self._telling(progress),
                noted=Noted(triggers) if triggers is not None and kind == "EndpointSlice" else None,
            )
            for kind, path, selectors, optional in resources(node)
        ]

    async def run(self) -> None:
        """Follow all kinds, until cancelled."""
        from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

        async with (
            ClientSession(
                connector=TCPConnector(limit=0, socket_factory=_lively_socket),
                headers={
                    "User-Agent": f"kubeway/{kubeway.__version__}",
                    "Accept": "application/json",
                    # On the way to the API server, compression costs more than it saves.
                    "Accept-Encoding": "identity",
                },
                timeout=ClientTimeout(total=None),
                cookie_jar=DummyCookieJar(),
                read_bufsize=_READ,
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            for follower in self._followers:
                group.create_task(follower.run(session))

    def _folded(self, batch: Batch) -> None:
        self._versions[batch.kind] = batch.version
        if batch.synced is not None:
            self._waiting_for.discard(batch.kind)
            if not self._waiting_for:
                self.synced.set()

    def _telling(self, progress: Progress) -> Callable[[Batch], None]:
        def folded(batch: Batch) -> None:
            if batch.synced is not None and batch.synced.absent:
                progress.absent(batch.kind)
            elif batch.synced is not None and (version := _number(batch.synced.version)):
                progress.heard(batch.kind, version, anew=True)
            if (version := _number(batch.version)) and batch.version != self._versions[batch.kind]:
                progress.heard(batch.kind, version, writes=filter(None, map(_number, batch.writes)))
            self._folded(batch)

        return folded


def _number(version: str) -> int:
    """A resource version as the number it is (KEP-5504); 0 if it is none, or greater than any can be."""
    return int(version) if version.isascii() and version.isdigit() and len(version) < _DIGITS else 0


def _lively_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket that notices when nobody is at the other end any more."""
    sock = socket.socket(*address[:3])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
    return sock
