"""
Keeps a copy of one kind of objects equal to the API's: list, watch, and begin again where needed.

What the copy holds is told as Put and Drop; of each object the machine itself remembers its name and
its version. However a listing comes about (one stream, one page or many), it is a *round*: what it
tells and has another version is put, and what is known but was not told is dropped at its end. So a
deletion that nobody told is seen, and an object that is as it was causes nothing.

The machine is told events and the time, and returns commands; it opens no connection and has no
clock. The last command of an answer says what to do next, if that is not to go on reading: List,
Watch, Wait or Refresh. With it the connection at hand is done with: nothing more of it is told.

    state      tick(now)      received(bytes)        closed()               failed(failure)
    WAITING    -> what is next, when it is due
    STREAMING  -              puts; at the mark the  -> WAITING, anew;      refused: -> LISTING
                              round ends: WATCHING   the second time lists  else -> WAITING, anew
    LISTING    -              keeps the body         puts; next page, or    token expired: -> LISTING, unpaged
                                                     the round ends:        else -> WAITING, anew
                                                     WATCHING
    WATCHING   -              puts and drops         -> WATCHING from the   410 or 4xx: a new round
                                                     last version           else -> WATCHING, after a back-off

    any state, failed: 401 -> Refresh; 410 or "too large" of a version asked for -> anew, of no version;
    404 or 403 of an API that may be absent, and nothing known -> Synced without objects, asked again later.
    `opened` (the answer's head, 200) changes no state: it dates the connection.

"Anew" is a round: STREAMING, or LISTING if the server refused to stream or twice did not get to the mark.
A broken watch that had lived or told something is resumed at once; everything else waits for the back-off.

Source: "Kubernetes API Concepts"; KEP-3157 (WatchList), KEP-956 (bookmarks); the parameters, the back-off
and its reset are those of client-go's reflector, which kube-proxy uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from math import inf
from types import MappingProxyType
from typing import Final, cast

from msgspec import Raw, Struct

from kubeway.errors import Malformed
from kubeway.machines.pacer import Rng
from kubeway.model.objects import Identity
from kubeway.wire.watch import Bookmark, Event, Failure, Item, Page, Stream, Told, read_page

State = Enum("State", "WAITING STREAMING LISTING WATCHING")

PAGE: Final = 500
ANY: Final = "0"
"""The version that asks for whatever the server has at hand."""

_HURRY: Final = 30.0
_LIVED: Final = 1.0
_UNFINISHED: Final = 2
_LONGEST_RETRY_AFTER: Final = 300.0


class Timing(Struct, frozen=True):
    """All in seconds.

    `first`, `cap`, `reset`: the back-off. `watch`: how long a watch is asked to last,
    up to twice that. `silent_list`: how long no byte may come where some are due;
    `silent_watch`: within a watch that has told everything (the API sends a bookmark
    about every minute).
    `grace`: how much longer than asked for a watch may last. `absent`: when to ask
    again for an API that was not there, up to twice that.
    """

    first: float = 0.8
    cap: float = 30.0
    reset: float = 120.0
    watch: float = 300.0
    silent_list: float = 30.0
    silent_watch: float = 150.0
    grace: float = 30.0
    absent: float = 300.0


# --- commands --------------------------------------------------------------------------------------------

Params = tuple[tuple[str, str], ...]


class List(Struct, frozen=True):
    """Ask for a list; the answer is given up after `total` seconds, or earlier: see `Reflector.silence`."""

    params: Params
    total: float


class Watch(Struct, frozen=True):
    """Ask for a watch; `total` as for List."""

    params: Params
    total: float


class Wait(Struct, frozen=True):
    """Do nothing until then, and `tick`. `problem`: why; "" if nothing is wrong."""

    until: float
    problem: str = ""


class Refresh(Struct, frozen=True):
    """The credentials were not accepted: wait until then, read them anew, and `tick`."""

    until: float
    problem: str


class Put(Struct, frozen=True, gc=False):
    """The object is now like this."""

    raw: Raw
    key: Identity
    version: str


class Drop(Struct, frozen=True):
    """The object is no more. `version`: of its deletion; "" where only its absence was noticed."""

    key: Identity
    version: str = ""


class Synced(Struct, frozen=True):
    """A round has ended: what was put and not dropped is what the API held at this version.

    `absent`: why there is nothing, if the API itself is not there.
    """

    version: str
    absent: str = ""


class Unread(Struct, frozen=True):
    """An object or event could not be told from others and is left out."""

    problem: str


Next = List | Watch | Wait | Refresh
Command = Next | Put | Drop | Synced | Unread


# --- the machine -----------------------------------------------------------------------------------------


class Backoff:
    """Delays that double, each with up to as much again by chance."""

    def __init__(self, timing: Timing, rng: Rng) -> None:
        self._timing, self._rng = timing, rng
        self._delay, self._last = timing.first, -inf

    def delay(self, now: float) -> float:
        if now - self._last > self._timing.reset:
            self._delay = self._timing.first
        self._last = now
        delay, self._delay = self._delay, min(self._timing.cap, self._delay * 2)
        return delay * (1 + self._rng.random())


class Reflector:
    """`selectors` are parameters of every request. `optional`: the API may be absent, or not granted."""

    def __init__(
        self,
        kind: str,
        selectors: Mapping[str, str],
        rng: Rng,
        *,
        optional: bool = False,
        timing: Timing | None = None,
    ) -> None:
        self._kind, self._selectors, self._rng = kind, tuple(selectors.items()), rng
        self._optional, self._timing = optional, timing or Timing()
        self._backoff = Backoff(self._timing, rng)
        self._known: dict[Identity, str] = {}
        self.known: Mapping[Identity, str] = MappingProxyType(self._known)
        """What the copy holds, and of which version."""
        self.version = ""
        """All up to this version is in the copy; "" before the first round has ended."""
        self.state = State.WAITING
        self._synced = False
        self._next, self._due = State.STREAMING, -inf

        # The round. `_floor`: it may tell nothing older than this version; "" where only
        # the newest will do, because something newer than any version known was put already.
        self._floor = ANY
        self._told: set[Identity] = set()
        self._token, self._paged = "", True
        self._body: list[bytes] = []
        # Streams that were refused or did not come to their mark, since a round ended.
        self._unfinished = 0

        # The connection.
        self._stream = Stream()
        self._opened: float | None = None
        self._opened_version = ""
        self._hurried = -inf

    @property
    def silence(self) -> float:
        """So many seconds without a byte, and the answer at hand is not to be waited for any more."""
        quiet = self.state is State.WATCHING and self._opened is not None
        return self._timing.silent_watch if quiet else self._timing.silent_list

    # --- events ------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Command]:
        """The time has come, or something else made the driver look."""
        assert self.state is State.WAITING
        return [self._ask() if now >= self._due else Wait(self._due)]

    def opened(self, now: float) -> list[Command]:
        """The server takes the request: 200."""
        self._opened, self._opened_version = now, self.version
        return []

    def received(self, data: bytes, now: float) -> list[Command]:
        """Bytes of the answer's body, cut anywhere."""
        if self.state is State.LISTING:
            self._body.append(data)
            return []
        commands: list[Command] = []
        try:
            for event in self._stream.feed(data):
                step = self._heard(event, commands, now)
                if step is not None:
                    commands.append(step)
                    break
        except Malformed as bad:
            # Resumed, the watch would come by the same bytes again; a round goes around them.
            commands.append(self._anew(now, str(bad)))
        return commands

    def closed(self, now: float) -> list[Command]:
        """The answer has ended as it should."""
        if self.state is State.WATCHING:
            return [self._resume(now, "the watch was closed at once")]
        if self.state is State.STREAMING:
            return [self._anew(now, "the stream ended before everything was told")]
        body, self._body = b"".join(self._body), []
        try:
            return self._page(read_page(body))
        except Malformed as bad:
            return [self._anew(now, str(bad))]

    def failed(self, failure: Failure, now: float) -> list[Command]:
        """The answer is a refusal, broke off, or did not come."""
        if failure.status == 401:
            return [self._denied(failure, now)]
        if self._lacks_streaming(failure):
            self._unfinished = _UNFINISHED
            return [self._at_once(State.LISTING)]
        if failure.status in (403, 404) and self._optional and not self._known:
            return self._absent(failure, now)
        if self.state is State.WATCHING:
            return [self._watch_failed(failure, now)]
        return [self._round_failed(failure, now)]

    # --- requests ----------------------------------------------------------------------------------------

    def _ask(self) -> List | Watch:
        """The request for what is next."""
        self.state, self._opened = self._next, None
        self._stream, self._body = Stream(), []
        if not self._token:
            self._told = set()
        timing = self._timing
        if self.state is State.LISTING:
            return List(self._selectors + self._list_params(), timing.watch)
        seconds = int(timing.watch * (1 + self._rng.random()))
        params: Params = (
            *self._selectors,
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(seconds)),
        )
        if self.state is State.STREAMING:
            params += (("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan"))
            if self._floor not in ("", ANY):
                params += (("resourceVersion", self._floor),)
        else:
            params += (("resourceVersion", self.version),)
        return Watch(params, seconds + timing.grace)

    def _list_params(self) -> Params:
        if self._token:
            return (("limit", str(PAGE)), ("continue", self._token))
        if not self._paged:
            return ()
        if self._floor in ("", ANY):
            version = (("resourceVersion", ANY),) if self._floor else ()
            return (("limit", str(PAGE)), *version)
        # With a limit, another version than 0 would mean exactly that one.
        return (("resourceVersion", self._floor),)

    # --- what is told ------------------------------------------------------------------------------------

    def _heard(self, event: Event, commands: list[Command], now: float) -> Next | None:
        """Take in one event; what to do next, if not to go on reading."""
        if isinstance(event, Told):
            key = Identity(self._kind, event.item.namespace, event.item.name)
            if event.gone:
                self._told.discard(key)
                if self._known.pop(key, None) is not None:
                    self._disturb()
                    commands.append(Drop(key, event.item.version))
            else:
                self._put(key, event.item, commands)
            if self.state is State.WATCHING:
                self.version = self._floor = event.item.version
        elif isinstance(event, Bookmark):
            if self.state is State.WATCHING:
                self.version = self._floor = event.version
            elif event.initial_end:
                self._round_ended(event.version, commands)
                self.state = State.WATCHING
        elif isinstance(event, Failure):
            *told, step = self.failed(event, now)
            commands.extend(told)
            return cast(Next, step)
        else:
            commands.append(Unread(event.problem))
        return None

    def _put(self, key: Identity, item: Item, commands: list[Command]) -> None:
        if self.state is not State.WATCHING:
            self._told.add(key)
        if self._known.get(key) != item.version:
            self._known[key] = item.version
            self._disturb()
            commands.append(Put(item.raw, key, item.version))

    def _disturb(self) -> None:
        """Something of a round is in the copy: until the round ends, no version tells how new the copy is."""
        if self.state is not State.WATCHING:
            self._floor = ""

    def _page(self, page: Page) -> list[Command]:
        commands: list[Command] = [Unread(bad.problem) for bad in page.unreadable]
        for item in page.items:
            self._put(Identity(self._kind, item.namespace, item.name), item, commands)
        self._token = page.token
        if not page.token:
            self._round_ended(page.version, commands)
            self._next = State.WATCHING
        return [*commands, self._ask()]

    def _round_ended(self, version: str, commands: list[Command]) -> None:
        # A round that tells all that is known tells nothing to drop, and that is nearly every one.
        if len(self._told) < len(self._known):
            for key in [key for key in self._known if key not in self._told]:
                del self._known[key]
                commands.append(Drop(key))
        self._told = set()
        self._token, self._paged, self._unfinished = "", True, 0
        self.version = self._floor = version
        self._synced = True
        commands.append(Synced(version))

    # --- what goes wrong ---------------------------------------------------------------------------------

    def _denied(self, failure: Failure, now: float) -> Refresh:
        """A token may have been rotated just now: that is tried at once, but not again and again."""
        again = self.state if self.state is State.WATCHING or self._token else self._round()
        self._wait(again, now if self._hurry(now) else now + self._backoff.delay(now))
        return Refresh(self._due, str(failure))

    def _absent(self, failure: Failure, now: float) -> list[Command]:
        first, self._synced = not self._synced, True
        self._restart()
        self._wait(self._round(), now + self._timing.absent * (1 + self._rng.random()))
        wait = Wait(self._due)
        return [Synced("", absent=str(failure)), wait] if first else [wait]

    def _watch_failed(self, failure: Failure, now: float) -> Next:
        if not failure.status:
            return self._resume(now, str(failure))
        if _expired(failure):
            # A list may well have what the watch no longer remembers.
            return self._anew(now, str(failure), hurry=True)
        if failure.status in (400, 422) or _too_large(failure):
            # This version means nothing to the server: it may be another one than before.
            self._floor = ""
            return self._anew(now, str(failure), hurry=True)
        if self._opened is not None:
            # Resumed, the watch would come to what the server could not tell again.
            return self._anew(now, str(failure), failure.retry_after)
        return self._later(State.WATCHING, now, str(failure), failure.retry_after)

    def _lacks_streaming(self, failure: Failure) -> bool:
        """An older server calls the parameters invalid; a 403 of such words is not about rights."""
        if self.state is not State.STREAMING or self._opened is not None:
            return False
        if failure.status == 403:
            return failure.reason == "Invalid" or "sendInitialEvents" in failure.message
        return failure.status in (400, 422)

    def _round_failed(self, failure: Failure, now: float) -> Next:
        if self._token and _expired(failure):
            # Paging was too slow for how the server forgets; in one piece it cannot be.
            self._restart()
            self._paged = False
            return self._at_once(State.LISTING)
        if _expired(failure) or _too_large(failure):
            # The version asked for is too old, or from a server that is ahead of this one.
            if self._floor:
                self._floor = ""
                return self._anew(now, str(failure), hurry=True)
        elif self._token and (failure.status in (0, 429) or failure.status >= 500):
            # The token still stands for what the first page was part of.
            return self._later(State.LISTING, now, str(failure), failure.retry_after)
        return self._anew(now, str(failure), failure.retry_after)

    def _resume(self, now: float, problem: str) -> Next:
        """The watch has ended: go on from the last version, at once if the last one was of any use."""
        lived = self._opened is not None and now - self._opened >= _LIVED
        if lived or (self._opened is not None and self.version != self._opened_version):
            return self._at_once(State.WATCHING)
        return self._later(State.WATCHING, now, problem)

    def _anew(self, now: float, problem: str, retry_after: float = 0.0, hurry: bool = False) -> Next:
        """Begin another round."""
        if self.state is State.STREAMING and self._opened is not None:
            self._unfinished += 1
        self._restart()
        if hurry and not retry_after and self._hurry(now):
            return self._at_once(self._round())
        return self._later(self._round(), now, problem, retry_after)

    def _restart(self) -> None:
        self._token, self._paged = "", True

    def _round(self) -> State:
        return State.LISTING if self._unfinished >= _UNFINISHED else State.STREAMING

    def _at_once(self, state: State) -> Next:
        self._next = state
        return self._ask()

    def _later(self, state: State, now: float, problem: str, retry_after: float = 0.0) -> Wait:
        asked = min(retry_after, _LONGEST_RETRY_AFTER)
        self._wait(state, now + max(self._backoff.delay(now), asked))
        return Wait(self._due, problem)

    def _wait(self, state: State, until: float) -> None:
        self.state, self._next, self._due = State.WAITING, state, until

    def _hurry(self, now: float) -> bool:
        """Whether something may be tried at once: once in a while."""
        if now - self._hurried < _HURRY:
            return False
        self._hurried = now
        return True


def _expired(failure: Failure) -> bool:
    return failure.status == 410 or failure.reason in ("Expired", "Gone")


def _too_large(failure: Failure) -> bool:
    """The server has not yet come to the version asked for."""
    return failure.cause == "ResourceVersionTooLarge" or "Too large resource version" in failure.message
