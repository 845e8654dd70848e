"""
Which endpoint serves a client: in which order those of a way in are to be tried.

A `Balancer` keeps what a choice goes by beside the way itself: whose turn it is, who was sent where
(affinity), who has how many connections, and who has failed. It is told the time and given chance. It does
not know what a connection is, nor whether it is TCP's or UDP's.
"""

from __future__ import annotations

from binascii import crc32
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from kubeway.machines.pacer import Rng
from kubeway.planes.relay.objects import Endpoint, Way
from kubeway.values import Ip

DEMOTED: Final = 10.0
"""Seconds after its last failure for which an endpoint is tried after the others."""

REMEMBERED: Final = 65_536
"""The most clients of one way that affinity remembers; beyond, who came longest ago is forgotten first.
As many as kube-proxy's nftables mode has room for (a set's default size there)."""

_BITS: Final = (1 << 64) - 1


class Balancer:
    """Of one way in. All times in seconds, of a clock that does not go back.

    `start`, at least 0 and less than 1: where in the list turns begin. Several balancers of one way begin
    apart so that few connections each do not all meet the first endpoint.
    """

    __slots__ = ("_at", "_failed", "_known", "_open", "_seeds", "_start", "way")

    def __init__(self, way: Way, start: float = 0.0) -> None:
        self.way = Way(())
        self._start = start
        self._at = 0
        self._known: OrderedDict[Ip, tuple[Endpoint, float]] = OrderedDict()
        """Clients with where they were sent last and when; who came longest ago is first."""
        self._open: dict[Endpoint, int] = {}
        self._failed: dict[Endpoint, float] = {}
        self._seeds: tuple[tuple[int, Endpoint], ...] = ()
        self.become(way)

    def become(self, way: Way) -> frozenset[Endpoint]:
        """The way is another one now. Returns the endpoints that left.

        These are forgotten at once: clients that stuck to them are free, and if they come back it is without
        a failure. Connections they still have are counted until they are closed. Turns go on where they were.
        """
        before, self.way = self.way.endpoints, way
        gone = frozenset(before) - frozenset(way.endpoints)
        if not before:
            self._at = int(self._start * len(way.endpoints))
        if not way.affinity:
            self._known.clear()
        elif gone:
            kept = ((client, one) for client, one in self._known.items() if one[0] not in gone)
            self._known = OrderedDict(kept)
        self._failed = {one: at for one, at in self._failed.items() if way.demote and one not in gone}
        counts = {one: count for one, count in self._open.items() if count}
        self._open = {**dict.fromkeys(way.endpoints, 0), **counts}
        by_source = way.balance == "sourcehash"
        self._seeds = tuple((_seed(b"%b%d" % (one.ip, one.port)), one) for one in way.endpoints if by_source)
        return gone

    # --- choosing ---------------------------------------------------------------------

    def choose(self, client: Ip, now: float, rng: Rng) -> Iterator[Endpoint]:
        """All endpoints once, in the order in which they are to be tried; none if the way has none.

        The first is chosen when it is asked for, and so is each further one: who asks for no more has taken
        one turn, and tried one.

        With affinity, the one first that the client was sent to less than `way.affinity` seconds ago; and
        each one that is asked for is where the client was sent last. The others, or all without affinity:

        - roundrobin: in turn. A choice is one turn, however many are tried, so the first ones are even.
        - leastconn: by the connections they have, fewest first; among equals in turn.
        - p2c: two are drawn by lot, and the one of them with fewer connections is first (the first drawn if
          they are equal); then the other; then the rest in turn.
        - sourcehash: by a hash of the client's address and the endpoint (rendezvous hashing): the same for
          one client everywhere and always; if an endpoint leaves only its clients move, each to the one that
          was second for it; a new one takes its share of all others' clients.

        With `way.demote`, those that failed in the last DEMOTED seconds come after the others; but if they
        are more than half of all, only those whose failure is latest, so that no less than half are chosen
        from as ever.
        """
        if self.way.affinity:
            return self._sticking(client, now, rng)
        return self._order(client, now, rng)

    def _sticking(self, client: Ip, now: float, rng: Rng) -> Iterator[Endpoint]:
        self._forget(now)
        kept = self._known.get(client)
        stays = None
        if kept is not None:
            stays = kept[0]
            self._remember(client, stays, now)
            yield stays
        for one in self._order(client, now, rng):
            if one != stays:
                self._remember(client, one, now)
                yield one

    def _forget(self, now: float) -> None:
        known, last = self._known, now - self.way.affinity
        while known and next(iter(known.values()))[1] <= last:
            known.popitem(last=False)

    def _remember(self, client: Ip, one: Endpoint, now: float) -> None:
        self._known[client] = (one, now)
        self._known.move_to_end(client)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def known(self) -> list[tuple[Ip, Endpoint, float]]:
        """Who was sent where last, and when: what affinity remembers."""
        return [(client, one, at) for client, (one, at) in self._known.items()]

    def recall(self, known: Iterable[tuple[Ip, Endpoint, float]]) -> None:
        """Remember these, too, as another balancer of this way did. Who came since then has moved on."""
        if not self.way.affinity:
            return
        ours = frozenset(self.way.endpoints)
        found = {client: (one, at) for client, one, at in known if one in ours}
        for client, (one, at) in self._known.items():
            if client not in found or found[client][1] < at:
                found[client] = one, at
        latest = sorted(found.items(), key=lambda item: item[1][1])[-REMEMBERED:]
        self._known = OrderedDict(latest)

    def _order(self, client: Ip, now: float, rng: Rng) -> Iterator[Endpoint]:
        ones: Sequence[Endpoint] = self.way.endpoints
        late: Sequence[Endpoint] = ()
        if self._failed:
            late = self._demoted(now)
            ones = [one for one in ones if one not in late]
        if not ones:
            return
        balance = self.way.balance
        at = self._at % len(ones)
        self._at = at + 1
        if balance == "sourcehash":
            yield from self._by_source(client, ones)
        elif balance == "leastconn":
            yield from self._by_load(_rotated(ones, at))
        elif balance == "p2c":
            yield from self._by_lot(ones, at, rng)
        else:
            yield ones[at]
            yield from ones[at + 1 :]
            yield from ones[:at]
        yield from late

    def _by_load(self, ones: list[Endpoint]) -> Iterator[Endpoint]:
        load = self._open.__getitem__
        first = min(ones, key=load)
        yield first
        ones.remove(first)
        yield from sorted(ones, key=load)

    def _by_lot(self, ones: Sequence[Endpoint], at: int, rng: Rng) -> Iterator[Endpoint]:
        if len(ones) == 1:
            yield ones[0]
            return
        i, j = int(rng.random() * len(ones)), int(rng.random() * (len(ones) - 1))
        one, other = ones[i], ones[j + (j >= i)]
        if self._open[other] < self._open[one]:
            one, other = other, one
        yield one
        yield other
        yield from (more for more in _rotated(ones, at) if more not in (one, other))

    def _by_source(self, client: Ip, ones: Iterable[Endpoint]) -> Iterator[Endpoint]:
        seed, wanted = _seed(client), frozenset(ones)
        scored = sorted(((_mix(seed ^ own), one) for own, one in self._seeds), reverse=True)
        yield from (one for _, one in scored if one in wanted)

    def _demoted(self, now: float) -> list[Endpoint]:
        """Those to try last, who failed longest ago first."""
        self._failed = {one: at for one, at in self._failed.items() if now < at + DEMOTED}
        latest = sorted(self._failed, key=self._failed.__getitem__)
        return latest[len(latest) - min(len(latest), len(self.way.endpoints) // 2) :]

    # --- what came of it --------------------------------------------------------------

    def opened(self, one: Endpoint) -> None:
        """It has one connection more, be it one that is being tried."""
        self._open[one] = self._open.get(one, 0) + 1

    def closed(self, one: Endpoint) -> None:
        """It has one connection less."""
        left = self._open.get(one, 0) - 1
        if left > 0 or one in self.way.endpoints:
            self._open[one] = max(0, left)
        else:
            self._open.pop(one, None)

    def failed(self, one: Endpoint, now: float) -> None:
        """It refused a connection, or did not answer in time."""
        if self.way.demote and one in self.way.endpoints:
            self._failed.pop(one, None)  # of two at the same time, too, the later one counts
            self._failed[one] = now

    def worked(self, one: Endpoint) -> None:
        """It took a connection: what was before does not count any more."""
        if self._failed:
            self._failed.pop(one, None)

    @property
    def busy(self) -> bool:
        """Whether any endpoint, be it one that left, has connections."""
        return any(self._open.values())

    def load(self, one: Endpoint) -> int:
        """How many connections it has."""
        return self._open.get(one, 0)


def _rotated(ones: Sequence[Endpoint], at: int) -> list[Endpoint]:
    return list(chain(ones[at:], ones[:at]))


# A score has to be worthless for guessing another one from it. A CRC of both together is not: it is linear,
# and of three endpoints one may get half of all clients. So two are mixed as splitmix64 does it.


def _seed(data: bytes) -> int:
    return crc32(data) * 0x9E3779B97F4A7C15 & _BITS


def _mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _BITS
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _BITS
    return x ^ x >> 31
