"""
Sets of a real kernel as rules know them, and rules that ask for sets, in both of its iptables.

The sets are made by the `ipset` tool, the rules by our planes; iptables-save is the witness.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from kubeway.errors import Refused
from kubeway.model.forward import ServicePortName
from kubeway.planes.xtables import objects as o
from kubeway.planes.xtables.text import parse
from kubeway.program.plan import diff, steps
from kubeway.program.program import Change, Key, Origin
from kubeway.shell import leftovers
from kubeway.shell.xt_sets import XtSets
from kubeway.shell.xtables_legacy import XtLegacyPlane
from kubeway.shell.xtables_nft import XtNftPlane
from kubeway.values import TCP
from tests.kernel.ipsets import inside_with_sets, ipset, needs_ipset
from tests.kernel.netns import inside, needs_root
from tests.planes.xtprograms import FAMILIES, SETS, TOOLS, rule, sets_of

pytestmark = [pytest.mark.kernel, needs_root, needs_ipset]

ORDER: Final = {o.PLANE: o.KINDS}
A, BY = "KUBE-SVC-AAAAAAAAAAAAAAAA", "KUBE-BY-SET"

Plane = XtNftPlane | XtLegacyPlane
Program = dict[Key, Any]
BackEnd = Callable[..., Plane]


@pytest.fixture(params=["nft", "legacy"])
def back_end(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for tool in TOOLS.values():
        if shutil.which(f"{tool}-{request.param}-restore") is None:
            pytest.skip(f"not installed: {tool}-{request.param}")
    # The tools hold one lock for the whole machine, which namespaces do not need.
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    return str(request.param)


def make(back_end: str, **options: Any) -> Plane:
    return XtNftPlane(**options) if back_end == "nft" else XtLegacyPlane(**options)


def level(plane: Plane, wanted: Program) -> list[Change]:
    """Read, and write what differs; returns that."""
    changes = list(diff(plane.read_now(), wanted))
    plane.program = wanted
    for step in steps(changes, ORDER):
        plane.write_now(step.changes)
    return changes


def saved(back_end: str) -> Program:
    """What iptables says is there."""
    found: Program = {}
    for family in FAMILIES:
        words = [f"{TOOLS[family]}-{back_end}-save"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found.update(parse(done.stdout, family))
    return found


def lines(back_end: str) -> list[str]:
    """What is in mangle, by iptables' own words."""
    words = [f"iptables-{back_end}-save", "-t", "mangle"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return [line for line in told.splitlines() if "KUBE-" in line]


def in_mangle(name: str) -> Program:
    """Rules that ask for this set, where a mode has them that marks what a balancer will take."""
    branch = rule(o.InSet(name, ("dst", "dst"), invert=True), to=o.Return())
    return {
        o.chain_key("ip", "mangle", A): o.Chain(),
        o.rules_key("ip", "mangle", A): o.Rules(
            (rule(o.InSet(name, ("dst", "dst")), to=o.MarkXset(0x4000, 0x4000)),)
        ),
        o.chain_key("ip", "mangle", BY): o.Chain(),
        o.branch_key("ip", "mangle", BY, branch): branch,
        o.jump_key("ip", "mangle", "PREROUTING", 1): rule(o.Comment("portals"), to=o.Jump(A)),
        o.jump_key("ip", "mangle", "OUTPUT", 1): rule(o.Comment("portals"), to=o.Jump(A)),
        o.jump_key("ip", "mangle", "OUTPUT", 2): rule(to=o.Jump(BY)),
    }


def everywhere() -> Program:
    """Rules of all tables, of both families, that ask for each of the sets that they can."""
    program: Program = {}
    for family in FAMILIES:
        asked = tuple(
            rule(o.InSet(name, sides, invert), o.Comment("of a set"), to=o.Return())
            for name in sets_of(family)
            for sides in (("dst",), ("dst", "dst", "src"))
            for invert in (False, True)
        )
        hooks: dict[o.TableName, str] = {"filter": "INPUT", "nat": "OUTPUT", "mangle": "PREROUTING"}
        for table, hook in hooks.items():
            program[o.chain_key(family, table, A)] = o.Chain()
            program[o.rules_key(family, table, A)] = o.Rules(asked)
            program[o.jump_key(family, table, hook, 1)] = rule(to=o.Jump(A))
    return program


def destroy(name: str) -> bool:
    """Whether the kernel lets the set go."""
    done = subprocess.run(["ipset", "destroy", name], capture_output=True, text=True, check=False)
    assert not done.returncode or "in use" in done.stderr, done.stderr
    return not done.returncode


# --- names and numbers ------------------------------------------------------------------------


def test_sets_have_names_and_numbers() -> None:
    def work() -> None:
        sets = XtSets()
        try:
            assert [sets.index(name) for name in SETS] == list(range(len(SETS)))
            assert [sets.name(index) for index in range(len(SETS))] == list(SETS)
            assert (sets.index("KUBE-CLUSTER"), sets.index("x" * 40), sets.index("")) == (None, None, None)
            assert (sets.name(len(SETS)), sets.name(60_000), sets.name(0xFFFF)) == (None, None, None)
            # A number is free for another when its set goes.
            assert destroy("KUBE-LOOP-BACK")
            assert (sets.index("KUBE-LOOP-BACK"), sets.name(2)) == (None, None)
            ipset("create ANOTHER hash:ip\n")
            assert (sets.index("ANOTHER"), sets.name(2)) == (2, "ANOTHER")
        finally:
            sets.close()

    inside_with_sets(work)


def test_sets_are_of_a_network_namespace() -> None:
    def without() -> None:
        sets = XtSets()
        try:
            assert [sets.index(name) for name in SETS] == [None] * len(SETS)
        finally:
            sets.close()

    inside_with_sets(lambda: inside(without))


def test_whoever_may_not_ask_is_told() -> None:
    """In a process of its own: who has given up a power does not get it back."""
    code = (
        "import os\n"
        "from kubeway.errors import Refused\n"
        "from kubeway.shell.xt_sets import XtSets\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "try:\n    XtSets().index('KUBE-CLUSTER-IP')\n"
        "except Refused as error:\n    print(error.errno, error)\n"
    )
    words = [sys.executable, "-c", code]
    told = inside_with_sets(lambda: subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert told.startswith(f"{errno.EPERM} ")
    assert "asking for set KUBE-CLUSTER-IP" in told


# --- rules ------------------------------------------------------------------------------------


def test_a_set_stays_while_a_rule_asks_for_it_and_may_go_then_at_once(back_end: str) -> None:
    """nf_tables itself lets it go some time after it has acknowledged that the rules are gone."""
    name = "KUBE-CLUSTER-IP"

    def work() -> None:
        plane = make(back_end)
        try:
            for attempt in range(10):
                level(plane, in_mangle(name))
                before = plane.generation()
                assert not destroy(name)
                level(plane, {}) if attempt % 2 else plane.remove()
                assert destroy(name)
                # Nobody sees that it was waited for.
                assert plane.generation() == before + 1
                ipset(f"create {name} {SETS[name]}\n")
                assert not [line for line in told() if "NEVER" in line or line[0] == "-"]
        finally:
            plane.close()

    def told() -> list[str]:
        done = subprocess.run([f"iptables-{back_end}-save"], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    inside_with_sets(work)


def test_what_is_written_is_read_told_and_removed(back_end: str) -> None:
    def work() -> None:
        plane = make(back_end)
        try:
            assert level(plane, everywhere())
            assert plane.read_now() == saved(back_end) == everywhere()
            assert level(plane, everywhere()) == []
            tables = [f"{family} {table}" for family in FAMILIES for table in ("filter", "nat", "mangle")]
            assert plane.remove() == tables
            assert all(map(destroy, SETS))
            assert saved(back_end) == {}
        finally:
            plane.close()

    inside_with_sets(work)


def test_mangle_is_a_table_as_others_are(back_end: str) -> None:
    name = "KUBE-CLUSTER-IP"

    def work() -> None:
        plane = make(back_end)
        try:
            level(plane, in_mangle(name))
            assert plane.read_now() == saved(back_end) == in_mangle(name)
            assert sorted(line for line in lines(back_end) if line[0] == "-") == [
                f"-A {BY} -m set ! --match-set {name} dst,dst -j RETURN",
                f"-A {A} -m set --match-set {name} dst,dst -j MARK --set-xmark 0x4000/0x4000",
                f"-A OUTPUT -j {BY}",
                f"-A OUTPUT -m comment --comment portals -j {A}",
                f"-A PREROUTING -m comment --comment portals -j {A}",
            ]
            level(plane, {})
            assert lines(back_end) == []
            level(plane, in_mangle("KUBE-LOOP-BACK"))
            holder = "nf_tables" if back_end == "nft" else "legacy"
            rules, *sets = leftovers.remove(everybodys=True)
            assert rules == f"rules in table ip mangle (iptables, {holder})"
            # Then nobody asks these any more.
            assert "set KUBE-LOOP-BACK" in sets
            assert lines(back_end) == []
        finally:
            plane.close()

    inside_with_sets(work)


def test_a_branch_comes_goes_and_leads_elsewhere(back_end: str) -> None:
    """Such a change takes one rule, which is found by what it asks."""
    name = "KUBE-CLUSTER-IP"
    (key,) = [key for key in in_mangle(name) if key.kind == "branch"]
    elsewhere = rule(*in_mangle(name)[key].matches, to=o.Accept())

    def work() -> None:
        plane = make(back_end)
        try:
            level(plane, in_mangle(name))
            for wanted in ({**in_mangle(name), key: elsewhere}, in_mangle(name)):
                assert [change.verb for change in level(plane, wanted)] == ["set"]
                assert plane.read_now() == saved(back_end) == wanted
            without = {k: thing for k, thing in in_mangle(name).items() if k != key}
            for verb, wanted in (("del", without), ("add", in_mangle(name))):
                assert [change.verb for change in level(plane, wanted)] == [verb]
                assert plane.read_now() == saved(back_end) == wanted
        finally:
            plane.close()

    inside_with_sets(work)


@pytest.mark.parametrize("kind", ["rules", "branch"])
def test_a_set_that_is_not_there_is_named(back_end: str, kind: str) -> None:
    origin = Origin(ServicePortName("shop", "web", "http", TCP), "service port")
    asked = rule(o.InSet("KUBE-NOBODYS", ("dst", "dst")), to=o.Return())
    program: Program = {
        o.chain_key("ip", "mangle", A): o.Chain(),
        o.rules_key("ip", "mangle", A): o.Rules((rule(to=o.Return()),)),
        o.chain_key("ip", "mangle", BY): o.Chain(),
    }
    if kind == "rules":
        refused = o.rules_key("ip", "mangle", A)
        program[refused] = o.Rules((rule(to=o.Return()), asked))
    else:
        refused = o.branch_key("ip", "mangle", BY, asked)
        program[refused] = asked

    def work() -> None:
        plane = make(back_end, origin=lambda key: origin if key == refused else None)
        try:
            with pytest.raises(Refused) as error:
                level(plane, program)
            assert "KUBE-NOBODYS" in error.value.words
            assert error.value.errno == errno.ENOENT
            assert error.value.key == refused
            assert "shop/web" in str(error.value)
            assert saved(back_end) == {}
            # It comes, and all is well.
            ipset("create KUBE-NOBODYS hash:ip,port\n")
            level(plane, program)
            assert plane.read_now() == saved(back_end) == program
        finally:
            plane.close()

    inside_with_sets(work)


def test_a_number_that_became_another_sets_is_seen(back_end: str) -> None:
    """To the byte these are the rules that were there at the last read."""
    name, other = "KUBE-CLUSTER-IP", "KUBE-ANOTHER"

    def work() -> None:
        plane = make(back_end)
        try:
            level(plane, in_mangle(name))
            assert plane.read_now() == in_mangle(name)
            told = "\n".join(["*mangle", *lines(back_end), "COMMIT", ""])
            restore = [f"iptables-{back_end}-restore"]  # which flushes first
            subprocess.run(restore, input="*mangle\nCOMMIT\n", text=True, check=True)
            subprocess.run(["ipset", "destroy", name], check=True)
            ipset(f"create {other} {SETS[name]}\n")
            subprocess.run(restore, input=told.replace(name, other), text=True, check=True)
            assert plane.read_now() == saved(back_end) == in_mangle(other)
        finally:
            plane.close()

    inside_with_sets(work)


def test_a_set_that_changes_places_keeps_its_rules(back_end: str) -> None:
    """What `ipset swap` exchanges is what is in the sets: no rule asks for another name."""
    name, other = "KUBE-CLUSTER-IP", "KUBE-ANOTHER"

    def work() -> None:
        ipset(f"create {other} {SETS[name]}\n")
        plane = make(back_end)
        try:
            level(plane, in_mangle(name))
            ipset(f"swap {name} {other}\n")
            assert plane.read_now() == saved(back_end) == in_mangle(name)
        finally:
            plane.close()

    inside_with_sets(work)


def test_it_is_read_and_written_from_a_loop(back_end: str) -> None:
    """Other threads than the one that made the plane do that; the sets are those of its namespace."""
    name = "KUBE-CLUSTER-IP"

    def work() -> None:
        plane = make(back_end, program=in_mangle(name))

        async def more() -> Program:
            (step,) = steps(diff(await plane.read(), in_mangle(name)), ORDER)
            await plane.write(step.changes)
            return await plane.read()

        try:
            assert asyncio.run(more()) == in_mangle(name)
        finally:
            plane.close()

    inside_with_sets(work)
