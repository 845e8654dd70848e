"""
The golden files of ipset: what the tool sends for some commands, and what the kernel answers about some sets.

tests/kernel/test_ipset_golden.py records them (ipset 7.17, kernel 6.18).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kubeway.values import SCTP, TCP, UDP, V4, V6, parse_ip
from kubeway.wire import ipset as wire
from kubeway.wire.netlink import ATTR, NLA_F_NESTED, NLM_F_DUMP, messages

GOLDEN = Path(__file__).parent.parent / "golden" / "ipset"

IP = {4: wire.Layout(("ip",), 4), 6: wire.Layout(("ip",), 16)}
PORT = {4: wire.Layout(("ip", "port", "proto"), 4), 6: wire.Layout(("ip", "port", "proto"), 16)}
LOOP = wire.Layout(("ip", "ip2", "port", "proto"), 4)
NET = wire.Layout(("ip", "ip2", "port", "cidr2", "proto"), 4)
BITS = wire.Layout(("port",))
ONE, TWO, SIX = parse_ip("10.96.0.1"), parse_ip("10.244.1.7"), parse_ip("fd00::1")

HASH = wire.hash_data(2048, 1048576)
REQUESTS: dict[str, bytes] = {
    "create A hash:ip family inet hashsize 2048 maxelem 1048576": wire.create("A", "hash:ip", V4, 4, HASH),
    "create B hash:ip,port family inet6 hashsize 2048 maxelem 1048576": wire.create(
        "B", "hash:ip,port", V6, 5, HASH
    ),
    "create C hash:ip,port,ip family inet hashsize 2048 maxelem 1048576": wire.create(
        "C", "hash:ip,port,ip", V4, 5, HASH
    ),
    "create D hash:ip,port,net family inet hashsize 2048 maxelem 1048576": wire.create(
        "D", "hash:ip,port,net", V4, 7, HASH
    ),
    "create E bitmap:port range 0-65535": wire.create("E", "bitmap:port", 0, 3, wire.PORTS_DATA),
    "create F hash:ip family inet hashsize 2048 maxelem 1048576": wire.create("F", "hash:ip", V4, 4, HASH),
    "add A 10.96.0.1; add A 10.244.1.7": wire.add("A", [IP[4].build((ONE,)), IP[4].build((TWO,))]),
    "add B fd00::1,sctp:9": wire.add("B", [PORT[6].build((SIX, 9, SCTP))]),
    "add C 10.96.0.1,tcp:80,10.244.1.7": wire.add("C", [LOOP.build((ONE, TWO, 80, TCP))]),
    "add D 10.96.0.1,udp:53,10.0.0.0/8": wire.add("D", [NET.build((ONE, parse_ip("10.0.0.0"), 53, 8, UDP))]),
    "add D 10.96.0.1,udp:53,10.244.1.6/31 nomatch": wire.add(
        "D", [NET.build((ONE, parse_ip("10.244.1.6"), 53, 31, UDP), nomatch=True)]
    ),
    "add E 30080; add E 65535": wire.add("E", [BITS.build((30080,)), BITS.build((65535,))]),
    "del A 10.244.1.7": wire.delete("A", [IP[4].build((TWO,))]),
    "swap A F": wire.swap("A", "F"),
    "rename F G": wire.rename("F", "G"),
    "list E": wire.list_set("E"),
    "list -t": wire.list_headers(),
    "destroy E": wire.destroy("E"),
}
"""What is typed, and what we send for it."""

ANSWERS = (
    "bitmap:port range 0-65535; 77; 65535",
    "hash:ip,port family inet6; fd00::1,sctp:80",
    "hash:ip,port,ip; 10.96.0.1,tcp:80,10.244.1.7",
    "hash:ip,port,net; 10.96.0.1,udp:53,10.0.0.0/8",
    "hash:ip,port,net timeout 600 counters comment; 10.96.0.1,udp:53,10.0.0.0/9 nomatch",
    "hash:ip netmask 24",
    "hash:ip forceadd",
)
"""A set of the name A, and its entries."""

# Not of a request's meaning: the version, the type's revision, and the line that was typed.
_BESIDES = {wire.IPSET_ATTR_PROTOCOL, wire.IPSET_ATTR_REVISION, wire.IPSET_ATTR_LINENO | 0x4000}
_OF_ELEMENT = {wire.IPSET_ATTR_LINENO | 0x4000}


def golden(name: str) -> dict[str, bytes]:
    """Of `requests` or `answers`: the words, and the bytes."""
    lines = (GOLDEN / name).read_text().splitlines()
    return {words: bytes.fromhex(told) for words, told in zip(lines[::2], lines[1::2], strict=True)}


def tree(data: bytes, besides: set[int] = _BESIDES) -> Iterator[tuple[int, Any]]:
    """The attributes with all their flags, those in others in the order of their numbers."""
    while data:
        size, kind = ATTR.unpack_from(data)
        value = data[4:size]
        if kind not in besides:
            if kind & NLA_F_NESTED:
                yield kind, sorted(tree(value, _OF_ELEMENT), key=repr)
            else:
                yield kind, value
        data = data[size + 3 & ~3 :]


def meaning(request: bytes) -> tuple[int, int, list[tuple[int, Any]]]:
    """A request, so that two which say the same in different orders are equal."""
    (m,) = messages(request)
    dump = m.flags & NLM_F_DUMP if m.kind & 0xFF == wire.IPSET_CMD_LIST else 0
    return m.kind, dump, list(tree(bytes(m.body[4:])))
