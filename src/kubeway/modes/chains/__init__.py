"""
What modes that write chains of rules share: how a packet finds the one rule that is for it, and
how rules draw an endpoint.

    layout   names
    dispatch how a way in is found: the branches that lead to it
    clients  who a packet is from, as matches
    picks    the chains of one service port: which list of endpoints, and which of them
    common   rules that are alike in every such mode: masquerading, forwarding, what is left over
"""
