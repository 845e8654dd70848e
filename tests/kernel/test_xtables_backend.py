"""
Which back end of iptables a node uses, step by step; each in a network namespace of its own.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kubeway.errors import BadInput
from kubeway.shell.xtables_backend import Choice, detect, forced
from kubeway.shell.xtables_kernel import KernelTables, present
from tests.kernel.netns import inside, needs_root, nft
from tests.planes.xtprograms import FAMILIES, TOOLS

pytestmark = [pytest.mark.kernel, needs_root]

NFT, LEGACY = "nf_tables", "legacy"
needs_legacy = pytest.mark.skipif(
    not (shutil.which("iptables-legacy") and shutil.which("ip6tables-legacy")),
    reason="iptables-legacy is not installed",
)


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))


def tool(says: str, at: Path) -> str:
    """An `iptables` that says what it is, as the only program in a folder."""
    path = at / "iptables"
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return str(at)


def found(*commands: str) -> Choice:
    """What is detected after these commands."""

    def work() -> Choice:
        for command in commands:
            subprocess.run(command.split(), check=True)
        return detect()

    return inside(work)


# --- 1: kubelet in nf_tables --------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chain", ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"])
def test_kubelet_s_chain_in_nf_tables(family: str, chain: str) -> None:
    def work() -> Choice:
        nft(f"table {family} mangle {{ chain {chain} {{ }}; }}")
        return detect()

    assert inside(work) == (NFT, f"kubelet's chain {chain} is in nf_tables (mangle, {family})")


@pytest.mark.skipif(not shutil.which("iptables-nft"), reason="iptables-nft is not installed")
@needs_legacy
def test_it_counts_for_more_than_legacy_rules() -> None:
    commands = ["iptables-nft -t mangle -N KUBE-IPTABLES-HINT", "iptables-legacy -w -A INPUT -j ACCEPT"]
    assert found(*commands).back_end == NFT


# --- 2: kubelet in the legacy tables ------------------------------------------------------


@needs_legacy
@pytest.mark.parametrize("tool_name", ["iptables", "ip6tables"])
@pytest.mark.parametrize(
    ("chain", "table"),
    [
        ("KUBE-IPTABLES-HINT", "mangle"),
        ("KUBE-KUBELET-CANARY", "mangle"),
        ("KUBE-KUBELET-CANARY", "nat"),
    ],
)
def test_kubelet_s_chain_in_the_legacy_tables(tool_name: str, chain: str, table: str) -> None:
    # More rules in nf_tables count for less.
    def work() -> Choice:
        nft("table ip filter { chain X { accept; }; }")
        subprocess.run([f"{tool_name}-legacy", "-w", "-t", table, "-N", chain], check=True)
        return detect()

    family = "ip" if tool_name == "iptables" else "ip6"
    assert inside(work) == (
        LEGACY,
        f"kubelet's chain {chain} is in the legacy tables ({table}, {family})",
    )


@needs_legacy
def test_a_name_in_a_comment_is_no_chain() -> None:
    name = "KUBE-IPTABLES-HINT"
    choice = found(
        f"iptables-legacy -w -t mangle -A INPUT -m comment --comment {name}",
        "iptables-legacy -w -t mangle -N KUBE-IPTABLES-HINT-2",
    )
    assert choice == (LEGACY, "the legacy tables hold 1 rules, nf_tables 0")


# --- 3: where there are more rules --------------------------------------------------------


@needs_legacy
@pytest.mark.parametrize(
    ("legacy", "newer", "back_end"),
    [(2, 1, LEGACY), (1, 1, NFT), (1, 2, NFT), (3, 0, LEGACY), (0, 1, NFT)],
)
def test_where_there_are_more_rules(legacy: int, newer: int, back_end: str) -> None:
    def work() -> Choice:
        if newer:
            nft(f"table ip filter {{ chain X {{ {'accept; ' * newer} }}; }}")
        for number in range(legacy):
            name = f"{TOOLS[FAMILIES[number % 2]]}-legacy"
            subprocess.run([name, "-w", "-A", "INPUT", "-j", "ACCEPT"], check=True)
        return detect()

    assert inside(work).back_end == back_end


@needs_legacy
def test_chains_and_policies_are_no_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PATH", f"{tool('iptables v1.8.9 (nf_tables)', tmp_path)}:/usr/sbin:/usr/bin:/sbin:/bin"
    )
    choice = found("iptables-legacy -w -N X", "iptables-legacy -w -N Y", "iptables-legacy -w -P INPUT DROP")
    assert choice == (NFT, f"no rules tell, and {tmp_path}/iptables is made for it")


def test_rules_in_tables_of_other_names_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> Choice:
        nft("table ip kubeway { chain X { accept; }; }\ntable inet filter { chain X { accept; }; }")
        monkeypatch.setenv("PATH", tool("iptables v1.8.9 (legacy)", tmp_path))
        return detect()

    assert inside(work).back_end == LEGACY


# --- 4: what the tool says ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "back_end"),
    [
        ("iptables v1.8.9 (nf_tables)", NFT),
        ("iptables v1.8.11 (legacy)", LEGACY),
        ("iptables v1.6.1", LEGACY),
        ("what?", NFT),
    ],
)
def test_what_the_tool_says(
    says: str, back_end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> Choice:
        monkeypatch.setenv("PATH", tool(says, tmp_path))
        return detect()

    assert inside(work).back_end == back_end


def test_without_a_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> Choice:
        monkeypatch.setenv("PATH", str(tmp_path))
        return detect()

    assert inside(work) == (NFT, "nothing on this node says otherwise")


# --- looking, and being told --------------------------------------------------------------


@needs_legacy
def test_looking_makes_no_tables() -> None:
    def work() -> tuple[list[str], list[str], int]:
        before = [table for family in FAMILIES for table in present(family)]
        detect()
        tables = KernelTables()
        detect()
        asked = len(tables.all_info())
        tables.close()
        return before, [table for family in FAMILIES for table in present(family)], asked

    assert inside(work) == ([], [], 0)


@needs_legacy
def test_looking_makes_no_other_tables() -> None:
    def work() -> list[str]:
        subprocess.run(["iptables-legacy", "-w", "-A", "INPUT", "-j", "ACCEPT"], check=True)
        detect()
        return [f"{family} {table}" for family in FAMILIES for table in present(family)]

    assert inside(work) == ["ip filter"]


@pytest.mark.parametrize(("word", "back_end"), [("nft", NFT), ("nf_tables", NFT), ("legacy", LEGACY)])
def test_it_can_be_told(word: str, back_end: str) -> None:
    assert forced(word, "the flag --x") == (back_end, "asked for by the flag --x")


def test_what_there_is_not() -> None:
    with pytest.raises(BadInput, match=r"^--x: 'bpf' is no back end of iptables: there are nf_tables and"):
        forced("bpf", "--x")
