"""
A packet, and where it can end.

These are the words in which the meaning of a Service is told: the model answers
a `Packet` with `Fates`, and so does every program of every mode. Tests compare
the two answers, chances included.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

from msgspec import Struct

from kubeway.values import Ip, Proto, show_addr

Verdict = Literal["endpoint", "reject", "drop", "pass"]


class Packet(Struct, frozen=True):
    """The first packet of a flow, as this node sees it.

    `iif` is the interface it came in by, "" if a process on this node made it.
    `remembered` is the endpoint this client was last sent to on this very
    address within the affinity timeout, if there was one.
    """

    src: Ip
    dst: Ip
    proto: Proto
    port: int
    iif: str = ""
    remembered: tuple[Ip, int] | None = None


class Fate(Struct, frozen=True):
    """One end of a packet.

    endpoint: rewritten to go to `ip`:`port`, with the source address replaced by
    this node's if `masquerade`. reject: answered with ICMP port unreachable.
    drop: gone. pass: not a Service's; goes where it was going.
    """

    verdict: Verdict
    ip: Ip | None = None
    port: int = 0
    masquerade: bool = False

    def __str__(self) -> str:
        if self.ip is None:
            return self.verdict
        return show_addr(self.ip, self.port) + (" masqueraded" if self.masquerade else "")


REJECT = Fate("reject")
DROP = Fate("drop")
PASS = Fate("pass")

Fates = Mapping[Fate, Fraction]
"""Every end a packet can come to, each with its exact chance; the chances add up to 1."""
