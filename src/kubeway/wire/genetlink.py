"""
Generic netlink's envelope: the header of its messages, and the number of a family.

A family is a part of the kernel that is spoken to by its name; the number that its messages bear in place
of a type is given out when it is registered, so it is asked for. What the messages say is not known here.

Source: include/uapi/linux/genetlink.h, net/netlink/genetlink.c.
"""

from __future__ import annotations

from struct import Struct
from sys import byteorder
from typing import Final

from kubeway.errors import Malformed
from kubeway.wire.netlink import (
    NLM_F_REQUEST,
    NLMSG_MIN_TYPE,
    Message,
    fields,
    message,
    need,
    text,
)

NETLINK_GENERIC: Final = 16

GENL_ID_CTRL: Final = NLMSG_MIN_TYPE
CTRL_CMD_GETFAMILY: Final = 3
CTRL_ATTR_FAMILY_ID: Final = 1
CTRL_ATTR_FAMILY_NAME: Final = 2

HEADER_SIZE: Final = 4

_HEADER: Final = Struct("=BBH")  # command, version, reserved


def header(command: int, version: int = 1) -> bytes:
    """The genlmsghdr in front of every message's attributes."""
    return _HEADER.pack(command, version, 0)


def family_request(name: str) -> bytes:
    """Ask for a family's number. ENOENT if there is none, after its module was looked for."""
    return message(
        GENL_ID_CTRL, NLM_F_REQUEST, header(CTRL_CMD_GETFAMILY) + text(CTRL_ATTR_FAMILY_NAME, name)
    )


def read_family(m: Message) -> int:
    """The number in the answer to `family_request`: the type of the family's messages."""
    value = need(fields(m.body[HEADER_SIZE:]), CTRL_ATTR_FAMILY_ID, "a family's number")
    if len(value) != 2:
        raise Malformed(f"genetlink: a family's number of {len(value)} bytes")
    return int.from_bytes(value, byteorder)
