"""
What kube-proxy has no metric for: drift, stages of a sync, what is left out, convergence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from kubeway import records
from kubeway.records import Record

# From what a change of one element costs to what a cold start of a big cluster costs.
_SHORT: Final = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Kubeway:
    """`lag`: seconds for which the oldest change that the kernel does not hold has been waiting."""

    def __init__(self, registry: CollectorRegistry, lag: Callable[[], float]) -> None:
        def counter(name: str, words: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"kubeway_{name}", words, labels, registry=registry)

        def gauge(name: str, words: str) -> Gauge:
            return Gauge(f"kubeway_{name}", words, registry=registry)

        self._stages = Histogram(
            "kubeway_sync_stage_duration_seconds",
            "How long each stage of a sync took.",
            ("stage",),
            buckets=_SHORT,
            registry=registry,
        )
        self._syncs = counter("syncs", "Syncs that ended well, by what led to them.", ("cause",))
        self._changes = counter("kernel_changes", "Objects added, changed or deleted in the kernel by syncs.")
        self._lags = Histogram(
            "kubeway_convergence_duration_seconds",
            "From the first unwritten change heard to the kernel's acknowledgement.",
            buckets=_SHORT,
            registry=registry,
        )
        gauge(
            "convergence_lag_seconds", "How long the oldest change that the kernel lacks has been waiting."
        ).set_function(lag)
        self._drifts = counter("drifts", "Times that others were found to have changed our rules.")
        self._drifted = counter(
            "drifted_objects", "Objects of ours that others changed.", ("what",)
        )  # missing, altered, foreign
        self._repairs = counter("drift_repairs", "Times that drift was repaired.")
        self._repaired = counter("drift_repaired_objects", "Changes that repaired drift.")
        self._objects = gauge("kernel_objects", "Objects of ours that the kernel holds.")
        self._ports = gauge("service_ports", "Service ports in force, each family for itself.")
        self._aside = gauge(
            "set_aside", "Service ports (or stray objects) left out because the kernel refused them."
        )
        self._asides = counter("set_asides", "Times that something was set aside.")
        self._lost = gauge("claims_lost", "Addresses and ports that a Service wants and another one holds.")
        self._left_out = counter("service_ports_left_out", "Times that a service port could not be compiled.")
        self._bad = counter("bad_objects", "Objects, or parts of them, that could not be honoured.")
        self._flows = counter("conntrack_flows_forgotten", "Stale flows that were forgotten.")
        self._forget_failures = counter(
            "conntrack_failures", "Times that stale flows could not be forgotten."
        )
        self._lock_waits = Histogram(
            "kubeway_xtables_lock_wait_seconds",
            "How long the xtables lock was waited for before rules were written.",
            buckets=_SHORT,
            registry=registry,
        )
        self._events_lost = counter("events_lost", "Events that the cluster could not be told.")

    def fold(self, record: Record, now: int) -> None:
        match record:
            case records.Synced():
                self._syncs.labels(record.cause).inc()
                self._changes.inc(record.changes)
                for stage, took in (
                    ("settle", record.settle_ms),
                    ("compile", record.compile_ms),
                    ("link", record.link_ms),
                    ("plan", record.plan_ms),
                    ("read", record.read_ms),
                    ("write", record.write_ms),
                ):
                    if took:
                        self._stages.labels(stage).observe(took / 1000)
                if record.lag_ms:
                    self._lags.observe(record.lag_ms / 1000)
            case records.InForce():
                self._objects.set(record.objects)
                self._ports.set(record.service_ports)
                self._aside.set(record.set_aside)
                self._lost.set(record.claims_lost)
            case records.Drifted():
                self._drifts.inc()
                self._drifted.labels("missing").inc(record.missing)
                self._drifted.labels("altered").inc(record.altered)
                self._drifted.labels("foreign").inc(record.foreign)
            case records.Repaired():
                self._repairs.inc()
                self._repaired.inc(record.changes)
            case records.SetAside():
                self._asides.inc()
            case records.ServiceLeftOut():
                self._left_out.inc()
            case records.ObjectBad():
                self._bad.inc()
            case records.Forgot():
                self._flows.inc(record.flows)
            case records.ForgetFailed():
                self._forget_failures.inc()
            case records.LockWaited() | records.LockWaitedLong():
                self._lock_waits.observe(record.seconds)
            case records.EventLost():
                self._events_lost.inc()
            case _:
                pass
