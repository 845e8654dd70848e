"""
`kubeway cleanup`, and the flag --cleanup: our tables, or everything a proxy left, out of the kernel.
"""

from __future__ import annotations

from kubeway.shell.leftovers import NOT_YET, remove_kube_proxy_tables
from kubeway.shell.leftovers import TABLE as KUBE_PROXY
from kubeway.shell.nft import NftPlane
from kubeway.shell.privilege import need_net_admin


def cleanup() -> None:
    """Unsupported without CAP_NET_ADMIN. A table that is not there is fine."""
    _tell(_ours())


def cleanup_all() -> None:
    """As `cleanup`, and kube-proxy's tables too."""
    _tell(_ours() + [f"table {family} {KUBE_PROXY}" for family in remove_kube_proxy_tables()])
    print(NOT_YET)


def _ours() -> list[str]:
    need_net_admin()
    plane = NftPlane()
    try:
        return [f"table {family} kubeway" for family in plane.remove()]
    finally:
        plane.close()


def _tell(removed: list[str]) -> None:
    print(f"removed: {', '.join(removed)}" if removed else "nothing to remove")
