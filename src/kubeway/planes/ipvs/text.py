"""
Objects as text: the lines that `ipvsadm -Sn` prints and `ipvsadm -R` takes.

Servers stand before destinations, else sorted by their text. `--set`, which the tool takes and does not
print, stands for the timeouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kubeway.planes.ipvs.objects import FALLING_BACK, TIMEOUTS, Destination, Server, Timeouts
from kubeway.program.program import Key, Object
from kubeway.values import SCTP, TCP, UDP, show_addr

_OPTIONS: Final[dict[int, str]] = {TCP: "-t", UDP: "-u", SCTP: "--sctp-service"}
_METHODS: Final = {"masquerade": "-m", "tunnel": "-i", "route": "-g"}


def show(objects: Mapping[Key, Object], family: str | None = None) -> str:
    """One line each. `family`: "ip" or "ip6", to show that one's only; timeouts are both's."""
    lines = []
    timeouts = objects.get(TIMEOUTS)
    if isinstance(timeouts, Timeouts):
        lines.append(f"--set {timeouts.tcp} {timeouts.tcp_fin} {timeouts.udp}\n")
    for key, one in objects.items():
        if family not in (None, family_of(key)):
            continue
        if isinstance(one, Server):
            lines.append(f"-A {_service(key.name)} {_server(one)}\n")
        elif isinstance(one, Destination):
            ip, port = key.name[3:]
            how = f"{_METHODS.get(one.method, '-m')} -w {one.weight}"
            lines.append(f"-a {_service(key.name)} -r {show_addr(ip, port)} {how}\n")
    return "".join(sorted(lines))


def family_of(key: Key) -> str:
    """The family of packets that the object is about, as planes with families call it."""
    return "ip6" if key.name and len(key.name[0]) == 16 else "ip"


def _service(name: Sequence[Any]) -> str:
    ip, proto, port = name[:3]
    return f"{_OPTIONS[proto]} {show_addr(ip, port)}"


def _server(server: Server) -> str:
    words = [f"-s {server.scheduler}"]
    if server.persistence:
        words.append(f"-p {server.persistence}")
    if flags := _flags(server):
        words.append(f"-b {','.join(flags)}")
    return " ".join(words)


def _flags(server: Server) -> list[str]:
    """The scheduler's flags, in its own words if it has some."""
    name = server.scheduler
    own = name in FALLING_BACK
    port = [f"{name}-port" if own else "flag-2"] if server.source_port else []
    return [f"{name}-fallback", *port] if own else port
