"""
The kernel's table of flows: how to ask for them, read them and have one forgotten.

A flow is known by the addresses its first packet bore (the original direction)
and those an answer bears (the reply direction). For a flow sent on to an
endpoint, the original destination is the way in and the reply source is the
endpoint. Which flows ought to go is not known here.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h and
nf_conntrack_common.h; net/netfilter/nf_conntrack_netlink.c.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple

from kubeway.errors import Malformed
from kubeway.values import V4, V6, Ip
from kubeway.wire.netlink import (
    NLA_F_NESTED,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    Message,
    attr,
    be32,
    fields,
    message,
    need,
    nest,
    read_be32,
)
from kubeway.wire.nfnetlink import (
    NFNL_SUBSYS_CTNETLINK,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    NFPROTO_UNSPEC,
    header,
    kind,
)

IPCTNL_MSG_CT_NEW: Final = 0
IPCTNL_MSG_CT_GET: Final = 1
IPCTNL_MSG_CT_DELETE: Final = 2
IPCTNL_MSG_CT_GET_STATS: Final = 5

CTA_TUPLE_ORIG: Final = 1
CTA_TUPLE_REPLY: Final = 2
CTA_STATUS: Final = 3
CTA_PROTOINFO: Final = 4
CTA_ID: Final = 12
CTA_ZONE: Final = 18
CTA_FILTER: Final = 25
CTA_STATUS_MASK: Final = 26

CTA_TUPLE_IP: Final = 1
CTA_TUPLE_PROTO: Final = 2
CTA_IP_V4_SRC: Final = 1
CTA_IP_V4_DST: Final = 2
CTA_IP_V6_SRC: Final = 3
CTA_PROTO_NUM: Final = 1
CTA_PROTO_SRC_PORT: Final = 2
CTA_PROTO_DST_PORT: Final = 3
CTA_PROTOINFO_TCP: Final = 1
CTA_PROTOINFO_TCP_STATE: Final = 1
CTA_STATS_GLOBAL_ENTRIES: Final = 1

CTA_FILTER_ORIG_FLAGS: Final = 1
CTA_FILTER_REPLY_FLAGS: Final = 2
# What of a tuple a filter compares (net/netfilter/nf_internals.h).
_BY_IP_DST: Final = 1 << 1
_BY_PROTO: Final = 1 << 3
_BY_DST_PORT: Final = 1 << 5

IPS_SEEN_REPLY: Final = 1 << 1
"""Set in a flow's status once an answer has come by."""

_FAMILIES: Final = {V4: NFPROTO_IPV4, V6: NFPROTO_IPV6}
_FLAGS: Final = Struct("=I")


class Flow(NamedTuple):
    """One entry of the table. Ports are 0 for protocols without.

    `raw` is the kernel's whole message, out of which `delete_request` takes
    what names the flow exactly.
    """

    family: int
    proto: int
    src: Ip
    sport: int
    dst: Ip
    dport: int
    reply_src: Ip
    reply_sport: int
    reply_dst: Ip
    reply_dport: int
    status: int
    raw: bytes


def dump_request(
    family: int,
    proto: int | None,
    dst: Ip | None = None,
    dport: int | None = None,
    unanswered: bool = False,
) -> bytes:
    """Ask for the flows of a family (4 or 6), narrowed to those whose first packet
    had this protocol, destination and destination port, and that were never answered.

    More flows may come than were asked for, so the answers have to be looked at
    all the same: kernels before 5.8 know no filter, and none compares the ports
    of SCTP or, see below, the addresses of IPv6.
    """
    parts, flags = [], 0
    # The kernel's comparison of IPv6 addresses is upside down (up to 6.18 at least:
    # ctnetlink_filter_match_tuple takes ipv6_addr_cmp for a test of equality), so that
    # just the wanted flows would be left out. So the kernel is not asked to compare them.
    if dst is not None and family == V4:
        parts.append(nest(CTA_TUPLE_IP, attr(CTA_IP_V4_DST, dst)))
        flags |= _BY_IP_DST
    if proto is not None:
        ports = b"" if dport is None else attr(CTA_PROTO_DST_PORT, dport.to_bytes(2, "big"))
        parts.append(nest(CTA_TUPLE_PROTO, attr(CTA_PROTO_NUM, bytes((proto,))), ports))
        flags |= _BY_PROTO | (_BY_DST_PORT if ports else 0)
    body = header(_FAMILIES[family])
    if flags:
        body += nest(CTA_TUPLE_ORIG, *parts)
        wanted = attr(CTA_FILTER_ORIG_FLAGS, _FLAGS.pack(flags))
        body += nest(CTA_FILTER, wanted, attr(CTA_FILTER_REPLY_FLAGS, _FLAGS.pack(0)))
    if unanswered:
        body += be32(CTA_STATUS, 0) + be32(CTA_STATUS_MASK, IPS_SEEN_REPLY)
    return message(kind(NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET), NLM_F_REQUEST | NLM_F_DUMP, body)


def delete_request(flow: Flow) -> bytes:
    """Have this very flow forgotten. ENOENT: it is gone, or another has taken its place."""
    known = fields(memoryview(flow.raw)[4:])
    body = header(_FAMILIES[flow.family])
    body += attr(CTA_TUPLE_ORIG | NLA_F_NESTED, bytes(need(known, CTA_TUPLE_ORIG, "a flow's tuple")))
    # The id tells this flow from a later one with the same addresses, which may be a good one.
    for extra in (CTA_ZONE, CTA_ID):
        if extra in known:
            body += attr(extra, bytes(known[extra]))
    return message(kind(NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE), NLM_F_REQUEST, body)


def stats_request() -> bytes:
    """Ask how many flows there are."""
    body = header(NFPROTO_UNSPEC)
    return message(kind(NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET_STATS), NLM_F_REQUEST, body)


def read_stats(m: Message) -> int:
    """The number of flows, as `stats_request` asks for it."""
    return read_be32(need(fields(m.body[4:]), CTA_STATS_GLOBAL_ENTRIES, "the number of flows"))


def tcp_state(flow: Flow) -> int | None:
    """The state of a TCP flow (1 is SYN_SENT, 3 ESTABLISHED); None if it has none."""
    info = fields(memoryview(flow.raw)[4:]).get(CTA_PROTOINFO)
    tcp = fields(info).get(CTA_PROTOINFO_TCP) if info is not None else None
    state = fields(tcp).get(CTA_PROTOINFO_TCP_STATE) if tcp is not None else None
    return state[0] if state else None


# --- reading --------------------------------------------------------------------
#
# A table may hold some 100,000 flows. The kernel spells nearly all of them alike:
# both tuples and the status first, without a zone. So a flow is unpacked in one
# go, and the attribute headers between the values are compared to what they
# always are; any other spelling is walked attribute by attribute.


def _tuple_format(size: int) -> str:
    # Headers (and padding) and values by turns: source, destination, protocol, ports.
    return f"12s{size}s4s{size}s8sB7sH6sH2x"


def _tuple_headers(which: int, size: int, source: int) -> tuple[bytes, ...]:
    """The bytes `_tuple_format` finds between the values of a tuple."""
    blank = attr(source, bytes(size))
    ips = nest(CTA_TUPLE_IP, blank, attr(source + 1, bytes(size)))
    number = attr(CTA_PROTO_NUM, b"\0")
    ports = attr(CTA_PROTO_SRC_PORT, b"\0\0"), attr(CTA_PROTO_DST_PORT, b"\0\0")
    protos = nest(CTA_TUPLE_PROTO, number, *ports)
    return Struct(">" + _tuple_format(size)).unpack(nest(which, ips, protos))[::2]


def _fast(family: int, size: int, source: int) -> Callable[[bytes], Flow | None]:
    layout = Struct(f">4x{_tuple_format(size)}{_tuple_format(size)}4sI")
    headers = (
        *_tuple_headers(CTA_TUPLE_ORIG, size, source),
        *_tuple_headers(CTA_TUPLE_REPLY, size, source),
        be32(CTA_STATUS, 0)[:4],
    )
    unpack, least = layout.unpack_from, layout.size

    def read(raw: bytes) -> Flow | None:
        if len(raw) < least:
            return None
        pieces = unpack(raw)
        if pieces[::2] != headers:
            return None
        src, dst, proto, sport, dport, rsrc, rdst, _, rsport, rdport, status = pieces[1::2]
        return Flow(family, proto, src, sport, dst, dport, rsrc, rsport, rdst, rdport, status, raw)

    return read


_READ: Final = {
    NFPROTO_IPV4: _fast(V4, 4, CTA_IP_V4_SRC),
    NFPROTO_IPV6: _fast(V6, 16, CTA_IP_V6_SRC),
}


def read_flow(m: Message) -> Flow:
    """The flow in one answer to a dump. Malformed if it is none."""
    raw = bytes(m.body)
    fast = _READ.get(raw[0]) if raw else None
    if fast is None:
        raise Malformed("conntrack: a flow that is neither IPv4 nor IPv6")
    return fast(raw) or _walk_flow(raw)


def _walk_flow(raw: bytes) -> Flow:
    family = V4 if raw[0] == NFPROTO_IPV4 else V6
    known = fields(memoryview(raw)[4:])
    proto, src, sport, dst, dport = _read_tuple(need(known, CTA_TUPLE_ORIG, "a flow's tuple"), family)
    _, rsrc, rsport, rdst, rdport = _read_tuple(need(known, CTA_TUPLE_REPLY, "a flow's reply tuple"), family)
    status = read_be32(known[CTA_STATUS]) if CTA_STATUS in known else 0
    return Flow(family, proto, src, sport, dst, dport, rsrc, rsport, rdst, rdport, status, raw)


def _read_tuple(value: memoryview, family: int) -> tuple[int, Ip, int, Ip, int]:
    source, size = (CTA_IP_V4_SRC, 4) if family == V4 else (CTA_IP_V6_SRC, 16)
    known = fields(value)
    ips = fields(need(known, CTA_TUPLE_IP, "a flow's addresses"))
    src, dst = need(ips, source, "a flow's source"), need(ips, source + 1, "a flow's destination")
    if len(src) != size or len(dst) != size:
        raise Malformed(f"conntrack: addresses of {len(src)} and {len(dst)} bytes in a flow of IPv{family}")
    protos = fields(need(known, CTA_TUPLE_PROTO, "a flow's protocol"))
    proto = need(protos, CTA_PROTO_NUM, "a flow's protocol")
    if len(proto) != 1:
        raise Malformed(f"conntrack: a protocol number of {len(proto)} bytes")
    ports = [int.from_bytes(protos.get(p, b""), "big") for p in (CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT)]
    return proto[0], Ip(bytes(src)), ports[0], Ip(bytes(dst)), ports[1]
