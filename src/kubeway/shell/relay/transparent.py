"""Sockets that speak for addresses that are not the node's: ip(7), IP_TRANSPARENT."""

from __future__ import annotations

from _socket import AF_INET, IPPROTO_IP, IPPROTO_IPV6, socket
from typing import Final

_IP_TRANSPARENT: Final = 19
_IPV6_TRANSPARENT: Final = 75


def transparent(sock: socket) -> None:
    """Have it speak for addresses that are not the node's, too, of any protocol. OSError without
    CAP_NET_ADMIN."""
    if sock.family == AF_INET:
        sock.setsockopt(IPPROTO_IP, _IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
