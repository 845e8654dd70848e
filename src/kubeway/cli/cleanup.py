"""
`kubeway cleanup`, and the flag --cleanup: our rules, or everything a proxy left, out of the kernel.
"""

from __future__ import annotations

from kubeway.shell.leftovers import remove
from kubeway.shell.privilege import need_net_admin


def cleanup() -> None:
    """What is certainly kubeway's, of all modes. Unsupported without CAP_NET_ADMIN; nothing there is fine."""
    _cleanup(everybodys=False)


def cleanup_all() -> None:
    """As `cleanup`, and what kube-proxy left, too."""
    _cleanup(everybodys=True)


def _cleanup(*, everybodys: bool) -> None:
    need_net_admin()
    removed = remove(everybodys=everybodys)
    print(f"removed: {', '.join(removed)}" if removed else "nothing to remove")
