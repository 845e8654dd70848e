"""
The programs that read and write iptables' tables: where they are, what they can, and what they say.

They are run without a shell, by their path, in the network namespace of the thread that asks. Knows
how they tell which line they stumbled over; what stood in that line it need not know.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Literal, NamedTuple

from kubeway.errors import Lost, Unsupported
from kubeway.planes.xtables.objects import Family

BackEnd = Literal["nf_tables", "legacy"]

LOCKED: Final = 4
"""The exit status of a tool that waited for the xtables lock in vain (RESOURCE_PROBLEM)."""

_WAITS: Final = (1, 6, 2)
"""Since this version iptables-restore takes the xtables lock, and waits for it if told to."""

_ROOM: Final = 1 << 20
"""Bytes of a pipe, and as much as everybody may ask for (fs.pipe-max-size)."""

_NAMES: Final[dict[Family, str]] = {"ip": "iptables", "ip6": "ip6tables"}
_VERSION: Final = re.compile(r"v(\d+)\.(\d+)(?:\.(\d+))?[^(\n]*(?:\((\w+)\))?", re.ASCII)
_LINE: Final = re.compile(r"line:? (\d+)(?: failed(?:: (.*?))?\.?$)?", re.ASCII)
_FAILED: Final = re.compile(r"line \d+ failed|Error occurred at line|^Try `", re.ASCII)
_SPEAKER: Final = re.compile(r"^\S*tables\S*(?: v[\d.]+ \(\w+\))?: *", re.ASCII)

# Words of libiptc, of the extensions and of strerror; the first that fits.
_ERRNOS: Final = (
    ("no such file or directory", errno.ENOENT),
    ("no chain/target/match", errno.ENOENT),
    ("matching rule exist", errno.ENOENT),
    ("does not exist", errno.ENOENT),
    ("doesn't exist", errno.ENOENT),
    ("already exists", errno.EEXIST),
    ("file exists", errno.EEXIST),
    ("too many links", errno.EBUSY),
    ("not empty", errno.EBUSY),
    ("busy", errno.EBUSY),
    ("levels of symbolic links", errno.ELOOP),
    ("permission denied", errno.EPERM),
    ("not permitted", errno.EPERM),
    ("memory", errno.ENOMEM),
)


class Failure(NamedTuple):
    """What a tool that failed said. `line`: of its input, from 1; None if it named none."""

    status: int
    line: int | None
    words: str

    @property
    def errno(self) -> int:
        """The kernel's number for it, guessed from the words; EINVAL if they do not say."""
        words = self.words.lower()
        return next((number for part, number in _ERRNOS if part in words), errno.EINVAL)


class Tools(NamedTuple):
    """One family's programs for the legacy tables. `waits`: restore waits for the xtables lock itself."""

    restore: str
    save: str
    waits: bool


def find(family: Family) -> Tools:
    """The legacy tools of this family. Unsupported, with what to install, if there are none."""
    name = _NAMES[family]
    for begin in (f"{name}-legacy", name):
        restore, save = shutil.which(f"{begin}-restore"), shutil.which(f"{begin}-save")
        if restore is None or save is None:
            continue
        said = version(restore)
        if said is not None and said[1] == "legacy":
            return Tools(os.path.abspath(restore), os.path.abspath(save), said[0] >= _WAITS)
    raise Unsupported(
        f"{name}-legacy-restore and {name}-legacy-save are not installed: this node's rules are in the "
        "kernel's legacy tables, which only those tools write (Debian: package iptables)"
    )


def version(path: str) -> tuple[tuple[int, int, int], BackEnd] | None:
    """What a tool says it is, and which back end it writes with; None if it does not say.

    Before 1.8 there was only one back end, and nothing is said of it.
    """
    try:
        done = subprocess.run(  # noqa: S603 (a path that `which` found)
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(done.stdout.decode(errors="replace"))
    if found is None:
        return None
    major, minor, patch, back_end = found.groups()
    return (int(major), int(minor), int(patch or 0)), "nf_tables" if back_end == "nf_tables" else "legacy"


def run(words: list[str], pieces: Iterable[str] = (), timeout: float = 300) -> tuple[str, Failure | None]:
    """What a tool that is told these pieces says, and how it failed if it did.

    Pieces that are made as they are asked for are made while the tool reads those before.

    Lost if it does not start, or does not end in time.
    """
    with _scratch() as told, _scratch() as said:
        status = _run(words, pieces, timeout, told, said)
        shown = _content(told).decode(errors="surrogateescape")
        if not status:
            return shown, None
        return shown, failure(status, _content(said).decode(errors="replace"))


def _run(words: list[str], pieces: Iterable[str], timeout: float, told: IO[bytes], said: IO[bytes]) -> int:
    """The exit status."""
    try:
        process = subprocess.Popen(  # noqa: S603 (a path that `which` found, and words of ours)
            words,
            stdin=subprocess.PIPE,
            # Files in memory: a tool never waits for somebody to take what it says, while we wait for it to
            # take what it is told.
            stdout=told,
            stderr=said,
            env={**os.environ, "LC_ALL": "C"},
            # A group of its own, to be stopped with all it started: one of those may hold our pipe, too. And
            # whoever interrupts us from a terminal does not cut a write short.
            process_group=0,
        )
    except OSError as error:
        raise Lost(f"{words[0]} does not start: {error.strerror}") from error
    late = threading.Event()

    def stop() -> None:
        if process.poll() is None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(timeout, stop)
    timer.start()
    try:
        with process:
            _feed(process, pieces)
            status = process.wait()
    finally:
        timer.cancel()
    if late.is_set():
        raise Lost(f"{Path(words[0]).name} did not end within {timeout:g} s and was stopped")
    return status


def _scratch() -> IO[bytes]:
    """A file that is in memory only."""
    return open(os.memfd_create("kubeway"), "w+b")


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _feed(process: subprocess.Popen[bytes], pieces: Iterable[str]) -> None:
    assert process.stdin is not None
    with suppress(OSError):
        # With more room, the tool and we wait for each other less often.
        fcntl.fcntl(process.stdin, fcntl.F_SETPIPE_SZ, _ROOM)
    with suppress(BrokenPipeError):  # it has ended, and says why
        for piece in pieces:
            process.stdin.write(piece.encode(errors="surrogateescape"))
        process.stdin.flush()
    with suppress(BrokenPipeError):
        process.stdin.close()


def failure(status: int, said: str) -> Failure:
    """What a tool that ended with this status said, without its name and without advice."""
    line, words = None, []
    for one in said.splitlines():
        if found := _LINE.search(one):
            line = int(found[1])
            words += [found[2]] if found[2] else []
        if one.strip() and not _FAILED.search(one):
            words.append(_SPEAKER.sub("", one.strip()))
    return Failure(status, line, "; ".join(filter(None, words)))
