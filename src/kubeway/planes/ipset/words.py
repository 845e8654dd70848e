"""
How an entry is written: in the tool's words.
"""

from __future__ import annotations

from typing import Any

from kubeway.values import PROTO_NAMES, Prefix, show_ip


def show_fields(fields: tuple[Any, ...]) -> str:
    """`10.96.0.1,tcp:80,10.0.0.0/8`: the fields of an entry's key."""
    if len(fields) == 1:
        (only,) = fields
        return show_ip(only) if isinstance(only, bytes) else str(only)
    ip, proto, port, *rest = fields
    name = PROTO_NAMES.get(proto, str(proto)).lower()
    return ",".join([show_ip(ip), f"{name}:{port}", *map(_show_last, rest)])


def _show_last(field: Any) -> str:
    if not isinstance(field, Prefix):
        return show_ip(field)
    # The tool leaves the length out where it says nothing.
    return show_ip(field.ip) if field.length == len(field.ip) * 8 else str(field)
