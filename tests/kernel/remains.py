"""What a proxy may have left in a host: rules, routes, and the relay's workers."""

from __future__ import annotations

import time

from kubeway.lab.host import Host
from kubeway.lab.proxy import cleanup
from tests.kernel.workers import end_workers, workers

PATIENCE = 20.0
"""Seconds that workers may take to end when they are told to."""

_TABLE = "117"
_ASKED = (
    *(("ip", family, "rule", "list", "table", _TABLE) for family in ("-4", "-6")),
    *(("ip", family, "route", "show", "table", _TABLE) for family in ("-4", "-6")),
)


def remains(host: Host) -> list[str]:
    """All that is left, each in a line."""
    found = [f"relay worker {pid}" for pid in workers(host.net)]
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
            end_workers(host.net)
            raise AssertionError(f"left over in {host.name}: {'; '.join(found)}")
        time.sleep(0.05)


def succeed_nobody(host: Host) -> None:
    """Workers of a daemon that has ended, however it did, are told to end."""
    if workers(host.net):
        cleanup(host)
