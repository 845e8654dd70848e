"""What the relay has carried, as metrics: sums, those that count up never falling."""

from __future__ import annotations

import asyncio

from kubeway import records
from kubeway.planes.relay.entrance import Tally
from kubeway.shell.http import Ask
from kubeway.shell.metrics import Metrics
from kubeway.shell.metrics_pages import Pages
from kubeway.shell.metrics_relay import PATIENCE
from kubeway.shell.relay.orders import Sums


class Relay:
    """Has these figures to tell when it is asked."""

    def __init__(self) -> None:
        self.processes = [7, 8]
        self.asked: list[float] = []
        self.coming = self._told = Sums()

    async def ask(self, patience: float) -> None:
        self.asked.append(patience)
        self._told = self.coming

    def sums(self) -> Sums:
        return self._told


def values(made: Metrics) -> dict[str, float]:
    lines = made.text().decode().splitlines()
    return {
        name.removeprefix("kubeway_relay_"): float(value)
        for name, _, value in (line.rpartition(" ") for line in lines)
        if name.startswith("kubeway_relay_")
    }


def test_each_figure_has_its_metric() -> None:
    relay = Relay()
    made = Metrics(mode="userspace", relay=lambda: relay)
    assert set(values(made).values()) == {0.0, 2.0}  # two workers
    relay.coming = Sums(Tally(1, 2, 3, 4, 5), Tally(6, 7, 8, 9, 10), 11, 12, 13, 14, 15)
    asyncio.run(made.ask())
    assert relay.asked == [PATIENCE]
    assert values(made) == {
        'connections_total{protocol="TCP"}': 1,
        'refused_total{protocol="TCP"}': 2,
        'retries_total{protocol="TCP"}': 3,
        'sent_bytes_total{protocol="TCP"}': 4,
        'received_bytes_total{protocol="TCP"}': 5,
        'connections_total{protocol="UDP"}': 6,
        'refused_total{protocol="UDP"}': 7,
        'retries_total{protocol="UDP"}': 8,
        'sent_bytes_total{protocol="UDP"}': 9,
        'received_bytes_total{protocol="UDP"}': 10,
        "shed_total": 11,
        "datagrams_lost_total": 12,
        "open_connections": 13,
        "waiting_connections": 14,
        "sessions": 15,
        "workers": 2,
        "worker_restarts_total": 0,
    }


def test_what_counts_up_never_falls_and_what_is_now_does() -> None:
    relay = Relay()
    made = Metrics(mode="userspace", relay=lambda: relay)
    for sums, connections, open_ in (
        (Sums(Tally(5), open=5), 5, 5),
        (Sums(Tally(5), open=1), 5, 1),
        (Sums(Tally(9)), 9, 0),
    ):
        relay.coming = sums
        asyncio.run(made.ask())
        told = values(made)
        assert (told['connections_total{protocol="TCP"}'], told["open_connections"]) == (connections, open_)


def test_who_asks_for_the_page_sees_what_the_workers_tell_now() -> None:
    relay = Relay()
    made = Metrics(mode="userspace", relay=lambda: relay)
    pages = Pages(made, mode="userspace", started=0)
    relay.coming = Sums(waiting=3)
    answer = asyncio.run(pages.answer(Ask("/metrics")))
    assert isinstance(answer.body, bytes)
    assert b"kubeway_relay_waiting_connections 3.0" in answer.body


def test_workers_that_died_are_counted_from_the_first() -> None:
    relay = Relay()
    made = Metrics(mode="userspace", relay=lambda: relay)
    made.record(records.RelayWorkerDied(9, "it died (killed by signal 9)"))
    assert values(made)["worker_restarts_total"] == 1
    made.record(records.RelayWorkerDied(10, "it died (killed by signal 9)"))
    assert values(made)["worker_restarts_total"] == 2


def test_modes_that_carry_nothing_tell_nothing_of_it() -> None:
    made = Metrics(mode="nftables")
    asyncio.run(made.ask())
    assert values(made) == {}
