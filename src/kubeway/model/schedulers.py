"""
How ipvs chooses a real server: the kernel's schedulers, by name.

Knows no kernel that lacks some of them. Source: net/netfilter/ipvs/ip_vs_*.c; ipvsadm(8).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SCHEDULERS: Final[Mapping[str, str]] = {
    "rr": "each destination in its turn",
    "wrr": "each in its turn, those of more weight more often",
    "lc": "who has the fewest connections",
    "wlc": "who has the fewest connections for its weight",
    "lblc": "one destination for each virtual address, until it is overloaded",
    "lblcr": "a few destinations for each virtual address, as many as its load needs",
    "sh": "by the client's address (and port): the same client, the same destination",
    "dh": "by the virtual address: one destination for all its clients",
    "sed": "who would have the fewest connections for its weight, the new one counted",
    "nq": "who has no connection; if there is nobody, as sed",
    "fo": "all to the destination of the most weight",
    "ovf": "all to the destination of the most weight, until it has as many connections as weight",
    "mh": "by the client's address (and port), such that few clients move when destinations change",
    "twos": "of two by chance, the one with fewer connections for its weight",
}
"""Every scheduler of the kernel, and whom it sends a new connection to."""

DEFAULT: Final = "rr"

MAX_WEIGHT: Final = 65535
