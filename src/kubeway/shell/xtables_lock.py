"""
The xtables lock: who writes the legacy tables holds it, so that nobody's rules are lost.

A table is read, changed and put back as a whole, so two writers at once would undo each other. The tools
take the lock themselves; it is waited for before one is started, as it can be said then how long that
took, and who held it.

Source: iptables/xshared.c (xtables_lock), which asks with flock for the whole file.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kubeway.errors import Lost, Unsupported
from kubeway.shell import clock

_PATH: Final = "/run/xtables.lock"
_ASK_EVERY: Final = 0.005


def path() -> str:
    """Where the lock is; the tools read the same variable."""
    return os.environ.get("XTABLES_LOCKFILE") or _PATH


def need() -> None:
    """Unsupported if this process is not allowed to hold the lock: no waiting cures that."""
    try:
        os.close(_open())
    except PermissionError as error:
        raise Unsupported(
            f"the xtables lock {path()} cannot be opened: {error.strerror}; it is held by who writes the "
            "legacy iptables: run as root, if without root's other powers"
        ) from error
    except OSError:
        pass  # who writes will say so, and try again


@contextmanager
def locked(patience: float) -> Iterator[tuple[bool, float]]:
    """Whether the lock was had within so many seconds, and how many that took. Lost if there can be none."""
    began = clock.monotonic()
    try:
        file = _open()
    except OSError as error:
        raise Lost(f"the xtables lock {path()} cannot be opened: {error.strerror}") from error
    try:
        while not (had := _try(file)) and clock.monotonic() - began < patience:
            time.sleep(_ASK_EVERY)
        yield had, clock.monotonic() - began
    finally:
        os.close(file)


def _open() -> int:
    return os.open(path(), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise Lost(f"the xtables lock {path()} cannot be taken: {error.strerror}") from error
    return True


def holder() -> str:
    """`iptables-restor (process 1234)`, as far as it can be seen; "" if nobody is."""
    try:
        here = os.stat(path())
        with open("/proc/locks") as file:
            lines = [line.split() for line in file]
    except OSError:
        return ""
    for words in lines:
        if "->" in words or len(words) < 6 or words[1] != "FLOCK":
            continue
        major, minor, inode = words[5].split(":")
        if (int(major, 16), int(minor, 16), int(inode)) == (
            os.major(here.st_dev),
            os.minor(here.st_dev),
            here.st_ino,
        ):
            return f"{_name(words[4])}process {words[4]}"
    return ""


def _name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return f"{file.read().strip()}, "
    except OSError:
        return ""
