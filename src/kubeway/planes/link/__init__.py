"""
The link plane: what makes packets to Services this node's: their addresses, on a link of their own, or the
mark that rules gave them.

`objects`: keys, words, laws · `steering`: rules and tables to bytes and back · `lower`: changes to requests
· `lift`: answers to objects · `news`: events to whether something has changed.
"""

from kubeway.planes.link.objects import (
    DEVICE,
    KINDS,
    LINK,
    PLANE,
    Address,
    Dummy,
    Homeward,
    Route,
    Rule,
    address_key,
    role_key,
    route_key,
    rule_key,
    table_key,
)

__all__ = [
    "DEVICE",
    "KINDS",
    "LINK",
    "PLANE",
    "Address",
    "Dummy",
    "Homeward",
    "Route",
    "Rule",
    "address_key",
    "role_key",
    "route_key",
    "rule_key",
    "table_key",
]
