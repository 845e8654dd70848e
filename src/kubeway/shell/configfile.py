"""
The configuration file: read, written, and watched for another one in its place.

A file is another one when its content is, however it got there: written in place, renamed over, or
reached by a symlink that swings over, as kubelet does with ConfigMaps. (kube-proxy sees writes in
place and a rename away; an atomic replacement it misses, and its watch is lost with it.) A touch or
a chmod is no change. Looking is one `stat` a second, which no file system can fail to answer; the
supervisor that starts the daemon again takes longer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Final, NamedTuple

import yaml
from msgspec import Struct

from kubeway.errors import BadInput
from kubeway.model.configuration import Configuration, Decoded, decode, encode
from kubeway.model.yamls import documents

LOOK_EVERY: Final = 1.0
_LOOKS_WITHOUT: Final = 3
"""Some replace a file by removing it first: so many looks in a row have to find none."""

_MOST: Final = 4 * 1024 * 1024


class ConfigFile(Struct, frozen=True):
    """What was read, and from where."""

    path: str
    content: bytes


class Read(NamedTuple):
    """`twice`: the names of fields that are given more than once; the last one counts."""

    file: ConfigFile
    decoded: Decoded
    twice: tuple[str, ...]


def read(path: str) -> Read:
    """The configuration in a file, YAML or JSON. BadInput names the file and what is wrong in it."""
    try:
        content = _content(path)
    except OSError as error:
        raise BadInput(f"--config: {path}: {error.strerror or error}") from None
    if len(content) > _MOST:
        raise BadInput(f"--config: {path}: over {_MOST >> 20} MiB; that is no configuration")
    found = [document for document in documents(content, path) if document is not None]
    if len(found) != 1:
        raise BadInput(f"--config: {path}: {len(found)} documents; one KubeProxyConfiguration is needed")
    decoded = decode(found[0], path)
    return Read(ConfigFile(path, content), decoded, tuple(_twice(content)))


def text(configuration: Configuration) -> str:
    """The file that says the same: every field, sorted by name, as kube-proxy writes it."""
    return yaml.safe_dump(encode(configuration), sort_keys=True, default_flow_style=False, allow_unicode=True)


def write(configuration: Configuration, path: str) -> None:
    """BadInput if it cannot be written."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text(configuration))
    except OSError as error:
        raise BadInput(f"--write-config-to: {path}: {error.strerror or error}") from None


async def until_changed(file: ConfigFile, every: float = LOOK_EVERY) -> str:
    """Wait until the file is another one, and say so in a line. It never reads what is the same."""
    same: tuple[int, ...] | None = None
    without = 0
    while True:
        now = _signature(file.path)
        if now is None:
            without += 1
            if without >= _LOOKS_WITHOUT:
                return f"the configuration file {file.path} is gone; start again to go by what is there"
        elif now != same:
            without = 0
            try:
                content = _content(file.path)
            except OSError:
                content = None  # gone since, or not readable for now: the next look decides
            if content is not None:
                if content != file.content:
                    return f"the configuration file {file.path} changed; start again to go by it"
                same = now if _signature(file.path) == now else None
        await asyncio.sleep(every)


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_MOST + 1)


def _signature(path: str) -> tuple[int, ...] | None:
    """When this is the same, so is the file's content; None if there is no file."""
    try:
        stat = os.stat(path)  # through symlinks
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size


class _Open:
    """A mapping or list that is being read: the names seen in it, and the one whose value comes."""

    def __init__(self, is_mapping: bool) -> None:
        self.is_mapping = is_mapping
        self.seen: set[str] = set()
        self.name: str | None = None


def _twice(content: bytes) -> Iterator[str]:
    """The fields given twice, with the names above them. `documents` has read the content before."""
    levels: list[_Open] = []
    for event in yaml.parse(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            levels.append(_Open(isinstance(event, yaml.MappingStartEvent)))
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            levels.pop()
        if not levels or not isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            continue
        level = levels[-1]
        if isinstance(event, yaml.ScalarEvent) and level.is_mapping and level.name is None:
            if event.value in level.seen:
                yield ".".join([*(above.name for above in levels[:-1] if above.name), event.value])
            level.seen.add(event.value)
            level.name = event.value
        else:
            level.name = None  # its value is over
