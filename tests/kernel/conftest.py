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
from tests.kernel.remains import nothing_remains, succeed_nobody
from tests.kernel.workers import MARK, end_orphans, end_workers

MANY_ERRORS = {"net.ipv4.icmp_msgs_per_sec": 1_000_000, "net.ipv4.icmp_msgs_burst": 100_000}
"""A host sends some 50 ICMP errors of both families at once (icmp_global_allow), and we ask for more."""

TOOLS = ("ip", "nft", "nsenter", "conntrack", "iptables-nft", "iptables-legacy")


# In one go: where processes start slowly, as in a guest, a dozen of them takes as long as a test. A kernel
# whose nf_tables cannot even be asked holds nothing there; of the legacy tables, those that are there matter.
BARE = """
if nft list tables >/dev/null 2>&1; then nft flush ruleset; fi
for ip in ip ip6; do
    tables=$(cat /proc/net/${ip}_tables_names || true)
    for table in $tables; do
        echo "*$table"
        if [ $table = filter ]; then printf ':%s ACCEPT\\n' INPUT FORWARD OUTPUT; fi
        echo COMMIT
    done | ${ip}tables-legacy-restore
done
conntrack -F
for family in -4 -6; do
    ip $family rule flush protocol 117 2>/dev/null || true
    ip $family route flush table 117 2>/dev/null || true
done
"""


def reason_to_skip() -> str:
    """Why packets cannot be tested here; "" if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


os.environ[MARK] = str(os.getpid())


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    """The relay's workers live on without their daemon, but not after a test, however it ended."""
    yield
    end_orphans()


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """All hosts up. Tests leave the node without rules, as they found it."""
    if why := reason_to_skip():
        pytest.skip(why)
    with Lab() as lab:
        # Kernels that have this for the whole machine only leave it as it is.
        with suppress(LabError):
            lab.node.sysctl(MANY_ERRORS)
        try:
            yield lab
        finally:
            end_workers(lab.node.net)


@pytest.fixture
def place(lab: Lab, tmp_path: Path) -> Iterator[Place]:
    """A folder of manifests, and whatever is started on it ended; the node is bare afterwards."""
    place = Place(lab, tmp_path)
    try:
        yield place
    finally:
        place.end()
        tidy(lab)


@pytest.fixture
def node(lab: Lab) -> Iterator[None]:
    """A node that holds no rules and remembers no flows, before and after."""
    yield
    tidy(lab)


def tidy(lab: Lab) -> None:
    """Nothing of a proxy is left in the node, and nobody asks for Services, whatever became of the test."""
    for host in lab.hosts():
        host.quiet()
    succeed_nobody(lab.node)
    bare(lab)
    nothing_remains(lab.node)


def bare(lab: Lab) -> None:
    """No rules of any kind, of routing neither, and no flows."""
    lab.node.run(["sh", "-ec", BARE])
