"""
The generation of the nf_tables ruleset: one number for all of it, which each commit moves by one.
"""

from __future__ import annotations

from kubeway.shell.netlink import NetlinkSocket
from kubeway.wire import nftables as wire
from kubeway.wire.netlink import fields, need, read_be32


def generation(socket: NetlinkSocket) -> int:
    """The number of the ruleset's last commit, by anybody (7 us)."""
    reply = socket.ask(wire.get_generation())
    return read_be32(need(fields(reply.body[4:]), 1, "the generation"))
