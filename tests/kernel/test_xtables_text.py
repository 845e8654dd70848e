"""
The xtables plane's text, with iptables itself as the judge: what we show it loads, and what it then
tells is what we meant; with both back ends and both families.

Each test has network namespaces of its own and a lock of its own, both gone with it.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeway.planes.xtables import objects as o
from kubeway.planes.xtables.text import parse, show
from kubeway.program.program import Key
from tests.kernel.ipsets import inside_with_sets as inside
from tests.kernel.ipsets import needs_ipset
from tests.kernel.netns import needs_root
from tests.planes.xtprograms import FAMILIES, TOOLS, every_construct, phrases, programs

pytestmark = [pytest.mark.kernel, needs_root, needs_ipset]

EXAMPLES = max(10, settings.default.max_examples // 4) if settings.default else 25


class Tool:
    """One back end's iptables or ip6tables; to be used inside a namespace."""

    def __init__(self, family: o.Family, back_end: str, lock: Path) -> None:
        self.family: o.Family = family
        self.name = f"{TOOLS[family]}-{back_end}"
        # The legacy tools hold a lock for the whole machine, which namespaces do not need.
        self._environ = {**os.environ, "XTABLES_LOCKFILE": str(lock)}

    def run(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, input=text, capture_output=True, text=True, timeout=60, env=self._environ, check=False
        )

    def load(self, text: str) -> None:
        done = self.try_to(text)
        assert done.returncode == 0, f"{done.stderr}\n{text}"

    def try_to(self, text: str) -> subprocess.CompletedProcess[str]:
        return self.run(f"{self.name}-restore", "-w", "--noflush", text=text)

    def save(self, *options: str) -> str:
        done = self.run(f"{self.name}-save", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(params=[(family, end) for end in ("nft", "legacy") for family in FAMILIES], ids="-".join)
def tool(request: pytest.FixtureRequest, tmp_path: Path) -> Tool:
    found = Tool(*request.param, tmp_path / "lock")
    for program in (f"{found.name}-restore", f"{found.name}-save"):
        if shutil.which(program) is None:
            pytest.skip(f"not installed: {program}")
    probe = inside(lambda: found.try_to("*filter\nCOMMIT\n"))
    if probe.returncode:
        pytest.skip(f"{found.name} does not work with this kernel: {' '.join(probe.stderr.split())}")
    return found


def told_after(tool: Tool, *texts: str) -> str:
    """What iptables-save tells after these were loaded."""

    def work() -> str:
        for text in texts:
            tool.load(text)
        return tool.save()

    return inside(work)


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("-A KUBE-", ":KUBE-"))]


def test_every_construct_is_told_as_we_show_it(tool: Tool) -> None:
    program = every_construct(tool.family)
    told = told_after(tool, show(program))
    assert parse(told, tool.family) == program
    assert sorted(lines(told)) == sorted(lines(show(program)))
    assert len(lines(told)) > len(phrases(tool.family))


def test_law_what_is_loaded_is_read_back(tool: Tool) -> None:
    @settings(max_examples=EXAMPLES)
    @given(programs(tool.family))
    def law(program: dict[Key, object]) -> None:
        assert parse(told_after(tool, show(program)), tool.family) == program

    law()


def test_law_one_program_takes_the_place_of_another(tool: Tool) -> None:
    """Chains are made anew by their line; jumps and chains of the old one have to go by hand."""

    @settings(max_examples=max(5, EXAMPLES // 3))
    @given(programs(tool.family), st.randoms(use_true_random=False))
    def law(program: dict[Key, object], rng: random.Random) -> None:
        emptied = {
            key: o.Rules() if isinstance(thing, o.Rules) and rng.random() < 0.5 else thing
            for key, thing in program.items()
            if key.kind not in ("jump", "branch")
        }
        before = {key: thing for key, thing in program.items() if key.kind != "jump"}
        after = {**emptied, **{key: thing for key, thing in program.items() if key.kind == "jump"}}
        assert parse(told_after(tool, show(before), show(after)), tool.family) == after

    law()


def by_table(told: str) -> dict[str, list[str]]:
    """Each table's chains and rules, in their order."""
    tables: dict[str, list[str]] = {}
    for line in told.splitlines():
        if line[0] == "*":
            tables[line] = []
        elif line[0] in ":-":
            tables[list(tables)[-1]].append(line)
    return tables


OTHERS = """*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -m comment --comment "no jump to KUBE-SVC-BBBBBBBBBBBBBBBB" -j DOCKER
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:SOMEBODYS - [0:0]
-A FORWARD -j SOMEBODYS
-A SOMEBODYS -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
*raw
-A PREROUTING -p tcp -m tcp --dport 9 -j DROP
COMMIT
"""


def test_others_are_left_alone_and_not_read(tool: Tool) -> None:
    program = every_construct(tool.family)

    def work() -> tuple[str, str, str]:
        tool.load(OTHERS)
        before = tool.save()
        tool.load(show(program))
        return before, tool.save("-c"), tool.save()

    before, counted, after = inside(work)
    assert parse(before, tool.family) == {}
    assert parse(counted, tool.family) == parse(after, tool.family) == program
    now = by_table(after)
    for table, theirs in by_table(before).items():
        assert [line for line in now[table] if line in theirs] == theirs
    # Our jumps stand above theirs, in the order of their numbers.
    forward = [line for line in after.splitlines() if line.startswith("-A FORWARD")]
    assert [line.rsplit(" ", 1)[1] for line in forward] == [
        "KUBE-SVC-AAAAAAAAAAAAAAAA",
        "KUBE-SVC-BBBBBBBBBBBBBBBB",
        "SOMEBODYS",
    ]


SMALL = """*nat
:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SVC-BBBBBBBBBBBBBBBB - [0:0]
:KUBE-SVC-DDDDDDDDDDDDDDDD - [0:0]
-A KUBE-SVC-AAAAAAAAAAAAAAAA -j KUBE-SVC-BBBBBBBBBBBBBBBB
COMMIT
"""


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ("-X KUBE-SVC-BBBBBBBBBBBBBBBB", False),
        ("-F KUBE-SVC-AAAAAAAAAAAAAAAA\n-X KUBE-SVC-BBBBBBBBBBBBBBBB", True),
        # Nor does one go that has rules.
        ("-X KUBE-SVC-AAAAAAAAAAAAAAAA", False),
        ("-F KUBE-SVC-AAAAAAAAAAAAAAAA\n-X KUBE-SVC-AAAAAAAAAAAAAAAA", True),
        (":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n-X KUBE-SVC-BBBBBBBBBBBBBBBB", True),
        ("-A KUBE-SVC-AAAAAAAAAAAAAAAA -j KUBE-SVC-CCCCCCCCCCCCCCCC", False),
        (
            ":KUBE-SVC-CCCCCCCCCCCCCCCC - [0:0]\n-A KUBE-SVC-CCCCCCCCCCCCCCCC -j KUBE-C\n:KUBE-C - [0:0]",
            False,
        ),
        (
            ":KUBE-SVC-CCCCCCCCCCCCCCCC - [0:0]\n:KUBE-C - [0:0]\n-A KUBE-SVC-CCCCCCCCCCCCCCCC -j KUBE-C",
            True,
        ),
        ("-A KUBE-SVC-CCCCCCCCCCCCCCCC -j RETURN", False),
    ],
)
def test_the_kernel_has_the_plane_s_laws(tool: Tool, change: str, taken: bool) -> None:
    """Nothing of a refused table is applied."""

    def work() -> tuple[bool, str]:
        tool.load(SMALL)
        done = tool.try_to(f"*nat\n-A KUBE-SVC-DDDDDDDDDDDDDDDD -j RETURN\n{change}\nCOMMIT\n")
        return done.returncode == 0, tool.save()

    went, told = inside(work)
    assert went == taken
    if not taken:
        assert parse(told, tool.family) == parse(SMALL, tool.family)
