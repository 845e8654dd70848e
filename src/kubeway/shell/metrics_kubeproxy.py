"""
kube-proxy's metrics, under its names, types, labels and buckets.

Both families are one program here, written in one transaction: what kube-proxy
tells of each family's sync holds for both, and is told under both labels. A change
of a Service is counted once, where kube-proxy counts it once for each family.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from kubeway import records
from kubeway.records import Record

FAMILIES: Final = ("IPv4", "IPv6")
_FAMILY: Final = ("ip_family",)
SECONDS: Final = tuple(0.001 * 2**power for power in range(15))
_LATENCIES: Final = (0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))
_HEALTH: Final = {"/healthz": "healthz", "/livez": "livez"}


class KubeProxy:
    def __init__(self, registry: CollectorRegistry, mode: str) -> None:
        def counter(name: str, words: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"kubeproxy_{name}", words, labels, registry=registry)

        def gauge(name: str, words: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"kubeproxy_{name}", words, labels, registry=registry)

        def histogram(name: str, words: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"kubeproxy_{name}", words, _FAMILY, buckets=buckets, registry=registry)

        self._sync = histogram("sync_proxy_rules_duration_seconds", "How long a sync took, failed or not.")
        self._full = histogram(
            "sync_full_proxy_rules_duration_seconds", "How long a sync of all Services took."
        )
        self._partial = histogram(
            "sync_partial_proxy_rules_duration_seconds", "How long a sync of what had changed took."
        )
        self._last = gauge(
            "sync_proxy_rules_last_timestamp_seconds", "When the last sync ended well.", _FAMILY
        )
        self._queued = gauge(
            "sync_proxy_rules_last_queued_timestamp_seconds", "When a sync was last asked for.", _FAMILY
        )
        self._latency = histogram(
            "network_programming_duration_seconds",
            "From what led to a change of endpoints until it was in force.",
            _LATENCIES,
        )
        self._slices_pending = gauge(
            "sync_proxy_rules_endpoint_changes_pending", "Changes of EndpointSlices not taken by a sync yet."
        )
        self._slices = counter("sync_proxy_rules_endpoint_changes", "Changes of EndpointSlices.")
        self._services_pending = gauge(
            "sync_proxy_rules_service_changes_pending", "Changes of Services not taken by a sync yet."
        )
        self._services = counter("sync_proxy_rules_service_changes", "Changes of Services.")
        self._no_local = gauge(
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports with a Local policy that have endpoints, but none on this node.",
            ("traffic_policy", "ip_family"),
        )
        self._health = {
            path: counter(f"proxy_{name}", f"Answers of {path} by status.", ("code",))
            for path, name in _HEALTH.items()
        }
        # Of the modes that write otherwise, kube-proxy has other counters.
        self._failures = None
        if mode == "nftables":
            self._failures = counter(
                "sync_proxy_rules_nftables_sync_failures", "Transactions that the kernel refused.", _FAMILY
            )
        self._sweeps = histogram(
            "conntrack_reconciler_sync_duration_seconds", "How long looking for stale flows took."
        )
        self._forgotten = counter(
            "conntrack_reconciler_deleted_entries", "Stale flows that were forgotten.", _FAMILY
        )

    def fold(self, record: Record, now: int) -> None:
        match record:
            case records.Synced():
                took = _took(record)
                _observe(self._sync, took)
                _observe(self._full if record.full or record.cause == "start" else self._partial, took)
                _set(self._last, now / 1e9)
            case records.Heard():
                self._services.inc(record.services)
                self._slices.inc(record.slices)
                self._services_pending.inc(record.services)
                self._slices_pending.inc(record.slices)
                _set(self._queued, now / 1e9)
            case records.SyncBegan():
                self._services_pending.set(0)
                self._slices_pending.set(0)
            case records.Programmed():
                self._latency.labels(record.family).observe(record.seconds)
            case records.Probed() if record.path in self._health:
                self._health[record.path].labels(str(record.status)).inc()
            case records.InForce():
                for policy, family, count in (
                    ("internal", "IPv4", record.no_local_internal_v4),
                    ("internal", "IPv6", record.no_local_internal_v6),
                    ("external", "IPv4", record.no_local_external_v4),
                    ("external", "IPv6", record.no_local_external_v6),
                ):
                    self._no_local.labels(policy, family).set(count)
            case records.Swept():
                _observe(self._sweeps, record.took_ms / 1000)
                self._forgotten.labels("IPv4").inc(record.v4)
                self._forgotten.labels("IPv6").inc(record.v6)
            case records.Refused() | records.SyncFailed():
                if record.took_ms:
                    _observe(self._sync, record.took_ms / 1000)
                self._failed()
            case records.SetAside():
                self._failed()
            case records.Started() | records.AddressesChanged():
                _set(self._queued, now / 1e9)
            case _:
                pass

    def _failed(self) -> None:
        if self._failures is not None:
            for family in FAMILIES:
                self._failures.labels(family).inc()


def _took(record: records.Synced) -> float:
    return (record.took_ms or record.read_ms + record.plan_ms + record.write_ms) / 1000


def _observe(histogram: Histogram, seconds: float) -> None:
    for family in FAMILIES:
        histogram.labels(family).observe(seconds)


def _set(gauge: Gauge, value: float) -> None:
    for family in FAMILIES:
        gauge.labels(family).set(value)
