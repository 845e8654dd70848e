from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.values import TCP, UDP, V4, V6, Ip, parse_ip
from kubeway.wire import conntrack as ct
from kubeway.wire.netlink import Message, attr, be32, fields, messages, nest, walk
from kubeway.wire.nfnetlink import NFPROTO_IPV4, NFPROTO_IPV6, header

# As the kernel (6.18) sent them: 127.0.0.1:20000 -> 10.96.0.1:53, sent on to 127.0.0.2:5353.
NATTED = bytes.fromhex(
    "020000003400018014000180080001007f000001080002000a6000011c0002800500010011000000060002004e200000"
    "06000300003500003400028014000180080001007f000002080002007f0000011c000280050001001100000006000200"
    "14e90000060003004e20000008000300000001a8080008000000000008000c00328f0ec708000b000000000108000700"
    "0000001d"
)
# 127.0.0.1:20001 -> 10.96.0.1:80 over TCP, sent on to 127.0.0.2:8080, established.
CONNECTION = bytes.fromhex(
    "020000003400018014000180080001007f000001080002000a6000011c0002800500010006000000060002004e210000"
    "06000300005000003400028014000180080001007f000002080002007f0000011c000280050001000600000006000200"
    "1f900000060003004e21000008000300000001ae080008000000000008000c008ce4ddd108000b000000000108000700"
    "0006977f300004802c0001800500010003000000050002000a000000050003000a000000060004002300000006000500"
    "23000000"
)
# 127.0.0.1:20000 -> 10.96.0.2:54 in zone 7, not sent on.
ZONED = bytes.fromhex(
    "020000003400018014000180080001007f000001080002000a6000021c0002800500010011000000060002004e200000"
    "06000300003600003400028014000180080001000a600002080002007f0000011c000280050001001100000006000200"
    "00360000060003004e20000006001200000700000800030000000188080008000000000008000c00e5a475a208000b00"
    "00000001080007000000001d"
)
# [::1]:20000 -> [fd00:10:96::1]:53, not sent on.
UNTOUCHED6 = bytes.fromhex(
    "0a0000004c0001802c000180140003000000000000000000000000000000000114000400fd0000100096000000000000"
    "000000011c0002800500010011000000060002004e20000006000300003500004c0002802c00018014000300fd000010"
    "00960000000000000000000114000400000000000000000000000000000000011c000280050001001100000006000200"
    "00350000060003004e2000000800030000000008080008000000000008000c0033029dbb08000b000000000108000700"
    "0000001d"
)
RECORDED = [NATTED, CONNECTION, ZONED, UNTOUCHED6]


def answer(raw: bytes) -> Message:
    return Message(256, 34, 1, memoryview(raw))


def flow(raw: bytes) -> ct.Flow:
    return ct.read_flow(answer(raw))


def test_a_flow_sent_on_to_an_endpoint() -> None:
    client = parse_ip("127.0.0.1")
    assert flow(NATTED) == ct.Flow(
        V4,
        UDP,
        client,
        20000,
        parse_ip("10.96.0.1"),
        53,
        parse_ip("127.0.0.2"),
        5353,
        client,
        20000,
        0x1A8,
        NATTED,
    )


def test_a_connection() -> None:
    read = flow(CONNECTION)
    assert (read.proto, read.dport, read.reply_sport) == (TCP, 80, 8080)
    assert read.status & ct.IPS_SEEN_REPLY
    assert ct.tcp_state(read) == 3
    assert ct.tcp_state(flow(NATTED)) is None


def test_a_flow_in_a_zone() -> None:
    read = flow(ZONED)
    assert (read.dst, read.dport, read.reply_src) == (parse_ip("10.96.0.2"), 54, parse_ip("10.96.0.2"))


def test_a_flow_of_ipv6() -> None:
    read = flow(UNTOUCHED6)
    assert (read.family, read.src, read.dst) == (V6, parse_ip("::1"), parse_ip("fd00:10:96::1"))
    assert (read.reply_src, read.reply_dst, read.reply_dport) == (read.dst, read.src, 20000)


@pytest.mark.parametrize("raw", RECORDED)
def test_a_flow_is_deleted_by_its_tuple_zone_and_id(raw: bytes) -> None:
    (m,) = messages(ct.delete_request(flow(raw)))
    assert m.kind == 0x0102
    assert m.body[0] == raw[0]
    told, known = fields(m.body[4:]), fields(raw[4:])
    exact = {ct.CTA_TUPLE_ORIG, ct.CTA_ID} | ({ct.CTA_ZONE} & known.keys())
    assert {kind: bytes(value) for kind, value in told.items()} == {
        kind: bytes(known[kind]) for kind in exact
    }


@pytest.mark.parametrize("raw", [NATTED, CONNECTION, UNTOUCHED6])
def test_the_usual_spelling_is_read_at_once_and_says_the_same_as_the_walk(raw: bytes) -> None:
    assert ct._READ[raw[0]](raw) == ct._walk_flow(raw)


def test_other_spellings_are_walked() -> None:
    assert ct._READ[NFPROTO_IPV4](ZONED) is None
    # The same attributes, the status first.
    status, rest = be32(ct.CTA_STATUS, 0x1A8), NATTED[4:108] + NATTED[116:]
    moved = NATTED[:4] + status + rest
    assert ct._READ[NFPROTO_IPV4](moved) is None
    assert flow(moved)[:-1] == flow(NATTED)[:-1]


ports = st.integers(0, 0xFFFF)
ends = st.one_of(*(st.tuples(*[st.binary(min_size=n, max_size=n).map(Ip)] * 4) for n in (4, 16)))


def spell(which: int, size: int, proto: int, src: bytes, dst: bytes, sport: int, dport: int) -> bytes:
    source = 1 if size == 4 else 3
    return nest(
        which,
        nest(1, attr(source, src), attr(source + 1, dst)),
        nest(
            2,
            attr(1, bytes([proto])),
            attr(2, sport.to_bytes(2, "big")),
            attr(3, dport.to_bytes(2, "big")),
        ),
    )


@given(ends, st.integers(0, 255), st.tuples(ports, ports, ports, ports), st.integers(0, 2**32 - 1))
def test_every_flow_comes_back(
    ips: tuple[Ip, Ip, Ip, Ip], proto: int, numbers: tuple[int, int, int, int], status: int
) -> None:
    size = len(ips[0])
    raw = header(NFPROTO_IPV4 if size == 4 else NFPROTO_IPV6)
    raw += spell(ct.CTA_TUPLE_ORIG, size, proto, ips[0], ips[1], *numbers[:2])
    raw += spell(ct.CTA_TUPLE_REPLY, size, proto, ips[2], ips[3], *numbers[2:])
    raw += be32(ct.CTA_STATUS, status)
    wanted = ct.Flow(
        V4 if size == 4 else V6,
        proto, ips[0], numbers[0], ips[1], numbers[1], ips[2], numbers[2], ips[3], numbers[3], status, raw,
    )  # fmt: skip
    assert ct._READ[raw[0]](raw) == ct._walk_flow(raw) == wanted


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(RECORDED)))
    for _ in range(draw(st.integers(1, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))])


@given(st.one_of(st.binary(max_size=200), damaged()))
def test_any_bytes_are_a_flow_or_malformed(raw: bytes) -> None:
    try:
        read = flow(raw)
        assert {len(ip) for ip in (read.src, read.dst, read.reply_src, read.reply_dst)} <= {4, 16}
        ct.tcp_state(read)
        ct.delete_request(read)
    except Malformed:
        pass


def question(request: bytes) -> tuple[int, dict[int, bytes]]:
    (m,) = messages(request)
    assert (m.kind, m.flags) == (0x0101, 0x301)
    return m.body[0], {kind: bytes(value) for kind, value in walk(m.body[4:])}


def test_a_dump_of_everything_has_no_filter() -> None:
    assert question(ct.dump_request(V4, None)) == (NFPROTO_IPV4, {})
    assert question(ct.dump_request(V6, None)) == (NFPROTO_IPV6, {})


def test_a_dump_is_narrowed_by_way_in() -> None:
    family, told = question(ct.dump_request(V4, UDP, parse_ip("10.96.0.1"), 53))
    assert family == NFPROTO_IPV4
    ip = nest(1, attr(2, parse_ip("10.96.0.1")))
    assert told[ct.CTA_TUPLE_ORIG] == ip + nest(2, attr(1, b"\x11"), attr(3, b"\0\x35"))
    assert told[ct.CTA_FILTER] == attr(1, b"\x2a\0\0\0") + attr(2, bytes(4))  # destination, protocol, port


def test_the_kernel_is_not_asked_to_compare_ipv6_addresses() -> None:
    """It has the comparison upside down, and would leave out just the flows asked for."""
    assert ct.dump_request(V6, UDP, parse_ip("fd00::1"), 53) == ct.dump_request(V6, UDP, None, 53)


def test_a_dump_is_narrowed_by_node_port_and_by_protocol() -> None:
    _, told = question(ct.dump_request(V6, UDP, None, 30053))
    assert told[ct.CTA_TUPLE_ORIG] == nest(2, attr(1, b"\x11"), attr(3, b"\x75\x65"))
    assert told[ct.CTA_FILTER].startswith(attr(1, b"\x28\0\0\0"))
    _, told = question(ct.dump_request(V6, UDP))
    assert told[ct.CTA_TUPLE_ORIG] == nest(2, attr(1, b"\x11"))
    assert told[ct.CTA_FILTER].startswith(attr(1, b"\x08\0\0\0"))


def test_a_dump_is_narrowed_to_the_unanswered() -> None:
    _, told = question(ct.dump_request(V4, TCP, unanswered=True))
    assert told[ct.CTA_STATUS] == bytes(4)
    assert told[ct.CTA_STATUS_MASK] == b"\0\0\0\x02"


def test_the_number_of_flows() -> None:
    (m,) = messages(ct.stats_request())
    assert (m.kind, m.flags) == (0x0105, 1)
    assert ct.read_stats(answer(header(0) + be32(1, 1234))) == 1234
    with pytest.raises(Malformed, match="the number of flows is missing"):
        ct.read_stats(answer(header(0)))
