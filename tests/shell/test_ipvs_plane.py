"""The ipvs plane on a kernel made of dicts; the real one is in tests/guest."""

from __future__ import annotations

import asyncio
import errno
from math import inf
from random import Random
from types import TracebackType
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway import records
from kubeway.errors import KubewayError, Lost, Refused, Stale, Unsupported
from kubeway.planes.ipvs.objects import (
    KINDS,
    PLANE,
    TIMEOUTS,
    Destination,
    Server,
    Timeouts,
    destination_key,
    server_key,
)
from kubeway.program.plan import diff, steps
from kubeway.program.program import Change, Key, Object
from kubeway.shell import ipvs_plane
from kubeway.shell.ipvs_plane import IpvsPlane, probe, probe_scheduler, remove
from kubeway.values import TCP, UDP, Ip, parse_ip
from kubeway.wire.netlink import Message
from tests.golden.ipvs.golden import HERE
from tests.planes.ip_vs import IpVs
from tests.planes.ipvsprograms import DNS, POD, VIP, WEB, WEB_POD, every_construct, programs

OTHER_POD = destination_key(VIP, TCP, 80, parse_ip("10.244.1.8"), 8080)
DNS_POD = destination_key(VIP, UDP, 53, POD, 53)
RR = Server("rr")
SET_DEST, DEL_DEST = 6, 7


class Kernel(IpVs):
    """As a socket that is opened and closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Number:
    def __init__(self, kernel: Kernel) -> None:
        self.read, self.close = kernel.count, kernel.close


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A plane on its kernel; everything in the kernel is ours."""

    def __init__(self, program: dict[Key, Object], rng: Random | None = None, limit: float = 900.0) -> None:
        self.kernel, self.clock = Kernel(), Clock()
        self.told: list[records.Record] = []
        with pytest.MonkeyPatch.context() as patch:
            use(patch, self.kernel)
            self.plane = self.start(program, limit)
        self.kernel._rng = rng

    def start(self, program: dict[Key, Object], limit: float = 900.0) -> IpvsPlane:
        """Another daemon's."""
        plane = IpvsPlane(program, lambda: everything, clock=self.clock, record=self.told.append, limit=limit)
        plane._count = self.kernel.count  # type: ignore[method-assign]
        return plane

    def level(self, program: dict[Key, Object] | None = None) -> list[Change]:
        """As the keeper: read, write the difference, steps in order."""
        if program is not None:
            self.plane.program = program
        changes = list(diff(self.plane.read_now(), self.plane.program))
        for step in steps(changes, {PLANE: KINDS}):
            self.plane.write_now(step.changes)
        return changes

    def connect(self, key: Key, count: int) -> None:
        """So many are connected to this destination now."""
        self.kernel.services[key.name[:3]].destinations[key.name[3:]][2] = count

    def weight(self, key: Key) -> int | None:
        service = self.kernel.services.get(key.name[:3])
        one = service.destinations.get(key.name[3:]) if service else None
        return one[1] if one else None

    def pass_time(self, until: float = inf) -> None:
        """Tend when it is due, as long as it ever is."""
        while (due := self.plane.tend(self.clock.now)) <= until and due < inf:
            assert due > self.clock.now
            self.clock.now = due


def everything(*_: object) -> bool:
    return True


def use(patch: pytest.MonkeyPatch, kernel: Kernel) -> None:
    patch.setattr(ipvs_plane, "NetlinkSocket", lambda protocol: kernel)
    patch.setattr(ipvs_plane, "_Listing", lambda: kernel)
    patch.setattr(ipvs_plane, "_Number", lambda: Number(kernel))
    patch.setattr(ipvs_plane, "LIST", HERE)


WEBS: dict[Key, Object] = {WEB: RR, WEB_POD: Destination(), OTHER_POD: Destination()}
ONE: dict[Key, Object] = {WEB: RR, OTHER_POD: Destination()}


# --- reading and writing ------------------------------------------------------------------------


def test_what_is_wanted_gets_there_and_stays() -> None:
    world = World(every_construct())
    assert len(world.level()) == len(every_construct())
    assert world.plane.read_now() == every_construct()
    assert world.level() == []
    assert asyncio.run(world.plane.read()) == every_construct()
    world.level({})
    assert world.kernel.services == {}
    assert world.kernel.timeouts == [1000, 120, 250]


def test_messages_are_sent_a_thousand_at_once() -> None:
    world = World({server_key(VIP, TCP, port): RR for port in range(1, 2502)})
    asyncio.run(world.plane.write(list(diff({}, world.plane.program))))
    assert world.kernel.sent == [1000, 1000, 501]
    assert world.plane.read_now() == world.plane.program


def test_every_change_is_safe_to_repeat() -> None:
    world = World(every_construct())
    there, gone = list(diff({}, every_construct())), list(diff(every_construct(), {}))
    for changes in (there, there, gone, gone, there):
        world.plane.write_now(changes)
    assert world.plane.read_now() == every_construct()


def test_what_is_set_and_gone_is_made_again_with_its_server() -> None:
    world = World(WEBS)
    world.plane.write_now([Change("set", key, one, one) for key, one in WEBS.items()])
    assert world.plane.read_now() == WEBS


def test_nothing_is_no_message() -> None:
    world = World({})
    world.plane.write_now([])
    world.plane.write_now([Change("del", TIMEOUTS, Timeouts(1, 1, 1), None)])
    assert (world.kernel.sent, world.kernel.timeouts) == ([], [900, 120, 300])


def test_of_several_that_are_refused_the_first_is_told_and_the_others_are_made() -> None:
    bad = {WEB: Server("nosuch"), DNS: RR, WEB_POD: Destination(), DNS_POD: Destination()}
    world = World(bad)
    with pytest.raises(Refused) as refused:
        world.level()
    assert (refused.value.key, refused.value.errno) == (WEB, errno.ENOENT)
    assert refused.value.words == "this kernel has no ip_vs scheduler nosuch (module ip_vs_nosuch)"
    assert refused.value.change == "add server 10.96.0.9:80/TCP"
    assert world.plane.read_now() == {DNS: RR, DNS_POD: Destination()}


def test_an_answer_that_is_missing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(WEBS)
    monkeypatch.setattr(world.kernel, "transact", lambda data: [])
    with pytest.raises(Lost):
        world.level()


def test_a_server_that_the_list_passes_over_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    program: dict[Key, Object] = {}
    for port in range(1, 200):
        program[server_key(VIP, TCP, port)] = RR
        program[destination_key(VIP, TCP, port, POD, port)] = Destination()
    world = World(program)
    world.level()
    whole = world.kernel.read().splitlines(keepends=True)
    monkeypatch.setattr(world.kernel, "read", lambda: b"".join([*whole[:103], *whole[143:]]))
    assert world.plane.read_now() == program


def test_a_dump_that_passed_over_one_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(WEBS)
    world.level()
    whole, cuts = world.kernel.dump, iter([1, 1, 0])

    def dump(request: bytes) -> list[Message]:
        answers = whole(request)
        return answers[next(cuts, 0) :] if answers[0].body[0] == 4 else answers

    monkeypatch.setattr(world.kernel, "dump", dump)
    assert world.plane.read_now() == WEBS
    monkeypatch.setattr(world.plane._number, "read", lambda: 7)
    with pytest.raises(Stale, match="ten times"):
        world.plane.read_now()


def test_predicates_are_asked_for_at_each_read() -> None:
    world = World({WEB: RR})
    world.plane.write_now([Change("add", key, None, RR) for key in (WEB, DNS)])
    asked: list[tuple[Ip, int, int]] = []

    def note(vip: Ip, proto: int, port: int) -> bool:
        asked.append((vip, proto, port))
        return len(asked) > 1

    world.plane._ours = lambda: note
    assert [c.key for c in world.level()] == []
    assert [c.key for c in world.level()] == [DNS]
    assert asked == [DNS.name, DNS.name]


# --- generations ----------------------------------------------------------------------------------


def test_a_generation_moves_by_one_for_a_write_of_ours() -> None:
    world = World({})
    first = world.plane.generation()
    for program in (WEBS, every_construct(), ONE, ONE, {}):
        before, changes = world.plane.generation(), world.level(program)
        assert world.plane.generation() - before == len(steps(changes, {PLANE: KINDS}))
    assert first == 0


def test_and_by_one_for_a_look_after_others_made_servers() -> None:
    world = World(WEBS)
    world.level()
    before = world.plane.generation()
    world.kernel.marks += [1, 2]
    assert world.plane.generation() == before + 1
    assert world.plane.generation() == before + 1


def test_what_others_do_during_a_write_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(WEBS)
    before = world.plane.generation()
    whole = world.kernel.transact

    def meddled(data: bytes) -> object:
        world.kernel.marks.append(1)
        return whole(data)

    monkeypatch.setattr(world.kernel, "transact", meddled)
    world.plane.write_now([Change("add", WEB, None, RR)])
    assert world.plane.generation() == before + 2
    # Also if what they did is what we wanted: it was not we who did it.
    world.plane.write_now([Change("add", WEB, None, RR)])
    assert world.plane.generation() == before + 4


# --- draining -------------------------------------------------------------------------------------


def drained() -> World:
    """Somebody is connected to WEB_POD, which is not wanted any more."""
    world = World(dict(WEBS))
    world.level()
    world.connect(WEB_POD, 2)
    assert [c.verb for c in world.level(ONE)] == ["del"]
    return world


def test_who_is_connected_is_left_to_end() -> None:
    world = drained()
    assert world.weight(WEB_POD) == 0
    assert world.plane.read_now() == ONE
    world.pass_time(until=1100.0)
    assert world.weight(WEB_POD) == 0
    world.connect(WEB_POD, 0)
    world.pass_time()
    assert world.weight(WEB_POD) is None
    assert world.clock.now < 1120.0


def test_after_the_limit_he_is_left_no_longer() -> None:
    world = drained()
    world.pass_time()
    assert (world.clock.now, world.weight(WEB_POD)) == (1900.0, None)
    assert world.plane.tend(1900.0) == inf


def test_where_nobody_is_connected_one_goes_with_the_write() -> None:
    world = World(dict(WEBS))
    world.level()
    world.kernel.commands.clear()
    world.level(ONE)
    assert world.kernel.commands == [SET_DEST, DEL_DEST]
    assert world.weight(WEB_POD) is None
    assert world.plane.tend(1000.0) == inf


def test_one_that_comes_back_is_one_message_and_keeps_his_connections() -> None:
    world = drained()
    world.kernel.commands.clear()
    world.plane.program = WEBS
    world.plane.write_now([Change("add", WEB_POD, None, Destination(3))])
    assert world.kernel.commands == [SET_DEST]
    assert world.kernel.services[WEB.name].destinations[WEB_POD.name[3:]] == [0, 3, 2]
    assert world.plane.tend(2000.0) == inf


def test_one_that_is_wanted_with_weight_zero_does_not_drain() -> None:
    world = drained()
    still = {**WEBS, WEB_POD: Destination(0)}
    assert [c.verb for c in world.level(still)] == []
    assert world.plane.tend(2000.0) == inf
    assert world.plane.read_now() == still
    assert [c.verb for c in world.level(WEBS)] == ["set"]
    assert world.weight(WEB_POD) == 1


def test_one_of_udp_goes_at_once() -> None:
    world = World({DNS: RR, DNS_POD: Destination()})
    world.level()
    world.connect(DNS_POD, 5)
    world.kernel.commands.clear()
    world.level({DNS: RR})
    assert world.kernel.commands == [DEL_DEST]


def test_with_its_server_it_goes_at_once() -> None:
    world = drained()
    world.kernel.commands.clear()
    world.level({})
    assert world.kernel.services == {}
    assert len(world.kernel.commands) == 1
    assert world.plane.tend(2000.0) == inf


def test_a_daemon_that_is_started_anew_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    world = drained()
    use(monkeypatch, world.kernel)
    world.clock.now += 500
    world.plane = world.start(ONE)
    assert world.level() == []
    world.pass_time()
    assert (world.clock.now, world.weight(WEB_POD)) == (1500.0 + 900.0, None)


def test_what_somebody_gave_a_weight_is_a_difference_again() -> None:
    world = drained()
    world.kernel.services[WEB.name].destinations[WEB_POD.name[3:]][1] = 5
    world.clock.now += 2
    assert world.plane.tend(world.clock.now) == inf
    assert world.weight(WEB_POD) == 5
    assert [c.verb for c in world.level()] == ["del"]
    assert world.weight(WEB_POD) == 0


def test_what_somebody_took_away_is_not_looked_for_any_more() -> None:
    for how in ("tend", "read"):
        world = drained()
        del world.kernel.services[WEB.name].destinations[WEB_POD.name[3:]]
        world.clock.now += 2
        if how == "read":
            world.plane.read_now()
        assert world.plane.tend(world.clock.now) == inf


def test_one_that_goes_as_somebody_takes_it_away_is_gone() -> None:
    world = World(dict(WEBS))
    world.level()
    del world.kernel.services[WEB.name].destinations[WEB_POD.name[3:]]
    world.plane.write_now([Change("del", WEB_POD, Destination(), None)])
    assert world.weight(WEB_POD) is None
    assert world.plane.tend(1000.0) == inf


def test_many_are_looked_up_in_the_list_and_taken_away_in_one_batch() -> None:
    webs: dict[Key, Object] = {server_key(VIP, TCP, port): RR for port in range(1, 301)}
    pods: dict[Key, Object] = {
        destination_key(VIP, TCP, port, POD, 80): Destination() for port in range(1, 301)
    }
    world = World({**webs, **pods})
    world.level()
    for key in pods:
        world.connect(key, 1)
    world.level(webs)
    for key in pods:
        world.connect(key, 0)
    world.kernel.sent.clear()
    world.pass_time()
    assert world.kernel.sent == [300]
    assert world.plane.read_now() == webs


def test_what_fails_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = drained()
    world.connect(WEB_POD, 0)

    def broken(*_: object) -> list[Message]:
        raise Lost("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(world.kernel, "dump", broken)
        world.pass_time(until=1050.0)
    assert world.weight(WEB_POD) == 0
    assert {str(one) for one in world.told} == {"endpoints that left are kept for now: no answer"}
    assert len(world.told) < 10
    world.pass_time()
    assert world.weight(WEB_POD) is None


def test_it_does_not_wait_for_a_thread_that_is_at_work() -> None:
    world = drained()
    with world.plane._lock:
        assert world.clock.now < world.plane.tend(world.clock.now) < world.clock.now + 1


# --- whatever fails ---------------------------------------------------------------------------------


@given(st.lists(programs(few=True), min_size=1, max_size=4), st.integers(0, 2**32))
def test_law_what_fails_and_is_tried_again_ends_the_same(wanted: list[dict[Key, Object]], seed: int) -> None:
    """Whatever breaks, and whoever is connected: the kernel ends with what is wanted, and nothing else."""
    rng = Random(seed)
    world = World({}, rng)
    for program in wanted:
        world.plane.program = program
        while True:
            try:
                if not world.level():
                    break
            except KubewayError:
                world.clock.now += 1
        for service in world.kernel.services.values():
            for one in service.destinations.values():
                one[2] = rng.randrange(3)
    world.pass_time()
    world.kernel._rng = None
    assert world.plane.read_now() == program
    assert world.plane.tend(world.clock.now) == inf
    there = {(*name, *key) for name, one in world.kernel.services.items() for key in one.destinations}
    assert there == {key.name for key in program if key.kind == "destination"}


@given(programs(few=True), programs(few=True), st.integers(0, 2**32))
def test_law_no_tcp_flow_is_cut_while_its_server_stays(
    before: dict[Key, Object], after: dict[Key, Object], seed: int
) -> None:
    rng = Random(seed)
    world = World(before)
    world.level()
    held = [key for key in before if key.kind == "destination" and rng.random() < 0.5]
    for key in held:
        world.connect(key, 1)
    world.level(after)
    world.pass_time(until=1899.0)
    for key in held:
        if key.name[1] != UDP and server_key(*key.name[:3]) in after:
            assert world.kernel.services[key.name[:3]].destinations[key.name[3:]][2] == 1


# --- before and after -------------------------------------------------------------------------------


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    use(monkeypatch, kernel)
    return kernel


def test_servers_are_removed_if_they_are_ours(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World({})
    for key in (WEB, DNS):
        world.plane.write_now([Change("add", key, None, RR)])
    kernel.services = world.kernel.services
    kernel.marks.append(7)
    assert remove(lambda vip, proto, port: proto == TCP) == ["10.96.0.9:80/TCP"]
    assert list(kernel.services) == [DNS.name]
    assert remove(lambda vip, proto, port: False) == []
    monkeypatch.setattr(ipvs_plane, "LIST", HERE / "nowhere")
    assert remove(everything) == []


def test_schedulers_are_tried(kernel: Kernel) -> None:
    assert probe_scheduler("mh") == ""
    assert probe_scheduler("twos") == "this kernel has no ip_vs scheduler twos (module ip_vs_twos)"
    assert kernel.services == {}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            Refused("No such file or directory (ENOENT)", errno.ENOENT),
            "this kernel has no ip_vs (module ip_vs: CONFIG_IP_VS)",
        ),
        (
            Refused("Operation not permitted (EPERM)", errno.EPERM),
            "ip_vs may not be asked for anything: CAP_NET_ADMIN is missing",
        ),
        (
            Refused("Invalid argument (EINVAL)", errno.EINVAL),
            "ip_vs cannot be used: Invalid argument (EINVAL)",
        ),
        (Unsupported("this kernel has no netlink protocol 16"), "this kernel has no netlink protocol 16"),
    ],
)
def test_probing(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, answer: Exception, said: str) -> None:
    def refuse(request: bytes) -> Message:
        raise answer

    monkeypatch.setattr(kernel, "ask", refuse)
    assert probe() == said
    assert probe_scheduler("rr") != ""
