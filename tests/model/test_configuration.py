"""KubeProxyConfiguration: words, defaults, decoding, encoding, and that nothing is lost between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import fields

from kubeway.errors import BadInput
from kubeway.model import config_words as words
from kubeway.model.config_words import Duration
from kubeway.model.configuration import (
    API_VERSION,
    KIND,
    Configuration,
    Quantity,
    VmoduleItem,
    decode,
    encode,
    get,
    only_in_use,
    put,
    section_name,
)
from kubeway.model.yamls import documents

KUBEADM = Path(__file__).parent.parent / "data" / "kubeadm-config.conf"
HEAD = {"kind": KIND, "apiVersion": API_VERSION}
NANOSECONDS = st.integers(-(2**63) + 1, 2**63 - 1)


def config(**document: Any) -> Configuration:
    return decode({**HEAD, **document}, "f").configuration


# --- words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0", "0s"),
        ("+0s", "0s"),
        ("1s", "1s"),
        ("500ms", "500ms"),
        ("1.5ms", "1.5ms"),
        ("1m30s", "1m30s"),
        ("90s", "1m30s"),
        ("24h", "24h0m0s"),
        ("-5s", "-5s"),
        (".5s", "500ms"),
        ("1h.5s", "1h0m0.5s"),
        ("7us", "7µs"),
        ("7µs", "7µs"),
        ("7μs", "7µs"),
        ("3ns", "3ns"),
        ("2.000000001s", "2.000000001s"),
    ],
)
def test_durations_are_go_s(text: str, shown: str) -> None:
    assert str(words.parse_duration(text)) == shown


@given(NANOSECONDS)
def test_a_duration_comes_back(number: int) -> None:
    assert words.parse_duration(str(Duration(number))) == number


@given(st.text())
def test_any_text_is_a_word_or_a_value_error(text: str) -> None:
    readers = (
        words.parse_duration,
        words.parse_bool,
        words.parse_int32,
        words.parse_verbosity,
        words.parse_float32,
        words.parse_quantity,
        words.parse_list,
        words.parse_gates,
        words.parse_vmodule,
        words.parse_address,
        words.parse_endpoint,
    )
    for read in readers:
        with suppress(ValueError):
            read(text)


@pytest.mark.parametrize("text", ["", "1", "1 s", "s", "1s!", "1d", "--1s", "1e3s", "999999999h"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        words.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1:80", "10.0.0.1", "80"),
        ("[fd00::1]:80", "fd00::1", "80"),
        (":80", "", "80"),
        ("a:", "a", ""),
    ],
)
def test_host_and_port(text: str, host: str, port: str) -> None:
    assert words.split_host_port(text) == (host, port)


@pytest.mark.parametrize("text", ["", "10.0.0.1", "fd00::1", "fd00::1:80", "[fd00::1]", "[::1]80", "[::1:80"])
def test_no_host_and_port(text: str) -> None:
    with pytest.raises(ValueError, match="is not of the form IP:port; an IPv6 address stands in brackets"):
        words.split_host_port(text)


@pytest.mark.parametrize(
    ("address", "with_port"),
    [
        ("10.0.0.1", "10.0.0.1:7"),
        ("fd00::1", "[fd00::1]:7"),
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("[fd00::1]:80", "[fd00::1]:80"),
        ("x", "x"),
        ("", ""),
    ],
)
def test_a_port_is_put_where_there_is_none(address: str, with_port: str) -> None:
    assert words.append_port(address, 7) == with_port


def test_octets_may_have_leading_zeros() -> None:
    assert words.is_ip("010.0.0.001")
    assert not words.is_ip("10.0.0")


@pytest.mark.parametrize(
    ("text", "zero"), [("0", True), ("0.0", True), ("0Ki", True), ("1", False), ("64Ki", False)]
)
def test_amounts(text: str, zero: bool) -> None:
    assert words.is_zero(words.parse_quantity(text)) is zero


def test_lists_are_lines_of_csv() -> None:
    assert words.parse_list("a,b") == ["a", "b"]
    assert words.parse_list('"a,b",c') == ["a,b", "c"]
    assert words.parse_list("") == []


# --- defaults ------------------------------------------------------------------------------


def test_an_empty_document_is_all_defaults() -> None:
    assert config() == only_in_use(Configuration())


def test_what_kubeadm_writes_is_read_as_kube_proxy_reads_it() -> None:
    (document,) = documents(KUBEADM.read_bytes(), "f")
    decoded = decode(document, "f")
    assert decoded.unknown == ()
    assert decoded.min_sync_period is False
    expected = put(Configuration(), "clientConnection.kubeconfig", "/var/lib/kube-proxy/kubeconfig.conf")
    expected = put(expected, "clusterCIDR", "10.244.0.0/16,fd00:10:244::/56")
    assert decoded.configuration == only_in_use(expected)


def test_the_defaults_are_written_as_kube_proxy_writes_them() -> None:
    """pkg/proxy/apis/config/scheme/testdata/KubeProxyConfiguration/after/v1alpha1.yaml"""
    written = encode(Configuration())
    assert written.pop("kubeway") == {
        "minSyncGap": "",
        "driftRepair": True,
        "traceFile": "",
        "iptablesBackend": "auto",
        "ipvsDrain": "15m0s",
        "steering": "auto",
        "relayWorkers": 0,
        "relayDrain": "15m0s",
        "relayHalfClosed": "1h0m0s",
    }
    assert written == {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "bindAddress": "0.0.0.0",
        "bindAddressHardFail": False,
        "clientConnection": {
            "acceptContentTypes": "",
            "burst": 10,
            "contentType": "application/vnd.kubernetes.protobuf",
            "kubeconfig": "",
            "qps": 5,
        },
        "clusterCIDR": "",
        "configSyncPeriod": "15m0s",
        "conntrack": {
            "maxPerCore": 32768,
            "min": 131072,
            "tcpBeLiberal": False,
            "tcpCloseWaitTimeout": "1h0m0s",
            "tcpEstablishedTimeout": "24h0m0s",
            "udpStreamTimeout": "0s",
            "udpTimeout": "0s",
        },
        "detectLocal": {"bridgeInterface": "", "interfaceNamePrefix": ""},
        "detectLocalMode": "",
        "enableProfiling": False,
        "healthzBindAddress": "0.0.0.0:10256",
        "hostnameOverride": "",
        "iptables": {
            "localhostNodePorts": True,
            "masqueradeAll": False,
            "masqueradeBit": 14,
            "minSyncPeriod": "1s",
            "syncPeriod": "30s",
        },
        "ipvs": {
            "excludeCIDRs": None,
            "minSyncPeriod": "0s",
            "scheduler": "",
            "strictARP": False,
            "syncPeriod": "0s",
            "tcpFinTimeout": "0s",
            "tcpTimeout": "0s",
            "udpTimeout": "0s",
        },
        "kind": "KubeProxyConfiguration",
        "logging": {
            "flushFrequency": "5s",
            "format": "text",
            "options": {"json": {"infoBufferSize": "0"}, "text": {"infoBufferSize": "0"}},
            "verbosity": 0,
        },
        "metricsBindAddress": "127.0.0.1:10249",
        "mode": "",
        "nftables": {
            "masqueradeAll": False,
            "masqueradeBit": 14,
            "minSyncPeriod": "0s",
            "syncPeriod": "0s",
        },
        "nodePortAddresses": None,
        "oomScoreAdj": -999,
        "portRange": "",
        "showHiddenMetricsForVersion": "",
        "winkernel": {
            "enableDSR": False,
            "forwardHealthCheckVip": False,
            "networkName": "",
            "rootHnsEndpointName": "",
            "sourceVip": "",
        },
    }


@pytest.mark.parametrize(
    ("bind", "healthz", "metrics"),
    [
        ("10.0.0.1", "0.0.0.0:10256", "127.0.0.1:10249"),
        ("fd00::1", "[::]:10256", "[::1]:10249"),
        ("::", "[::]:10256", "[::1]:10249"),
    ],
)
def test_servers_listen_in_the_family_of_the_node(bind: str, healthz: str, metrics: str) -> None:
    found = config(bindAddress=bind)
    assert (found.healthz_bind_address, found.metrics_bind_address) == (healthz, metrics)


def test_an_address_alone_gets_its_port() -> None:
    found = config(healthzBindAddress="10.0.0.1", metricsBindAddress="fd00::1")
    assert (found.healthz_bind_address, found.metrics_bind_address) == ("10.0.0.1:10256", "[fd00::1]:10249")


def test_zero_is_the_default_here_and_meant_there() -> None:
    found = config(
        clientConnection={"qps": 0, "burst": 0},
        iptables={"syncPeriod": "0s", "minSyncPeriod": "0s", "masqueradeBit": 0, "localhostNodePorts": False},
        conntrack={"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s"},
        oomScoreAdj=0,
        configSyncPeriod="0s",
    )
    assert (found.client_connection.qps, found.client_connection.burst) == (5.0, 10)
    assert (str(found.iptables.sync_period), str(found.iptables.min_sync_period)) == ("30s", "1s")
    assert str(found.config_sync_period) == "15m0s"
    assert (found.iptables.masquerade_bit, found.iptables.localhost_node_ports) == (0, False)
    assert (found.conntrack.max_per_core, found.conntrack.min, found.oom_score_adj) == (0, 0, 0)
    assert found.conntrack.tcp_established_timeout == 0


def test_ipvs_has_no_least_period_of_its_own() -> None:
    assert config(mode="ipvs").section.min_sync_period == 0


# --- whose settings count --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "section", "masks"),
    [
        ("", "iptables", "iptables"),
        ("iptables", "iptables", "iptables"),
        ("userspace", "iptables", "iptables"),
        ("ipvs", "ipvs", "iptables"),
        ("nftables", "nftables", "nftables"),
    ],
)
def test_the_section_of_the_mode_counts(mode: str, section: str, masks: str) -> None:
    periods = {"iptables": "11s", "ipvs": "12s", "nftables": "13s"}
    document = {
        name: {"syncPeriod": period, "minSyncPeriod": "2s"}
        | ({"masqueradeAll": True} if name == masks else {})
        for name, period in periods.items()
    }
    found = config(mode=mode, **document)
    assert section_name(mode) == section
    assert str(found.section.sync_period) == periods[section]
    assert found.masquerade_all is True
    # What the others say is not kept, and so not written.
    written = encode(found)
    assert {name for name in periods if written[name]["syncPeriod"] != "0s"} == {section}
    assert {name for name in ("iptables", "nftables") if written[name]["masqueradeAll"]} == {masks}


@pytest.mark.parametrize(("value", "is_set"), [("2s", True), ("0s", False), (None, False)])
def test_whether_the_least_period_is_set(value: str | None, is_set: bool) -> None:
    section = {} if value is None else {"minSyncPeriod": value}
    assert decode({**HEAD, "mode": "nftables", "nftables": section}, "f").min_sync_period is is_set
    assert decode({**HEAD, "mode": "ipvs", "nftables": section}, "f").min_sync_period is False


# --- round trips -----------------------------------------------------------------------------


def leaves(kind: type[Struct] | Struct, above: str = "") -> Iterator[str]:
    """The path of every field that is not a section."""
    for field in fields(kind):
        inner = field.type
        if isinstance(inner, type) and issubclass(inner, Struct):
            yield from leaves(inner, f"{above}{field.encode_name}.")
        else:
            yield above + field.encode_name


OTHER: dict[str, Any] = {
    "featureGates": {"AllowServiceExternalIPs": False},
    "logging.vmodule": (VmoduleItem(file_pattern="a*", verbosity=3),),
    "healthzBindAddress": "10.0.0.1:1",
    "metricsBindAddress": "[fd00::1]:2",
    "bindAddress": "10.0.0.1",
    "mode": "ipvs",
}


def other(path: str) -> Any:
    """A value that is not the default."""
    now = get(Configuration(), path)
    if path in OTHER:
        return OTHER[path]
    if isinstance(now, bool):
        return not now
    if isinstance(now, Duration):
        return Duration(now + 7_000_000_000)
    if isinstance(now, int):
        return now + 7
    if isinstance(now, float):
        return now + 0.5
    if isinstance(now, Quantity):
        return Quantity("64Ki")
    return ("10.0.0.0/8", "primary") if now is None else now + "x"


def mode_of(path: str) -> str:
    """The mode in which this field counts."""
    if path.startswith(("nftables.", "ipvs.")):
        return path.partition(".")[0]
    return "iptables"


@pytest.mark.parametrize("path", list(leaves(Configuration)))
def test_every_field_comes_back(path: str) -> None:
    before = put(Configuration(), "mode", mode_of(path))
    before = put(before, path, other(path))
    written = json.loads(json.dumps(encode(before)))
    decoded = decode(written, "f")
    assert decoded.unknown == ()
    assert get(decoded.configuration, path) == other(path) != get(Configuration(), path)
    assert decoded.configuration == only_in_use(before)


def test_udp_idle_timeout_is_written_where_it_means_something() -> None:
    assert "udpIdleTimeout" not in encode(Configuration())
    assert encode(put(Configuration(), "mode", "userspace"))["udpIdleTimeout"] == "250ms"


def test_splitting_streams_is_written_if_it_is_on() -> None:
    on = put(Configuration(), "logging.options.json.splitStream", True)
    assert encode(on)["logging"]["options"]["json"] == {"splitStream": True, "infoBufferSize": "0"}


# --- what cannot be read -----------------------------------------------------------------------


def test_fields_nobody_knows_are_named_and_left_out() -> None:
    decoded = decode(
        {**HEAD, "a": 1, "iptables": {"b": {}}, "logging": {"vmodule": [{"filePattern": "x", "c": 1}]}}, "f"
    )
    assert decoded.unknown == ("a", "iptables.b", "logging.vmodule[0].c")


def test_in_our_own_section_they_are_errors() -> None:
    with pytest.raises(BadInput) as error:
        config(kubeway={"minSyncGab": "1s"})
    assert str(error.value) == (
        "f: kubeway.minSyncGab: no such setting; "
        "there are minSyncGap, driftRepair, traceFile, iptablesBackend, ipvsDrain, steering, relayWorkers, "
        "relayDrain, relayHalfClosed"
    )


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"iptables": {"masqueradeBit": "x"}}, "f: iptables.masqueradeBit: Expected `int`, got `str`"),
        ({"oomScoreAdj": 2**31}, "f: oomScoreAdj: Expected `int` <= 2147483647"),
        ({"bindAddress": 1}, "f: bindAddress: Expected `str`, got `int`"),
        ({"mode": True}, "f: mode: Expected `str`, got `bool`"),
        ({"ipvs": []}, "f: ipvs: Expected `object`, got `array`"),
        ({"nodePortAddresses": [1]}, "f: nodePortAddresses[0]: Expected `str`, got `int`"),
        ({"featureGates": {"A": 1}}, "f: featureGates[...]: Expected `bool`, got `int`"),
        (
            {"configSyncPeriod": 15},
            "f: configSyncPeriod: 15 is not text; a duration such as 1s, 500ms or 1m30s is needed",
        ),
        (
            {"configSyncPeriod": "15"},
            'f: configSyncPeriod: "15" is not a duration such as 1s, 500ms or 1m30s',
        ),
        (
            {"logging": {"options": {"json": {"infoBufferSize": "lots"}}}},
            'f: logging.options.json.infoBufferSize: "lots" is not an amount such as 512, 64Ki or 1M',
        ),
    ],
)
def test_a_field_that_cannot_be_read_is_named(document: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadInput) as error:
        config(**document)
    assert str(error.value) == problem


def test_flushing_may_be_told_in_nanoseconds() -> None:
    assert str(config(logging={"flushFrequency": 7_000_000_000}).logging.flush_frequency) == "7s"


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ([], "f: not a mapping; a KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1 is needed"),
        (
            {},
            'f: kind "" of apiVersion ""; '
            "KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1 is needed",
        ),
        (
            {"kind": "KubeProxyConfiguration", "apiVersion": "kubeproxy.config.k8s.io/v1"},
            'f: kind "KubeProxyConfiguration" of apiVersion "kubeproxy.config.k8s.io/v1"; '
            "KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1 is needed",
        ),
    ],
)
def test_another_kind_of_document(document: object, problem: str) -> None:
    with pytest.raises(BadInput) as error:
        decode(document, "f")
    assert str(error.value) == problem


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["logging", "iptables", "vmodule", "mode", "flushFrequency", "kubeway", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(PLAIN)
def test_any_document_is_a_configuration_or_bad_input(document: object) -> None:
    if isinstance(document, dict):
        document = {**document, **HEAD}
    with suppress(BadInput):
        decode(document, "f")
