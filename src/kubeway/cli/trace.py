"""
`kubeway trace`: where a packet goes, and why.
"""

from __future__ import annotations

from collections.abc import Sequence

from kubeway.cli.offline import settled
from kubeway.model.node import Options
from kubeway.shell.outfit import mode_named
from kubeway.views import trace as view

DIFFER = 3


def trace(
    src: str, target: str, iif: str, remembered: str, manifests: Sequence[str], options: Options, node: str
) -> int:
    """0, or `DIFFER` if the program does not do what the model means."""
    world = settled(manifests, options, node)
    packet = view.parse_packet(src, target, iif, remembered, world.facts.addresses)
    mode = mode_named(options.mode, options.steering)
    found = view.trace(world, mode, packet)
    for line in view.lines(found, mode.name):
        print(line)
    return 0 if found.agree else DIFFER
