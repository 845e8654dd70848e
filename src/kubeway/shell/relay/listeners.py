"""
The sockets that listen, one for each class of ways and worker, and how the kernel spreads clients over them.

One client always comes to the same worker: the kernel is told to choose by the source address alone. So
affinity needs no table that several processes would have to agree on, nor does it have to do without one
(by a hash over the endpoints each new endpoint would take clients from the others, who were promised to
stay). The price: clients behind one address share one worker.

All listeners of a class are in one reuseport group (but of UDP: `listen`), whose members are counted in
the order in which they listen. The control process keeps them all open: when a worker dies, those who
come in the meantime wait for its successor, and the numbers of the others stay.

Source: net/core/sock_reuseport.c, net/core/filter.c (sk_attach reuseport, SKF_NET_OFF).
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from kubeway.errors import Refused
from kubeway.planes.relay.objects import APART, List
from kubeway.shell.relay import udp
from kubeway.shell.relay.streams import KEEPALIVE
from kubeway.shell.relay.transparent import transparent
from kubeway.values import TCP, UDP, Proto, show_addr, show_ip

SO_ATTACH_REUSEPORT_CBPF: Final = 51
_BACKLOG: Final = 4096


class Listening(Struct, frozen=True):
    """Where a class of ways listens.

    `list_`: which endpoints count. `keeps`: they may see who the client is. `transparent`: connections to
    any address are taken that rules steer here (IP_TRANSPARENT, CAP_NET_ADMIN); else those to `ip` only. UDP
    is always so. Of UDP `port` is the first worker's (`port_of`).
    """

    list_: List
    keeps: bool
    ip: bytes
    port: int
    transparent: bool = True
    proto: Proto = TCP


def has(ip: bytes) -> bool:
    """Whether this kernel knows the family of the address at all; if so, it can be listened at."""
    try:
        socket.socket(socket.AF_INET if len(ip) == 4 else socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return False
    return True


def port_of(what: Listening, worker: int) -> int:
    """Where this worker's listener is: of UDP each has its own. 0: any."""
    return what.port + APART * worker if what.port and what.proto == UDP else what.port


def listen(
    what: Listening, workers: int, have: Sequence[socket.socket] = (), mark: int = 0
) -> list[socket.socket]:
    """One listener for each worker; Refused if there cannot be any. Port 0 is any that is free. `mark`: of
    all packets of connections that are taken (SO_MARK, CAP_NET_ADMIN); 0 for none.

    `have`: those of a predecessor, which are used; if they are more, there are more. If they are fewer, no
    client comes to the others before `spread`.

    Of UDP each has its own port (`port_of`): at one the kernel would spread one client's ports over several
    workers, and each would have its own idea of which endpoint the client is to come back to (`udp.listen`).
    So it is for the rules to choose.
    """
    sockets: list[socket.socket] = [*have]
    port = sockets[0].getsockname()[1] if sockets else what.port
    try:
        if have and len(have) < workers and what.proto != UDP:
            by_source(sockets[0], len(what.ip) == 4, len(have))
        while len(sockets) < workers:
            if what.proto == UDP:
                port = port_of(what, len(sockets))
            sock = _one(what, port, mark)
            sockets.append(sock)
            port = sock.getsockname()[1]
        if not have:
            spread(what, sockets, mark)
    except OSError as error:
        for sock in sockets:
            sock.close()
        where = show_addr(what.ip, port)
        raise Refused(
            error.strerror or str(error), error.errno or errno.EIO, f"listening on {where}"
        ) from error
    return sockets


def _one(what: Listening, port: int, mark: int) -> socket.socket:
    v4 = len(what.ip) == 4
    if what.proto == UDP:
        bare = udp.listen((show_ip(what.ip), port), socket.AF_INET if v4 else socket.AF_INET6)
        return socket.socket(fileno=bare.detach())
    sock = socket.socket(socket.AF_INET if v4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if not v4:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if what.transparent:
            transparent(sock)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        # Accepted sockets have these from it, so no call is spent on each. An urgent byte stays in its place:
        # else it would be left out.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.bind((show_ip(what.ip), port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def spread(what: Listening, sockets: Sequence[socket.socket], mark: int = 0) -> None:
    """Have clients come to all of these, which are their group. `mark`: as `listen` has it; a predecessor
    that was led to by other rules gave them another one. OSError."""
    for sock in sockets:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) != mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    if len(sockets) > 1 and what.proto != UDP:
        by_source(sockets[0], len(what.ip) == 4, len(sockets))


def by_source(sock: socket.socket, v4: bool, workers: int) -> None:
    """Have its group's members chosen by a hash of the source address. OSError."""
    code = program(v4, workers)
    buffer = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*one) for one in code))
    told = _PROGRAM.pack(len(code), ctypes.addressof(buffer))  # copied by the kernel
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, told)


def program(v4: bool, workers: int) -> list[tuple[int, int, int, int]]:
    """Classic BPF: fold the source address to 32 bits, mix them, and return a number below `workers`."""
    words = (12,) if v4 else (8, 12, 16, 20)  # offsets in the IP header
    code = [(_LOAD, 0, 0, _NET_OFF + words[0])]
    for offset in words[1:]:
        # Each step mixes, as the words of addresses in one network are alike.
        code += [
            (_MULTIPLY, 0, 0, _MIX),
            (_TO_X, 0, 0, 0),
            (_LOAD, 0, 0, _NET_OFF + offset),
            (_XOR_X, 0, 0, 0),
        ]
    return [
        *code,
        (_MULTIPLY, 0, 0, _MIX),
        (_SHIFT, 0, 0, 16),
        (_MODULO, 0, 0, workers),
        (_RETURN_A, 0, 0, 0),
    ]


_INSTRUCTION: Final = struct.Struct("HBBI")  # struct sock_filter
_PROGRAM: Final = struct.Struct("HxxxxxxP")  # struct sock_fprog, of 64 bits
_NET_OFF: Final = 0xFFF00000  # SKF_NET_OFF, -0x100000
_MIX: Final = 0x9E3779B1

# include/uapi/linux/bpf_common.h: class | size or operation | mode or source
_LOAD: Final = 0x00 | 0x00 | 0x20  # BPF_LD | BPF_W | BPF_ABS
_MULTIPLY: Final = 0x04 | 0x20 | 0x00  # BPF_ALU | BPF_MUL | BPF_K
_SHIFT: Final = 0x04 | 0x70 | 0x00  # BPF_ALU | BPF_RSH | BPF_K
_MODULO: Final = 0x04 | 0x90 | 0x00  # BPF_ALU | BPF_MOD | BPF_K
_XOR_X: Final = 0x04 | 0xA0 | 0x08  # BPF_ALU | BPF_XOR | BPF_X
_TO_X: Final = 0x07 | 0x00  # BPF_MISC | BPF_TAX
_RETURN_A: Final = 0x06 | 0x10  # BPF_RET | BPF_A
