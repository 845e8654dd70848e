"""
One TCP connection through the relay: which endpoint is tried when, what happens at each end, and when to
give up.

A machine without IO: it is told events and the time, and answers with a command. After `Join` bytes pass it
by: whoever carries them tells when a side has sent its last one (`ended`) or is gone (`broke`), and how many
there were when it is asked for the time (`tick`). A connection that is only silent is none of its business:
keepalive is the kernel's.

    state       event       -> state       command
    NEW         arrived     -> TRYING      Connect             an endpoint is there
                            -> WAITING     Wait                none is, and the way has room to wait
                            -> ENDED       Abort               none is
    WAITING     come        -> TRYING      Connect             endpoints came
                tick        -> ENDED       Abort               it has waited as long as the way lets it
    TRYING      connected   -> JOINED      Join
                failed      -> TRYING      Connect             the next one, of those the way has now
                            -> ENDED       Abort               there is none, or these were enough
                tick        as failed, if the endpoint had its time; then the try is to be given up, too
                left        -> TRYING      Connect             the endpoint left, and there is another one
    JOINED      ended(side) -> HALF        HalfClose(other)
                tick        -> ENDED       Abort               the endpoint left, and its time is over
    HALF        ended(other)-> ENDED       Close
                tick        -> ENDED       Abort               the same, or nothing moved for too long
    any         broke       -> ENDED       Abort               a side was reset

What is asked too early or too late is answered by Wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from math import inf
from typing import Final, Literal

from msgspec import Struct

from kubeway.machines.pacer import Rng
from kubeway.planes.relay.entrance import WAITING, Entrance
from kubeway.planes.relay.objects import Endpoint, Way, sees
from kubeway.values import Ip

RUNGS: Final = (0.25, 0.5, 1.0, 2.0)
"""Seconds that the endpoints tried one after the other have to answer. Who is the last one that can be tried
has all of what is left, as nobody gains by giving it up sooner."""

Side = Literal["client", "endpoint"]
State = Enum("State", "NEW WAITING TRYING JOINED HALF ENDED")


class Connect(Struct, frozen=True, gc=False):
    """Connect to it, in place of whom was tried before. `as_client`: from the client's own address."""

    endpoint: Endpoint
    as_client: bool


class Wait(Struct, frozen=True):
    """Nothing, until there is an event or `due` has come."""


class Join(Struct, frozen=True):
    """Carry bytes both ways."""


class HalfClose(Struct, frozen=True):
    """Tell this side that there is no more to come; it goes on to send."""

    side: Side


class Close(Struct, frozen=True):
    """Both are done, let go of them."""


class Abort(Struct, frozen=True):
    """Reset the client, and whom it is connected to."""


Command = Connect | Wait | Join | HalfClose | Close | Abort

WAIT: Final = Wait()
JOIN: Final = Join()
CLOSE: Final = Close()
ABORT: Final = Abort()
_HALF_CLOSE: Final[dict[Side, HalfClose]] = {
    "client": HalfClose("endpoint"),
    "endpoint": HalfClose("client"),
}


class Limits(Struct, frozen=True):
    """Seconds.

    `half_closed`: for which nothing may move once one side has ended. Only what is alive and says nothing
    gets so far, so it is as long as kube-proxy has connection tracking keep such flows (tcpCloseWaitTimeout).
    `drain`: for which connections to an endpoint that left may go on.
    """

    half_closed: float = 3600.0
    drain: float = 900.0


LIMITS: Final = Limits()

# To ask an enumeration for a member takes as long as a function call, and is done ten times for a connection.
_NEW, _WAITING, _TRYING, _JOINED, _HALF, _ENDED = State

_MOST: Final = len(RUNGS)
_LEFT: Final = tuple(sum(RUNGS[tries:]) for tries in range(len(RUNGS)))
"""Seconds that are left after so many tries."""
_NOBODY: Final[Iterator[Endpoint]] = iter(())


class Stream:
    """`hidden`: the endpoint is not to see the client's address. All times in seconds."""

    __slots__ = (
        "_drained_at",
        "_first",
        "_half_at",
        "_limits",
        "_moved",
        "_pick",
        "_rng",
        "_tried",
        "_way",
        "client",
        "due",
        "endpoint",
        "entrance",
        "hidden",
        "state",
    )

    def __init__(
        self, entrance: Entrance, client: Ip, hidden: bool, rng: Rng, limits: Limits = LIMITS
    ) -> None:
        self.entrance, self.client, self.hidden = entrance, client, hidden
        self.state = _NEW
        self.endpoint: Endpoint | None = None
        """Who is tried, or serves."""
        self.due = inf
        """When `tick` is to be called, if nothing else happens before."""
        self._rng, self._limits = rng, limits
        self._pick: Iterator[Endpoint] = _NOBODY
        self._way: Way | None = None  # whose endpoints these are
        self._tried: tuple[Endpoint, ...] = ()
        self._first: Side | None = None
        self._moved = 0
        self._half_at = self._drained_at = inf

    # --- finding an endpoint ------------------------------------------------------------

    def arrived(self, now: float) -> Command:
        """A client has come; told once, first."""
        entrance = self.entrance
        entrance.tally.connections += 1
        way = entrance.balancer.way
        if way.endpoints:
            return self._begin(now)
        if way.hold and len(entrance.waiting) < WAITING:
            entrance.waiting[self] = None
            self.state = _WAITING
            self.due = now + way.hold
            return WAIT
        return self._refuse()

    def come(self, now: float) -> Command:
        """There are endpoints, or this way is no more."""
        if self.state is not _WAITING:
            return WAIT
        self.entrance.waiting.pop(self, None)
        return self._begin(now)

    def _begin(self, now: float) -> Command:
        balancer = self.entrance.balancer
        self._way = balancer.way
        self._pick = balancer.choose(self.client, now, self._rng)
        return self._try(now)

    def _try(self, now: float) -> Command:
        tried = self._tried
        left = self._untried()
        one = next((one for one in self._pick if one not in tried), None) if left else None
        if one is None:
            return self._refuse()
        self.state = _TRYING
        tries = len(tried)
        self.due = now + (RUNGS[tries] if left > 1 and tries + 1 < _MOST else _LEFT[tries])
        self._tried = (*tried, one)
        self.endpoint = one
        self.entrance.balancer.opened(one)
        return Connect(one, sees(one, self.client, self.hidden))

    def _untried(self) -> int:
        """How many there are that may be tried yet."""
        tried, ones = self._tried, self.entrance.balancer.way.endpoints
        if not tried:
            return len(ones)
        return 0 if len(tried) == _MOST else sum(one not in tried for one in ones)

    def _try_another(self, now: float) -> Command:
        """In place of who is tried."""
        assert self.endpoint is not None
        balancer = self.entrance.balancer
        balancer.closed(self.endpoint)
        self.endpoint = None
        # If the list is another one, whoever is next on the one chosen from may have left, too, and who came
        # is not on it.
        command = self._try(now) if self._way is balancer.way else self._begin(now)
        self.entrance.tally.retried += command is not ABORT
        return command

    def connected(self, now: float) -> Command:
        """The endpoint that is tried has taken the connection."""
        if self.state is not _TRYING or self.endpoint is None:
            return WAIT
        self.entrance.balancer.worked(self.endpoint)
        self.state = _JOINED
        self.due = self._drained_at
        self._pick = _NOBODY
        return JOIN

    def failed(self, now: float) -> Command:
        """The endpoint that is tried has refused it, or it cannot be reached."""
        if self.state is not _TRYING or self.endpoint is None:
            return WAIT
        self.entrance.balancer.failed(self.endpoint, now)
        return self._try_another(now)

    def barred(self, now: float) -> Command:
        """It cannot be tried now, for want of something here. That is not held against the endpoint."""
        return self._try_another(now) if self.state is _TRYING else WAIT

    def _refuse(self) -> Command:
        self.entrance.tally.refused += 1
        return self._end(ABORT)

    # --- once joined --------------------------------------------------------------------

    def ended(self, side: Side, now: float) -> Command:
        """This side has sent its last byte, and the other one has been sent it."""
        if self.state is _JOINED:
            self.state = _HALF
            self._first = side
            self._half_at = now + self._limits.half_closed
            self.due = self._half_at if self._half_at < self._drained_at else self._drained_at
            return _HALF_CLOSE[side]
        if self.state is _HALF and side != self._first:
            return self._end(CLOSE)
        return WAIT

    def broke(self, side: Side, now: float) -> Command:
        """This side was reset, or cannot be reached any more."""
        if self.state is _ENDED:
            return WAIT
        if self.state is _TRYING and side == "endpoint":
            return self.failed(now)
        self.entrance.tally.refused += self.state in (_TRYING, _WAITING)
        return self._end(ABORT)

    def left(self, now: float) -> Command:
        """The endpoint is none of the way's any more, or the way is gone: this may take a while yet.

        Whoever is only tried, most likely in vain, is given up for another one if there is one, and does not
        count as tried: else changes in a quick row would leave nobody to try.
        """
        if self.state is _TRYING:
            tried, ones = self._tried, self.entrance.balancer.way.endpoints
            if any(one not in tried for one in ones):
                self._tried = tried[:-1]
                return self._try_another(now)
        if self._drained_at == inf and self.state is not _ENDED:
            self._drained_at = now + self._limits.drain
            if self.state in (_JOINED, _HALF):
                self.due = min(self.due, self._drained_at)
        return WAIT

    def back(self) -> None:
        """The endpoint is one of the way's again."""
        self._drained_at = inf
        if self.state in (_JOINED, _HALF):
            self.due = self._half_at

    def shed(self) -> Command:
        """There is no room for it any more."""
        return WAIT if self.state is _ENDED else self._end(ABORT)

    # --- time ---------------------------------------------------------------------------

    def tick(self, now: float, moved: int = 0) -> Command:
        """`moved`: how many bytes were carried until now, both ways."""
        if now < self.due:
            return WAIT
        if self.state is _TRYING:
            return self.failed(now)
        if self.state is _WAITING:
            return self._refuse()
        if now >= self._drained_at or (now >= self._half_at and moved == self._moved):
            return self._end(ABORT)
        # Something moved since the last look, so that is how exact the limit is: once to twice as long.
        self._moved = moved
        if now >= self._half_at:
            self._half_at = now + self._limits.half_closed
        self.due = min(self._half_at, self._drained_at)
        return WAIT

    def _end(self, command: Command) -> Command:
        self.entrance.waiting.pop(self, None)
        if self.endpoint is not None:
            self.entrance.balancer.closed(self.endpoint)
        self.state, self.due, self._pick = _ENDED, inf, _NOBODY
        return command
