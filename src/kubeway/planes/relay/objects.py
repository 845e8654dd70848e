"""
What the relay holds: ways in, and for each the endpoints it leads to and how one of them is chosen.

Whose connections come by which way was settled before: rules steer them to one of a few listeners, and the
listener says which of a Service's lists counts and whether the client's address is hidden. So nothing here
knows a policy. What the relay keeps of its own accord (turns, affinity, who is connected) is no object.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from kubeway.model.balances import DEFAULT, Balance
from kubeway.model.links import Neighbours
from kubeway.program.program import Key
from kubeway.values import V4, V6, Ip

PLANE: Final = "relay"
KINDS: Final = ("way",)

List = Literal["cluster", "local"]
"""Which of a Service's lists of endpoints counts: that for all of the cluster, or that of this node."""

ANY: Final = {V4: Ip(bytes(4)), V6: Ip(bytes(16))}
"""What a way in has for an address that leads in at every address: a node port's. Tells the family."""


APART: Final = 16
"""How far the ports of two workers' listeners of UDP are from each other."""


class Endpoint(Struct, frozen=True, gc=False, order=True):
    """Where connections go on to. `near`: among whom it would answer without this node, so to whom of them
    the node speaks as itself."""

    ip: Ip
    port: int
    near: Neighbours | None = None


class Way(Struct, frozen=True):
    """A way in.

    `endpoints`: in order, without doubles. `affinity`: seconds for which a client that was sent to one of
    them is sent there again, 0 for none; each new connection begins them anew. `demote`: who refuses or does
    not answer is tried after the others for a while. `hold`: seconds that clients may wait while there are no
    endpoints, 0: they are refused.
    """

    endpoints: tuple[Endpoint, ...]
    affinity: int = 0
    balance: Balance = DEFAULT
    demote: bool = False
    hold: int = 0


def way_key(list_: List, ip: Ip | None, proto: int, port: int, family: int = V4) -> Key:
    """`ip` is None for a node port, which leads in at every address of `family`; else that says nothing.

    The name is (list, address, protocol, port), the address of a node port being `ANY[family]`: names are put
    in order, so there is nothing but an address in that place.
    """
    return Key(PLANE, "way", (list_, ANY[family] if ip is None else ip, proto, port))


def sees(one: Endpoint, client: Ip, hidden: bool) -> bool:
    """Whether the endpoint sees the client's own address; else the node's. `hidden`: the listener hides it.

    An endpoint that asks for its own Service would never answer itself by way of the node.
    """
    return not (hidden or one.ip == client or (one.near is not None and one.near.holds(client)))
