"""Each rule of a configuration, with the exact words for what breaks it."""

from __future__ import annotations

from typing import Any

import pytest

from kubeway.model import config_gates
from kubeway.model.config_check import problems, summary
from kubeway.model.config_words import Duration
from kubeway.model.configuration import Configuration, Quantity, VmoduleItem, put

SECOND = 1_000_000_000
TOO_SMALL = "must be greater than or equal to 0"
CONNTRACK = "KubeProxyConfiguration.KubeProxyLinuxConfiguration.KubeProxyConntrackConfiguration"
PAIR = "must be a either a single CIDR or dual-stack pair of CIDRs (e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]"
INTERFACE = "must be the name of an interface: at most 15 characters, no space, / or :"


def config(*changes: tuple[str, Any], mode: str = "nftables") -> Configuration:
    found = put(Configuration(), "mode", mode)
    for path, value in changes:
        found = put(found, path, value)
    return found


def test_the_defaults_may_be() -> None:
    for mode in ("", "iptables", "ipvs", "nftables", "userspace"):
        assert problems(config(mode=mode)) == []


@pytest.mark.parametrize(
    ("path", "value", "mode", "problem"),
    [
        (
            "featureGates",
            {"Nonsense": True},
            "nftables",
            "featureGates: Invalid value: map[Nonsense:true]: unrecognized feature gate: Nonsense",
        ),
        (
            "featureGates",
            {"NFTablesProxyMode": False, "B": True},
            "nftables",
            "featureGates: Invalid value: map[B:true NFTablesProxyMode:false]: "
            "[unrecognized feature gate: B, cannot set feature gate NFTablesProxyMode to false, "
            "feature is locked to true]",
        ),
        (
            "iptables.masqueradeBit",
            32,
            "nftables",
            "KubeProxyIPTablesConfiguration.MasqueradeBit: Invalid value: 32: "
            "must be within the range [0, 31]",
        ),
        (
            "nftables.masqueradeBit",
            -1,
            "nftables",
            "KubeProxyNFTablesConfiguration.MasqueradeBit: Invalid value: -1: "
            "must be within the range [0, 31]",
        ),
        (
            "ipvs.tcpTimeout",
            Duration(-SECOND),
            "ipvs",
            f"KubeProxyIPVSConfiguration.TCPTimeout: Invalid value: -1s: {TOO_SMALL}",
        ),
        (
            "ipvs.tcpFinTimeout",
            Duration(-SECOND),
            "ipvs",
            f"KubeProxyIPVSConfiguration.TCPFinTimeout: Invalid value: -1s: {TOO_SMALL}",
        ),
        (
            "ipvs.udpTimeout",
            Duration(-SECOND),
            "ipvs",
            f"KubeProxyIPVSConfiguration.UDPTimeout: Invalid value: -1s: {TOO_SMALL}",
        ),
        (
            "ipvs.excludeCIDRs",
            ("10.0.0.0/8", "::1"),
            "ipvs",
            'KubeProxyIPVSConfiguration.ExcludeCidrs[1]: Invalid value: "::1": must be a valid CIDR',
        ),
        (
            "oomScoreAdj",
            9000,
            "nftables",
            "KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid value: 9000: "
            "must be within the range [-1000, 1000]",
        ),
        (
            "mode",
            "magic",
            "magic",
            'Mode.ProxyMode: Invalid value: "magic": must be iptables, ipvs, nftables, userspace or blank '
            "(blank means the best-available proxy)",
        ),
        ("clientConnection.burst", -5, "nftables", f"ClientConnection.Burst: Invalid value: -5: {TOO_SMALL}"),
        (
            "configSyncPeriod",
            Duration(-SECOND),
            "nftables",
            "ConfigSyncPeriod: Invalid value: -1s: must be greater than 0",
        ),
        (
            "nftables.minSyncPeriod",
            Duration(-SECOND),
            "nftables",
            f"MinSyncPeriod: Invalid value: -1s: {TOO_SMALL}",
        ),
        (
            "nftables.minSyncPeriod",
            Duration(31 * SECOND),
            "nftables",
            "SyncPeriod: Invalid value: 31s: must be greater than or equal to "
            "KubeProxyConfiguration.MinSyncPeriod",
        ),
        (
            "udpIdleTimeout",
            Duration(0),
            "userspace",
            "UDPIdleTimeout: Invalid value: 0s: must be greater than 0",
        ),
        (
            "bindAddress",
            "10.10.12.11:2000",
            "nftables",
            'BindAddress: Invalid value: "10.10.12.11:2000": '
            "not a valid textual representation of an IP address",
        ),
        (
            "healthzBindAddress",
            "0.0.0.0",
            "nftables",
            'HealthzBindAddress: Invalid value: "0.0.0.0": must be IP:port',
        ),
        (
            "healthzBindAddress",
            "123.456.789.10:12345",
            "nftables",
            'HealthzBindAddress: Invalid value: "123.456.789.10": must be a valid IP',
        ),
        (
            "metricsBindAddress",
            "10.10.10.10:foo",
            "nftables",
            'MetricsBindAddress: Invalid value: "foo": must be a valid port',
        ),
        (
            "metricsBindAddress",
            "10.10.10.10:0",
            "nftables",
            'MetricsBindAddress: Invalid value: "0": must be a valid port',
        ),
        (
            "metricsBindAddress",
            "10.10.10.10:65536",
            "nftables",
            'MetricsBindAddress: Invalid value: "65536": must be a valid port',
        ),
        (
            "nodePortAddresses",
            ("10.0.0.0/8", "1.2.3"),
            "nftables",
            'NodePortAddresses[1]: Invalid value: "1.2.3": must be a valid CIDR',
        ),
        (
            "nodePortAddresses",
            ("10.0.0.0/8", "primary"),
            "nftables",
            "NodePortAddresses[1]: Invalid value: \"primary\": can't use both 'primary' and CIDRs",
        ),
        (
            "showHiddenMetricsForVersion",
            "1.34",
            "nftables",
            'ShowHiddenMetricsForVersion: Invalid value: "1.34": --show-hidden-metrics-for-version must be '
            "omitted or have the value '1.35'. Only the previous minor version is allowed",
        ),
        (
            "detectLocalMode",
            "nodecidr",
            "nftables",
            'DetectLocalMode: Unsupported value: "nodecidr": supported values: "ClusterCIDR", "NodeCIDR", '
            '"BridgeInterface", "InterfaceNamePrefix", ""',
        ),
        (
            "detectLocalMode",
            "BridgeInterface",
            "nftables",
            'DetectLocalConfiguration.InterfaceName: Invalid value: "": must not be empty',
        ),
        (
            "detectLocalMode",
            "InterfaceNamePrefix",
            "nftables",
            'DetectLocalConfiguration.InterfacePrefix: Invalid value: "": must not be empty',
        ),
        (
            "logging.format",
            "xml",
            "nftables",
            'logging.format: Invalid value: "xml": Unsupported log format',
        ),
        (
            "logging.verbosity",
            2**31,
            "nftables",
            "logging.verbosity: Invalid value: 2147483648: Must be <= 2147483647",
        ),
        (
            "logging.vmodule",
            (VmoduleItem(file_pattern="a=b"),),
            "nftables",
            'logging.vmodule[0]: Invalid value: "a=b": File pattern must not contain equal sign or comma',
        ),
        (
            "logging.vmodule",
            (VmoduleItem(file_pattern="a"), VmoduleItem()),
            "nftables",
            "logging.vmodule[1]: Required value: File pattern must not be empty",
        ),
        (
            "logging.vmodule",
            (VmoduleItem(file_pattern="a", verbosity=2**31),),
            "nftables",
            "logging.vmodule[0]: Invalid value: 2147483648: Must be <= 2147483647",
        ),
        (
            "logging.options.json.splitStream",
            True,
            "nftables",
            "logging.options.json.splitStream: Forbidden: Feature LoggingAlphaOptions is disabled",
        ),
        (
            "logging.options.text.infoBufferSize",
            Quantity("1Ki"),
            "nftables",
            "logging.options.text.infoBufferSize: Forbidden: Feature LoggingAlphaOptions is disabled",
        ),
        (
            "kubeway.steering",
            "ipvs",
            "userspace",
            'kubeway.steering: Invalid value: "ipvs": must be one of auto, nft, xtables',
        ),
        (
            "kubeway.minSyncGap",
            "soon",
            "nftables",
            'kubeway.minSyncGap: Invalid value: "soon": must be auto, or a duration such as 500ms',
        ),
        (
            "kubeway.minSyncGap",
            "2h",
            "nftables",
            'kubeway.minSyncGap: Invalid value: "2h": must be from 0s to 1h0m0s',
        ),
        (
            "kubeway.relayWorkers",
            -1,
            "userspace",
            "kubeway.relayWorkers: Invalid value: -1: must be within the range [0, 64]",
        ),
        (
            "kubeway.relayWorkers",
            65,
            "nftables",
            "kubeway.relayWorkers: Invalid value: 65: must be within the range [0, 64]",
        ),
        (
            "kubeway.relayDrain",
            Duration(-1),
            "userspace",
            "kubeway.relayDrain: Invalid value: -1ns: must be greater than or equal to 0",
        ),
        (
            "kubeway.relayHalfClosed",
            Duration(0),
            "userspace",
            "kubeway.relayHalfClosed: Invalid value: 0s: must be greater than 0",
        ),
    ],
)
def test_what_may_not_be(path: str, value: object, mode: str, problem: str) -> None:
    assert problems(config((path, value), mode=mode)) == [f"KubeProxyConfiguration.{problem}"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("maxPerCore", "MaxPerCore"),
        ("min", "Min"),
        ("tcpEstablishedTimeout", "TCPEstablishedTimeout"),
        ("tcpCloseWaitTimeout", "TCPCloseWaitTimeout"),
        ("udpTimeout", "UDPTimeout"),
        ("udpStreamTimeout", "UDPStreamTimeout"),
    ],
)
def test_connection_tracking_has_nothing_below_zero(path: str, name: str) -> None:
    value = -1 if path.startswith("m") else Duration(-5 * SECOND)
    shown = "-1" if path.startswith("m") else "-5s"
    assert problems(config((f"conntrack.{path}", value))) == [
        f"{CONNTRACK}.{name}: Invalid value: {shown}: {TOO_SMALL}"
    ]


@pytest.mark.parametrize(
    ("cidrs", "problem"),
    [
        (
            "fd00:10:96::,192.168.0.0/16",
            '[0]: Invalid value: "fd00:10:96::": must be a valid CIDR block '
            "(e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)",
        ),
        (
            "10.0.0.0/8, fd00::/8",
            '[1]: Invalid value: " fd00::/8": must be a valid CIDR block '
            "(e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)",
        ),
        ("10.0.0.0/8,11.0.0.0/8", f': Invalid value: ["10.0.0.0/8", "11.0.0.0/8"]: {PAIR}'),
        (
            "10.0.0.0/8,11.0.0.0/8,fd00::/8",
            f': Invalid value: ["10.0.0.0/8", "11.0.0.0/8", "fd00::/8"]: {PAIR}',
        ),
    ],
)
def test_cluster_cidrs(cidrs: str, problem: str) -> None:
    found = problems(config(("clusterCIDR", cidrs), ("detectLocalMode", "ClusterCIDR")))
    assert found == [f"KubeProxyConfiguration.DetectLocalConfiguration.ClusterCIDRs{problem}"]
    # Other modes do not look at them.
    assert problems(config(("clusterCIDR", cidrs), ("detectLocalMode", "NodeCIDR"))) == []


@pytest.mark.parametrize("name", ["a-name-of-16-chr", "a b", "a/b", "a:b", ".", ".."])
def test_names_of_interfaces(name: str) -> None:
    for mode, field, path in (
        ("BridgeInterface", "bridgeInterface", "InterfaceName"),
        ("InterfaceNamePrefix", "interfaceNamePrefix", "InterfacePrefix"),
    ):
        found = problems(config(("detectLocalMode", mode), (f"detectLocal.{field}", name)))
        at = f"KubeProxyConfiguration.DetectLocalConfiguration.{path}"
        assert found == [f'{at}: Invalid value: "{name}": {INTERFACE}']


def test_a_sync_period_has_to_be_positive() -> None:
    assert problems(config(("nftables.syncPeriod", Duration(-5 * SECOND)))) == [
        "KubeProxyConfiguration.SyncPeriod: Invalid value: -5s: must be greater than 0",
        "KubeProxyConfiguration.SyncPeriod: Invalid value: 1s: must be greater than or equal to "
        "KubeProxyConfiguration.MinSyncPeriod",
    ]


def test_nobody_waits_for_over_an_hour() -> None:
    long = Duration(3601 * SECOND)
    found = problems(config(("nftables.syncPeriod", long), ("nftables.minSyncPeriod", long)))
    assert found == ["KubeProxyConfiguration.MinSyncPeriod: Invalid value: 1h0m1s: must be at most 1h0m0s"]


def test_modes_not_in_use_are_not_checked_but_for_the_bit_of_iptables() -> None:
    wrong = [
        ("ipvs.tcpTimeout", Duration(-1)),
        ("ipvs.excludeCIDRs", ("x",)),
        ("nftables.masqueradeBit", 99),
    ]
    assert problems(config(*wrong, mode="iptables")) == []
    assert len(problems(config(("iptables.masqueradeBit", 99), mode="ipvs"))) == 1


def test_json_needs_its_gate_and_has_no_modules() -> None:
    shut = config(("logging.format", "json"), ("featureGates", {"AllBeta": False}))
    assert problems(shut) == [
        "KubeProxyConfiguration.logging.format: Forbidden: "
        "Log format json is disabled, see LoggingBetaOptions feature"
    ]
    modules = config(("logging.format", "json"), ("logging.vmodule", (VmoduleItem(file_pattern="a"),)))
    assert problems(modules) == [
        "KubeProxyConfiguration.logging.vmodule: Forbidden: Only supported for text log format"
    ]


def test_alpha_options_may_be_set_with_their_gate() -> None:
    on = ("logging.options.json.splitStream", True)
    for gates in ({"LoggingAlphaOptions": True}, {"AllAlpha": True}):
        assert problems(config(on, ("featureGates", gates))) == []
    assert problems(config(on, ("featureGates", {"AllAlpha": True, "LoggingAlphaOptions": False})))


def test_servers_may_be_off() -> None:
    assert problems(config(("healthzBindAddress", ""), ("metricsBindAddress", ""))) == []


def test_all_that_is_wrong_is_told_at_once() -> None:
    found = problems(config(("bindAddress", "x"), ("oomScoreAdj", 1001), ("nodePortAddresses", ("y",))))
    assert len(found) == 3
    assert summary(found) == f"[{', '.join(found)}]"
    assert summary(found[:1]) == found[0]


# --- gates -----------------------------------------------------------------------------------


def test_gates_have_their_defaults() -> None:
    for name, gate in config_gates.GATES.items():
        assert config_gates.enabled({}, name) is gate.default


def test_a_gate_by_name_counts_more_than_its_stage() -> None:
    assert config_gates.enabled({"AllAlpha": True}, "NativeHistograms")
    assert not config_gates.enabled({"AllAlpha": True, "NativeHistograms": False}, "NativeHistograms")
    assert not config_gates.enabled({"AllBeta": False}, "ComponentFlagz")
    assert config_gates.enabled({"AllBeta": False}, "AllowServiceExternalIPs")


@pytest.mark.parametrize("name", [name for name, gate in config_gates.GATES.items() if gate.locked])
def test_a_locked_gate_may_be_set_to_what_it_is(name: str) -> None:
    assert config_gates.problems({name: True}) == []
    assert config_gates.problems({name: False}) == [
        f"cannot set feature gate {name} to false, feature is locked to true"
    ]
