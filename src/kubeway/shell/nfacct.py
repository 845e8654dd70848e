"""
The nfacct plane: our counters in the kernel, made and taken away over netlink.

Rules count in them only where the kernel has them (`probe`); what they counted is for the metrics
(`counters`). All of it takes microseconds, so nothing waits in a thread.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Final

from kubeway.errors import KubewayError, Refused
from kubeway.planes import nfacct
from kubeway.program.program import Change, Key, Object
from kubeway.shell.netlink import NetlinkSocket
from kubeway.shell.netlink import describe as failure
from kubeway.wire import nfacct as wire
from kubeway.wire.nfnetlink import number

_NOBODYS: Final = "IMayExist"

# What it takes for done: a counter that is there is as good as a new one; one that is gone is gone; and
# one in whose use somebody else is, is not ours to take.
_DONE: Final = {"add": {errno.EEXIST}, "del": {errno.ENOENT, errno.EBUSY}}


def probe() -> bool:
    """Whether this kernel has accounting objects, and lets us ask: one that is not there is not found."""
    try:
        with NetlinkSocket() as netlink:
            netlink.ask(wire.get(_NOBODYS))
    except Refused as error:
        return error.errno == errno.ENOENT
    except KubewayError:
        return False
    return True


def counters() -> dict[str, int]:
    """The packets counted by each of our counters that is there, by name.

    Counters outlive whoever made them, so they do not begin at 0. Refused, Lost.
    """
    with NetlinkSocket() as netlink:
        return nfacct.counts(netlink.stream(wire.get_all()))


class NfacctPlane:
    """The counters of this network namespace that a kube-proxy would make. `program` is what is wanted.

    Needs CAP_NET_ADMIN, and where any is wanted a kernel that has them (`probe`).
    """

    def __init__(self, program: Mapping[Key, Object] | None = None) -> None:
        self.program: Mapping[Key, Object] = {} if program is None else program
        self._socket = NetlinkSocket()

    def close(self) -> None:
        self._socket.close()

    async def read(self) -> dict[Key, Object]:
        return self.read_now()

    def read_now(self) -> dict[Key, Object]:
        """Our counters that are there. A kernel without any holds none, which is well if none is wanted."""
        try:
            return nfacct.lift(self._socket.dump(wire.get_all()), self.program)
        except Refused:
            if any(nfacct.counter_key(name) in self.program for name in nfacct.NAMES):
                raise
            return {}

    async def write(self, changes: Sequence[Change]) -> None:
        self.write_now(changes)

    def write_now(self, changes: Sequence[Change]) -> None:
        """Make the changes, one by one; after Refused those before it were made."""
        for change, request in zip(changes, nfacct.lower(changes), strict=True):
            for ack in self._socket.transact(number([request], self._socket.reserve(1))):
                if ack.errno and ack.errno not in _DONE.get(change.verb, ()):
                    said = nfacct.describe(change, self.program)
                    raise Refused(failure(ack), ack.errno, said, key=change.key)
