"""
A relay for tests: as little as it takes to see which way packets go. A process of its own, standard library
only.

Its argument is JSON: `mark`, of all its sockets; `listeners`, each [address, port, list, hidden], and `ways`,
each [list, address or "" for any, protocol number, port, endpoint address, endpoint port]. Of a way it knows
one endpoint. It prints a line when it listens.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import threading
from contextlib import suppress
from typing import Any

TRANSPARENT = {socket.AF_INET: (socket.SOL_IP, 19), socket.AF_INET6: (socket.IPPROTO_IPV6, 75)}
ORIGINAL = {socket.AF_INET: (socket.SOL_IP, 20), socket.AF_INET6: (socket.IPPROTO_IPV6, 74)}
RESET = struct.pack("ii", 1, 0)

TOLD = json.loads(sys.argv[1])

Address = tuple[str, int]


def transparent(ip: str, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, TOLD["mark"])
    sock.setsockopt(*TRANSPARENT[sock.family], 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


class Listener:
    """One class of packets, both protocols."""

    def __init__(self, ways: list[Any], ip: str, port: int, list_: str, hidden: bool) -> None:
        self.ways, self.list, self.hidden = ways, list_, hidden
        self.tcp = transparent(ip, socket.SOCK_STREAM)
        self.tcp.bind((ip, port))
        self.tcp.listen(128)
        self.udp = transparent(ip, socket.SOCK_DGRAM)
        self.udp.setsockopt(*ORIGINAL[self.udp.family], 1)
        self.udp.bind((ip, port))
        self.sessions: dict[tuple[Address, Address], socket.socket] = {}
        for work in (self.accept, self.receive):
            threading.Thread(target=work, daemon=True).start()

    def connect(self, kind: int, client: Address, to: Address) -> socket.socket:
        """A socket that is connected to an endpoint. OSError."""
        proto = 6 if kind == socket.SOCK_STREAM else 17
        for wanted in (to[0], ""):
            for list_, ip, number, port, *endpoint in self.ways:
                family = ":" in endpoint[0], ":" in to[0]
                if (list_, ip, number, port) != (self.list, wanted, proto, to[1]) or family[0] != family[1]:
                    continue
                sock = transparent(to[0], kind)
                sock.settimeout(3)
                if not self.hidden and client[0] != endpoint[0]:
                    sock.bind((client[0], 0))
                sock.connect(tuple(endpoint))
                return sock
        raise ConnectionRefusedError

    def accept(self) -> None:
        while True:
            sock, client = self.tcp.accept()
            threading.Thread(target=self.relay, args=(sock, client[:2]), daemon=True).start()

    def relay(self, sock: socket.socket, client: Address) -> None:
        try:
            other = self.connect(socket.SOCK_STREAM, client, sock.getsockname()[:2])
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
            return
        peers = {sock: other, other: sock}
        with sock, other, suppress(OSError):
            while peers:
                for one in select.select(list(peers), [], [])[0]:
                    if data := one.recv(65536):
                        (other if one is sock else sock).sendall(data)
                    else:
                        peers.pop(one).shutdown(socket.SHUT_WR)

    def receive(self) -> None:
        while True:
            data, ancillary, _, peer = self.udp.recvmsg(65536, 256)
            raw = ancillary[0][2]
            ip = raw[8:24] if self.udp.family == socket.AF_INET6 else raw[4:8]
            key = peer[:2], (socket.inet_ntop(self.udp.family, ip), int.from_bytes(raw[2:4], "big"))
            with suppress(OSError):
                if key not in self.sessions:
                    self.sessions[key] = self.connect(socket.SOCK_DGRAM, *key)
                    threading.Thread(target=self.answer, args=key, daemon=True).start()
                self.sessions[key].send(data)

    def answer(self, client: Address, to: Address) -> None:
        with suppress(OSError), transparent(to[0], socket.SOCK_DGRAM) as back:
            back.bind(to)
            # Until it is connected, it takes what others send there.
            back.connect(client)
            other = self.sessions[client, to]
            while True:
                for one in select.select([other, back], [], [])[0]:
                    (back if one is other else other).send(one.recv(65536))


def main() -> None:
    for one in TOLD["listeners"]:
        Listener(TOLD["ways"], *one)
    print("up", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
