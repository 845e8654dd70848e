"""
Netfilter's envelope: the header every netfilter message has, and batches.

A batch is one transaction: BATCH_BEGIN, messages, BATCH_END in one buffer, all
done or none. Each message of a batch bears its own sequence number, so the
kernel's refusal finds its message. What the messages say is not known here.

Source: include/uapi/linux/netfilter/nfnetlink.h, net/netfilter/nfnetlink.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final

from kubeway.wire.netlink import NLM_F_REQUEST, NLMSG_MIN_TYPE, be32, message

NETLINK_NETFILTER: Final = 12

# Subsystems: the high byte of a message's type.
NFNL_SUBSYS_CTNETLINK: Final = 1
NFNL_SUBSYS_IPSET: Final = 6
NFNL_SUBSYS_ACCT: Final = 7
NFNL_SUBSYS_NFTABLES: Final = 10

NFNL_MSG_BATCH_BEGIN: Final = NLMSG_MIN_TYPE
NFNL_MSG_BATCH_END: Final = NLMSG_MIN_TYPE + 1
NFNL_BATCH_GENID: Final = 1

NFNETLINK_V0: Final = 0

# Address families of the header (include/uapi/linux/netfilter.h).
NFPROTO_UNSPEC: Final = 0
NFPROTO_INET: Final = 1
NFPROTO_IPV4: Final = 2
NFPROTO_IPV6: Final = 10

_HEADER: Final = Struct(">BBH")  # family, version, resource
_SEQUENCE: Final = Struct("=I")
_SEQUENCE_AT: Final = 8  # its place in a message


def kind(subsystem: int, operation: int) -> int:
    """A netfilter message's type."""
    return subsystem << 8 | operation


def header(family: int, res_id: int = 0) -> bytes:
    """The nfgenmsg in front of every netfilter message's attributes."""
    return _HEADER.pack(family, NFNETLINK_V0, res_id)


def _begin(subsystem: int, genid: int | None) -> bytes:
    body = header(NFPROTO_UNSPEC, subsystem)
    if genid is not None:
        body += be32(NFNL_BATCH_GENID, genid)
    return message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, body)


def _end(subsystem: int) -> bytes:
    return message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, header(NFPROTO_UNSPEC, subsystem))


def batch(
    messages: Iterable[bytes] | bytes, subsystem: int = NFNL_SUBSYS_NFTABLES, genid: int | None = None
) -> bytes:
    """One transaction. The messages keep the sequence numbers they have.

    With `genid`, the kernel refuses it with ERESTART unless that is its
    generation: a compare-and-swap. It takes 0, which no generation is, for any.
    """
    body = messages if isinstance(messages, bytes) else b"".join(messages)
    return b"".join((_begin(subsystem, genid), body, _end(subsystem)))


class Batch:
    """One transaction whose refusals can be traced to their messages.

    BATCH_BEGIN has the sequence number `first`, message `i` has `first + 1 + i`
    and BATCH_END the one after the last. What concerns the batch as a whole (a
    stale `genid`, a failed commit) is reported under BATCH_BEGIN's.

    Without `ends` there is no BATCH_END: the kernel checks every message, loads the modules it takes, and
    lets all of it be (nfnetlink_rcv_batch in net/netfilter/nfnetlink.c; nft --check does so).

    Each of `messages` is one netlink message, its length a multiple of four.
    """

    __slots__ = ("_count", "_first", "data")

    def __init__(
        self,
        messages: Sequence[bytes],
        genid: int | None = None,
        first: int = 1,
        subsystem: int = NFNL_SUBSYS_NFTABLES,
        ends: bool = True,
    ) -> None:
        self._first = first + 1
        self._count = len(messages)
        begin, end = _begin(subsystem, genid), [_end(subsystem)] if ends else []
        self.data = _numbered([begin, *messages, *end], first)

    def index_of(self, sequence: int) -> int | None:
        """Which of the messages bears this number; None for the batch's own begin and end."""
        index = sequence - self._first & 0xFFFFFFFF
        return index if index < self._count else None


def number(messages: Sequence[bytes], first: int) -> bytes:
    """The messages joined, message `i` with the sequence number `first + i` (modulo 2**32)."""
    return bytes(_numbered(messages, first))


def _numbered(messages: Sequence[bytes], first: int) -> bytearray:
    # Builders leave the number 0: joining first and patching after copies the
    # megabytes once, however many messages there are.
    data = bytearray().join(messages)
    put = _SEQUENCE.pack_into
    at, sequence = _SEQUENCE_AT, first
    for one in messages:
        put(data, at, sequence & 0xFFFFFFFF)
        at += len(one)
        sequence += 1
    return data
