"""
The kernel's list of all virtual servers and destinations, as it stands in /proc/net/ip_vs.

It tells less than netlink (no flags, and how long clients stick in the kernel's own unit of time), but all
destinations of all servers in one text, where netlink has to be asked for each server's. It may pass servers
over, where another network namespace has some; of a server that is listed, all destinations are.

    TCP  0A600009:0050 rr
      -> 0AF40107:1F90      Masq    1      0          0

Source: net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_info_seq_show.
"""

from __future__ import annotations

import re
from typing import Final

from kubeway.errors import Malformed
from kubeway.values import PROTOS, Ip
from kubeway.wire.ipvs import BYPASS, LOCAL, MASQUERADE, ROUTE, TUNNEL, Destination

_METHODS: Final = {"Masq": MASQUERADE, "Local": LOCAL, "Tunnel": TUNNEL, "Route": ROUTE, "Bypass": BYPASS}

_ADDRESS: Final = r"(?:([0-9A-F]{8})|\[((?:[0-9a-f]{4}:){7}[0-9a-f]{4})\]):([0-9A-F]{4})"
_LINE: Final = re.compile(
    rf"^  -> {_ADDRESS} +((?:Masq|Local|Tunnel|Route|Bypass) +\d+ +\d+ +\d+) *$"
    rf"|^(\w+)  (?:{_ADDRESS}|[0-9A-F]{{8}}) .*$",
    re.M,
)

Listed = tuple[tuple[Ip, int, int] | None, list[Destination]]
"""What a server is called, and its destinations. None: it is called by a packet mark."""


def read(data: bytes) -> list[Listed]:
    """All servers, in the kernel's order."""
    try:
        head, _, listing = data.decode("ascii").partition("ActiveConn InActConn\n")
    except UnicodeDecodeError as error:
        raise Malformed("ip_vs: a list that is no text") from error
    servers: list[Listed] = []
    destinations: list[Destination] = []
    states: dict[str, tuple[int, int, int]] = {}
    unhex, new, make = bytes.fromhex, tuple.__new__, Destination
    count = 0
    # One pass, as there may be a hundred thousand; most of them say the same of themselves.
    for line in _LINE.finditer(listing):
        v4, v6, port, state, proto, s4, s6, sport = line.groups("")
        count += 1
        if proto:
            destinations = []
            ip = unhex(s4 or s6.replace(":", ""))
            number = PROTOS.get(proto)
            name = (Ip(ip), number, int(sport, 16)) if ip and number else None
            servers.append((name, destinations))
        else:
            known = states.get(state)
            if known is None:
                known = states[state] = _state(state)
            destinations.append(new(make, (unhex(v4 or v6.replace(":", "")), int(port, 16), *known)))
    if not head.startswith("IP Virtual Server") or count != listing.count("\n"):
        raise Malformed("ip_vs: a list that is written in another way")
    return servers


def _state(said: str) -> tuple[int, int, int]:
    """Method, weight, and connections, active and inactive ones."""
    method, weight, active, inactive = said.split()
    return _METHODS[method], int(weight), int(active) + int(inactive)
