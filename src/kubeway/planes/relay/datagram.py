"""
UDP sessions through the relay: which endpoint a client's datagrams go to, and how long that is kept in mind.

A machine without IO: it is told who spoke and the time, and returns the sessions that ended, so that whoever
carries their datagrams lets go of them. What a datagram holds is not known here, nor what tells one client at
one way in from all others (`key`).

    from        event                        -> to
    -           open                         -> ASKED      an endpoint is chosen
    ASKED       asked                        -> ASKED      kept for `first` seconds more
                answered                     -> ANSWERED   both have spoken
    ANSWERED    asked, answered              -> ANSWERED   kept for `idle` seconds more
    both        left, and one spoke of late  -> LEAVING    answers still go back, for `first` seconds
    both        left otherwise               -> ended
    LEAVING     open, and there is no room   -> ended      who left longest ago
    ASKED       the same, and none is that   -> ended      who has said nothing for longest
    ANSWERED    the same, and few are ASKED  -> ended
    any         expired, refused, end        -> ended

The client's next datagram after `left`, or the end, opens another one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from math import inf
from typing import Any, Final

from kubeway.machines.pacer import Rng
from kubeway.planes.relay.entrance import Entrance
from kubeway.planes.relay.objects import Endpoint, sees
from kubeway.planes.relay.ports import PORTS
from kubeway.values import Ip

MOST: Final = 65_536
"""Sessions at one time: each holds a descriptor and a port."""

FIRST: Final = 30.0
IDLE: Final = 120.0
"""As the kernel's connection tracking has them (nf_conntrack_udp_timeout and …_stream in
net/netfilter/nf_conntrack_proto_udp.c), so that a client sees no other pauses here than in nftables mode."""


TURNS: Final = 4
"""Ports are shared out to carriers that come after each other: the sessions of one that has handed over wait
for their last answers yet, and no two may look the same to an endpoint."""

_PROBES: Final = 8
"""Ports that are looked at for one that is free towards an endpoint; of a client that has nearly all of them,
many would be in vain, time after time. Which is the first is left to chance: nobody shall guess where an
answer is waited for (RFC 5452)."""

_NEWCOMERS: Final = 4
"""One of so many sessions may be one that nobody has answered yet, however many others there are."""


class Session:
    """`as_client`: the endpoint sees the client's address, else the node's; with `port`, or if that is 0,
    with any. `heard`: when one of the two spoke last. `leaving`: only answers are carried any more. `line` is
    the carrier's: nothing here looks at it."""

    __slots__ = (
        "answered",
        "as_client",
        "client",
        "endpoint",
        "entrance",
        "heard",
        "key",
        "leaving",
        "line",
        "over",
        "port",
    )

    def __init__(
        self, key: Hashable, entrance: Entrance, client: Ip, endpoint: Endpoint, as_client: bool
    ) -> None:
        self.key: Any = key
        self.entrance, self.endpoint = entrance, endpoint
        self.client, self.as_client = client, as_client
        self.port = 0
        self.answered = self.leaving = False
        self.over = False
        self.heard = -inf
        self.line: Any = None


class Sessions:
    """All of one carrier. All times in seconds, of a clock that does not go back.

    `most`: how many there may be. `first`: how long a session is kept for an answer; long, as who answers may
    have to ask others first, and an answer without a session is lost. `idle`: how long one is kept of
    which both have spoken. `ports`: that endpoints see; of several carriers in one network namespace each has
    its own, as the kernel lets two take the same.
    """

    def __init__(
        self, most: int = MOST, first: float = FIRST, idle: float = IDLE, ports: Sequence[int] = PORTS
    ) -> None:
        self.most, self.first, self.idle = most, first, idle
        self._ports = ports
        self.shed = 0
        """How many had to end for want of room."""
        self._by_key: dict[Hashable, Session] = {}
        self.find = self._by_key.get
        """The session of a key, or None."""
        # Who spoke longest ago is first, in both: so what is due stands in front, and nobody looks further.
        self._asked: OrderedDict[Session, None] = OrderedDict()
        self._answered: OrderedDict[Session, None] = OrderedDict()
        self._leaving: OrderedDict[Session, float] = OrderedDict()
        """With when each ends. Who left first is first."""
        self._served: dict[tuple[Entrance, Endpoint], dict[Session, None]] = {}
        self._names: set[tuple[Ip, int, Ip, int]] = set()
        """Which endpoints see which clients' addresses, or b"", with which ports."""

    def __len__(self) -> int:
        """Those that are leaving, too."""
        return len(self._by_key) + len(self._leaving)

    def __iter__(self) -> Iterator[Session]:
        return iter([*self._by_key.values()])

    def at(self, entrance: Entrance, endpoint: Endpoint) -> int:
        """How many this endpoint serves."""
        return len(self._served.get((entrance, endpoint), ()))

    # --- a client speaks ----------------------------------------------------------------

    def open(
        self, key: Hashable, entrance: Entrance, client: Ip, hidden: bool, now: float, rng: Rng
    ) -> tuple[Session | None, Session | None]:
        """A client that has no session has spoken. Returns its new one, None if the way has no endpoint, and
        the one that ended to make room for it. No two sessions look the same to an endpoint."""
        tally, balancer = entrance.tally, entrance.balancer
        tally.connections += 1
        endpoint = next(balancer.choose(client, now, rng), None)
        if endpoint is None:
            tally.refused += 1
            return None, None
        gone = self.make_room() if len(self) >= self.most else None
        one = Session(key, entrance, client, endpoint, sees(endpoint, client, hidden))
        one.heard = now
        self._give_port(one, rng)
        balancer.opened(endpoint)
        self._by_key[key] = one
        self._asked[one] = None
        self._served.setdefault((entrance, endpoint), {})[one] = None
        return one, gone

    def _give_port(self, one: Session, rng: Rng) -> None:
        at = int(rng.random() * len(self._ports))
        for step in range(_PROBES):
            one.port = self._ports[(at + step) % len(self._ports)]
            if _name(one) not in self._names:
                self._names.add(_name(one))
                return
        one.port = 0

    def asked(self, one: Session, now: float) -> None:
        """Its client has spoken again."""
        if one.heard != now:
            one.heard = now
            (self._answered if one.answered else self._asked).move_to_end(one)

    def make_room(self) -> Session | None:
        """End the one that is missed least, and return it; None if there is none.

        One whose endpoint has left: it most likely has nothing to say any more. Else one that nobody
        answered, and of them that which is silent for longest: its client has most likely gone elsewhere, or
        was never there, as anybody can send from any address. So a flood of those pushes out its own, and no
        conversation (as early_drop in net/netfilter/nf_conntrack_core.c spares what is
        assured). But a part of the room is theirs: were it full of conversations, each newcomer would push
        out the one before, and none would last until it is answered.
        """
        asked, answered = next(iter(self._asked), None), next(iter(self._answered), None)
        leaving = next(iter(self._leaving), None)
        one = answered if len(self._asked) < max(1, len(self._by_key) // _NEWCOMERS) else asked
        one = leaving or one or asked or answered
        if one is None:
            return None
        self.shed += 1
        return self.end(one)

    # --- an endpoint does, or does not ----------------------------------------------------

    def answered(self, one: Session, now: float) -> None:
        """Its endpoint has spoken; not to be told of one that is leaving."""
        if one.answered:
            if one.heard != now:
                one.heard = now
                self._answered.move_to_end(one)
            return
        one.answered, one.heard = True, now
        del self._asked[one]
        self._answered[one] = None
        one.entrance.balancer.worked(one.endpoint)

    def refused(self, one: Session, now: float) -> Session:
        """Its endpoint, or the way there, said that nobody listens (ICMP). The next datagram chooses anew."""
        if one.leaving:
            return self.end(one)
        one.entrance.balancer.failed(one.endpoint, now)
        one.entrance.tally.refused += not one.answered
        return self.end(one)

    def left(self, entrance: Entrance, gone: Iterable[Endpoint], now: float) -> list[Session]:
        """These serve this way no more, and a client that goes on to send is with another endpoint, whatever
        it sends from. Returns their sessions, each of them over or leaving.

        Who leaves may have been asked, and answer yet: mostly it is told to end when others have been told
        that it will. So an answer may take as long as any first one, though no longer than a session lasts.
        """
        time = min(self.first, self.idle)
        ones = [one for endpoint in gone for one in self._served.get((entrance, endpoint), ())]
        for one in ones:
            if one.heard + time <= now:
                self.end(one)
                continue
            self._take_out(one)
            one.leaving = True
            self._leaving[one] = now + time
        return ones

    # --- time -----------------------------------------------------------------------------

    @property
    def due(self) -> float:
        """When `expired` is to be called; inf while there is no session. Later ones may come to be due
        earlier only by `open`, by the first `answered` of one, and by `left`."""
        asked, answered = next(iter(self._asked), None), next(iter(self._answered), None)
        return min(
            inf if asked is None else asked.heard + self.first,
            inf if answered is None else answered.heard + self.idle,
            next(iter(self._leaving.values()), inf),
        )

    def expired(self, now: float) -> list[Session]:
        """End all whose time is over."""
        ended = []
        for queue, long in (self._asked, self.first), (self._answered, self.idle):
            while (one := next(iter(queue), None)) is not None and one.heard + long <= now:
                ended.append(self.end(one))
        while (one := next(iter(self._leaving), None)) is not None and self._leaving[one] <= now:
            ended.append(self.end(one))
        return ended

    def end(self, one: Session) -> Session:
        """End it, for a reason of the caller's."""
        assert not one.over
        one.over = True
        if one.leaving:
            del self._leaving[one]
        else:
            self._take_out(one)
        if one.port:
            self._names.remove(_name(one))
        return one

    def _take_out(self, one: Session) -> None:
        """It is its client's no more, nor its endpoint's load. Its name stays: answers come by that."""
        del self._by_key[one.key]
        del (self._answered if one.answered else self._asked)[one]
        place = one.entrance, one.endpoint
        served = self._served[place]
        del served[one]
        if not served:
            del self._served[place]
        one.entrance.balancer.closed(one.endpoint)

    def clear(self) -> list[Session]:
        """End all."""
        return [self.end(one) for one in [*self._by_key.values(), *self._leaving]]


def _name(one: Session) -> tuple[Ip, int, Ip, int]:
    return one.client if one.as_client else Ip(b""), one.port, one.endpoint.ip, one.endpoint.port
