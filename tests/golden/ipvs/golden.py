"""
What was recorded of ipvsadm 1.31 and Linux 6.1: the messages it sends, and what the kernel then tells.

`tests/guest/test_ipvs_plane.py` records it anew, and fails if it is another. `ipvsadm.messages` holds, for
each line that ipvsadm was given, the message it sent, from the genlmsghdr on; `kernel.answers` what a dump
of the services told then, one of the destinations of 10.96.0.9:80/TCP, and the timeouts; `kernel.list` the
/proc/net/ip_vs.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
MARK = "-A -f 7 -s wrr"
"""Told after the others: a server of somebody else's, which a packet mark calls."""


def sent() -> dict[str, bytes]:
    """The message of each line."""
    lines = (HERE / "ipvsadm.messages").read_text().splitlines()
    return {line: bytes.fromhex(message) for line, message in zip(lines[::2], lines[1::2], strict=True)}


def answers() -> dict[str, list[bytes]]:
    """What was told of services, destinations and timeouts, a message each from the genlmsghdr on."""
    told: dict[str, list[bytes]] = {"services": [], "destinations": [], "timeouts": []}
    for line in (HERE / "kernel.answers").read_text().splitlines():
        kind, message = line.split(" ")
        told[kind].append(bytes.fromhex(message))
    return told


def listing() -> bytes:
    return (HERE / "kernel.list").read_bytes()
