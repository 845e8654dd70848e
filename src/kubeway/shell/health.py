"""
Health-check node ports: where load balancers ask which nodes have endpoints of their Service.

One port per Service of type LoadBalancer with the Local policy. `reconcile` opens
and closes listeners so that they are those the model wants; the answers always
show the latest counts. A port that cannot be bound stays closed on all its
addresses, is reported when that is news, and is tried again at the next `reconcile`
that comes a second or more later.

The answers are kube-proxy's, tab by tab: load balancers parse them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Final, NamedTuple

from kubeway.model.forward import HealthPort, ServiceName
from kubeway.model.node import FamilyView, NodeView
from kubeway.records import BindFailed, Listening, Recorder
from kubeway.shell.clock import monotonic
from kubeway.shell.http import Answer, Ask, Server, bound, without_family, words
from kubeway.values import Ip, show_addr

RETRY: Final = 1.0
_ANY: Final[Mapping[int, Ip]] = {4: Ip(bytes(4)), 6: Ip(bytes(16))}


def respond(port: HealthPort, healthy: bool) -> Answer:
    """200 if this node has ready endpoints and the proxy is well; any path, any method."""
    body = (
        '{\n\t"service": {\n'
        f'\t\t"namespace": "{port.service.namespace}",\n'
        f'\t\t"name": "{port.service.name}"\n'
        "\t},\n"
        f'\t"localEndpoints": {port.endpoints},\n'
        f'\t"serviceProxyHealthy": {"true" if healthy else "false"}\n'
        "}"
    )
    status = 200 if port.endpoints and healthy else 503
    return Answer(status, body, headers={"X-Load-Balancing-Endpoint-Weight": str(port.endpoints)})


class _Refusal(NamedTuple):
    """What could not be bound, why, and until when not to try it again."""

    port: int
    ips: tuple[Ip, ...]
    problem: str
    until: float


class HealthPorts:
    """`failed` is told of a Service whose port cannot be bound, in words; again when they change."""

    def __init__(
        self,
        healthy: Callable[[], bool],
        record: Recorder,
        failed: Callable[[HealthPort, str], None] = lambda port, problem: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._healthy = healthy
        self._record = record
        self._failed = failed
        self._clock = clock
        self._wanted: Mapping[ServiceName, HealthPort] = {}
        self._open: dict[ServiceName, tuple[int, tuple[Ip, ...], Server]] = {}
        self._refused: dict[ServiceName, _Refusal] = {}

    @property
    def patience(self) -> float:
        """After so many seconds `reconcile` would do something, even if nothing has changed; or inf."""
        now = self._clock()
        return max(0.0, min((each.until - now for each in self._refused.values()), default=inf))

    async def reconcile(self, wanted: Mapping[ServiceName, HealthPort], view: NodeView) -> None:
        """Make the listeners those of `wanted`, on the addresses that accept node ports."""
        ips = (*_listening(view.v4), *_listening(view.v6))
        # Counts first: an answer must not be late because a port is slow to open.
        self._wanted = dict(wanted)
        for name, (number, on, server) in list(self._open.items()):
            port = wanted.get(name)
            if port is None or (port.port, ips) != (number, on):
                del self._open[name]
                await server.close()
        for name in self._refused.keys() - wanted.keys():
            del self._refused[name]
        for name, port in wanted.items():
            if name not in self._open and not self._too_early(port, ips):
                await self._serve(port, ips)

    async def close(self) -> None:
        for _, _, server in self._open.values():
            await server.close()
        self._open.clear()

    def _too_early(self, port: HealthPort, ips: tuple[Ip, ...]) -> bool:
        """Syncs may be many: what was refused just now is not tried at each of them."""
        last = self._refused.get(port.service)
        return last is not None and (last.port, last.ips) == (port.port, ips) and self._clock() < last.until

    async def _serve(self, port: HealthPort, ips: tuple[Ip, ...]) -> None:
        server, name = Server(), port.service

        async def responder(_ask: Ask) -> Answer:
            # Between a Service's end and its listener's, there are no endpoints to count.
            return respond(self._wanted.get(name, HealthPort(name, 0, 0)), self._healthy())

        for ip in ips:
            try:
                await server.listen(bound(ip, port.port), responder)
            except OSError as error:
                if not any(ip) and without_family(error):
                    continue
                await server.close()
                self._refuse(port, ips, show_addr(ip, port.port), words(error))
                return
        self._open[name] = (port.port, ips, server)
        if self._refused.pop(name, None) is not None:
            addresses = ", ".join(show_addr(ip, port.port) for ip in ips)
            self._record(Listening(f"health check of {name}", addresses))

    def _refuse(self, port: HealthPort, ips: tuple[Ip, ...], address: str, why: str) -> None:
        name, problem = port.service, f"cannot listen on {address}: {why}"
        last = self._refused.get(name)
        self._refused[name] = _Refusal(port.port, ips, problem, self._clock() + RETRY)
        if last is None or last.problem != problem:
            self._record(BindFailed(f"health check of {name}", address, why))
            self._failed(port, problem)


def _listening(view: FamilyView) -> tuple[Ip, ...]:
    return (_ANY[view.family],) if view.node_ports is None else view.node_ports
