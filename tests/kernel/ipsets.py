"""
Network namespaces with sets in them, made by the `ipset` tool: those that the rules of `xtprograms` ask for.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from typing import Final, TypeVar

import pytest

from tests.kernel.netns import inside
from tests.planes.xtprograms import SETS

T = TypeVar("T")

needs_ipset: Final = pytest.mark.skipif(shutil.which("ipset") is None, reason="not installed: ipset")


def ipset(commands: str) -> None:
    """Run these, one to a line."""
    subprocess.run(["ipset", "restore"], input=commands, text=True, check=True)


def inside_with_sets(work: Callable[[], T]) -> T:
    """What `work` returns in a new network namespace that has all of `SETS`."""

    def run() -> T:
        ipset("".join(f"create {name} {kind}\n" for name, kind in SETS.items()))
        return work()

    return inside(run)
