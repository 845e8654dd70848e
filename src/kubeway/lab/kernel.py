"""
The calls to the kernel that Python 3.11 has no name for: entering namespaces, dying with one's parent.

Knows numbers of linux/sched.h and linux/prctl.h; need not know what the namespaces are for.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

from kubeway.errors import Unsupported

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unshare(flags: int) -> None:
    """Give this process namespaces of its own; OSError with the kernel's reason if it may not."""
    _call("unshare", flags)


def enter_net(pid: int) -> None:
    """Go into the network namespace of that process."""
    with open(f"/proc/{pid}/ns/net") as namespace:
        _call("setns", namespace.fileno(), CLONE_NEWNET)


def die_with(parent: int, by: int = signal.SIGKILL) -> None:
    """Get this signal when the thread that started this process ends; end at once if `parent` is gone."""
    _call("prctl", PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def become_root() -> None:
    """Be root in a user namespace of one's own, unless one is root already.

    Only for a process with one thread (the kernel refuses others). Raises Unsupported
    where the machine does not let ordinary users make user namespaces.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        return
    try:
        # A network namespace too, so that /proc/sys/net is this namespace's to write from the start.
        unshare(CLONE_NEWUSER | CLONE_NEWNET)
        me = Path("/proc/self")
        # Before a group may be mapped, the right to drop groups must be given up (user_namespaces(7)).
        (me / "setgroups").write_text("deny")
        (me / "uid_map").write_text(f"0 {uid} 1")
        (me / "gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        raise Unsupported(
            f"needs root, or a user namespace, which this machine refuses to user {uid}: {error.strerror}"
        ) from None
