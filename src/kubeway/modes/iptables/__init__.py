"""
iptables mode: Forwards to chains of iptables and ip6tables, under the names kube-proxy gave them.

A packet finds its Service in a tree over its destination: the branches of one chain are the
prefixes of the next length that hold Services, down to 16 addresses and their ports. So it meets
a few dozen rules, whatever the number of Services, and a Service more or less is one rule more
or less. Node ports stand in a tree over the port, local endpoints in one over the client's address.

A service port has a chain that draws its endpoint; a rule of it sends the packet there. There is
no chain per endpoint: a client that meets itself is found on the way out (`KUBE-BY-CLIENT`), and
a client is remembered by a rule of the same chain (`recent`). So an endpoint more or less
rewrites one chain.

Clients that are no pods are marked for masquerading on their way to cluster IPs, for all of these at
once (`KUBE-FROM-OUTSIDE`); for other ways in the chain of the service port says who is.

In filter, what is not sent anywhere is refused: clients outside the source ranges first, then
ways in without endpoints, then what is left of cluster IPs. All of that looks only at packets
that were not translated.

The meaning is the model's (`kubeway.model.oracle`); the laws compare the two.

    base     jumps and chains that are there even with no service
    mode     what one service port adds; where a packet can end

Trees, names and the chains of a service port are those of `modes.chains`.
"""

from kubeway.modes.iptables.mode import IPTABLES, IptablesMode

__all__ = ["IPTABLES", "IptablesMode"]
