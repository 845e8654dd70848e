"""
Which virtual servers of the kernel are ours, of those that nobody wants (any more).

A virtual server bears no name. What tells ours from others' lies beside them, and in the kernel, too, so that
a daemon that is started anew finds it: the addresses bound to our link, and the sets that our rules ask. A
server goes before its address and its entries do, so these are there as long as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from kubeway.modes.ipvs import sets
from kubeway.planes.ipset.objects import PLANE as IPSET
from kubeway.planes.ipset.ours import name_for
from kubeway.planes.ipvs.lift import Ours
from kubeway.program.program import Key, Object
from kubeway.values import SCTP, V4, V6, Ip, Prefix, family_of

_WAYS = (
    sets.CLUSTER_IP,
    sets.EXTERNAL_IP,
    sets.EXTERNAL_IP_LOCAL,
    sets.LOAD_BALANCER,
    sets.NODE_PORT[SCTP],
)
_FAMILIES = (V4, V6)


class Sets(Protocol):
    def read_now(self) -> Mapping[Key, Object]:
        """All sets of ours in the kernel, with their entries."""


class Links(Protocol):
    def bound(self) -> Iterable[Ip]:
        """The addresses on our link."""


class ServersOfOurs:
    """Looks anew each time it is called. `own`: this node's addresses. `exclude`: others' servers."""

    def __init__(
        self, held: Sets, links: Links, own: Callable[[], Iterable[Ip]], exclude: Iterable[Prefix] = ()
    ) -> None:
        self._held, self._links, self._own = held, links, own
        self._exclude = tuple(exclude)

    def __call__(self) -> Ours:
        bound, own = frozenset(self._links.bound()), frozenset(self._own())
        ways: set[tuple[Ip, int, int]] = set()
        ports: set[tuple[int, int, int]] = set()
        names = {name_for(name, family) for name in _WAYS for family in _FAMILIES}
        of_ports = {
            name_for(name, family): (family, proto)
            for proto, name in sets.NODE_PORT.items()
            for family in _FAMILIES
        }
        for key in self._held.read_now():
            if key.plane != IPSET or key.kind != "entry":
                continue
            name, *fields = key.name
            if name in names:
                ways.add(tuple(fields))
            elif name in of_ports:
                ports.add((*of_ports[name], fields[0]))

        def ours(ip: Ip, proto: int, port: int) -> bool:
            if any(prefix.holds(ip) for prefix in self._exclude):
                return False
            if ip in bound or (ip, proto, port) in ways:
                return True
            return ip in own and (family_of(ip), proto, port) in ports

        return ours
