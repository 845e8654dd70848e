"""
A directory of manifests as the cluster's state: what its files hold is what the API server serves.

A file is one object, a list of objects, or several YAML documents. Of an object in two
files the last path counts. A file that cannot be read keeps its last good content.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kubeway.errors import BadInput
from kubeway.model.yamls import documents
from tests.apiserver.history import KINDS, Doc
from tests.apiserver.server import ApiServer

SUFFIXES = (".yaml", ".yml", ".json")

Identity = tuple[str, str, str]


class Directory:
    """Put into the API server by every `look`; objects it was given otherwise are left alone."""

    def __init__(self, path: Path, api: ApiServer) -> None:
        self._path = path
        self._api = api
        self._read: dict[str, tuple[tuple[int, ...], list[Doc]]] = {}
        self._known: dict[Identity, Doc] = {}

    def look(self) -> None:
        """Read what changed since the last look. OSError if the directory cannot be listed."""
        with os.scandir(self._path) as entries:
            files = {e.name: _signature(e) for e in entries if _is_manifest(e)}
        if {name: seen for name, (seen, _) in self._read.items()} == files:
            return
        for name, seen in files.items():
            was = self._read.get(name)
            if was is None or was[0] != seen:
                self._read[name] = seen, self._load(name, was[1] if was else [])
        for name in self._read.keys() - files.keys():
            del self._read[name]
        self._apply()

    def _load(self, name: str, last: list[Doc]) -> list[Doc]:
        try:
            data = (self._path / name).read_bytes()
            return [doc for each in documents(data, name) for doc in _objects(each)]
        except (OSError, BadInput):
            return last

    def _apply(self) -> None:
        now = {_identity(doc): doc for name in sorted(self._read) for doc in self._read[name][1]}
        for identity in self._known.keys() - now.keys():
            self._api.delete(*identity)
        for identity, doc in now.items():
            if self._known.get(identity) != doc:
                self._api.put(doc)
        self._known = now


def _is_manifest(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(SUFFIXES) and not entry.name.startswith(".") and entry.is_file()


def _signature(entry: os.DirEntry[str]) -> tuple[int, ...]:
    stat = entry.stat()
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size


def _objects(value: Any) -> Iterator[Doc]:
    """The objects of a document, those of kinds that are served."""
    if isinstance(value, list):
        for item in value:
            yield from _objects(item)
    elif isinstance(value, dict) and str(value.get("kind", "")).endswith("List"):
        yield from _objects(value.get("items") or [])
    elif isinstance(value, dict) and value.get("kind") in KINDS:
        yield value


def _identity(doc: Doc) -> Identity:
    meta = doc["metadata"]
    namespaced = KINDS[doc["kind"]].namespaced
    return doc["kind"], (meta.get("namespace") or "default") if namespaced else "", meta["name"]
