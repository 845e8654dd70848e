"""What is handed over, and flags that are raised once; no packet is sent."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from kubeway.errors import Lost
from kubeway.shell.relay.flags import flag, hoist, is_flag, is_up
from kubeway.shell.relay.handover import VERSION, Hand, Heritage, Kept, ask, end, open_desk, serve

KEPT = Kept("cluster", True, bytes(4), 10801, True, 6, 0)


@contextmanager
def descriptors(count: int) -> Iterator[list[int]]:
    """So many, and none left open afterwards."""
    before = set(os.listdir("/proc/self/fd"))
    yield [flag() for _ in range(count)]
    assert set(os.listdir("/proc/self/fd")) <= before


def hand(count: int, version: int = VERSION, memories: int = 1) -> bytes:
    return msgspec.msgpack.encode(Hand(version, count, True, 2, memories, [KEPT]))


def test_a_flag_is_raised_by_one() -> None:
    one = flag()
    assert is_flag(one)
    assert not is_up(one)
    assert hoist(one)
    assert not hoist(one)
    assert is_up(one)
    os.close(one)


def test_what_is_no_flag_is_none() -> None:
    with open("/proc/self/comm") as file:
        assert not is_flag(file.fileno())


def test_what_is_handed_over_is_known() -> None:
    with descriptors(6) as some:
        heritage = Heritage(hand(6), some)
        assert [heritage.taken, heritage.over, heritage.desk, heritage.told] == some[:4]
        assert (heritage.memories, heritage.listeners) == ([some[4]], [(KEPT, some[5])])
        assert (heritage.led, heritage.turn, heritage.foreign) == (True, 2, "")
        heritage.close()


def test_of_another_version_three_are_understood() -> None:
    with descriptors(5) as some:
        data = msgspec.msgpack.encode({"version": 9, "descriptors": 5, "led": False, "other": "things"})
        heritage = Heritage(data, some)
        assert [heritage.taken, heritage.over, heritage.desk] == some[:3]
        assert heritage.listeners == heritage.memories == []
        assert heritage.foreign == f"it hands over as version 9, and this is version {VERSION}"
        heritage.close()


@pytest.mark.parametrize(
    ("data", "count", "said"),
    [
        (b"no", 4, "cannot be understood"),
        (hand(6), 5, "sent 5 descriptors and spoke of 6"),
        (hand(2), 2, "sent 2 descriptors"),
        (hand(6, memories=3), 6, "not what it says"),
        (hand(6, memories=-5), 6, "not what it says"),
        (
            msgspec.msgpack.encode({"version": VERSION, "descriptors": 4, "led": True}),
            4,
            "cannot be understood",
        ),
    ],
)
def test_what_cannot_be_understood_is_closed(data: bytes, count: int, said: str) -> None:
    with descriptors(count) as some, pytest.raises(Lost, match=said):
        Heritage(data, some)


def test_more_descriptors_than_go_into_one_message() -> None:
    name = f"kubeway-test-{os.getpid()}"
    desk = open_desk(name)
    some = [flag() for _ in range(450)]
    data = Hand(VERSION, 450, True, 0, 0, [KEPT] * 446)

    def answer() -> None:
        asked.wait(10)
        while not told.is_set():
            serve(desk, data, some)

    asked, told = threading.Event(), threading.Event()
    thread = threading.Thread(target=answer)
    thread.start()
    try:
        asked.set()
        heritage = ask(name)
        assert heritage is not None
        assert len(heritage.listeners) == 446
        heritage.close()
        assert not end(name, led=False)  # it is led
    finally:
        told.set()
        thread.join()
        desk.close()
        for one in some:
            os.close(one)
    assert ask(name) is None
