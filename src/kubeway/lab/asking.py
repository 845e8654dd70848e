"""
One question over the network, and how it ended.

A client connects, says a word and hears who answered. The ways it can end are
the ways a packet can end: answered, refused (a reset or an ICMP port
unreachable), or nothing at all.

Runs inside a host's process, with the standard library only so that hosts start fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import struct
from typing import Any

from kubeway.lab import sctp

Told = dict[str, Any]
"""kind, source and, when answered, what the server said: name, client, server; all JSON."""

KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM, "SCTP": socket.SOCK_STREAM}
# <linux/in.h>, <linux/in6.h>. Without it an association takes "port unreachable" for passing trouble and goes
# on trying; with it too, where the error is back before the sender of the first packet has let go of the
# socket (sctp_v4_err). So the second try comes soon: time-outs at first, at most (as it is), at least, in ms.
RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
SCTP_RTOINFO = 0
RTO = (200, 0, 100)
# Raw sockets have no ports of their own; ours should not meet flows of an earlier host.
_RAW_PORTS = itertools.count(1 + os.getpid())
NUMBERS = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": socket.IPPROTO_SCTP}


def kernel_has_sctp() -> bool:
    """Whether there are SCTP sockets; else raw ones stand in."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


def open_socket(ip: str, proto: str) -> socket.socket:
    """A non-blocking socket fit to speak to or listen on `ip`."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    kind = KINDS[proto]
    if proto == "SCTP" and not kernel_has_sctp():
        kind = socket.SOCK_RAW
    sock = socket.socket(family, kind, NUMBERS[proto])
    sock.setblocking(False)
    if proto == "SCTP" and kind == socket.SOCK_STREAM:
        sock.setsockopt(*RECVERR[family], 1)
        sock.setsockopt(NUMBERS[proto], SCTP_RTOINFO, struct.pack("=iIII", 0, *RTO))
    return sock


async def ask(to: str, port: int, proto: str, source: str, sport: int, wait: float) -> Told:
    """Ask once, for `wait` seconds at most. `source` and `sport`: where to ask from, "" and 0 for any."""
    with open_socket(to, proto) as sock:
        told: Told = {"kind": "timeout", "source": ""}
        raw = sock.type == socket.SOCK_RAW
        if raw:
            sport = sport or 1024 + next(_RAW_PORTS) % 60000
        try:
            async with asyncio.timeout(wait):
                if sport:
                    # Only where the port is asked for: two UDP sockets that share one by chance, to the
                    # same server, would hear each other's answers.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if source or (sport and not raw):
                    sock.bind((source, 0 if raw else sport))
                await _connect(sock, to, 0 if raw else port)
                told["source"] = _named(sock, sport)
                talk = _talk_raw(sock, sport, port) if raw else _talk(sock, proto)
                told |= json.loads(await talk)
                told["kind"] = "answered"
        except TimeoutError:
            told["source"] = told["source"] or _named(sock, sport)
        except ConnectionRefusedError:
            told["kind"] = "refused"
            told["source"] = told["source"] or _named(sock, sport)
        except (OSError, ValueError) as error:
            told["kind"] = f"failed: {error}"
        return told


async def _connect(sock: socket.socket, to: str, port: int) -> None:
    if sock.type == socket.SOCK_STREAM:
        await asyncio.get_running_loop().sock_connect(sock, (to, port))
    else:
        sock.connect((to, port))


def _named(sock: socket.socket, sport: int) -> str:
    ip, port = sock.getsockname()[:2]
    return show(ip, sport if sock.type == socket.SOCK_RAW else port)


async def _send(sock: socket.socket, data: bytes) -> None:
    # A packet that this very host's rules drop or reject is told to its sender as EPERM.
    # Which of the two it was shows in what comes back: an ICMP error or nothing.
    with contextlib.suppress(PermissionError):
        await asyncio.get_running_loop().sock_sendall(sock, data)


async def _talk(sock: socket.socket, proto: str) -> bytes:
    loop = asyncio.get_running_loop()
    await _send(sock, b"who\n")
    if proto == "UDP":
        return await loop.sock_recv(sock, 4096)
    heard = b""
    while not heard.endswith(b"\n"):
        part = await loop.sock_recv(sock, 4096)
        if not part:
            raise OSError("the server closed without an answer")
        heard += part
    return heard


async def _talk_raw(sock: socket.socket, sport: int, port: int) -> bytes:
    loop = asyncio.get_running_loop()
    tag = next(_RAW_PORTS)
    await _send(sock, sctp.pack(sctp.Message(sport, port, tag, sctp.INIT, b"who")))
    while True:
        packet = await loop.sock_recv(sock, 4096)
        message = sctp.unpack(sctp.strip_ip(packet) if sock.family == socket.AF_INET else packet)
        if message and message.kind == sctp.INIT_ACK and (message.sport, message.dport) == (port, sport):
            return message.text


def show(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
