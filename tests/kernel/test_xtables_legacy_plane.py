"""
The xtables plane in a real kernel's legacy tables: what is written is read back, from any program to any
other; what others have stays as it is, and what they do to ours is noticed.

Each test has a network namespace of its own, and a lock file of its own.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from kubeway.model.forward import ServicePortName
from kubeway.planes.xtables import objects as o
from kubeway.program.plan import diff, steps
from kubeway.program.program import Change, Key, Origin
from kubeway.shell.xtables_legacy import XtLegacyPlane
from kubeway.values import TCP
from tests.kernel.netns import inside, needs_root
from tests.planes.xtprograms import FAMILIES, TOOLS, every_construct, programs, rule

pytestmark = [
    pytest.mark.kernel,
    needs_root,
    pytest.mark.skipif(
        shutil.which("iptables-legacy-restore") is None or shutil.which("ip6tables-legacy-restore") is None,
        reason="iptables-legacy is not installed",
    ),
]

EXAMPLES = max(10, settings.default.max_examples // 4) if settings.default else 25
ORDER = {o.PLANE: o.KINDS}
A, B, C = (f"KUBE-SVC-{letter * 16}" for letter in "ABC")
TO_A, TO_B = rule(to=o.Jump(A)), rule(to=o.Jump(B))
SHOP = Origin(ServicePortName("shop", "web", "http", TCP), "service port")

Program = dict[Key, Any]
Work = Callable[[XtLegacyPlane], None]


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tools hold one lock for the whole machine, which namespaces do not need."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    return tmp_path / "lock"


@contextmanager
def planes(program: Program | None = None, **options: Any) -> Iterator[XtLegacyPlane]:
    plane = XtLegacyPlane(program=program, **options)
    try:
        yield plane
    finally:
        plane.close()


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
        with planes(**options) as plane:
            level(plane, program)
            work(plane)

    inside(run)


def legacy(command: str, family: o.Family = "ip") -> None:
    """Run `iptables-legacy COMMAND`."""
    subprocess.run([f"{TOOLS[family]}-legacy", "-w", *command.split()], check=True)


def load(text: str, family: o.Family = "ip") -> None:
    subprocess.run([f"{TOOLS[family]}-legacy-restore", "-w", "-n"], input=text, text=True, check=True)


def save(family: o.Family = "ip") -> str:
    """Everything in the tables that are there, policies too, without times and counters."""
    done = subprocess.run([f"{TOOLS[family]}-legacy-save"], check=True, capture_output=True, text=True)
    return "".join(
        line.partition(" [")[0] + "\n" for line in done.stdout.splitlines() if not line.startswith("#")
    )


def both() -> Program:
    return {**every_construct("ip"), **every_construct("ip6")}


def chains(**held: list[o.Rule]) -> Program:
    """Chains of nat with these rules."""
    program: Program = {}
    for letter, rules in held.items():
        name = f"KUBE-SVC-{letter * 16}"
        program[o.chain_key("ip", "nat", name)] = o.Chain()
        program[o.rules_key("ip", "nat", name)] = o.Rules(tuple(rules))
    return program


def jumps(table: o.TableName, chain: str, *rules: o.Rule) -> Program:
    return {o.jump_key("ip", table, chain, number): one for number, one in enumerate(rules, 1)}


# --- what is written is read back ---------------------------------------------------------


def test_every_construct_is_read_back() -> None:
    def work(plane: XtLegacyPlane) -> None:
        assert plane.read_now() == both()
        assert level(plane, both()) == []

    in_kernel(both(), work)


@pytest.mark.parametrize("family", FAMILIES)
def test_law_from_any_program_to_any_other(family: o.Family) -> None:
    @settings(max_examples=EXAMPLES)
    @given(programs(family), programs(family))
    def law(before: Program, after: Program) -> None:
        def work(plane: XtLegacyPlane) -> None:
            assert plane.read_now() == before
            for wanted in (after, {}):
                generation = plane.generation()
                changes = level(plane, wanted)
                # It grew by what we added and by nothing else, so our own write raises no doubt.
                assert plane.generation() == generation + bool(changes)
                assert plane.read_now() == wanted

        in_kernel(before, work)

    law()
