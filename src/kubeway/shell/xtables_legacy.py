"""
The xtables plane in the kernel's legacy tables, read by iptables-save and written by iptables-restore.

The kernel takes a table's changes all or none, but tables and families are written one after the other;
so after Refused some may have been made. Which commits there are, and in which order, says
`planes/xtables/restore.py`; here they are loaded, and who is to blame is found where the tool does not say.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Final

from kubeway import records
from kubeway.errors import Lost, Refused, Unsupported
from kubeway.planes.xtables.describe import describe
from kubeway.planes.xtables.objects import FAMILIES, KINDS, PLANE, Family, TableName, rules_key
from kubeway.planes.xtables.ours import is_lent
from kubeway.planes.xtables.restore import (
    Commit,
    Standing,
    commits,
    standing,
)
from kubeway.planes.xtables.shared import asked_for
from kubeway.planes.xtables.text import parse
from kubeway.program.program import Change, Key, Object, Origin
from kubeway.shell import xtables_lock, xtables_tools
from kubeway.shell.privilege import need_net_raw
from kubeway.shell.sightings import Sightings
from kubeway.shell.xt_sets import XtSets
from kubeway.shell.xtables_kernel import KernelTables, Table, digest, present, sets
from kubeway.shell.xtables_tools import Failure
from kubeway.wire.ip_tables import Info

_PATIENCE: Final = 5.0
_TIMEOUT: Final = 300.0
_LONG: Final = 1.0

# Where the tool gives a line and no reason, which is the usual: what a command of that kind fails for.
_REASONS: Final[dict[str, tuple[int, str]]] = {
    "-A": (errno.ENOENT, "no such chain"),
    "-D": (errno.ENOENT, "no such rule"),
    "-F": (errno.ENOENT, "no such chain"),
    "-I": (errno.EINVAL, "no such chain, or no such place in it"),
    "-N": (errno.EEXIST, "the chain is there already"),
    "-X": (errno.EBUSY, "the chain is in use, or not there"),
    "COMMIT": (errno.EINVAL, "the kernel does not take it, and does not say why (dmesg may)"),
}


class XtLegacyPlane:
    """Our chains and jumps in the legacy tables of this network namespace, of both families.

    `origin` tells whose an object is; `program` is what is wanted: our jumps in a chain are put in order
    by it, and errors name its objects. `patience`: seconds for which the xtables lock is waited for, by
    us, and once more by the tool. `timeout`: seconds after which a tool is stopped.

    Unsupported if the tools are missing, or what they need beside CAP_NET_ADMIN: CAP_NET_RAW, and a lock
    that may be opened.
    """

    verify: Final = 60.0
    """Seconds after which to read without a doubt, too, as `generation` does not see everything."""

    def __init__(
        self,
        origin: Callable[[Key], Origin | None] = lambda key: None,
        program: Mapping[Key, Object] | None = None,
        record: records.Recorder = lambda record: None,
        *,
        patience: float = _PATIENCE,
        timeout: float = _TIMEOUT,
    ) -> None:
        need_net_raw()
        xtables_lock.need()
        self.origin = origin
        self.program: Mapping[Key, Object] = {} if program is None else program
        self._record, self._patience, self._timeout = record, patience, timeout
        self._tools = {family: xtables_tools.find(family) for family in FAMILIES}
        self._kernel = KernelTables()
        self._sets = XtSets()
        self._untold: list[records.Record] = []
        """What a thread found: recorders may belong to the loop, so it is told there."""
        self._usable: dict[Family, bool] = {}
        """Whether the kernel has tables of a family: of those that were to be written."""
        self._sightings: Sightings[dict[Table, Info]] = Sightings()
        self._read: dict[Table, tuple[bytes, dict[Key, Object]]] = {}
        """What was last read of each table, and by what it can be told to be the same."""

    def close(self) -> None:
        self._kernel.close()
        self._sets.close()

    def generation(self) -> int:
        """Grows when a table's count of entries, its size or its hooks change; by one for a write of ours.

        Not seen: a rule in the place of another of the same size, and rules in another order. A read sees
        them, and it is cheap where nothing changed (`read_now`). Some 100 us.
        """
        return self._sightings.look(self._kernel.all_info())

    # --- reading ----------------------------------------------------------------------

    async def read(self) -> dict[Key, Object]:
        return await asyncio.to_thread(self.read_now)

    def read_now(self) -> dict[Key, Object]:
        """All our chains and jumps, but for what is shared with others and not wanted.

        Tables that nobody uses are not there, and do not appear by this. One in which nothing has
        changed since the last read is not told and parsed again: a tenth of the cost. A family that the
        kernel does not have is told to hold what is wanted.
        """
        objects: dict[Key, Object] = {}
        for family in FAMILIES:
            if self._usable.get(family, True):
                for table in present(family):
                    objects.update(self._read_table(family, table))
            else:
                # It cannot hold anything, and nothing can be done about it.
                objects.update((key, one) for key, one in self.program.items() if _is_of(key, family))
        return asked_for(objects, self.program)

    def _read_table(self, family: Family, table: TableName) -> dict[Key, Object]:
        same = self._digest(family, table)
        known = self._read.get((family, table))
        if known is not None and known[0] == same:
            return known[1]
        objects = parse(self._save(family, table), family)
        wanted = self.program.get
        # What is as it should be is kept once, not twice.
        for key, thing in objects.items():
            if (held := wanted(key)) == thing:
                objects[key] = held
        # What others changed in between, and then took back, would be found there at each read to come.
        if self._digest(family, table) == same:
            self._read[family, table] = same, objects
        return objects

    def _digest(self, family: Family, table: TableName) -> bytes:
        """By this the table can be told to be the same, but for its counters.

        Its entries know sets by number, which after a rule and its set may have become another set's.
        """
        entries = self._kernel.entries(family, table)[1]
        names = [f"{index} {self._sets.name(index)}" for index in sets(entries)]
        return digest(family, entries) + "\n".join(names).encode(errors="surrogateescape")

    def _save(self, family: Family, table: str) -> str:
        save = self._tools[family].save
        told, failed = xtables_tools.run([save, "-t", table], timeout=self._timeout)
        if failed:
            raise Lost(f"{save} -t {table} failed: {failed.words or f'status {failed.status}'}")
        return told

    # --- writing ----------------------------------------------------------------------

    async def write(self, changes: Sequence[Change]) -> None:
        # Looked up here, where nobody changes the program meanwhile.
        before = standing(changes, self.program)
        try:
            await asyncio.to_thread(self._write, changes, before)
        finally:
            self._tell()

    def write_now(self, changes: Sequence[Change]) -> None:
        """Make the changes, or raise Refused or Lost: then some of them may have been made."""
        try:
            self._write(changes, standing(changes, self.program))
        finally:
            self._tell()

    def _tell(self) -> None:
        untold, self._untold = self._untold, []
        for one in untold:
            self._record(one)

    def _write(self, changes: Sequence[Change], before: Standing) -> None:
        made = commits(changes, before)
        if not made:
            return
        self.generation()  # what others did until now is not taken for ours
        held = self._sightings.seen or {}
        made = {family: some for family, some in made.items() if self._is_usable(family, some[0].table)}
        for family, some in made.items():
            self._load_all(family, some)
        seen = self._kernel.all_info()
        # If not, somebody else wrote meanwhile, or what we changed was not what we thought it was.
        alone = _as_expected(held, seen, [commit for some in made.values() for commit in some])
        self._sightings.wrote(seen, alone=alone)

    def _is_usable(self, family: Family, table: TableName) -> bool:
        """Whether the kernel has tables of this family, judged by this one, which is about to be written.

        Asked once, by the tool, as it may load a module. A node may do without IPv6; Unsupported if it
        has no iptables either.
        """
        known = self._usable.get(family)
        if known is None:
            save = self._tools[family].save
            _, failed = xtables_tools.run([save, "-t", table], timeout=self._timeout)
            if failed and family == "ip":  # not for good: a module may be loaded yet
                raise Unsupported(f"{save}: {failed.words or f'status {failed.status}'}")
            if failed:
                self._untold.append(records.FamilyAbsent(family, failed.words))
            known = self._usable[family] = failed is None
        return known

    def _load_all(self, family: Family, some: Sequence[Commit]) -> None:
        while some and (failed := self._load(family, some)):
            at, number = 0, failed.line or 0
            while at < len(some) - 1 and number > len(some[at].lines):
                number -= len(some[at].lines)
                at += 1
            self._blame(some[at], number, failed)
            some = some[at + 1 :]

    def _blame(self, commit: Commit, number: int, failed: Failure) -> None:
        """Raise what is to blame for this line. If nobody is, the commit is in force, made in pieces."""
        if not 1 < number <= len(commit.lines):
            raise self._unusable(commit, failed)
        owner, line = commit.owners[number - 1], commit.lines[number - 1]
        if owner is None and len(commit.changes) == 1:
            owner = commit.changes[0]
        if owner is not None:
            raise self._refused(owner, failed, line)
        # The kernel refused the table and names no rule; but the piece that has it is refused again.
        for half in commit.halves():
            self._load_all(commit.family, [half])

    def _refused(self, change: Change, failed: Failure, line: str) -> Refused:
        number, reason = _REASONS.get(line.partition(" ")[0], (failed.errno, ""))
        if failed.words:
            number, reason = failed.errno, failed.words
        origin = self.origin(change.key)
        return Refused(reason, number, describe(change, self.program), str(origin or ""), change.key)

    def _unusable(self, commit: Commit, failed: Failure) -> Refused | Unsupported:
        """The table as a whole cannot be written."""
        words = failed.words or f"iptables-restore ended with status {failed.status}"
        if failed.errno == errno.EPERM:
            return Refused(words, failed.errno, f"table {commit.table} ({commit.family})")
        return Unsupported(f"table {commit.table} ({commit.family}) cannot be written: {words}")

    def _load(self, family: Family, some: Sequence[Commit]) -> Failure | None:
        """Load the commits in order, up to the first that fails."""
        tools = self._tools[family]
        pieces = chain.from_iterable(commit.pieces() for commit in some)
        with xtables_lock.locked(self._patience) as (had, seconds):
            self._untold.append((records.LockWaitedLong if seconds > _LONG else records.LockWaited)(seconds))
            if not tools.waits:
                # A tool that does not know the lock is run under ours.
                if not had:
                    raise self._locked()
                return xtables_tools.run([tools.restore, "--noflush"], pieces, self._timeout)[1]
        words = [tools.restore, "-w", str(max(1, round(self._patience))), "--noflush"]
        failed = xtables_tools.run(words, pieces, self._timeout)[1]
        if failed and failed.status == xtables_tools.LOCKED:
            raise self._locked()
        return failed

    def _locked(self) -> Lost:
        holder = xtables_lock.holder()
        by = f" by {holder}" if holder else ""
        return Lost(f"the xtables lock {xtables_lock.path()} is held{by}, for over {self._patience:g} s")

    # --- removing ---------------------------------------------------------------------

    def remove(self) -> list[str]:
        """Take our chains and jumps away; returns the tables that had any, as `ip nat`.

        A chain that others still jump to is emptied and left, but the one that is `lent` keeps its rules.
        What is shared with others is not touched.
        """
        held: list[str] = []
        try:
            for family in FAMILIES:
                for table in present(family):
                    if objects := asked_for(parse(self._save(family, table), family), {}):
                        before = self._digest(family, table)
                        self._remove(objects)
                        if self._digest(family, table) != before:
                            held.append(f"{family} {table}")
        finally:
            self._tell()
        return held

    def _remove(self, objects: Mapping[Key, Object]) -> None:
        changes = {key: Change("del", key, old, None) for key, old in objects.items()}
        while True:
            ordered = [one for kind in reversed(KINDS) for one in changes.values() if one.key.kind == kind]
            try:
                return self._write(ordered, standing(ordered, {}))
            except Refused as error:
                key = error.key
                if not isinstance(key, Key) or key.kind != "chain" or key not in changes:
                    raise
                # Emptied it is all the same, if nobody counts on what it does.
                del changes[key]
                emptied = rules_key(*key.name)
                changes[emptied] = Change("del", emptied, objects.get(emptied), None)
                if is_lent(*key.name[1:]):
                    del changes[emptied]


def _is_of(key: Key, family: Family) -> bool:
    return key.plane == PLANE and key.name[0] == family


def _as_expected(before: Mapping[Table, Info], after: Mapping[Table, Info], some: Iterable[Commit]) -> bool:
    """Whether the tables grew by what these commits add, and by nothing else."""
    grown: Counter[Table] = Counter()
    for commit in some:
        grown[commit.family, commit.table] += commit.growth
    return all(
        after[table].entries - before[table].entries == count
        for table, count in grown.items()
        if table in before and table in after
    )
