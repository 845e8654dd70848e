"""What the bytes of an answer to a client are."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from kubeway.planes.relay.entrance import Tally
from kubeway.shell.relay.mmsg import NAME, ancillary
from kubeway.shell.relay.replies import Replies, Reply
from kubeway.shell.relay.udp import came_to
from kubeway.values import Ip, show_ip


class Nowhere:
    """A socket that sends nothing: the call for it fails."""

    def __init__(self, family: int = socket.AF_INET) -> None:
        self.family = family

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass


def replies(family: int = socket.AF_INET) -> tuple[Replies, list[Callable[[], None]]]:
    """And what is to be done later."""
    later: list[Callable[[], None]] = []
    return Replies(Nowhere(family), later.append), later  # type: ignore[arg-type]


def put(to: Replies, reply: Reply, data: bytes, tally: Tally) -> None:
    to.room[: len(data)] = data
    to.put(reply, len(data), tally)


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
    caught, _ = replies()
    put(caught, Reply(ip, port, client, (show_ip(client), to)), data, Tally())
    batch = caught._batch
    sent = bytes(batch.heads[0]) + bytes(batch.data[0][: len(data)])
    assert batch.lengths[0] == len(sent)
    name, told = bytes(batch.ends[0][:16]), bytes(batch.ends[0][NAME:])
    assert name == struct.pack("=HH", socket.AF_INET, 0) + client + bytes(8)
    assert told == ancillary(socket.IPPROTO_IP, 8, bytes(4) + ip + bytes(4))
    assert struct.unpack_from(">HHH", sent) == (port, to, len(data) + 8)
    assert sent[6:8] != b"\0\0", "that would say that there is none"
    assert folded(ip + client + bytes((0, 17)) + struct.pack(">H", len(sent)) + sent) == 0xFFFF


def test_of_the_other_family_the_kernel_does_the_checksum_and_the_link_is_kept() -> None:
    caught, _ = replies(socket.AF_INET6)
    ip, client = (Ip(socket.inet_pton(socket.AF_INET6, text)) for text in ("fd00:96::a", "fe80::1"))
    put(caught, Reply(ip, 53, client, ("fe80::1", 4000, 0, 7)), b"answer", Tally())
    batch = caught._batch
    assert bytes(batch.heads[0]) == struct.pack(">HHHH", 53, 4000, 14, 0)
    assert bytes(batch.ends[0][:NAME]) == (
        struct.pack("=HHI", socket.AF_INET6, 0, 0) + client + struct.pack("=I", 7)
    ).ljust(NAME, b"\0")
    assert bytes(batch.ends[0][NAME:]) == ancillary(socket.IPPROTO_IPV6, 50, ip + bytes(4))


def test_what_could_not_be_sent_is_counted_as_lost_and_not_as_carried() -> None:
    caught, later = replies()
    one, other = Tally(), Tally()
    reply = Reply(Ip(bytes(4)), 53, Ip(bytes((127, 0, 0, 1))), ("127.0.0.1", 9))
    put(caught, reply, b"abc", one)
    put(caught, reply, b"defg", other)
    assert (one.received, other.received, caught.lost) == (3, 4, 0)
    assert len(later) == 1, "both leave at one time"
    later[0]()
    assert (one.received, other.received, caught.lost) == (0, 0, 2)
    later[0]()
    assert caught.lost == 2, "and once"


def test_many_do_not_wait_for_each_other() -> None:
    caught, later = replies()
    reply = Reply(Ip(bytes(4)), 53, Ip(bytes((127, 0, 0, 1))), ("127.0.0.1", 9))
    for _ in range(100):
        put(caught, reply, b"abc", Tally())
    assert caught.lost >= 100 - 64
    for work in later:
        work()
    assert caught.lost == 100


def test_where_a_datagram_was_sent_to_is_read_of_both_families() -> None:
    v4 = struct.pack("=H", socket.AF_INET) + b"\x14\xb4" + bytes((10, 96, 0, 10)) + bytes(8)
    assert came_to(v4) == (bytes((10, 96, 0, 10)), 5300)
    ip = socket.inet_pton(socket.AF_INET6, "fd00:96::a")
    v6 = struct.pack("=H", socket.AF_INET6) + b"\x14\xb4" + bytes(4) + ip + bytes(4)
    assert came_to(v6) == (ip, 5300)
