"""
Has the kernel forget flows that a judge condemns.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from kubeway.errors import Refused, Stale, Unsupported
from kubeway.program.effects import Judge
from kubeway.shell.netlink import NetlinkSocket, refused
from kubeway.wire.conntrack import (
    Flow,
    delete_request,
    dump_request,
    read_flow,
    read_stats,
    stats_request,
)
from kubeway.wire.nfnetlink import number

_ATTEMPTS: Final = 5
_SEND_AT_ONCE: Final = 10_000

# Each filtered question has the kernel walk the whole table (50-70 ms with 100,000
# flows), reading all flows of a protocol takes 0.3 s: so a few questions are better.
_MOST_QUESTIONS: Final = 4


class Conntrack:
    """The flow table of this network namespace. One thread at a time may use it.

    Making one raises Unsupported if the kernel cannot list flows.
    """

    def __init__(self, netlink: NetlinkSocket | None = None) -> None:
        self._netlink = netlink or NetlinkSocket()
        try:
            self.count()
        except Refused as error:
            self._netlink.close()
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                raise Unsupported(
                    "this kernel cannot list flows (nf_conntrack_netlink is missing), "
                    "so stale UDP flows cannot be forgotten"
                ) from error
            raise

    def count(self) -> int:
        """How many flows there are."""
        return read_stats(self._netlink.ask(stats_request()))

    def flows(self, judge: Judge) -> Iterator[Flow]:
        """The flows a judge condemns; of a table that changes while it is read, one may come twice."""
        # Different questions may come to the same request: not all can be asked of the kernel.
        for request in {dump_request(*question): None for question in judge.questions(_MOST_QUESTIONS)}:
            for _ in range(_ATTEMPTS):
                try:
                    for answer in self._netlink.stream(request):
                        flow = read_flow(answer)
                        if judge.condemns(flow):
                            yield flow
                    break
                except Stale:
                    continue  # what was found was there; look again for what was passed over

    def forget(self, judge: Judge) -> int:
        """Forget every flow the judge condemns, and return how many there were.

        A flow that ends by itself meanwhile is none. Refused or Lost if the
        kernel would not have it.
        """
        doomed = list({delete_request(flow): None for flow in self.flows(judge)})
        gone = 0
        for at in range(0, len(doomed), _SEND_AT_ONCE):
            gone += self._delete(doomed[at : at + _SEND_AT_ONCE])
        return gone

    def _delete(self, requests: list[bytes]) -> int:
        # Without NLM_F_ACK only failures answer.
        acks = self._netlink.transact(number(requests, self._netlink.reserve(len(requests))))
        failed = [ack for ack in acks if ack.errno]
        for ack in failed:
            if ack.errno != errno.ENOENT:
                raise refused(ack, "forgetting a flow")
        return len(requests) - len(failed)

    def close(self) -> None:
        self._netlink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
