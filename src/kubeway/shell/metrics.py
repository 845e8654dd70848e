"""
Metrics: the records, folded into numbers that Prometheus reads.

`kubeproxy_*` are kube-proxy's, under its names, types, labels and buckets, as far
as they mean anything here (`metrics_kubeproxy`, `metrics_iptables`); `kubeway_*` are ours
(`metrics_kubeway`, `metrics_relay`); `kubernetes_*`, `rest_client_*`, `process_*` and `python_*` are
what every component of a cluster tells of itself (`metrics_process`).

prometheus_client takes longer to import than a first sync takes, so records are
held until `open`, which the daemon calls when the first sync is in the kernel's hands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from kubeway.records import Record
from kubeway.shell import clock

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from kubeway.shell.metrics_relay import Relay, Teller
    from kubeway.shell.outfit import Figures

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

KUBERNETES: Final = "1.36"
"""The version whose kube-proxy this behaves like; what compares versions of components reads it."""

Fold = Callable[[Record, int], None]
"""Takes a record and the time it was made, in nanoseconds since 1970."""


class Feature(NamedTuple):
    """A feature gate as it is set; `stage` is ALPHA, BETA, or "" for what is always there."""

    name: str
    stage: str
    enabled: bool


class Metrics:
    """A recorder. `lag` tells for how many seconds the oldest unwritten change has been waiting.

    `figures` tells what iptables mode counts by itself, once it is known, and `relay` who knows what
    userspace mode carries; they are asked by `open`.
    """

    def __init__(
        self,
        *,
        mode: str = "nftables",
        features: Iterable[Feature] = (),
        lag: Callable[[], float] = lambda: 0.0,
        figures: Callable[[], Figures | None] = lambda: None,
        relay: Callable[[], Teller | None] = lambda: None,
        now: Callable[[], int] = clock.wall,
    ) -> None:
        self._mode, self._features, self._lag, self._now = mode, tuple(features), lag, now
        self._figures, self._teller = figures, relay
        self._relay: Relay | None = None
        self._held: list[tuple[Record, int]] = []
        self._registry: CollectorRegistry | None = None
        self._folds: tuple[Fold, ...] = ()

    def record(self, record: Record) -> None:
        now = self._now()
        if self._registry is None:
            self._held.append((record, now))
            return
        for fold in self._folds:
            fold(record, now)

    def open(self) -> None:
        """Count what is held, and from now on every record at once. Again is no harm."""
        if self._registry is not None:
            return
        from prometheus_client import CollectorRegistry

        from kubeway.shell.metrics_kubeproxy import KubeProxy
        from kubeway.shell.metrics_kubeway import Kubeway
        from kubeway.shell.metrics_process import RestClient, register

        registry = CollectorRegistry(auto_describe=False)
        self._folds = (
            KubeProxy(registry, self._mode).fold,
            Kubeway(registry, self._lag).fold,
            RestClient(registry).fold,
        )
        if (figures := self._figures()) is not None:
            from kubeway.shell.metrics_iptables import Iptables

            self._folds = (*self._folds, Iptables(registry, figures).fold)
        if (teller := self._teller()) is not None:
            from kubeway.shell.metrics_relay import Relay

            self._relay = Relay(registry, teller)
            self._folds = (*self._folds, self._relay.fold)
        register(registry, self._features)
        self._registry = registry
        held, self._held = self._held, []
        for record, now in held:
            for fold in self._folds:
                fold(record, now)

    async def ask(self) -> None:
        """Have those who know figures tell them, so that `text` has them; it is not waited for long."""
        if (teller := self._teller()) is not None:
            from kubeway.shell.metrics_relay import PATIENCE

            await teller.ask(PATIENCE)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them. Opens it if it is not open."""
        from prometheus_client import generate_latest

        return generate_latest(self)

    def types(self) -> dict[str, str]:
        """The type of each metric that is registered, by its full name."""
        return {
            f"{one.name}_total" if one.type == "counter" else one.name: one.type for one in self.collect()
        }

    def collect(self) -> Iterable[Metric]:
        """What the registry holds, in the spelling of Go's client, whose series these continue."""
        self.open()
        assert self._registry is not None
        if self._relay is not None:
            self._relay.take()
        for metric in self._registry.collect():
            metric.samples = [
                sample._replace(labels={**sample.labels, "le": sample.labels["le"].removesuffix(".0")})
                if "le" in sample.labels
                else sample
                for sample in metric.samples
                if not sample.name.endswith("_created")  # which Go's does not tell
            ]
            yield metric
