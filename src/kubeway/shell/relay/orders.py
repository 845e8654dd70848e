"""
What the control process and a worker tell each other: values, and the frames they travel in.

A frame is its length, 4 bytes in network order, and a value in MessagePack. What a worker is to begin with
lies in a file that it inherits (`Begin`, then any number of `Put`); everything after that comes over a
socket, and is answered with its number.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from kubeway.errors import Malformed
from kubeway.planes.relay.datagram import IDLE
from kubeway.planes.relay.entrance import Tally
from kubeway.planes.relay.objects import List, Way
from kubeway.planes.relay.stream import Limits

Name = tuple[List, bytes, int, int]
"""A way's: list, address, protocol, port; as in its key."""


class Given(Struct, frozen=True):
    """A listening socket that is inherited. `keeps`: endpoints may see who the client is."""

    fd: int
    proto: int
    list_: List
    keeps: bool


class Begin(Struct, frozen=True, tag=True):
    """`start`: where turns begin, at least 0 and less than 1. `idle`: of UDP's `Sessions`, whose ports are
    every `workers`th, from the `number`th on: no two workers look the same to an endpoint."""

    listeners: list[Given]
    limits: Limits
    start: float = 0.0
    idle: float = IDLE
    number: int = 0
    workers: int = 1


class Put(Struct, frozen=True, tag=True):
    """These ways are so from now on; None: there is no such way any more."""

    number: int
    ways: list[tuple[Name, Way | None]]


class Ask(Struct, frozen=True, tag=True):
    """To be told what was carried."""

    number: int


class Stop(Struct, frozen=True, tag=True):
    """Take nobody any more; end with the last connection, or after so many seconds."""

    number: int
    patience: float = 0.0


class Done(Struct, frozen=True, tag=True):
    """It is so. `number` 0: what was to begin with is."""

    number: int


class Told(Struct, frozen=True, tag=True):
    """What this worker has carried since it was started. `open`: connections now; `shed`: those let go for
    lack of descriptors. `sessions`: of UDP, now; `lost`: datagrams that went nowhere."""

    number: int
    tallies: list[tuple[Name, Tally]]
    open: int
    shed: int
    sessions: int = 0
    lost: int = 0


Order = Begin | Put | Ask | Stop
Answer = Done | Told

_encode = msgspec.msgpack.Encoder().encode
_LENGTH = 4
_MOST = 1 << 28  # bytes; of more a frame is not one of ours


def frame(value: Order | Answer) -> bytes:
    data = _encode(value)
    return len(data).to_bytes(_LENGTH, "big") + data


class Frames:
    """Bytes in, values out; Malformed if they are not what the other side says."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Order] | msgspec.msgpack.Decoder[Answer]) -> None:
        self._decode = decoder.decode
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Order | Answer]:
        """Whatever is complete now."""
        self._bytes += data
        while len(self._bytes) >= _LENGTH:
            end = _LENGTH + int.from_bytes(self._bytes[:_LENGTH], "big")
            if end > _MOST:
                raise Malformed(f"a frame of {end} bytes")
            if len(self._bytes) < end:
                return
            data = bytes(self._bytes[_LENGTH:end])
            del self._bytes[:end]
            try:
                yield self._decode(data)
            except msgspec.MsgspecError as error:
                raise Malformed(f"frame of a worker: {error}") from error


def orders() -> Frames:
    """For a worker to read."""
    return Frames(msgspec.msgpack.Decoder(Order))


def answers() -> Frames:
    """For the control process to read."""
    return Frames(msgspec.msgpack.Decoder(Answer))
