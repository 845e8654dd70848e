"""
`kubeway cleanup`: our tables out of the kernel.
"""

from __future__ import annotations

from kubeway.shell.nft import NftPlane
from kubeway.shell.privilege import need_net_admin


def cleanup() -> None:
    """Unsupported without CAP_NET_ADMIN. A table that is not there is fine."""
    need_net_admin()
    plane = NftPlane()
    try:
        removed = plane.remove()
    finally:
        plane.close()
    print(
        "removed: " + ", ".join(f"table {family} kubeway" for family in removed)
        if removed
        else "nothing to remove"
    )
