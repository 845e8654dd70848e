"""
Network namespaces for tests: made for one test, gone with it, without a name.

Only the thread that runs the test's work moves into the namespace, with the
processes and sockets it makes; the namespace ends with the last of them.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import pytest

_CLONE_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes a network namespace")


def inside(work: Callable[[], T]) -> T:
    """What `work` returns in a new network namespace, its loopback up. Its exceptions come out."""

    def run() -> T:
        if _libc.unshare(_CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"unshare: {os.strerror(number)}")
        ip("link set lo up")
        return work()

    with ThreadPoolExecutor(1) as alone:
        return alone.submit(run).result()


def ip(command: str) -> None:
    """Run `ip COMMAND`."""
    subprocess.run(["ip", *command.split()], check=True)


def nft(text: str) -> None:
    """Load a ruleset."""
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
