"""/readyz: what it answers, when it waits, and what it says of bad questions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from kubeway.machines.convergence import Convergence
from kubeway.machines.vitals import Vitals
from kubeway.shell.http import Answer
from kubeway.shell.readyz import Readiness

STREAMS = ("services", "slices")


class Bench:
    """Both streams listed at 10 and synced. `true`: the kernel says nobody else wrote."""

    def __init__(self, streams: tuple[str, ...] = STREAMS, *, ready: bool = True) -> None:
        self.vitals = Vitals()
        self.convergence = Convergence(streams, lambda: self.readiness.wake())
        self.true = True
        self.readiness = Readiness(self.vitals, self.convergence, lambda: self.true)
        for stream in streams:
            self.convergence.heard(stream, 10, anew=True)
        if ready:
            self.vitals.synced(1, 1)

    def write(self, rv: int) -> None:
        self.convergence.changed(0.0)
        self.convergence.heard("slices", rv, writes=[rv])

    def sync(self, aside: int = 0) -> None:
        self.convergence.taken()
        self.convergence.arrived(aside)

    def ask(self, *generations: str, timeout: str = "") -> Coroutine[Any, Any, Answer]:
        query: dict[str, list[str]] = {"generation": list(generations)} if generations else {}
        return self.readiness.answer({**query, **({"timeout": [timeout]} if timeout else {})})

    def now(self, *generations: str, timeout: str = "") -> Answer:
        return asyncio.run(self.ask(*generations, timeout=timeout))

    def later(self, first: Callable[[], None], *generations: str) -> Answer:
        """The answer to a question that waits for `first`, which happens once it waits."""

        async def run() -> Answer:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(self.ask(*generations, timeout="30s"))
                while not self.readiness._waiting:  # noqa: ASYNC110 (it tells nobody that it waits)
                    await asyncio.sleep(0)
                assert not task.done()
                first()
            return task.result()

        return asyncio.run(run())


@pytest.mark.parametrize(("ready", "status"), [(False, 503), (True, 200)])
def test_without_a_generation_it_is_about_the_first_sync(ready: bool, status: int) -> None:
    answer = Bench(ready=ready).now()
    assert (answer.status, json.loads(answer.body)) == (status, {"ready": ready})


def test_a_generation_that_is_held() -> None:
    answer = Bench().now("7")
    assert (answer.status, answer.body) == (200, b'{"ready":true,"generation":7}')


def test_a_generation_that_is_not_tells_what_is_waited_for() -> None:
    bench = Bench()
    bench.write(12)
    answer = bench.now("12")
    body = json.loads(answer.body)
    assert answer.status == 503
    assert body.pop("waited") > 0
    assert body == {
        "ready": False,
        "generation": 12,
        "held": 10,
        "heard": {"services": 10, "slices": 12},
        "setAside": 0,
    }


def test_several_generations_are_all_to_be_held() -> None:
    bench = Bench()
    bench.write(12)
    bench.sync()
    assert json.loads(bench.now("7", "12").body) == {"ready": True, "generation": [7, 12]}
    assert bench.now("7", "13").status == 503


def test_before_the_first_sync_nothing_is_held() -> None:
    assert Bench(ready=False).now("7").status == 503


def test_the_kernel_has_the_last_word() -> None:
    bench = Bench()
    bench.true = False
    assert bench.now("7").status == 503


def test_what_the_kernel_refused_is_not_held() -> None:
    bench = Bench()
    bench.sync(aside=1)
    answer = bench.now("7")
    assert (answer.status, json.loads(answer.body)["setAside"]) == (503, 1)


def test_it_waits_for_the_sync() -> None:
    bench = Bench()
    bench.write(12)
    assert bench.later(bench.sync, "12").status == 200


def test_it_waits_for_the_write_to_come() -> None:
    bench = Bench()

    def comes() -> None:
        bench.write(12)
        bench.sync()

    assert bench.later(comes, "12").status == 200


def test_a_doubt_that_comes_to_nothing_is_told_by_nobody() -> None:
    bench = Bench()
    bench.true = False

    def settle() -> None:
        bench.true = True

    assert bench.later(settle, "7").status == 200


def test_it_does_not_wait_for_ever() -> None:
    bench = Bench()
    assert bench.now("12", timeout="20ms").status == 503
    assert not bench.readiness._waiting


@pytest.mark.parametrize("generation", ["", "x", "-1", "1.5", "12a", "9" * 30, "٣"])
def test_a_generation_that_is_none(generation: str) -> None:
    answer = Bench().now(generation)
    assert answer.status == 400
    assert json.loads(answer.body)["problem"].endswith("is not a resource version, a number")


@pytest.mark.parametrize("timeout", ["5", "s", "-1s", "61s", "2m", "1h", "9" * 20 + "s"])
def test_a_timeout_that_is_none(timeout: str) -> None:
    answer = Bench().now("7", timeout=timeout)
    assert answer.status == 400
    assert "is not a duration such as 5s or 500ms, 60s at most" in json.loads(answer.body)["problem"]


@pytest.mark.parametrize("timeout", ["0s", "500ms", "1.5s", "1m", "60s"])
def test_a_timeout_that_is_one(timeout: str) -> None:
    assert Bench().now("7", timeout=timeout).status == 200


def test_manifests_have_no_generations() -> None:
    answer = Bench(()).now("7")
    assert answer.status == 400
    assert "manifests" in json.loads(answer.body)["problem"]
