"""
The lab, for the tests that put packets through a real kernel: one for every test worker.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from kubeway.lab.topology import Lab

TOOLS = ("ip", "nft", "nsenter", "conntrack")


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
        yield lab
