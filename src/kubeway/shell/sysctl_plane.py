"""
The sysctl plane: settings below /proc/sys, read and written as files.

Only what the program wants is looked at: what else stands there is none of our business, and neither
is what we once set. To take it back is not ours to do: nobody knows who set it before us, or who has
come to rely on it since.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from kubeway.errors import Refused
from kubeway.planes.sysctl import (
    ARP_ANNOUNCE,
    ARP_IGNORE,
    IP_FORWARD,
    NAMES,
    ROUTE_LOCALNET,
    VS_CONN_REUSE_MODE,
    VS_CONNTRACK,
    VS_EXPIRE_NODEST_CONN,
    VS_EXPIRE_QUIESCENT_TEMPLATE,
    Value,
    describe,
    value_key,
)
from kubeway.program.program import Change, Key, Object
from kubeway.shell.sightings import Sightings

ROOT: Final = Path("/proc/sys")

# What the person can do whose kernel will not have a setting.
_SET: Final = "run privileged, or set it beforehand"
_VS: Final = "load ip_vs beforehand (modprobe ip_vs)"
_OF_IP_VS: Final = "net/ipv4/vs/"
_ARP: Final = "run privileged, set it beforehand, or do without it by --ipvs-strict-arp=false"
_INSTEAD: Final = {
    VS_CONNTRACK: _SET,
    VS_CONN_REUSE_MODE: _SET,
    VS_EXPIRE_NODEST_CONN: _SET,
    VS_EXPIRE_QUIESCENT_TEMPLATE: _SET,
    IP_FORWARD: _SET,
    ARP_IGNORE: _ARP,
    ARP_ANNOUNCE: _ARP,
    ROUTE_LOCALNET: (
        "run privileged, set it beforehand, or do without it by --iptables-localhost-nodeports=false"
    ),
}


class SysctlPlane:
    """`program` is what is wanted. The files are a network namespace's own: of the thread that asks."""

    def __init__(self, program: Mapping[Key, Object] | None = None, root: Path = ROOT) -> None:
        self.program: Mapping[Key, Object] = {} if program is None else program
        self._root = root
        self._sightings: Sightings[dict[Key, Object]] = Sightings()

    def close(self) -> None:
        """There is nothing to close."""

    def generation(self) -> int:
        """Another number after each change of a setting, by whomever."""
        return self._sightings.look(self.read_now())

    async def read(self) -> dict[Key, Object]:
        return self.read_now()

    def read_now(self) -> dict[Key, Object]:
        """What the settings of the program are now. One that cannot be read is not there."""
        objects: dict[Key, Object] = {}
        for key in map(value_key, NAMES):
            if key in self.program:
                try:
                    objects[key] = Value((self._root / key.name[0]).read_text().strip())
                except (OSError, UnicodeDecodeError):
                    continue  # writing it will find out what is wrong
        return objects

    async def write(self, changes: Sequence[Change]) -> None:
        self.write_now(changes)

    def write_now(self, changes: Sequence[Change]) -> None:
        """Set what is to be set, one by one; what is not wanted any more stays as it is."""
        for change in changes:
            if change.new is not None:
                self._set(change)

    def _set(self, change: Change) -> None:
        name, value = change.key.name[0], change.new
        path = self._root / name
        try:
            # Not made if it is not there: a kernel has a setting, or has not.
            with open(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC), "w") as file:
                file.write(value.text)
        except OSError as error:
            held = f" (it is {change.old.text})" if isinstance(change.old, Value) else ""
            raise Refused(
                f"{path}{held}: {error.strerror}; {_instead(name, error)}",
                error.errno or errno.EIO,
                describe(change, self.program),
                key=change.key,
            ) from error


def _instead(name: str, error: OSError) -> str:
    absent = name.startswith(_OF_IP_VS) and error.errno == errno.ENOENT
    return _VS if absent else _INSTEAD[name]
