"""What a mode works with on this node, and what it says when some of that is missing."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any

import pytest

from kubeway.errors import Refused, Unsupported
from kubeway.model.node import Ipvs, NodeFacts, Options, Steering
from kubeway.model.view import node_view
from kubeway.planes import sysctl
from kubeway.planes.memory import MemoryPlane
from kubeway.planes.relay.datagram import IDLE
from kubeway.planes.relay.stream import Limits
from kubeway.program.link import Linker
from kubeway.program.program import Change, Key
from kubeway.shell import (
    ipset_plane,
    ipvs_plane,
    kernel,
    leftovers,
    link_plane,
    outfit,
    steering,
    surroundings,
)
from kubeway.shell import nft as nft_plane
from kubeway.shell.compound import Compound
from kubeway.shell.kernel import release
from kubeway.shell.options import Relaying
from kubeway.shell.relay import replies
from kubeway.shell.relay.plane import RelayPlane
from kubeway.wire.netlink import Ack, messages
from kubeway.wire.nfnetlink import NFNL_MSG_BATCH_END

IPVS = Options(mode="ipvs", ipvs=Ipvs(scheduler="lblc", strict_arp=True))


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("6.18.0-1-cloud", (6, 18)),
        ("5.8.0", (5, 8)),
        ("4.1", (4, 1)),
        ("3.10.0-1160.el7.x86_64", (3, 10)),
        ("unheard of", (0, 0)),
    ],
)
def test_release(text: str, version: tuple[int, int]) -> None:
    assert release(text) == version


def test_release_of_this_machine() -> None:
    assert release() > (3, 0)


@pytest.mark.parametrize(
    ("version", "told"),
    [((0, 0), False), ((4, 0), False), ((4, 1), True), ((5, 8), True), ((5, 9), False), ((6, 1), False)],
)
def test_kernels_that_are_to_be_told_to_let_ports_be_used_again(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], told: bool
) -> None:
    monkeypatch.setattr(kernel, "release", lambda: version)
    able = outfit.able(IPVS)
    assert able.ipvs == Ipvs(scheduler="lblc", strict_arp=True, reuse_ports=told)


@pytest.mark.parametrize(
    ("processors", "asked", "workers"), [(1, 0, 1), (3, 0, 1), (4, 0, 2), (64, 0, 4), (1, 9, 9), (64, 1, 1)]
)
def test_as_many_workers_as_were_asked_for_or_suit_the_machine(
    monkeypatch: pytest.MonkeyPatch, processors: int, asked: int, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(processors)))
    able = outfit.able(Options(mode="userspace", relay_workers=asked))
    assert able.relay_workers == workers
    assert node_view(NodeFacts(name="n"), able, ()).relay_workers == workers


def test_the_relay_is_told_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(nft_plane, "probe_steering", lambda: "")
    monkeypatch.setattr(replies, "probe", lambda: "")
    monkeypatch.setattr(RelayPlane, "__init__", lambda self, *_, **words: told.update(words))
    monkeypatch.setattr(link_plane, "LinkPlane", lambda objects: MemoryPlane(sysctl))
    monkeypatch.setattr(nft_plane, "NftPlane", lambda origin, objects: MemoryPlane(sysctl))
    monkeypatch.setattr(nft_plane, "probe_spreading", lambda: "")
    monkeypatch.setattr(surroundings, "Surroundings", lambda: None)
    options = Options(mode="userspace", relay_workers=3)

    def ask(relaying: Relaying) -> dict[str, Any]:
        outfit.outfit(options, Linker(), lambda record: None, relaying=relaying)
        return {name: told[name] for name in ("workers", "limits", "idle")}

    assert ask(Relaying()) == {"workers": 3, "limits": Limits(), "idle": IDLE}
    asked = ask(Relaying(drain=1.0, half_closed=2.0, udp_idle=3.0))
    assert asked == {"workers": 3, "limits": Limits(half_closed=2.0, drain=1.0), "idle": 3.0}


Probe = Callable[..., str]


@pytest.mark.parametrize(
    ("ip_vs", "scheduler", "ipset", "link", "said"),
    [
        ("no ip_vs", "not asked", "no sets", "no links", "mode ipvs: no ip_vs; no sets; no links"),
        ("", "no lblc", "", "no links", "mode ipvs: no links; no lblc"),
        ("", "", "no sets", "", "mode ipvs: no sets"),
        ("", "no lblc", "", "", "mode ipvs: no lblc"),
    ],
)
def test_all_that_is_missing_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, ip_vs: str, scheduler: str, ipset: str, link: str, said: str
) -> None:
    asked: list[str] = []

    def probe_scheduler(name: str) -> str:
        asked.append(name)
        return scheduler

    monkeypatch.setattr(ipvs_plane, "probe", lambda: ip_vs)
    monkeypatch.setattr(ipvs_plane, "probe_scheduler", probe_scheduler)
    monkeypatch.setattr(ipset_plane, "probe", lambda: ipset)
    monkeypatch.setattr(link_plane, "probe", lambda: link)
    with pytest.raises(Unsupported) as error:
        outfit.outfit(IPVS, Linker(), lambda record: None)
    assert str(error.value) == said
    assert asked == ([] if ip_vs else ["lblc"])


@pytest.mark.parametrize(
    ("nft", "raw", "said"),
    [
        ("no tproxy", "no CAP_NET_RAW", "mode userspace: no tproxy; no CAP_NET_RAW"),
        ("no tproxy", "", "mode userspace: no tproxy"),
        ("", "no CAP_NET_RAW", "mode userspace: no CAP_NET_RAW"),
    ],
)
def test_what_the_relay_needs_and_has_not_is_said_before_it_listens(
    monkeypatch: pytest.MonkeyPatch, nft: str, raw: str, said: str
) -> None:
    monkeypatch.setattr(nft_plane, "probe_steering", lambda: nft)
    monkeypatch.setattr(replies, "probe", lambda: raw)
    monkeypatch.setattr(RelayPlane, "__init__", _never)
    with pytest.raises(Unsupported) as error:
        outfit.outfit(Options(mode="userspace", steering="nft"), Linker(), lambda record: None)
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("asked", "by_nft", "sets", "by_xtables", "chosen"),
    [
        ("auto", "", "no sets", "no tool", ("nft", "this kernel has all that they need")),
        ("auto", "no tproxy", "", "", ("xtables", "no tproxy")),
        ("nft", "", "no sets", "no tool", ("nft", "asked for by --kubeway-steering")),
        ("xtables", "", "", "", ("xtables", "asked for by --kubeway-steering")),
    ],
)
def test_nft_leads_to_the_relay_where_it_can_and_xtables_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
    asked: Steering,
    by_nft: str,
    sets: str,
    by_xtables: str,
    chosen: tuple[str, str],
) -> None:
    lacking(monkeypatch, by_nft, sets, by_xtables, "")
    assert steering.choose(asked) == chosen


@pytest.mark.parametrize(
    ("asked", "by_nft", "sets", "by_xtables", "relay", "said"),
    [
        (
            "auto",
            "no tproxy",
            "no sets",
            "no tool",
            "no CAP_NET_RAW",
            "no tproxy; and by xtables: no sets; no tool; no CAP_NET_RAW",
        ),
        ("auto", "no tproxy", "", "no tool", "", "no tproxy; and by xtables: no tool"),
        ("auto", "no tproxy", "", "", "no CAP_NET_RAW", "no CAP_NET_RAW"),
        ("nft", "no tproxy", "", "", "", "no tproxy"),
        ("xtables", "", "no sets", "", "", "no sets"),
    ],
)
def test_whatever_keeps_packets_from_the_relay_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    asked: Steering,
    by_nft: str,
    sets: str,
    by_xtables: str,
    relay: str,
    said: str,
) -> None:
    lacking(monkeypatch, by_nft, sets, by_xtables, relay)
    with pytest.raises(Unsupported) as error:
        steering.choose(asked)
    assert str(error.value) == f"mode userspace: {said}"


def lacking(monkeypatch: pytest.MonkeyPatch, by_nft: str, sets: str, by_xtables: str, relay: str) -> None:
    monkeypatch.setattr(nft_plane, "probe_steering", lambda: by_nft)
    monkeypatch.setattr(ipset_plane, "probe", lambda: sets)
    monkeypatch.setattr(steering, "probe_xtables", lambda: by_xtables)
    monkeypatch.setattr(replies, "probe", lambda: relay)


def test_bridges_that_ask_the_rules_are_told_of(tmp_path: Path) -> None:
    assert steering.asking(tmp_path) == ()
    (tmp_path / "bridge-nf-call-iptables").write_text("0\n")
    (tmp_path / "bridge-nf-call-ip6tables").write_text("1\n")
    assert steering.asking(tmp_path) == ("net.bridge.bridge-nf-call-ip6tables",)


def test_several_workers_need_a_kernel_that_can_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nft_plane, "probe_steering", lambda: "")
    monkeypatch.setattr(nft_plane, "probe_spreading", lambda: "no hash")
    monkeypatch.setattr(replies, "probe", lambda: "")
    monkeypatch.setattr(RelayPlane, "__init__", _never)
    asked = Options(mode="userspace", relay_workers=2, steering="nft")
    with pytest.raises(Unsupported, match=r"^mode userspace: no hash$"):
        outfit.outfit(asked, Linker(), lambda record: None)
    with pytest.raises(AssertionError, match="it listens"):  # of one worker nobody has to be chosen
        outfit.outfit(Options(mode="userspace", relay_workers=1), Linker(), lambda record: None)


def _never(*_: object, **__: object) -> None:
    raise AssertionError("it listens")


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ({"tproxy": errno.ENOENT}, "this kernel's nftables have no tproxy (module nft_tproxy)"),
        ({"socket": errno.ENOENT}, "this kernel's nftables have no socket (module nft_socket)"),
        ({"tproxy": errno.EPERM}, "nftables do not take tproxy: not permitted (EPERM)"),
        ({}, ""),
    ],
)
def test_rules_that_the_kernel_does_not_take_are_named(
    monkeypatch: pytest.MonkeyPatch, refused: dict[str, int], said: str
) -> None:
    class Kernel:
        def __enter__(self) -> Kernel:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def transact(self, data: bytes) -> list[Ack]:
            numbers = [message.kind for message in messages(data)]
            assert numbers[-1] != NFNL_MSG_BATCH_END  # or it were made
            return [Ack(3, one, "not permitted") for name, one in refused.items() if name.encode() in data]

    monkeypatch.setattr(nft_plane, "NetlinkSocket", Kernel)
    assert nft_plane.probe_steering() == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EPERM, "UDP clients can only be answered with CAP_NET_RAW: run as root"),
        (errno.EACCES, "UDP clients of IPv6 cannot be answered: "),
        (errno.EAFNOSUPPORT, ""),  # where there is no IPv6, nobody asks by it
        (0, ""),
    ],
)
def test_raw_sockets_that_cannot_be_had_are_named(
    monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    class Sockets:
        def __init__(self, family: int) -> None:
            if number and (family == socket.AF_INET6 or number == errno.EPERM):
                raise OSError(number, os.strerror(number))

        def close(self) -> None:
            pass

    monkeypatch.setattr(replies, "speaker", Sockets)
    found = replies.probe()
    assert found.startswith(said)
    assert bool(found) == bool(said)
    assert "\n" not in found


# --- several planes as one --------------------------------------------------------------


class Tended(MemoryPlane):
    """A plane with something going on until `due`."""

    def __init__(self, due: float) -> None:
        super().__init__(sysctl)
        self.due = due
        self.tended: list[float] = []

    def tend(self, now: float) -> float:
        self.tended.append(now)
        return self.due


def test_who_looks_after_planes_is_told_the_first_time_that_one_asks_for() -> None:
    planes: dict[str, Any] = {"a": Tended(7.0), "b": MemoryPlane(sysctl), "c": Tended(5.0)}
    assert Compound(planes).tend(3.0) == 5.0
    assert planes["a"].tended == planes["c"].tended == [3.0]


def test_planes_in_which_nothing_goes_on_are_left_alone() -> None:
    assert Compound({"b": MemoryPlane(sysctl)}).tend(3.0) == inf


class Standing(MemoryPlane):
    def __init__(self, told: list[str]) -> None:
        super().__init__(sysctl)
        self._told = told

    async def stand(self) -> None:
        self._told.append("stands")

    async def write(self, changes: Sequence[Change]) -> None:
        self._told.append("written")


class Told(MemoryPlane):
    def __init__(self, told: list[str]) -> None:
        super().__init__(sysctl)
        self._told = told

    async def write(self, changes: Sequence[Change]) -> None:
        self._told.append("led to")


def test_what_is_led_to_is_at_work_before_anything_leads_there() -> None:
    told: list[str] = []
    plane = Compound({"relay": Standing(told), "nft": Told(told)})
    asyncio.run(plane.write([Change("add", Key("nft", "table", ()), None, object())]))
    assert told == ["stands", "led to"]
    asyncio.run(plane.write([Change("add", Key("relay", "way", ()), None, object())]))
    assert told[2:] == ["written"]


# --- what is left of ipvs mode, where there is no ipvs ------------------------------------


@pytest.mark.parametrize("everybodys", [False, True])
def test_where_no_set_is_nothing_is_asked_that_loads_a_module(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, everybodys: bool
) -> None:
    removed: list[str] = []

    class Links:
        def close(self) -> None:
            removed.append("closed")

        def remove(self) -> list[str]:
            removed.append("removed")
            return ["link kube-ipvs0"]

    def never(*_: object) -> Any:
        raise Refused("this loads a module", 0)

    monkeypatch.setattr(leftovers, "_IP_SET", tmp_path / "ip_set")
    monkeypatch.setattr(link_plane, "LinkPlane", Links)
    monkeypatch.setattr(ipset_plane, "IpsetPlane", never)
    monkeypatch.setattr(ipvs_plane, "remove", never)
    assert list(leftovers._ipvs(everybodys)) == (["link kube-ipvs0"] if everybodys else [])
    assert removed == (["removed", "closed"] if everybodys else ["closed"])
