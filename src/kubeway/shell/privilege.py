"""
Are we allowed to? One clear line before the kernel says EPERM to the first write.
"""

from __future__ import annotations

from typing import Final

from kubeway.errors import Unsupported

# include/uapi/linux/capability.h
_CAP_NET_ADMIN: Final = 12
_CAP_NET_RAW: Final = 13


def need_net_admin(status: str = "/proc/self/status") -> None:
    """Unsupported if this process may not configure its network namespace."""
    if not _has(_CAP_NET_ADMIN, status):
        raise Unsupported(
            "kernel rules can only be written with CAP_NET_ADMIN: run as root, or in a container "
            "with securityContext.capabilities.add: [NET_ADMIN]"
        )


def need_net_raw(status: str = "/proc/self/status") -> None:
    """Unsupported if this process may not have a raw socket, as the tools of the legacy iptables do."""
    if not _has(_CAP_NET_RAW, status):
        raise Unsupported(
            "the legacy iptables can only be written with CAP_NET_RAW too, as their tools have a raw socket: "
            "run as root, or in a container with securityContext.capabilities.add: [NET_ADMIN, NET_RAW]"
        )


def _has(capability: int, status: str) -> bool:
    with open(status) as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "CapEff":
                return bool(int(value, 16) >> capability & 1)
    return True  # the kernel will tell
