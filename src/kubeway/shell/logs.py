"""
Records into log lines on stderr: one line each, for people or as JSON.

    2026-11-22T10:23:45.397Z warning /manifests/shop.yaml: Service shop/cart: spec.ports[0].port: …
    {"time":"2026-11-22T10:23:45.397294Z","level":"warning","record":"ObjectBad","message":"…",…}

structlog takes longer to import than a first sync takes, so lines are held until
`open`, which the daemon calls when the first sync is in the kernel's hands. Times
are those at which things happened, whenever they are written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TextIO

import msgspec

from kubeway.records import Level, Record
from kubeway.shell import clock
from kubeway.shell.options import LoggingFormat

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

_ORDER: Final[dict[Level, int]] = {"debug": 0, "info": 1, "warning": 2, "error": 3}
_ESCAPES: Final = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


class Log:
    """A recorder that writes. `verbosity` 0 leaves debug records out.

    It never fails: where nobody reads the lines any more, they are lost and the proxy goes on.
    """

    def __init__(self, form: LoggingFormat, verbosity: int = 0, out: TextIO | None = None) -> None:
        self._form = form
        self.set_verbosity(verbosity)
        self._out = out if out is not None else sys.stderr
        self._held: list[tuple[int, Record]] | None = []
        self._write: Callable[[int, Record], None] = lambda _now, _record: None

    def set_verbosity(self, verbosity: int) -> None:
        """From the next record on."""
        self._least = _ORDER["debug" if verbosity > 0 else "info"]

    def record(self, record: Record) -> None:
        if _ORDER[record.level] < self._least:
            return
        now = clock.wall()
        if self._held is None:
            self._write(now, record)
        else:
            self._held.append((now, record))

    def open(self) -> None:
        """Write what is held, and from now on every record at once. Again is no harm."""
        if self._held is None:
            return
        self._write = _writer(self._form, self._out)
        held, self._held = self._held, None
        for now, record in held:
            self._write(now, record)


def _writer(form: LoggingFormat, out: TextIO) -> Callable[[int, Record], None]:
    import structlog

    logger = structlog.wrap_logger(
        structlog.WriteLogger(out),
        processors=[_text] if form == "text" else [_message, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.BoundLogger,
    )

    def write(now: int, record: Record) -> None:
        head = {"time": clock.show_wall(now), "level": record.level, "record": type(record).__name__}
        fields = msgspec.structs.asdict(record) if form == "json" else {}
        # A broken pipe, a full disk, a closed file: no reason to stop forwarding.
        with suppress(OSError, ValueError):
            logger.info(str(record), **head, **fields)

    return write


def one_line(text: str) -> str:
    """The text with its control characters spelled out: no name in it can forge a line of its own."""
    return text.translate(_ESCAPES)


def _text(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    # 2026-11-22T10:23:45.397Z: people need no nanoseconds.
    return f"{event['time'][:23]}Z {event['level']:<7} {one_line(event['event'])}"


def _message(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """In the order people read: when, how grave, what, in words; then the record's fields."""
    head = {"time": event.pop("time"), "level": event.pop("level"), "record": event.pop("record")}
    return {**head, "message": event.pop("event"), **event}
