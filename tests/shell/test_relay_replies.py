"""What the bytes of an answer to a client are."""

from __future__ import annotations

import socket
import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kubeway.shell.relay.datagrams import came_to
from kubeway.shell.relay.replies import Replies, Reply
from kubeway.values import Ip, show_ip


class Caught(Replies):
    """Sends nothing."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any, Any]] = []
        self.send = self._catch  # type: ignore[assignment]

    def _catch(self, parts: Any, told: Any, flags: int, to: Any) -> None:
        self.sent.append((b"".join(map(bytes, parts)), told, to))


def folded(data: bytes) -> int:
    """RFC 1071, word by word."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


ips = st.binary(min_size=4, max_size=4).map(Ip)
ports = st.integers(0, 65535)


@given(ips, ports, ips, ports, st.binary(max_size=100) | st.builds(bytes, st.integers(0, 3000)))
def test_a_receiver_finds_the_checksum_right(ip: Ip, port: int, client: Ip, to: int, data: bytes) -> None:
    caught = Caught()
    Reply(caught, ip, port, client, (show_ip(client), to)).send(memoryview(data), len(data))
    ((sent, told, where),) = caught.sent
    assert where == (show_ip(client), 0)
    assert told == [(0, 8, bytes(4) + ip + bytes(4))]
    assert struct.unpack_from(">HHH", sent) == (port, to, len(data) + 8)
    assert sent[8:] == data
    assert sent[6:8] != b"\0\0", "that would say that there is none"
    assert folded(ip + client + bytes((0, 17)) + struct.pack(">H", len(sent)) + sent) == 0xFFFF


def test_where_a_datagram_was_sent_to_is_read_of_both_families() -> None:
    v4 = struct.pack("=H", socket.AF_INET) + b"\x14\xb4" + bytes((10, 96, 0, 10)) + bytes(8)
    assert came_to(v4) == (bytes((10, 96, 0, 10)), 5300)
    ip = socket.inet_pton(socket.AF_INET6, "fd00:96::a")
    v6 = struct.pack("=H", socket.AF_INET6) + b"\x14\xb4" + bytes(4) + ip + bytes(4)
    assert came_to(v6) == (ip, 5300)
