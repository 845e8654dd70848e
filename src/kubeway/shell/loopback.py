"""
Node ports at loopback, prepared: the part of iptables mode that needs more than CAP_NET_ADMIN.

A container that is not privileged may not write `/proc/sys`, so `--init-only` turns `route_localnet` on
beforehand. That opens loopback to the neighbourhood (CVE-2020-8558), so the rule that keeps it closed comes
first here, too. Nothing else of the mode is written.
"""

from __future__ import annotations

from collections.abc import Mapping

from kubeway import records
from kubeway.model.node import NodeFacts, Options
from kubeway.model.view import node_view
from kubeway.planes.sysctl import PLANE as SYSCTL
from kubeway.planes.xtables.objects import PLANE as XTABLES
from kubeway.planes.xtables.objects import SHARED, Jump, Rule
from kubeway.program.link import Linker
from kubeway.program.plan import diff, steps
from kubeway.program.program import Change, Fragment, Key, Object
from kubeway.shell.outfit import able, outfit


async def prepare(options: Options, backend: str, record: records.Recorder) -> None:
    """Write the rule and then the sysctl, where they are wanted and missing. KubewayError if that fails."""
    linker = Linker()
    options = able(options)
    fit = outfit(options, linker, record, backend)
    base = fit.mode.base(node_view(NodeFacts(name=options.hostname), options, ()))
    wanted = {key: thing for key, thing in base.objects.items() if _is_about_loopback(key, thing)}
    if not any(key.plane == SYSCTL for key in wanted):
        return
    linker.update({(): Fragment(base.origin, wanted)})
    try:
        held = await fit.plane.read()
        changes = [c for c in diff(held, wanted) if c.verb != "del" and not _stands(c, held)]
        for step in steps(changes, fit.mode.planes):
            await fit.plane.write(step.changes)
    finally:
        fit.plane.close()


def _is_about_loopback(key: Key, thing: Object) -> bool:
    return key.plane == SYSCTL or (key.plane == XTABLES and (_is_shared(key) or _leads_there(key, thing)))


def _is_shared(key: Key) -> bool:
    return tuple(key.name[1:3]) in SHARED


def _leads_there(key: Key, thing: Object) -> bool:
    return (
        isinstance(thing, Rule)
        and isinstance(thing.target, Jump)
        and (key.name[1], thing.target.chain) in SHARED
    )


def _stands(change: Change, held: Mapping[Key, Object]) -> bool:
    """Whether the jump is there in another place: a proxy at work has it in its own order."""
    chain = change.key.name[:3]
    return change.key.kind == "jump" and any(
        thing == change.new and key.kind == "jump" and key.name[:3] == chain for key, thing in held.items()
    )
