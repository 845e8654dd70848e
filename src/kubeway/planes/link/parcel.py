"""
A request of the link plane's: what to send, for which change, and which refusals of it are well.
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from kubeway.program.program import Change

# What is there is as good as new, and what is gone is gone: every change is safe to repeat.
THERE: Final = frozenset({errno.EEXIST})
GONE: Final = frozenset({errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENODEV, errno.ENOENT})


class Parcel(NamedTuple):
    """One request. `well`: error numbers that mean that it was done before."""

    change: Change
    data: bytes
    well: frozenset[int]
