"""
Between an entry's fields, as keys have them, and its values, in the order in which the kernel spells them.

Source: the functions `hash_*_data_list` in net/netfilter/ipset/ip_set_hash_*.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from kubeway.planes.ipset.objects import (
    BITMAP_PORT,
    HASH_IP,
    HASH_IP_PORT,
    HASH_IP_PORT_IP,
    HASH_IP_PORT_NET,
)
from kubeway.values import V4, V6, Prefix
from kubeway.wire.ipset import Layout

Values = tuple[Any, ...]


class Form(NamedTuple):
    """How entries of one type and family are spelled, and how their fields and values change over."""

    layout: Layout
    values: Callable[[Values], Values]
    fields: Callable[[Values], Values]


def _same(values: Values) -> Values:
    return values


def _port_values(fields: Values) -> Values:
    ip, proto, port = fields
    return ip, port, proto


def _port_fields(values: Values) -> Values:
    ip, port, proto = values
    return ip, proto, port


def _ip_values(fields: Values) -> Values:
    ip, proto, port, other = fields
    return ip, other, port, proto


def _ip_fields(values: Values) -> Values:
    ip, other, port, proto = values
    return ip, proto, port, other


def _net_values(fields: Values) -> Values:
    ip, proto, port, (net, length) = fields
    if not length:
        raise ValueError("a prefix of length 0 cannot be in a set; its two halves can")
    return ip, net, port, length, proto


def _net_fields(values: Values) -> Values:
    ip, net, port, length, proto = values
    return ip, proto, port, Prefix(net, length)


_PARTS: Final = {
    HASH_IP: (("ip",), _same, _same),
    HASH_IP_PORT: (("ip", "port", "proto"), _port_values, _port_fields),
    HASH_IP_PORT_IP: (("ip", "ip2", "port", "proto"), _ip_values, _ip_fields),
    HASH_IP_PORT_NET: (("ip", "ip2", "port", "cidr2", "proto"), _net_values, _net_fields),
}
FORMS: Final[dict[tuple[str, int], Form]] = {
    (name, family): Form(Layout(parts, 4 if family == V4 else 16), values, fields)
    for name, (parts, values, fields) in _PARTS.items()
    for family in (V4, V6)
} | {(BITMAP_PORT, 0): Form(Layout(("port",)), _same, _same)}
"""By type and family."""

_HASHES: Final = {1: HASH_IP, 3: HASH_IP_PORT, 4: HASH_IP_PORT_IP}


def form_of(fields: Values) -> Form:
    """The form of an entry with these fields: they tell the type and family of its set.

    ValueError if there is no such type.
    """
    if fields and isinstance(fields[0], bytes):
        name = _HASHES.get(len(fields), "")
        if len(fields) == 4 and isinstance(fields[3], Prefix):
            name = HASH_IP_PORT_NET
        form = FORMS.get((name, {4: V4, 16: V6}.get(len(fields[0]), 0)))
    else:
        form = FORMS[BITMAP_PORT, 0] if len(fields) == 1 else None
    if form is None:
        raise ValueError(f"no type of set has entries like {fields}")
    return form
