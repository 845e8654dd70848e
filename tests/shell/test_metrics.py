"""Records as metrics: each fold, and the names, types, labels and buckets of kube-proxy."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from kubeway import records
from kubeway.records import Record
from kubeway.shell.metrics import Feature, Metrics

NOW = 1_795_000_000_500_000_000

KUBE_PROXY = {
    "kubeproxy_sync_proxy_rules_duration_seconds": "histogram",
    "kubeproxy_sync_full_proxy_rules_duration_seconds": "histogram",
    "kubeproxy_sync_partial_proxy_rules_duration_seconds": "histogram",
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds": "gauge",
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds": "gauge",
    "kubeproxy_network_programming_duration_seconds": "histogram",
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending": "gauge",
    "kubeproxy_sync_proxy_rules_endpoint_changes_total": "counter",
    "kubeproxy_sync_proxy_rules_service_changes_pending": "gauge",
    "kubeproxy_sync_proxy_rules_service_changes_total": "counter",
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total": "gauge",
    "kubeproxy_proxy_healthz_total": "counter",
    "kubeproxy_proxy_livez_total": "counter",
    "kubeproxy_sync_proxy_rules_nftables_sync_failures_total": "counter",
    "kubeproxy_conntrack_reconciler_sync_duration_seconds": "histogram",
    "kubeproxy_conntrack_reconciler_deleted_entries_total": "counter",
}
BOTH = ("IPv4", "IPv6")


def metrics(*told: Record) -> Metrics:
    made = Metrics(now=lambda: NOW)
    for record in told:
        made.record(record)
    return made


def samples(made: Metrics) -> list[Sample]:
    families = text_string_to_metric_families(made.text().decode())
    return [sample for family in families for sample in family.samples]


def value(made: Metrics, name: str, /, **labels: str) -> float | None:
    """The one sample of this name and these labels; None if there is none."""
    found = [one.value for one in samples(made) if one.name == name and one.labels == labels]
    assert len(found) < 2
    return found[0] if found else None


def le(made: Metrics, name: str) -> list[str]:
    lines = made.text().decode().splitlines()
    head = f'{name}_bucket{{ip_family="IPv4",le="'
    return [line.removeprefix(head).partition('"')[0] for line in lines if line.startswith(head)]


# --- kube-proxy's ------------------------------------------------------------------------------


def test_names_and_types_are_kube_proxy_s() -> None:
    types = metrics().types()
    assert {name: kind for name, kind in types.items() if name.startswith("kubeproxy_")} == KUBE_PROXY


def test_the_page_says_the_types() -> None:
    lines = metrics().text().decode().splitlines()
    assert {f"# TYPE {name} {kind}" for name, kind in KUBE_PROXY.items()} <= set(lines)
    assert not [line for line in lines if "_created" in line], "Go's client does not tell them"


def test_other_modes_count_no_nftables_failures() -> None:
    assert "kubeproxy_sync_proxy_rules_nftables_sync_failures_total" not in Metrics(mode="ipvs").types()


def test_buckets_are_spelt_as_go_spells_them() -> None:
    made = metrics(records.Synced(1), records.Programmed("IPv4", 1.0), records.Swept(1.0))
    short = [f"{0.001 * 2**power:.3f}" for power in range(15)]
    for name in ("sync_proxy_rules", "sync_partial_proxy_rules", "conntrack_reconciler_sync"):
        assert le(made, f"kubeproxy_{name}_duration_seconds") == [*short, "+Inf"]
    long = ["0.25", "0.5", *map(str, range(1, 60)), *map(str, range(60, 116, 5))]
    long += [*map(str, range(120, 301, 30)), "+Inf"]
    assert le(made, "kubeproxy_network_programming_duration_seconds") == long


def test_a_series_with_labels_appears_when_it_is_first_used() -> None:
    assert not [one for one in samples(metrics()) if one.name.startswith("kubeproxy_") and one.labels]


def test_a_sync() -> None:
    made = metrics(records.Synced(3, 1, plan_ms=500.0, write_ms=1500.0, took_ms=2500.0))
    for family in BOTH:
        for name in ("sync_proxy_rules", "sync_partial_proxy_rules"):
            assert value(made, f"kubeproxy_{name}_duration_seconds_sum", ip_family=family) == 2.5
        last = "kubeproxy_sync_proxy_rules_last_timestamp_seconds"
        assert value(made, last, ip_family=family) == 1_795_000_000.5
    full = "kubeproxy_sync_full_proxy_rules_duration_seconds_count"
    assert value(made, full, ip_family="IPv4") is None
    made.record(records.Synced(3, 9, plan_ms=500.0, write_ms=1500.0, cause="start"))
    made.record(records.Synced(3, 9, full=True))
    assert value(made, full, ip_family="IPv6") == 2
    assert value(made, full.replace("count", "sum"), ip_family="IPv6") == 2.0, "the stages, if not the whole"


@pytest.mark.parametrize(
    "failure",
    [
        records.Refused("no", took_ms=250.0),
        records.SyncFailed("no", took_ms=250.0),
    ],
)
def test_a_sync_that_failed(failure: Record) -> None:
    made = metrics(failure)
    assert value(made, "kubeproxy_sync_proxy_rules_duration_seconds_sum", ip_family="IPv6") == 0.25
    name = "kubeproxy_sync_proxy_rules_nftables_sync_failures_total"
    assert value(made, name, ip_family="IPv4") == value(made, name, ip_family="IPv6") == 1
    assert value(made, "kubeproxy_sync_proxy_rules_last_timestamp_seconds", ip_family="IPv4") is None
    made.record(records.SetAside("shop/cart", "no"))
    assert value(made, name, ip_family="IPv4") == 2


def test_changes_are_pending_until_a_sync_takes_them() -> None:
    made = metrics(records.Heard(services=2, slices=5), records.Heard(slices=1))
    head = "kubeproxy_sync_proxy_rules"
    assert value(made, f"{head}_service_changes_pending") == 2
    assert value(made, f"{head}_endpoint_changes_pending") == 6
    assert value(made, f"{head}_last_queued_timestamp_seconds", ip_family="IPv6") == 1_795_000_000.5
    made.record(records.SyncBegan())
    made.record(records.Heard(services=1))
    assert value(made, f"{head}_service_changes_pending") == 1
    assert value(made, f"{head}_endpoint_changes_pending") == 0
    assert value(made, f"{head}_service_changes_total") == 3
    assert value(made, f"{head}_endpoint_changes_total") == 6


def test_a_start_queues_a_sync() -> None:
    made = metrics(records.Started("1", "node1", "nftables"))
    name = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds"
    assert value(made, name, ip_family="IPv4") == 1_795_000_000.5


def test_programming_latency() -> None:
    made = metrics(records.Programmed("IPv6", 0.3), records.Programmed("IPv6", 62.0))
    name = "kubeproxy_network_programming_duration_seconds"
    assert value(made, f"{name}_count", ip_family="IPv6") == 2
    assert value(made, f"{name}_bucket", ip_family="IPv6", le="0.5") == 1
    assert value(made, f"{name}_count", ip_family="IPv4") is None


def test_local_policies_without_endpoints() -> None:
    made = metrics(records.InForce(9, 40, no_local_internal_v4=1, no_local_external_v6=3))
    name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
    counts = {
        (one.labels["traffic_policy"], one.labels["ip_family"]): one.value
        for one in samples(made)
        if one.name == name
    }
    assert counts == {
        ("internal", "IPv4"): 1,
        ("internal", "IPv6"): 0,
        ("external", "IPv4"): 0,
        ("external", "IPv6"): 3,
    }


def test_probes() -> None:
    probes = [("/healthz", 200), ("/healthz", 503), ("/healthz", 200), ("/livez", 200), ("/readyz", 200)]
    made = metrics(*(records.Probed(*probe) for probe in probes))
    assert value(made, "kubeproxy_proxy_healthz_total", code="200") == 2
    assert value(made, "kubeproxy_proxy_healthz_total", code="503") == 1
    assert value(made, "kubeproxy_proxy_livez_total", code="200") == 1
    assert value(made, "kubeproxy_proxy_livez_total", code="503") is None


def test_stale_flows() -> None:
    made = metrics(records.Swept(2000.0, v4=3, v6=1), records.Swept(1000.0, v4=1))
    name = "kubeproxy_conntrack_reconciler"
    assert value(made, f"{name}_sync_duration_seconds_sum", ip_family="IPv6") == 3.0
    assert value(made, f"{name}_deleted_entries_total", ip_family="IPv4") == 4
    assert value(made, f"{name}_deleted_entries_total", ip_family="IPv6") == 1


# --- ours ------------------------------------------------------------------------------------------


def test_the_stages_of_a_sync() -> None:
    synced = records.Synced(
        7, 2, 3000.0, 4000.0, settle_ms=1000.0, compile_ms=1500.0, link_ms=500.0, read_ms=250.0, lag_ms=7000.0
    )
    made = metrics(synced)
    stages = {
        one.labels["stage"]: one.value
        for one in samples(made)
        if one.name == "kubeway_sync_stage_duration_seconds_sum"
    }
    assert stages == {"settle": 1.0, "compile": 1.5, "link": 0.5, "plan": 3.0, "read": 0.25, "write": 4.0}
    assert value(made, "kubeway_kernel_changes_total") == 7
    assert value(made, "kubeway_syncs_total", cause="change") == 1
    assert value(made, "kubeway_convergence_duration_seconds_sum") == 7.0


def test_drift() -> None:
    made = metrics(records.Drifted(1, 2, 3), records.Repaired(6))
    assert value(made, "kubeway_drifts_total") == 1
    assert [
        value(made, "kubeway_drifted_objects_total", what=w) for w in ("missing", "altered", "foreign")
    ] == [1, 2, 3]
    assert value(made, "kubeway_drift_repairs_total") == 1
    assert value(made, "kubeway_drift_repaired_objects_total") == 6


def test_waits_for_the_xtables_lock_are_one_histogram() -> None:
    made = metrics(records.LockWaited(0.25), records.LockWaitedLong(1.5))
    assert value(made, "kubeway_xtables_lock_wait_seconds_count") == 2
    assert value(made, "kubeway_xtables_lock_wait_seconds_sum") == 1.75


def test_what_is_in_force_and_what_is_not() -> None:
    made = metrics(
        records.InForce(9, 40, set_aside=2, claims_lost=3),
        records.SetAside("shop/cart", "no"),
        records.ServiceLeftOut("shop/cart", "no"),
        records.ObjectBad("Service shop/cart", "no"),
        records.Forgot(12),
        records.ForgetFailed("no"),
        records.EventLost("Starting", "Node a", "no"),
    )
    shown = {one.name: one.value for one in samples(made) if one.name.startswith("kubeway_")}
    assert {
        "kubeway_service_ports": 9,
        "kubeway_kernel_objects": 40,
        "kubeway_set_aside": 2,
        "kubeway_claims_lost": 3,
        "kubeway_set_asides_total": 1,
        "kubeway_service_ports_left_out_total": 1,
        "kubeway_bad_objects_total": 1,
        "kubeway_conntrack_flows_forgotten_total": 12,
        "kubeway_conntrack_failures_total": 1,
        "kubeway_events_lost_total": 1,
    }.items() <= shown.items()


def test_the_lag_is_asked_when_metrics_are() -> None:
    lag = 1.5
    made = Metrics(lag=lambda: lag)
    assert value(made, "kubeway_convergence_lag_seconds") == 1.5
    lag = 0.0
    assert value(made, "kubeway_convergence_lag_seconds") == 0.0


# --- of every component ------------------------------------------------------------------------------


def test_what_every_component_tells() -> None:
    made = Metrics(features=[Feature("ProxyX", "BETA", True), Feature("ProxyY", "ALPHA", False)])
    made.record(records.ApiRequested("GET", "10.0.0.1:6443", "200", 0.2))
    made.record(records.ApiRequested("GET", "10.0.0.1:6443", "<error>"))
    assert value(made, "kubernetes_feature_enabled", name="ProxyX", stage="BETA") == 1
    assert value(made, "kubernetes_feature_enabled", name="ProxyY", stage="ALPHA") == 0
    where = {"method": "GET", "host": "10.0.0.1:6443"}
    assert value(made, "rest_client_requests_total", code="200", **where) == 1
    assert value(made, "rest_client_requests_total", code="<error>", **where) == 1
    took = "rest_client_request_duration_seconds_sum"
    assert value(made, took, verb="GET", host="10.0.0.1:6443") == 0.2
    build = next(one.labels for one in samples(made) if one.name == "kubernetes_build_info")
    assert (build["major"], build["minor"]) == ("1", "36")
    assert build["git_version"].startswith("v1.36.")
    names = {one.name for one in samples(made)}
    assert {"process_start_time_seconds", "process_cpu_seconds_total", "process_open_fds"} <= names
    assert {"python_info", "python_gc_collections_total"} <= names


# --- before it is opened -------------------------------------------------------------------------------


def test_records_of_before_it_was_opened_count_with_their_time() -> None:
    now = NOW
    made = Metrics(now=lambda: now)
    made.record(records.Synced(1))
    now += 60_000_000_000
    made.open()
    made.open()
    last = "kubeproxy_sync_proxy_rules_last_timestamp_seconds"
    assert value(made, last, ip_family="IPv4") == 1_795_000_000.5
    made.record(records.Synced(1))
    assert value(made, last, ip_family="IPv4") == 1_795_000_060.5
    assert value(made, "kubeway_syncs_total", cause="change") == 2


def test_nothing_dear_is_imported_before_it_is_opened() -> None:
    code = (
        "import sys; from kubeway.shell.metrics import Metrics; from kubeway.records import Synced; "
        "Metrics().record(Synced(1)); sys.exit('prometheus_client' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
