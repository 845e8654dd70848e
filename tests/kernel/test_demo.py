"""
`kubeway demo`, from its start to its end; and what it needs to run without root.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.kernel.conftest import reason_to_skip

pytestmark = pytest.mark.kernel

BECOME_ROOT = """
import ctypes, os
from kubeway.lab import kernel
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
# Who changed its user may not write its own /proc files, unless it says so: PR_SET_DUMPABLE.
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
kernel.become_root()
kernel.unshare(kernel.CLONE_NEWNET)
print(os.geteuid(), os.getegid(), open("/proc/self/uid_map").read().split())
"""


def test_the_demo_answers_every_connection_and_ends_well() -> None:
    if why := reason_to_skip():
        pytest.skip(why)
    done = subprocess.run(
        [sys.executable, "-m", "kubeway", "demo"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost: 0" in done.stdout
    assert "connections, all answered." in done.stdout
    assert "pod-14 answered" in done.stdout
    assert "table ip kubeway {" in done.stdout
    assert done.stderr == ""


def test_an_ordinary_user_is_root_in_a_namespace_of_its_own() -> None:
    if why := reason_to_skip():
        pytest.skip(why)
    done = subprocess.run(
        [sys.executable, "-c", BECOME_ROOT], capture_output=True, text=True, timeout=30, check=False
    )
    if "which this machine refuses" in done.stderr:
        pytest.skip("this machine refuses user namespaces to ordinary users")
    assert done.stdout.split(maxsplit=2) == ["0", "0", "['0', '65534', '1']\n"], done.stderr
