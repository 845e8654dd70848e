"""Many datagrams by one call, as the kernel has them."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.shell.relay.mmsg import DATA, NAME, Batch, ancillary
from kubeway.shell.relay.udp import TOLD, UDP_GRO, Inbox, parties

COUNT = 8
HERE = "127.0.0.1"
TTL = (socket.IPPROTO_IP, socket.IP_TTL)
IP_RECVTTL = 12  # include/uapi/linux/in.h
Pair = tuple[socket.socket, socket.socket]


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HERE, 0))
    return sock


@pytest.fixture
def pair() -> Iterator[Pair]:
    with udp() as one, udp() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        other.settimeout(5)
        yield one, other


def sockaddr(port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(HERE) + bytes(8)


def outgoing(to: socket.socket, payloads: list[bytes], ttl: int = 7) -> Batch:
    """Each with a head of two bytes, its number."""
    told = ancillary(*TTL, struct.pack("=i", ttl))
    batch = Batch(COUNT, 16, len(told), 2)
    for at, data in enumerate(payloads):
        batch.heads[at][:] = struct.pack(">H", at)
        batch.data[at][: len(data)] = data
        batch.ends[at][:] = sockaddr(to.getsockname()[1]).ljust(NAME, b"\0") + told
        batch.lengths[at] = 2 + len(data)
    return batch


def test_what_is_sent_together_arrives_as_it_is(pair: Pair) -> None:
    one, other = pair
    payloads = [bytes([n]) * size for n, size in enumerate((0, 1, 64, 1472, 1473, 9000, 60_000))]
    other.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    assert outgoing(other, payloads).send(one.fileno(), 0, len(payloads)) == len(payloads)
    for at, data in enumerate(payloads):
        got, told, _, whom = other.recvmsg(DATA, 100)
        assert got == struct.pack(">H", at) + data
        assert whom == one.getsockname()
        assert told == [(*TTL, struct.pack("=i", 7))], "the ancillary data goes with it"


def test_one_that_cannot_be_sent_is_told_of_and_stops_no_other(
    pair: Pair,
) -> None:
    one, other = pair
    batch = outgoing(other, [b"a", b"b", b"c"])
    batch.lengths[1] = DATA + 2  # larger than a datagram can be
    assert batch.send(one.fileno(), 0, 3) == 1
    with pytest.raises(OSError, match="too long") as refused:
        batch.send(one.fileno(), 1, 3)
    assert refused.value.errno == errno.EMSGSIZE
    assert batch.send(one.fileno(), 2, 3) == 1
    assert [other.recv(99)[2:] for _ in range(2)] == [b"a", b"c"]


def test_all_that_wait_are_read_and_no_more(pair: Pair) -> None:
    one, other = pair
    other.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    batch = Batch(COUNT, 16, TOLD)
    with pytest.raises(BlockingIOError):
        batch.receive(other.fileno())
    for turn in range(3):  # what was read before leaves nothing behind
        payloads = [os.urandom(size) for size in (0, 1, 1472, 65_507, turn)]
        for data in payloads:
            one.sendto(data, other.getsockname())
        count = batch.receive(other.fileno())
        assert [bytes(batch.data[at][: batch.received[at]]) for at in range(count)] == payloads
        assert {*batch.controls[:count].tolist()} == {socket.CMSG_SPACE(4)}
        assert {bytes(end[:NAME]) for end in batch.ends[:count]} == {
            sockaddr(one.getsockname()[1]).ljust(NAME, b"\0")
        }
        assert batch.controls[count:].tolist() == [TOLD] * (COUNT - count)


def test_more_than_there_is_room_for_are_there_the_next_time(
    pair: Pair,
) -> None:
    one, other = pair
    batch = Batch(COUNT, 16, TOLD)
    for n in range(COUNT + 3):
        one.sendto(bytes([n]), other.getsockname())
    got = []
    for expected in (COUNT, 3):
        assert batch.receive(other.fileno()) == expected
        got += [bytes(batch.data[at][: batch.received[at]]) for at in range(expected)]
    assert got == [bytes([n]) for n in range(COUNT + 3)]


# --- who sent it ---------------------------------------------------------------------------


Places = tuple[tuple[str, int], tuple[str, int]]
v4 = st.tuples(st.ip_addresses(v=4).map(str), st.integers(0, 65535))
v6 = st.tuples(
    st.ip_addresses(v=6).map(lambda ip: socket.inet_ntop(socket.AF_INET6, ip.packed)),
    st.integers(0, 65535),
    st.integers(0, 0xFFFFF),
    st.integers(0, 0xFFFFFFFF),
)


def packed(place: tuple[str, int] | tuple[str, int, int, int]) -> bytes:
    """struct sockaddr_in or sockaddr_in6 (include/uapi/linux/in.h, in6.h)."""
    if len(place) == 2:
        head = struct.pack("=H", socket.AF_INET) + struct.pack(">H", place[1])
        return head + socket.inet_aton(place[0]) + bytes(8)
    head = struct.pack("=H", socket.AF_INET6) + struct.pack(">HI", place[1], place[2])
    return head + socket.inet_pton(socket.AF_INET6, place[0]) + struct.pack("=I", place[3])


@given(st.tuples(v4, v4) | st.tuples(v6, v6))
def test_client_and_way_are_read_as_sockets_have_them(
    places: tuple[tuple[str, int], tuple[str, int]],
) -> None:
    client, way = places
    told = ancillary(0, 20, packed(way))
    sender = packed(client).ljust(NAME, b"\0") + told
    assert parties(sender) == (client, packed(way))


@given(st.tuples(v4, v4) | st.tuples(v6, v6), st.integers(1, 65535))
def test_a_train_is_told_from_what_is_none_and_its_sender_is_the_same(places: Places, size: int) -> None:
    client, way = places
    inbox = Inbox(socket.AF_INET if len(client) == 2 else socket.AF_INET6)
    gro = ancillary(socket.IPPROTO_UDP, UDP_GRO, struct.pack("=i", size))
    gro = gro.ljust(socket.CMSG_SPACE(4), b"\0")
    where = ancillary(0, 20, packed(way))
    batch = inbox._batch
    for at, told in enumerate((where, gro + where)):
        batch.ends[at][: NAME + len(told)] = packed(client).ljust(NAME, b"\0") + told
        batch.controls[at] = inbox.lone + at * len(gro)
    assert batch.controls[0] == inbox.lone
    assert inbox.train(1) == (inbox.senders[0].tobytes(), size)
    assert inbox.train(0) == (inbox.senders[0].tobytes(), 0)
