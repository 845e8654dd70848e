"""The loop of a worker: rounds, timers, and handlers that fail."""

from __future__ import annotations

import os
import select
from _socket import AF_UNIX, SOCK_STREAM, socket, socketpair
from collections.abc import Callable, Iterator

import pytest

from kubeway.shell.relay.loop import LEVEL, Handler, Loop

Pair = tuple[socket, socket]


@pytest.fixture
def pairs() -> Iterator[Callable[[], Pair]]:
    made: list[socket] = []

    def make() -> Pair:
        pair = socketpair(AF_UNIX, SOCK_STREAM)
        made.extend(pair)
        return pair

    yield make
    for sock in made:
        sock.close()


class Later:
    def __init__(self, do: Callable[[float], None]) -> None:
        self.tick = do


def test_a_handler_that_raises_is_told_of_and_ends_nothing(
    pairs: Callable[[], Pair], capsys: pytest.CaptureFixture[str]
) -> None:
    crashed: list[Handler] = []
    loop = Loop(crashed.append)
    (a, b), (c, d) = pairs(), pairs()

    def fails(event: int) -> None:
        b.recv(1)
        raise ValueError("a slip")

    loop.watch(b.fileno(), fails, LEVEL)
    loop.watch(d.fileno(), lambda event: loop.stop(), LEVEL)
    loop.at(loop.now + 1.1, Later(lambda now: 1 / 0))  # type: ignore[arg-type, return-value]
    loop.at(loop.now + 1.2, Later(lambda now: print(c.send(b"x"))))
    a.send(b"x")
    loop.run()
    assert crashed == [fails]
    said = capsys.readouterr().err
    assert "a slip" in said
    assert "ZeroDivisionError" in said


def test_of_many_complaints_one_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    loop = Loop()
    for at in (0.0, 0.1, 0.2, 1.2):
        loop.at(loop.now + at, Later(lambda now: 1 / 0))  # type: ignore[arg-type, return-value]
    loop.at(loop.now + 1.3, Later(lambda now: loop.stop()))
    loop.run()
    said = capsys.readouterr().err
    assert said.count("ZeroDivisionError") == 2
    assert "2 before that" in said


def test_what_is_closed_in_a_round_is_not_taken_for_what_is_opened_in_it(pairs: Callable[[], Pair]) -> None:
    loop = Loop()
    (a, b), (c, d) = pairs(), pairs()
    number = d.fileno()
    wrong: list[int] = []
    opened: list[int] = []

    def first(event: int) -> None:
        # Both are ready in one round, whichever comes first closes the other and opens another one.
        other = d if loop.handlers.get(d.fileno()) else b
        loop.doom(other)
        opened.append(os.dup(0))
        loop.handlers[opened[0]] = wrong.append
        loop.stop()

    loop.watch(b.fileno(), first, LEVEL)
    loop.watch(number, first, LEVEL)
    a.send(b"x")
    c.send(b"x")
    loop.run()
    os.close(opened[0])
    assert (len(opened), wrong) == (1, [])
    assert b.fileno() == -1 or d.fileno() == -1


def test_timers_are_in_order_and_not_early() -> None:
    loop = Loop()
    began, ticks = loop.now, list[float]()

    def tick(now: float) -> None:
        ticks.append(now - began)
        if len(ticks) == 3:
            loop.stop()

    for due in (0.2, 0.0, 0.1):
        loop.at(began + due, Later(tick))
    loop.run()
    assert ticks == sorted(ticks)
    assert all(tick >= due for tick, due in zip(ticks, (0.0, 0.1, 0.2), strict=True))


def test_what_has_to_go_on_lets_others_have_their_turn(pairs: Callable[[], Pair]) -> None:
    loop = Loop()
    a, b = pairs()
    turns: list[str] = []

    def go_on() -> None:
        turns.append("again")
        if len(turns) < 3:
            loop.again(go_on)

    def event(event: int) -> None:
        turns.append("event")
        loop.stop()

    loop.watch(b.fileno(), event, LEVEL)
    a.send(b"x")
    loop.again(go_on)
    loop.run()
    assert turns == ["event", "again"]


class Watched:
    """An epoll that keeps in mind for how long it was asked to wait."""

    def __init__(self, real: select.epoll) -> None:
        self._real = real
        self.waits: list[float] = []
        self.register = real.register

    def poll(self, wait: float, most: int) -> list[tuple[int, int]]:
        self.waits.append(wait)
        return self._real.poll(wait, most)


@pytest.mark.parametrize("brisk", [True, False])
def test_what_comes_at_once_time_after_time_is_looked_for_and_else_slept_for(
    pairs: Callable[[], Pair], brisk: bool
) -> None:
    loop = Loop()
    loop._epoll = watched = Watched(loop._epoll)  # type: ignore[assignment]
    a, b = pairs()
    count = 0

    def event(event: int) -> None:
        nonlocal count
        b.recv(1)
        loop.brisk = brisk
        count += 1
        if count < 100:
            a.send(b"x")  # it is there before the next wait: no wait is long
        elif count == 100:
            watched.waits.append(-99)
            loop.at(loop.now + 0.1, Later(lambda now: print(a.send(b"x"))))
        else:
            loop.stop()

    loop.watch(b.fileno(), event, LEVEL)
    a.send(b"x")
    loop.run()
    before, after = watched.waits[:100], watched.waits[101:]
    assert (0 in before) == brisk
    # When nothing comes, there is an end to looking: then it sleeps, and begins anew to believe that it pays.
    slept = [at for at, wait in enumerate(after) if wait]
    assert slept
    assert not any(wait == 0 for wait in after[slept[0] :])
