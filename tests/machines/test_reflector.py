from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from kubeway.machines.reflector import (
    Command,
    Drop,
    List,
    Put,
    Reflector,
    Refresh,
    State,
    Synced,
    Timing,
    Unread,
    Wait,
    Watch,
)
from kubeway.model.objects import Identity
from kubeway.wire.watch import Failure

KIND = "Service"
NEXT = (List, Watch, Wait, Refresh)


class Fixed:
    """Chance that always says the same."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


def reflector(**more: Any) -> Reflector:
    return Reflector(KIND, {"labelSelector": "!headless"}, Fixed(0.0), **more)


def key(name: str) -> Identity:
    return Identity(KIND, "ns", name)


def thing(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ns", "resourceVersion": str(version)}}


def line(type: str, object: dict[str, Any]) -> bytes:
    return json.dumps({"type": type, "object": object}).encode() + b"\n"


def bookmark(version: int, end: bool = False) -> bytes:
    marks = {"annotations": {"k8s.io/initial-events-end": "true"}} if end else {}
    return line("BOOKMARK", {"metadata": {"resourceVersion": str(version), **marks}})


def page(version: int, *items: dict[str, Any], token: str = "") -> bytes:
    return json.dumps(
        {"metadata": {"resourceVersion": str(version), "continue": token}, "items": items}
    ).encode()


def told(commands: list[Command]) -> list[object]:
    """Without what cannot be compared: the bytes."""
    return [(c.key.name, c.version) if isinstance(c, Put) else c for c in commands]


def params(commands: list[Command]) -> dict[str, str]:
    request = commands[-1]
    assert isinstance(request, List | Watch)
    assert request.params[0] == ("labelSelector", "!headless")
    return dict(request.params[1:])


def streamed(machine: Reflector, now: float = 0.0) -> None:
    """Bring it through a first round: a@1 and b@2, of version 5."""
    machine.tick(now)
    machine.opened(now)
    machine.received(line("ADDED", thing("a", 1)) + line("ADDED", thing("b", 2)) + bookmark(5, end=True), now)
    assert machine.state is State.WATCHING


WATCH = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": "300"}
STREAM = WATCH | {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
GONE = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}


# --- rounds ----------------------------------------------------------------------------------------------


def test_the_first_request_is_a_stream_of_everything() -> None:
    assert params(reflector().tick(0.0)) == STREAM


def test_a_stream_puts_as_it_goes_and_is_synced_at_the_mark() -> None:
    machine = reflector()
    machine.tick(0.0)
    assert machine.opened(0.0) == []
    assert told(machine.received(line("ADDED", thing("a", 1)), 0.0)) == [("a", "1")]
    assert machine.received(bookmark(3), 0.0) == []
    assert machine.version == ""
    assert machine.received(bookmark(5, end=True), 0.0) == [Synced("5")]
    assert (machine.state, machine.version) == (State.WATCHING, "5")
    assert dict(machine.known) == {key("a"): "1"}


def test_what_is_put_is_the_object_as_it_came() -> None:
    machine = reflector()
    machine.tick(0.0)
    machine.opened(0.0)
    [put] = machine.received(line("ADDED", thing("a", 1)), 0.0)
    assert isinstance(put, Put)
    assert isinstance(put.raw, Raw)
    assert json.loads(bytes(put.raw)) == thing("a", 1)


def test_the_watch_goes_on_in_the_same_stream() -> None:
    machine = reflector()
    streamed(machine)
    data = line("MODIFIED", thing("a", 6)) + line("DELETED", thing("b", 7)) + line("ADDED", thing("c", 8))
    assert told(machine.received(data, 1.0)) == [("a", "6"), Drop(key("b"), "7"), ("c", "8")]
    assert machine.version == "8"


@pytest.mark.parametrize(
    "refusal",
    [
        Failure(400, "BadRequest"),
        Failure(422, "Invalid"),
        Failure(
            403, "Forbidden", "sendInitialEvents is forbidden for watch unless the WatchList feature ..."
        ),
    ],
    ids=lambda f: str(f.status),
)
def test_a_server_that_cannot_stream_is_listed_in_pages_at_once(refusal: Failure) -> None:
    machine = reflector()
    machine.tick(0.0)
    assert params(machine.failed(refusal, 0.0)) == {"limit": "500", "resourceVersion": "0"}
    machine.opened(0.0)
    body = page(5, thing("a", 1), token="next")
    assert machine.received(body[:20], 0.0) == machine.received(body[20:], 0.0) == []
    commands = machine.closed(0.0)
    assert told(commands[:-1]) == [("a", "1")]
    assert params(commands) == {"limit": "500", "continue": "next"}
    machine.opened(0.0)
    machine.received(page(5, thing("b", 2)), 0.0)
    commands = machine.closed(0.0)
    assert told(commands[:-1]) == [("b", "2"), Synced("5")]
    assert params(commands) == WATCH | {"resourceVersion": "5"}


def test_missing_rights_are_not_taken_for_an_old_server() -> None:
    machine = reflector()
    machine.tick(0.0)
    [wait] = machine.failed(Failure(403, "Forbidden", 'services is forbidden: User "x" cannot list'), 0.0)
    assert wait == Wait(0.8, '403 Forbidden: services is forbidden: User "x" cannot list')
    assert params(machine.tick(0.8)) == STREAM


def test_a_stream_that_twice_does_not_come_to_its_mark_is_listed() -> None:
    machine = reflector()
    for now in (0.0, 10.0):
        assert params(machine.tick(now)) == STREAM
        machine.opened(now)
        [wait] = machine.failed(Failure(0, message="no byte for 30 s"), now)
        assert isinstance(wait, Wait)
    assert params(machine.tick(20.0)) == {"limit": "500", "resourceVersion": "0"}


def test_a_busy_server_is_not_burdened_with_lists() -> None:
    machine = reflector()
    for now in (0.0, 100.0, 200.0):
        assert params(machine.tick(now)) == STREAM
        machine.failed(Failure(429, "TooManyRequests", retry_after=1.0), now)


def test_an_expired_token_is_followed_by_a_list_in_one_piece() -> None:
    machine = reflector()
    machine.tick(0.0)
    machine.failed(Failure(422), 0.0)
    machine.opened(0.0)
    machine.received(page(5, thing("a", 1), thing("b", 2), token="next"), 0.0)
    machine.closed(0.0)
    assert params(machine.failed(Failure(410, "Expired"), 0.0)) == {}
    machine.opened(0.0)
    machine.received(page(9, thing("a", 1), thing("c", 8)), 0.0)
    commands = machine.closed(0.0)
    assert told(commands[:-1]) == [("c", "8"), Drop(key("b")), Synced("9")]


def test_a_page_that_fails_is_asked_for_again() -> None:
    machine = reflector()
    machine.tick(0.0)
    machine.failed(Failure(422), 0.0)
    machine.received(page(5, thing("a", 1), token="next"), 0.0)
    machine.closed(0.0)
    assert machine.failed(Failure(503, retry_after=7.0), 0.0) == [Wait(7.0, "503")]
    assert params(machine.tick(7.0)) == {"limit": "500", "continue": "next"}
    machine.received(page(5, thing("b", 2)), 7.0)
    assert told(machine.closed(7.0)[:-1]) == [("b", "2"), Synced("5")]


# --- gaps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["status", "event"])
def test_what_went_during_a_gap_is_dropped_and_what_stayed_is_not_told(way: str) -> None:
    machine = reflector()
    streamed(machine)
    machine.closed(300.0)
    if way == "status":
        commands = machine.failed(Failure(410, "Expired"), 300.0)
    else:
        machine.opened(300.0)
        commands = machine.received(line("ERROR", GONE) + line("ADDED", thing("not read any more", 9)), 300.0)
        assert len(commands) == 1
    assert params(commands) == STREAM | {"resourceVersion": "5"}
    machine.opened(300.0)
    assert machine.received(line("ADDED", thing("b", 2)), 300.0) == []
    assert machine.received(bookmark(9, end=True), 300.0) == [Drop(key("a")), Synced("9")]


def test_a_relist_of_the_same_says_nothing() -> None:
    machine = reflector()
    streamed(machine)
    machine.failed(Failure(410), 10.0)
    machine.opened(10.0)
    data = line("ADDED", thing("b", 2)) + line("ADDED", thing("a", 1)) + bookmark(9, end=True)
    assert machine.received(data, 10.0) == [Synced("9")]


def test_a_watch_that_ends_is_resumed_at_once_from_the_last_version() -> None:
    machine = reflector()
    streamed(machine)
    machine.received(bookmark(77), 200.0)
    assert params(machine.closed(300.0)) == WATCH | {"resourceVersion": "77"}


def test_a_watch_that_breaks_in_the_middle_of_a_line_is_resumed_before_it() -> None:
    machine = reflector()
    streamed(machine)
    data = line("MODIFIED", thing("a", 6)) + line("MODIFIED", thing("b", 7))
    assert told(machine.received(data[:-5], 10.0)) == [("a", "6")]
    assert params(machine.failed(Failure(0, message="connection reset"), 10.0))["resourceVersion"] == "6"
    machine.opened(10.0)
    assert told(machine.received(line("MODIFIED", thing("b", 7)), 10.0)) == [("b", "7")]


def test_a_watch_that_lived_no_second_and_told_nothing_waits() -> None:
    machine = reflector()
    streamed(machine)
    machine.closed(10.0)
    machine.opened(10.0)
    assert machine.closed(10.1) == [Wait(10.9, "the watch was closed at once")]
    assert params(machine.tick(10.9)) == WATCH | {"resourceVersion": "5"}


def test_bytes_that_are_no_watch_lead_to_a_new_round() -> None:
    machine = reflector()
    streamed(machine)
    *before, wait = machine.received(line("MODIFIED", thing("a", 6)) + b"<html>\n", 10.0)
    assert told(before) == [("a", "6")]
    assert isinstance(wait, Wait)
    assert "watch: JSON is malformed" in wait.problem
    assert params(machine.tick(20.0)) == STREAM | {"resourceVersion": "6"}


def test_an_answer_that_is_no_list_drops_nothing() -> None:
    machine = reflector()
    streamed(machine)
    machine.failed(Failure(410), 10.0)
    machine.failed(Failure(422), 10.0)
    machine.received(b"{}", 10.0)
    assert machine.closed(10.0) == [Wait(10.8, "list: no metadata.resourceVersion")]
    assert len(machine.known) == 2


@pytest.mark.parametrize(
    "failure",
    [Failure(504, "Timeout", "Too large resource version: 5, current: 3"), Failure(410, "Expired")],
    ids=["ahead", "behind"],
)
def test_a_version_the_server_does_not_have_is_not_asked_for_again(failure: Failure) -> None:
    machine = reflector()
    streamed(machine)
    machine.failed(Failure(410), 10.0)
    [wait] = machine.failed(failure, 10.0)
    assert isinstance(wait, Wait)
    assert params(machine.tick(wait.until)) == STREAM


def test_a_round_that_broke_midway_is_begun_again_with_the_newest() -> None:
    """Another server may be behind the one that told the first half."""
    machine = reflector()
    streamed(machine)
    machine.failed(Failure(410), 10.0)
    machine.opened(10.0)
    machine.received(line("ADDED", thing("a", 9)), 10.0)
    machine.failed(Failure(0), 10.0)
    assert params(machine.tick(20.0)) == STREAM


def test_an_object_without_a_name_is_left_out_and_the_rest_goes_on() -> None:
    machine = reflector()
    streamed(machine)
    data = line("ADDED", {"metadata": {"name": 5}}) + line("ADDED", thing("c", 8))
    unread, put = machine.received(data, 1.0)
    assert unread == Unread("ADDED: Expected `str | null`, got `int` - at `$.metadata.name`")
    assert told([put]) == [("c", "8")]


def test_what_is_deleted_before_the_mark_does_not_hide_what_went_in_the_gap() -> None:
    machine = reflector()
    streamed(machine)
    machine.failed(Failure(410), 10.0)
    machine.opened(10.0)
    data = line("ADDED", thing("a", 1)) + line("DELETED", thing("a", 8)) + bookmark(9, end=True)
    assert machine.received(data, 10.0) == [Drop(key("a"), "8"), Drop(key("b")), Synced("9")]


def test_a_page_refused_for_good_begins_the_round_again() -> None:
    machine = reflector()
    machine.tick(0.0)
    machine.failed(Failure(422), 0.0)
    machine.received(page(5, thing("a", 1), token="next"), 0.0)
    machine.closed(0.0)
    [wait] = machine.failed(Failure(400, "BadRequest", "continue key is not valid"), 0.0)
    assert isinstance(wait, Wait)
    assert params(machine.tick(wait.until)) == {"limit": "500"}


def test_each_round_tries_to_stream_again() -> None:
    """The server may be a newer one by now."""
    machine = reflector()
    machine.tick(0.0)
    machine.failed(Failure(422), 0.0)
    machine.received(page(5, thing("a", 1)), 0.0)
    machine.closed(0.0)
    assert params(machine.failed(Failure(410), 10.0)) == STREAM | {"resourceVersion": "5"}


def test_an_error_within_a_watch_is_not_run_into_again() -> None:
    machine = reflector()
    streamed(machine)
    machine.closed(300.0)
    machine.opened(300.0)
    status = {"kind": "Status", "code": 500, "message": "unable to decode an event"}
    assert machine.received(line("ERROR", status), 310.0) == [Wait(310.8, "500: unable to decode an event")]
    assert params(machine.tick(310.8)) == STREAM | {"resourceVersion": "5"}


def test_a_watch_that_is_refused_for_a_while_is_asked_for_again() -> None:
    machine = reflector()
    streamed(machine)
    machine.closed(300.0)
    assert machine.failed(Failure(503, "ServiceUnavailable"), 300.0) == [
        Wait(300.8, "503 ServiceUnavailable")
    ]
    assert params(machine.tick(300.8)) == WATCH | {"resourceVersion": "5"}


def test_who_asks_for_the_newest_and_is_told_to_wait_waits() -> None:
    machine = reflector()
    streamed(machine)
    machine.failed(Failure(422), 10.0)  # anew, of no version
    ahead = Failure(504, "Timeout", cause="ResourceVersionTooLarge", retry_after=4.0)
    assert machine.failed(ahead, 100.0) == [Wait(104.0, "504 Timeout")]


# --- waiting ---------------------------------------------------------------------------------------------


def test_the_back_off_doubles_up_to_its_cap_and_forgets_after_two_minutes() -> None:
    machine = reflector()
    now, waited = 0.0, []
    for _ in range(8):
        machine.tick(now)
        [wait] = machine.failed(Failure(0, message="connection refused"), now)
        assert isinstance(wait, Wait)
        waited.append(wait.until - now)
        now = wait.until
    assert waited == pytest.approx([0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0])
    machine.tick(now)
    [wait] = machine.failed(Failure(0), now + 130.0)
    assert isinstance(wait, Wait)
    assert wait.until - now - 130.0 == pytest.approx(0.8)


def test_chance_makes_it_up_to_twice_as_long() -> None:
    machine = Reflector(KIND, {}, Fixed(0.5))
    [request] = machine.tick(0.0)
    assert isinstance(request, Watch)
    assert dict(request.params)["timeoutSeconds"] == "450"
    assert request.total == 480.0
    assert machine.failed(Failure(500), 0.0) == [Wait(pytest.approx(1.2), "500")]


def test_it_does_not_ask_before_its_time() -> None:
    machine = reflector()
    machine.tick(0.0)
    machine.failed(Failure(500), 0.0)
    assert machine.tick(0.5) == [Wait(0.8)]


@pytest.mark.parametrize(("asked", "waited"), [(0.1, 0.8), (5.0, 5.0), (1e9, 300.0)])
def test_retry_after_is_honoured_within_reason(asked: float, waited: float) -> None:
    machine = reflector()
    machine.tick(0.0)
    assert machine.failed(Failure(429, retry_after=asked), 0.0) == [Wait(waited, "429")]


def test_a_refused_token_is_read_anew_at_once_and_then_with_patience() -> None:
    machine = reflector()
    streamed(machine)
    machine.closed(300.0)
    assert machine.failed(Failure(401, "Unauthorized"), 300.0) == [Refresh(300.0, "401 Unauthorized")]
    assert params(machine.tick(300.0)) == WATCH | {"resourceVersion": "5"}
    assert machine.failed(Failure(401, "Unauthorized"), 300.0) == [Refresh(300.8, "401 Unauthorized")]


def test_silence_is_borne_longer_once_all_is_told() -> None:
    machine = reflector(timing=Timing(silent_list=3.0, silent_watch=9.0))
    machine.tick(0.0)
    assert machine.silence == 3.0
    machine.opened(0.0)
    machine.received(bookmark(1, end=True), 0.0)
    assert machine.silence == 9.0
    machine.closed(300.0)
    assert machine.silence == 3.0
    machine.opened(300.0)
    assert machine.silence == 9.0


@pytest.mark.parametrize("status", [404, 403])
def test_an_api_that_may_be_absent_is_empty_and_asked_for_again(status: int) -> None:
    machine = reflector(optional=True)
    machine.tick(0.0)
    assert machine.failed(Failure(status), 0.0) == [Synced("", absent=str(status)), Wait(300.0)]
    machine.tick(300.0)
    assert machine.failed(Failure(status), 300.0) == [Wait(600.0)]
    streamed(machine, 600.0)
    assert len(machine.known) == 2


def test_an_api_that_goes_away_takes_nothing_along() -> None:
    machine = reflector(optional=True)
    streamed(machine)
    machine.closed(300.0)
    assert machine.failed(Failure(404), 300.0) == [Wait(300.8, "404")]
    assert len(machine.known) == 2


def _refusing(failure: Failure) -> Callable[[Reflector, float], list[Command]]:
    return lambda machine, now: machine.failed(failure, now)


def _opening(
    *more: Callable[[Reflector, float], list[Command]],
) -> Callable[[Reflector, float], list[Command]]:
    def answer(machine: Reflector, now: float) -> list[Command]:
        commands = machine.opened(now)
        for step in more:
            commands = step(machine, now)
            if commands and isinstance(commands[-1], NEXT):
                break
        return commands

    return answer


BAD_SERVERS = {
    **{str(s): _refusing(Failure(s)) for s in (0, 301, 400, 401, 403, 404, 410, 422, 429, 500, 503)},
    "ahead": _refusing(Failure(504, "Timeout", cause="ResourceVersionTooLarge")),
    "closes": _opening(lambda m, now: m.closed(now)),
    "breaks": _opening(lambda m, now: m.failed(Failure(0), now)),
    "forgets": _opening(lambda m, now: m.received(line("ERROR", GONE), now), lambda m, now: m.closed(now)),
    "errs": _opening(lambda m, now: m.received(line("ERROR", {}), now), lambda m, now: m.closed(now)),
    "rubbish": _opening(lambda m, now: m.received(b"x\n", now), lambda m, now: m.closed(now)),
    "empty": _opening(lambda m, now: m.received(b"\n", now), lambda m, now: m.closed(now)),
}


@pytest.mark.parametrize("synced", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("server", BAD_SERVERS)
def test_no_bad_server_is_asked_in_a_hurry(server: str, synced: bool) -> None:
    """In ten minutes: a few dozen requests, whatever it answers, and the copy stays as it was."""
    machine, now, asked = reflector(), 0.0, 0
    if synced:
        streamed(machine)
        step = machine.closed(now)[-1]
    else:
        step = machine.tick(now)[-1]
    while now < 600.0:
        if isinstance(step, List | Watch):
            asked += 1
            assert asked < 100
            commands = BAD_SERVERS[server](machine, now)
            assert not any(isinstance(c, Put | Drop) for c in commands)
            step = commands[-1]
        else:
            assert isinstance(step, Wait | Refresh)
            now = max(now, step.until)
            step = machine.tick(now)[-1]
    assert asked > 5
    assert len(machine.known) == (2 if synced else 0)


# --- the law ---------------------------------------------------------------------------------------------

NAMES = "abcd"
ITEMS_ON_A_PAGE = 2


@dataclass
class Api:
    """A server by the laws of the API: every state it had, the events between them, what it remembers."""

    rng: Random
    streams: bool
    states: list[dict[str, int]] = field(default_factory=lambda: [{}, {}])
    events: list[tuple[str, str]] = field(default_factory=lambda: [("", ""), ("", "")])
    oldest: int = 1

    @property
    def now(self) -> int:
        return len(self.states) - 1

    def change(self, name: str) -> None:
        state = dict(self.states[-1])
        kind = "MODIFIED" if name in state else "ADDED"
        if name in state and self.rng.random() < 0.5:
            kind = "DELETED"
            del state[name]
        else:
            state[name] = self.now + 1
        self.states.append(state)
        self.events.append((kind, name))

    def compact(self) -> None:
        self.oldest = self.now

    def event(self, version: int) -> bytes:
        kind, name = self.events[version]
        return line(kind, thing(name, version))

    def answer(self, request: List | Watch) -> Answer | Failure:
        asked = dict(request.params)
        if isinstance(request, List):
            return self._list(asked)
        if "sendInitialEvents" in asked:
            return self._stream(asked) if self.streams else Failure(422, "Invalid")
        version = int(asked["resourceVersion"])
        if version < self.oldest:
            if self.rng.random() < 0.5:
                return Failure(410, "Expired")
            return Answer(line("ERROR", GONE), None)
        return Answer(b"", version)

    def _stream(self, asked: dict[str, str]) -> Answer:
        least = max(self.oldest, int(asked.get("resourceVersion", self.now)))
        version = self.rng.randint(least, self.now)
        names = list(self.states[version])
        self.rng.shuffle(names)
        data = b"".join(line("ADDED", thing(n, self.states[version][n])) for n in names)
        # What happens while the state is told comes before the mark, too.
        end = self.rng.randint(version, self.now)
        data += b"".join(self.event(v) for v in range(version + 1, end + 1))
        return Answer(data + bookmark(end, end=True), end)

    def _list(self, asked: dict[str, str]) -> Answer | Failure:
        offset, paged = 0, "limit" in asked
        if "continue" in asked:
            version, offset = map(int, asked["continue"].split("."))
            if version < self.oldest:
                return Failure(410, "Expired")
        else:
            # "0" takes whatever there is: another server's memory may be far behind.
            least = int(asked.get("resourceVersion", self.now))
            version = self.rng.randint(max(self.oldest, least), self.now)
        items = [thing(n, v) for n, v in sorted(self.states[version].items())]
        end = offset + ITEMS_ON_A_PAGE if paged else len(items)
        token = f"{version}.{end}" if end < len(items) else ""
        return Answer(page(version, *items[offset:end], token=token), None, whole=True)


@dataclass
class Answer:
    """A body that is on its way. `cursor`: events after this version follow; None: it ends here."""

    data: bytes
    cursor: int | None
    whole: bool = False


REFUSALS = [
    *(Failure(status) for status in (0, 400, 401, 403, 404, 410, 422, 429, 500, 503)),
    Failure(429, retry_after=3.0),
    Failure(504, "Timeout", cause="ResourceVersionTooLarge"),
]


class World:
    """A reflector, its server, the way between them, and the copy as told by commands."""

    def __init__(self, seed: int, streams: bool) -> None:
        self.rng = Random(seed)
        self.api = Api(self.rng, streams)
        self.machine = Reflector(KIND, {}, self.rng)
        self.copy: dict[str, int] = {}
        self.now = 0.0
        self.answer: Answer | None = None
        self.request: List | Watch | None = None
        self.until = 0.0

    def take(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Put):
                version = int(command.version)
                assert self.copy.get(command.key.name) != version, "put though it is known"
                assert json.loads(bytes(command.raw))["metadata"]["resourceVersion"] == command.version
                self.copy[command.key.name] = version
            elif isinstance(command, Drop):
                assert command.key.name in self.copy, "dropped though it is not known"
                del self.copy[command.key.name]
            elif isinstance(command, Synced):
                assert self.copy == self.api.states[int(command.version)]
            else:
                assert command is commands[-1]
                assert not isinstance(command, Unread)
                self.answer = self.request = None
                if isinstance(command, List | Watch):
                    self.request = command
                else:
                    self.until = command.until
        assert {k.name: int(v) for k, v in self.machine.known.items()} == self.copy
        if self.machine.state is State.WATCHING:
            # In a watch the copy is, at every moment, a state the server had.
            assert self.copy == self.api.states[int(self.machine.version)]

    def wake(self) -> None:
        if self.request is None and self.answer is None:
            self.now = max(self.now, self.until)
            self.take(self.machine.tick(self.now))

    def connect(self, refusal: Failure | None = None) -> None:
        if self.request is None:
            return
        answer = refusal or self.api.answer(self.request)
        if isinstance(answer, Failure):
            self.take(self.machine.failed(answer, self.now))
        else:
            self.request, self.answer = None, answer
            self.take(self.machine.opened(self.now))

    def pump(self) -> None:
        """What has happened meanwhile is on its way."""
        answer = self.answer
        if answer is not None and answer.cursor is not None:
            for version in range(answer.cursor + 1, self.api.now + 1):
                answer.data += self.api.event(version)
            answer.cursor = self.api.now
            if self.rng.random() < 0.3:
                answer.data += bookmark(self.api.now)

    def deliver(self, size: int | None = None) -> None:
        self.pump()
        answer = self.answer
        if answer is None:
            return
        size = len(answer.data) if size is None else size
        data, answer.data = answer.data[:size], answer.data[size:]
        if data:
            self.take(self.machine.received(data, self.now))
        if self.answer is answer and not answer.data and (answer.whole or answer.cursor is None):
            self.end()

    def end(self, failure: Failure | None = None) -> None:
        if self.answer is not None:
            self.answer = None
            self.take(self.machine.failed(failure, self.now) if failure else self.machine.closed(self.now))

    def heal(self) -> None:
        """Nothing more goes wrong, nothing more changes."""
        for _ in range(50):
            self.wake()
            self.connect()
            self.deliver()
            answer = self.answer
            if self.machine.state is State.WATCHING and answer is not None and answer.cursor == self.api.now:
                assert self.copy == self.api.states[-1]
                return
        raise AssertionError(f"never came to {self.api.states[-1]}, has {self.copy} in {self.machine.state}")


STEPS = st.one_of(
    st.tuples(st.just("change"), st.sampled_from(NAMES)),
    st.tuples(st.just("deliver"), st.integers(1, 400)),
    st.tuples(st.just("refuse"), st.sampled_from(REFUSALS)),
    st.sampled_from(
        [(word, None) for word in ("wake", "connect", "connect", "all", "compact", "close", "cut")]
    ),
)


@given(seed=st.integers(0, 2**32), streams=st.booleans(), steps=st.lists(STEPS, max_size=60))
def test_the_copy_ends_as_the_server_is(seed: int, streams: bool, steps: list[tuple[str, Any]]) -> None:
    world = World(seed, streams)
    for word, detail in steps:
        world.now += 0.3
        match word:
            case "change":
                world.api.change(detail)
            case "deliver":
                world.deliver(detail)
            case "refuse":
                world.connect(detail)
            case "wake":
                world.wake()
            case "connect":
                world.connect()
            case "all":
                world.deliver()
            case "compact":
                world.api.compact()
            case "close":
                world.end()
            case "cut":
                world.end(Failure(0, message="connection reset"))
    world.heal()


@given(seed=st.integers(0, 2**32), streams=st.booleans(), names=st.lists(st.sampled_from(NAMES), max_size=20))
def test_an_unchanged_cluster_is_told_once_whatever_breaks(
    seed: int, streams: bool, names: list[str]
) -> None:
    world = World(seed, streams)
    for name in names:
        world.api.change(name)
    world.heal()
    heard: list[Command] = []
    take = world.take
    world.take = lambda commands: (heard.extend(commands), take(commands))[1]  # type: ignore[method-assign]
    for _ in range(5):
        world.rng.choice([world.end, lambda: world.end(Failure(0)), lambda: world.end(Failure(410))])()
        world.wake()
        world.connect(world.rng.choice([None, *REFUSALS]))
        world.heal()
    assert not any(isinstance(command, Put | Drop) for command in heard)
