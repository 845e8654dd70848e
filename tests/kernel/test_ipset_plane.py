"""The ipset plane against the kernel, each test in a network namespace of its own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TypeVar

import pytest
from hypothesis import given, settings

from kubeway.errors import Refused
from kubeway.planes.ipset.objects import (
    BITMAP_PORT,
    ENTRY,
    HASH_IP,
    HASH_IP_PORT,
    HASH_IP_PORT_NET,
    Set,
    entry_key,
    set_key,
)
from kubeway.planes.ipset.text import show
from kubeway.program.plan import diff
from kubeway.program.program import Change, Key, Object
from kubeway.shell.ipset_plane import IpsetPlane, probe
from kubeway.values import TCP, V4, V6, Ip, parse_ip, parse_prefix
from kubeway.wire.ipset import IPSET_ERR_BUSY
from tests.kernel.netns import inside, needs_root
from tests.planes.ipsets import Program, every_construct, ordered, programs

pytestmark = [
    pytest.mark.kernel,
    needs_root,
    pytest.mark.skipif(shutil.which("ipset") is None, reason="not installed: ipset"),
]

T = TypeVar("T")
PORTS = "KUBE-CLUSTER-IP"
ZERO = Ip(bytes(4))


def ipset(command: str, lines: str | None = None) -> str:
    """Run `ipset COMMAND`; returns what it prints."""
    done = subprocess.run(
        ["ipset", *command.split()], input=lines, text=True, check=True, capture_output=True
    )
    return done.stdout


def saved() -> list[str]:
    """What the tool prints of all sets, but for what it tells only of those it made itself."""
    return sorted(line.partition(" bucketsize ")[0] for line in ipset("save").splitlines())


def names() -> list[str]:
    return sorted(ipset("list -n").split())


def references(name: str) -> int:
    for line in ipset(f"list -t {name}").splitlines():
        if line.startswith("References: "):
            return int(line.split()[1])
    raise AssertionError(name)


def named(name: str) -> None:
    """Have something refer to the set, as a rule would."""
    ipset("create OTHERS list:set")
    ipset(f"add OTHERS {name}")


def in_kernel(work: Callable[[IpsetPlane], T], program: Mapping[Key, Object] | None = None) -> T:
    """With a plane in a namespace of a kernel that has sets."""

    def run() -> T:
        # The tool is asked, not `probe`: that is to be tested too.
        if subprocess.run(["ipset", "list", "-n"], check=False, capture_output=True).returncode:
            pytest.skip("this kernel has no sets")
        with closing(IpsetPlane(program)) as plane:
            return work(plane)

    return inside(run)


def level(plane: IpsetPlane) -> list[Change]:
    """Read, and write what differs; returns that."""
    changes = ordered(list(diff(plane.read_now(), plane.program)))
    plane.write_now(changes)
    return changes


def addresses(count: int, name: str = PORTS) -> Program:
    """A set of ports, and entries of it."""
    inside = {entry_key(name, Ip((0x0A600001 + i).to_bytes(4, "big")), TCP, 80): ENTRY for i in range(count)}
    return {set_key(name): Set(HASH_IP_PORT, V4), **inside}


# --- one and the same -------------------------------------------------------------------


def test_what_is_written_is_read_back() -> None:
    def work(plane: IpsetPlane) -> None:
        assert plane.read_now() == {}
        assert len(level(plane)) == len(plane.program)
        assert plane.read_now() == plane.program
        assert level(plane) == []
        plane.program = {}
        level(plane)
        assert plane.read_now() == {}
        assert names() == []

    in_kernel(work, every_construct())


@given(programs(), programs())
@settings(max_examples=30)
def test_from_any_program_to_any_other(before: Program, after: Program) -> None:
    def work(plane: IpsetPlane) -> None:
        for program in (before, after):
            plane.program = program
            level(plane)
            assert plane.read_now() == program

    in_kernel(work)


def test_the_tool_prints_it_as_we_show_it() -> None:
    def work(plane: IpsetPlane) -> None:
        level(plane)
        # nomatch is told of entries that are read back; the tool is the witness of both.
        assert saved() == sorted(show(plane.program).splitlines())

    in_kernel(work, every_construct())


def test_the_tool_loads_what_we_show() -> None:
    program = every_construct()

    def work(plane: IpsetPlane) -> None:
        ipset("restore", show(program))
        assert saved() == sorted(show(program).splitlines())
        assert plane.read_now() == program
        assert level(plane) == []

    in_kernel(work, program)


def test_a_set_of_many_entries() -> None:
    """In many messages both ways, in a thread; and the tool sees the same."""
    program = addresses(20000)

    async def both(plane: IpsetPlane) -> dict[Key, Object]:
        await plane.write(ordered(list(diff({}, program))))
        return await plane.read()

    def work(plane: IpsetPlane) -> None:
        assert asyncio.run(both(plane)) == program
        assert saved() == sorted(show(program).splitlines())

    # The thread of the loop's own is in the namespace of the one that starts it.
    in_kernel(work, program)


def test_every_change_is_safe_to_repeat() -> None:
    program = every_construct()
    there, gone = (ordered(list(diff(*pair))) for pair in (({}, program), (program, {})))

    def work(plane: IpsetPlane) -> None:
        for changes in (there, there, gone, gone):
            asyncio.run(plane.write(changes))
        assert names() == []

    in_kernel(work, program)


# --- what others made -------------------------------------------------------------------


def test_the_sets_of_others_are_not_looked_at_nor_touched() -> None:
    def work(plane: IpsetPlane) -> None:
        ipset("create KUBE-SRC-SLZX6FR2LLR7F4BF hash:ip")
        ipset("add KUBE-SRC-SLZX6FR2LLR7F4BF 10.0.0.1")
        generation = plane.generation()
        assert plane.read_now() == {}
        ipset("add KUBE-SRC-SLZX6FR2LLR7F4BF 10.0.0.2")
        assert plane.generation() == generation
        assert plane.remove() == []
        # Unless the program says so.
        plane.program = {set_key("KUBE-SRC-SLZX6FR2LLR7F4BF"): Set(HASH_IP, V4)}
        assert len(plane.read_now()) == 3

    in_kernel(work)


@pytest.mark.parametrize("made", ["maxelem 65536", "timeout 600 counters comment skbinfo", "hashsize 64"])
def test_a_set_that_is_made_otherwise_is_the_same_set(made: str) -> None:
    program = addresses(3)

    def work(plane: IpsetPlane) -> None:
        ipset(f"create {PORTS} hash:ip,port {made}")
        ipset(f"add {PORTS} 10.96.0.1,tcp:80")
        ipset(f"add {PORTS} 10.96.0.9,icmp:3/4")
        assert {(c.verb, c.key.kind) for c in level(plane)} == {("add", "entry"), ("del", "entry")}
        assert plane.read_now() == program
        assert made.split()[0] in ipset(f"save {PORTS}")
        # It is taken for made also by whoever did not look before.
        plane.write_now([Change("add", set_key(PORTS), None, program[set_key(PORTS)])])
        assert plane.read_now() == program

    in_kernel(work, program)


def test_an_exception_is_overwritten() -> None:
    name = "KUBE-LOAD-BALANCER-SOURCE-CIDR"
    key = entry_key(name, parse_ip("10.96.0.1"), TCP, 80, parse_prefix("192.0.2.0/24"))
    program = {set_key(name): Set(HASH_IP_PORT_NET, V4), key: ENTRY}

    def work(plane: IpsetPlane) -> None:
        level(plane)
        ipset(f"-exist add {name} 10.96.0.1,tcp:80,192.0.2.0/24 nomatch")
        assert [(c.verb, c.key) for c in level(plane)] == [("set", key)]
        assert "nomatch" not in ipset(f"save {name}")
        ipset(f"-exist add {name} 10.96.0.1,tcp:80,192.0.2.0/24 nomatch")
        plane.program = {set_key(name): program[set_key(name)]}
        level(plane)
        assert plane.read_now() == plane.program

    in_kernel(work, program)


# --- making anew ------------------------------------------------------------------------


def test_a_set_that_is_full_is_made_anew_with_more_room() -> None:
    """Also while rules refer to it; and in the same write another set is filled."""
    program = addresses(20) | addresses(3, "KUBEWAY-B")

    def work(plane: IpsetPlane) -> None:
        ipset(f"create {PORTS} hash:ip,port maxelem 5")
        for n in (1, 2, 77):
            ipset(f"add {PORTS} 10.96.0.{n},tcp:80")
        named(PORTS)
        level(plane)
        assert plane.read_now() == program
        assert names() == sorted([PORTS, "KUBEWAY-B", "OTHERS"])
        assert references(PORTS) == 1
        assert "maxelem 1048576" in ipset(f"save {PORTS}")

    in_kernel(work, program)


def test_a_full_set_of_which_no_program_tells_holds_what_it_is_given() -> None:
    """A write before the program says so: what is not told of is not kept."""
    entries = [Change("add", key, None, ENTRY) for key in addresses(9) if key.kind == "entry"]

    def work(plane: IpsetPlane) -> None:
        ipset(f"create {PORTS} hash:ip,port maxelem 5")
        plane.write_now(entries)
        assert plane.read_now() == addresses(9)

    in_kernel(work)


def test_a_bitmap_of_few_ports_is_made_anew() -> None:
    name = "KUBE-NODE-PORT-TCP"
    program = {set_key(name): Set(BITMAP_PORT, 0), entry_key(name, 30080): ENTRY, entry_key(name, 80): ENTRY}

    def work(plane: IpsetPlane) -> None:
        ipset(f"create {name} bitmap:port range 30000-32767")
        ipset(f"add {name} 30080")
        named(name)
        level(plane)
        assert plane.read_now() == program
        assert "range 0-65535" in ipset(f"save {name}")
        assert references(name) == 1

    in_kernel(work, program)


def test_what_a_bitmap_has_no_room_for_is_not_in_it() -> None:
    name = "KUBE-NODE-PORT-TCP"
    gone = [Change("del", entry_key(name, port), ENTRY, None) for port in (80, 30080, 65535)]

    def work(plane: IpsetPlane) -> None:
        ipset(f"create {name} bitmap:port range 30000-32767")
        ipset(f"add {name} 30080")
        plane.write_now(gone)
        assert saved() == [f"create {name} bitmap:port range 30000-32767"]

    in_kernel(work)


@pytest.mark.parametrize(
    "made", ["hash:ip,port family inet6", "hash:net", "bitmap:port range 0-65535", "list:set"]
)
def test_a_set_of_another_type_is_made_anew(made: str) -> None:
    program = addresses(3)

    def work(plane: IpsetPlane) -> None:
        ipset(f"create {PORTS} {made}")
        if made == "bitmap:port range 0-65535":
            ipset(f"add {PORTS} 80")
        changes = level(plane)
        assert [c.key for c in changes if c.verb == "set"] == [set_key(PORTS)]
        assert plane.read_now() == program
        assert names() == [PORTS]

    in_kernel(work, program)


def test_a_set_of_another_type_that_rules_name_is_refused_and_left() -> None:
    program = addresses(3)

    def work(plane: IpsetPlane) -> None:
        ipset(f"create {PORTS} hash:ip")
        ipset(f"add {PORTS} 10.0.0.1")
        named(PORTS)
        with pytest.raises(Refused) as refused:
            level(plane)
        assert (refused.value.key, refused.value.errno) == (set_key(PORTS), IPSET_ERR_BUSY)
        assert str(refused.value) == (
            "refused: change set KUBE-CLUSTER-IP from hash:ip of IPv4 to hash:ip,port of IPv4 -> it is "
            "hash:ip of IPv4, and rules name it: take those away, and it is made anew as hash:ip,port of IPv4"
        )
        assert "add KUBE-CLUSTER-IP 10.0.0.1" in saved()
        assert names() == [PORTS, "OTHERS"]
        ipset(f"del OTHERS {PORTS}")
        level(plane)
        assert plane.read_now() == program

    in_kernel(work, program)


@pytest.mark.parametrize("odd", ["netmask 24", "forceadd"])
def test_a_set_that_holds_other_than_it_is_given_is_made_anew(odd: str) -> None:
    """Swapped, as it is alike: so also while rules refer to it."""
    name = "KUBE-IPVS-IPS"
    program = {set_key(name): Set(HASH_IP, V4), entry_key(name, parse_ip("10.96.0.1")): ENTRY}

    def work(plane: IpsetPlane) -> None:
        ipset(f"create {name} hash:ip {odd}")
        ipset(f"add {name} 10.1.2.3")
        named(name)
        assert plane.read_now() == {set_key(name): Set(f"hash:ip {odd}", V4)}
        level(plane)
        assert plane.read_now() == program
        assert references(name) == 1
        assert names() == [name, "OTHERS"]

    in_kernel(work, program)


def test_what_was_left_of_making_anew_goes() -> None:
    def work(plane: IpsetPlane) -> None:
        entries = [Change("add", key, None, ENTRY) for key in plane.program if key.kind == "entry"]
        for write in (lambda: level(plane), lambda: plane.write_now(entries)):
            ipset("create KUBEWAY-ANEW hash:ip")
            ipset(f"create {PORTS} hash:ip,port maxelem 1")
            write()
            assert plane.read_now() == plane.program
            assert names() == [PORTS]
            ipset("destroy")

    in_kernel(work, addresses(3))


# --- what the kernel refuses ------------------------------------------------------------


def test_of_many_entries_the_refused_one_is_told_and_the_others_are_there() -> None:
    good: Program = {set_key(PORTS): Set(HASH_IP, V4)}
    good |= {entry_key(PORTS, Ip(bytes((10, 96, 0, n)))): ENTRY for n in range(9)} | addresses(2, "KUBEWAY-B")
    bad = entry_key(PORTS, ZERO)
    keys = [*good]
    keys.insert(5, bad)

    def work(plane: IpsetPlane) -> None:
        with pytest.raises(Refused) as refused:
            plane.write_now([Change("add", key, None, good.get(key, ENTRY)) for key in keys])
        assert refused.value.key == bad
        assert str(refused.value) == (
            "refused: add entry KUBE-CLUSTER-IP 0.0.0.0 -> "
            "the address that is all zeros cannot be in a set (IPSET_ERR_HASH_ELEM)"
        )
        assert plane.read_now() == good

    in_kernel(work)


def test_a_set_that_is_made_anew_has_all_but_the_refused() -> None:
    good: Program = {set_key(PORTS): Set(HASH_IP, V4)}
    good |= {entry_key(PORTS, Ip(bytes((10, 96, 0, n)))): ENTRY for n in range(20)}
    bad = entry_key(PORTS, ZERO)

    def work(plane: IpsetPlane) -> None:
        ipset(f"create {PORTS} hash:ip maxelem 5")
        with pytest.raises(Refused) as refused:
            level(plane)
        assert refused.value.key == bad
        assert plane.read_now() == good
        assert names() == [PORTS]

    in_kernel(work, {**good, bad: ENTRY})


def test_what_is_in_no_set_is_refused() -> None:
    def work(plane: IpsetPlane) -> None:
        key = entry_key(PORTS, parse_ip("10.96.0.1"), TCP, 80)
        with pytest.raises(Refused) as refused:
            plane.write_now([Change("add", key, None, ENTRY)])
        assert refused.value.key == key
        six = Change("add", set_key(PORTS), None, Set(HASH_IP_PORT, V6))
        with pytest.raises(Refused) as refused:
            plane.write_now([six, Change("add", key, None, ENTRY)])
        assert refused.value.key == key
        assert plane.read_now() == {set_key(PORTS): Set(HASH_IP_PORT, V6)}

    in_kernel(work)


def test_a_set_is_not_made_over_one_of_another_type() -> None:
    """One that came since it was last read."""

    def work(plane: IpsetPlane) -> None:
        ipset(f"create {PORTS} hash:ip")
        with pytest.raises(Refused) as refused:
            plane.write_now([Change("add", set_key(PORTS), None, Set(HASH_IP_PORT, V4))])
        assert refused.value.key == set_key(PORTS)

    in_kernel(work)


def test_a_name_that_is_too_long_is_refused() -> None:
    def work(plane: IpsetPlane) -> None:
        long = set_key("KUBEWAY-" + "X" * 40)
        with pytest.raises(Refused) as refused:
            plane.write_now([Change("add", long, None, Set(HASH_IP, V4))])
        assert refused.value.key == long

    in_kernel(work)


# --- what is not wanted any more --------------------------------------------------------


def test_a_set_in_whose_use_somebody_is_is_emptied_and_left_to_them() -> None:
    def work(plane: IpsetPlane) -> None:
        level(plane)
        named(PORTS)
        plane.program = {}
        level(plane)
        assert plane.read_now() == {}
        assert f"add {PORTS}" not in "\n".join(saved())
        assert names() == [PORTS, "OTHERS"]
        generation = plane.generation()
        ipset(f"del OTHERS {PORTS}")
        assert plane.generation() == generation + 1
        level(plane)
        assert names() == ["OTHERS"]

    in_kernel(work, addresses(5))


def test_ours_that_nothing_names_are_taken_away() -> None:
    def work(plane: IpsetPlane) -> None:
        level(plane)
        ipset("create SOMEBODYS hash:ip")
        named(PORTS)
        gone = sorted(key.name[0] for key in plane.program if key.kind == "set" and key.name[0] != PORTS)
        assert plane.remove() == gone
        assert names() == sorted([PORTS, "OTHERS", "SOMEBODYS"])
        ipset("destroy OTHERS")
        assert plane.remove() == [PORTS]
        assert plane.remove() == []

    in_kernel(work, every_construct())


# --- noticing others --------------------------------------------------------------------


def test_the_generation_moves_by_one_for_all_that_happened_between_two_looks() -> None:
    def work(plane: IpsetPlane) -> None:
        level(plane)
        generation = plane.generation()
        assert plane.generation() == generation
        plane.read_now()
        assert plane.generation() == generation
        for n, commands in enumerate(
            (
                [f"add {PORTS} 10.0.0.1,tcp:80"],
                [f"del {PORTS} 10.0.0.1,tcp:80"],
                [f"flush {PORTS}", "destroy KUBE-IPVS-IPS"],
                ["create KUBE-IPVS-IPS hash:ip"],
                ["destroy KUBE-IPVS-IPS", "create KUBE-IPVS-IPS hash:net"],
            ),
            1,
        ):
            for command in commands:
                ipset(command)
            assert plane.generation() == generation + n
            assert plane.generation() == generation + n
        plane.write_now([Change("add", entry_key(PORTS, parse_ip("10.0.0.1"), TCP, 80), None, ENTRY)])
        assert plane.generation() == generation + 6

    in_kernel(work, every_construct())


def test_asking_what_is_there_makes_nothing() -> None:
    def work(plane: IpsetPlane) -> None:
        assert probe() == ""
        assert names() == []

    in_kernel(work)
