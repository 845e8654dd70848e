"""What a proxy may have left in a host: rules, routes, and the relay's workers."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from kubeway.lab.host import Host
from kubeway.lab.proxy import cleanup

PATIENCE = 20.0
"""Seconds that workers may take to end when they are told to."""

_TABLE = "117"
_ASKED = (
    *(("ip", family, "rule", "list", "table", _TABLE) for family in ("-4", "-6")),
    *(("ip", family, "route", "show", "table", _TABLE) for family in ("-4", "-6")),
)


def workers(host: Host) -> list[int]:
    """The relay's processes in the host's network namespace that have not ended."""
    here = os.readlink(f"/proc/{host.pid}/ns/net")
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, as we looked
            # What is a zombie has no command line any more.
            command = (path / "cmdline").read_bytes()
            if b"kubeway.shell.relay.worker" in command and os.readlink(path / "ns/net") == here:
                found.append(int(path.name))
    return found


def remains(host: Host) -> list[str]:
    """All that is left, each in a line."""
    found = [f"relay worker {pid}" for pid in workers(host)]
    for words in _ASKED:
        # Of a table that nobody has used, some versions say that there is none.
        found += host.run(words, check=False).stdout.splitlines()
    tables = host.run(["nft", "list", "tables"], check=False).stdout.splitlines()
    return found + [line for line in tables if line.split()[-1:] == ["kubeway"]]


def nothing_remains(host: Host) -> None:
    """AssertionError, if not even in time; workers that stay are ended then."""
    end = time.monotonic() + PATIENCE
    while found := remains(host):
        if time.monotonic() > end:
            for pid in workers(host):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"left over in {host.name}: {'; '.join(found)}")
        time.sleep(0.05)


def end_workers(host: Host) -> None:
    """Those of a daemon that has ended, however it did."""
    if workers(host):
        cleanup(host)
