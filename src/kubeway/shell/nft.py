"""
The nftables plane: our table of each family, read and written over netlink.

A write is one transaction: all of it or nothing. Its begin carries the generation
last seen, so a commit of somebody else in between makes the kernel refuse it
(`Stale`) rather than apply it to what we have not looked at.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from kubeway.errors import KubewayError, Refused, Stale
from kubeway.planes.nft.describe import describe
from kubeway.planes.nft.lift import lift
from kubeway.planes.nft.lower import Parcel, lower, lower_rule
from kubeway.planes.nft.objects import (
    TABLE,
    Alien,
    Expr,
    Family,
    Hash,
    Immediate,
    Rule,
    Set,
    SocketTransparent,
    Tproxy,
    table_key,
)
from kubeway.program.program import Change, Key, Object, Origin
from kubeway.shell.aloof import aloof
from kubeway.shell.netlink import NetlinkSocket
from kubeway.shell.netlink import describe as failure
from kubeway.shell.ruleset import generation
from kubeway.wire import nftables as wire
from kubeway.wire.netlink import Ack, Message, fields, text
from kubeway.wire.nfnetlink import Batch

_FAMILIES: Final[tuple[Family, ...]] = ("ip", "ip6")
_READ_TRIES: Final = 10
_TRIED: Final = "tried"  # a chain that never comes to be


def probe_steering() -> str:
    """What is missing for rules that hand packets to sockets, in one sentence; "" if nothing is.

    Tried in a transaction that is checked and not made. Needs CAP_NET_ADMIN.
    """
    return _probe(
        {
            "tproxy": (Immediate(0, bytes(4)), Immediate(1, bytes(2)), Tproxy(0, 1)),
            "socket": (SocketTransparent(0),),
        }
    )


def probe_spreading() -> str:
    """As `probe_steering`, for rules that spread clients over workers."""
    return _probe({"hash": (Immediate(0, bytes(4)), Hash(0, 0, 4, 2, 1))})


def _probe(rules: Mapping[str, tuple[Expr, ...]]) -> str:
    """What is missing for these rules, by the names of the modules that they take."""
    begin = [wire.new_table("ip", TABLE, b""), wire.new_chain("ip", TABLE, _TRIED, None, 0, "", b"")]
    try:
        with NetlinkSocket() as netlink:
            for name, exprs in rules.items():
                tried = Batch([*begin, lower_rule("ip", _TRIED, Rule(exprs))], ends=False)
                for ack in netlink.transact(tried.data):
                    if ack.errno == errno.ENOENT:
                        return f"this kernel's nftables have no {name} (module nft_{name})"
                    if ack.errno:
                        return f"nftables do not take {name}: {failure(ack)}"
    except KubewayError as error:
        return f"nftables cannot be asked: {error}"
    return ""


class NftPlane:
    """The tables `ip kubeway` and `ip6 kubeway` of this network namespace.

    `origin` tells whose an object is and `program` what is wanted, both for errors
    only. Needs CAP_NET_ADMIN.
    """

    def __init__(
        self,
        origin: Callable[[Key], Origin | None] = lambda key: None,
        program: Mapping[Key, Object] | None = None,
    ) -> None:
        self.origin = origin
        self.program: Mapping[Key, Object] = {} if program is None else program
        self._socket = NetlinkSocket()
        # The generation that `read` or `write` last saw; None: write whatever it is.
        self._generation: int | None = None

    def close(self) -> None:
        self._socket.close()

    def generation(self) -> int:
        """The number of the ruleset's last commit, by anybody (7 us)."""
        return generation(self._socket)

    # --- reading ----------------------------------------------------------------------

    async def read(self) -> dict[Key, Object]:
        return await asyncio.to_thread(self.read_now)

    def read_now(self) -> dict[Key, Object]:
        """All our tables hold. Raises Stale if others keep changing the ruleset meanwhile."""
        for _ in range(_READ_TRIES):
            before = self.generation()
            try:
                objects = self._read_all()
            except Stale:
                continue
            if self.generation() == before:
                self._generation = before
                return objects
        raise Stale("the ruleset changed while it was read, ten times in a row")

    def _read_all(self) -> dict[Key, Object]:
        objects: dict[Key, Object] = {}
        for family in _FAMILIES:
            frame = lift(self._frame(family))
            if table_key(family) not in frame:
                continue
            if any(self._strangers(family)):
                frame[table_key(family)] = Alien("a table with objects or flowtables of others")
            # The elements are told apart by the sets they are in, so those come first.
            sets = [key for key, found in frame.items() if isinstance(found, Set) and not found.dynamic]
            objects.update(lift(self._with_elements(family, sets)))
            objects.update(frame)
        return objects

    def _frame(self, family: Family) -> Iterator[Message]:
        ours = text(1, TABLE)
        for number in (wire.GETTABLE, wire.GETSET, wire.GETCHAIN, wire.GETRULE):
            attributes = (ours,) if number in (wire.GETSET, wire.GETRULE) else ()
            try:
                yield from self._socket.dump(wire.get(number, family, *attributes))
            except Refused as error:
                if error.errno != errno.ENOENT:
                    raise

    def _strangers(self, family: Family) -> Iterator[Message]:
        for number in (wire.GETOBJ, wire.GETFLOWTABLE):
            for message in self._socket.dump(wire.get(number, family, text(1, TABLE))):
                if bytes(fields(message.body[4:]).get(1, b"")) == TABLE.encode() + b"\0":
                    yield message

    def _with_elements(self, family: Family, sets: Sequence[Key]) -> Iterator[Message]:
        yield from self._socket.dump(wire.get(wire.GETSET, family, text(1, TABLE)))
        for key in sets:
            name = str(key.name[1])
            yield from self._socket.dump(wire.get(wire.GETSETELEM, family, text(1, TABLE), text(2, name)))

    # --- writing ----------------------------------------------------------------------

    async def write(self, changes: Sequence[Change]) -> None:
        await aloof(self.write_now, changes)

    def write_now(self, changes: Sequence[Change]) -> None:
        """Make the changes in one transaction, or raise Refused, Stale or Lost."""
        parcels = lower(changes)
        if not parcels:
            return
        expected = self._generation
        batch = Batch([parcel.data for parcel in parcels], expected)
        self._generation = None
        acks = [ack for ack in self._socket.transact(batch.data) if ack.errno]
        if acks:
            self._raise(parcels, batch, acks)
        self._generation = None if expected is None else expected + 1

    def _raise(self, parcels: list[Parcel], batch: Batch, acks: list[Ack]) -> None:
        if any(ack.errno == errno.ERESTART for ack in acks):
            raise Stale("the ruleset was changed since it was last read")
        ack = min(acks, key=lambda a: a.sequence)
        words = failure(ack)
        index = batch.index_of(ack.sequence)
        if index is None:
            raise Refused(words, ack.errno, "the transaction")
        change = parcels[index].culprit(ack.offset)
        origin = self.origin(change.key)
        said = describe(change, self.program)
        raise Refused(words, ack.errno, said, str(origin or ""), change.key)

    def remove(self) -> list[str]:
        """Take both tables away; returns the families that had one."""
        held = [family for family in _FAMILIES if table_key(family) in lift(self._frame(family))]
        self._generation = None
        self.write_now([Change("del", table_key(family), None, None) for family in held])
        return list(held)
