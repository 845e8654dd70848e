"""
What a proxy may have left in a host: rules, routes, and listeners of the relay's.

Its workers may last for as long as what they carry, UDP sessions for half a minute. Here nobody waits for
that.
"""

from __future__ import annotations

import time

from kubeway.lab.host import Host
from kubeway.lab.proxy import cleanup
from tests.kernel.workers import end_workers, workers

PATIENCE = 60.0
"""Seconds that workers may take to listen no more when they are told to."""

_TABLE = "117"
_LISTENERS = ("ss", "-Hlntu", "( sport >= 10801 and sport <= 10868 )")
_ASKED = (
    *(("ip", family, "rule", "list", "table", _TABLE) for family in ("-4", "-6")),
    *(("ip", family, "route", "show", "table", _TABLE) for family in ("-4", "-6")),
)


def remains(host: Host) -> list[str]:
    """All that is left, each in a line."""
    found = host.run(_LISTENERS).stdout.splitlines()
    for words in _ASKED:
        # Of a table that nobody has used, some versions say that there is none.
        found += host.run(words, check=False).stdout.splitlines()
    tables = host.run(["nft", "list", "tables"], check=False).stdout.splitlines()
    return found + [line for line in tables if line.split()[-1:] == ["kubeway"]]


def nothing_remains(host: Host) -> None:
    """AssertionError, if not even in time. Workers are ended with it."""
    end = time.monotonic() + PATIENCE
    try:
        while found := remains(host):
            assert time.monotonic() < end, f"left over in {host.name}: {'; '.join(found)}"
            time.sleep(0.05)
    finally:
        end_workers(host.net)


def succeed_nobody(host: Host) -> None:
    """Workers of a daemon that has ended, however it did, are told to end."""
    if workers(host.net):
        cleanup(host)
