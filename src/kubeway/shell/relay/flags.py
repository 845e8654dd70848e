"""
Flags: each is raised once, by one of all who hold it, and seen by all of them.

A flag is an eventfd, so it can be handed to other processes, and waited for by epoll. To raise it is atomic:
of several who try one is told that it was the one. Nobody takes it down.

Source: eventfd(2).
"""

from __future__ import annotations

import os
from select import POLLIN, poll
from typing import Final

_UP: Final = (1 << 64) - 2
"""The most an eventfd counts to: there is no room for a second one, so that is refused (EAGAIN)."""


def flag() -> int:
    """A new one, as a descriptor."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def is_flag(fd: int) -> bool:
    """Whether it is an eventfd, and not anything else that somebody has opened."""
    return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]"


def hoist(fd: int) -> bool:
    """Raise it; False if somebody has done so before."""
    try:
        os.eventfd_write(fd, _UP)
    except BlockingIOError:
        return False
    return True


def is_up(fd: int) -> bool:
    one = poll()
    one.register(fd, POLLIN)
    return bool(one.poll(0))
