"""
What a change makes stale: flows the kernel goes on sending where they no longer belong.

The kernel decides a flow's endpoint on its first packet and remembers it. New
rules do not change that, so a client that keeps its UDP port is sent to an
endpoint that is gone for as long as it keeps trying, and later to whatever pod
has got that address (kubernetes#139628, #141371).

- UDP: a flow to a way in that changed is forgotten, unless it goes to an
  endpoint that still serves. Its next packet is decided anew.
- TCP, SCTP: the same, but only flows that were never answered, whose clients
  are still knocking. A connection once answered is left to its two ends.

A flow is never forgotten because of readiness, locality or a traffic policy:
what counts is `Forward.serving`, the endpoints flows may stay with.

Nothing is read or deleted here; `kubeway.shell.conntrack` does that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from msgspec import Struct

from kubeway.model.forward import Forward
from kubeway.values import UDP, V4, V6, Ip, Proto
from kubeway.wire.conntrack import IPS_SEEN_REPLY, Flow

Place = tuple[Ip | None, int]
"""A way in: address and port, the address None for a node port."""

_NOBODY: Final[frozenset[tuple[Ip, int]]] = frozenset()


class Stale(Struct, frozen=True):
    """Flows to `dst`:`dport` are to be forgotten unless they go to one of `keep`.

    `dst` is None for a node port: any of the node's addresses.
    """

    proto: Proto
    family: int
    dst: Ip | None
    dport: int
    keep: frozenset[tuple[Ip, int]]


def stale(old: Forward | None, new: Forward | None) -> tuple[Stale, ...]:
    """What the change of one service port from `old` to `new` makes stale."""
    if old is new:
        return ()
    forward = new or old
    assert forward is not None
    before, after = _places(old), _places(new)
    keep = _serving(new)
    # A way in that stays is stale if an endpoint left, or if there was none to choose
    # before: flows may have been let through unchanged meanwhile.
    shaken = bool(_serving(old) - keep) or (not _chosen(old) and _chosen(new))
    touched = [(place, keep) for place in after if shaken or place not in before]
    touched += [(place, _NOBODY) for place in before if place not in after]
    return tuple(Stale(forward.proto, forward.family, ip, port, kept) for (ip, port), kept in touched)


def _places(forward: Forward | None) -> dict[Place, None]:
    return {} if forward is None else {(f.ip, f.port): None for f in forward.frontends}


def _serving(forward: Forward | None) -> frozenset[tuple[Ip, int]]:
    return _NOBODY if forward is None else frozenset((e.ip, e.port) for e in forward.serving)


def _chosen(forward: Forward | None) -> bool:
    return forward is not None and bool(forward.cluster or forward.local)


class Question(NamedTuple):
    """Flows worth looking at. None: any. `unanswered`: only those never answered."""

    family: int
    proto: Proto
    dst: Ip | None = None
    dport: int | None = None
    unanswered: bool = False


class Judge:
    """Says of a flow whether it has to be forgotten, in constant time.

    Where several of `stales` speak of one way in, a flow may stay with any of
    their endpoints: the way in passed from one service port to another.
    """

    def __init__(self, stales: Iterable[Stale], node_addresses: frozenset[Ip]) -> None:
        self._addresses = node_addresses
        self._exact: dict[tuple[int, Ip, int], frozenset[tuple[Ip, int]]] = {}
        self._node_ports: dict[tuple[int, int, int], frozenset[tuple[Ip, int]]] = {}
        for one in stales:
            if one.dst is None:
                node_port = one.proto, one.family, one.dport
                self._node_ports[node_port] = self._node_ports.get(node_port, _NOBODY) | one.keep
            else:
                exact = one.proto, one.dst, one.dport
                self._exact[exact] = self._exact.get(exact, _NOBODY) | one.keep

    def __len__(self) -> int:
        """How many ways in are in question."""
        return len(self._exact) + len(self._node_ports)

    @property
    def wanted(self) -> set[Proto]:
        """The protocols whose flows have to be looked at."""
        return {question.proto for question in self._places()}

    def questions(self, most: int) -> list[Question]:
        """What flows to ask for: by way in if that takes at most `most` questions, else by protocol."""
        each = list(self._places())
        if len(each) <= most:
            return each
        return sorted({q._replace(dst=None, dport=None) for q in each})

    def _places(self) -> Iterator[Question]:
        for proto, ip, port in self._exact:
            yield Question(V4 if len(ip) == 4 else V6, Proto(proto), ip, port, proto != UDP)
        for proto, family, port in self._node_ports:
            yield Question(family, Proto(proto), None, port, proto != UDP)

    def condemns(self, flow: Flow) -> bool:
        """Whether this flow has to be forgotten."""
        keep = self._exact.get((flow.proto, flow.dst, flow.dport))
        if keep is None:
            if flow.dst not in self._addresses:
                return False
            keep = self._node_ports.get((flow.proto, flow.family, flow.dport))
            if keep is None:
                return False
        if (flow.reply_src, flow.reply_sport) in keep:
            return False
        return flow.proto == UDP or not flow.status & IPS_SEEN_REPLY
