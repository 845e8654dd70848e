"""
What the cluster holds, and how it came to that: the part of an API server that remembers.

One number grows with every change of any object: the resource version. A change is kept
until it falls out of its resource's window or history is compacted; what is asked of a
time before that is `Expired`. Knows no requests, no selectors, no sockets.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

Doc = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name, which is also the order of a list."""

BORN: Final = "2026-07-01T00:00:00Z"
"""When objects were made that do not say: all at once, so that none of them is older than another."""


class Resource(NamedTuple):
    """A kind of object, where it is served, and whether it lives in namespaces."""

    plural: str
    kind: str
    group: str  # "" for the core
    version: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"


RESOURCES: Final = {
    r.plural: r
    for r in (
        Resource("services", "Service", "", "v1", True),
        Resource("nodes", "Node", "", "v1", False),
        Resource("endpointslices", "EndpointSlice", "discovery.k8s.io", "v1", True),
        Resource("servicecidrs", "ServiceCIDR", "networking.k8s.io", "v1", False),
    )
}
KINDS: Final = {r.kind: r for r in RESOURCES.values()}


class Expired(Exception):
    """That far back nothing is known any more; `oldest` is how far one can go."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"too old resource version: {asked} ({oldest})")


class Version:
    """An object as it was from one resource version on. It is never changed."""

    __slots__ = ("_json", "doc", "key", "rv")

    def __init__(self, key: Key, doc: Doc, rv: int) -> None:
        self.key = key
        self.doc = doc
        self.rv = rv
        self._json: dict[bool, bytes] = {}

    def json(self, *, typed: bool) -> bytes:
        """The object on the wire. In a list its kind is not said again: `typed` false."""
        if typed not in self._json:
            doc = self.doc
            if not typed:
                doc = {name: value for name, value in doc.items() if name not in ("kind", "apiVersion")}
            self._json[typed] = msgspec.json.encode(doc)
        return self._json[typed]


class Change(NamedTuple):
    """What was (None: nothing), and what is since `rv` (None: nothing)."""

    rv: int
    old: Version | None
    new: Version | None


class History:
    """All resources; `window` changes of each are remembered. It tells `news` of every change."""

    def __init__(self, window: int, news: Callable[[], None]) -> None:
        # A cluster has had a life before anybody looks at it.
        self.rv = 1000
        self._window = window
        self._news = news
        self._objects: dict[str, dict[Key, Version]] = {name: {} for name in RESOURCES}
        self._changes: dict[str, list[Change]] = {name: [] for name in RESOURCES}
        self._oldest = dict.fromkeys(RESOURCES, self.rv)

    def put(self, doc: Mapping[str, Any]) -> Doc:
        """Make the object, or give it this content; as it is now. What changes nothing is no change."""
        resource = KINDS[doc["kind"]]
        fresh = copy.deepcopy(dict(doc))
        meta = fresh["metadata"] = dict(fresh["metadata"])
        fresh["apiVersion"] = resource.api_version
        if resource.namespaced:
            meta["namespace"] = meta.get("namespace") or "default"
        key = (meta.get("namespace", ""), meta["name"])
        old = self._objects[resource.plural].get(key)
        was = old.doc["metadata"] if old else {}
        meta["uid"] = was.get("uid", f"{self.rv + 1:08x}-0000-4000-8000-000000000000")
        meta["creationTimestamp"] = meta.get("creationTimestamp") or was.get("creationTimestamp", BORN)
        if old:
            meta["resourceVersion"] = was["resourceVersion"]
            if fresh == old.doc:
                return old.doc
        self.rv += 1
        meta["resourceVersion"] = str(self.rv)
        self._change(resource.plural, key, Version(key, fresh, self.rv))
        return fresh

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """KeyError if it is not there."""
        resource = KINDS[kind]
        key = (namespace if resource.namespaced else "", name)
        if key not in self._objects[resource.plural]:
            raise KeyError(f"{kind} {'/'.join(key)}")
        self.rv += 1
        self._change(resource.plural, key, None)

    def compact(self) -> None:
        """Forget all that was before now."""
        for plural in RESOURCES:
            self._changes[plural].clear()
            self._oldest[plural] = self.rv

    def get(self, plural: str, key: Key) -> Version | None:
        return self._objects[plural].get(key)

    def all(self) -> Iterator[Version]:
        for objects in self._objects.values():
            yield from objects.values()

    def at(self, plural: str, rv: int) -> list[Version]:
        """The objects as they were at `rv`, in order. Raises Expired."""
        objects = dict(self._objects[plural])
        for change in reversed(self.since(plural, rv)):
            touched = change.new or change.old
            assert touched is not None
            objects.pop(touched.key, None)
            if change.old is not None:
                objects[touched.key] = change.old
        return [objects[key] for key in sorted(objects)]

    def oldest(self, plural: str) -> int:
        """How far back one can go."""
        return self._oldest[plural]

    def since(self, plural: str, rv: int) -> list[Change]:
        """What changed after `rv`. Raises Expired."""
        if rv < self._oldest[plural]:
            raise Expired(rv, self._oldest[plural])
        changes = self._changes[plural]
        return changes[bisect_right(changes, rv, key=lambda change: change.rv) :]

    def _change(self, plural: str, key: Key, new: Version | None) -> None:
        objects, changes = self._objects[plural], self._changes[plural]
        changes.append(Change(self.rv, objects.get(key), new))
        if new is None:
            del objects[key]
        else:
            objects[key] = new
        if len(changes) > self._window:
            gone = len(changes) - self._window
            self._oldest[plural] = changes[gone - 1].rv
            del changes[:gone]
        self._news()
