"""
Manifests on disk as the source of objects, followed as they change.

A path is a file, or a directory of which the files named *.yaml, *.yml and *.json
are read (not those beginning with a dot, not those of directories in it). What
the kernel tells of a directory is only taken as a hint to look again; looking is
one `stat` of each file, and what has another signature than before is read anew.
So a file that is written in place, replaced, renamed, or reached by a symlink that
swings over (as kubelet does with ConfigMaps) is all the same.

A file that cannot be read or parsed keeps its last good content in force, and so
does a directory that cannot be listed. A file that is gone takes its objects along.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from kubeway.errors import BadInput, BadObject
from kubeway.machines.books import Books, Turn
from kubeway.model.objects import KubeObject
from kubeway.model.parse import parse_manifest
from kubeway.model.store import Store
from kubeway.records import (
    ManifestBad,
    ManifestGone,
    ManifestRead,
    ObjectBad,
    ObjectTwice,
    Recorder,
    WatchFailed,
)

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

_SUFFIXES: Final = (".yaml", ".yml", ".json")
# Parsing more than this takes long enough that health checks should not wait for it.
_BIG: Final = 256 * 1024
# Several changes that come within _STEP of each other are one; a writer in many
# small steps is waited for, but not longer than _MOST. Milliseconds.
_STEP: Final = 40
_MOST: Final = 500
# However the hints fail (a network file system gives none), files are looked at this often.
_LOOK_EVERY_MS: Final = 5000
_POLL_EVERY: Final = 1.0


class Signature(NamedTuple):
    """When this is the same, so is the file's content."""

    device: int
    inode: int
    changed: int
    size: int


class Content(NamedTuple):
    objects: list[KubeObject]
    bad: list[BadObject]


class Found(NamedTuple):
    """What a look found: files that are to be read, and files that are no more."""

    read: dict[str, Signature]
    gone: list[str]


class Manifests:
    """The files of some paths, folded into a store."""

    def __init__(self, paths: Sequence[str], store: Store, record: Recorder) -> None:
        """BadInput if a path is not there: starting with nothing would take all rules away."""
        for path in paths:
            if not os.path.exists(path):
                raise BadInput(f"--manifests: {path}: no such file or directory")
        self._paths = [os.path.normpath(path) for path in paths]
        self._lists = frozenset(path for path in self._paths if os.path.isdir(path))
        self._store = store
        self._record = record
        self._books: Books[KubeObject] = Books(lambda obj: obj.identity)
        self._seen: dict[str, Signature] = {}
        self._unreadable: set[str] = set()
        # What was reported of paths that cannot be looked at, and of bad objects: each is told once.
        self._troubles: dict[str, str] = {}
        self._bad_objects: dict[str, set[str]] = {}

    def load(self) -> bool:
        """Look and read; whether the store changed."""
        found = self.look()
        changed = [self._gone(path) for path in found.gone]
        changed += [self._take(path, seen, read(path)) for path, seen in found.read.items()]
        return any(changed)

    async def reload(self) -> bool:
        """As `load`, but the loop goes on while big files are read."""
        found = self.look()
        changed = [self._gone(path) for path in found.gone]
        for path, seen in found.read.items():
            content = await asyncio.to_thread(read, path) if seen.size > _BIG else read(path)
            changed.append(self._take(path, seen, content))
        return any(changed)

    def look(self) -> Found:
        """Compare what is on disk with what was read."""
        now: dict[str, Signature] = {}
        unknown: list[str] = []
        for path in self._paths:
            try:
                now.update(files(path))
                self._troubles.pop(path, None)
            except OSError as error:
                if isinstance(error, FileNotFoundError) and path not in self._lists:
                    continue  # a file may go; a directory that goes was rather unmounted
                self._trouble(path, error.strerror or str(error))
                unknown.append(path)
        fresh = {path: seen for path, seen in now.items() if self._seen.get(path) != seen}
        known = self._books.paths() | self._seen.keys()
        missing = (path for path in known if path not in now)
        gone = [p for p in missing if not any(p == path or _within(p, path) for path in unknown)]
        return Found(fresh, sorted(gone))

    @property
    def unread(self) -> list[str]:
        """Files that are there but were never read with success: what is in them nobody knows."""
        return sorted(path for path in self._unreadable if path not in self._books.paths())

    def directories(self) -> dict[str, tuple[int, int]]:
        """Where changes of the files show, each with what tells it from one put in its place."""
        wanted: set[str] = set()
        for path in self._paths:
            wanted.add(path if os.path.isdir(path) else os.path.dirname(path) or ".")
        for path in self._seen:
            if os.path.islink(path):
                wanted.add(os.path.dirname(os.path.realpath(path)))
        there = {}
        for path in sorted(wanted):
            try:
                stat = os.stat(path)
            except OSError:
                continue
            there[path] = (stat.st_dev, stat.st_ino)
        return there

    def _take(self, path: str, seen: Signature, content: Content | BadInput | None) -> bool:
        if content is None:
            return False  # gone or changed while it was read: the next look will see
        self._seen[path] = seen
        if isinstance(content, BadInput):
            self._unreadable.add(path)
            self._record(ManifestBad(path, str(content), self._books.count(path)))
            return False
        self._unreadable.discard(path)
        bad = {str(error): error for error in content.bad}
        for words in bad.keys() - self._bad_objects.get(path, set()):
            self._record(ObjectBad(bad[words].where, bad[words].problem))
        self._bad_objects[path] = set(bad)
        self._record(ManifestRead(path, len(content.objects)))
        return self._turn(self._books.page(path, content.objects))

    def _gone(self, path: str) -> bool:
        self._seen.pop(path, None)
        self._unreadable.discard(path)
        self._bad_objects.pop(path, None)
        if path not in self._books.paths():
            return False
        self._record(ManifestGone(path, self._books.count(path)))
        return self._turn(self._books.gone(path))

    def _turn(self, turn: Turn[KubeObject]) -> bool:
        for shadowed in turn.shadowed:
            self._record(ObjectTwice(str(shadowed.identity), shadowed.path, shadowed.holder))
        changed = False
        for gone in turn.dropped:
            changed |= self._store.drop(gone)
        for obj in turn.put:
            changed |= self._store.put(obj)
        return changed

    def _trouble(self, path: str, words: str) -> None:
        if self._troubles.get(path) != words:
            self._troubles[path] = words
            kept = sum(self._books.count(p) for p in self._books.paths() if p == path or _within(p, path))
            self._record(ManifestBad(path, f"{path}: {words}", kept))


def _within(path: str, directory: str) -> bool:
    return os.path.dirname(path) == directory


def files(path: str) -> dict[str, Signature]:
    """The manifests of a path, in order of their names. OSError if it cannot be listed."""
    if not os.path.isdir(path):
        return {path: signature(os.stat(path))}
    found: dict[str, Signature] = {}
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith(".") or not entry.name.endswith(_SUFFIXES):
                continue
            try:
                # Through symlinks: a ConfigMap's files are links to ..data/name.
                if entry.is_file():
                    found[entry.path] = signature(entry.stat())
            except FileNotFoundError:
                continue  # gone since it was listed
    return found


def signature(stat: os.stat_result) -> Signature:
    # Not the time of modification, which whoever writes may set as he likes (cp -p, rsync -t).
    return Signature(stat.st_dev, stat.st_ino, stat.st_ctime_ns, stat.st_size)


def read(path: str) -> Content | BadInput | None:
    """A file's content, or what is wrong with it; None if it changed while it was read."""
    try:
        with open(path, "rb") as file:
            before = signature(os.fstat(file.fileno()))
            data = file.read()
            if signature(os.fstat(file.fileno())) != before:
                return None
        return Content(*parse_manifest(data, path))
    except FileNotFoundError:
        return None
    except OSError as error:
        return BadInput(f"{path}: {error.strerror or error}")
    except BadInput as error:
        return error


async def follow(manifests: Manifests, changed: Callable[[], None], record: Recorder) -> None:
    """Keep the store as the files are, until cancelled; `changed` is called when it changed."""
    stop = threading.Event()
    polling = False
    try:
        while True:
            watched = manifests.directories()
            watch = _watch(watched, None if polling else record)
            polling = watch is None
            # Looked at only now, when the watch is there: nothing can slip in between.
            while True:
                if await manifests.reload():
                    changed()
                if watch is None:
                    await asyncio.sleep(_POLL_EVERY)
                    break
                if manifests.directories() != watched:
                    watch.close()
                    break
                await asyncio.to_thread(watch.watch, _MOST, _STEP, _LOOK_EVERY_MS, stop)
    finally:
        stop.set()  # the thread that waits for hints sees it within a step


def _watch(directories: dict[str, tuple[int, int]], record: Recorder | None) -> RustNotify | None:
    """Ask the kernel to tell of changes; None if it has no more watches to give."""
    # The class under watchfiles' iterators (documented as its Rust backend): only with it is
    # the watch there at a known moment. Imported late, as the first sync does not need it.
    from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

    try:
        return RustNotify(list(directories), False, False, 0, False, True)
    except FileNotFoundError:
        return None  # one of them went just now; the next attempt knows
    except (OSError, WatchfilesRustInternalError) as error:
        if record is not None:
            record(WatchFailed(f"the kernel does not watch files ({error})"))
        return None
