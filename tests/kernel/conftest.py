"""
The lab, for the tests that put packets through a real kernel: one for every test worker.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kubeway.lab.host import LabError
from kubeway.lab.topology import Lab
from tests.kernel.place import Place

MANY_ERRORS = {"net.ipv4.icmp_msgs_per_sec": 1_000_000, "net.ipv4.icmp_msgs_burst": 100_000}
"""A host sends some 50 ICMP errors of both families at once (icmp_global_allow), and we ask for more."""

TOOLS = ("ip", "nft", "nsenter", "conntrack", "iptables-nft", "iptables-legacy")


def reason_to_skip() -> str:
    """Why packets cannot be tested here; "" if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """All hosts up. Tests leave the node without rules, as they found it."""
    if why := reason_to_skip():
        pytest.skip(why)
    with Lab() as lab:
        # Kernels that have this for the whole machine only leave it as it is.
        with suppress(LabError):
            lab.node.sysctl(MANY_ERRORS)
        yield lab


@pytest.fixture
def place(lab: Lab, tmp_path: Path) -> Iterator[Place]:
    """A folder of manifests, and whatever is started on it ended; the node is bare afterwards."""
    place = Place(lab, tmp_path)
    try:
        yield place
    finally:
        place.end()
        bare(lab)


@pytest.fixture
def node(lab: Lab) -> Iterator[None]:
    """A node that holds no rules and remembers no flows, before and after."""
    yield
    bare(lab)


def bare(lab: Lab) -> None:
    """No rules of any kind, and no flows."""
    lab.node.run(["nft", "flush", "ruleset"])
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        for table in lab.node.run(
            ["cat", f"/proc/net/{tool.partition('tables')[0]}_tables_names"]
        ).stdout.split():
            lab.node.run([tool, "-t", table, "-F"])
            lab.node.run([tool, "-t", table, "-X"])
            for chain in ("INPUT", "FORWARD", "OUTPUT") if table == "filter" else ():
                lab.node.run([tool, "-P", chain, "ACCEPT"])
    lab.node.run(["conntrack", "-F"])
