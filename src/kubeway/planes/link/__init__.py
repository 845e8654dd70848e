"""
The link plane: the addresses of Services, on a link of their own, so that packets to them are for this node.

`objects`: keys, words, laws · `lower`: changes to requests · `lift`: answers to objects · `news`: events to
whether something has changed.
"""

from kubeway.planes.link.objects import (
    DEVICE,
    KINDS,
    LINK,
    PLANE,
    Address,
    Dummy,
    Route,
    address_key,
    route_key,
)

__all__ = ["DEVICE", "KINDS", "LINK", "PLANE", "Address", "Dummy", "Route", "address_key", "route_key"]
