"""
Health-check node ports: where load balancers ask which nodes have endpoints of their Service.

One port per Service of type LoadBalancer with the Local policy. `reconcile` opens
and closes listeners so that they are those the model wants; the answers always
show the latest counts. A port that cannot be bound is reported, stays closed on
all its addresses, and is tried again at the next `reconcile`.

The answers are kube-proxy's, tab by tab: load balancers parse them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from kubeway.model.forward import HealthPort, ServiceName
from kubeway.model.node import FamilyView, NodeView
from kubeway.records import BindFailed, Recorder
from kubeway.shell.http import Answer, Server, bound, without_family, words
from kubeway.values import Ip, show_addr

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


class HealthPorts:
    def __init__(self, healthy: Callable[[], bool], record: Recorder) -> None:
        self._healthy = healthy
        self._record = record
        self._wanted: Mapping[ServiceName, HealthPort] = {}
        self._open: dict[ServiceName, tuple[int, tuple[Ip, ...], Server]] = {}

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
        for name, port in wanted.items():
            if name not in self._open:
                await self._serve(port, ips)

    async def close(self) -> None:
        for _, _, server in self._open.values():
            await server.close()
        self._open.clear()

    async def _serve(self, port: HealthPort, ips: tuple[Ip, ...]) -> None:
        server, name = Server(), port.service

        def responder(_path: str) -> Answer:
            # Between a Service's end and its listener's, there are no endpoints to count.
            return respond(self._wanted.get(name, HealthPort(name, 0, 0)), self._healthy())

        for ip in ips:
            try:
                await server.listen(bound(ip, port.port), responder)
            except OSError as error:
                if not any(ip) and without_family(error):
                    continue
                self._record(BindFailed(f"health check of {name}", show_addr(ip, port.port), words(error)))
                await server.close()
                return
        self._open[name] = (port.port, ips, server)


def _listening(view: FamilyView) -> tuple[Ip, ...]:
    return (_ANY[view.family],) if view.node_ports is None else view.node_ports
