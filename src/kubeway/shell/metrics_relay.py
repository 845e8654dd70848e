"""
What the relay of userspace mode has carried, as metrics.

The workers are asked when somebody wants to see them (`ask`), and what they told last is what is seen: one
that does not answer holds nobody up. Sums only, no series for each Service: a node has thousands.
"""

from __future__ import annotations

from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from kubeway import records
from kubeway.planes.relay.entrance import Tally
from kubeway.records import Record
from kubeway.shell.relay.orders import Sums
from kubeway.values import PROTO_NAMES, TCP, UDP

PATIENCE: Final = 0.3
"""Seconds that workers have to tell their figures, before those that are known are shown."""


class Teller(Protocol):
    """Who knows the figures: the relay plane."""

    async def ask(self, patience: float) -> None:
        """Have the workers tell; not longer than so many seconds."""

    def sums(self) -> Sums:
        """As last told. What counts up goes on counting up, whoever of them dies."""

    @property
    def processes(self) -> list[int]:
        """Of the workers that live."""


class Relay:
    def __init__(self, registry: CollectorRegistry, teller: Teller) -> None:
        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"kubeway_relay_{name}", words, labels, registry=registry)

        def gauge(name: str, words: str) -> Gauge:
            return Gauge(f"kubeway_relay_{name}", words, registry=registry)

        self._teller = teller
        self._before = Sums()
        self._carried = {
            field: counter(name, words, "protocol")
            for field, name, words in (
                ("connections", "connections", "TCP connections and UDP sessions that came."),
                ("refused", "refused", "Of them, those that nobody served."),
                ("retried", "retries", "Tries at another endpoint, after one refused or was silent."),
                ("sent", "sent_bytes", "Payload from clients to endpoints."),
                ("received", "received_bytes", "Payload from endpoints to clients."),
            )
        }
        self._shed = counter("shed", "Connections and sessions let go for lack of descriptors or of room.")
        self._lost = counter("datagrams_lost", "Datagrams that went nowhere.")
        self._open = gauge("open_connections", "TCP connections now, those that wait included.")
        self._waiting = gauge("waiting_connections", "Connections that wait for an endpoint now.")
        self._sessions = gauge("sessions", "UDP sessions now.")
        self._workers = gauge("workers", "Worker processes that live.")
        self._restarts = counter("worker_restarts", "Times that a worker died and had to be started anew.")

    def fold(self, record: Record, now: int) -> None:
        if isinstance(record, records.RelayWorkerDied):
            self._restarts.inc()

    def take(self) -> None:
        """What was told last is to be seen."""
        before, now = self._before, self._teller.sums()
        for proto, was, is_ in ((TCP, before.tcp, now.tcp), (UDP, before.udp, now.udp)):
            for field, metric in self._carried.items():
                metric.labels(PROTO_NAMES[proto]).inc(_more(was, is_, field))
        self._shed.inc(max(0, now.shed - before.shed))
        self._lost.inc(max(0, now.lost - before.lost))
        self._open.set(now.open)
        self._waiting.set(now.waiting)
        self._sessions.set(now.sessions)
        self._workers.set(len(self._teller.processes))
        self._before = now


def _more(was: Tally, is_: Tally, field: str) -> int:
    more: int = getattr(is_, field) - getattr(was, field)
    return max(0, more)
