"""
Feature gates: which there are in Kubernetes 1.36 for kube-proxy, and which of them can be set.

A gate nobody knows and a locked gate set to its other value are errors, as they are there.
`AllAlpha` and `AllBeta` set those of their stage that are not set by name.
Only `AllowServiceExternalIPs` changes what Services mean; what the others do here stands in the table,
and `idle` names those that were set and do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple


class Gate(NamedTuple):
    """`effect`: what it does here; "" if nothing: then all is as by its default, whatever it says."""

    default: bool
    stage: Literal["alpha", "beta", "ga"]
    locked: bool = False
    effect: str = ""


GATES: Final[dict[str, Gate]] = {
    "AllAlpha": Gate(False, "alpha", effect="sets the others of its stage"),
    "AllBeta": Gate(False, "beta", effect="sets the others of its stage"),
    "AllowServiceExternalIPs": Gate(True, "ga", effect="false: externalIPs of Services are ignored"),
    "ComponentFlagz": Gate(True, "beta"),
    "ComponentStatusz": Gate(True, "beta"),
    "ContextualLogging": Gate(True, "beta"),
    "LoggingAlphaOptions": Gate(False, "alpha", effect="lets the options of that stage be set"),
    "LoggingBetaOptions": Gate(True, "beta", effect="lets the format json be set"),
    "MultiCIDRServiceAllocator": Gate(True, "ga", locked=True, effect="ServiceCIDRs are watched"),
    "NFTablesProxyMode": Gate(True, "ga", locked=True, effect="there is the mode nftables"),
    "NativeHistograms": Gate(False, "alpha"),
    "PreferSameTrafficDistribution": Gate(True, "ga", locked=True, effect="hints name nodes too"),
    "WatchListClient": Gate(True, "beta"),
}
_SPECIAL: Final = {"AllAlpha": "alpha", "AllBeta": "beta"}


def problems(wanted: Mapping[str, bool]) -> list[str]:
    """What cannot be set, one sentence each."""
    found = []
    for name, value in sorted(wanted.items()):
        gate = GATES.get(name)
        if gate is None:
            found.append(f"unrecognized feature gate: {name}")
        elif gate.locked and value != gate.default:
            found.append(
                f"cannot set feature gate {name} to {_go(value)}, feature is locked to {_go(gate.default)}"
            )
    return found


def enabled(wanted: Mapping[str, bool], name: str) -> bool:
    """Whether this gate is open, for gates without `problems`."""
    gate = GATES[name]
    if name in wanted:
        return wanted[name]
    for special, stage in _SPECIAL.items():
        if stage == gate.stage and special in wanted and name not in _SPECIAL:
            return wanted[special]
    return gate.default


def idle(wanted: Mapping[str, bool]) -> list[str]:
    """Those that are to be other than by default, by name or by their stage, and nothing comes of it."""
    return [name for name, gate in GATES.items() if not gate.effect and enabled(wanted, name) != gate.default]


def _go(value: bool) -> str:
    return "true" if value else "false"
