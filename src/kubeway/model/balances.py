"""
How the relay of userspace mode chooses an endpoint: what a Service can ask for, by name.

Who does it is `kubeway.planes.relay.balance`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Balance = Literal["roundrobin", "leastconn", "p2c", "sourcehash"]

DEFAULT: Final[Balance] = "roundrobin"

BALANCES: Final[Mapping[Balance, str]] = {
    DEFAULT: "each in its turn",
    "leastconn": "who has the fewest connections",
    "p2c": "of two by lot, the one with fewer connections",
    "sourcehash": "by the client's address",
}
"""Every way to choose, and whom it sends a new connection to."""

LONGEST_HOLD: Final = 300
"""Seconds for which a client may at most be let wait for an endpoint."""
