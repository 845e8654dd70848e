"""
A timeline of syncs, in a file: what led to each, how long every stage took, what the kernel was told.

The file is in the Trace Event Format, one event a line, which chrome://tracing and Perfetto show as it
is (the list it begins need not be ended). It is started anew when it has grown over a limit; the one before
is kept beside it, with `.1` behind its name. A recorder like the log: it never fails.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Final, TextIO

import msgspec

from kubeway import records
from kubeway.records import Record
from kubeway.shell import clock

_MOST: Final = 16 << 20
_TOLD: Final = (records.Drifted, records.Repaired, records.Forgot, records.SetAside, records.SyncFailed)


class Timeline:
    """`path` "" records nothing. A file that cannot be written ends it, and nothing else."""

    def __init__(self, path: str, most: int = _MOST) -> None:
        self._path, self._most = path, most
        self._file: TextIO | None = None
        if path:
            with suppress(OSError):
                self._begin()

    def record(self, record: Record) -> None:
        if self._file is None:
            return
        now = clock.wall() // 1000
        if isinstance(record, records.Synced):
            events = _sync(record, now)
        elif isinstance(record, _TOLD):
            name = type(record).__name__
            events = [{"name": name, "ph": "i", "ts": now, "s": "p", "args": {"message": str(record)}}]
        else:
            return
        self._write(events)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, events: list[dict[str, Any]]) -> None:
        assert self._file is not None
        try:
            for event in events:
                line = msgspec.json.encode({**event, "pid": os.getpid(), "tid": 1})
                self._file.write(f"{line.decode()},\n")
            self._file.flush()
            if self._file.tell() > self._most:
                self.close()
                os.replace(self._path, f"{self._path}.1")
                self._begin()
        except OSError:
            self._file = None

    def _begin(self) -> None:
        # Not world-readable: names of Services are nobody else's business.
        number = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        self._file = os.fdopen(number, "w", encoding="utf-8")
        self._file.write("[\n")
        self._file.flush()


def _sync(record: records.Synced, now: int) -> list[dict[str, Any]]:
    """A sync and its stages, one after the other; `now` is its end, in microseconds."""
    waited = max(0.0, record.lag_ms - record.took_ms)
    stages = (
        ("waiting", waited),
        ("settle", record.settle_ms),
        ("compile", record.compile_ms),
        ("link", record.link_ms),
        ("read", record.read_ms),
        ("write", record.write_ms),
    )
    whole = max(record.took_ms + waited, sum(took for _, took in stages))
    at = now - int(whole * 1000)
    args = {
        "cause": record.cause,
        "changes": record.changes,
        "services": record.services,
        "names": list(record.names),
    }
    events: list[dict[str, Any]] = [
        {"name": "sync", "ph": "X", "ts": at, "dur": int(whole * 1000), "args": args}
    ]
    for name, took in stages:
        if took:
            events.append({"name": name, "ph": "X", "ts": at, "dur": int(took * 1000)})
            at += int(took * 1000)
    return events
