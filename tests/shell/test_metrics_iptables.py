"""What iptables mode counts by itself, told under kube-proxy's names."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from kubeway import records
from kubeway.errors import Lost, Refused
from kubeway.planes.memory import MemoryPlane
from kubeway.planes.nfacct import INVALID, LOCALHOST
from kubeway.planes.xtables import laws
from kubeway.planes.xtables import objects as o
from kubeway.planes.xtables.tally import Tally
from kubeway.program.plan import diff
from kubeway.program.program import Key, Object
from kubeway.shell.metrics import Metrics
from kubeway.shell.outfit import Figures
from kubeway.shell.xtables_tallied import Tallied

SYNC = "kubeproxy_sync_proxy_rules_iptables"
PACKETS = (
    "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
    "kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
)
CHAIN = ("ip", "nat", "KUBE-SVC-AAAAAAAAAAAAAAAA")
RULE = o.Rule((), o.Accept())


def lines(made: Metrics, *beginnings: str) -> list[str]:
    return [line for line in made.text().decode().splitlines() if line.startswith(beginnings)]


def opened(figures: Figures | None) -> Metrics:
    made = Metrics(mode="iptables", figures=lambda: figures)
    made.open()
    return made


def holding(rules: int) -> dict[Key, Object]:
    return {o.chain_key(*CHAIN): o.Chain(), o.rules_key(*CHAIN): o.Rules((RULE,) * rules)}  # type: ignore[arg-type]


def test_rules_there_and_rules_written_by_the_last_sync() -> None:
    tally = Tally()
    plane = Tallied(MemoryPlane(laws), tally)
    made = opened(Figures(tally))

    def sync(rules: int) -> list[str]:
        async def work() -> None:
            await plane.write(list(diff(await plane.read(), holding(rules))))

        asyncio.run(work())
        made.record(records.Synced(1))
        of_nat = '{ip_family="IPv4",table="nat"}'
        told = lines(made, f"{SYNC}_total{of_nat}", f"{SYNC}_last{of_nat}")
        return [line.rpartition(" ")[2] for line in told]

    assert sync(3) == ["3.0", "3.0"]
    assert sync(5) == ["5.0", "5.0"]
    assert sync(5) == ["5.0", "0.0"]
    assert f'{SYNC}_total{{ip_family="IPv6",table="filter"}} 0.0' in lines(made, SYNC)


def test_ipvs_mode_has_the_rules_and_no_packets_of_iptables_mode() -> None:
    tally = Tally()
    asyncio.run(Tallied(MemoryPlane(laws), tally).write(list(diff({}, holding(3)))))
    made = Metrics(mode="ipvs", figures=lambda: Figures(tally))
    made.open()
    made.record(records.Synced(1))
    assert lines(made, f'{SYNC}_total{{ip_family="IPv4",table="nat"}}') == [
        f'{SYNC}_total{{ip_family="IPv4",table="nat"}} 3.0'
    ]
    assert lines(made, "kubeproxy_sync_proxy_rules_duration_seconds_count")
    assert lines(made, "kubeproxy_sync_proxy_rules_last_timestamp_seconds")
    assert not lines(made, *PACKETS)
    assert not lines(made, "kubeproxy_sync_proxy_rules_nftables")


def test_what_was_refused_is_not_counted() -> None:
    tally = Tally()
    memory = MemoryPlane(laws)
    memory.troubles.append("refused")
    with pytest.raises(Refused):
        asyncio.run(Tallied(memory, tally).write(list(diff({}, holding(3)))))
    assert not tally.there


def test_the_commits_of_the_plane_show_through() -> None:
    memory = MemoryPlane(laws)
    before = Tallied(memory, Tally()).generation()
    memory.touch()
    assert Tallied(memory, Tally()).generation() == before + 1


def test_a_failure_is_partial_after_a_sync_that_went_well() -> None:
    made = opened(Figures(Tally()))

    def failures(kind: str) -> list[str]:
        return [line.rpartition(" ")[2] for line in lines(made, f"{SYNC}_{kind}failures_total")]

    made.record(records.SyncFailed("no"))
    assert (failures("restore_"), failures("partial_restore_")) == (["1.0", "1.0"], [])
    made.record(records.Synced(1))
    made.record(records.Refused("no"))
    made.record(records.Refused("again"))
    assert (failures("restore_"), failures("partial_restore_")) == (["3.0"] * 2, ["1.0"] * 2)


def test_packets_are_those_of_the_kernel_at_each_scrape() -> None:
    counted: dict[str, int] = {INVALID: 7}
    made = opened(Figures(Tally(), lambda: counted))
    assert lines(made, *PACKETS) == [f"{PACKETS[0]} 7.0"]
    counted.update({INVALID: 8, LOCALHOST: 1})
    assert lines(made, *PACKETS) == [f"{PACKETS[0]} 8.0", f"{PACKETS[1]} 1.0"]


def test_a_kernel_that_does_not_answer_is_no_failed_scrape() -> None:
    def fail() -> Mapping[str, int]:
        raise Lost("no answer")

    made = opened(Figures(Tally(), fail))
    assert lines(made, *PACKETS) == []
    assert lines(made, "kubeproxy_sync")


def test_without_counters_nothing_is_told_of_packets() -> None:
    assert not set(PACKETS) & opened(Figures(Tally())).types().keys()
    assert set(PACKETS) <= opened(Figures(Tally(), dict)).types().keys()


def test_other_modes_have_none_of_it() -> None:
    assert not [name for name in opened(None).types() if "iptables" in name]
