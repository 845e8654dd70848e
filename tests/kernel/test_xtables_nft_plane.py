"""
The xtables plane over netlink against a real kernel, with iptables-nft as the judge: it tells what we
wrote as if it had written that itself, and what it wrote we read as what it tells.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeway.errors import Lost, Refused
from kubeway.model.forward import ServicePortName
from kubeway.planes.xtables import lower
from kubeway.planes.xtables import objects as o
from kubeway.planes.xtables.text import TABLES, parse, show
from kubeway.program.plan import diff, steps
from kubeway.program.program import Change, Key, Origin
from kubeway.shell.netlink import NetlinkSocket
from kubeway.shell.xtables_nft import XtNftPlane
from kubeway.values import TCP, UDP
from kubeway.wire import nftables as nf
from kubeway.wire.netlink import fields, message, read_text, text
from tests.kernel.ipsets import inside_with_sets as inside
from tests.kernel.ipsets import needs_ipset
from tests.kernel.netns import needs_root, nft
from tests.planes.test_xtables_wire import GOLDEN
from tests.planes.xtprograms import (
    FAMILIES,
    TOOLS,
    every_construct,
    phrases,
    programs,
    rule,
    understood,
    without_last_comment,
)

pytestmark = [
    pytest.mark.kernel,
    needs_root,
    needs_ipset,
    pytest.mark.skipif(shutil.which("iptables-nft") is None, reason="not installed: iptables-nft"),
]

EXAMPLES: Final = max(8, settings.default.max_examples // 8) if settings.default else 12
ORDER: Final = {o.PLANE: o.KINDS}
SVC, OTHER, AAA = "KUBE-SVC-BBBBBBBBBBBBBBBB", "KUBE-SVC-CCCCCCCCCCCCCCCC", "KUBE-SVC-AAAAAAAAAAAAAAAA"

Program = dict[Key, object]


# --- tools --------------------------------------------------------------------------------


def iptables(words: str, family: o.Family = "ip") -> None:
    subprocess.run([f"{TOOLS[family]}-nft", *words.split()], check=True)


def restore(told: str, family: o.Family = "ip", *options: str) -> None:
    done = subprocess.run(
        [f"{TOOLS[family]}-nft-restore", "--noflush", *options],
        input=told,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr}\n{told}"


def save(family: o.Family = "ip") -> str:
    done = subprocess.run([f"{TOOLS[family]}-nft-save"], capture_output=True, text=True, check=True)
    assert not done.stderr, done.stderr
    return done.stdout


def saved() -> Program:
    """What iptables says is there."""
    return {key: thing for family in FAMILIES for key, thing in parse(save(family), family).items()}


def expressions() -> list[tuple[str, str, str, bytes]]:
    """Of each rule of both families, as the kernel tells them: family, table, chain, expressions."""
    found = []
    with NetlinkSocket() as kernel:
        for family in FAMILIES:
            for table in TABLES:
                for m in kernel.dump(nf.get(nf.GETRULE, family, text(1, table))):
                    attrs = fields(m.body[4:])
                    found.append((family, table, read_text(attrs[2]), bytes(attrs[4])))
    return sorted(found)


def write(plane: XtNftPlane, changes: list[Change]) -> None:
    for step in steps(changes, ORDER):
        plane.write_now(step.changes)


def level(plane: XtNftPlane) -> list[Change]:
    """Read, and write what differs; returns that."""
    changes = list(diff(plane.read_now(), plane.program))
    write(plane, changes)
    return changes


def in_kernel(work: Callable[[XtNftPlane], None], program: Mapping[Key, object]) -> None:
    """Run `work` where this program has been written."""

    def run() -> None:
        plane = XtNftPlane(program=program)
        try:
            write(plane, list(diff({}, program)))
            work(plane)
        finally:
            plane.close()

    inside(run)


def everything() -> Program:
    return understood({key: thing for f in FAMILIES for key, thing in every_construct(f).items()})


def sorted_lines(told: str) -> list[str]:
    return sorted(line for line in told.splitlines() if line.startswith(("-A KUBE-", ":KUBE-")))


# --- one and the same ---------------------------------------------------------------------------


def test_what_is_written_is_read_back() -> None:
    program = everything()

    def work(plane: XtNftPlane) -> None:
        assert plane.read_now() == program
        assert level(plane) == []

    in_kernel(work, program)


def test_iptables_tells_it_as_we_show_it() -> None:
    program = everything()

    def work(plane: XtNftPlane) -> None:
        assert saved() == program
        for family in FAMILIES:
            assert sorted_lines(save(family)) == sorted_lines(show(program, family))
            # iptables finds each rule by the words it tells it with.
            lines = [line for line in save(family).splitlines() if line[0] in "*-C"]
            restore("\n".join(line.replace("-A", "-D", 1) for line in [*lines, ""]), family)
        assert {key.kind for key in saved()} == {"chain", "rules"}
        assert all(thing == o.Rules() for key, thing in saved().items() if key.kind == "rules")

    in_kernel(work, program)


def test_what_iptables_writes_is_the_same_to_the_byte() -> None:
    program: Program = {}
    for key, thing in everything().items():
        if isinstance(thing, o.Rules):
            thing = o.Rules(tuple(map(without_last_comment, thing.rules)))
        program[key] = without_last_comment(thing) if isinstance(thing, o.Rule) else thing
    ours: list[list[tuple[str, str, str, bytes]]] = []
    in_kernel(lambda plane: ours.append(expressions()), program)

    def theirs() -> None:
        for family in FAMILIES:
            restore(show(program, family), family)
        assert expressions() == ours[0]

    inside(theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_golden_bytes_are_what_iptables_writes(family: o.Family) -> None:
    def work() -> str:
        lines = []
        for words, (table, _) in phrases(family).items():
            with NetlinkSocket() as kernel:
                restore(f"*{table}\n:{AAA} -\n:{SVC} -\n-A {AAA} {words}\nCOMMIT\n", family)
                (m,) = kernel.dump(nf.get(nf.GETRULE, family, text(1, table), text(2, AAA)))
                lines += [words, bytes(fields(m.body[4:])[4]).hex()]
        return "\n".join([*lines, ""])

    golden = GOLDEN / f"iptables-nft.{family}.rules"
    told = inside(work)
    if os.environ.get("KUBEWAY_GOLDEN") == "write":
        golden.write_text(told)
    assert told == golden.read_text()


def test_what_iptables_wrote_is_read_as_it_tells_it() -> None:
    """Also what kubeway has no words for is a rule, if a foreign one."""

    def work() -> None:
        for family in FAMILIES:
            restore(show(every_construct(family)), family)
        plane = XtNftPlane()
        try:
            found, told = plane.read_now(), saved()
        finally:
            plane.close()
        assert understood(found) == understood(told) == everything()
        assert found.keys() == told.keys()
        for key, thing in told.items():
            if isinstance(thing, o.Rules):
                assert isinstance(found[key], o.Rules)
                assert len(found[key].rules) == len(thing.rules)

    inside(work)


def test_an_accounting_object_is_counted_in() -> None:
    """nfacct: its objects are not ours to make, so this makes one."""
    counted = rule(o.Nfacct("kubeway-test"), to=o.Return())
    program: Program = {
        o.chain_key("ip", "filter", SVC): o.Chain(),
        o.rules_key("ip", "filter", SVC): o.Rules((counted,)),
    }

    def work() -> None:
        with NetlinkSocket() as kernel:
            new_object = message(7 << 8, 0x405, bytes(4) + text(1, "kubeway-test"))
            if any(ack.errno for ack in kernel.transact(new_object)):
                pytest.skip("this kernel has no nfacct")
        plane = XtNftPlane(program=program)
        try:
            write(plane, list(diff({}, program)))
            assert plane.read_now() == saved() == program
        finally:
            plane.close()

    inside(work)


@pytest.mark.parametrize("family", FAMILIES)
def test_law_what_is_written_is_read_back_and_told(family: o.Family) -> None:
    @settings(max_examples=EXAMPLES)
    @given(programs(family).map(understood))
    def law(program: Program) -> None:
        def work(plane: XtNftPlane) -> None:
            assert plane.read_now() == program
            assert saved() == program

        in_kernel(work, program)

    law()


@pytest.mark.parametrize("family", FAMILIES)
def test_law_what_iptables_wrote_is_read(family: o.Family) -> None:
    @settings(max_examples=EXAMPLES)
    @given(programs(family).map(understood))
    def law(program: Program) -> None:
        def work() -> None:
            restore(show(program), family)
            plane = XtNftPlane()
            try:
                assert plane.read_now() == program
            finally:
                plane.close()

        inside(work)

    law()


# --- changes ------------------------------------------------------------------------------------


OTHERS: Final = """*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -m comment --comment "no jump to KUBE-SVC-BBBBBBBBBBBBBBBB" -j DOCKER
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:SOMEBODYS - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
-P FORWARD DROP
-A FORWARD -j SOMEBODYS
-A SOMEBODYS -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
*raw
-A PREROUTING -p tcp -m tcp --dport 9 -j DROP
COMMIT
"""


def of_others(family: o.Family) -> dict[str, tuple[list[str], list[str]]]:
    """Of each table of `OTHERS` all lines that do not tell of us: chains with their policies, and rules."""
    tables: dict[str, tuple[list[str], list[str]]] = {}
    held: tuple[list[str], list[str]] = [], []
    for line in save(family).splitlines():
        if line[0] == "*":
            held = tables[line] = [], []
        elif line[0] in ":-" and ("KUBE-" not in line or "CANARY" in line or "no jump" in line):
            held[line[0] == "-"].append(line)
    return {table: (sorted(tables[table][0]), tables[table][1]) for table in ("*nat", "*filter", "*raw")}


@pytest.mark.parametrize("many", [0, 2000])
@pytest.mark.parametrize("family", FAMILIES)
def test_law_any_program_takes_the_place_of_any_other(
    family: o.Family, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And others' rules, chains and policies are as they were, also when all of ours is gone.

    So it is when the changes are so many that they are put in the order in which the kernel walks them.
    """
    monkeypatch.setattr(lower, "MANY", many)

    @settings(max_examples=EXAMPLES)
    @given(st.lists(programs(family).map(understood), min_size=2, max_size=3))
    def law(history: list[Program]) -> None:
        def work() -> None:
            restore(OTHERS, family)
            theirs = of_others(family)
            program: Program = {}
            plane = XtNftPlane(program=program)
            try:
                held: Program = {}
                for one in history:
                    program.clear()
                    program.update(one)
                    write(plane, list(diff(held, program)))
                    held = plane.read_now()
                    assert held == program == parse(save(family), family)
                    assert of_others(family) == theirs
                assert bool(plane.remove()) == bool(held)
                assert plane.read_now() == {}
                assert of_others(family) == theirs
            finally:
                plane.close()

        inside(work)

    law()


def small() -> Program:
    """Two chains, a branching one, jumps."""
    by, branch = f"{o.BRANCHING}SERVICE", rule(o.Mark(1, 1), to=o.Goto(SVC))
    return {
        o.chain_key("ip", "nat", SVC): o.Chain(),
        o.rules_key("ip", "nat", SVC): o.Rules((rule(o.Comment("a"), to=o.Return()), rule(to=o.Accept()))),
        o.chain_key("ip", "nat", OTHER): o.Chain(),
        o.rules_key("ip", "nat", OTHER): o.Rules((rule(to=o.Jump(SVC)),)),
        o.chain_key("ip", "nat", by): o.Chain(),
        o.branch_key("ip", "nat", by, branch): branch,
        o.jump_key("ip", "nat", "OUTPUT", 1): rule(o.Comment("first"), to=o.Jump(SVC)),
        o.jump_key("ip", "nat", "OUTPUT", 2): rule(to=o.Jump(OTHER)),
        o.chain_key("ip", "filter", SVC): o.Chain(),
        o.rules_key("ip", "filter", SVC): o.Rules(),
        o.jump_key("ip", "filter", "INPUT", 1): rule(to=o.Jump(SVC)),
        o.chain_key("ip6", "filter", SVC): o.Chain(),
        o.rules_key("ip6", "filter", SVC): o.Rules((rule(to=o.Drop()),)),
    }


VANDALS: Final[dict[str, Callable[[], None]]] = {
    "flush of nat alone": lambda: nft("flush table ip nat"),
    "nat is gone": lambda: nft("flush table ip nat\ndelete table ip nat"),
    "all is gone": lambda: nft("flush ruleset"),
    "one family is gone": lambda: nft("delete table ip6 filter"),
    "a rule is deleted": lambda: iptables(f"-t nat -D {SVC} -m comment --comment a -j RETURN"),
    "a rule is inserted": lambda: iptables(f"-t nat -I {SVC} -p tcp -j ACCEPT"),
    "a rule of nft's own": lambda: nft(f"insert rule ip nat {SVC} tcp dport 22 counter drop"),
    "a rule with a set": lambda: nft(f"insert rule ip nat {SVC} ip saddr {{ 10.0.0.1, 10.0.0.9 }} accept"),
    "a branch is deleted": lambda: nft("flush chain ip nat KUBE-BY-SERVICE"),
    "a branch is there twice": lambda: iptables(f"-t nat -A KUBE-BY-SERVICE -m mark --mark 1/1 -g {SVC}"),
    "a branch leads elsewhere": lambda: restore(
        f"*nat\n-F KUBE-BY-SERVICE\n-A KUBE-BY-SERVICE -m mark --mark 1/1 -j {OTHER}\nCOMMIT\n"
    ),
    "a stranger among branches": lambda: nft("insert rule ip nat KUBE-BY-SERVICE tcp dport 22 accept"),
    "a jump is deleted": lambda: iptables(f"-t nat -D OUTPUT -j {OTHER}"),
    "a jump is there twice": lambda: iptables(f"-t nat -A OUTPUT -j {OTHER}"),
    "the jumps are in another order": lambda: restore(
        f"*nat\n-D OUTPUT -j {OTHER}\n-I OUTPUT -j {OTHER}\nCOMMIT\n"
    ),
    "a chain is deleted": lambda: restore(f"*nat\n-D OUTPUT -j {OTHER}\n-F {OTHER}\n-X {OTHER}\nCOMMIT\n"),
    "a chain of kube-proxy's": lambda: restore(
        "*nat\n:KUBE-SEP-DDDDDDDDDDDDDDDD -\n:KUBE-MARK-MASQ -\n"
        "-A KUBE-SEP-DDDDDDDDDDDDDDDD -j KUBE-MARK-MASQ\nCOMMIT\n"
    ),
}


@pytest.mark.parametrize("vandal", VANDALS)
def test_whatever_others_do_is_seen_and_put_right(vandal: str) -> None:
    program = small()

    def work(plane: XtNftPlane) -> None:
        VANDALS[vandal]()
        assert level(plane)
        assert plane.read_now() == saved() == program
        assert level(plane) == []

    in_kernel(work, program)


@pytest.mark.parametrize("vandal", VANDALS)
def test_a_change_that_does_not_know_it_is_made_or_refused_but_never_half(vandal: str) -> None:
    """Whoever writes without having read ends level after the read that follows."""
    program = small()

    def work(plane: XtNftPlane) -> None:
        before = plane.read_now()
        VANDALS[vandal]()
        key, branch = next((key, thing) for key, thing in program.items() if key.kind == "branch")
        assert isinstance(branch, o.Rule)
        program[key] = o.Rule(branch.matches, o.Goto(OTHER))
        program[o.rules_key("ip", "nat", SVC)] = o.Rules((rule(to=o.Return()),))
        program[o.jump_key("ip", "nat", "OUTPUT", 1)] = rule(o.Comment("anew"), to=o.Jump(SVC))
        with suppress(Refused):
            write(plane, list(diff(before, program)))
        level(plane)
        assert plane.read_now() == saved() == program

    in_kernel(work, program)


def test_our_jumps_stand_above_those_of_others() -> None:
    program = small()

    def work(plane: XtNftPlane) -> None:
        iptables("-t nat -I OUTPUT -p tcp -j ACCEPT")
        program[o.jump_key("ip", "nat", "OUTPUT", 3)] = rule(o.CtState(("NEW",)), to=o.Jump(SVC))
        level(plane)
        lines = [line for line in save().splitlines() if line.startswith("-A OUTPUT")]
        assert lines == [
            f"-A OUTPUT -m comment --comment first -j {SVC}",
            f"-A OUTPUT -j {OTHER}",
            f"-A OUTPUT -m conntrack --ctstate NEW -j {SVC}",
            "-A OUTPUT -p tcp -j ACCEPT",
        ]

    in_kernel(work, program)


def test_a_hook_with_a_priority_of_its_own_keeps_it() -> None:
    """Somebody made the chain by hand: as long as it is there we only put our jumps in."""

    def work() -> None:
        nft("table ip nat {\nchain OUTPUT { type nat hook output priority -90; policy drop; }\n}")
        program = small()
        plane = XtNftPlane(program=program)
        try:
            level(plane)
            assert plane.read_now() == program
        finally:
            plane.close()
        told = subprocess.run(
            ["nft", "list", "chain", "ip", "nat", "OUTPUT"], capture_output=True, text=True, check=True
        )
        assert "policy drop" in told.stdout
        assert "dstnat + 10" in told.stdout or "-90" in told.stdout

    inside(work)


def test_built_in_chains_are_those_that_iptables_makes() -> None:
    """Its own are no others than ours, to the word: hook, priority, type and policy."""
    listing = ["nft", "list", "ruleset"]
    hooks = {
        "filter": ("INPUT", "FORWARD", "OUTPUT"),
        "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
        "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    }
    program: Program = {}
    for family in FAMILIES:
        for table, chains in hooks.items():
            program[o.chain_key(family, table, SVC)] = o.Chain()  # type: ignore[arg-type]
            program[o.rules_key(family, table, SVC)] = o.Rules()  # type: ignore[arg-type]
            for chain in chains:
                program[o.jump_key(family, table, chain, 1)] = rule(to=o.Jump(SVC))  # type: ignore[arg-type]

    def lines() -> list[str]:
        told = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
        return sorted(line.strip() for line in told.splitlines())

    ours: list[list[str]] = []
    in_kernel(lambda plane: ours.append(lines()), program)

    def theirs() -> None:
        for family in FAMILIES:
            restore(show(program, family), family)
        assert lines() == ours[0]

    inside(theirs)


# --- refusals -----------------------------------------------------------------------------------

CART = ServicePortName("shop", "cart", "http", TCP)


@pytest.mark.parametrize(
    ("key", "new"),
    [
        (o.rules_key("ip", "nat", SVC), o.Rules((rule(to=o.Return()), rule(to=o.Jump("KUBE-NOWHERE"))))),
        (o.jump_key("ip", "nat", "OUTPUT", 2), rule(to=o.Jump("KUBE-NOWHERE"))),
        # Where it can be reached from, the kernel has no such target (EINVAL).
        (o.rules_key("ip", "nat", SVC), o.Rules((rule(to=o.Masquerade()),))),
    ],
)
def test_a_refusal_names_the_service_and_applies_nothing(key: Key, new: object) -> None:
    program = small()

    def work(plane: XtNftPlane) -> None:
        before = plane.read_now()
        plane.origin = lambda asked: Origin(CART, "service port") if asked == key else None
        extra: Program = {
            o.chain_key("ip6", "nat", OTHER): o.Chain(),
            o.rules_key("ip6", "nat", OTHER): o.Rules(),
        }
        wanted = {**program, **extra, key: new}
        plane.program = wanted
        with pytest.raises(Refused) as caught:
            write(plane, list(diff(before, wanted)))
        assert caught.value.errno in (errno.ENOENT, errno.EINVAL)
        assert caught.value.key == key
        assert "shop/cart:http" in str(caught.value)
        assert plane.read_now() == before

    in_kernel(work, program)


def test_a_chain_others_still_use_is_refused_by_name() -> None:
    program = small()

    def work(plane: XtNftPlane) -> None:
        iptables(f"-t nat -A PREROUTING -p tcp -j {SVC}")
        with pytest.raises(Refused) as caught:
            write(plane, list(diff(program, {})))
        assert caught.value.errno == errno.EBUSY
        assert caught.value.key == o.chain_key("ip", "nat", SVC)

    in_kernel(work, program)


def test_answers_that_do_not_fit_are_lost_not_forgotten() -> None:
    program = small()

    def work(plane: XtNftPlane) -> None:
        # Room for next to no answers, and thousands of refusals: the kernel drops them (ENOBUFS).
        plane._socket._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        before = len(plane.read_now())
        wrong: list[Change] = [
            Change("add", o.rules_key("ip", "nat", f"KUBE-SVC-{n}"), None, o.Rules((rule(to=o.Return()),)))
            for n in range(3000)
        ]
        with pytest.raises((Lost, Refused)) as caught:
            plane.write_now(wrong)
        assert isinstance(caught.value, Lost)
        assert len(plane.read_now()) == before

    in_kernel(work, program)


def test_nothing_to_write_is_no_commit() -> None:
    def work(plane: XtNftPlane) -> None:
        generation = plane.generation()
        plane.write_now([])
        shared = o.chain_key("ip", "filter", "KUBE-FIREWALL")
        plane.write_now([Change("del", shared, o.Chain(), None)])
        assert plane.generation() == generation

    in_kernel(work, small())


def test_one_write_is_one_commit() -> None:
    program = everything()

    def work() -> None:
        plane = XtNftPlane(program=program)
        try:
            before = plane.generation()
            write(plane, list(diff({}, program)))
            assert plane.generation() == before + 1
        finally:
            plane.close()

    inside(work)


# --- taking all away ------------------------------------------------------------------------------


def test_all_of_ours_goes_and_nothing_of_others() -> None:
    def work(plane: XtNftPlane) -> None:
        assert plane.remove() == ["ip filter", "ip nat", "ip6 filter"]
        assert plane.remove() == []
        assert saved() == {}

    in_kernel(work, small())


def test_a_chain_others_jump_to_is_emptied_and_stays() -> None:
    def work(plane: XtNftPlane) -> None:
        iptables(f"-t nat -A PREROUTING -p tcp -j {OTHER}")
        assert plane.remove() == ["ip filter", "ip nat", "ip6 filter"]
        assert saved() == {
            o.chain_key("ip", "nat", OTHER): o.Chain(),
            o.rules_key("ip", "nat", OTHER): o.Rules(),
        }
        assert f"-A PREROUTING -p tcp -j {OTHER}" in save().splitlines()
        assert plane.remove() == []

    in_kernel(work, small())


def test_of_the_shared_chain_nothing_is_taken() -> None:
    def work() -> None:
        restore(
            "*filter\n:KUBE-FIREWALL -\n-A INPUT -j KUBE-FIREWALL\n-A INPUT -p tcp -j ACCEPT\n"
            "-A KUBE-FIREWALL -m comment --comment kubelets -m mark --mark 0x8000/0x8000 -j DROP\nCOMMIT\n"
        )
        theirs = [line for line in save().splitlines() if line.startswith("-A")]
        key = o.chain_key("ip", "filter", "KUBE-FIREWALL")
        program = {
            **small(),
            key: o.Chain(),
            o.jump_key("ip", "filter", "INPUT", 1): rule(to=o.Jump("KUBE-FIREWALL")),
            o.jump_key("ip", "filter", "INPUT", 2): rule(to=o.Jump(SVC)),
            o.jump_key("ip", "filter", "KUBE-FIREWALL", 1): o.MARTIANS,
        }
        plane = XtNftPlane(program=program)
        try:
            level(plane)
            assert plane.read_now() == saved() == program
            plane.remove()
            left = [line for line in save().splitlines() if line.startswith("-A")]
            assert [line for line in left if o.MARTIAN not in line] == theirs
            assert len(left) == len(theirs) + 1
            assert plane.read_now().keys() == {
                key,
                o.jump_key("ip", "filter", "INPUT", 1),
                o.jump_key("ip", "filter", "KUBE-FIREWALL", 1),
            }
        finally:
            plane.close()

    inside(work)


KUBELETS = f"""*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "{o.MARTIAN}" \
-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
COMMIT
"""


@pytest.mark.parametrize("twice", [False, True])
def test_what_kubelet_shares_with_us_stays(twice: bool) -> None:
    """Where it is not wanted by us, and where it is there once more than we want it.

    Kubelet counts on its rule against martians, and makes it again each minute: to take it for drift would
    open loopback, and there would be no end to it.
    """
    firewall = rule(to=o.Jump("KUBE-FIREWALL"))
    program = {
        **small(),
        o.chain_key("ip", "filter", "KUBE-FIREWALL"): o.Chain(),
        **({o.jump_key("ip", "filter", "OUTPUT", 1): firewall} if twice else {}),
    }

    def theirs() -> list[str]:
        told = save().partition("*filter")[2].partition("COMMIT")[0].splitlines()
        return sorted(line for line in told if line.startswith("-A") and SVC not in line)

    def work() -> None:
        restore(KUBELETS)
        if twice:
            iptables("-A OUTPUT -j KUBE-FIREWALL")
        before = theirs()
        plane = XtNftPlane(program=program)
        try:
            level(plane)
            assert theirs() == before
            assert level(plane) == []
            plane.remove()
            assert theirs() == before
        finally:
            plane.close()

    inside(work)


def test_it_is_a_plane_that_can_be_awaited() -> None:
    program = small()

    def work() -> None:
        plane = XtNftPlane(program=program)

        async def all_of_it() -> None:
            for step in steps(diff({}, program), ORDER):
                await plane.write(step.changes)
            assert await plane.read() == program

        try:
            asyncio.run(all_of_it())
        finally:
            plane.close()

    inside(work)


def test_a_list_of_clients_forgets_who_came_longest_ago() -> None:
    """What docs/theory/xtables.md says of sticky Services with many clients."""
    name = "KUBE-SEP-AAAAAAAAAAAAAAAA"
    program: Program = {
        o.chain_key("ip", "filter", SVC): o.Chain(),
        o.rules_key("ip", "filter", SVC): o.Rules((rule(o.Protocol(UDP), o.Recent(name, "set")),)),
        o.jump_key("ip", "filter", "OUTPUT", 1): rule(to=o.Jump(SVC)),
    }

    def work(plane: XtNftPlane) -> None:
        most = int(Path("/sys/module/xt_recent/parameters/ip_list_tot").read_text())
        clients = [f"127.0.{number // 250 + 1}.{number % 250 + 1}" for number in range(most + 30)]
        for client in clients:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((client, 0))
                sender.sendto(b"hello", ("127.0.0.1", 9))
        told = Path(f"/proc/thread-self/net/xt_recent/{name}").read_text().splitlines()
        assert {line.split()[0].removeprefix("src=") for line in told} == set(clients[30:])

    in_kernel(work, program)
