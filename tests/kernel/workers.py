"""The relay's workers in a network namespace, whosever they are: they live on when the daemon has ended."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from kubeway.shell.relay import worker

HERE = Path("/proc/thread-self/ns/net")


def workers(net: Path = HERE) -> list[int]:
    """Process ids of those that live there."""
    where = os.stat(net).st_ino
    found = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return sorted(pid for pid in found if is_worker(pid) and _namespace(pid) == where)


def is_worker(pid: int) -> bool:
    """False of a zombie, too."""
    try:
        return worker.__name__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _namespace(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return 0


def end_workers(net: Path = HERE) -> None:
    """So that nobody outlives a test, nor comes after it."""
    while left := workers(net):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def processor_time(pid: int) -> float:
    """Seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Bytes that are there and not only promised."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
