"""
Names, ports, addresses: what every value that comes from outside must be.

Whoever may write an object must not get a control character into a kernel
comment, a port out of range into a key, or a loopback address into a rule.
Knows no object as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from sys import intern
from typing import Final

from kubeway.errors import BadObject
from kubeway.model.addresses import refusal
from kubeway.values import PROTOS, Ip, Prefix, Proto, parse_ip, parse_prefix

Complain = Callable[[str, str], None]
"""Told the path of a part that is left out, and what is wrong with it."""

NAME: Final = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9._]{0,251}[A-Za-z0-9])?")
NAME_RULE: Final = "is not a name (1 to 253 letters, digits, - and .)"


def name_of(name: str | None) -> str:
    """An object's name; BadObject if it is none."""
    if not name or not NAME.fullmatch(name):
        raise BadObject("metadata.name", "is missing" if not name else f"{name!r} {NAME_RULE}")
    return name


def namespace_of(namespace: str | None) -> str:
    """An object's namespace, by default "default"; BadObject if it is none."""
    namespace = namespace or "default"
    if not NAME.fullmatch(namespace):
        raise BadObject("metadata.namespace", f"{namespace!r} {NAME_RULE}")
    return namespace


@lru_cache(maxsize=4096)
def word(text: str) -> str:
    """The name of a node, zone or port, which many objects share; ValueError if it is no name."""
    if not NAME.fullmatch(text):
        raise ValueError(f"{text!r} {NAME_RULE}")
    return intern(text)


def proto_of(protocol: str | None) -> Proto:
    """By default TCP; ValueError if it is none that Services have."""
    proto = PROTOS.get(protocol or "TCP")
    if proto is None:
        raise ValueError(f"protocol {protocol!r} is not TCP, UDP or SCTP")
    return proto


def port_of(port: int | None) -> int:
    """ValueError if it is none, or out of range."""
    if port is None or not 1 <= port <= 65535:
        raise ValueError(f"{port} is not a port (1 to 65535)" if port is not None else "has no port")
    return port


def addresses(path: str, texts: Iterable[str], complain: Complain) -> list[Ip]:
    """Those of the texts that are addresses."""
    found = []
    for text in texts:
        try:
            found.append(parse_ip(text))
        except ValueError:
            complain(path, f"{text!r} is not an IP address")
    return found


def captured(path: str, texts: Iterable[str], complain: Complain) -> tuple[Ip, ...]:
    """Addresses of which an object may take the packets, in their order, each once."""
    found: dict[Ip, None] = {}
    for index, text in enumerate(texts):
        here = f"{path}[{index}]"
        for ip in addresses(here, [text], complain):
            if refused := refusal(ip):
                complain(here, f"{text!r}: no Service may have a {refused}")
            else:
                found[ip] = None
    return tuple(found)


def prefixes(path: str, texts: Iterable[str], complain: Complain) -> list[Prefix]:
    """Those of the texts that are CIDRs."""
    found = []
    for index, text in enumerate(texts):
        try:
            found.append(parse_prefix(text.strip()))
        except ValueError as problem:
            complain(f"{path}[{index}]", str(problem))
    return found
