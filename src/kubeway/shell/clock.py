"""
The clocks. Everything else is told the time.

`monotonic` is for what lasts, `wall` only for what people and load balancers read.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

monotonic = time.monotonic
"""Seconds since some moment; never goes back."""


def wall() -> int:
    """Nanoseconds since 1970."""
    return time.time_ns()


def show_wall(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nanoseconds: `2026-11-22T10:23:45.397294243Z`."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
