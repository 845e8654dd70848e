"""
Changes to the link, its addresses and routes to requests.

Requests are no transaction: one that is refused does not keep the next from being done. So they come in three
lots, each to be sent when the one before was taken: what is made and deleted (`lower`), what that replaces
(`clear`), and for IPv6 (`settle`) the kernel's own routes, which come before any other.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from kubeway.planes.link.objects import (
    DEVICE,
    LINK,
    METRIC,
    PROTOCOL,
    Address,
    Alien,
    Mixed,
    Route,
    address_key,
    route_key,
)
from kubeway.planes.link.parcel import GONE, THERE, Parcel
from kubeway.program.program import Change, Key, Object
from kubeway.values import Ip
from kubeway.wire import rtnetlink as wire
from kubeway.wire.rtnetlink import LOOPBACK, RTPROT_KERNEL


def lower_link(change: Change) -> Parcel:
    """The link comes before all else, as everything else names its index."""
    if change.verb == "del":
        return Parcel(change, wire.del_link(DEVICE), GONE)
    return Parcel(change, wire.new_dummy(DEVICE), THERE if change.old is None else frozenset())


def needs_link(change: Change) -> bool:
    """Whether it can only be made where the link is."""
    return change.new is not None and (change.key.kind == "address" or len(change.key.name[0]) == 4)


def lower(changes: Iterable[Change], link: int) -> list[Parcel]:
    """All but the making of the link, in the order given. `link` is its index; 0, which none has: it is not
    there, so nothing is made on it."""
    parcels: list[Parcel] = []
    for change in changes:
        if change.key.kind == "address":
            parcels += _address(change, link)
        elif change.key.kind == "route":
            parcels += _route(change, link)
        elif change.verb == "del" and not isinstance(change.old, Alien):
            parcels.append(lower_link(change))
    return parcels


def _address(change: Change, link: int) -> Iterator[Parcel]:
    ip: Ip = change.key.name[0]
    full = len(ip) * 8
    if change.new is None:
        yield from _del_addresses(change, {full, *_odd(change)}, link)
        return
    if full == 128:
        # A link has an address of IPv6 once, in whatever prefix, usable or not.
        yield from _del_addresses(change, _odd(change), link)
    yield Parcel(change, wire.new_address(ip, link), THERE)


def _del_addresses(change: Change, lengths: Iterable[int], link: int) -> Iterator[Parcel]:
    for length in lengths:
        yield Parcel(change, wire.del_address(change.key.name[0], length, link), GONE)


def _odd(change: Change) -> tuple[int, ...]:
    return change.old.odd if isinstance(change.old, Address) else ()


def _route(change: Change, link: int) -> Iterator[Parcel]:
    ip: Ip = change.key.name[0]
    six = len(ip) == 16
    new = change.new.source if isinstance(change.new, Route) else None
    if new is None:
        yield from _del_routes(change, (None,) if six else _sources(change.old), LOOPBACK if six else link)
    elif six:
        yield Parcel(change, wire.replace_local(ip, LOOPBACK, new, PROTOCOL, METRIC), frozenset())
    else:
        if new in _sources(change.old):  # not first, or nothing would differ; and the kernel takes none twice
            yield from _del_routes(change, (new,), link)
        yield Parcel(change, wire.prepend_local(ip, link, new, PROTOCOL), THERE)


def _del_routes(change: Change, sources: Iterable[Ip | None], link: int) -> Iterator[Parcel]:
    for source in sources:
        yield Parcel(change, wire.del_local(change.key.name[0], link, source, PROTOCOL), GONE)


def _sources(obj: Object) -> tuple[Ip | None, ...]:
    """Those of our routes that are there. None: of any, as what is there is not known."""
    if isinstance(obj, Route):
        return (obj.source,)
    return obj.sources if isinstance(obj, Mixed) else (None,)


def clear(changes: Iterable[Change], link: int) -> list[Parcel]:
    """What `lower` has replaced, of IPv4: addresses in other prefixes, and routes with another source."""
    parcels: list[Parcel] = []
    for change in changes:
        if change.old is None or change.new is None or len(change.key.name[0]) != 4:
            continue
        if change.key.kind == "address":
            parcels += _del_addresses(change, _odd(change), link)
        elif change.key.kind == "route":
            sources = (source for source in _sources(change.old) if source != change.new.source)
            parcels += _del_routes(change, sources, link)
    return parcels


def settle(changes: Iterable[Change], link: int, held: Container[Key]) -> list[Parcel]:
    """What there is to do for IPv6 when all else was done. `held`: what is there now.

    Where our route is, the kernel's own goes. Where ours went and the address stays, the kernel's own is
    missing since ours came; it comes with the address, so that is made anew. The kernel makes its route some
    time after the address: one that is not there yet (ESRCH) has to be waited for.
    """
    own: dict[Ip, Change] = {}
    anew: dict[Ip, Change] = {}
    for change in changes:
        ip = change.key.name[0]
        if change.key == LINK or len(ip) == 4:
            continue
        if change.new is not None:
            if route_key(ip) in held:
                own[ip] = change
        elif change.key.kind == "route" and address_key(ip) in held:
            anew[ip] = change
    parcels = [Parcel(c, wire.del_local(ip, link, None, RTPROT_KERNEL), GONE) for ip, c in own.items()]
    for ip, change in anew.items():
        parcels.append(Parcel(change, wire.del_address(ip, 128, link), GONE))
        parcels.append(Parcel(change, wire.new_address(ip, link), THERE))
    return parcels
