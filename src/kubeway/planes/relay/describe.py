"""
What a change is called in one line, for errors and logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kubeway.planes.relay.objects import ANY
from kubeway.program.program import Change, Key, Object
from kubeway.values import PROTO_NAMES, show_addr

_VERBS: Final = {"add": "add", "set": "change", "del": "delete"}


def describe(change: Change, program: Mapping[Key, Object]) -> str:
    """`add way 10.96.0.9:80/TCP (cluster)`"""
    return f"{_VERBS[change.verb]} {describe_key(change.key, program)}"


def describe_key(key: Key, program: Mapping[Key, Object]) -> str:
    """`way 10.96.0.9:80/TCP (cluster)`, `way *:30080/TCP (local, IPv4)`"""
    list_, ip, proto, port = key.name
    name = PROTO_NAMES.get(proto, proto)
    for family, everywhere in ANY.items():
        if ip == everywhere:
            return f"way *:{port}/{name} ({list_}, IPv{family})"
    return f"way {show_addr(ip, port)}/{name} ({list_})"
