"""
What every component of a cluster tells of itself: its build, its process, its
requests to the API server, and that it answers at all.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

import kubeway
from kubeway import records
from kubeway.records import Record
from kubeway.shell.metrics import KUBERNETES, Feature

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


_REQUESTS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60)


def git_version() -> str:
    """`v1.36.0+kubeway.0.1.0`: as components write theirs, ours as the build."""
    return f"v{KUBERNETES}.0+kubeway.{kubeway.__version__}"


class RestClient:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "rest_client_requests",
            "Requests to the API server by status, method and host.",
            ("code", "method", "host"),
            registry=registry,
        )
        self._durations = Histogram(
            "rest_client_request_duration_seconds",
            "From a request to the API server to the head of its answer.",
            ("verb", "host"),
            buckets=_REQUESTS,
            registry=registry,
        )

    def fold(self, record: Record, now: int) -> None:
        if isinstance(record, records.ApiRequested):
            self._requests.labels(record.code, record.method, record.host).inc()
            self._durations.labels(record.method, record.host).observe(record.seconds)


def register(registry: CollectorRegistry, features: Iterable[Feature]) -> None:
    """Those that need no records."""
    major, _, minor = KUBERNETES.partition(".")
    build = {
        "major": major,
        "minor": minor,
        "git_version": git_version(),
        "git_commit": "",
        "git_tree_state": "",
        "build_date": "",
        "go_version": f"python{platform.python_version()}",
        "compiler": platform.python_implementation().lower(),
        "platform": f"{platform.system().lower()}/{platform.machine()}",
    }
    Gauge("kubernetes_build_info", "What this is.", build, registry=registry).labels(**build).set(1)
    gates = Gauge(
        "kubernetes_feature_enabled",
        "Feature gates and whether they are on.",
        ("name", "stage"),
        registry=registry,
    )
    for feature in features:
        gates.labels(feature.name, feature.stage).set(feature.enabled)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)


class Slis:
    """/metrics/slis: each asking is a check that we answer, and is counted."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        check = {"name": "ping", "type": "healthz"}
        Gauge(
            "kubernetes_healthcheck",
            "Whether the check went well.",
            ("name", "type"),
            registry=self._registry,
        ).labels(**check).set(1)
        counter = Counter(
            "kubernetes_healthchecks",
            "Checks by result.",
            ("name", "status", "type"),
            registry=self._registry,
        )
        self._checks = counter.labels(**check, status="success")
        self._process = ProcessCollector(registry=None)

    def checked(self) -> None:
        self._checks.inc()

    def text(self) -> bytes:
        return generate_latest(self)

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric
        yield from (one for one in self._process.collect() if one.name == "process_start_time_seconds")
