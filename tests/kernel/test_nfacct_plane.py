"""The nfacct plane against the kernel, each test in a network namespace of its own."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest

from kubeway.errors import Refused
from kubeway.planes import nfacct
from kubeway.program.plan import diff
from kubeway.program.program import Change, Key, Object
from kubeway.shell.netlink import NetlinkSocket
from kubeway.shell.nfacct import NfacctPlane, counters, probe
from kubeway.wire import nfacct as wire
from kubeway.wire.nfnetlink import number
from tests.kernel.netns import inside, needs_root

pytestmark = [pytest.mark.kernel, needs_root]

BOTH: dict[Key, Object] = {nfacct.counter_key(name): nfacct.COUNTER for name in nfacct.NAMES}
T = TypeVar("T")


def counting(work: Callable[[NfacctPlane], T]) -> T:
    """With a plane in a namespace of a kernel that has accounting objects."""

    def run() -> T:
        if not probe():
            pytest.skip("this kernel has no nfacct")
        with closing(NfacctPlane(BOTH)) as plane:
            return work(plane)

    return inside(run)


def level(plane: NfacctPlane) -> list[Change]:
    changes = list(diff(plane.read_now(), plane.program))
    plane.write_now(changes)
    return changes


def test_counters_come_and_go() -> None:
    def work(plane: NfacctPlane) -> None:
        assert plane.read_now() == {}
        assert len(level(plane)) == 2
        assert plane.read_now() == BOTH
        assert level(plane) == []
        assert counters() == dict.fromkeys(nfacct.NAMES, 0)
        plane.program = {}
        assert len(level(plane)) == 2
        assert plane.read_now() == {}

    counting(work)


def test_every_change_is_safe_to_repeat() -> None:
    def work(plane: NfacctPlane) -> None:
        there, gone = list(diff({}, BOTH)), list(diff(BOTH, {}))
        for changes in (there, there, gone, gone):
            asyncio.run(plane.write(changes))
        assert asyncio.run(plane.read()) == {}

    counting(work)


def test_a_counter_of_somebody_else_is_none_of_ours() -> None:
    def work(plane: NfacctPlane) -> None:
        with NetlinkSocket() as netlink:
            assert not netlink.transact(number([wire.new("somebodys")], 1))
        plane.program = {}
        assert plane.read_now() == {}
        assert counters() == {}

    counting(work)


def test_what_the_kernel_refuses_is_told() -> None:
    def work(plane: NfacctPlane) -> None:
        long = nfacct.counter_key("x" * 40)
        with pytest.raises(Refused) as refused:
            plane.write_now([Change("add", long, None, nfacct.COUNTER)])
        assert refused.value.key == long
        assert refused.value.errno in (errno.ERANGE, errno.EINVAL)

    counting(work)


def test_rules_count_in_them(tmp_path: Path) -> None:
    """And a counter that a rule counts in stays, until the rule is gone."""
    tool = shutil.which("iptables-nft")
    if tool is None:
        pytest.skip("not installed: iptables-nft")
    environ = {**os.environ, "XTABLES_LOCKFILE": str(tmp_path / "lock")}

    def iptables(*words: str) -> int:
        return subprocess.run([tool, "-w", *words], env=environ, capture_output=True, check=False).returncode

    def work(plane: NfacctPlane) -> None:
        rule = ("OUTPUT", "-p", "udp", "-m", "nfacct", "--nfacct-name", nfacct.LOCALHOST)
        # Without its counter the kernel does not take the rule: the plane lies below.
        assert iptables("-A", *rule) != 0
        level(plane)
        if iptables("-A", *rule):
            pytest.skip("this kernel's iptables has no match nfacct")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(3):
                client.sendto(b"x", ("127.0.0.1", 9))
        assert counters() == {nfacct.INVALID: 0, nfacct.LOCALHOST: 3}
        plane.program = {}
        plane.write_now(list(diff(BOTH, {})))
        assert counters() == {nfacct.LOCALHOST: 3}
        assert plane.read_now() == {}
        assert iptables("-D", *rule) == 0
        level(plane)
        assert counters() == {}

    counting(work)
