from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from kubeway import records
from kubeway.errors import Lost
from kubeway.model.forward import Forward
from kubeway.model.settle import ForwardKey
from kubeway.program.effects import Judge
from kubeway.shell import forgetter as module
from kubeway.shell.forgetter import PAUSE, Forgetter
from kubeway.values import UDP, parse_ip
from kubeway.wire.conntrack import IPS_SEEN_REPLY, Flow
from tests.worlds import service_docs, world

VIP = "10.96.0.53"


def dns(*endpoints: str) -> Forward:
    docs = service_docs("kube-system/dns:", vip=VIP, port=53, proto="UDP", target=53, endpoints=endpoints)
    (forward,) = world(docs).forwards
    return forward


def flow(endpoint: str) -> Flow:
    """A client's flow to the VIP, sent on to `endpoint`."""
    client, vip = parse_ip("10.244.1.99"), parse_ip(VIP)
    fields: dict[str, Any] = {
        "family": 4,
        "proto": UDP,
        "src": client,
        "sport": 4000,
        "dst": vip,
        "dport": 53,
        "reply_src": parse_ip(endpoint),
        "reply_sport": 53,
        "reply_dst": client,
        "reply_dport": 4000,
        "status": IPS_SEEN_REPLY,
    }
    blank = dict.fromkeys((name for name in Flow._fields if name not in fields), 0)
    return Flow(**{**blank, **fields})


class Bench:
    """A forgetter, what is in force, and connection tracking that waits until it is let go."""

    def __init__(self) -> None:
        self.in_force: dict[ForwardKey, Forward] = {}
        self.records: list[records.Record] = []
        self.judges: list[Judge] = []
        self.errors: list[Exception] = []
        self.entered = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.times: list[float] = [0.0]
        self.forgetter = Forgetter(self, self.in_force, self.records.append, self.clock)

    def clock(self) -> float:
        return self.times.pop(0) if len(self.times) > 1 else self.times[0]

    def forget(self, judge: Judge) -> int:
        self.entered.set()
        assert self.go.wait(20.0)
        self.judges.append(judge)
        if self.errors:
            raise self.errors.pop(0)
        return 1

    def change(self, new: Forward | None) -> None:
        key: ForwardKey = (dns("10.244.1.1").name, 4)
        old = self.in_force.pop(key, None)
        if new is not None:
            self.in_force[key] = new
        self.forgetter.changed([(key, old, new)], frozenset())

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(20.0):
            while not true():  # noqa: ASYNC110 (a thread makes it true)
                await asyncio.sleep(0.001)

    async def looked(self, times: int) -> None:
        await self.until(lambda: len(self.judges) >= times)


def running(bench: Bench, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(bench.forgetter.run())
            await story()
            task.cancel()

    asyncio.run(both())


def test_flows_to_an_endpoint_that_left_are_condemned() -> None:
    bench = Bench()

    async def story() -> None:
        bench.change(dns("10.244.1.1", "10.244.1.2"))
        await bench.looked(1)
        bench.change(dns("10.244.1.1"))
        await bench.looked(2)

    running(bench, story)
    assert bench.judges[1].condemns(flow("10.244.1.2"))
    assert not bench.judges[1].condemns(flow("10.244.1.1"))


def test_flows_to_an_endpoint_that_came_while_others_waited_are_not() -> None:
    bench = Bench()

    async def story() -> None:
        bench.change(dns("10.244.1.1", "10.244.1.2"))
        await bench.looked(1)
        # 2 leaves; before anybody looks, 3 joins, which alone would make nothing stale.
        bench.change(dns("10.244.1.1"))
        bench.change(dns("10.244.1.1", "10.244.1.3"))
        await bench.looked(2)

    running(bench, story)
    assert bench.judges[1].condemns(flow("10.244.1.2"))
    assert not bench.judges[1].condemns(flow("10.244.1.3"))


def test_an_endpoint_that_came_and_went_unseen_is_not_forgotten_about() -> None:
    bench = Bench()

    async def story() -> None:
        bench.change(dns("10.244.1.1"))
        await bench.looked(1)
        bench.change(dns("10.244.1.1", "10.244.1.2"))
        bench.change(dns("10.244.1.1"))
        await bench.looked(2)

    running(bench, story)
    assert bench.judges[1].condemns(flow("10.244.1.2"))


def test_of_a_service_that_is_gone_all_flows_are() -> None:
    bench = Bench()

    async def story() -> None:
        bench.change(dns("10.244.1.1"))
        await bench.looked(1)
        bench.change(None)
        await bench.looked(2)

    running(bench, story)
    assert bench.judges[1].condemns(flow("10.244.1.1"))


def test_what_comes_during_a_look_is_looked_at_next() -> None:
    bench = Bench()
    bench.go.clear()

    async def story() -> None:
        bench.change(dns("10.244.1.1", "10.244.1.2"))
        await bench.until(bench.entered.is_set)
        bench.change(dns("10.244.1.1"))
        bench.go.set()
        await bench.looked(2)

    running(bench, story)
    assert bench.judges[1].condemns(flow("10.244.1.2"))


def test_what_could_not_be_forgotten_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY", 0.001)
    bench = Bench()
    bench.errors.append(Lost("no answer"))

    async def story() -> None:
        bench.change(dns("10.244.1.1"))
        await bench.looked(2)

    running(bench, story)
    assert bench.judges[1].condemns(flow("10.244.1.9"))
    assert bench.records[0] == records.ForgetFailed("no answer", 0.001)


def test_a_dear_look_is_followed_by_a_pause() -> None:
    bench = Bench()
    bench.times = [0.0, 100.0]
    bench.change(dns("10.244.1.1"))
    assert asyncio.run(bench.forgetter._look(bench)) == PAUSE * 100.0
    assert bench.records == [records.Swept(100_000.0, v4=1), records.Forgot(1, 100_000.0)]


def test_where_flows_cannot_be_listed_nothing_is_kept() -> None:
    forgetter = Forgetter(None, {}, lambda record: None, lambda: 0.0)
    forgetter.changed([((dns("10.244.1.1").name, 4), None, dns("10.244.1.1"))], frozenset())
    assert forgetter._open == []
