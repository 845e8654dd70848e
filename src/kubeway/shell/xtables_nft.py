"""
The xtables plane where iptables keeps its rules in nf_tables: read and written over netlink, as
iptables-nft itself would have written them.

A write is one transaction over both families and all tables: all of it or nothing. It does not ask that
nothing else was committed since the last read, as the tables are everybody's, and on a busy node a large
write would never find such a moment. What a change builds on and does not find makes the kernel refuse it.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Final

from kubeway.errors import Refused, Stale
from kubeway.planes.xtables.describe import describe
from kubeway.planes.xtables.letgo import let_go, wait
from kubeway.planes.xtables.lift import handles, is_unhooked, lift, places
from kubeway.planes.xtables.lower import (
    Parcels,
    Place,
    Standing,
    asked,
    clear,
    jumps_for,
    lower,
    place_of,
    removable,
)
from kubeway.planes.xtables.objects import FAMILIES, Rules
from kubeway.planes.xtables.ours import is_lent
from kubeway.planes.xtables.sets import named
from kubeway.planes.xtables.shared import asked_for
from kubeway.planes.xtables.text import TABLES
from kubeway.program.program import Change, Key, Object, Origin
from kubeway.shell.netlink import NetlinkSocket
from kubeway.shell.netlink import describe as failure
from kubeway.shell.ruleset import generation
from kubeway.shell.xt_sets import XtSets
from kubeway.wire import nftables as wire
from kubeway.wire.netlink import Ack, Message, text
from kubeway.wire.nfnetlink import Batch

_READ_TRIES: Final = 10
_UNHOOKED: Final = "somebody made a chain of this name that is at no hook, as iptables' own is; remove it"


class XtNftPlane:
    """Our chains and jumps in the tables of iptables-nft of this network namespace.

    `origin` tells whose an object is, for errors; `program` what is wanted: jumps are written anew from
    it. Needs CAP_NET_ADMIN.
    """

    def __init__(
        self,
        origin: Callable[[Key], Origin | None] = lambda key: None,
        program: Mapping[Key, Object] | None = None,
    ) -> None:
        self.origin = origin
        self.program: Mapping[Key, Object] = {} if program is None else program
        self._socket = NetlinkSocket()
        self._sets = XtSets()

    def close(self) -> None:
        self._socket.close()
        self._sets.close()

    def generation(self) -> int:
        """The number of the ruleset's last commit, by anybody (7 us)."""
        return generation(self._socket)

    # --- reading ----------------------------------------------------------------------

    async def read(self) -> dict[Key, Object]:
        return await asyncio.to_thread(self.read_now)

    def read_now(self) -> dict[Key, Object]:
        """All our chains and jumps, but for what is shared with others and not wanted.

        Raises Stale if others keep changing the ruleset meanwhile. Others may commit between one chain and
        the next: whoever wants to know asks for the generation before and after.
        """
        return asked_for(lift(self._messages(), self._sets), self.program)

    def _messages(self) -> Iterator[Message]:
        """Chains, and the rules of those that may have ours.

        They are asked for chain by chain: of a whole table the kernel tells 70 rules at a time, and for
        each such part counts from the first rule anew, which for 80,000 takes longer than all else.
        """
        for family in FAMILIES:
            chains = self._dump(wire.get(wire.GETCHAIN, family))
            yield from chains
            for place in places(chains):
                yield from self._rules(place)

    def _rules(self, place: Place) -> list[Message]:
        family, table, chain = place
        return self._dump(wire.get(wire.GETRULE, family, text(1, table), text(2, chain)))

    def _dump(self, request: bytes) -> list[Message]:
        """All answers to a dump, untorn: taken in before they are looked at, as that is over sooner."""
        for _ in range(_READ_TRIES):
            try:
                return self._socket.dump(request)
            except Stale:
                continue
        raise Stale("the ruleset changed while it was read, ten times in a row")

    def _standing(self, place: Place, wanted: Mapping[Key, Object]) -> Standing:
        """What is in one chain; None if there is no such chain. Refused if packets cannot come by."""
        family, table, chain = place
        names = text(1, table) + text(3, chain)
        try:
            told = self._socket.ask(wire.get(wire.GETCHAIN, family, names, dump=False))
            if is_unhooked(told, place):
                raise Refused(_UNHOOKED, errno.EEXIST, f"rules in chain {chain} of table {table} ({family})")
            return handles(self._rules(place), place, wanted, self._sets)
        except Refused as error:
            if error.errno != errno.ENOENT:
                raise
            return None

    # --- writing ----------------------------------------------------------------------

    async def write(self, changes: Sequence[Change]) -> None:
        # In a thread, however few they are: for each commit the kernel follows all jumps of the table,
        # which takes 60 ms where it has 80,000 rules. What is wanted may change meanwhile.
        wanted = jumps_for(changes, self.program)
        await asyncio.to_thread(self._write, changes, wanted)

    def write_now(self, changes: Sequence[Change]) -> None:
        """Make the changes in one transaction, or raise Refused, Stale or Lost.

        A set that no rule asks for any more is free when this returns.
        """
        self._write(changes, jumps_for(changes, self.program))

    def _write(self, changes: Sequence[Change], wanted: Mapping[Key, Object]) -> None:
        standing = {place: self._standing(place, wanted) for place in asked(changes)}
        parcels = lower(changes, standing, wanted, self._sets)
        if not parcels.messages:
            return
        batch = Batch(parcels.messages)
        acks = [ack for ack in self._socket.transact(batch.data) if ack.errno]
        if acks:
            self._raise(parcels, batch, acks)
        self._let_go(changes)

    def _let_go(self, changes: Iterable[Change]) -> None:
        """Wait until the sets that no rule asks for any more can be destroyed, as they can be at once in the
        legacy tables."""
        if place := let_go(changes):
            self._socket.transact(Batch(wait(place)).data)

    def _raise(self, parcels: Parcels, batch: Batch, acks: list[Ack]) -> None:
        ack = min(acks, key=lambda a: a.sequence)
        words = failure(ack)
        index = batch.index_of(ack.sequence)
        if index is None:
            raise Refused(words, ack.errno, "the transaction")
        change = parcels.changes[index]
        if ack.errno == errno.ENOENT:
            words = self._missing_set(change) or words
        origin = self.origin(change.key)
        raise Refused(words, ack.errno, describe(change, self.program), str(origin or ""), change.key)

    def _missing_set(self, change: Change) -> str:
        """Which set the kernel did not find; it says no more than that something is not there."""
        missing = next((name for name in named(change.new) if self._sets.index(name) is None), None)
        return "" if missing is None else f"there is no set {missing}"

    def remove(self) -> list[str]:
        """Take all our chains and jumps away; returns the tables that held some, like "ip nat".

        A chain to which rules of others still lead is emptied and stays; the one that is `lent` keeps its
        rules then. A shared chain is not touched.
        """
        objects = asked_for(lift(self._messages(), self._sets), {})
        kept: set[Place] = set()
        while True:
            jumps = {place_of(key) for key in objects if key.kind == "jump"}
            parcels = clear(objects, {place: self._standing(place, {}) for place in jumps}, kept)
            batch = Batch(parcels.messages)
            acks = [ack for ack in self._socket.transact(batch.data) if ack.errno] if parcels.messages else []
            if not acks:
                break
            indexes = [batch.index_of(ack.sequence) for ack in acks if ack.errno == errno.EBUSY]
            busy = {place_of(parcels.changes[index].key) for index in indexes if index is not None}
            if len(indexes) < len(acks) or busy <= kept:
                self._raise(parcels, batch, acks)
            kept |= busy
        self._let_go(Change("del", key, objects[key], None) for key in removable(objects))
        gone = [key for key in removable(objects) if key.kind != "rules" or objects[key] != Rules()]
        tables = {key.name[:2] for key in gone if not _stays(key, kept)}
        return [f"{family} {table}" for family in FAMILIES for table in TABLES if (family, table) in tables]


def _stays(key: Key, kept: Container[Place]) -> bool:
    place = place_of(key)
    return place in kept and (key.kind == "chain" or is_lent(place.table, place.chain))
