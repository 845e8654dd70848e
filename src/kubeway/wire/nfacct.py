"""
The kernel's accounting objects: counters with a name, which rules count packets in.

They stay when the rules go, and when whoever made them ends. Which ones there ought to be is not
known here.

Source: include/uapi/linux/netfilter/nfnetlink_acct.h, net/netfilter/nfnetlink_acct.c.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kubeway.wire.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    Message,
    fields,
    message,
    need,
    read_be32,
    read_be64,
    read_text,
    text,
)
from kubeway.wire.nfnetlink import NFNL_SUBSYS_ACCT, NFPROTO_UNSPEC, header, kind

NFNL_MSG_ACCT_NEW: Final = 0
NFNL_MSG_ACCT_GET: Final = 1
NFNL_MSG_ACCT_DEL: Final = 3

NFACCT_NAME: Final = 1
NFACCT_PKTS: Final = 2
NFACCT_BYTES: Final = 3
NFACCT_USE: Final = 4

NAME_LENGTH: Final = 31
"""The longest name (NFACCT_NAME_MAX, with its NUL)."""


class Count(NamedTuple):
    """One counter. `users`: how many hold it, the kernel's own list among them."""

    name: str
    packets: int
    bytes: int
    users: int


def new(name: str) -> bytes:
    """Make a counter; EEXIST if there is one."""
    return _request(NFNL_MSG_ACCT_NEW, NLM_F_CREATE | NLM_F_EXCL, text(NFACCT_NAME, name))


def get(name: str) -> bytes:
    """ENOENT if there is none."""
    return _request(NFNL_MSG_ACCT_GET, 0, text(NFACCT_NAME, name))


def get_all() -> bytes:
    return _request(NFNL_MSG_ACCT_GET, NLM_F_DUMP)


def delete(name: str) -> bytes:
    """ENOENT if there is none, EBUSY if a rule counts in it."""
    return _request(NFNL_MSG_ACCT_DEL, 0, text(NFACCT_NAME, name))


def _request(operation: int, flags: int, *attributes: bytes) -> bytes:
    body = header(NFPROTO_UNSPEC) + b"".join(attributes)
    return message(kind(NFNL_SUBSYS_ACCT, operation), NLM_F_REQUEST | flags, body)


def read(answer: Message) -> Count:
    said = fields(answer.body[4:])
    return Count(
        read_text(need(said, NFACCT_NAME, "an accounting object's name")),
        read_be64(need(said, NFACCT_PKTS, "its packets")),
        read_be64(need(said, NFACCT_BYTES, "its bytes")),
        read_be32(need(said, NFACCT_USE, "the number of its users")),
    )
