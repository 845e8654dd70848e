"""
userspace mode: the proxy itself is the reverse proxy, and rules steer packets to it.

A packet's address, protocol and port are looked up in `services` or `nodeports`, as in nftables mode. The
verdict leads to a chain of a *class*: which list of endpoints counts, and whether the client's address is to
be hidden. The class is written into the packet's priority, a bit of its mark makes it this node's whatever
it is sent to, and `tproxy` hands it to the listener of its class. What is behind a way in only the relay
knows: its objects are `Way`s.

Who meets which rule where is in docs/theory/userspace.md. The meaning of it all is the model's
(`kubeway.model.oracle`); the laws compare the two.

    layout   listeners, classes, the bits of the marks
    relayed  what the relay is told, and whom it sends on where
    base     tables, sets, chains and routes, which are all there even with no service
    mode     what one service port adds; where a packet can end

The same where there is no nf_tables: rules of xtables ask sets of ipset.

    sets     names and types of the sets
    chains   what `base` is there
    legacy   what `mode` is there
"""

from kubeway.modes.userspace.mode import USERSPACE, UserspaceMode

__all__ = ["USERSPACE", "UserspaceMode"]
