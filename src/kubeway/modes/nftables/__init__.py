"""
nftables mode: Forwards to one table per family, with no kernel object per Service
but elements of maps and sets.

A packet's address, protocol and port are looked up once in `services` (or
`nodeports`), whose verdict leads to a chain of a *class*: all ClusterIPs with five
endpoints share `cluster-ip-5`. The class marks what is to be masqueraded and goes to
a *pick*, which draws a slot below the number of endpoints and looks up
`address . protocol . port . slot` in `endpoints`. So the number of chains depends on
how many different numbers of endpoints there are, and one endpoint is one element.

A pick with affinity remembers for each client an endpoint's id, which counts only
while `sticky-endpoints` knows it: a client of an endpoint that left chooses anew with
the next connection, and nobody has to clean up. The id travels from rule to rule in
the packet's priority, because a rule of nft cannot hand a map's value to another map;
`filter-forward` and `filter-output` set it back to 0.

The layout is explained with pictures in docs/theory/nft.md. The meaning of it all is
the model's (`kubeway.model.oracle`); the laws compare the two.

What it shares with userspace mode is in `kubeway.modes.maps`.

    layout   slots, ids of endpoints
    base     tables, sets and chains that are there even with no service
    classes  the chains that service ports of one class share
    mode     what one service port adds; where a packet can end
"""

from kubeway.modes.nftables.mode import NFTABLES, NftablesMode

__all__ = ["NFTABLES", "NftablesMode"]
