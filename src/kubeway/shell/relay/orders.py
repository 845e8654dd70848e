"""
What the control process and a worker tell each other: values, and the frames they travel in.

A frame is its length, 4 bytes in network order, and a value in MessagePack. What a worker is to begin with
lies in a file that it inherits (`Begin`, then any number of `Put`); everything after that comes over a
socket, and is answered with its number.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Struct, field

from kubeway.errors import Malformed
from kubeway.planes.relay.datagram import IDLE
from kubeway.planes.relay.entrance import Tally
from kubeway.planes.relay.objects import Endpoint, List, Way
from kubeway.planes.relay.stream import Limits

Name = tuple[List, bytes, int, int]
"""A way's: list, address, protocol, port; as in its key."""


class Given(Struct, frozen=True):
    """A listening socket that is inherited. `keeps`: endpoints may see who the client is.

    The rest is for who comes after (`handover.Kept`).
    """

    fd: int
    proto: int
    list_: List
    keeps: bool
    ip: bytes = b""
    port: int = 0
    transparent: bool = True
    member: int = 0


class Papers(Struct, frozen=True):
    """What a worker needs to take over from those before and hand over to those after: descriptors, all of
    them inherited (`handover`, `generation`).

    `memories`: one for each worker, by number, to put down who stays where; `telling`: closed when that is
    done, at which `told` ends. `lives`: each ends with the worker of that number, who has `life`, once the
    control process has ended. `past_told`, `past`: `told` and `memories` of those before, -1 and none if
    there were none, or it is over.
    """

    desk: int
    taken: int
    over: int
    begun: int
    told: int
    telling: int
    memories: list[int]
    lives: list[int]
    life: int
    past_told: int = -1
    past: list[int] = []

    @property
    def all(self) -> list[int]:
        some = [self.desk, self.taken, self.over, self.begun, self.told, self.telling, self.life]
        return [fd for fd in (*some, *self.memories, *self.lives, self.past_told, *self.past) if fd >= 0]


class Begin(Struct, frozen=True, tag=True):
    """`start`: where turns begin, at least 0 and less than 1. `idle`: of UDP's `Sessions`. `mark`: of the
    packets that are sent, but for TCP's to clients, whose listener has it.

    With `papers` the listeners are those of all `workers`, of whom this is `number`, and it takes nobody
    before it is told by these; `turn`: which of the shares of UDP ports is theirs.
    """

    listeners: list[Given]
    limits: Limits
    start: float = 0.0
    idle: float = IDLE
    number: int = 0
    workers: int = 1
    turn: int = 0
    papers: Papers | None = None
    mark: int = 0


class Put(Struct, frozen=True, tag=True):
    """These ways are so from now on; None: there is no such way any more."""

    number: int
    ways: list[tuple[Name, Way | None]]


class Ask(Struct, frozen=True, tag=True):
    """To be told what was carried; `ways`: of each way, too."""

    number: int
    ways: bool = True


class Stop(Struct, frozen=True, tag=True):
    """Take nobody any more; end with the last connection, or after so many seconds."""

    number: int
    patience: float = 0.0


class Done(Struct, frozen=True, tag=True):
    """It is so. `number` 0: what was to begin with is."""

    number: int


class Sums(Struct, frozen=True):
    """What was carried by all ways there were, and how much is going on.

    `tcp`, `udp`: of the protocol; `shed`: connections and sessions let go for lack of descriptors or of room;
    `lost`: datagrams that went nowhere. These only grow. `open`: connections now, and of them those
    `waiting`; `sessions`: of UDP, now.
    """

    tcp: Tally = field(default_factory=Tally)
    udp: Tally = field(default_factory=Tally)
    shed: int = 0
    lost: int = 0
    open: int = 0
    waiting: int = 0
    sessions: int = 0

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        tcp, udp = Tally(), Tally()
        for one in (self, other):
            tcp.add(one.tcp)
            udp.add(one.udp)
        return Sums(
            tcp,
            udp,
            self.shed + other.shed,
            self.lost + other.lost,
            self.open + other.open,
            self.waiting + other.waiting,
            self.sessions + other.sessions,
        )


class Told(Struct, frozen=True, tag=True):
    """What this worker has carried since it was started: by the ways that there are, if that was asked for,
    and by all."""

    number: int
    tallies: list[tuple[Name, Tally]]
    sums: Sums


Known = list[tuple[bytes, Endpoint, float]]
"""Clients, where each was sent last, and when, by the monotonic clock, which all processes share."""

Memory = list[tuple[Name, Known]]
"""What the balancers of a worker have in mind, of ways with affinity."""

Order = Begin | Put | Ask | Stop
Answer = Done | Told

write_memory = msgspec.msgpack.Encoder().encode
_read_memory = msgspec.msgpack.Decoder(Memory).decode

_encode = msgspec.msgpack.Encoder().encode
_LENGTH = 4
_MOST = 1 << 28  # bytes; of more a frame is not one of ours


def frame(value: Order | Answer) -> bytes:
    data = _encode(value)
    return len(data).to_bytes(_LENGTH, "big") + data


def read_memory(data: bytes) -> Memory:
    """Malformed."""
    try:
        return _read_memory(data) if data else []
    except msgspec.MsgspecError as error:
        raise Malformed(f"memory of a worker: {error}") from error


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
