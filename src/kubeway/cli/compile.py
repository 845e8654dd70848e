"""
`kubeway compile`: the program of a node, printed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from kubeway.cli.offline import settled
from kubeway.errors import BadInput
from kubeway.model.node import Options
from kubeway.planes import nfacct, sysctl
from kubeway.planes.ipset import objects as ipset
from kubeway.planes.ipset.text import show as show_ipset
from kubeway.planes.ipvs import objects as ipvs
from kubeway.planes.ipvs.text import show as show_ipvs
from kubeway.planes.link import objects as link
from kubeway.planes.nft import objects as nft
from kubeway.planes.nft.objects import Family
from kubeway.planes.nft.text import show as show_nft
from kubeway.planes.relay import objects as relay
from kubeway.planes.relay.text import show as show_relay
from kubeway.planes.xtables import objects as xtables
from kubeway.planes.xtables.text import show as show_xtables
from kubeway.program.program import Key, Object
from kubeway.shell.outfit import mode_named
from kubeway.views.compile import program, rows

_SHOW: Final[dict[str, Callable[[Mapping[Key, Object], Family | None], str]]] = {
    nft.PLANE: show_nft,
    nfacct.PLANE: nfacct.show,
    xtables.PLANE: show_xtables,
    sysctl.PLANE: sysctl.show,
    ipset.PLANE: show_ipset,
    ipvs.PLANE: show_ipvs,
    link.PLANE: link.show,
    relay.PLANE: show_relay,
}
"""The program's part on a plane, as the plane's own tool reads it."""


def compile(  # noqa: A001 (the command's name)
    manifests: Sequence[str], options: Options, node: str, family: str, output: str
) -> None:
    """BadInput for what cannot be read or is not known."""
    chosen = _family(family)
    if output not in ("text", "json"):
        raise BadInput(f"--output: {output!r} is neither text nor json")
    mode = mode_named(options.mode, options.steering)
    linker = program(settled(manifests, options, node), mode)
    if output == "json":
        # An object a line, so that line-wise tools can search and compare them.
        print("[\n" + ",\n".join(msgspec.json.encode(row).decode() for row in rows(linker, chosen)) + "\n]")
    else:
        shown = (_SHOW[plane](linker.objects, chosen) for plane in dict(mode.planes))
        print("\n".join(filter(None, shown)).rstrip("\n"))


def _family(text: str) -> Family | None:
    known: dict[str, Family | None] = {"": None, "ip": "ip", "ip6": "ip6"}
    if text not in known:
        raise BadInput(f"--family: {text!r} is neither ip nor ip6")
    return known[text]
