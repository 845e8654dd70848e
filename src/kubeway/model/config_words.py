"""
The words of a kube-proxy configuration: how durations, numbers, switches and addresses are spelled.

The syntax is that of Go's standard library, whose readers kube-proxy uses (time.ParseDuration,
strconv, net.SplitHostPort). What cannot be read is a ValueError that says what would be right;
whose word it was, the caller knows. Knows no field and no flag.
"""

from __future__ import annotations

import csv
import json
import re
from typing import Final

from kubeway.values import V4, family_of, parse_ip

_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_LONGEST: Final = 2**63 - 1  # nanoseconds; Go's time.Duration is an int64
_QUANTITY: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
_ZERO: Final = re.compile(r"[+-]?[0.]+(?:[numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
_TRUE: Final = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE: Final = frozenset(("0", "f", "F", "FALSE", "false", "False"))


class Duration(int):
    """Nanoseconds; its text is Go's: `1h0m0s`, `1.5s`, `250ms`, `0s`."""

    def __str__(self) -> str:
        sign, left = ("-", -int(self)) if self < 0 else ("", int(self))
        if left == 0:
            return "0s"
        if left < 10**9:
            name = "ns" if left < 10**3 else "µs" if left < 10**6 else "ms"
            return f"{sign}{_fraction(left, _UNITS[name])}{name}"
        seconds = f"{_fraction(left % _UNITS['m'], _UNITS['s'])}s"
        hours, minutes = divmod(left // _UNITS["m"], 60)
        if hours:
            return f"{sign}{hours}h{minutes}m{seconds}"
        return f"{sign}{minutes}m{seconds}" if minutes else f"{sign}{seconds}"

    @property
    def seconds(self) -> float:
        return self / 10**9


def _fraction(whole: int, unit: int) -> str:
    digits = f"{whole % unit:0{len(str(unit)) - 1}d}".rstrip("0")
    return f"{whole // unit}.{digits}" if digits else f"{whole // unit}"


def parse_duration(text: str) -> Duration:
    """`1s`, `500ms`, `1m30s`, `-5s`, `0`."""
    body = text[1:] if text[:1] in ("+", "-") else text
    parts = list(_PART.finditer(body))
    if body != "0" and (not parts or "".join(part[0] for part in parts) != body):
        raise ValueError(f"{quote(text)} is not a duration such as 1s, 500ms or 1m30s")
    total = 0
    for part in parts:
        # By whole numbers, so that no digit of a fraction is lost.
        whole, _, fraction = part[1].partition(".")
        total += int(whole or 0) * _UNITS[part[2]]
        total += int(fraction or 0) * _UNITS[part[2]] // 10 ** len(fraction)
    if total > _LONGEST:
        raise ValueError(f"{quote(text)} is longer than a duration can be, 290 years")
    return Duration(-total if text.startswith("-") else total)


def parse_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{quote(text)} is neither true nor false")


def parse_int32(text: str) -> int:
    digits = text[1:] if text[:1] in ("+", "-") else text
    # No number of more digits fits; int() would take its time with a million of them.
    if digits.isascii() and digits.isdigit() and len(digits.lstrip("0")) <= 10:
        number = int(text)
        if -(2**31) <= number < 2**31:
            return number
    raise ValueError(f"{quote(text)} is not a whole number of 32 bits")


def parse_verbosity(text: str) -> int:
    try:
        number = parse_int32(text)
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError(f"{quote(text)} is not a number from 0 (quiet) up")
    return number


def parse_float32(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{quote(text)} is not a number") from None
    if not abs(number) < 3.5e38:  # neither NaN nor more than 32 bits hold
        raise ValueError(f"{quote(text)} is not a number of 32 bits")
    return number


def parse_quantity(text: str) -> str:
    """Kubernetes' amounts: `0`, `512`, `64Ki`, `1M`. They stay as they are written."""
    if not _QUANTITY.fullmatch(text):
        raise ValueError(f"{quote(text)} is not an amount such as 512, 64Ki or 1M")
    return text


def is_zero(quantity: str) -> bool:
    return _ZERO.fullmatch(quantity) is not None


def parse_list(text: str) -> list[str]:
    """Values set apart by commas; one with a comma in it stands in double quotes (a line of CSV)."""
    try:
        return next(csv.reader([text], strict=True), []) if text else []
    except csv.Error as error:
        raise ValueError(f"{quote(text)} is not a list of values with commas: {error}") from None


def parse_gates(text: str) -> dict[str, bool]:
    """`Name=true,Other=false`."""
    gates = {}
    for part in text.split(","):
        if not part:
            continue
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            raise ValueError(f"{quote(part)} is not of the form Gate=true")
        gates[name] = parse_bool(value)
    return gates


def parse_vmodule(text: str) -> list[dict[str, object]]:
    """`pattern=N,…`, as the field `logging.vmodule` has them."""
    items: list[dict[str, object]] = []
    for part in text.split(","):
        if not part:
            continue
        pattern, equals, number = part.partition("=")
        if not equals or not pattern:
            raise ValueError(f"{quote(part)} is not of the form pattern=N")
        items.append({"filePattern": pattern, "verbosity": parse_verbosity(number)})
    return items


def parse_address(text: str) -> str:
    """An IP address; it stays as it is written."""
    if not is_ip(text):
        raise ValueError(f"{quote(text)} is not an IP address")
    return text


def parse_endpoint(text: str) -> str:
    """`IP` or `IP:port`; it stays as it is written."""
    if is_ip(text):
        return text
    host, port = split_host_port(text)
    parse_address(host)
    if not is_port(port, least=0):
        raise ValueError(f"{quote(port)} is not a port number")
    return text


def split_host_port(text: str) -> tuple[str, str]:
    """`10.0.0.1:80`, `[fd00::1]:80`, `:80`, as net.SplitHostPort has it."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or "[" in host or "]" in host or "]" in port or "[" in port:
        raise ValueError(f"{quote(text)} is not of the form IP:port; an IPv6 address stands in brackets")
    return host, port


def append_port(address: str, port: int) -> str:
    """The address with this port if it is an address alone; else as it is (AppendPortIfNeeded)."""
    if not is_ip(address):
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def is_ip(text: str) -> bool:
    try:
        parse_ip(text)
    except ValueError:
        return False
    return True


def is_v4(text: str) -> bool:
    return is_ip(text) and family_of(parse_ip(text)) == V4


def is_port(text: str, least: int = 1) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and least <= int(text) <= 65535


def quote(text: str) -> str:
    """In double quotes, control characters spelled out, as Go's %q prints it."""
    return json.dumps(text, ensure_ascii=False)
