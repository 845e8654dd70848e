"""The table of flags: that it is kube-proxy's, and that its columns agree with the configuration."""

from __future__ import annotations

import pytest

from kubeway.model.config_flags import BY_NAME, FLAGS, FOR_PROXY, Flag, read, read_all
from kubeway.model.config_words import Duration
from kubeway.model.configuration import Configuration, get

# `kube-proxy --help` of 1.36, hidden flags included.
KUBE_PROXY = [
    "bind-address",
    "bind-address-hard-fail",
    "boot-id-file",
    "cleanup",
    "cluster-cidr",
    "config",
    "config-sync-period",
    "conntrack-max-per-core",
    "conntrack-min",
    "conntrack-tcp-be-liberal",
    "conntrack-tcp-timeout-close-wait",
    "conntrack-tcp-timeout-established",
    "conntrack-udp-timeout",
    "conntrack-udp-timeout-stream",
    "detect-local-mode",
    "feature-gates",
    "healthz-bind-address",
    "healthz-port",
    "hostname-override",
    "init-only",
    "iptables-localhost-nodeports",
    "iptables-masquerade-bit",
    "iptables-min-sync-period",
    "iptables-sync-period",
    "ipvs-exclude-cidrs",
    "ipvs-min-sync-period",
    "ipvs-scheduler",
    "ipvs-strict-arp",
    "ipvs-sync-period",
    "ipvs-tcp-timeout",
    "ipvs-tcpfin-timeout",
    "ipvs-udp-timeout",
    "kube-api-burst",
    "kube-api-content-type",
    "kube-api-qps",
    "kubeconfig",
    "log-flush-frequency",
    "log-json-info-buffer-size",
    "log-json-split-stream",
    "log-text-info-buffer-size",
    "log-text-split-stream",
    "logging-format",
    "machine-id-file",
    "masquerade-all",
    "master",
    "metrics-bind-address",
    "metrics-port",
    "nodeport-addresses",
    "oom-score-adj",
    "pod-bridge-interface",
    "pod-interface-name-prefix",
    "profiling",
    "proxy-mode",
    "show-hidden-metrics-for-version",
    "v",
    "version",
    "vmodule",
    "write-config-to",
]
USERSPACE = {"udp-timeout", "proxy-port-range"}


def test_every_flag_of_kube_proxy_is_there_and_what_is_more_is_marked() -> None:
    assert sorted(flag.name for flag in FLAGS if not flag.only) == KUBE_PROXY
    more = {flag.name for flag in FOR_PROXY} - set(KUBE_PROXY) - USERSPACE
    assert all(name.startswith("kubeway-") for name in more)
    assert {flag.name for flag in FLAGS if flag.only == "run"} == {"manifests", "masquerade-bit"}
    assert len(BY_NAME) == len(FLAGS)


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.path], ids=lambda flag: flag.name)
def test_the_default_that_help_shows_is_the_configuration_s(flag: Flag) -> None:
    is_ = get(Configuration(), flag.path)
    if flag.kind in ("list", "gates", "vmodule"):
        assert (flag.default, not is_) == ("", True)
    elif flag.name == "kubeway-min-sync-gap":
        assert (flag.default, is_) == ("auto", "")  # it becomes auto where nothing else is said
    else:
        assert read(flag, flag.default) == is_


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_a_flag_says_what_it_takes(flag: Flag) -> None:
    assert flag.help.endswith(".")
    assert (flag.metavar == "") is (flag.kind == "bool")


def test_mentions_add_up_or_the_last_one_counts() -> None:
    assert read_all(BY_NAME["nodeport-addresses"], ["10.0.0.0/8,11.0.0.0/8", "12.0.0.0/8"]) == [
        "10.0.0.0/8",
        "11.0.0.0/8",
        "12.0.0.0/8",
    ]
    assert read_all(BY_NAME["feature-gates"], ["A=true,B=false", "B=true"]) == {"A": True, "B": True}
    assert read_all(BY_NAME["manifests"], ["a,b", "c"]) == ["a,b", "c"]
    assert read_all(BY_NAME["ipvs-tcp-timeout"], ["1s", "2s"]) == Duration(2_000_000_000)
    assert read_all(BY_NAME["vmodule"], ["a=1,b=2", "c=3"])[2] == {"filePattern": "c", "verbosity": 3}


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("bind-address", "x", '"x" is not an IP address'),
        ("metrics-bind-address", "x", '"x" is not of the form IP:port; an IPv6 address stands in brackets'),
        ("healthz-bind-address", "localhost:80", '"localhost" is not an IP address'),
        ("healthz-bind-address", "10.0.0.1:x", '"x" is not a port number'),
        ("cleanup", "maybe", '"maybe" is neither true nor false'),
        ("conntrack-min", "1.5", '"1.5" is not a whole number of 32 bits'),
        ("conntrack-min", "2147483648", '"2147483648" is not a whole number of 32 bits'),
        ("kube-api-qps", "nan", '"nan" is not a number of 32 bits'),
        ("kube-api-qps", "many", '"many" is not a number'),
        ("v", "-1", '"-1" is not a number from 0 (quiet) up'),
        ("feature-gates", "A", '"A" is not of the form Gate=true'),
        ("vmodule", "a", '"a" is not of the form pattern=N'),
        ("log-json-info-buffer-size", "lots", '"lots" is not an amount such as 512, 64Ki or 1M'),
        ("ipvs-udp-timeout", "1", '"1" is not a duration such as 1s, 500ms or 1m30s'),
    ],
)
def test_what_a_flag_does_not_take(name: str, text: str, problem: str) -> None:
    with pytest.raises(ValueError) as error:
        read(BY_NAME[name], text)
    assert str(error.value) == problem


def test_an_address_may_be_empty() -> None:
    assert read(BY_NAME["healthz-bind-address"], "") == ""
