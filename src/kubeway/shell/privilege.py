"""
Are we allowed to? One clear line before the kernel says EPERM to the first write.
"""

from __future__ import annotations

from typing import Final

from kubeway.errors import Unsupported

_CAP_NET_ADMIN: Final = 12  # include/uapi/linux/capability.h


def need_net_admin(status: str = "/proc/self/status") -> None:
    """Unsupported if this process may not configure its network namespace."""
    with open(status) as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "CapEff" and not int(value, 16) >> _CAP_NET_ADMIN & 1:
                raise Unsupported(
                    "kernel rules can only be written with CAP_NET_ADMIN: run as root, or in a container "
                    "with securityContext.capabilities.add: [NET_ADMIN]"
                )
