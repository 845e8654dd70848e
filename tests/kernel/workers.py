"""The relay's workers in a network namespace, whosever they are: they live on when the daemon has ended."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from kubeway.shell.relay import worker

HERE = Path("/proc/thread-self/ns/net")
MARK = "KUBEWAY_TESTED_BY"
"""In the environment of all that a test process starts: by it those are found whom nobody knows any more."""


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


def end_orphans() -> list[int]:
    """End the workers that tests of this process started and that have no daemon any more; who they were."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    ours = [pid for pid in found if is_worker(pid) and mark in _environment(pid)]
    orphans = [pid for pid in ours if mark not in _environment(_parent(pid)) and _parent(pid) != os.getpid()]
    for pid in orphans:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while any(map(is_worker, orphans)):
        time.sleep(0.01)
    return orphans


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def processor_time(pid: int) -> float:
    """Seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Bytes that are there and not only promised."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
