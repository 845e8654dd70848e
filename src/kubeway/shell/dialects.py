"""
What each plane says of its own objects, found by the plane's name.

The planes' pure halves do not know each other; who carries out changes on several of them asks here:
what a change is called (`describe`), what to make anew when there is no more room (`outgrown`), and which
changes lead to the same end in a way the plane takes (`lawful`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from types import ModuleType

from kubeway.planes.nft import laws as nft
from kubeway.planes.nft.objects import PLANE as NFT
from kubeway.program.program import Change, Key, Object

_DESCRIBED = {
    NFT: "kubeway.planes.nft.describe",
    "xtables": "kubeway.planes.xtables.describe",
    "sysctl": "kubeway.planes.sysctl",
    "nfacct": "kubeway.planes.nfacct",
    "relay": "kubeway.planes.relay.describe",
    "ipset": "kubeway.planes.ipset.describe",
    "ipvs": "kubeway.planes.ipvs.describe",
    "link": "kubeway.planes.link.objects",
}


@cache
def _described(plane: str) -> ModuleType:
    # A daemon has use for one mode's planes; the others' modules would only delay its start.
    return import_module(_DESCRIBED[plane])


def describe(change: Change, program: Mapping[Key, Object]) -> str:
    """One line: `add element services 10.96.0.9 . tcp . 80 (ip)`; `program` tells how keys read."""
    told: str = _described(change.key.plane).describe(change, program)
    return told


def outgrown(key: Key, number: int) -> Key | None:
    """What to make anew if a change of `key` was refused with this errno; None: that would be no help."""
    return nft.outgrown(key, number) if key.plane == NFT else None


def lawful(changes: Sequence[Change], desired: Mapping[Key, Object]) -> list[Change]:
    """The same end by changes the planes take. Only nftables has objects that cannot be changed in place."""
    return nft.lawful(changes, desired)
