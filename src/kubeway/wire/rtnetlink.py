"""
The addresses of this host's interfaces: how to ask for them and read them.

Source: include/uapi/linux/rtnetlink.h, if_addr.h.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from kubeway.errors import Malformed
from kubeway.values import Ip
from kubeway.wire.netlink import NLM_F_DUMP, NLM_F_REQUEST, Message, fields, message

NETLINK_ROUTE: Final = 0
RTM_NEWADDR: Final = 20
RTM_GETADDR: Final = 22
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2

_IFADDRMSG: Final = Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_SIZES: Final = {2: 4, 10: 16}  # AF_INET, AF_INET6


def addresses_request() -> bytes:
    """Ask for every address of every interface, both families."""
    return message(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, _IFADDRMSG.pack(0, 0, 0, 0, 0))


def read_address(m: Message) -> Ip | None:
    """The address in one answer; None if it is of another family than IPv4 and IPv6."""
    if m.kind != RTM_NEWADDR or len(m.body) < _IFADDRMSG.size:
        raise Malformed(
            f"rtnetlink: message type {m.kind}, {len(m.body)} bytes, where an address was expected"
        )
    size = _SIZES.get(m.body[0])
    if size is None:
        return None
    known = fields(m.body[_IFADDRMSG.size :])
    # On a point-to-point link IFA_ADDRESS is the other end's; then IFA_LOCAL is ours.
    value = known.get(IFA_LOCAL, known.get(IFA_ADDRESS))
    if value is None or len(value) != size:
        raise Malformed(f"rtnetlink: an address of {0 if value is None else len(value)} bytes, not {size}")
    return Ip(bytes(value))
