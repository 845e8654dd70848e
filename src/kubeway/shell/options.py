"""
From the words of a command line to options: every flag checked, each mistake one line.

A mistake is `BadInput` that names the flag, shows the value and says what would be
right. The syntax and the limits are kube-proxy's where a flag has its name there.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, get_args

from msgspec import Struct

from kubeway.errors import BadInput
from kubeway.model.node import DetectLocalMode, Options
from kubeway.values import Ip, Prefix, family_of, parse_ip, parse_prefix, show_addr

LoggingFormat = Literal["text", "json"]

MODES: Final = ("nftables",)
"""The modes this version has. kube-proxy's others are known, so that the message can say so."""

_OTHER_MODES: Final = ("iptables", "ipvs", "userspace")
_HEALTHZ_PORT: Final = 10256
_INTERFACE: Final = re.compile(r"[^\s/:]{1,15}")
_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_GAP: Final = 3600.0


class Address(NamedTuple):
    """Where to listen. The unspecified address means every address of both families."""

    ip: Ip
    port: int

    def __str__(self) -> str:
        return show_addr(self.ip, self.port)


class Config(Struct, frozen=True, kw_only=True):
    """All that the daemon is told."""

    manifests: tuple[str, ...]
    options: Options
    healthz: Address
    logging_format: LoggingFormat = "text"
    verbosity: int = 0
    min_sync_period: float | None = None  # seconds; None: as often as syncs are cheap


def model_options(
    *,
    hostname: str = "",
    proxy_mode: str = "nftables",
    cluster_cidr: str = "",
    detect_local_mode: str = "ClusterCIDR",
    pod_bridge_interface: str = "",
    pod_interface_name_prefix: str = "",
    nodeport_addresses: Sequence[str] = (),
    masquerade_all: bool = False,
    masquerade_bit: int = 14,
) -> Options:
    """The flags that decide what a program is, checked one by one and then together."""
    detect = _detect_local(detect_local_mode)
    if detect == "BridgeInterface" and not pod_bridge_interface:
        raise BadInput("--pod-bridge-interface: needed with --detect-local-mode BridgeInterface")
    if detect == "InterfaceNamePrefix" and not pod_interface_name_prefix:
        raise BadInput("--pod-interface-name-prefix: needed with --detect-local-mode InterfaceNamePrefix")
    if not 0 <= masquerade_bit <= 31:
        raise BadInput(f"--masquerade-bit: {masquerade_bit} is not a bit of a 32-bit mark, 0 to 31")
    return Options(
        hostname=hostname,
        mode=_mode(proxy_mode),
        cluster_cidrs=_cluster_cidrs(cluster_cidr),
        detect_local=detect,
        bridge_interface=_interface("--pod-bridge-interface", pod_bridge_interface),
        interface_prefix=_interface("--pod-interface-name-prefix", pod_interface_name_prefix),
        masquerade_all=masquerade_all,
        masquerade_bit=masquerade_bit,
        node_port_addresses=_node_port_addresses(nodeport_addresses),
    )


def node_name(flag: str, text: str) -> str:
    """A node's name as Kubernetes writes it: trimmed, lower case. "" stays that."""
    name = text.strip().lower()
    if text and not name:
        raise BadInput(f"{flag}: {text!r} is blank; give the name of a Node object")
    return name


def this_node(override: str) -> str:
    """The name of the node we run on: the host's unless overridden."""
    name = node_name("--hostname-override", override) or node_name("host name", socket.gethostname())
    if not name:
        raise BadInput("--hostname-override: needed, as this host has no name")
    return name


def healthz_address(text: str) -> Address:
    """`IP` or `IP:port`, the port being 10256 if there is none; [IPv6]:port in brackets."""
    host, port = text, str(_HEALTHZ_PORT)
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else port if closed and not rest else ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError(f"{port!r} is not a port, 1 to 65535")
        return Address(parse_ip(host), int(port))
    except ValueError as error:
        raise BadInput(f"--healthz-bind-address: {error}, in {text!r}; give IP:port") from None


def duration(flag: str, text: str) -> float:
    """Seconds, from Go's syntax: `1s`, `500ms`, `1m30s`, `0`."""
    parts = list(_DURATION.finditer(text))
    if text != "0" and (not parts or "".join(part[0] for part in parts) != text):
        raise BadInput(f"{flag}: {text!r} is not a duration such as 1s, 500ms or 1m30s")
    seconds = sum(float(part[1]) * _SECONDS[part[2]] for part in parts)
    if seconds > _LONGEST_GAP:
        raise BadInput(f"{flag}: {text!r} is over an hour, longer than changes can wait")
    return seconds


def logging_format(text: str) -> LoggingFormat:
    for form in get_args(LoggingFormat):
        if text == form:
            return form  # type: ignore[no-any-return]
    raise BadInput(f"--logging-format: {text!r} is neither text nor json")


def verbosity(text: str) -> int:
    """`-v 2`, and `-v=2` as kube-proxy's users write it."""
    digits = text.removeprefix("=")
    if not (digits.isascii() and digits.isdigit()):
        raise BadInput(f"-v: {text!r} is not a number from 0 (quiet) up")
    return int(digits)


def _mode(text: str) -> str:
    if text in MODES:
        return text
    known = "not in this version" if text in _OTHER_MODES else "not a proxy mode"
    raise BadInput(f"--proxy-mode: {text!r} is {known}, which has: {', '.join(MODES)}")


def _detect_local(text: str) -> DetectLocalMode:
    for mode in get_args(DetectLocalMode):
        if text == mode:
            return mode  # type: ignore[no-any-return]
    raise BadInput(f"--detect-local-mode: {text!r} is none of {', '.join(get_args(DetectLocalMode))}")


def _prefix(flag: str, text: str) -> Prefix:
    try:
        return parse_prefix(text)
    except ValueError as error:
        raise BadInput(f"{flag}: {error}") from None


def _cluster_cidrs(text: str) -> tuple[Prefix, ...]:
    prefixes = tuple(_prefix("--cluster-cidr", part) for part in text.split(",")) if text else ()
    families = [family_of(prefix.ip) for prefix in prefixes]
    if len(families) > len(set(families)):
        raise BadInput(f"--cluster-cidr: {text!r} has more than one CIDR of a family; give one of each")
    return prefixes


def _node_port_addresses(texts: Sequence[str]) -> tuple[Prefix, ...] | Literal["primary"]:
    words = [word for text in texts for word in text.split(",")]
    if not words or words == ["primary"]:
        return "primary"
    if "primary" in words:
        raise BadInput("--nodeport-addresses: 'primary' stands alone or not at all")
    return tuple(_prefix("--nodeport-addresses", word) for word in words)


def _interface(flag: str, name: str) -> str:
    # include/uapi/linux/if.h: IFNAMSIZ is 16 with the closing zero; dev_valid_name() refuses the rest.
    if name and not _INTERFACE.fullmatch(name):
        raise BadInput(f"{flag}: {name!r} is no interface's name: at most 15 characters, no space, / or :")
    return name
