"""Every flag: what it takes, and the one line it says of what it does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import BadInput
from kubeway.model.node import Options
from kubeway.shell import options
from kubeway.shell.options import Address
from kubeway.values import parse_ip, parse_prefix


def test_the_defaults_are_the_model_s() -> None:
    assert options.model_options() == Options()


def test_all_of_them() -> None:
    found = options.model_options(
        hostname="node1",
        cluster_cidr="10.244.0.0/16,fd00:10:244::/56",
        detect_local_mode="BridgeInterface",
        pod_bridge_interface="cni0",
        nodeport_addresses=["10.0.0.0/8", "192.0.2.0/24,fd00::/8"],
        masquerade_all=True,
        masquerade_bit=3,
    )
    assert found == Options(
        hostname="node1",
        cluster_cidrs=(parse_prefix("10.244.0.0/16"), parse_prefix("fd00:10:244::/56")),
        detect_local="BridgeInterface",
        bridge_interface="cni0",
        node_port_addresses=tuple(map(parse_prefix, ["10.0.0.0/8", "192.0.2.0/24", "fd00::/8"])),
        masquerade_all=True,
        masquerade_bit=3,
    )


def test_primary_is_the_word_for_the_node_s_own_addresses() -> None:
    assert options.model_options(nodeport_addresses=["primary"]).node_port_addresses == "primary"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"proxy_mode": "ipvs"}, "--proxy-mode: 'ipvs' is not in this version, which has: nftables"),
        ({"proxy_mode": "magic"}, "--proxy-mode: 'magic' is not a proxy mode, which has: nftables"),
        ({"cluster_cidr": "10.0.0.0"}, "--cluster-cidr: '10.0.0.0' is not a CIDR such as 10.0.0.0/8"),
        ({"cluster_cidr": "10.0.0.0/8, fd00::/8"}, "--cluster-cidr: "),
        (
            {"cluster_cidr": "10.0.0.0/8,11.0.0.0/8"},
            "--cluster-cidr: '10.0.0.0/8,11.0.0.0/8' has more than one CIDR of a family; give one of each",
        ),
        (
            {"detect_local_mode": "nodecidr"},
            "--detect-local-mode: 'nodecidr' is none of "
            "ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix",
        ),
        (
            {"detect_local_mode": "BridgeInterface"},
            "--pod-bridge-interface: needed with --detect-local-mode BridgeInterface",
        ),
        (
            {"detect_local_mode": "InterfaceNamePrefix"},
            "--pod-interface-name-prefix: needed with --detect-local-mode InterfaceNamePrefix",
        ),
        (
            {"pod_bridge_interface": "a-name-of-16-chr"},
            "--pod-bridge-interface: 'a-name-of-16-chr' is no interface's name: "
            "at most 15 characters, no space, / or :",
        ),
        ({"masquerade_bit": 32}, "--masquerade-bit: 32 is not a bit of a 32-bit mark, 0 to 31"),
        ({"nodeport_addresses": ["primary", "10.0.0.0/8"]}, "--nodeport-addresses: 'primary' stands alone"),
        ({"nodeport_addresses": ["10.0.0.1"]}, "--nodeport-addresses: '10.0.0.1' is not a CIDR"),
    ],
)
def test_what_is_wrong_is_one_line(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as error:
        options.model_options(**flags)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "ip", "port"),
    [
        ("0.0.0.0:10256", "0.0.0.0", 10256),
        ("127.0.0.1", "127.0.0.1", 10256),
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("::", "::", 10256),
        ("fd00::1", "fd00::1", 10256),
        ("[fd00::1]", "fd00::1", 10256),
        ("[fd00::1]:8080", "fd00::1", 8080),
    ],
)
def test_healthz_address(text: str, ip: str, port: int) -> None:
    assert options.healthz_address(text) == Address(parse_ip(ip), port)


@pytest.mark.parametrize(
    "text",
    ["", "localhost:80", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "[::1", "[::1]80", ":80", "1.2.3:4"],
)
def test_no_healthz_address(text: str) -> None:
    with pytest.raises(BadInput, match=r"^--healthz-bind-address: .*; give IP:port$"):
        options.healthz_address(text)


@given(st.text())
def test_any_text_is_an_address_or_bad_input(text: str) -> None:
    try:
        address = options.healthz_address(text)
    except BadInput:
        return
    assert options.healthz_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("1s", 1), ("500ms", 0.5), ("1m30s", 90), ("1h", 3600), (".5s", 0.5)]
)
def test_duration(text: str, seconds: float) -> None:
    assert options.duration("--x", text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "1 s", "-1s", "s", "1s!", "1d"])
def test_no_duration(text: str) -> None:
    with pytest.raises(BadInput, match=r"--x: .* is not a duration such as 1s, 500ms or 1m30s"):
        options.duration("--x", text)


def test_a_duration_has_an_end() -> None:
    with pytest.raises(BadInput, match="--x: '61m' is over an hour"):
        options.duration("--x", "61m")


def test_node_names_are_trimmed_and_lower_case() -> None:
    assert options.node_name("--node", " Node1 ") == "node1"
    assert options.node_name("--node", "") == ""
    assert options.this_node("NODE2") == "node2"
    assert options.this_node("")
    with pytest.raises(BadInput, match=r"--hostname-override: ' ' is blank"):
        options.this_node(" ")


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("2", 2), ("=4", 4)])
def test_verbosity(text: str, number: int) -> None:
    assert options.verbosity(text) == number


def test_words_that_are_not_known() -> None:
    with pytest.raises(BadInput, match=r"-v: 'x' is not a number"):
        options.verbosity("x")
    with pytest.raises(BadInput, match=r"--logging-format: 'xml' is neither text nor json"):
        options.logging_format("xml")
