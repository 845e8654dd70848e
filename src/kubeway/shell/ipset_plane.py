"""
The ipset plane: our sets and their entries in this network namespace, over netlink.

A write is many messages in one buffer, and not atomic. What cannot be done in place (a set that is full,
or of another type than is wanted) is done beside it: another set is filled with all that the program
has for it, then the two are swapped, so that rules which name the set find either.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple, NoReturn

from kubeway.errors import KubewayError, Refused
from kubeway.planes.ipset.describe import describe, show_set
from kubeway.planes.ipset.lift import lift, lift_set
from kubeway.planes.ipset.lower import Parcel, create, fill, lower
from kubeway.planes.ipset.objects import BITMAP_PORT, PLANE, TYPES, Set, set_key
from kubeway.planes.ipset.ours import OWN, is_ours
from kubeway.program.program import Change, Key, Object
from kubeway.shell.aloof import aloof
from kubeway.shell.netlink import NetlinkSocket
from kubeway.shell.netlink import describe as failure
from kubeway.shell.sightings import Sightings
from kubeway.wire import ipset as wire
from kubeway.wire.netlink import Ack
from kubeway.wire.nfnetlink import number

# Where a set is made that takes another one's place. It is ours, so one that was left behind goes as any
# other that is not wanted.
_BESIDE: Final = f"{OWN}ANEW"

# What it takes for done: what is gone is gone; and a set in whose use somebody else is, is not ours to take.
_GONE: Final = frozenset({errno.ENOENT})
_GONE_OR_KEPT: Final = _GONE | {wire.IPSET_ERR_BUSY}


class Problem(NamedTuple):
    """A change that was refused."""

    change: Change
    number: int
    words: str


def probe() -> str:
    """What this kernel lacks for the sets that a program may want, in a sentence; "" if nothing.

    Asks for each type, which has the kernel load it; changes nothing. Needs CAP_NET_ADMIN.
    """
    try:
        with NetlinkSocket() as netlink:
            for name in TYPES:
                for family in (0,) if name == BITMAP_PORT else (4, 6):
                    try:
                        netlink.ask(wire.get_type(name, family))
                    except Refused as error:
                        return _lacking(name, error)
    except KubewayError as error:
        return f"sets cannot be asked for: {error}"
    return ""


def _lacking(type: str, error: Refused) -> str:
    if error.errno == wire.IPSET_ERR_FIND_TYPE:
        module = f"ip_set_{type.replace(':', '_').replace(',', '')}"
        return f"this kernel has no sets of type {type} (module {module})"
    if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
        return "this kernel has no sets of addresses (module ip_set)"
    return f"sets cannot be asked for: {error.words}"


class IpsetPlane:
    """The sets of this network namespace that are ours, or that `program` names. `program` is what is wanted;
    `ours` says which they are, of all there are.

    Needs CAP_NET_ADMIN, and where any is wanted a kernel that has them (`probe`).
    """

    def __init__(
        self, program: Mapping[Key, Object] | None = None, ours: Callable[[str], bool] = is_ours
    ) -> None:
        self.program: Mapping[Key, Object] = {} if program is None else program
        self._is_ours = ours
        self._socket = NetlinkSocket()
        self._sightings: Sightings[dict[str, tuple[Set, int]]] = Sightings()

    def close(self) -> None:
        self._socket.close()

    def generation(self) -> int:
        """Another number after sets of ours came, went, or changed in their number of entries, by whomever.

        It moves by one for all that happened between two looks. Who exchanges entries is not noticed.
        """
        seen = {
            name: (lift_set(header), header.elements)
            for name, header in self._headers()
            if self._is_visible(name, header)
        }
        return self._sightings.look(seen)

    # --- reading ----------------------------------------------------------------------

    async def read(self) -> dict[Key, Object]:
        return await asyncio.to_thread(self.read_now)

    def read_now(self) -> dict[Key, Object]:
        """All our sets hold. Of sets that are not ours no more is looked at than what they are called.

        Of one that is to be made anew neither is what it holds: that goes with it.
        """
        objects: dict[Key, Object] = {}
        for name, header in self._headers():
            if not self._is_visible(name, header):
                continue
            key, found = set_key(name), lift_set(header)
            if self.program.get(key, found) != found:
                objects[key] = found
                continue
            try:
                objects.update(lift(self._socket.stream(wire.list_set(name))))
            except Refused as error:
                if error.errno != errno.ENOENT:  # it went meanwhile
                    raise
        return objects

    def _headers(self) -> list[tuple[str, wire.Header]]:
        """All sets there are. A kernel that has no sets holds none, which is well if none is wanted."""
        try:
            answers = [wire.read(answer) for answer in self._socket.stream(wire.list_headers())]
        except Refused:
            if any(key.plane == PLANE for key in self.program):
                raise
            return []
        return [(name, header) for name, header, _ in answers if header is not None]

    def _is_visible(self, name: str, header: wire.Header) -> bool:
        # One that is not wanted, holds nothing, and is named by somebody's rules cannot be taken away, and
        # does nothing: it is left to them.
        if set_key(name) in self.program:
            return True
        return self._is_ours(name) and not (header.references and not header.elements)

    # --- writing ----------------------------------------------------------------------

    async def write(self, changes: Sequence[Change]) -> None:
        await aloof(self.write_now, changes)

    def write_now(self, changes: Sequence[Change]) -> None:
        """Make the changes. After Refused those before it were made, and of those after it some.

        Where a set is made anew, it holds what the program has for it, whatever the changes say.
        """
        for rigid, run in groupby(changes, key=_changes_set):
            if rigid:
                for change in run:
                    self._anew(change, change.new, ())
            else:
                self._make(list(run))

    def _make(self, changes: list[Change]) -> None:
        full: dict[str, Change] = {}
        problem: Problem | None = None
        for parcel, ack in self._tell(lower(changes)):
            for found in self._problems(parcel, ack):
                if found.number == wire.IPSET_ERR_NO_ROOM:
                    full.setdefault(found.change.key.name[0], found.change)
                else:
                    problem = problem or found
        for change in full.values():
            self._anew(change, self._wanted(change), changes)
        if problem is not None:
            self._refuse(*problem)

    def _problems(self, parcel: Parcel, ack: Ack) -> Iterator[Problem]:
        """What of a refused message is to be told, or to be done otherwise; the rest of it has been done."""
        change = parcel.changes[0]
        if change.key.kind == "set":
            if change.verb == "del":
                done = ack.errno in _GONE_OR_KEPT
            else:
                done = ack.errno == errno.EEXIST and self._is_there(change)
        elif ack.errno == errno.ENOENT:  # there is no set
            done = change.verb == "del"
        elif change.verb != "del" and ack.errno == wire.IPSET_ERR_NO_ROOM:
            done = False
        elif len(parcel.changes) > 1:
            for single, answer in self._tell(parcel.singly()):
                yield from self._problems(single, answer)
            return
        else:
            # What a bitmap has no room for is not in it.
            done = change.verb == "del" and ack.errno == wire.IPSET_ERR_NO_ROOM
        if not done:
            yield Problem(change, ack.errno, _words(ack))

    def _is_there(self, change: Change) -> bool:
        """Whether a set that could not be made is there, with other room or extensions."""
        name = change.key.name[0]
        return any(found == name and lift_set(header) == change.new for found, header in self._headers())

    def _wanted(self, change: Change) -> Set:
        """The set of an entry that found no room, as the program has it, or else as it is."""
        key = set_key(change.key.name[0])
        found = self.program.get(key) or next(
            (lift_set(header) for name, header in self._headers() if name == key.name[0]), None
        )
        if not isinstance(found, Set):
            self._refuse(change, errno.ENOENT, "the set is gone")
        return found

    # --- making anew ------------------------------------------------------------------

    def _anew(self, change: Change, wanted: Set, others: Sequence[Change]) -> None:
        """Put a new set in the place of the one that `change` is about, with room for all of its entries.

        Its entries are the program's, and those that `others` add.
        """
        name = change.key.name[0]
        inside = {
            key: None
            for key in (*self.program, *(other.key for other in others if other.verb != "del"))
            if key.plane == PLANE and key.kind != "set" and key.name[0] == name
        }
        self._ask(change, wire.destroy(_BESIDE), but=_GONE)
        self._ask(change, create(_BESIDE, wanted, len(inside)))
        try:
            problem = self._fill(inside)
            self._put(change, name, wanted)
        finally:
            self._tell([Parcel(_BESIDE, wire.destroy(_BESIDE), ())])
        if problem is not None:
            self._refuse(*problem)

    def _fill(self, keys: Iterable[Key]) -> Problem | None:
        """Fill the set that is beside; returns the first of what was refused."""
        first: Problem | None = None
        for parcel, _ in self._tell(fill(_BESIDE, keys)):
            for single, answer in self._tell(parcel.singly()):
                first = first or Problem(single.changes[0], answer.errno, _words(answer))
        return first

    def _put(self, change: Change, name: str, wanted: Set) -> None:
        """Give the set that is beside its name: by swapping, if there is one like it; else by renaming."""
        number = self._ask(
            change,
            wire.swap(name, _BESIDE),
            but=frozenset({errno.ENOENT, wire.IPSET_ERR_TYPE_MISMATCH}),
        )
        if not number:
            return
        number = self._ask(change, wire.destroy(name), but=_GONE_OR_KEPT)
        if number == wire.IPSET_ERR_BUSY:
            held = f"it is {show_set(change.old)}" if isinstance(change.old, Set) else "it is of another type"
            self._refuse(
                change,
                number,
                f"{held}, and rules name it: take those away, and it is made anew as {show_set(wanted)}",
            )
        self._ask(change, wire.rename(_BESIDE, name))

    # --- the conversation -------------------------------------------------------------

    def _ask(self, change: Change, request: bytes, but: frozenset[int] = frozenset()) -> int:
        """Send a request on behalf of `change`; returns 0 or, if it is one of `but`, what was refused."""
        for _, ack in self._tell([Parcel(change.key.name[0], request, (change,))]):
            if ack.errno not in but:
                self._refuse(change, ack.errno, _words(ack))
            return ack.errno
        return 0

    def _tell(self, parcels: Sequence[Parcel]) -> list[tuple[Parcel, Ack]]:
        """Send the messages; returns those that were refused, in order. After one, the others are tried."""
        if not parcels:
            return []
        first = self._socket.reserve(len(parcels))
        acks = self._socket.transact(number([parcel.data for parcel in parcels], first))
        return [(parcels[ack.sequence - first], ack) for ack in acks if ack.errno]

    def _refuse(self, change: Change, number: int, words: str) -> NoReturn:
        raise Refused(words, number, describe(change, self.program), key=change.key)

    # --- taking away ------------------------------------------------------------------

    def remove(self) -> list[str]:
        """Take away our sets that nothing names, with all that is in them; returns what they were called."""
        names = sorted(name for name, _ in self._headers() if self._is_ours(name))
        kept = {parcel.name for parcel, _ in self._tell([Parcel(n, wire.destroy(n), ()) for n in names])}
        return [name for name in names if name not in kept]


def _changes_set(change: Change) -> bool:
    return change.verb == "set" and change.key.kind == "set"


def _words(ack: Ack) -> str:
    return wire.ERRORS.get(ack.errno) or failure(ack)
