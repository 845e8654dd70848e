"""
What is asked of the nf_tables ruleset as a whole: whether there is such a thing, its generation, one number
that each commit moves by one, and whether a chain is there.
"""

from __future__ import annotations

import errno
from typing import Final

from kubeway.errors import Refused, Unsupported
from kubeway.shell.netlink import NetlinkSocket
from kubeway.wire import nftables as wire
from kubeway.wire.netlink import fields, need, read_be32, text

ABSENT: Final = frozenset({errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP})
"""What nf_tables answers for what is not there, and for families it does not know."""

_NONE: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT})
"""What nfnetlink answers where nf_tables is neither in the kernel nor a module (nfnetlink_rcv_msg)."""

_TABLE, _NAME = 1, 3


def is_there() -> bool:
    """Whether this kernel has nf_tables; asking loads the module. Who may not ask is told that it has."""
    try:
        with NetlinkSocket() as socket:
            generation(socket)
    except Unsupported:
        return False
    except Refused as error:
        return error.errno not in _NONE
    return True


def generation(socket: NetlinkSocket) -> int:
    """The number of the ruleset's last commit, by anybody (7 us)."""
    reply = socket.ask(wire.get_generation())
    return read_be32(need(fields(reply.body[4:]), 1, "the generation"))


def has_chain(socket: NetlinkSocket, family: str, table: str, chain: str) -> bool:
    """This one chain is asked for, not a dump of all: there are thousands, and a dump can tear."""
    try:
        socket.ask(wire.get(wire.GETCHAIN, family, text(_TABLE, table), text(_NAME, chain), dump=False))
    except Refused as error:
        if error.errno not in ABSENT:
            raise
        return False
    return True
