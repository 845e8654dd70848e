"""
Starts a program inside a host, so that it cannot outlive the lab.

Arguments: the lab's pid, the host's pid, the program and its arguments. It takes
the place of this process, so the pid the lab knows is the program's.
"""

from __future__ import annotations

import os
import sys

from kubeway.lab import kernel


def main() -> None:
    lab, host, *argv = sys.argv[1:]
    try:
        # In this order: once inside it dies with the lab, whenever that is.
        kernel.die_with(int(lab))
        kernel.enter_net(int(host))
        os.execvp(argv[0], argv)  # noqa: S606  the whole purpose
    except OSError as error:
        sys.exit(f"{argv[0]}: {error.strerror}")
