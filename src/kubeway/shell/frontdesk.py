"""
Who answers when the daemon is asked how it is: the healthz and the metrics server, and the
events that tell the cluster.

What is answered is decided elsewhere (`http`, `readyz`, `metrics_pages`); here it is put on
the addresses the configuration names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

from kubeway.machines.vitals import Eligibility, Vitals
from kubeway.model.configuration import encode
from kubeway.model.forward import ServiceName
from kubeway.records import Recorder
from kubeway.shell import clock
from kubeway.shell.http import serve, serve_healthz
from kubeway.shell.logs import Log
from kubeway.shell.metrics import Metrics
from kubeway.shell.metrics_pages import Pages
from kubeway.shell.options import Config
from kubeway.shell.readyz import Readiness

if TYPE_CHECKING:
    from kubeway.shell.events import Events

Hard = Callable[[str], Awaitable[None]]
_Reason = Literal["FailedToStartProxierHealthcheck", "FailedToStartMetricServer"]
_TELLING = 5.0  # seconds that an event may take when we are about to end


class FrontDesk:
    def __init__(
        self,
        config: Config,
        log: Log,
        metrics: Metrics,
        vitals: Vitals,
        eligibility: Eligibility,
        readiness: Readiness,
        record: Recorder,
    ) -> None:
        self._config, self._log, self._metrics = config, log, metrics
        self._vitals, self._eligibility, self._readiness = vitals, eligibility, readiness
        self._record = record
        self._events: Events | None = None
        self._started = clock.wall()

    def open(self, group: asyncio.TaskGroup, events: Events | None = None) -> None:
        """Start what the configuration asks for; `events`: where a cluster is to be told."""
        self._events = events
        if self._config.healthz is not None:
            group.create_task(
                serve_healthz(
                    self._config.healthz,
                    self._vitals,
                    lambda: self._eligibility.eligible,
                    self._record,
                    readyz=self._readiness.answer,
                    hard=self._hard("FailedToStartProxierHealthcheck"),
                )
            )
        if self._config.metrics is not None:
            group.create_task(self._serve_metrics())

    def tell(
        self, reason: Literal["FailedToStartServiceHealthcheck"], note: str, service: ServiceName
    ) -> None:
        """An event of a Service, where there is a cluster to be told."""
        if self._events is not None:
            self._events.emit(reason, note, action="Listen", service=service)

    async def _serve_metrics(self) -> None:
        assert self._config.metrics is not None
        self._metrics.open()
        pages = Pages(
            self._metrics,
            mode=self._config.options.mode,
            started=self._started,
            configz=lambda: encode(self._config.configuration),
            flags=lambda: self._config.flags,
            profiling=self._config.profiling,
            set_verbosity=self._log.set_verbosity,
        )
        hard = self._hard("FailedToStartMetricServer")
        await serve("metrics", self._config.metrics, pages.answer, self._record, hard=hard)

    def _hard(self, reason: _Reason) -> Hard | None:
        """What to do when an address cannot be had; None: try again for ever."""
        if not self._config.hard_fail:
            return None

        async def tell(problem: str) -> None:
            if self._events is not None:
                self._events.emit(reason, problem)
                await self._events.flush(_TELLING)

        return tell
