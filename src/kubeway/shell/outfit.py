"""
What a mode works with on this node: its compiler, and the planes it writes to.

Which planes those are, the mode says; how each is reached, and for iptables by which of the kernel's two
ways, is settled here, once, at the start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from kubeway import records
from kubeway.errors import Unsupported
from kubeway.model.configuration import AUTO
from kubeway.model.node import Options, Steering
from kubeway.program.link import Linker
from kubeway.program.plane import Mode, Plane
from kubeway.shell.compound import Compound
from kubeway.shell.options import RELAYING, Relaying

if TYPE_CHECKING:
    from kubeway.planes.xtables.tally import Tally
    from kubeway.shell.metrics_relay import Teller
    from kubeway.shell.surroundings import Surroundings

LEGACY: Final = "legacy"
_MOST_WORKERS: Final = 4
"""Unless more are asked for: a relay is not all that a node is there for."""

Packets = Callable[[], Mapping[str, int]]
"""How many packets each of the kernel's counters has seen, by its name, now."""


class Figures(NamedTuple):
    """What modes of chains have to tell in the metrics. `packets` is None where the kernel does not count."""

    rules: Tally
    packets: Packets | None = None


class Outfit(NamedTuple):
    """`holders`: the places its rules are in, of those `leftovers` knows. `figures`: of a mode of chains;
    `relay`: who knows what was carried, in a mode that carries; `surroundings`: of one that depends on the
    node's links."""

    mode: Mode
    plane: Compound
    holders: frozenset[str]
    figures: Figures | None = None
    relay: Teller | None = None
    surroundings: Surroundings | None = None


def mode_named(name: str, steering: Steering = "auto") -> Mode:
    """The compiler of this name, as in `--proxy-mode`; of two of one name that for this steering."""
    # Imported as they are asked for: a daemon has one mode, and starts sooner without the others.
    if name == "iptables":
        from kubeway.modes.iptables import IPTABLES

        return IPTABLES
    if name == "ipvs":
        from kubeway.modes.ipvs import IPVS

        return IPVS
    if name == "userspace" and steering == "xtables":
        from kubeway.modes.userspace.legacy import USERSPACE_LEGACY

        return USERSPACE_LEGACY
    if name == "userspace":
        from kubeway.modes.userspace import USERSPACE

        return USERSPACE
    from kubeway.modes.nftables import NFTABLES

    return NFTABLES


def outfit(
    options: Options,
    linker: Linker,
    record: records.Recorder,
    backend: str = AUTO,
    drain: float = 900.0,
    relaying: Relaying = RELAYING,
) -> Outfit:
    """All that the mode needs. Unsupported, in one line, if this machine lacks some of it."""
    if options.mode == "userspace":
        return _userspace(options, linker, record, relaying)
    mode = mode_named(options.mode)
    if options.mode == "iptables":
        return _iptables(mode, options, linker, record, backend)
    if options.mode == "ipvs":
        return _ipvs(mode, options, linker, record, backend, drain)
    from kubeway.shell.nft import NftPlane

    plane = NftPlane(linker.origin, linker.objects)
    return Outfit(mode, Compound({"nft": plane}), frozenset({"nft"}))


def able(options: Options) -> Options:
    """The options with what this kernel can do for the mode, and what it is set to already."""
    if options.mode == "ipvs":
        from kubeway.shell.kernel import release

        # Before 4.1 there is no such setting, and from 5.9 on the kernel does better without.
        needed = (4, 1) <= release() < (5, 9)
        return replace(options, ipvs=replace(options.ipvs, reuse_ports=needed))
    if options.mode == "userspace":
        return replace(options, relay_workers=options.relay_workers or _workers())
    if options.mode != "iptables":
        return options
    from kubeway.shell import nfacct
    from kubeway.shell.sysctls import is_liberal

    drop_invalid = options.drop_invalid and not is_liberal()
    return replace(options, accounting=nfacct.probe(), drop_invalid=drop_invalid)


def _workers() -> int:
    """How many suit this machine: half of the processors are for those whose connections they carry."""
    return min(_MOST_WORKERS, max(1, len(os.sched_getaffinity(0)) // 2))


class _Tables(NamedTuple):
    """One of the kernel's two iptables, as a plane that counts its rules."""

    back_end: str
    plane: Plane
    verify: float


def _tables(linker: Linker, record: records.Recorder, backend: str, rules: Tally) -> _Tables:
    from kubeway.shell.xtables_backend import detect, forced
    from kubeway.shell.xtables_tallied import Tallied

    chosen = detect() if backend == AUTO else forced(backend, "--kubeway-iptables-backend")
    record(records.BackendChosen(*chosen))
    if chosen.back_end == LEGACY:
        from kubeway.shell.xtables_legacy import XtLegacyPlane

        legacy = XtLegacyPlane(linker.origin, linker.objects, record)
        return _Tables(chosen.back_end, Tallied(legacy, rules), XtLegacyPlane.verify)
    from kubeway.shell.xtables_nft import XtNftPlane

    return _Tables(chosen.back_end, Tallied(XtNftPlane(linker.origin, linker.objects), rules), inf)


def _iptables(mode: Mode, options: Options, linker: Linker, record: records.Recorder, backend: str) -> Outfit:
    from kubeway.planes.xtables.tally import Tally
    from kubeway.shell import nfacct
    from kubeway.shell.sysctl_plane import SysctlPlane

    figures = Figures(Tally(), nfacct.counters if options.accounting else None)
    tables = _tables(linker, record, backend, figures.rules)
    planes: dict[str, Plane] = {
        "nfacct": nfacct.NfacctPlane(linker.objects),
        "xtables": tables.plane,
        "sysctl": SysctlPlane(linker.objects),
    }
    return Outfit(mode, Compound(planes, tables.verify), frozenset({tables.back_end}), figures)


def _ipvs(
    mode: Mode, options: Options, linker: Linker, record: records.Recorder, backend: str, drain: float
) -> Outfit:
    from kubeway.modes.ipvs import IPVS
    from kubeway.planes.xtables.tally import Tally
    from kubeway.shell import ipset_plane, ipvs_plane, link_plane
    from kubeway.shell.addresses import local_addresses
    from kubeway.shell.ipvs_ours import ServersOfOurs
    from kubeway.shell.leftovers import leads
    from kubeway.shell.sysctl_plane import SysctlPlane

    # All that is missing in one line: whoever mends it should not find the next thing at the next start.
    missing = [ipvs_plane.probe(), ipset_plane.probe(), link_plane.probe()]
    if not missing[0]:
        missing.append(ipvs_plane.probe_scheduler(options.ipvs.scheduler))
    if any(missing):
        raise Unsupported(f"mode ipvs: {'; '.join(filter(None, missing))}")
    figures = Figures(Tally())
    sets, links = ipset_plane.IpsetPlane(linker.objects), link_plane.LinkPlane(linker.objects)
    ours = ServersOfOurs(sets, links, local_addresses, options.ipvs.exclude)
    servers = ipvs_plane.IpvsPlane(linker.objects, ours, limit=drain, origin=linker.origin, record=record)
    tables = _tables(linker, record, backend, figures.rules)
    planes: dict[str, Plane] = {
        "sysctl": SysctlPlane(linker.objects),
        "ipset": sets,
        "xtables": tables.plane,
        "ipvs": servers,
        "link": links,
    }
    verify = min(tables.verify, servers.verify)
    first = IPVS.taking_over if leads(tables.back_end) else None
    plane = Compound(planes, verify, first)
    return Outfit(mode, plane, frozenset({tables.back_end, "ipvs"}), figures)


def _userspace(options: Options, linker: Linker, record: records.Recorder, relaying: Relaying) -> Outfit:
    from kubeway.modes.userspace.layout import CLASSES, LISTEN, PORTS, owning
    from kubeway.planes.relay.datagram import IDLE
    from kubeway.planes.relay.stream import Limits
    from kubeway.shell import steering
    from kubeway.shell.link_plane import LinkPlane
    from kubeway.shell.relay import listeners
    from kubeway.shell.relay.handover import NAME
    from kubeway.shell.relay.listeners import Listening
    from kubeway.shell.relay.plane import RelayPlane
    from kubeway.shell.surroundings import Surroundings
    from kubeway.values import TCP, UDP

    chosen = steering.choose(options.steering, options.relay_workers)
    record(records.SteeringChosen(*chosen))
    listening = [
        Listening(one.list, not one.hidden, ip, PORTS[one], proto=proto)
        for one in CLASSES
        for ip in LISTEN.values()
        if listeners.has(ip)
        for proto in (TCP, UDP)
    ]
    # In the output hook rules of xtables do not see what a socket is, but its mark.
    mark = owning(1 << options.masquerade_bit) if chosen.by == steering.XTABLES else 0
    relay = RelayPlane(
        listening,
        linker.objects,
        workers=max(1, options.relay_workers),
        limits=Limits(half_closed=relaying.half_closed, drain=relaying.drain),
        idle=IDLE if relaying.udp_idle is None else relaying.udp_idle,
        mark=mark,
        name=NAME,
        record=record,
    )
    mode = mode_named(options.mode, chosen.by)
    planes: dict[str, Plane] = {
        "relay": relay,
        "link": LinkPlane(linker.objects),
    }
    if chosen.by == steering.NFT:
        from kubeway.shell.nft import NftPlane

        planes["nft"] = NftPlane(linker.origin, linker.objects)
        holders = frozenset({"nft", "steering"})
        return Outfit(mode, Compound(planes), holders, relay=relay, surroundings=Surroundings())
    from kubeway.planes.ipset.ours import is_relays
    from kubeway.shell.ipset_plane import IpsetPlane
    from kubeway.shell.xtables_legacy import XtLegacyPlane

    if settings := steering.asking():
        record(records.BridgesAskRules(settings))
    planes["ipset"] = IpsetPlane(linker.objects, is_relays)
    planes["xtables"] = XtLegacyPlane(linker.origin, linker.objects, record)
    holders = frozenset({LEGACY, "steering", "relay sets"})
    plane = Compound(planes, XtLegacyPlane.verify)
    return Outfit(mode, plane, holders, relay=relay, surroundings=Surroundings())
