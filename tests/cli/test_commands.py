"""The commands that need no kernel, as a person types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import kubeway
from kubeway.cli import flags
from kubeway.cli import run as start
from kubeway.cli.main import main
from kubeway.model.packet import PASS
from kubeway.modes.nftables import NftablesMode
from kubeway.shell import ipvs_plane, link_plane
from kubeway.shell.options import MODES, Config

NODE = """
kind: Node
metadata: {name: node1}
status: {addresses: [{type: InternalIP, address: 203.0.113.10}]}
"""
CART = """
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.10, ports: [{name: http, port: 80}]}
---
kind: EndpointSlice
metadata: {name: cart-1, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.11], nodeName: node1}
- {addresses: [10.244.1.12], nodeName: node1}
"""


class Said(NamedTuple):
    code: int
    out: str
    err: str


Kubeway = Callable[..., Said]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Kubeway:
    """`kubeway WORDS…`, in this process."""

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["kubeway", *words])
        try:
            code = main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return run


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    directory = tmp_path / "shop"
    directory.mkdir()
    (directory / "node.yaml").write_text(NODE)
    (directory / "cart.yaml").write_text(CART)
    return directory


# --- all of them ----------------------------------------------------------------------


def test_version(run: Kubeway) -> None:
    assert run("version") == (0, f"kubeway {kubeway.__version__}\n", "")


def test_no_words_are_answered_with_help(run: Kubeway) -> None:
    said = run()
    assert said.code == 2
    for command in ("run", "compile", "trace", "cleanup", "demo", "version"):
        assert f"\n  {command} " in said.out + said.err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["compile"], "Missing option '--manifests'"),
        (["trace", "1.2.3.4"], "Missing argument 'DST:PORT/PROTO'"),
        (["run", "--manifests", ".", "--nonsense"], "No such option"),
        (["nonsense"], "No such command"),
    ],
)
def test_a_line_that_cannot_be_read_is_2(run: Kubeway, words: list[str], problem: str) -> None:
    said = run(*words)
    assert said.code == 2
    assert problem in said.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["run", "--manifests", ".", "--proxy-mode", "kernelspace"], "failed validate: KubeProxyConf"),
        (["run", "--manifests", ".", "--hostname-override", " "], "--hostname-override: ' ' is blank"),
        (["run", "--manifests", ".", "--healthz-bind-address", "x"], '--healthz-bind-address: "x" is not'),
        (
            ["run", "--manifests", ".", "--kubeway-min-sync-gap", "soon"],
            'failed validate: KubeProxyConfiguration.kubeway.minSyncGap: Invalid value: "soon": must be auto',
        ),
        (
            ["run", "--manifests", ".", "--iptables-min-sync-period", "soon"],
            '--iptables-min-sync-period: "soon" is not',
        ),
        (["run", "--manifests", ".", "--master", "x"], "--manifests: there is --master too"),
        (
            ["run", "--manifests", ".", "--logging-format", "xml"],
            'failed validate: KubeProxyConfiguration.logging.format: Invalid value: "xml": Unsupported',
        ),
        (["run", "--manifests", ".", "-v", "much"], '--v: "much" is not a number'),
        (
            ["run", "--manifests", ".", "--cluster-cidr", "10.0.0.0"],
            "failed validate: KubeProxyConfiguration.DetectLocalConfiguration.ClusterCIDRs[0]: Invalid value",
        ),
        (["compile", "--manifests", "SHOP", "--family", "ipx"], "--family: 'ipx' is neither ip nor ip6"),
        (["compile", "--manifests", "SHOP", "-o", "xml"], "--output: 'xml' is neither text nor json"),
        (["compile", "--manifests", "SHOP", "--node", "node2"], "--node: no Node 'node2' in the manifests"),
        (["compile", "--manifests", "/no/such"], "--manifests: /no/such: no such file or directory"),
        (["compile", "--manifests", "SHOP", "--masquerade-bit", "32"], "failed validate: KubeProxy"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_1(run: Kubeway, shop: Path, words: list[str], line: str) -> None:
    said = run(*(str(shop) if word == "SHOP" else word for word in words))
    assert said.code == 1
    assert said.err.startswith(f"kubeway: {line}")
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_file_s_name_cannot_forge_a_line(run: Kubeway) -> None:
    said = run("compile", "--manifests", "/no/such\nfile\x1b[2J")
    assert said.err == "kubeway: --manifests: /no/such\\nfile\\x1b[2J: no such file or directory\n"


# --- run: its flags -------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """What the daemon would have been told; it is not started."""
    configs: list[Config] = []

    def take(config: Config) -> int:
        configs.append(config)
        return 0

    monkeypatch.setattr(start, "run", take)
    return configs


def test_run_takes_the_flags_of_kube_proxy(run: Kubeway, told: list[Config]) -> None:
    line = "--manifests a,b --manifests c -v=2 --masquerade-all=true --bind-address-hard-fail --profiling"
    more = "--no-profiling --nodeport-addresses 10.0.0.0/8,11.0.0.0/8 --iptables-min-sync-period=2s"
    assert run("run", *line.split(), *more.split()) == (0, "", "")
    (config,) = told
    assert (config.manifests, config.cluster) == (("a,b", "c"), None)
    assert (config.verbosity, config.options.masquerade_all, config.hard_fail) == (2, True, True)
    assert (config.profiling, config.min_sync_period) == (False, 2.0)
    assert [str(prefix) for prefix in config.options.node_port_addresses] == ["10.0.0.0/8", "11.0.0.0/8"]


def test_run_is_in_nftables_mode_if_nobody_says_otherwise(
    run: Kubeway, told: list[Config], tmp_path: Path
) -> None:
    assert run("run", "--manifests", "a").code == 0
    assert told[0].options.node_port_addresses == "primary"
    assert told[0].notes == ()
    file = tmp_path / "config"
    file.write_text("{kind: KubeProxyConfiguration, apiVersion: kubeproxy.config.k8s.io/v1alpha1}")
    assert run("run", "--manifests", "a", "--config", str(file)).code == 0
    assert len(told[1].notes) == 1


@pytest.mark.parametrize(
    ("word", "masquerades"),
    [
        ("--masquerade-all", True),
        ("--masquerade-all=True", True),
        ("--masquerade-all=false", False),
        ("--no-masquerade-all", False),
    ],
)
def test_switches(run: Kubeway, told: list[Config], word: str, masquerades: bool) -> None:
    assert run("run", "--manifests", "a", word).code == 0
    assert told[0].options.masquerade_all is masquerades


def test_every_flag_of_the_table_is_an_option_of_run(run: Kubeway) -> None:
    shown = run("run", "--help").out
    missing = [flag.name for flag in flags.DAEMON if not flag.old and f"--{flag.name}" not in shown]
    assert not missing
    assert "--healthz-port" not in shown


def test_old_flags_warn(run: Kubeway, told: list[Config]) -> None:
    said = run("run", "--manifests", "a", "--healthz-port", "0")
    assert said.err == "Flag --healthz-port has been deprecated, use --healthz-bind-address instead\n"
    assert told[0].healthz is None


# --- compile ----------------------------------------------------------------------------


def test_compile_prints_both_tables(run: Kubeway, shop: Path) -> None:
    said = run("compile", "--manifests", str(shop))
    assert (said.code, said.err) == (0, "")
    assert "table ip kubeway {" in said.out
    assert "table ip6 kubeway {" in said.out
    assert "10.96.0.10 . tcp . 80 . 1 : 10.244.1.12 . 8080" in said.out
    only = run("compile", "--manifests", str(shop), "--family", "ip6").out
    assert "table ip6 kubeway {" in only
    assert "table ip kubeway {" not in only


def test_compile_minds_the_flags(run: Kubeway, shop: Path) -> None:
    plain = run("compile", "--manifests", str(shop)).out
    assert "ip saddr != 10.244.0.0/16" not in plain
    flagged = run("compile", "--manifests", str(shop), "--cluster-cidr", "10.244.0.0/16").out
    assert "ip saddr != 10.244.0.0/16" in flagged
    assert "0x00000008" in run("compile", "--manifests", str(shop), "--masquerade-bit", "3").out
    bridge = run(
        *("compile", "--manifests", str(shop), "--detect-local-mode", "BridgeInterface"),
        *("--pod-bridge-interface", "cni0"),
    )
    assert '"cni0"' in bridge.out


def test_compile_as_json_names_every_object_and_whose_it_is(run: Kubeway, shop: Path) -> None:
    rows = json.loads(run("compile", "--manifests", str(shop), "-o", "json").out)
    assert {row["plane"] for row in rows} == {"nft"}
    endpoint = next(row for row in rows if row["name"] == ["ip", "endpoints", "10.96.0.10 . tcp . 80 . 1"])
    assert endpoint["kind"] == "element"
    assert endpoint["object"]["data"] == "10.244.1.12 . 8080"
    assert endpoint["origin"].startswith("shop/cart:http (TCP)")
    assert any(row["origin"] == "base" for row in rows)
    only = json.loads(run("compile", "--manifests", str(shop), "-o", "json", "--family", "ip").out)
    assert only == [row for row in rows if row["name"][0] == "ip"]


def test_compile_prints_what_iptables_restore_reads(run: Kubeway, shop: Path) -> None:
    said = run("compile", "--manifests", str(shop), "--proxy-mode", "iptables")
    assert (said.code, said.err) == (0, "")
    both = said.out.splitlines()
    assert both.count("*nat") == both.count("*filter") == 2
    assert any("--to-destination 10.244.1.12:8080" in line for line in both)
    assert any('"shop/cart:http cluster IP"' in line for line in both)
    only = run("compile", "--manifests", str(shop), "--proxy-mode", "iptables", "--family", "ip6").out
    assert only.count("*nat") == 1
    assert "10.244.1.12" not in only
    localnet = "# sysctl net.ipv4.conf.all.route_localnet = 1"
    assert both[-1] == localnet
    assert localnet not in only
    words = ("compile", "--manifests", str(shop), "--proxy-mode", "iptables")
    assert localnet not in run(*words, "--iptables-localhost-nodeports=false").out
    bit = run("compile", "--manifests", str(shop), "--proxy-mode", "iptables", "--masquerade-bit", "3").out
    assert "-j MARK --set-xmark 0x8/0x8" in bit


def test_compile_of_iptables_as_json(run: Kubeway, shop: Path) -> None:
    rows = json.loads(run("compile", "--manifests", str(shop), "--proxy-mode", "iptables", "-o", "json").out)
    assert {row["plane"] for row in rows} == {"xtables", "sysctl"}
    mine = [row for row in rows if row["origin"].startswith("shop/cart:http (TCP)")]
    shown = [rule for row in mine if row["kind"] == "rules" for rule in row["object"]["rules"]]
    assert any("--to-destination 10.244.1.12:8080" in rule for rule in shown)
    assert any("--dport 80 " in row["object"]["rule"] for row in mine if row["kind"] == "branch")


def test_trace_asks_the_mode_that_was_named(run: Kubeway, shop: Path) -> None:
    words = ("10.244.1.9", "10.96.0.10:80", "--manifests", str(shop), "--proxy-mode", "iptables")
    said = run("trace", *words)
    assert said.code == 0
    assert "The program of iptables mode does just that." in said.out
    assert "10.244.1.12:8080" in said.out


def test_a_mode_that_is_not_there_is_refused_in_a_line(run: Kubeway, shop: Path) -> None:
    said = run("run", "--manifests", str(shop), "--proxy-mode", "kernelspace")
    assert said.code == 1
    assert '"kernelspace"' in said.err


EXAMPLES = Path(__file__).parents[2] / "examples/shop"


@pytest.mark.parametrize(
    ("src", "target"),
    [
        ("10.244.1.11", "10.96.0.10:80"),
        ("10.244.2.21", "10.96.0.53:53/UDP"),
        ("192.0.2.11", "10.96.0.30:80"),
        ("198.51.100.99", "10.96.0.10:81"),
        ("10.244.1.11", "10.96.0.99:80"),
        ("fd00:10:244:1::11", "[fd00:10:96::10]:80"),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_does_with_the_example_what_the_model_says(
    run: Kubeway, src: str, target: str, mode: str
) -> None:
    words = ("--manifests", str(EXAMPLES), "--proxy-mode", mode)
    said = run("trace", src, target, *words)
    assert said.code == 0, said
    assert f"The program of {mode} mode does just that." in said.out


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_compile_of_ipvs_as_json_of_a_family(run: Kubeway, family: str) -> None:
    words = ("--proxy-mode", "ipvs", "-o", "json", "--family", family)
    rows = json.loads(run("compile", "--manifests", str(EXAMPLES), *words).out)
    vips = {row["name"][0] for row in rows if (row["plane"], row["kind"]) == ("ipvs", "server")}
    assert ("fd00:10:96::10" if family == "ip6" else "10.96.0.10") in vips
    assert all((":" in vip) is (family == "ip6") for vip in vips)
    tables = {row["name"][0] for row in rows if row["plane"] == "xtables"}
    assert tables == {family}


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_kernel_without_ip_vs_is_told_of_in_a_line(shop: Path) -> None:
    """All that is missing, and nothing else."""
    if not ipvs_plane.probe():
        pytest.skip("this kernel has ip_vs")
    command = [sys.executable, "-m", "kubeway", "run", "--manifests", str(shop), "--proxy-mode", "ipvs"]
    said = subprocess.run(["unshare", "-n", *command], capture_output=True, text=True, timeout=60)
    assert said.returncode == 1
    assert said.stdout == ""
    *_, last = said.stderr.splitlines()
    assert last.startswith("kubeway: mode ipvs: this kernel has no ip_vs")
    assert "Traceback" not in said.stderr
    assert sum("ip_vs" in line for line in said.stderr.splitlines()) == 1
    assert ("dummy" in last) is bool(link_plane.probe())


def test_compile_tells_of_bad_objects_and_goes_on(run: Kubeway, shop: Path) -> None:
    (shop / "odd.yaml").write_text(CART.replace("cart", "odd").replace("port: 80}", "port: 80000}"))
    said = run("compile", "--manifests", str(shop))
    assert said.code == 0
    assert "10.96.0.10 . tcp . 80" in said.out
    assert f"kubeway: warning: {shop}/odd.yaml" in said.err
    assert "shop/odd" in said.err


def test_compile_stops_at_a_file_it_cannot_read(run: Kubeway, shop: Path) -> None:
    (shop / "bad.yaml").write_text("kind: }")
    said = run("compile", "--manifests", str(shop))
    assert said.code == 1
    assert said.err.startswith(f"kubeway: {shop}/bad.yaml:1:")
    assert said.err.count("\n") == 1


def test_several_nodes_have_to_be_chosen_from(run: Kubeway, shop: Path) -> None:
    (shop / "other.yaml").write_text(NODE.replace("node1", "node2"))
    said = run("compile", "--manifests", str(shop))
    assert said == (1, "", "kubeway: --node: needed to choose from 2 Nodes: node1, node2\n")
    assert run("compile", "--manifests", str(shop), "--node", "Node2").code == 0


def test_whoever_has_read_enough_is_no_error(shop: Path) -> None:
    kubeway = [sys.executable, "-m", "kubeway", "compile", "--manifests", str(shop), "-o", "json"]
    child = subprocess.Popen(kubeway, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.close()
    _, err = child.communicate(timeout=60)
    assert err == b""


def test_help_imports_nothing_heavy() -> None:
    seen = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kubeway", "compile", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in seen.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"aiohttp", "asyncio", "structlog", "yaml", "watchfiles", "msgspec", "rich"}


# --- trace ------------------------------------------------------------------------------


def test_trace_tells_steps_chances_and_that_all_agree(run: Kubeway, shop: Path) -> None:
    said = run(
        *("trace", "10.244.1.99", "10.96.0.10:80/TCP", "--manifests", str(shop)),
        *("--cluster-cidr", "10.244.0.0/16", "--iif", "cni0"),
    )
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0] == "10.244.1.99 -> 10.96.0.10:80/TCP, in by cni0"
    assert "shop/cart:http" in lines[2]
    assert [line.split() for line in lines[-4:-2]] == [
        ["10.244.1.11:8080", "1/2", "1/2"],
        ["10.244.1.12:8080", "1/2", "1/2"],
    ]
    assert lines[-1] == "The program of nftables mode does just that."


def test_what_the_node_sends_is_made_here(run: Kubeway, shop: Path) -> None:
    said = run("trace", "203.0.113.10", "10.96.0.10:81", "--manifests", str(shop))
    assert said.code == 0
    assert said.out.startswith("203.0.113.10 -> 10.96.0.10:81/TCP, made on this node\n")
    assert "rejected (port unreachable)" in said.out


def test_a_remembered_endpoint_counts(run: Kubeway, shop: Path) -> None:
    sticky = CART.replace("spec: {", "spec: {sessionAffinity: ClientIP, ")
    (shop / "cart.yaml").write_text(sticky)
    ask = ("trace", "10.244.1.99", "10.96.0.10:80", "--manifests", str(shop))
    assert "1/2" in run(*ask).out
    said = run(*ask, "--remembered", "10.244.1.12:8080")
    assert said.code == 0
    assert "10.244.1.11:8080" not in said.out
    assert said.out.splitlines()[-3].split() == ["10.244.1.12:8080", "1", "1"]


def test_a_program_that_does_otherwise_is_3(
    run: Kubeway, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NftablesMode, "fates", lambda *_: {PASS: 1})
    said = run("trace", "10.244.1.99", "10.96.0.10:80", "--manifests", str(shop))
    assert said.code == 3
    assert "This is a bug in kubeway: please report it." in said.out
    rows = [line.split() for line in said.out.splitlines()]
    assert ["10.244.1.11:8080", "1/2", "-"] in rows
    assert ["passed", "on", "as", "it", "is", "-", "1"] in rows


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["x", "10.96.0.10:80"], "SRC: 'x' is not an IP address"),
        (["fd00::1", "10.96.0.10:80"], "SRC: fd00::1 is not of the family of 10.96.0.10"),
        (["10.0.0.1", "10.96.0.10"], "DST:PORT/PROTO: '10.96.0.10' is not an address with a port; write"),
        (["10.0.0.1", "10.96.0.10:0"], "DST:PORT/PROTO: '0' is not a port, 1 to 65535; write"),
        (["10.0.0.1", "10.96.0.10:80/ICMP"], "DST:PORT/PROTO: 'ICMP' is none of TCP, UDP, SCTP"),
        (["fd00::1", "fd00::2:80"], "DST:PORT/PROTO: 'fd00::2:80' is not an address with a port; write"),
        (
            ["10.0.0.1", "10.96.0.10:80", "--remembered", "fd00::1"],
            "--remembered: 'fd00::1' is not an address",
        ),
        (
            ["10.0.0.1", "10.96.0.10:80", "--remembered", "[fd00::1]:80"],
            "--remembered: [fd00::1]:80 is not of the family of 10.96.0.10",
        ),
    ],
)
def test_a_packet_that_cannot_be_read(run: Kubeway, shop: Path, words: list[str], line: str) -> None:
    said = run("trace", *words, "--manifests", str(shop))
    assert said.code == 1
    assert said.err.startswith(f"kubeway: {line}")
    assert said.err.count("\n") == 1


def test_ipv6_stands_in_brackets(run: Kubeway, shop: Path) -> None:
    said = run("trace", "fd00::1", "[fd00::2]:80/udp", "--manifests", str(shop))
    assert said.code == 0
    assert said.out.startswith("fd00::1 -> [fd00::2]:80/UDP, in by eth0\n")
