"""Which session a datagram belongs to, and when sessions end."""

from __future__ import annotations

from collections import Counter
from math import inf
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kubeway.model.links import Neighbours
from kubeway.planes.relay.datagram import Session, Sessions
from kubeway.planes.relay.entrance import Entrance
from kubeway.planes.relay.objects import Endpoint, Way
from kubeway.planes.relay.ports import PORTS
from kubeway.values import Ip, host_prefix

ENDPOINTS = tuple(Endpoint(Ip(bytes((10, 244, 0, n))), 53) for n in range(1, 6))
A, B, C = ENDPOINTS[:3]
ME = Ip(bytes((192, 0, 2, 1)))


def ended(some: list[Session]) -> list[object]:
    return [one.key for one in some]


class Play:
    """Sessions of one way, by the names of their clients."""

    def __init__(self, *endpoints: Endpoint, most: int = 100, first: float = 30, idle: float = 120) -> None:
        self.entrance = Entrance(Way(endpoints, demote=True))
        self.sessions = Sessions(most, first, idle)
        self.rng = Random(1)

    def ask(self, client: str, now: float) -> tuple[Session, list[object]]:
        """As a carrier does: the session of this client's datagram, and who had to go."""
        if (one := self.sessions.find(client)) is not None:
            self.sessions.asked(one, now)
            return one, []
        new, gone = self.sessions.open(client, self.entrance, ME, False, now, self.rng)
        assert new is not None
        return new, [] if gone is None else [gone.key]


# --- the table ------------------------------------------------------------------------------


def test_a_client_keeps_its_endpoint_and_another_one_has_its_own_turn() -> None:
    play = Play(A, B)
    one, _ = play.ask("x", 0)
    other, _ = play.ask("y", 0)
    assert (one.endpoint, other.endpoint) == (A, B)
    assert play.ask("x", 1)[0] is one
    assert play.entrance.balancer.load(A) == 1


def test_without_endpoints_there_is_no_session() -> None:
    play = Play()
    assert play.sessions.open("x", play.entrance, ME, False, 0, Random(1)) == (None, None)
    assert len(play.sessions) == 0
    assert play.entrance.tally.refused == play.entrance.tally.connections == 1


def test_who_never_was_answered_is_kept_for_the_first_reply_and_no_longer() -> None:
    play = Play(A)
    play.ask("x", 0)
    play.ask("x", 20)
    assert play.sessions.due == 50
    assert play.sessions.expired(49.9) == []
    assert ended(play.sessions.expired(50)) == ["x"]
    assert (len(play.sessions), play.sessions.due, play.entrance.balancer.load(A)) == (0, inf, 0)


def test_who_was_answered_is_kept_while_either_speaks() -> None:
    play = Play(A, first=30, idle=5)
    one, _ = play.ask("x", 0)
    play.sessions.answered(one, 29)
    assert play.sessions.due == 34
    play.ask("x", 33)
    play.sessions.answered(one, 36)
    assert play.sessions.expired(40.9) == []
    assert ended(play.sessions.expired(41)) == ["x"]


def test_many_end_in_the_order_of_their_silence() -> None:
    play = Play(A, idle=10, first=30)
    for n, name in enumerate("abcd"):
        play.ask(name, n)
    play.sessions.answered(play.ask("b", 5)[0], 6)
    play.ask("a", 7)
    assert ended(play.sessions.expired(16)) == ["b"]
    assert ended(play.sessions.expired(33)) == ["c", "d"]
    assert ended(play.sessions.expired(37)) == ["a"]


# --- no room ----------------------------------------------------------------------------------


def test_the_longest_idle_of_the_unanswered_makes_room() -> None:
    play = Play(A, most=3)
    play.sessions.answered(play.ask("old", 0)[0], 0)
    play.ask("x", 1)
    play.ask("y", 2)
    play.ask("x", 3)
    assert play.ask("z", 4)[1] == ["y"]
    assert play.ask("w", 5)[1] == ["x"]
    assert len(play.sessions) == 3
    assert play.sessions.shed == 2


def test_the_answered_make_room_only_when_all_are() -> None:
    play = Play(A, most=2)
    for n, name in enumerate("ab"):
        play.sessions.answered(play.ask(name, n)[0], n)
    assert play.ask("c", 5)[1] == ["a"]
    assert play.ask("d", 6)[1] == ["c"]


def test_newcomers_have_time_to_be_answered_where_all_is_full_of_conversations() -> None:
    play = Play(A, most=100)
    for n in range(100):
        play.sessions.answered(play.ask(f"old {n}", n / 100)[0], n / 100)
    newcomers = [play.ask(f"new {n}", 2)[0] for n in range(25)]
    assert not any(one.over for one in newcomers)
    assert all(play.sessions.find(f"old {n}") for n in range(25, 100))
    assert play.ask("one more", 3)[1] == ["new 0"]


def test_a_flood_of_strangers_ends_no_conversation() -> None:
    play = Play(A, B, most=10)
    for name in "abcde":
        play.sessions.answered(play.ask(name, 0)[0], 0)
    for n in range(1000):
        play.ask(f"flood {n}", 1 + n / 1000)
    assert all(play.sessions.find(name) for name in "abcde")
    assert len(play.sessions) == 10


# --- endpoints ----------------------------------------------------------------------------------


def test_an_endpoint_that_leaves_has_its_sessions_moved_at_once() -> None:
    play = Play(A, B)
    for name in "abcd":
        play.sessions.answered(play.ask(name, 0)[0], 0)
    gone = play.entrance.become(Way((B, C)))
    assert ended(play.sessions.left(play.entrance, gone, 1)) == ["a", "c"]
    assert play.entrance.balancer.load(A) == play.sessions.at(play.entrance, A) == 0
    assert play.ask("a", 1)[0].endpoint in (B, C)
    assert play.ask("b", 1)[0].endpoint == B


def test_one_ways_endpoint_that_leaves_stays_with_another_way() -> None:
    play = Play(A)
    other = Entrance(Way((A,)))
    play.ask("a", 0)
    new, _ = play.sessions.open("b", other, ME, False, 0, Random(1))
    assert ended(play.sessions.left(play.entrance, play.entrance.become(Way(())), 1)) == ["a"]
    assert play.sessions.find("b") is new


@pytest.mark.parametrize("answered", [False, True])
def test_what_was_asked_of_an_endpoint_that_leaves_may_be_answered_yet(answered: bool) -> None:
    play = Play(A, B, first=30, idle=120)
    one, _ = play.ask("x", 0)
    if answered:
        play.sessions.answered(one, 1)
        play.ask("x", 5)
    assert play.sessions.left(play.entrance, play.entrance.become(Way((B,))), 20) == [one]
    assert (one.over, one.leaving) == (False, True)
    other, _ = play.ask("x", 20)
    assert other.endpoint == B
    assert len(play.sessions) == 2
    play.sessions.answered(other, 21)
    assert play.sessions.due == 50
    assert play.sessions.expired(49.9) == []
    assert play.sessions.expired(50) == [one]
    assert one.over
    assert (len(play.sessions), play.sessions.find("x")) == (1, other)


def test_who_has_been_silent_for_long_awaits_nothing_of_an_endpoint_that_leaves() -> None:
    play = Play(A, first=30, idle=120)
    one, _ = play.ask("x", 0)
    play.sessions.answered(one, 0)
    other, _ = play.ask("y", 1)
    play.sessions.answered(other, 1)
    assert play.sessions.left(play.entrance, play.entrance.become(Way(())), 30) == [one, other]
    assert (one.over, other.over) == (True, False)


def test_one_that_is_leaving_and_is_refused_speaks_against_nobody() -> None:
    play = Play(A, B)
    one, _ = play.ask("x", 0)
    play.sessions.left(play.entrance, play.entrance.become(Way((B,), demote=True)), 1)
    play.entrance.become(Way((A, B), demote=True))
    play.sessions.refused(one, 2)
    assert one.over
    assert {play.ask(name, 3)[0].endpoint for name in "xy"} == {A, B}
    assert play.entrance.tally.refused == 0


def test_those_that_are_leaving_make_room_first() -> None:
    play = Play(A, B, most=3)
    asked, _ = play.ask("asked", 0)  # at A, as is the third
    play.sessions.answered(play.ask("old", 0)[0], 0)
    play.ask("late", 1)
    play.sessions.left(play.entrance, play.entrance.become(Way((B,))), 2)
    assert play.ask("new", 3)[1] == ["asked"]
    assert asked.over
    assert play.ask("newer", 3)[1] == ["late"]
    assert play.ask("newest", 3)[1] == ["new"]
    assert len(play.sessions) == 3


def test_while_one_is_leaving_its_name_is_not_anothers() -> None:
    play = Play(A, most=10_000)
    ones = [play.ask(f"a {n}", 0)[0] for n in range(30)]
    play.sessions.left(play.entrance, play.entrance.become(Way(())), 1)
    play.entrance.become(Way((A,)))
    others = [play.ask(f"b {n}", 2)[0] for n in range(30)]
    ports = [one.port for one in (*ones, *others) if one.port]
    assert len(ports) == len(set(ports)) == 60


def test_a_refusal_ends_the_session_and_speaks_against_the_endpoint() -> None:
    play = Play(A, B)
    one, _ = play.ask("x", 0)
    play.sessions.refused(one, 1)
    assert one.over
    assert {play.ask(name, 2)[0].endpoint for name in "xyz"} == {B}
    assert play.entrance.tally.refused == 1


# --- what the endpoint sees -----------------------------------------------------------------------


class Always:
    """Chance that always says the same."""

    def random(self) -> float:
        return 0.9999


def test_no_two_sessions_of_a_client_look_the_same_to_an_endpoint() -> None:
    play, other = Play(A, most=10_000), Entrance(Way((A,)))
    ports = Counter[int]()
    for n in range(2000):
        one, _ = play.sessions.open(n, (play.entrance, other)[n % 2], ME, False, 0, Random(n))
        assert one is not None
        ports[one.port] += 1
    any_ = ports.pop(0, 0)
    assert any_ < 10  # there was none to be found soon: then the kernel looks for one
    assert set(ports.values()) == {1}
    assert set(ports) <= set(PORTS)


def test_a_port_is_free_again_and_the_same_one_does_for_another_endpoint() -> None:
    play = Play(A, B)
    rng = Always()
    opened = [play.sessions.open(n, play.entrance, ME, False, 0, rng)[0] for n in range(4)]
    first = [one.port for one in opened if one is not None]
    assert first == [PORTS[-1], PORTS[-1], PORTS[0], PORTS[0]]
    assert opened[0] is not None
    play.sessions.end(opened[0])
    again, _ = play.sessions.open("x", play.entrance, ME, False, 0, rng)
    assert again is not None
    assert again.port == PORTS[-1]


@pytest.mark.parametrize(
    ("endpoint", "hidden", "seen"),
    [
        (A, False, True),
        (A, True, False),
        (Endpoint(A.ip, 1, near=Neighbours(host_prefix(ME))), False, False),
        (Endpoint(A.ip, 1, near=Neighbours(host_prefix(A.ip))), False, True),
        (Endpoint(ME, 53), False, False),
    ],
    ids=["kept", "hidden", "near", "near others", "hairpin"],
)
def test_who_sees_the_client(endpoint: Endpoint, hidden: bool, seen: bool) -> None:
    play = Play(endpoint)
    one, _ = play.sessions.open("x", play.entrance, ME, hidden, 0, Random(1))
    assert one is not None
    assert one.as_client == seen
    assert one.port in PORTS


# --- laws -------------------------------------------------------------------------------------------


class Table(RuleBasedStateMachine):
    """Whatever happens: never more than the bound, each ends in time, none that is found has an endpoint that
    is gone, and the sessions that were given out and not taken back are those that are there."""

    MOST, FIRST, IDLE = 4, 3.0, 5.0

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.rng = Random(3)
        self.entrances = [Entrance(Way(ENDPOINTS[:2])), Entrance(Way(ENDPOINTS[1:4], balance="leastconn"))]
        self.sessions = Sessions(self.MOST, self.FIRST, self.IDLE)
        self.there: dict[Session, float] = {}
        self.leaving: dict[Session, float] = {}

    def gone(self, some: list[Session]) -> None:
        for one in some:
            assert one.over
            del (self.leaving if one.leaving else self.there)[one]

    @rule(client=st.integers(0, 6), way=st.integers(0, 1), hidden=st.booleans())
    def ask(self, client: int, way: int, hidden: bool) -> None:
        one = self.sessions.find((client, way))
        if one is not None:
            self.sessions.asked(one, self.now)
        else:
            one, gone = self.sessions.open((client, way), self.entrances[way], ME, hidden, self.now, self.rng)
            self.gone([] if gone is None else [gone])
        if one is None:
            assert not self.entrances[way].way.endpoints
        else:
            self.there[one] = self.now

    @precondition(lambda self: self.leaving)
    @rule(data=st.data(), how=st.sampled_from(["refused", "end"]))
    def end_early(self, data: st.DataObject, how: str) -> None:
        one = data.draw(st.sampled_from([*self.leaving]))
        self.gone([self.sessions.refused(one, self.now) if how == "refused" else self.sessions.end(one)])

    @precondition(lambda self: self.there)
    @rule(data=st.data(), how=st.sampled_from(["answered", "answered", "refused", "end"]))
    def speak(self, data: st.DataObject, how: str) -> None:
        one = data.draw(st.sampled_from([*self.there]))
        if how == "answered":
            self.sessions.answered(one, self.now)
            self.there[one] = self.now
        elif how == "refused":
            self.gone([self.sessions.refused(one, self.now)])
        else:
            self.gone([self.sessions.end(one)])

    @rule(way=st.integers(0, 1), which=st.sets(st.sampled_from(ENDPOINTS)))
    def become(self, way: int, which: set[Endpoint]) -> None:
        entrance = self.entrances[way]
        gone = entrance.become(Way(tuple(sorted(which)), balance=entrance.way.balance))
        for one in self.sessions.left(entrance, gone, self.now):
            assert one.endpoint in gone
            if one.over:
                assert self.there[one] + self.FIRST <= self.now
                self.gone([one])
            else:
                del self.there[one]
                self.leaving[one] = self.now

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        due = self.sessions.due <= self.now
        overdue = self.sessions.expired(self.now)
        assert due == bool(overdue)
        self.gone(overdue)

    @invariant()
    def holds(self) -> None:
        sessions = self.sessions
        assert len(sessions) == len(self.there) + len(self.leaving) <= self.MOST
        both = (*self.there, *self.leaving)
        names = [(one.as_client, one.port, one.endpoint.ip) for one in both if one.port]
        assert len(names) == len(set(names))
        for one, heard in self.there.items():
            assert sessions.find(one.key) is one
            assert one.endpoint in one.entrance.way.endpoints
            assert self.now < heard + (self.IDLE if one.answered else self.FIRST)
            assert sessions.due <= heard + (self.IDLE if one.answered else self.FIRST)
        for one, at in self.leaving.items():
            assert sessions.find(one.key) is not one
            assert self.now < at + self.FIRST
            assert sessions.due <= at + self.FIRST
        for entrance in self.entrances:
            for endpoint in ENDPOINTS:
                count = sum(one.entrance is entrance and one.endpoint == endpoint for one in self.there)
                assert sessions.at(entrance, endpoint) == entrance.balancer.load(endpoint) == count

    def teardown(self) -> None:
        self.gone(self.sessions.expired(self.now + max(self.FIRST, self.IDLE)))
        assert not self.there
        assert not self.leaving
        assert len(self.sessions) == 0
        assert self.sessions.due == inf
        assert not any(each.balancer.load(one) for each in self.entrances for one in ENDPOINTS)


TestTable = Table.TestCase
TestTable.settings = settings(max_examples=50, stateful_step_count=30)
