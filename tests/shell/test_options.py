"""What the daemon is told, from what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import BadInput
from kubeway.model import config_check
from kubeway.model.conntrack import ConntrackSettings
from kubeway.model.node import Ipvs, Options
from kubeway.shell import options
from kubeway.shell.asked import Asked, settle
from kubeway.shell.options import MODES, Address, Cluster, Config, Relaying
from kubeway.values import parse_ip, parse_prefix

IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def asked(**flags: str) -> Asked:
    named = {name.replace("_", "-"): [text] for name, text in flags.items()}
    return settle({"proxy-mode": ["nftables"], **named})


def config(environ: dict[str, str] | None = None, **flags: str) -> Config:
    """The daemon's, with a kubeconfig where nothing else is said of a source."""
    if environ is None and not {"manifests", "kubeconfig", "master"} & flags.keys():
        flags["kubeconfig"] = "k"
    return options.config(asked(**flags), environ or {})


# --- the meaning of Services ---------------------------------------------------------------


def test_the_defaults_are_the_model_s() -> None:
    assert options.model_options(asked().configuration) == Options()


def test_all_of_them() -> None:
    found = options.model_options(
        asked(
            cluster_cidr="10.244.0.0/16,fd00:10:244::/56",
            nodeport_addresses="10.0.0.0/8,192.0.2.0/24,fd00::/8",
            masquerade_all="true",
            masquerade_bit="3",
            feature_gates="AllowServiceExternalIPs=false",
        ).configuration,
        "node1",
    )
    assert found == Options(
        hostname="node1",
        cluster_cidrs=(parse_prefix("10.244.0.0/16"), parse_prefix("fd00:10:244::/56")),
        masquerade_all=True,
        masquerade_bit=3,
        node_port_addresses=tuple(map(parse_prefix, ["10.0.0.0/8", "192.0.2.0/24", "fd00::/8"])),
        external_ips=False,
    )


@pytest.mark.parametrize(
    ("mode", "flag", "field"),
    [
        ("BridgeInterface", "pod_bridge_interface", "bridge_interface"),
        ("InterfaceNamePrefix", "pod_interface_name_prefix", "interface_prefix"),
    ],
)
def test_pods_told_by_their_interface(mode: str, flag: str, field: str) -> None:
    # What is no CIDR is no harm in these modes, which do not look at it.
    found = options.model_options(
        asked(detect_local_mode=mode, cluster_cidr="nonsense", **{flag: "cni"}).configuration
    )
    assert (found.detect_local, getattr(found, field), found.cluster_cidrs) == (mode, "cni", ())


def test_primary_is_the_word_for_the_node_s_own_addresses() -> None:
    found = options.model_options(asked(nodeport_addresses="primary").configuration)
    assert found.node_port_addresses == "primary"


def test_what_iptables_mode_alone_minds() -> None:
    plain = options.model_options(asked().configuration)
    assert (plain.localhost_node_ports, plain.drop_invalid) == (True, True)
    words = {"iptables_localhost_nodeports": "false", "conntrack_tcp_be_liberal": "true"}
    found = options.model_options(asked(**words).configuration)
    assert (found.localhost_node_ports, found.drop_invalid) == (False, False)


def test_what_ipvs_mode_alone_minds() -> None:
    words = {
        "ipvs_scheduler": "lc",
        "ipvs_strict_arp": "true",
        "ipvs_tcp_timeout": "15m",
        "ipvs_tcpfin_timeout": "90500ms",
        "ipvs_exclude_cidrs": "192.0.2.0/24",
        "kubeway_ipvs_drain": "1m",
    }
    found = config(proxy_mode="ipvs", **words)
    assert found.ipvs_drain == 60
    assert found.options.ipvs == Ipvs(
        scheduler="lc",
        strict_arp=True,
        tcp_timeout=900,
        tcp_fin_timeout=90,
        exclude=(parse_prefix("192.0.2.0/24"),),
    )
    assert config(proxy_mode="ipvs").options.ipvs == Ipvs()
    assert config(proxy_mode="iptables", **words).options.ipvs == Ipvs()
    with pytest.raises(BadInput, match=r'ipvs\.scheduler: "best" is none of rr, wrr'):
        config(proxy_mode="ipvs", ipvs_scheduler="best")


def test_what_userspace_mode_alone_minds() -> None:
    words = {
        "kubeway_relay_workers": "3",
        "kubeway_relay_drain": "1m",
        "kubeway_relay_half_closed": "90s",
        "udp_timeout": "7s",
    }
    found = config(proxy_mode="userspace", **words)
    assert found.relaying == Relaying(drain=60.0, half_closed=90.0, udp_idle=7.0)
    assert found.options.relay_workers == 3
    assert not found.notes
    plain = config(proxy_mode="userspace")
    assert (plain.relaying, plain.options.relay_workers) == (Relaying(), 0)
    assert config(proxy_mode="nftables", **words).options == config(proxy_mode="nftables").options


def test_the_old_default_of_the_udp_timeout_is_as_if_nothing_was_said() -> None:
    assert config(proxy_mode="userspace", udp_timeout="250ms").relaying.udp_idle is None
    assert config(proxy_mode="userspace", udp_timeout="251ms").relaying.udp_idle == 0.251


def test_in_userspace_mode_it_is_said_what_listens_nowhere() -> None:
    found = config(proxy_mode="userspace", bind_address="10.0.0.1", proxy_port_range="30000-30100")
    assert [str(note) for note in found.notes] == [
        "configuration: accepted, and without effect here: portRange",
        "configuration: bindAddress: 10.0.0.1 is taken for this node's own address, as in other modes, "
        "but nothing listens there: the relay is on loopback",
    ]
    assert found.node_ip == parse_ip("10.0.0.1")


def test_all_modes_that_are_valid_are_there() -> None:
    assert sorted(MODES) == sorted(config_check.MODES)
    for mode in MODES:
        assert config(proxy_mode=mode).options.mode == mode


# --- where objects come from --------------------------------------------------------------------


def test_sources() -> None:
    assert config(kubeconfig="k").cluster == Cluster("k", "")
    assert config(kubeconfig="k", master="http://api").cluster == Cluster("k", "http://api")
    assert config(master="http://api").cluster == Cluster("", "http://api")
    assert config(IN_CLUSTER).cluster == Cluster()
    found = config(IN_CLUSTER, manifests="shop")
    assert (found.manifests, found.cluster) == (("shop",), None)


@pytest.mark.parametrize("environ", [{}, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}])
def test_somebody_has_to_name_one(environ: dict[str, str]) -> None:
    with pytest.raises(BadInput) as error:
        config(environ)
    assert str(error.value).startswith("nobody says where Services come from: give --kubeconfig or --master")


@pytest.mark.parametrize(("flag", "named"), [("kubeconfig", "a kubeconfig"), ("master", "--master")])
def test_two_are_one_too_many(flag: str, named: str) -> None:
    with pytest.raises(BadInput) as error:
        config(manifests="shop", **{flag: "x"})
    assert str(error.value) == f"--manifests: there is {named} too; objects come from one of them"


# --- the rest -----------------------------------------------------------------------------------


def test_servers() -> None:
    found = config(metrics_bind_address="[fd00::1]:80")
    assert found.healthz == Address(parse_ip("0.0.0.0"), 10256)
    assert found.metrics == Address(parse_ip("fd00::1"), 80)
    assert str(found.metrics) == "[fd00::1]:80"
    off = config(healthz_bind_address="", metrics_bind_address="")
    assert (off.healthz, off.metrics) == (None, None)
    assert [str(note) for note in off.notes] == [
        "configuration: the health server is off, as it is given no address",
        "configuration: the metrics server is off, as it is given no address",
    ]


def test_plain_things_are_handed_on() -> None:
    found = config(
        bind_address_hard_fail="true",
        profiling="true",
        oom_score_adj="-7",
        iptables_sync_period="17s",
        kubeway_min_sync_gap="250ms",
        kubeway_drift_repair="false",
        logging_format="json",
        v="3",
        hostname_override="Node1",
    )
    assert (found.hard_fail, found.profiling, found.oom_score_adj) == (True, True, -7)
    assert (found.sync_period, found.min_sync_period, found.drift_repair) == (17.0, 0.25, False)
    assert (found.logging_format, found.verbosity, found.options.hostname) == ("json", 3, "node1")
    plain = config()
    assert (plain.hard_fail, plain.profiling, plain.oom_score_adj) == (False, False, -999)
    assert (plain.sync_period, plain.min_sync_period, plain.drift_repair) == (30.0, None, True)
    assert (plain.logging_format, plain.verbosity) == ("text", 0)
    assert plain.options.hostname


@pytest.mark.parametrize(
    ("text", "ip"), [("10.0.0.1", "10.0.0.1"), ("fd00::1", "fd00::1"), ("0.0.0.0", None), ("::", None)]
)
def test_the_node_s_own_address(text: str, ip: str | None) -> None:
    assert config(bind_address=text).node_ip == (parse_ip(ip) if ip else None)


def test_gates_are_open_or_shut() -> None:
    found = config(feature_gates="ComponentFlagz=false")
    assert not found.gate("ComponentFlagz")
    assert found.gate("WatchListClient")


def test_a_version_may_be_told_to_others() -> None:
    assert config(version="v1.36.7").reported_version == "v1.36.7"
    assert config(version="false").reported_version == ""
    assert config().reported_version == ""


def test_connection_tracking_as_asked() -> None:
    assert config().conntrack == ConntrackSettings()
    found = config(
        conntrack_max_per_core="1",
        conntrack_min="2",
        conntrack_tcp_timeout_established="3s",
        conntrack_tcp_timeout_close_wait="4s",
        conntrack_tcp_be_liberal="true",
        conntrack_udp_timeout="5s",
        conntrack_udp_timeout_stream="1500ms",
    )
    assert found.conntrack == ConntrackSettings(
        max_per_core=1,
        min=2,
        tcp_established_timeout=3.0,
        tcp_close_wait_timeout=4.0,
        tcp_be_liberal=True,
        udp_timeout=5.0,
        udp_stream_timeout=1.5,
    )


def test_on_manifests_nothing_is_turned_that_nobody_asked_for(tmp_path: Path) -> None:
    alone = config(manifests="shop")
    assert alone.conntrack == ConntrackSettings(
        max_per_core=0, min=0, tcp_established_timeout=0.0, tcp_close_wait_timeout=0.0
    )
    assert alone.oom_score_adj is None
    turned = config(manifests="shop", conntrack_min="7", oom_score_adj="3")
    assert (turned.conntrack.min, turned.oom_score_adj) == (7, 3)
    file = tmp_path / "config"
    file.write_text("{kind: KubeProxyConfiguration, apiVersion: kubeproxy.config.k8s.io/v1alpha1}")
    with_file = config(manifests="shop", config=str(file))
    assert with_file.conntrack == ConntrackSettings()
    assert with_file.file is not None
    assert with_file.file.path == str(file)


def test_every_flag_has_a_value_to_show() -> None:
    found = config(
        v="2",
        masquerade_all="true",
        feature_gates="NativeHistograms=true,AllAlpha=false",
        nodeport_addresses="10.0.0.0/8,11.0.0.0/8",
        vmodule="a=1,b=2",
        kube_api_qps="7.5",
        iptables_sync_period="90s",
    ).flags
    assert found["v"] == "2"
    assert (found["masquerade-all"], found["cleanup"]) == ("true", "false")
    assert found["feature-gates"] == "NativeHistograms=true,AllAlpha=false"
    assert (found["nodeport-addresses"], found["vmodule"]) == ("10.0.0.0/8,11.0.0.0/8", "a=1,b=2")
    assert (found["kube-api-qps"], found["iptables-sync-period"]) == ("7.5", "1m30s")
    assert found["conntrack-tcp-timeout-established"] == "24h0m0s"
    assert "manifests" not in found


def test_node_names_are_trimmed_and_lower_case() -> None:
    assert options.this_node("NODE2 ") == "node2"
    assert options.this_node("")
    with pytest.raises(BadInput, match=r"hostnameOverride: ' ' is blank"):
        options.this_node(" ")


@given(st.text())
def test_any_text_is_an_address_or_bad_input(text: str) -> None:
    try:
        found = config(healthz_bind_address=text)
    except BadInput:
        return
    assert (found.healthz is None) is (text == "")
    if found.healthz is not None:
        assert config(healthz_bind_address=str(found.healthz)).healthz == found.healthz
