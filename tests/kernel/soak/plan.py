"""
What each connection of a soak does, and the bytes it carries: all of it follows from the seed.

Both sides know it, so each checks for itself what it gets, byte by byte. Nothing is sent or awaited here.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from struct import Struct
from typing import Final, NamedTuple

# Its length is none of the relay's units: what is lost or doubled does not fit.
PERIOD: Final = 1_000_003
MOST: Final = 1 << 18
"""Bytes that are read or written in one go."""

ASK, HALF, EARLY, BOTH, SLOW, RESET, LEAVE, MUTE, WHO = range(9)
KINDS: Final = {
    ASK: "the client asks, the endpoint answers, the client ends",
    HALF: "the client has said all and ends its side; then it is answered",
    EARLY: "the endpoint says all and ends its side; then the client says its part",
    BOTH: "both speak at the same time, and each ends its side",
    SLOW: "the endpoint answers bit by bit",
    RESET: "the endpoint resets in the middle",
    LEAVE: "the client resets in the middle",
    MUTE: "the client ends without a word",
    WHO: "the endpoint says which one it is",
}
_WEIGHTS: Final = {ASK: 40, HALF: 17, EARLY: 12, BOTH: 10, SLOW: 4, RESET: 7, LEAVE: 7, MUTE: 3}
_SIZES: Final = ((70, 1, 2_000), (25, 2_000, 100_000), (5, 100_000, 500_000))
"""Of a hundred connections so many have sizes from here to there."""
_LARGE: Final = 15_000_000
_LARGEST: Final = 100_000_000

_HEAD: Final = Struct(">IBQQ")
HEAD: Final = _HEAD.size


class Talk(NamedTuple):
    """`up`: bytes from the client, after the head; `down`: to it."""

    number: int
    kind: int
    up: int
    down: int

    def head(self) -> bytes:
        return _HEAD.pack(*self)

    def __str__(self) -> str:
        return f"connection {self.number} ({KINDS[self.kind]}; {self.up} bytes up, {self.down} down)"


def read_head(data: bytes) -> Talk:
    return Talk(*_HEAD.unpack(data))


def talks(seed: int, count: int) -> Iterator[Talk]:
    """Most are small. Few are large, and one each way is as large as it gets."""
    rng = Random(seed)
    kinds = rng.choices([*_WEIGHTS], [*_WEIGHTS.values()], k=count)
    for number, kind in enumerate(kinds):
        up, down = (_size(rng) for _ in range(2))
        if number % (count // 8) == count // 16:
            up, down = rng.sample((up, _LARGE), 2)
        elif number in (count // 3, count // 2):
            kind, up, down = ASK, *rng.sample((up, _LARGEST), 2)
            if number == count // 2:
                kind, up, down = BOTH, _LARGEST, _LARGEST
        yield Talk(number, kind, up, down)


def _size(rng: Random) -> int:
    ((_, low, high),) = rng.choices(_SIZES, [share for share, _, _ in _SIZES])
    return rng.randint(low, high)


class Text:
    """The bytes of one direction of one connection, piece by piece."""

    def __init__(self, block: memoryview, talk: Talk, down: bool) -> None:
        self._block = block
        self._start = (talk.number * 7919 + down * 104_729) % PERIOD
        self._size = talk.down if down else talk.up
        self.at = 0

    @property
    def left(self) -> int:
        return self._size - self.at

    def take(self, most: int = MOST) -> memoryview:
        """What comes next; nothing at the end."""
        start = (self._start + self.at) % PERIOD
        piece = self._block[start : start + min(most, self.left)]
        self.at += len(piece)
        return piece

    def matches(self, data: memoryview) -> bool:
        """Whether that is what comes next."""
        return len(data) <= self.left and self.take(len(data)) == data


def block(seed: int) -> memoryview:
    """What all texts are cut from: bytes by chance, and enough of them again to go on from any place."""
    noise = Random(seed).randbytes(PERIOD)
    return memoryview(noise + noise[:MOST])
