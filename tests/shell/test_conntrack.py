from __future__ import annotations

import errno
from collections.abc import Iterator
from struct import pack
from typing import Any, cast

import pytest

from kubeway.errors import Refused, Stale, Unsupported
from kubeway.program import effects
from kubeway.program.effects import Judge
from kubeway.shell.conntrack import Conntrack
from kubeway.shell.netlink import NetlinkSocket
from kubeway.values import UDP, Ip, parse_ip
from kubeway.wire.conntrack import delete_request, read_flow
from kubeway.wire.netlink import Ack, Message, attr, be32, messages, nest
from kubeway.wire.nfnetlink import header

VIP = parse_ip("10.96.0.1")
JUDGE = Judge([effects.Stale(UDP, 4, VIP, 53, frozenset())], frozenset())


def answer(sport: int) -> Message:
    """A UDP flow from port `sport` to the way in, sent on to 10.244.1.1:5353."""

    def side(which: int, src: Ip, dst: Ip, ports: tuple[int, int]) -> bytes:
        numbers = attr(2, pack(">H", ports[0])), attr(3, pack(">H", ports[1]))
        return nest(which, nest(1, attr(1, src), attr(2, dst)), nest(2, attr(1, b"\x11"), *numbers))

    client, pod = parse_ip("10.1.1.1"), parse_ip("10.244.1.1")
    orig, reply = side(1, client, VIP, (sport, 53)), side(2, pod, client, (5353, sport))
    return Message(256, 2, 1, memoryview(header(2) + orig + reply + be32(3, 0) + be32(12, sport)))


class Double:
    """A netlink socket that knows no kernel: each dump hands out the next of `dumps`."""

    def __init__(self, *dumps: list[Message | Exception], stats: Exception | None = None) -> None:
        self.dumps = iter(dumps)
        self.stats = stats
        self.deleted: list[bytes] = []
        self.errors: dict[int, int] = {}  # which delete, counted from 0, fails with what
        self.closed = False

    def ask(self, request: bytes) -> Message:
        if self.stats:
            raise self.stats
        return Message(256, 0, 1, memoryview(header(0) + be32(1, 7)))

    def stream(self, request: bytes) -> Iterator[Message]:
        for each in next(self.dumps):
            if isinstance(each, Exception):
                raise each
            yield each

    def reserve(self, count: int) -> int:
        return 100

    def transact(self, data: bytes) -> list[Ack]:
        self.deleted += [bytes(m.body) for m in messages(data)]
        return [Ack(100 + index, code, "") for index, code in self.errors.items()]

    def close(self) -> None:
        self.closed = True


def conntrack(double: Double) -> Conntrack:
    return Conntrack(cast(NetlinkSocket, cast(Any, double)))


def test_condemned_flows_are_deleted_and_counted() -> None:
    double = Double([answer(1), answer(2)])
    assert conntrack(double).forget(JUDGE) == 2
    assert double.deleted == [delete_request(read_flow(answer(n)))[16:] for n in (1, 2)]


def test_a_flow_that_ended_by_itself_is_not_counted() -> None:
    double = Double([answer(1), answer(2)])
    double.errors = {1: errno.ENOENT}
    assert conntrack(double).forget(JUDGE) == 1


def test_a_refusal_is_raised() -> None:
    double = Double([answer(1)])
    double.errors = {0: errno.EPERM}
    with pytest.raises(Refused, match=r"forgetting a flow -> Operation not permitted \(EPERM\)"):
        conntrack(double).forget(JUDGE)


def test_a_table_that_changed_while_it_was_read_is_read_again() -> None:
    double = Double([answer(1), Stale("torn")], [answer(1), answer(2)])
    assert conntrack(double).forget(JUDGE) == 2


def test_a_table_that_always_changes_is_read_five_times_and_what_was_found_is_deleted() -> None:
    double = Double(*[[answer(n), Stale("torn")] for n in (1, 2, 2, 3, 1)])
    assert conntrack(double).forget(JUDGE) == 3
    assert next(double.dumps, None) is None


def test_nothing_stale_asks_the_kernel_nothing() -> None:
    assert conntrack(Double()).forget(Judge((), frozenset())) == 0


def test_a_kernel_that_cannot_list_flows_is_named() -> None:
    double = Double(stats=Refused("Invalid argument (EINVAL)", errno.EINVAL))
    with pytest.raises(Unsupported, match="nf_conntrack_netlink is missing"):
        conntrack(double)
    assert double.closed


def test_another_refusal_is_not_taken_for_a_missing_module() -> None:
    double = Double(stats=Refused("Operation not permitted (EPERM)", errno.EPERM))
    with pytest.raises(Refused, match="EPERM"):
        conntrack(double)
    assert double.closed
