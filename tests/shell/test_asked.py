"""Which word counts: flags, the file, and what follows where neither says anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kubeway.errors import BadInput
from kubeway.model.config_flags import BY_NAME, FLAGS, Flag, read
from kubeway.model.configuration import Configuration, decode, encode, get
from kubeway.shell.asked import EVERYWHERE, Asked, settle

HEAD = "kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1alpha1\n"
NFTABLES = {"proxy-mode": ["nftables"]}


def flags(**given: str) -> Asked:
    """As from a command line, in nftables mode unless said otherwise."""
    named = {name.replace("_", "-"): [text] for name, text in given.items()}
    return settle({**NFTABLES, **named})


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def with_file(text: str, **given: str) -> Asked:
        path = tmp_path / "config.conf"
        path.write_text(HEAD + text)
        named = {name.replace("_", "-"): [text] for name, text in given.items()}
        return settle({"config": [str(path)], **named})

    return with_file


# --- flags alone -------------------------------------------------------------------------

# What a flag is given here, where its kind does not say it.
SAMPLES = {
    "address": "10.0.0.1",
    "bool": "true",
    "duration": "17s",
    "endpoint": "10.0.0.1:17",
    "float32": "1.5",
    "gates": "NativeHistograms=true",
    "int32": "17",
    "list": "10.0.0.0/8,11.0.0.0/8",
    "quantity": "17Ki",
    "string": "x",
    "verbosity": "17",
    "vmodule": "a=1,b=2",
    "detect-local-mode": "NodeCIDR",
    "iptables-localhost-nodeports": "false",
    "kubeway-drift-repair": "false",
    "logging-format": "json",
    "proxy-mode": "ipvs",
    "show-hidden-metrics-for-version": "1.35",
    "kubeway-min-sync-gap": "17s",
    "kubeway-iptables-backend": "legacy",
    "kubeway-steering": "xtables",
    "cluster-cidr": "10.0.0.0/8",
}


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.path], ids=lambda flag: flag.name)
def test_every_flag_lands_in_its_field_and_comes_back_from_a_file(flag: Flag) -> None:
    text = SAMPLES.get(flag.name, SAMPLES.get(flag.kind, ""))
    given = {**NFTABLES, "feature-gates": ["LoggingAlphaOptions=true"], flag.name: [text]}
    asked = settle(given)
    found = get(asked.configuration, flag.path)
    assert found != get(Configuration(), flag.path)
    value = read(flag, text)
    if flag.kind == "vmodule":
        assert [(item.file_pattern, item.verbosity) for item in found] == [("a", 1), ("b", 2)]
    else:
        assert found == (tuple(value) if flag.kind == "list" else value)
    assert decode(encode(asked.configuration), "f").configuration == asked.configuration


@pytest.mark.parametrize(
    ("mode", "flag", "path"),
    [
        ("nftables", "iptables-sync-period", "nftables.syncPeriod"),
        ("nftables", "iptables-min-sync-period", "nftables.minSyncPeriod"),
        ("iptables", "iptables-sync-period", "iptables.syncPeriod"),
        ("userspace", "iptables-min-sync-period", "iptables.minSyncPeriod"),
        ("ipvs", "ipvs-sync-period", "ipvs.syncPeriod"),
        ("ipvs", "ipvs-min-sync-period", "ipvs.minSyncPeriod"),
    ],
)
def test_periods_go_to_the_mode(mode: str, flag: str, path: str) -> None:
    asked = settle({"proxy-mode": [mode], flag: ["7s"]})
    assert str(get(asked.configuration, path)) == "7s"


def test_periods_of_another_mode_are_none_of_ours() -> None:
    asked = flags(ipvs_sync_period="7s", ipvs_min_sync_period="7s").configuration
    assert (str(asked.section.sync_period), str(asked.section.min_sync_period)) == ("30s", "1s")
    asked = settle({"proxy-mode": ["ipvs"], "iptables-sync-period": ["7s"]}).configuration
    # By flags ipvs has a least period; by a file it has none.
    assert (str(asked.section.sync_period), str(asked.section.min_sync_period)) == ("30s", "1s")


def test_masquerading_goes_to_the_mode() -> None:
    asked = flags(masquerade_all="true", masquerade_bit="3", iptables_masquerade_bit="5").configuration
    assert (asked.masquerade_all, asked.masquerade_bit) == (True, 3)
    assert flags(iptables_masquerade_bit="5").configuration.masquerade_bit == 14
    asked = settle({"proxy-mode": ["ipvs"], "masquerade-all": ["true"]}).configuration
    assert (asked.masquerade_all, asked.iptables.masquerade_all) == (True, True)


def test_the_defaults_of_nftables_mode() -> None:
    asked = flags()
    assert asked.configuration.node_port_addresses == ("primary",)
    assert asked.configuration.detect_local_mode == "ClusterCIDR"
    assert asked.configuration.kubeway.min_sync_gap == "auto"
    assert asked.notes == ()


def test_no_mode_is_nftables_that_does_what_iptables_would() -> None:
    asked = settle(
        {
            "iptables-masquerade-bit": ["3"],
            "masquerade-all": ["true"],
            "iptables-sync-period": ["7s"],
            "iptables-min-sync-period": ["2s"],
        }
    )
    found = asked.configuration
    assert found.mode == "nftables"
    assert (found.masquerade_bit, found.masquerade_all) == (3, True)
    assert (str(found.section.sync_period), str(found.section.min_sync_period)) == ("7s", "2s")
    assert found.node_port_addresses == EVERYWHERE
    assert len(asked.notes) == 1
    assert asked.notes[0].startswith("mode is not set, which means iptables to kube-proxy; ")
    assert settle({"nodeport-addresses": ["primary"]}).configuration.node_port_addresses == ("primary",)


@pytest.mark.parametrize(
    ("given", "healthz", "metrics"),
    [
        ({}, "0.0.0.0:10256", "127.0.0.1:10249"),
        ({"bind_address": "::"}, "0.0.0.0:10256", "127.0.0.1:10249"),
        ({"bind_address": ""}, "0.0.0.0:10256", "127.0.0.1:10249"),
        ({"healthz_bind_address": "10.0.0.1", "healthz_port": "7"}, "10.0.0.1:7", "127.0.0.1:10249"),
        ({"healthz_port": "7"}, "0.0.0.0:10256", "127.0.0.1:10249"),
        ({"healthz_port": "0", "metrics_port": "0"}, "", ""),
        ({"healthz_bind_address": "", "metrics_bind_address": ""}, "", ""),
        ({"metrics_bind_address": "fd00::1"}, "0.0.0.0:10256", "[fd00::1]:10249"),
        ({"healthz_port": "0", "write_config_to": "x"}, "0.0.0.0:10256", "127.0.0.1:10249"),
    ],
)
def test_where_servers_listen(given: dict[str, str], healthz: str, metrics: str) -> None:
    asked = flags(**given)
    found = asked.configuration
    assert (found.healthz_bind_address, found.metrics_bind_address) == (healthz, metrics)
    off = [f"the {what} server is off, as it is given no address" for what in ("health", "metrics")]
    assert list(asked.notes) == ([] if healthz else off)


@pytest.mark.parametrize(
    ("given", "gap"),
    [
        ({}, "auto"),
        ({"iptables_min_sync_period": "3s"}, "3s"),
        ({"iptables_min_sync_period": "0"}, "0s"),
        ({"ipvs_min_sync_period": "3s"}, "auto"),
        ({"kubeway_min_sync_gap": "250ms"}, "250ms"),
        ({"kubeway_min_sync_gap": "auto", "iptables_min_sync_period": "3s"}, "auto"),
    ],
)
def test_the_gap_between_syncs(given: dict[str, str], gap: str) -> None:
    assert flags(**given).configuration.kubeway.min_sync_gap == gap


def test_the_node_s_name_is_trimmed_and_lower_case() -> None:
    assert flags(hostname_override=" Node1 ").configuration.hostname_override == "node1"
    with pytest.raises(BadInput, match=r"^--hostname-override: ' ' is blank; give the name of a Node"):
        flags(hostname_override=" ")


def test_a_flag_that_cannot_be_read_is_named() -> None:
    with pytest.raises(BadInput) as error:
        flags(conntrack_min="many")
    assert str(error.value) == '--conntrack-min: "many" is not a whole number of 32 bits'


def test_all_that_is_wrong_is_told_together() -> None:
    with pytest.raises(BadInput) as error:
        flags(oom_score_adj="1001", nodeport_addresses="x")
    assert str(error.value) == (
        "failed validate: [KubeProxyConfiguration.KubeProxyLinuxConfiguration.OOMScoreAdj: "
        "Invalid value: 1001: must be within the range [-1000, 1000], "
        'KubeProxyConfiguration.NodePortAddresses[0]: Invalid value: "x": must be a valid CIDR]'
    )


def test_what_has_no_effect_is_named_once() -> None:
    asked = flags(kube_api_qps="50", kube_api_burst="100", feature_gates="NativeHistograms=true", v="2")
    assert asked.notes == (
        "accepted, and without effect here: clientConnection.qps, clientConnection.burst, "
        "featureGates.NativeHistograms",
    )


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (
            "ComponentFlagz=false,ComponentStatusz=false,WatchListClient=false",
            ["ComponentFlagz", "ComponentStatusz", "WatchListClient"],
        ),
        ("ComponentFlagz=true,ContextualLogging=true", []),
        ("AllAlpha=true", ["NativeHistograms"]),
        ("AllAlpha=true,NativeHistograms=false", []),
        ("AllBeta=false,ContextualLogging=true", ["ComponentFlagz", "ComponentStatusz", "WatchListClient"]),
        ("LoggingAlphaOptions=true,AllowServiceExternalIPs=false", []),
    ],
)
def test_gates_without_effect_are_named(given: str, named: list[str]) -> None:
    words = ", ".join(f"featureGates.{name}" for name in named)
    told = (f"accepted, and without effect here: {words}",) if named else ()
    assert flags(feature_gates=given).notes == told


@pytest.mark.parametrize(
    ("mode", "idle"), [("userspace", "portRange"), ("nftables", "portRange, udpIdleTimeout")]
)
def test_old_settings_of_userspace_mode_are_named_where_they_change_nothing(mode: str, idle: str) -> None:
    given = {"udp-timeout": ["1s"], "proxy-port-range": ["1-2"]}
    assert settle({"proxy-mode": [mode], **given}).notes == (f"accepted, and without effect here: {idle}",)


# --- a file ------------------------------------------------------------------------------


def test_with_a_file_few_flags_count(file: Any) -> None:
    asked = file(
        "mode: nftables\nhostnameOverride: other\nlogging: {verbosity: 1, vmodule: [{filePattern: f}]}\n",
        proxy_mode="ipvs",
        conntrack_min="7",
        hostname_override="Node1",
        v="4",
        vmodule="c=1",
        kubeway_drift_repair="false",
        master="http://api",
    )
    found = asked.configuration
    assert (found.mode, found.conntrack.min, found.hostname_override) == ("nftables", 131072, "node1")
    assert found.logging.verbosity == 4
    assert [item.file_pattern for item in found.logging.vmodule] == ["c", "f"]
    assert found.kubeway.drift_repair is False
    assert asked.given["master"] == "http://api"
    assert asked.notes[0] == "not minded, as --config is given: --proxy-mode, --conntrack-min"


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.path], ids=lambda flag: flag.name)
def test_a_flag_beside_a_file_counts_if_the_table_says_so(flag: Flag, file: Any) -> None:
    text = SAMPLES.get(flag.name, SAMPLES.get(flag.kind, ""))
    gates = "mode: nftables\nfeatureGates: {LoggingAlphaOptions: true}\n"
    without = get(file(gates).configuration, flag.path)
    beside = get(file(gates, **{flag.name.replace("-", "_"): text}).configuration, flag.path)
    assert (beside != without) is flag.always


def test_a_file_without_a_mode(file: Any) -> None:
    asked = file("iptables: {masqueradeAll: true, masqueradeBit: 3, minSyncPeriod: 5s}\n")
    found = asked.configuration
    assert (found.mode, found.masquerade_all, found.masquerade_bit) == ("nftables", True, 3)
    assert found.kubeway.min_sync_gap == "5s"
    assert found.node_port_addresses == EVERYWHERE


def test_our_own_section(file: Any) -> None:
    asked = file(
        "mode: nftables\nnftables: {minSyncPeriod: 9s}\nkubeway: {minSyncGap: auto, driftRepair: false}\n"
    )
    assert asked.configuration.kubeway.min_sync_gap == "auto"
    assert asked.configuration.kubeway.drift_repair is False
    assert asked.notes == ()
    assert file("mode: nftables\n", kubeway_min_sync_gap="2s").configuration.kubeway.min_sync_gap == "2s"


def test_what_is_odd_in_a_file_is_noted(file: Any) -> None:
    asked = file("mode: ipvs\nmode: nftables\nmood: x\nwinkernel: {networkName: x}\nportRange: 1-2\n")
    path = asked.file.path
    assert asked.configuration.mode == "nftables"
    assert asked.notes == (
        f"{path}: given twice, the last one counts: mode",
        f"{path}: not known, left out: mood",
        "accepted, and without effect here: winkernel.networkName, portRange",
    )


def test_what_was_settled_settles_the_same_again(file: Any, tmp_path: Path) -> None:
    from kubeway.shell import configfile

    first = file("clusterCIDR: 10.0.0.0/8\niptables: {minSyncPeriod: 0s}\n")
    copy = tmp_path / "copy"
    configfile.write(first.configuration, str(copy))
    again = settle({"config": [str(copy)]})
    assert again.configuration == first.configuration
    assert again.notes == ()


def test_the_table_has_a_sample_for_each_kind() -> None:
    assert all(SAMPLES.get(flag.name, SAMPLES.get(flag.kind)) for flag in FLAGS if flag.path)
    assert set(SAMPLES) <= set(BY_NAME) | {flag.kind for flag in FLAGS}
