"""
The ipvs plane against the kernel, with ipvsadm for a witness; each test in a network namespace of its own.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

import pytest

from kubeway.errors import Refused, Unsupported
from kubeway.model.schedulers import SCHEDULERS
from kubeway.planes.ipvs.objects import (
    TIMEOUTS,
    Destination,
    Server,
    Timeouts,
    destination_key,
    server_key,
)
from kubeway.planes.ipvs.text import show
from kubeway.program.plan import diff
from kubeway.program.program import Change, Key, Object
from kubeway.shell import ipvs_plane
from kubeway.shell.ipvs_plane import IpvsPlane, probe, probe_scheduler, remove
from kubeway.shell.netlink import NetlinkSocket
from kubeway.values import TCP, UDP, Ip, parse_ip
from kubeway.wire import ipvs as wire
from kubeway.wire.genetlink import NETLINK_GENERIC, family_request, read_family
from tests.golden.ipvs.golden import HERE, MARK
from tests.kernel.netns import inside, ip, needs_root
from tests.planes.ipvsprograms import (
    PHRASES,
    POD,
    VIP,
    WEB,
    WEB_POD,
    every_construct,
)


def reason_to_skip() -> str:
    if missing := [tool for tool in ("ipvsadm", "strace", "ip") if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)}"
    return probe()


WHY = reason_to_skip()
pytestmark = [pytest.mark.kernel, needs_root, pytest.mark.skipif(bool(WHY), reason=WHY)]

T = TypeVar("T")
LO = parse_ip("127.0.0.1")


def ours(*_: object) -> bool:
    return True


def ipvsadm(*words: str, told: str | None = None) -> list[str]:
    """The lines it prints."""
    done = subprocess.run(["ipvsadm", *words], input=told, text=True, capture_output=True, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout.splitlines()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def opened(program: dict[Key, Object]) -> Iterator[tuple[IpvsPlane, Clock]]:
    clock = Clock()
    with closing(IpvsPlane(program, lambda: ours, clock=clock)) as plane:
        yield plane, clock


def level(plane: IpvsPlane) -> list[Change]:
    """Written as the plan orders it: what goes last goes first."""
    changes = sorted(diff(plane.read_now(), plane.program), key=lambda c: c.verb == "del")
    plane.write_now(changes)
    return changes


def planed(work: Callable[[IpvsPlane, Clock], T], program: dict[Key, Object] | None = None) -> T:
    def run() -> T:
        with opened(every_construct() if program is None else program) as (plane, clock):
            return work(plane, clock)

    return inside(run)


# --- what ipvsadm says ----------------------------------------------------------------------


def test_ipvsadm_sees_what_was_written() -> None:
    def work(plane: IpvsPlane, clock: Clock) -> None:
        assert plane.read_now() == {TIMEOUTS: Timeouts(900, 0, 300)}
        level(plane)
        assert plane.read_now() == plane.program
        assert level(plane) == []
        lines = [line for line in show(plane.program).splitlines() if not line.startswith("--set")]
        assert sorted(ipvsadm("-Sn")) == lines
        assert ipvsadm("-L", "--timeout") == ["Timeout (tcp tcpfin udp): 1000 120 250"]

    planed(work)


def test_ipvsadm_writes_what_we_read() -> None:
    def work(plane: IpvsPlane, clock: Clock) -> None:
        ipvsadm("-R", told=show(plane.program))
        assert plane.read_now() == plane.program

    planed(work)


def test_all_goes_again() -> None:
    def work(plane: IpvsPlane, clock: Clock) -> None:
        level(plane)
        plane.program = {}
        level(plane)
        assert ipvsadm("-Sn") == []
        assert asyncio.run(plane.read()) == {}

    planed(work)


def test_every_change_is_safe_to_repeat() -> None:
    def work(plane: IpvsPlane, clock: Clock) -> None:
        there, gone = list(diff({}, plane.program)), list(diff(plane.program, {}))
        for changes in (there, there, gone, gone, there):
            plane.write_now(changes)
        assert plane.read_now() == plane.program
        # What is set and gone is made again, with its server.
        ipvsadm("-C")
        plane.write_now([Change("set", c.key, c.new, c.new) for c in there])
        assert plane.read_now() == plane.program

    planed(work)


def test_a_scheduler_is_changed_in_place() -> None:
    def work(plane: IpvsPlane, clock: Clock) -> None:
        level(plane)
        for server in (Server("mh", 60, True), Server("wrr"), Server("sh")):
            plane.program = {**plane.program, WEB: server}
            assert [c.verb for c in level(plane)] == ["set"]
            assert plane.read_now() == plane.program

    planed(work)


def test_what_others_changed_is_set_right() -> None:
    program: dict[Key, Object] = {WEB: Server("rr"), WEB_POD: Destination()}

    def work(plane: IpvsPlane, clock: Clock) -> None:
        level(plane)
        for words in (
            "-E -t 10.96.0.9:80 -s rr -p 360 -M 255.255.0.0",
            "-E -t 10.96.0.9:80 -s rr -b flag-1",
            "-E -t 10.96.0.9:80 -s wlc",
            "-e -t 10.96.0.9:80 -r 10.244.1.7:8080 -m -w 3",
            "-d -t 10.96.0.9:80 -r 10.244.1.7:8080",
            "-a -t 10.96.0.9:80 -r 10.244.1.8:80 -g",
            "-D -t 10.96.0.9:80",
            "-A -t 10.96.0.10:80 -s rr",
        ):
            ipvsadm(*words.split())
            assert len(level(plane)) in (1, 2), words
            assert sorted(ipvsadm("-Sn")) == show(program).splitlines(), words

    planed(work, program)


def test_another_way_of_forwarding_is_set_right() -> None:
    key = destination_key(VIP, TCP, 80, POD, 80)

    def work(plane: IpvsPlane, clock: Clock) -> None:
        level(plane)
        ipvsadm(*["-e", "-t", "10.96.0.9:80", "-r", "10.244.1.7:80", "-i", "-w", "1"])
        assert plane.read_now()[key] == Destination(1, "tunnel")
        assert [c.verb for c in level(plane)] == ["set"]
        assert plane.read_now() == plane.program

    planed(work, {WEB: Server("rr"), key: Destination()})


def test_servers_of_somebody_else_stay() -> None:
    def work() -> None:
        other = server_key(parse_ip("192.0.2.1"), TCP, 80)
        program: dict[Key, Object] = {WEB: Server("rr")}

        def not_his(vip: Ip, proto: int, port: int) -> bool:
            return vip != other.name[0]

        with closing(IpvsPlane(program, lambda: not_his)) as plane:
            level(plane)
            ipvsadm(*["-A", "-t", "192.0.2.1:80", "-s", "rr"])
            ipvsadm(*["-a", "-t", "192.0.2.1:80", "-r", "10.244.1.7:80", "-m", "-w", "0"])
            ipvsadm(*MARK.split())
            ipvsadm(*["-A", "-t", "192.0.2.2:80", "-s", "rr"])
            assert [c.verb for c in level(plane)] == ["del"]
            assert plane.read_now() == program
            assert plane.tend(0.0) == float("inf")
        assert remove(not_his) == ["10.96.0.9:80/TCP"]
        assert len(ipvsadm("-Sn")) == 3

    inside(work)


# --- draining -------------------------------------------------------------------------------


def weights() -> dict[str, int]:
    lines = [line.split() for line in ipvsadm("-Sn") if line.startswith("-a")]
    return {words[4]: int(words[-1]) for words in lines}


@contextmanager
def connected(vip: Ip, port: int) -> Iterator[socket.socket]:
    with socket.create_connection((".".join(map(str, vip)), port), 5) as client:
        yield client


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", port)) as server:
        yield server


LOCAL, LOCAL2 = destination_key(VIP, TCP, 80, LO, 8080), destination_key(VIP, TCP, 80, LO, 8081)
TWO: dict[Key, Object] = {WEB: Server("rr"), LOCAL: Destination(), LOCAL2: Destination()}


def local_vip() -> None:
    """Packets to the virtual address come in here, and those from it may go to 127.0.0.1."""
    ip("addr add 10.96.0.9/32 dev lo")


def test_who_is_connected_stays_so_until_he_ends() -> None:
    def work(plane: IpvsPlane, clock: Clock) -> None:
        local_vip()
        plane.program = {WEB: Server("rr"), LOCAL: Destination()}
        level(plane)
        with listening(8080) as server, connected(VIP, 80) as client:
            peer, _ = server.accept()
            plane.program = {WEB: Server("rr")}
            assert [c.verb for c in level(plane)] == ["del"]
            assert weights() == {"127.0.0.1:8080": 0}
            assert plane.read_now() == plane.program
            assert clock.now < plane.tend(clock.now) <= clock.now + 1
            clock.now += 1
            assert plane.tend(clock.now) > clock.now
            client.sendall(b"still here")
            assert peer.recv(100) == b"still here"
            # Back again, and the connection is the same.
            plane.program = {WEB: Server("rr"), LOCAL: Destination()}
            plane.write_now([Change("add", LOCAL, None, Destination())])
            assert weights() == {"127.0.0.1:8080": 1}
            assert plane.tend(clock.now) == float("inf")
            client.sendall(b"still here")
            assert peer.recv(100) == b"still here"
            # And away for good: a daemon that is started anew goes on.
            plane.program = {WEB: Server("rr")}
            level(plane)
            with closing(IpvsPlane(plane.program, lambda: ours, clock=clock)) as second:
                assert second.read_now() == plane.program
                clock.now += 899
                second.tend(clock.now)
                assert weights() == {"127.0.0.1:8080": 0}
                clock.now += 1
                assert second.tend(clock.now) == float("inf")
            assert weights() == {}
            peer.close()

    planed(work, {})


def test_who_has_nobody_goes_at_once() -> None:
    def work(plane: IpvsPlane, clock: Clock) -> None:
        level(plane)
        plane.program = {WEB: Server("rr"), LOCAL: Destination()}
        level(plane)
        assert weights() == {"127.0.0.1:8080": 1}
        assert plane.tend(clock.now) == float("inf")

    planed(work, TWO)


def test_a_server_goes_with_those_who_are_connected() -> None:
    def work(plane: IpvsPlane, clock: Clock) -> None:
        local_vip()
        level(plane)
        with listening(8080), listening(8081), connected(VIP, 80):
            plane.program = {}
            level(plane)
            assert ipvsadm("-Sn") == []
            assert plane.tend(clock.now) == float("inf")

    planed(work, TWO)


def test_datagrams_have_no_end_so_their_destination_goes_at_once() -> None:
    dns, pod = server_key(VIP, UDP, 53), destination_key(VIP, UDP, 53, LO, 5353)

    def work(plane: IpvsPlane, clock: Clock) -> None:
        local_vip()
        level(plane)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"?", ("10.96.0.9", 53))
            assert re.search(r"Masq +1 +0 +1\b", "\n".join(ipvsadm("-Ln")))
            plane.program = {dns: Server("rr")}
            level(plane)
            assert weights() == {}

    planed(work, {dns: Server("rr"), pod: Destination()})


@pytest.mark.parametrize(
    "scheduler", ["rr", "wrr", "lc", "wlc", "sh", "mh", "sed", "nq", "fo", "ovf", "lblc"]
)
def test_a_destination_that_drains_gets_nobody_new(scheduler: str) -> None:
    """Above all by sh and mh, which refuse clients of it unless they are told to fall back."""
    # By ovf, destinations take as many connections as they have weight.
    one = Destination(100 if scheduler == "ovf" else 1)
    web = Server(scheduler, source_port=scheduler in ("sh", "mh"))
    program: dict[Key, Object] = {WEB: web, LOCAL: one, LOCAL2: one}

    def work(plane: IpvsPlane, clock: Clock) -> None:
        local_vip()
        level(plane)
        with listening(8080) as server, listening(8081):
            # The ports of clients differ, so some meet each destination where it goes by them.
            clients = [socket.create_connection(("10.96.0.9", 80), 5) for _ in range(40)]
            server.setblocking(False)
            plane.program = {WEB: web, LOCAL2: one}
            level(plane)
            before = accepted(server)
            clients += [socket.create_connection(("10.96.0.9", 80), 5) for _ in range(20)]
            assert accepted(server) == 0
            assert before > 0 or scheduler in ("fo", "ovf", "lblc")
            for client in clients:
                client.close()

    planed(work, program)


def test_by_dh_a_destination_goes_at_once_and_others_are_served() -> None:
    """Whichever of the two the virtual address falls to: all its clients meet that one."""
    program = {**TWO, WEB: Server("dh")}

    def work(plane: IpvsPlane, clock: Clock) -> None:
        local_vip()
        level(plane)
        with listening(8080), listening(8081), connected(VIP, 80):
            met = max(ipvsadm("-Ln"), key=lambda line: line.split()[-2:] == ["1", "0"])
            gone = LOCAL if ":8080" in met else LOCAL2
            plane.program = {key: one for key, one in program.items() if key != gone}
            level(plane)
            assert len(weights()) == 1
            with connected(VIP, 80):
                pass

    planed(work, program)


def accepted(server: socket.socket) -> int:
    """How many wait to be accepted."""
    count = 0
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def many(count: int) -> dict[Key, Object]:
    """As many servers, each with a destination."""
    program: dict[Key, Object] = {}
    for n in range(count):
        vip = Ip(bytes((10, 97, n >> 8, n & 255)))
        program[server_key(vip, TCP, 80)] = Server("rr")
        program[destination_key(vip, TCP, 80, POD, 80)] = Destination()
    return program


def test_servers_in_another_namespace_hide_none_of_ours() -> None:
    """They do, in the kernel's list: where one read of it ends and the next begins, it counts in two ways."""
    program = many(700)

    def first(plane: IpvsPlane, clock: Clock) -> None:
        def second(other: IpvsPlane, clock: Clock) -> None:
            level(other)
            assert other.read_now() == program
            assert plane.read_now() == program

        level(plane)
        planed(second, program)
        assert plane.read_now() == program
        assert sorted(remove(ours)) == sorted(f"10.97.{n >> 8}.{n & 255}:80/TCP" for n in range(700))
        assert ipvsadm("-Sn") == []

    planed(first, program)


def test_many_are_ended_at_once() -> None:
    program = many(700)
    servers = {key: one for key, one in program.items() if key.kind == "server"}

    def work(plane: IpvsPlane, clock: Clock) -> None:
        level(plane)
        assert plane.read_now() == program
        plane.program = servers
        level(plane)
        assert plane.read_now() == servers
        assert weights() == {}

    planed(work, program)


# --- what is counted, and what is refused ----------------------------------------------------


def test_a_generation_is_a_number_of_servers_and_writes() -> None:
    def work(plane: IpvsPlane, clock: Clock) -> None:
        first = plane.generation()
        assert plane.generation() == first
        level(plane)
        assert plane.generation() == first + 1
        ipvsadm(*["-A", "-t", "192.0.2.1:80", "-s", "rr"])
        assert plane.generation() == first + 2
        assert plane.generation() == first + 2

    planed(work)


def test_what_the_kernel_refuses_is_told() -> None:
    def work(plane: IpvsPlane, clock: Clock) -> None:
        bad = {WEB: Server("nosuch"), WEB_POD: Destination(), server_key(VIP, UDP, 53): Server("rr")}
        with pytest.raises(Refused) as refused:
            plane.write_now(list(diff({}, bad)))
        assert refused.value.key == WEB
        assert str(refused.value) == (
            "refused: add server 10.96.0.9:80/TCP -> "
            "this kernel has no ip_vs scheduler nosuch (module ip_vs_nosuch)"
        )
        # The others were made.
        assert ipvsadm("-Sn") == ["-A -u 10.96.0.9:53 -s rr"]
        broad = destination_key(VIP, UDP, 53, parse_ip("255.255.255.255"), 53)
        with pytest.raises(Refused) as refused:
            plane.write_now([Change("add", broad, None, Destination())])
        assert (refused.value.key, refused.value.errno) == (broad, errno.EINVAL)

    planed(work, {})


def test_probing() -> None:
    def work() -> None:
        assert probe() == ""
        told = {name: probe_scheduler(name) for name in SCHEDULERS}
        # Newer than some kernels: mh is of 4.18, twos of 5.13.
        assert {name for name, said in told.items() if said} <= {"mh", "twos"}
        assert probe_scheduler("nosuch") == "this kernel has no ip_vs scheduler nosuch (module ip_vs_nosuch)"
        ipvsadm(*["-A", "-t", "198.51.100.0:20000", "-s", "wlc"])
        assert probe_scheduler("rr") == ""
        assert ipvsadm("-Sn") == []

    inside(work)


def test_without_privileges() -> None:
    def work() -> str:
        program = "from kubeway.shell.ipvs_plane import probe; print(probe())"
        words = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--clear-groups"]
        import sys

        path = os.pathsep.join(sys.path)
        python = os.path.realpath("/proc/self/exe")
        done = subprocess.run(
            [*words, python, "-c", program],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"nobody may run {python}: {done.stderr[-200:]}")
        return done.stdout

    assert inside(work) == "ip_vs may not be asked for anything: CAP_NET_ADMIN is missing\n"


def test_a_kernel_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FAMILY", "NOSUCH")
    assert probe() == "this kernel has no ip_vs (module ip_vs: CONFIG_IP_VS)"
    with pytest.raises(Unsupported, match="CONFIG_IP_VS"):
        IpvsPlane({})
    monkeypatch.setattr(ipvs_plane, "LIST", HERE / "nowhere")
    assert remove(ours) == []


# --- golden -----------------------------------------------------------------------------------

SENT = re.compile(r'nlmsg_type=(?!nlctrl)[^{}]*\}, "((?:\\x[0-9a-f]{2})+)"\], iov_len')


def sent_by(line: str) -> str:
    """The message that ipvsadm sends, from the genlmsghdr on."""
    words = ["strace", "-qq", "-e", "trace=sendmsg", "-xx", "-s", "4096", "ipvsadm", *line.split()]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return SENT.findall(done.stderr)[-1].replace("\\x", "")


def recorded() -> dict[str, str]:
    messages = [word for line in PHRASES for word in (line, sent_by(line))]
    ipvsadm(*MARK.split())
    with NetlinkSocket(NETLINK_GENERIC) as netlink:
        family = read_family(netlink.ask(family_request(wire.FAMILY)))
        told = [("services", m) for m in netlink.dump(wire.get_services(family))]
        told += [("destinations", m) for m in netlink.dump(wire.get_destinations(family, WEB.name))]
        told.append(("timeouts", netlink.ask(wire.get_timeouts(family))))
    return {
        "ipvsadm.messages": "".join(f"{word}\n" for word in messages),
        "kernel.answers": "".join(sorted(f"{kind} {bytes(m.body).hex()}\n" for kind, m in told)),
        "kernel.list": ipvs_plane.LIST.read_text(),
    }


def test_the_golden_bytes_are_what_ipvsadm_and_the_kernel_say() -> None:
    told = inside(recorded)
    for name, words in told.items():
        if os.environ.get("KUBEWAY_GOLDEN") == "write":
            (HERE / name).write_text(words)
        if name == "ipvsadm.messages":
            assert words == (HERE / name).read_text()
        else:  # in the order of a hash
            assert sorted(words.splitlines()) == sorted((HERE / name).read_text().splitlines())
