"""
What a change is called in one line, for errors and logs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kubeway.program.program import Change, Key, Object
from kubeway.values import PROTO_NAMES, show_addr

_VERBS: Final = {"add": "add", "set": "change", "del": "delete"}


def describe(change: Change, program: Mapping[Key, Object]) -> str:
    """`add destination 10.244.1.7:8080 of 10.96.0.9:80/TCP`"""
    return f"{_VERBS[change.verb]} {describe_key(change.key, program)}"


def describe_key(key: Key, program: Mapping[Key, Object]) -> str:
    """`server 10.96.0.9:80/TCP`, `destination 10.244.1.7:8080 of 10.96.0.9:80/TCP`, `timeouts`"""
    if key.kind == "timeouts":
        return key.kind
    name = show_server(key.name)
    return (
        f"destination {show_addr(*key.name[3:])} of {name}" if key.kind == "destination" else f"server {name}"
    )


def show_server(name: Sequence[Any]) -> str:
    """`10.96.0.9:80/TCP`, of a name that begins with address, protocol and port."""
    ip, proto, port = name[:3]
    return f"{show_addr(ip, port)}/{PROTO_NAMES.get(proto, proto)}"
