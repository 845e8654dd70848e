"""
A kernel that has no nf_tables: there is nothing in it to look for, and no reason to fail.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeway.shell.leftovers import remove
from kubeway.shell.ruleset import is_there
from kubeway.shell.steering import choose
from kubeway.shell.xtables_backend import detect
from tests.kernel.netns import inside

LOADER = Path("/proc/sys/kernel/modprobe")
"""What the kernel calls for a module it wants."""


@pytest.fixture
def no_nf_tables(tmp_path: Path) -> Iterator[None]:
    loader = LOADER.read_text().strip()
    refusing = tmp_path / "modprobe"
    refusing.write_text(f'#!/bin/sh\ncase "$*" in *nfnetlink-subsys-10) exit 1;; esac\nexec {loader} "$@"\n')
    refusing.chmod(0o755)
    LOADER.write_text(str(refusing))
    subprocess.run(["modprobe", "-r", "--remove-holders", "nf_tables"], check=True)
    yield
    LOADER.write_text(loader)


def test_there_are_leftovers_in_the_legacy_tables_only(no_nf_tables: None) -> None:
    def work() -> list[str]:
        assert not is_there()
        subprocess.run(["iptables-legacy", "-t", "nat", "-N", "KUBE-SERVICES"], check=True)
        return remove(everybodys=True)

    assert inside(work) == ["rules in table ip nat (iptables, legacy)"]


def test_nothing_is_left(no_nf_tables: None) -> None:
    assert inside(lambda: remove(everybodys=True)) == []
    assert inside(lambda: remove(everybodys=False)) == []


def test_iptables_is_legacy(no_nf_tables: None) -> None:
    assert inside(detect) == ("legacy", "this kernel has no nf_tables")


def test_xtables_lead_to_the_relay(no_nf_tables: None) -> None:
    chosen = inside(lambda: choose("auto"))
    assert chosen.by == "xtables"
    assert chosen.why.startswith("nftables ")


def test_nf_tables_is_there_again() -> None:
    assert inside(is_there)
