"""
How ipvs chooses a real server: the kernel's schedulers, by name.

Knows no kernel that lacks some of them. Source: net/netfilter/ipvs/ip_vs_*.c; ipvsadm(8).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SCHEDULERS: Final[Mapping[str, str]] = {
    "rr": "one after the other",
    "wrr": "one after the other, more often the more weight",
    "lc": "the one with the fewest connections",
    "wlc": "the one with the fewest connections for its weight",
    "lblc": "the one that serves this address, until it has too many connections",
    "lblcr": "one of a few that serve this address, until they have too many connections",
    "sh": "always the same for a client's address",
    "dh": "always the same for a destination's address",
    "sed": "the one that is expected to answer soonest",
    "nq": "one that is idle, else the one that is expected to answer soonest",
    "fo": "the one with the greatest weight, as long as it is there",
    "ovf": "the one with the greatest weight, until it has as many connections",
    "mh": "always the same for a client's address, and few others change when one leaves (Maglev)",
    "twos": "of two at random, the one with fewer connections for its weight",
}

DEFAULT: Final = "rr"

MAX_WEIGHT: Final = 65535
