"""
The xtables plane in a real kernel's legacy tables: what is written is read back, from any program to any
other; what others have stays as it is, and what they do to ours is noticed.

Each test has a network namespace of its own, and a lock file of its own.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeway import records
from kubeway.errors import KubewayError, Lost, Refused, Unsupported
from kubeway.model.forward import ServicePortName
from kubeway.planes.xtables import objects as o
from kubeway.program.plan import diff, steps
from kubeway.program.program import Change, Key, Origin
from kubeway.shell import xtables_tools
from kubeway.shell.xtables_kernel import KernelTables, present
from kubeway.shell.xtables_legacy import XtLegacyPlane
from kubeway.values import TCP, parse_ip, parse_prefix
from tests.kernel.ipsets import inside_with_sets as inside
from tests.kernel.ipsets import needs_ipset
from tests.kernel.netns import needs_root
from tests.planes.xtprograms import FAMILIES, TOOLS, every_construct, programs, relative, rule

pytestmark = [
    pytest.mark.kernel,
    needs_root,
    needs_ipset,
    pytest.mark.skipif(
        shutil.which("iptables-legacy-restore") is None or shutil.which("ip6tables-legacy-restore") is None,
        reason="iptables-legacy is not installed",
    ),
]

EXAMPLES = max(5, settings.default.max_examples // 10) if settings.default else 10
ORDER = {o.PLANE: o.KINDS}
A, B, C = (f"KUBE-SVC-{letter * 16}" for letter in "ABC")
BY = "KUBE-BY-S"
TO_A, TO_B = rule(to=o.Jump(A)), rule(to=o.Jump(B))

Program = dict[Key, Any]
Work = Callable[[XtLegacyPlane], None]


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tools hold one lock for the whole machine, which namespaces do not need."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    return tmp_path / "lock"


def level(plane: XtLegacyPlane, wanted: Program) -> list[Change]:
    """Read, and write what differs; returns that."""
    changes = list(diff(plane.read_now(), wanted))
    plane.program = wanted
    for step in steps(changes, ORDER):
        plane.write_now(step.changes)
    return changes


def in_kernel(program: Program, work: Work, **options: Any) -> None:
    """Run `work` where this program is in a kernel's legacy tables."""

    def run() -> None:
        plane = XtLegacyPlane(**options)
        try:
            level(plane, program)
            work(plane)
        finally:
            plane.close()

    inside(run)


def legacy(command: str, family: o.Family = "ip") -> None:
    """Run `iptables-legacy COMMAND`."""
    subprocess.run([f"{TOOLS[family]}-legacy", "-w", *command.split()], check=True)


def load(text: str, family: o.Family = "ip") -> None:
    subprocess.run([f"{TOOLS[family]}-legacy-restore", "-w", "-n"], input=text, text=True, check=True)


def save(family: o.Family = "ip") -> list[str]:
    """Everything in the tables that are there, policies too, without times and counters."""
    done = subprocess.run([f"{TOOLS[family]}-legacy-save"], check=True, capture_output=True, text=True)
    return [line.partition(" [")[0] for line in done.stdout.splitlines() if line[0] != "#"]


def both() -> Program:
    return {**every_construct("ip"), **every_construct("ip6")}


def chains(table: o.TableName = "nat", **held: Sequence[o.Rule]) -> Program:
    """Chains with these rules."""
    program: Program = {}
    for letter, rules in held.items():
        name = f"KUBE-SVC-{letter * 16}"
        program[o.chain_key("ip", table, name)] = o.Chain()
        program[o.rules_key("ip", table, name)] = o.Rules(tuple(rules))
    return program


def hook(chain: str, *rules: o.Rule, table: o.TableName = "nat") -> Program:
    return {o.jump_key("ip", table, chain, number): one for number, one in enumerate(rules, 1)}


SMALL: Program = {
    **chains(A=[TO_B, rule(to=o.Return())], B=[rule(o.Comment("b"))]),
    **hook("OUTPUT", rule(o.Comment("one"), to=o.Jump(A)), rule(o.Comment("two"), to=o.Jump(A))),
}


# --- what is written is read back ---------------------------------------------------------


def test_every_construct_is_read_back() -> None:
    def work(plane: XtLegacyPlane) -> None:
        assert plane.read_now() == both()
        assert level(plane, both()) == []

    in_kernel(both(), work)


@pytest.mark.parametrize("family", FAMILIES)
def test_law_from_any_program_to_any_other(family: o.Family) -> None:
    @settings(max_examples=EXAMPLES)
    @given(programs(family), programs(family), st.randoms(use_true_random=False))
    def law(before: Program, after: Program, rng: random.Random) -> None:
        def work(plane: XtLegacyPlane) -> None:
            assert plane.read_now() == before
            for wanted in (relative(before, rng), after, {}):
                generation = plane.generation()
                changes = level(plane, wanted)
                # The tables grew by what we added and by nothing else: our own write raises no doubt.
                assert plane.generation() == generation + bool(changes)
                assert plane.read_now() == wanted

        in_kernel(before, work)

    law()


def test_it_is_read_and_written_from_a_loop() -> None:
    tellers: list[int] = []

    def record(told: records.Record) -> None:
        tellers.append(threading.get_ident())

    def work(plane: XtLegacyPlane) -> None:
        async def more() -> Program:
            step = steps(diff(await plane.read(), SMALL), ORDER)[0]
            plane.program = SMALL
            await plane.write(step.changes)
            return await plane.read()

        assert asyncio.run(more()) == SMALL
        # The tool ran in a thread; what it waited for is told in the loop's.
        assert tellers == [threading.get_ident()]

    in_kernel({}, work, record=record)


def test_nothing_is_made_by_reading() -> None:
    def work(plane: XtLegacyPlane) -> None:
        assert (plane.generation(), plane.read_now(), plane.remove()) == (0, {}, [])
        plane.write_now([])
        assert [present(family) for family in FAMILIES] == [[], []]

    in_kernel({}, work)


def test_a_table_that_did_not_change_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    really = XtLegacyPlane._save

    def counted(plane: XtLegacyPlane, family: o.Family, table: str) -> str:
        told.append(table)
        return really(plane, family, table)

    monkeypatch.setattr(XtLegacyPlane, "_save", counted)
    ready = {**chains("filter", A=[rule(o.CtState(("NEW",)))]), **hook("OUTPUT", TO_A, table="filter")}

    def work(plane: XtLegacyPlane) -> None:
        plane.read_now()
        told.clear()
        generation = plane.generation()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"counted", ("127.0.0.1", 9))
        counts = subprocess.run(["iptables-legacy-save", "-c"], capture_output=True, text=True, check=True)
        assert f"[1:35] -A {A} -m conntrack" in counts.stdout
        assert (plane.read_now(), told) == ({**SMALL, **ready}, [])
        assert plane.generation() == generation
        # As many rules of the same size, so the numbers do not tell; the bytes do.
        legacy(f"-t nat -R {B} 1 -m comment --comment c")
        assert plane.generation() == generation
        read = plane.read_now()
        assert read[o.rules_key("ip", "nat", B)] == o.Rules((rule(o.Comment("c")),))
        assert told == ["nat"]

    in_kernel({**SMALL, **ready}, work)


# --- others -------------------------------------------------------------------------------

OTHERS = """*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -m comment --comment "no jump to KUBE-SVC-BBBBBBBBBBBBBBBB" -j DOCKER
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:SOMEBODYS - [0:0]
:FORWARD DROP [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
-A FORWARD -j SOMEBODYS
-A SOMEBODYS -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
*raw
-A PREROUTING -p tcp -m tcp --dport 9 -j DROP
COMMIT
*mangle
:KUBE-IPTABLES-HINT - [0:0]
COMMIT
"""


def test_what_was_there_for_a_moment_is_not_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others change a table while we read it, and take that back later."""
    really = XtLegacyPlane._save

    def meddled(plane: XtLegacyPlane, family: o.Family, table: str) -> str:
        legacy(f"-t nat -A {B} -j ACCEPT")
        return really(plane, family, table)

    def work(_: XtLegacyPlane) -> None:
        plane = XtLegacyPlane(program=SMALL)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(XtLegacyPlane, "_save", meddled)
                assert plane.read_now() != SMALL
            legacy(f"-t nat -D {B} -j ACCEPT")
            assert plane.read_now() == SMALL
        finally:
            plane.close()

    in_kernel(SMALL, work)


def test_others_are_left_alone() -> None:
    def work(plane: XtLegacyPlane) -> None:
        load(OTHERS)
        load(OTHERS, "ip6")
        before = [save(family) for family in FAMILIES]
        level(plane, both())
        for family, told in zip(FAMILIES, before, strict=True):
            now = save(family)
            theirs = iter(now)
            assert all(line in theirs for line in told), "each of their lines, in their order"
            forward = [line for line in now if line.startswith("-A FORWARD")]
            assert [line.rsplit(" ", 1)[1] for line in forward] == [A, B, "SOMEBODYS"]
        assert plane.remove() == [
            f"{family} {table}" for family in FAMILIES for table in ("filter", "nat", "mangle")
        ]
        assert [save(family) for family in FAMILIES] == before
        assert plane.remove() == []

    in_kernel({}, work)


def test_a_chain_that_others_lead_to_is_emptied_and_left() -> None:
    def work(plane: XtLegacyPlane) -> None:
        legacy("-t nat -N DOCKER")
        legacy(f"-t nat -A DOCKER -j {A}")
        legacy(f"-t nat -A DOCKER -j {B}")
        assert plane.remove() == ["ip nat"]
        assert [line for line in save() if line[0] in ":-" and ("KUBE" in line or "DOCKER" in line)] == [
            ":DOCKER -",
            f":{A} -",
            f":{B} -",
            f"-A DOCKER -j {A}",
            f"-A DOCKER -j {B}",
        ]
        assert plane.remove() == []

    in_kernel({**SMALL, **chains(C=[TO_A])}, work)


KUBELETS = """*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" \
-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
COMMIT
"""


def test_what_kubelet_shares_with_us_stays() -> None:
    ours = {**chains("filter", A=[]), **hook("INPUT", TO_A, table="filter")}

    def work(plane: XtLegacyPlane) -> None:
        load(KUBELETS)
        before = save()
        for wanted in (ours, {}):
            level(plane, wanted)
            assert plane.read_now() == wanted
        assert save() == before
        level(plane, ours)
        assert plane.remove() == ["ip filter"]
        assert save() == before

    in_kernel({}, work)


# --- what others do to ours ---------------------------------------------------------------

FAULTS = {
    "nat is flushed": "-t nat -F",
    "a rule is gone": f"-t nat -D {A} 1",
    "a foreign rule in a chain of ours": f"-t nat -A {B} -p tcp -j ACCEPT",
    "a foreign rule at the top of it": f"-t nat -I {A} -j RETURN",
    "a jump is gone": "-t nat -D OUTPUT 1",
    "a jump comes twice": f"-t nat -A OUTPUT -m comment --comment one -j {A}",
    "a branch is gone": f"-t nat -F {BY}",
    "a branch too many": f"-t nat -A {BY} -s 192.0.2.1 -j {A}",
    "a chain of ours that we do not have": f"-t filter -N {C}",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_drift_is_seen_without_reading_and_repaired(fault: str) -> None:
    branch = rule(o.Destination(parse_prefix("10.96.0.1/32")), to=o.Jump(A))
    program = {
        **SMALL,
        o.chain_key("ip", "nat", BY): o.Chain(),
        o.branch_key("ip", "nat", BY, branch): branch,
    }

    def work(plane: XtLegacyPlane) -> None:
        generation = plane.generation()
        assert plane.generation() == generation
        legacy(FAULTS[fault])
        assert plane.generation() == generation + 1
        assert level(plane, program)
        assert plane.generation() == generation + 2
        assert level(plane, program) == []

    in_kernel(program, work)


def test_what_others_write_between_our_looks_is_not_taken_for_ours() -> None:
    change = Change("set", o.rules_key("ip", "nat", B), SMALL[o.rules_key("ip", "nat", B)], o.Rules())

    def work(plane: XtLegacyPlane) -> None:
        generation = plane.generation()
        legacy("-t nat -A PREROUTING -j ACCEPT")
        plane.write_now([change])
        assert plane.generation() == generation + 2

    in_kernel(SMALL, work)


def test_a_write_over_what_others_changed_raises_a_doubt() -> None:
    """Somebody's rule was in the chain that we wrote, so the table did not grow as it should."""
    key = o.rules_key("ip", "nat", B)

    def work(plane: XtLegacyPlane) -> None:
        legacy(f"-t nat -A {B} -j ACCEPT")
        generation = plane.generation()
        plane.write_now([Change("set", key, SMALL[key], o.Rules((rule(to=o.Return()),)))])
        assert plane.generation() == generation + 2

    in_kernel(SMALL, work)


# --- refusals -----------------------------------------------------------------------------


def service(number: int) -> Origin:
    return Origin(ServicePortName("shop", f"s{number}", "http", TCP), "service port")


def shop(bad: int, refused: o.Rule, count: int = 20) -> tuple[Program, dict[Key, Origin]]:
    """So many Services with a chain and a branch each, one with a rule the kernel does not take.

    What leads to them all is nobody's.
    """
    way = rule(o.Destination(parse_prefix("10.96.0.0/16")), to=o.Goto(BY))
    program: Program = {
        o.chain_key("ip", "nat", BY): o.Chain(),
        o.chain_key("ip", "nat", "KUBE-BY-ROOT"): o.Chain(),
        o.branch_key("ip", "nat", "KUBE-BY-ROOT", way): way,
        **hook("PREROUTING", rule(to=o.Jump("KUBE-BY-ROOT"))),
    }
    origins: dict[Key, Origin] = {}
    for number in range(count):
        chain = f"KUBE-SVC-{'A' * 14}{chr(ord('A') + number)}A"
        target = rule(o.Protocol(TCP), to=o.Dnat(parse_ip(f"10.244.0.{number}"), 80))
        branch = rule(o.Destination(parse_prefix(f"10.96.0.{number}/32")), to=o.Jump(chain))
        own: Program = {
            o.chain_key("ip", "nat", chain): o.Chain(),
            o.rules_key("ip", "nat", chain): o.Rules((refused if number == bad else target,)),
            o.branch_key("ip", "nat", BY, branch): branch,
        }
        program.update(own)
        origins.update(dict.fromkeys(own, service(number)))
    return program, origins


def refusal(plane: XtLegacyPlane, wanted: Program) -> Refused:
    with pytest.raises(Refused) as caught:
        level(plane, wanted)
    return caught.value


@pytest.mark.parametrize("bad", [0, 7, 19])
def test_a_refusal_at_commit_is_found(bad: int) -> None:
    """MASQUERADE on the way in: the tool takes it, the kernel refuses the whole table and says no more."""
    program, origins = shop(bad, rule(to=o.Masquerade()))

    def work(plane: XtLegacyPlane) -> None:
        error = refusal(plane, program)
        assert isinstance(error.key, Key)
        assert origins[error.key] == service(bad)
        assert (error.origin, error.errno) == (f"shop/s{bad}:http (TCP), service port", errno.EINVAL)
        assert "the kernel does not take it" in str(error)
        assert "\n" not in str(error)
        # Without that one all are in force.
        rest = {key: thing for key, thing in program.items() if origins.get(key) != service(bad)}
        level(plane, rest)
        assert plane.read_now() == rest

    in_kernel({}, work, origin=origins.get)


def test_a_refusal_at_a_line_is_named_at_once() -> None:
    program, origins = shop(7, rule(to=o.ForeignTarget(("-j", "NOSUCH"))))

    def work(plane: XtLegacyPlane) -> None:
        error = refusal(plane, program)
        assert isinstance(error.key, Key)
        assert error.key.kind == "rules"
        assert origins[error.key] == service(7)
        assert (error.errno, error.origin) == (errno.ENOENT, "shop/s7:http (TCP), service port")
        assert error.words == "Couldn't load target `NOSUCH':No such file or directory"
        assert error.change == "add rules KUBE-SVC-AAAAAAAAAAAAAAHA of nat (ip)"
        # Nothing of that table was applied.
        assert plane.read_now() == {}

    in_kernel({}, work, origin=origins.get)


@pytest.mark.parametrize(
    ("change", "number", "words"),
    [
        (
            Change("del", o.branch_key("ip", "nat", BY, TO_A), TO_A, None),
            errno.ENOENT,
            "no such rule",
        ),
        (
            Change("del", o.chain_key("ip", "nat", A), o.Chain(), None),
            errno.EBUSY,
            "the chain is in use, or not there",
        ),
        (
            Change("add", o.branch_key("ip", "nat", "KUBE-BY-X", TO_A), None, TO_A),
            errno.ENOENT,
            "no such chain",
        ),
    ],
)
def test_what_the_tool_does_not_explain(change: Change, number: int, words: str) -> None:
    program = {**SMALL, o.chain_key("ip", "nat", BY): o.Chain()}

    def work(plane: XtLegacyPlane) -> None:
        with pytest.raises(Refused) as caught:
            plane.write_now([change])
        assert (caught.value.key, caught.value.errno, caught.value.words) == (change.key, number, words)
        assert plane.read_now() == program

    in_kernel(program, work)


def test_a_refused_family_does_not_hide_what_was_written_before_it() -> None:
    """Tables are written one after the other; what was taken is read back, and the rest is written later."""
    program: Program = {
        **chains("filter", A=[]),
        **chains("nat", B=[rule(to=o.ForeignTarget(("-j", "NOSUCH")))]),
    }

    def work(plane: XtLegacyPlane) -> None:
        refusal(plane, program)
        assert plane.read_now() == chains("filter", A=[])

    in_kernel({}, work)


# --- the lock -----------------------------------------------------------------------------

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@contextmanager
def held(path: Path, seconds: float) -> Iterator[int]:
    """Another process holds the lock for so long. Its number."""
    words = [sys.executable, "-c", HOLD, str(path), str(seconds)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process.pid
        finally:
            process.kill()


def waits(told: Sequence[records.Record]) -> list[float]:
    return [one.seconds for one in told if isinstance(one, records.LockWaited | records.LockWaitedLong)]


def test_the_lock_is_waited_for(lock: Path) -> None:
    told: list[records.Record] = []

    def work(plane: XtLegacyPlane) -> None:
        with held(lock, 0.3):
            level(plane, SMALL)
        assert plane.read_now() == SMALL

    in_kernel({}, work, record=told.append)
    (waited,) = waits(told)
    assert 0.1 < waited < 1
    assert [type(one) for one in told] == [records.LockWaited]


def test_the_tool_waits_where_we_gave_up(lock: Path) -> None:
    told: list[records.Record] = []

    def work(plane: XtLegacyPlane) -> None:
        with held(lock, 0.6):
            level(plane, SMALL)
        assert plane.read_now() == SMALL

    in_kernel({}, work, record=told.append, patience=0.1)
    assert waits(told)[0] < 0.5


def test_a_lock_that_is_never_free(lock: Path) -> None:
    def work(plane: XtLegacyPlane) -> None:
        with held(lock, 60) as pid:
            began = time.monotonic()
            with pytest.raises(Lost) as caught:
                level(plane, SMALL)
            assert time.monotonic() - began < 10
        assert str(caught.value).startswith(f"the xtables lock {lock} is held by ")
        assert str(pid) in str(caught.value)
        assert plane.read_now() == {}
        level(plane, SMALL)

    in_kernel({}, work, patience=0.2)


def test_a_lock_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nowhere" / "lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(path))

    def work(plane: XtLegacyPlane) -> None:
        with pytest.raises(Lost, match=f"^the xtables lock {path} cannot be opened: No such file"):
            level(plane, SMALL)

    in_kernel({}, work)


def test_the_tool_keeps_the_lock_we_ask_for(lock: Path) -> None:
    """Else two writers would undo each other's changes, and our waiting would be for nothing."""

    def work(plane: XtLegacyPlane) -> None:
        with held(lock, 60):
            done = subprocess.run(
                ["iptables-legacy-restore", "-w", "1", "-n"], input="*nat\nCOMMIT\n", text=True, check=False
            )
        assert done.returncode == xtables_tools.LOCKED

    in_kernel({}, work)


# --- the tools ----------------------------------------------------------------------------


def tools(at: Path, version: str, restore: str) -> str:
    """Tools of both families in one folder, and only those, with a restore that does this."""
    for name in TOOLS.values():
        for end, does in (("restore", restore), ("save", "true")):
            path = at / f"{name}-{end}"
            path.write_text(
                f'#!/bin/sh\n[ "$1" = --version ] && echo "{name}-{end} {version}" && exit\n{does}\n'
            )
            path.chmod(0o755)
    return str(at)


def write(path: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> KubewayError | None:
    monkeypatch.setenv("PATH", path)
    plane = XtLegacyPlane(**options)
    try:
        plane.write_now([Change("add", o.chain_key("ip", "nat", A), None, o.Chain())])
    except KubewayError as error:
        return error
    finally:
        plane.close()
    return None


@pytest.mark.parametrize("version", [None, "v1.8.9 (nf_tables)", "what?"])
def test_tools_that_are_missing(version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", tools(tmp_path, version, "true") if version else str(tmp_path))
    with pytest.raises(Unsupported) as caught:
        XtLegacyPlane()
    assert str(caught.value).startswith("iptables-legacy-restore and iptables-legacy-save are not installed")
    assert "\n" not in str(caught.value)


def test_the_plain_names_will_do_if_they_are_legacy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tools(tmp_path, "v1.8.9 (legacy)", f'echo "$@" >{tmp_path}/words')
    assert write(path, monkeypatch) is None
    assert (tmp_path / "words").read_text() == "-w 5 --noflush\n"


def test_old_tools_are_run_under_our_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: Path
) -> None:
    flock = shutil.which("flock")
    if flock is None:
        pytest.skip("flock is not installed")
    path = tools(
        tmp_path, "v1.6.1", f'{flock} -n {lock} true && l=free || l=held; echo "$@" $l >{tmp_path}/words'
    )
    assert write(path, monkeypatch) is None
    assert (tmp_path / "words").read_text() == "--noflush held\n"
    with held(lock, 60):
        assert isinstance(write(path, monkeypatch, patience=0.05), Lost)


def test_a_tool_that_does_not_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tools(tmp_path, "v1.8.9 (legacy)", f"echo $$ >{tmp_path}/pid; exec {shutil.which('sleep')} 60")
    error = write(path, monkeypatch, timeout=0.5)
    assert isinstance(error, Lost)
    assert str(error) == "iptables-restore did not end within 0.5 s and was stopped"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("says", "kind", "words"),
    [
        (
            "iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'nat'\n\n"
            "Error occurred at line: 1\nTry `iptables-restore -h' for more information.",
            Unsupported,
            "table nat (ip) cannot be written: iptables-restore: unable to initialize table 'nat'",
        ),
        (
            "iptables-restore v1.8.9 (legacy): unable to initialize table 'nat': Permission denied\n"
            "Error occurred at line: 1",
            Refused,
            "refused: table nat (ip) -> unable to initialize table 'nat': Permission denied",
        ),
        ("", Unsupported, "table nat (ip) cannot be written: iptables-restore ended with status 1"),
        (
            "iptables-restore: line 2 failed: Too many links.",
            Refused,
            f"refused: add chain {A} of nat (ip) -> Too many links",
        ),
    ],
)
def test_what_tools_say(
    says: str, kind: type[KubewayError], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "said").write_text(says)
    path = tools(tmp_path, "v1.8.9 (legacy)", f"{shutil.which('cat')} {tmp_path}/said >&2; exit 1")
    error = write(path, monkeypatch)
    assert (type(error), str(error)) == (kind, words)


def test_numbers_of_a_table_are_asked_of_those_that_are_there() -> None:
    def work(plane: XtLegacyPlane) -> None:
        tables = KernelTables()
        try:
            assert list(tables.all_info()) == [("ip", "nat")]
            assert tables.info("ip", "nat").entries == 5 + 2 * 2 + 3 + 2
        finally:
            tables.close()

    in_kernel(SMALL, work)


def test_a_lock_of_the_whole_machine_is_not_touched(lock: Path) -> None:
    def work(plane: XtLegacyPlane) -> None:
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    in_kernel(SMALL, work)


def test_a_node_without_ip6tables_serves_ipv4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once; what is wanted of the family that is not there is no difference then."""
    gone = tmp_path / "ip6tables-legacy-save"
    words = "can not initialize ip6tables table filter: Table does not exist"
    gone.write_text(
        f'#!/bin/sh\necho "ip6tables-save v1.8.9 (legacy): Cannot initialize: {words}" >&2\nexit 1\n'
    )
    gone.chmod(0o755)
    find = xtables_tools.find

    def found(family: o.Family) -> xtables_tools.Tools:
        tools = find(family)
        return tools._replace(save=str(gone), restore=str(gone)) if family == "ip6" else tools

    monkeypatch.setattr(xtables_tools, "find", found)
    both: Program = {o.chain_key(family, "nat", A): o.Chain() for family in FAMILIES} | {
        o.rules_key(family, "nat", A): o.Rules((rule(to=o.Return()),)) for family in FAMILIES
    }
    heard: list[records.Record] = []

    def work() -> None:
        plane = XtLegacyPlane(program=both, record=heard.append)
        try:
            for _ in range(2):
                level(plane, both)
            assert plane.read_now() == both
        finally:
            plane.close()

    inside(work)
    (told,) = [one for one in heard if isinstance(one, records.FamilyAbsent)]
    assert str(told).startswith("ip6tables cannot be used on this node")
    assert "Table does not exist" in str(told)
