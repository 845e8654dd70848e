"""
Whom a virtual server sends a new connection to, with exact chances.

What a scheduler goes by beside the weights (the turn it is at, who has how many connections, the client's
address, the order in which destinations were added) is not known here; so the chances are those over all
of that, for a server whose connections are spread as its scheduler spreads them:

    rr, lc               equal; of the weight only matters that it is not 0 (ip_vs_rr.c, ip_vs_lc.c)
    wrr                  the shares of the weights, by its turns (ip_vs_wrr.c)
    wlc, sed, nq         the shares of the weights, as connections are evened out to them
    twos                 the same; 1 in (sum of the weights + 1) falls to whom it comes to first
    lblc, lblcr          the shares over all virtual addresses; each sticks to the one it got
    sh                   the shares of the weights over all clients; its table has 256 places, and a
                         destination fills as many in turn as it has weight (ip_vs_sh_reassign)
    mh                   the same, of 4093 places (CONFIG_IP_VS_MH_TAB_INDEX), few of them left over
    dh                   equal over all virtual addresses, and all clients of one meet the same; a place of
                         its table that falls to weight 0 has nobody, so chances may sum up to less than 1
    fo, ovf              1 for the most weight (ovf: while it has no more connections than that); of several
                         with the most, for one of them, and which is not known: the one added last

All but dh pass by a destination of weight 0; sh and mh as they are told to (`objects.FALLING_BACK`).

Source: net/netfilter/ipvs/ip_vs_*.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from kubeway.planes.ipvs.objects import Destination, Server, server_key
from kubeway.program.program import Key, Object
from kubeway.values import Ip

Balance = list[tuple[Ip, int, Fraction]]

_EQUAL: Final = frozenset({"rr", "lc", "dh"})
_MOST: Final = frozenset({"fo", "ovf"})


def balance(
    objects: Mapping[Key, Object], dst: Ip, proto: int, port: int, remembered: tuple[Ip, int] | None = None
) -> Balance | None:
    """Who gets a first packet to this address, protocol and port: address, port, and the chance.

    None: there is no such virtual server, so ip_vs has nothing to do with it. None at all (or what is
    missing from 1) gets nobody: the kernel answers that the port is unreachable. `remembered`: the
    destination that the client was sent to before, which it keeps if the server is persistent and that one
    still gets new connections (with net.ipv4.vs.expire_quiescent_template).
    """
    server = objects.get(server_key(dst, proto, port))
    if not isinstance(server, Server):
        return None
    name = (dst, proto, port)
    weights = {
        (key.name[3], key.name[4]): one.weight
        for key, one in objects.items()
        if isinstance(one, Destination) and key.name[:3] == name
    }
    if remembered is not None and server.persistence and weights.get(remembered):
        return [(*remembered, Fraction(1))]
    return [(*where, chance) for where, chance in _chances(server.scheduler, weights).items() if chance]


def _chances(scheduler: str, weights: Mapping[tuple[Ip, int], int]) -> dict[tuple[Ip, int], Fraction]:
    serving = {where: weight for where, weight in sorted(weights.items()) if weight > 0}
    if scheduler in _MOST:
        most = max(serving.values(), default=0)
        serving = {where: 1 for where, weight in serving.items() if weight == most}
    elif scheduler in _EQUAL:
        serving = dict.fromkeys(serving, 1)
    among = len(weights) if scheduler == "dh" else sum(serving.values())
    return {where: Fraction(weight, among) for where, weight in serving.items()}
