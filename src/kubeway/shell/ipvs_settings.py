"""
The kernel's settings that ipvs mode wants, prepared: the part of it that needs more than CAP_NET_ADMIN.

A container that is not privileged may not write `/proc/sys`, so `--init-only` does it beforehand. Those of
ip_vs are there once its module is loaded, and asking for it has the kernel load it. Rules, sets and servers
are not touched, nor are ip_vs' timeouts, which are no files.
"""

from __future__ import annotations

from kubeway import records
from kubeway.errors import Unsupported
from kubeway.model.node import Ipvs
from kubeway.modes.ipvs.base import settings
from kubeway.planes import sysctl
from kubeway.program.plan import diff
from kubeway.shell import ipvs_plane
from kubeway.shell.sysctl_plane import ROOT, SysctlPlane


def prepare(wanted: Ipvs, record: records.Recorder) -> None:
    """Set what is otherwise, and tell of it.

    Unsupported if this kernel has no ip_vs, Refused if a setting cannot be set; those before it are.
    """
    if missing := ipvs_plane.probe():
        raise Unsupported(f"mode ipvs: {missing}")
    program = {key: thing for key, thing in settings(wanted).items() if key.plane == sysctl.PLANE}
    plane = SysctlPlane(program)
    for change in diff(plane.read_now(), program):
        plane.write_now([change])
        was = None if change.old is None else int(change.old.text)
        record(records.SysctlSet(str(ROOT / change.key.name[0]), int(change.new.text), was))
