"""
The ports that endpoints see where they see a client's address: none that the client may have itself.

What passes between a client and an endpoint is known by addresses and ports alone. A client that asks the
endpoint directly, too, from the port that we speak from in its name would have its answers taken for the
Service's: while we speak, and of TCP for a minute after that, in which the kernel forwards nothing that looks
as if it belonged to a socket of the node's (tcp_v4_early_demux in net/ipv4/tcp_ipv4.c, ip_forward in
net/ipv4/ip_forward.c), whatever rules there are by then. Connection tracking finds that out and gives one of
them another port (nf_nat_used_tuple in net/netfilter/nf_nat_core.c); we do not see what passes us by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kubeway.machines.pacer import Rng
from kubeway.planes.relay.objects import Endpoint

PORTS: Final = range(61_000, 65_536)
"""Linux gives none of these to who asks for any (net.ipv4.ip_local_port_range), so hardly a client has one
of them; nor does the node want for ports because of clients. Linux itself masqueraded by them, before it had
connection tracking."""

_PAUSE: Final = 1.0  # seconds
_MOST: Final = 10_000


class Turn:
    """Which port the next TCP connection is to have. All times in seconds.

    Others may have the same in mind: the kernel says no to a second connection of the same name (but not
    where the first has ended and is only kept in mind: `tcp_twsk_unique`), and to a port that is a server's
    of the node. Who would have no other is left to the kernel, which has more of them.
    """

    def __init__(self, rng: Rng, ports: Sequence[int] = PORTS) -> None:
        self._ports = ports
        self._next = int(rng.random() * len(ports))
        self._left: dict[tuple[str, Endpoint], float] = {}

    def take(self, client: str, endpoint: Endpoint, now: float) -> int:
        """A port for a connection between these, 0 for any that the kernel has."""
        if self._left and (until := self._left.get((client, endpoint))) is not None:
            if now < until:
                return 0
            del self._left[client, endpoint]
        self._next = at = (self._next + 1) % len(self._ports)
        return self._ports[at]

    def refused(self, client: str, endpoint: Endpoint, now: float) -> None:
        """The kernel would not have it: for a while it is asked for any."""
        if len(self._left) >= _MOST:
            self._left.clear()
        self._left[client, endpoint] = now + _PAUSE
