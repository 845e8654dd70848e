"""
What kube-proxy tells of iptables mode alone, under its names.

How many rules there are and were written is asked when a sync has come to its end. Packets are counted
by the kernel, and read at each scrape; they do not begin at 0, as the kernel's counters outlive us.
"""

from __future__ import annotations

from collections import Counter as Tallies
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import CounterMetricFamily

from kubeway import records
from kubeway.errors import KubewayError
from kubeway.planes.nfacct import INVALID, LOCALHOST
from kubeway.planes.xtables.objects import Family, TableName
from kubeway.planes.xtables.tally import Table
from kubeway.records import Record
from kubeway.shell.outfit import Figures, Packets

FAMILIES: Final[dict[Family, str]] = {"ip": "IPv4", "ip6": "IPv6"}
_TABLES: Final[tuple[TableName, ...]] = ("filter", "nat")
_LABELS: Final = ("table", "ip_family")

_COUNTED: Final = {
    INVALID: (
        "ct_state_invalid_dropped_packets",
        "Packets dropped as connection tracking takes them for part of no flow.",
    ),
    LOCALHOST: (
        "localhost_nodeports_accepted_packets",
        "Flows that came in by a node port at loopback.",
    ),
}


class Iptables:
    """`figures` says who counts."""

    def __init__(self, registry: CollectorRegistry, figures: Figures) -> None:
        self._tally = figures.rules
        self._before: Tallies[Table] = Tallies()
        self._total = Gauge(
            "kubeproxy_sync_proxy_rules_iptables_total", "Rules that are ours.", _LABELS, registry=registry
        )
        self._last = Gauge(
            "kubeproxy_sync_proxy_rules_iptables_last",
            "Rules that the last sync wrote.",
            _LABELS,
            registry=registry,
        )
        self._failures = Counter(
            "kubeproxy_sync_proxy_rules_iptables_restore_failures",
            "Writes that the kernel refused.",
            ("ip_family",),
            registry=registry,
        )
        self._partial_failures = Counter(
            "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures",
            "Of these, those after a sync that went well.",
            ("ip_family",),
            registry=registry,
        )
        self._went_well = False
        if figures.packets is not None:
            registry.register(_Packets(figures.packets))

    def fold(self, record: Record, now: int) -> None:
        match record:
            case records.Synced():
                self._went_well = True
                self._tell_rules()
            case records.Refused() | records.SyncFailed() | records.SetAside():
                for family in FAMILIES.values():
                    self._failures.labels(family).inc()
                    if self._went_well:
                        self._partial_failures.labels(family).inc()
                self._went_well = False
            case _:
                pass

    def _tell_rules(self) -> None:
        for family, word in FAMILIES.items():
            for table in _TABLES:
                place = family, table
                written = self._tally.written[place]
                self._total.labels(table, word).set(self._tally.there[place])
                self._last.labels(table, word).set(written - self._before[place])
                self._before[place] = written


class _Packets:
    """Asks the kernel's counters at each scrape."""

    def __init__(self, packets: Packets) -> None:
        self._packets = packets

    def collect(self) -> Iterator[CounterMetricFamily]:
        try:
            packets = self._packets()
        except KubewayError:
            packets = {}  # the next scrape asks again
        for name, (metric, words) in _COUNTED.items():
            family = CounterMetricFamily(f"kubeproxy_iptables_{metric}", words)
            if name in packets:
                family.add_metric((), packets[name])
            yield family
