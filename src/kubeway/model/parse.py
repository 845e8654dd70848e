"""
Bytes to the cluster's objects: manifests (JSON or YAML, one document or many,
lists of objects) and single objects as the API sends them.

A file whose syntax is broken is the user's fault and is refused whole, with line
and column. An object that is broken, or a part of it, is told as a BadObject and
the others go on. Kinds that a proxy does not read are passed over.

JSON is fast because the items of a list stay bytes until their kind is known,
and are then decoded in C straight into `kubeway.model.api` shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw, Struct

from kubeway.errors import BadInput, BadObject
from kubeway.model import api
from kubeway.model.check import check
from kubeway.model.objects import KubeObject
from kubeway.model.yamls import documents, line_and_column

# A list may hold lists; nobody writes more than one inside another.
_MAX_LISTS: Final = 8
# Of the bad parts of one object this many are told.
_MAX_TOLD: Final = 5

_SHAPES: Final[dict[str, type[api.Shape]]] = {
    "Service": api.Service,
    "EndpointSlice": api.EndpointSlice,
    "Node": api.Node,
    "ServiceCIDR": api.ServiceCIDR,
}
# Others have kinds of the same name: Knative, too, has a Service.
_VERSIONS: Final[dict[str, tuple[str, ...]]] = {
    "Service": ("v1",),
    "EndpointSlice": ("discovery.k8s.io/v1",),
    "Node": ("v1",),
    "ServiceCIDR": ("networking.k8s.io/v1", "networking.k8s.io/v1beta1"),
}
_CLUSTER_WIDE: Final = ("Node", "ServiceCIDR")
_DOCUMENT: Final = "document {}"
_BYTE: Final = re.compile(r" \(byte (\d+)\)")


class _Head(Struct, rename="camel", gc=False):
    """What has to be known of an object to tell what it is."""

    kind: str | None = None
    api_version: str | None = None


class _Items(Struct, gc=False):
    items: list[Raw] | None = None


class _Values(Struct, gc=False):
    items: list[Any] | None = None


class _Names(Struct, gc=False):
    metadata: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_ITEMS: Final = msgspec.json.Decoder(_Items)
_ARRAY: Final = msgspec.json.Decoder(list[Raw])
_NAMES: Final = msgspec.json.Decoder(_Names)
_DECODERS: Final = {kind: msgspec.json.Decoder(shape) for kind, shape in _SHAPES.items()}


class Decoded(NamedTuple):
    """An object, None if it was refused or is of no kind we read; and what was wrong with it."""

    object: KubeObject | None
    problems: list[BadObject]


def parse_manifest(data: bytes, where: str) -> tuple[list[KubeObject], list[BadObject]]:
    """The objects of a manifest in their order, and what was wrong with others or with parts of them.

    `where` names the file. Raises BadInput if the file cannot be read.
    """
    reader = _Reader(where)
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] in (b"{", b"["):
        try:
            reader.json(text, "")
            return reader.objects, reader.problems
        except msgspec.DecodeError as bad:
            # Documents written as JSON but set apart as in YAML, which all JSON is.
            if b"\n---" not in text:
                raise _broken_json(data, text, str(bad), where) from None
            reader = _Reader(where)
        except RecursionError:
            raise BadInput(f"{where}:1:1: nested too deep") from None
        except UnicodeDecodeError:
            raise _not_text(data, where) from None
    for number, document in enumerate(documents(data, where), 1):
        reader.value(document, "", _DOCUMENT.format(number), 0)
    return reader.objects, reader.problems


def decode_object(raw: bytes | Raw, kind: str) -> Decoded:
    """One object of this kind from the API's JSON. Raises BadInput if it is no JSON at all."""
    if kind not in _DECODERS:
        return Decoded(None, [])
    problems: list[BadObject] = []
    try:
        found = _decode(raw, kind, "", problems)
    except msgspec.DecodeError as bad:
        raise BadInput(f"{kind} from the API: {bad}") from None
    except RecursionError:
        raise BadInput(f"{kind} from the API: nested too deep") from None
    except UnicodeDecodeError:
        raise BadInput(f"{kind} from the API: not UTF-8") from None
    return Decoded(found, problems)


def _broken_json(data: bytes, text: bytes, problem: str, where: str) -> BadInput:
    """msgspec counts bytes; people count lines."""
    found = _BYTE.search(problem)
    offset = len(data) - len(text) + (int(found[1]) if found else len(text.rstrip()))
    if "trailing" in problem:
        offset -= 1  # it points behind the first of them
    line, column = line_and_column(data, offset)
    return BadInput(f"{where}:{line}:{column}: {_BYTE.sub('', problem)}")


def _not_text(data: bytes, where: str) -> BadInput:
    # The decoder knows only the place within the string at hand.
    offset = 0
    try:
        data.decode()
    except UnicodeDecodeError as bad:
        offset = bad.start
    line, column = line_and_column(data, offset)
    return BadInput(f"{where}:{line}:{column}: not text: not UTF-8")


class _Reader:
    """Gathers the objects of one file."""

    def __init__(self, where: str) -> None:
        self._prefix = f"{where}: " if where else ""
        self.objects: list[KubeObject] = []
        self.problems: list[BadObject] = []

    # --- JSON ----------------------------------------------------------------------------------------

    def json(self, raw: bytes | Raw, kind: str, depth: int = 0) -> None:
        """Take in one object, list or array; `kind` is what it is if it does not say."""
        if bytes(memoryview(raw)[:1]) == b"[":
            for item in _ARRAY.decode(raw):
                self.json(item, kind, depth + 1)
            return
        try:
            head = _HEAD.decode(raw)
        except msgspec.ValidationError as bad:
            self._refuse(_DOCUMENT.format(1), *_path_and_problem(bad))
            return
        what = self._kind(head, kind, depth, lambda: _called(raw, "object"))
        if what.endswith("List"):
            try:
                items = _ITEMS.decode(raw).items or ()
            except msgspec.ValidationError as bad:
                self._refuse(what, *_path_and_problem(bad))
                return
            for item in items:
                self.json(item, what.removesuffix("List"), depth + 1)
        elif what:
            found = _decode(raw, what, self._prefix, self.problems)
            if found is not None:
                self.objects.append(found)

    # --- YAML ----------------------------------------------------------------------------------------

    def value(self, value: Any, kind: str, called: str, depth: int) -> None:
        """Take in one object or list, given as plain values."""
        if value is None:
            return
        if isinstance(value, list):
            for item in value:
                self.value(item, kind, called, depth + 1)
            return
        try:
            head = msgspec.convert(value, _Head)
        except msgspec.ValidationError as bad:
            self._refuse(called, *_path_and_problem(bad))
            return
        what = self._kind(head, kind, depth, lambda: _name_of(value.get("metadata"), "object"))
        if what.endswith("List"):
            try:
                items = msgspec.convert(value, _Values).items or ()
            except msgspec.ValidationError as bad:
                self._refuse(what, *_path_and_problem(bad))
                return
            for item in items:
                self.value(item, what.removesuffix("List"), called, depth + 1)
        elif what:
            found = _checked(
                lambda: msgspec.convert(value, _SHAPES[what]),
                lambda: _name_of(value.get("metadata"), what),
                self._prefix,
                self.problems,
            )
            if found is not None:
                self.objects.append(found)

    # --- both ----------------------------------------------------------------------------------------

    def _kind(self, head: _Head, kind: str, depth: int, called: Callable[[], str]) -> str:
        """The kind to read it as: one of ours, a list of such; "" to pass it over."""
        what = head.kind or kind
        if what == "List" or (what.endswith("List") and what.removesuffix("List") in _SHAPES):
            if depth >= _MAX_LISTS:
                self._refuse(what, "", f"more than {_MAX_LISTS} lists inside each other")
                return ""
            return what
        if not what:
            self._refuse(called(), "", "has no kind, such as Service")
            return ""
        if what not in _SHAPES or (head.api_version or _VERSIONS[what][0]) not in _VERSIONS[what]:
            return ""
        return what

    def _refuse(self, called: str, path: str, problem: str) -> None:
        where = f"{called}: {path}" if path else called
        self.problems.append(BadObject(self._prefix + where, problem))


def _decode(raw: bytes | Raw, kind: str, prefix: str, problems: list[BadObject]) -> KubeObject | None:
    return _checked(lambda: _DECODERS[kind].decode(raw), lambda: _called(raw, kind), prefix, problems)


def _checked(
    shape: Callable[[], api.Shape], called: Callable[[], str], prefix: str, problems: list[BadObject]
) -> KubeObject | None:
    """The object, or None; what is wrong with it goes to `problems`."""
    bad: list[tuple[str, str]] = []
    found = None
    try:
        found = check(shape(), lambda path, problem: bad.append((path, problem)))
    except msgspec.ValidationError as refused:
        bad = [_path_and_problem(refused)]
    except BadObject as refused:
        bad = [(refused.where, refused.problem)]
    if bad:
        problems.extend(_told(bad, prefix + called()))
    return found


def _path_and_problem(bad: msgspec.ValidationError) -> tuple[str, str]:
    """msgspec says "Expected `int`, got `str` - at `$.spec.ports[0].port`"."""
    problem, _, path = str(bad).partition(" - at `$")
    return path.strip("`."), problem


def _told(bad: list[tuple[str, str]], called: str) -> Iterable[BadObject]:
    for path, problem in bad[:_MAX_TOLD]:
        yield BadObject(f"{called}: {path}" if path else called, problem)
    if len(bad) > _MAX_TOLD:
        yield BadObject(called, f"{len(bad) - _MAX_TOLD} more of its parts are left out")


def _called(raw: bytes | Raw, kind: str) -> str:
    try:
        return _name_of(_NAMES.decode(raw).metadata, kind)
    except msgspec.ValidationError:
        return kind


def _name_of(metadata: Any, kind: str) -> str:
    """What an object is called in a message, whatever it is: in one line, without control characters."""
    if not isinstance(metadata, dict):
        return f"{kind} without metadata"
    words = [str(metadata[key]) for key in ("namespace", "name") if metadata.get(key)]
    if kind not in _CLUSTER_WIDE and len(words) == 1 and not metadata.get("namespace"):
        words.insert(0, "default")
    name = "/".join(words) or "without a name"
    return f"{kind} {name if name.isprintable() else ascii(name)}"[:400]
