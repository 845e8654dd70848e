"""
ipvs mode: Forwards to virtual servers of the kernel's load balancer, and all that they need around them.

A packet to a Service's address has to be for this node, or ipvs does not see it: so the address is put on
a link of our own (`kube-ipvs0`). Then there is a virtual server for each way in, and a destination of it
for each endpoint. What ipvs cannot say is said by rules, which ask sets of addresses and ports and so
are as many for ten thousand Services as for one: whose address is hidden, who is not let in, which ports
of these addresses are closed.

One thing no set can say: a Local policy outside does not bind pods and this node itself, who are served by
all endpoints (and a virtual server has one list for everybody). They are sent on by rules of their own,
before ipvs would see them, as in iptables mode; only Services with such a policy have any.

    where        what is asked, in the order in which a packet meets it
    mangle OUTPUT          made here: not let in, or nobody here: dropped
    nat PREROUTING, OUTPUT who is to be hidden is marked; whom a Local policy does not bind is sent on
    OUTPUT      ipvs       made here: sent to an endpoint
    filter OUTPUT, FORWARD what is left of Services' addresses: rejected; unallocated ones: dropped
    filter INPUT           not let in, or nobody here: dropped; closed ports: rejected
    INPUT       ipvs       sent to an endpoint
    nat POSTROUTING        who is marked, or meets himself, is masqueraded

A node's own packets bear its own address as source, not the Service's that the kernel would choose: there is
a local route for each address that says so.

The meaning is the model's (`kubeway.model.oracle`); the laws compare the two.

    sets  names and types of the sets
    base  sets, settings, link, chains and jumps that are there even with no service
    mode  what one service port adds; where a packet can end
"""

from kubeway.modes.ipvs.mode import IPVS, IpvsMode

__all__ = ["IPVS", "IpvsMode"]
