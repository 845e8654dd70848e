"""
What a mode works with on this node: its compiler, and the planes it writes to.

Which planes those are, the mode says; how each is reached, and for iptables by which of the kernel's two
ways, is settled here, once, at the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from kubeway import records
from kubeway.model.configuration import AUTO
from kubeway.model.node import Options
from kubeway.program.link import Linker
from kubeway.program.plane import Mode, Plane
from kubeway.shell.compound import Compound

if TYPE_CHECKING:
    from kubeway.planes.xtables.tally import Tally

LEGACY: Final = "legacy"

Packets = Callable[[], Mapping[str, int]]
"""How many packets each of the kernel's counters has seen, by its name, now."""


class Figures(NamedTuple):
    """What iptables mode has to tell in the metrics. `packets` is None where the kernel does not count."""

    rules: Tally
    packets: Packets | None = None


class Outfit(NamedTuple):
    """`holders`: the places its rules are in, of those `leftovers` knows. `figures`: of iptables mode."""

    mode: Mode
    plane: Compound
    holders: frozenset[str]
    figures: Figures | None = None


def mode_named(name: str) -> Mode:
    """The compiler of this name, as in `--proxy-mode`."""
    # Imported as they are asked for: a daemon has one mode, and starts sooner without the others.
    if name == "iptables":
        from kubeway.modes.iptables import IPTABLES

        return IPTABLES
    from kubeway.modes.nftables import NFTABLES

    return NFTABLES


def outfit(options: Options, linker: Linker, record: records.Recorder, backend: str = AUTO) -> Outfit:
    """All that the mode needs. Unsupported, in one line, if this machine lacks some of it."""
    mode = mode_named(options.mode)
    if options.mode == "iptables":
        return _iptables(mode, options, linker, record, backend)
    from kubeway.shell.nft import NftPlane

    plane = NftPlane(linker.origin, linker.objects)
    return Outfit(mode, Compound({"nft": plane}), frozenset({"nft"}))


def able(options: Options) -> Options:
    """The options with what this kernel can do for the mode, and what it is set to already."""
    if options.mode != "iptables":
        return options
    from kubeway.shell import nfacct
    from kubeway.shell.sysctls import is_liberal

    drop_invalid = options.drop_invalid and not is_liberal()
    return replace(options, accounting=nfacct.probe(), drop_invalid=drop_invalid)


def _iptables(mode: Mode, options: Options, linker: Linker, record: records.Recorder, backend: str) -> Outfit:
    from kubeway.planes.xtables.tally import Tally
    from kubeway.shell import nfacct
    from kubeway.shell.sysctl_plane import SysctlPlane
    from kubeway.shell.xtables_backend import detect, forced
    from kubeway.shell.xtables_tallied import CountedPlane, Tallied

    chosen = detect() if backend == AUTO else forced(backend, "--kubeway-iptables-backend")
    record(records.BackendChosen(*chosen))
    tables: CountedPlane
    verify = inf
    if chosen.back_end == LEGACY:
        from kubeway.shell.xtables_legacy import XtLegacyPlane

        tables = XtLegacyPlane(linker.origin, linker.objects, record)
        verify = XtLegacyPlane.verify
    else:
        from kubeway.shell.xtables_nft import XtNftPlane

        tables = XtNftPlane(linker.origin, linker.objects)
    figures = Figures(Tally(), nfacct.counters if options.accounting else None)
    planes: dict[str, Plane] = {
        "nfacct": nfacct.NfacctPlane(linker.objects),
        "xtables": Tallied(tables, figures.rules),
        "sysctl": SysctlPlane(linker.objects),
    }
    return Outfit(mode, Compound(planes, verify), frozenset({chosen.back_end}), figures)
