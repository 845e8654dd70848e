"""
`kubeway compile`: the program of a node, printed.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kubeway.cli.offline import settled
from kubeway.errors import BadInput
from kubeway.model.node import Options
from kubeway.modes.nftables import NFTABLES
from kubeway.planes.nft.objects import Family
from kubeway.planes.nft.text import show
from kubeway.views.compile import program, rows


def compile(  # noqa: A001 (the command's name)
    manifests: Sequence[str], options: Options, node: str, family: str, output: str
) -> None:
    """BadInput for what cannot be read or is not known."""
    chosen = _family(family)
    if output not in ("text", "json"):
        raise BadInput(f"--output: {output!r} is neither text nor json")
    linker = program(settled(manifests, options, node), NFTABLES)
    if output == "json":
        # An object a line, so that line-wise tools can search and compare them.
        print("[\n" + ",\n".join(msgspec.json.encode(row).decode() for row in rows(linker, chosen)) + "\n]")
    else:
        print(show(linker.objects, chosen))


def _family(text: str) -> Family | None:
    known: dict[str, Family | None] = {"": None, "ip": "ip", "ip6": "ip6"}
    if text not in known:
        raise BadInput(f"--family: {text!r} is neither ip nor ip6")
    return known[text]
