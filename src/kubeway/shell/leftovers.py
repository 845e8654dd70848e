"""
What kube-proxy leaves in the kernel when it ends: its rules go on working beside ours.

Its nftables mode has one table of each family, and they are taken away whole. Knows their names and
nothing of what is in them. The rules of its iptables and ipvs modes lie among those of others, and
are left to the modes of that name; here it can be seen whether there are any, if they were written
by an iptables that writes nftables (iptables-nft). Those of iptables-legacy are in another part of the
kernel, which nftables' netlink does not show.
"""

from __future__ import annotations

import errno
from typing import Final

from kubeway.errors import Refused
from kubeway.shell.netlink import NetlinkSocket, refused
from kubeway.wire import nftables as wire
from kubeway.wire.netlink import text
from kubeway.wire.nfnetlink import Batch

TABLE: Final = "kube-proxy"
NOT_YET: Final = "rules of kube-proxy's modes iptables and ipvs are not removed by this version"

# Both iptables and ipvs mode have this chain, and kube-proxy --cleanup removes it.
_TABLE_OF_IPTABLES: Final = "nat"
_CHAIN: Final = "KUBE-SERVICES"
_CHAIN_TABLE, _CHAIN_NAME = 1, 3


def remove_kube_proxy_tables() -> list[str]:
    """Take the tables `ip kube-proxy` and `ip6 kube-proxy` away; returns the families that had one.

    Refused, with the kernel's words, if one is there and cannot go. Needs CAP_NET_ADMIN.
    """
    removed = []
    with NetlinkSocket() as socket:
        for family in ("ip", "ip6"):
            # Tried rather than looked for: between a look and the attempt another could remove it.
            acks = [ack for ack in socket.transact(Batch([wire.del_table(family, TABLE)]).data) if ack.errno]
            if not acks:
                removed.append(family)
            elif any(ack.errno != errno.ENOENT for ack in acks):
                raise refused(acks[0], f"delete table {family} {TABLE}")
    return removed


def iptables_leftovers() -> list[str]:
    """The families for which a kube-proxy in iptables or ipvs mode left rules, as far as they can be seen.

    Not seen: those of iptables-legacy. Refused, with the kernel's words, if it does not tell.
    Needs CAP_NET_ADMIN.
    """
    found = []
    with NetlinkSocket() as socket:
        for family in ("ip", "ip6"):
            names = text(_CHAIN_TABLE, _TABLE_OF_IPTABLES) + text(_CHAIN_NAME, _CHAIN)
            try:
                # This one chain, not a dump of all: there are thousands, and a dump can tear.
                socket.ask(wire.get(wire.GETCHAIN, family, names, dump=False))
            except Refused as error:
                if error.errno != errno.ENOENT:
                    raise
            else:
                found.append(family)
    return found
