"""
Whatever others do to iptables' tables, by either back end: what is ours is level again within the time that
docs/theory/xtables.md tells, what is not stays as they made it, and there is an end to it.

The real planes and all that levels them, on a clock that the test turns.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import replace

from kubeway.errors import KubewayError
from kubeway.modes.chains.layout import hashed
from kubeway.modes.iptables import IptablesMode
from kubeway.program.plan import diff
from kubeway.records import Drifted, Record, Repaired
from tests.kernel.levelled import Levelled
from tests.kernel.netns import inside, needs_root
from tests.worlds import World, service_docs, world

pytestmark = [
    pytest.mark.kernel,
    needs_root,
    pytest.mark.skipif(shutil.which("iptables-legacy") is None, reason="iptables-legacy is not installed"),
]

TOOLS: Final = {"nf_tables": "nft", "legacy": "legacy"}
SVC: Final = f"KUBE-SVC-{hashed('shop/cart:httptcp')}"
LOCALNET: Final = (
    '! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" '
    "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
)

# What others have: a kubelet, kube-router, Docker, CNI's portmap.
OTHERS: Final = f"""*filter
:KUBE-ROUTER-INPUT - [0:0]
:KUBE-FIREWALL - [0:0]
-A INPUT -m comment --comment "kube-router netpol" -j KUBE-ROUTER-INPUT
-A INPUT -j KUBE-FIREWALL
-A OUTPUT -j KUBE-FIREWALL
-A FORWARD -i docker0 -j ACCEPT
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
-A KUBE-FIREWALL {LOCALNET}
COMMIT
*nat
:CNI-HOSTPORT-SETMARK - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A CNI-HOSTPORT-SETMARK -m comment --comment portmap -j KUBE-MARK-MASQ
-A POSTROUTING -m comment --comment docker -j MASQUERADE
COMMIT
*mangle
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
"""

# Commands of the tool, and what is drift of it: seen by a count, by looking, or not ours at all.
COUNTED, LOOKED, NOT_OURS = "counted", "looked", "not ours"
VANDALS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "a rule is deleted": (COUNTED, ("-t nat -D KUBE-SERVICES 1",)),
    "a rule is inserted": (COUNTED, ("-t nat -I KUBE-SERVICES -p tcp -j RETURN",)),
    "a rule nobody here has words for": (
        COUNTED,
        (f"-t nat -I {SVC} -m limit --limit 3/min -j LOG --log-prefix 'a \"b\\ c'",),
    ),
    "another rule of the same size": (LOOKED, ("-t nat -R KUBE-MARK-MASQ 1 -j MARK --set-xmark 0x1/0x1",)),
    "rules in another order": (
        LOOKED,
        (
            "-t filter -D KUBE-FORWARD 1",
            "-t filter -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
        ),
    ),
    "a chain is flushed": (COUNTED, (f"-t nat -F {SVC}",)),
    "a chain is made anew": (
        COUNTED,
        (
            '-t nat -D POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
            "-t nat -F KUBE-POSTROUTING",
            "-t nat -X KUBE-POSTROUTING",
            "-t nat -N KUBE-POSTROUTING",
        ),
    ),
    "a kube-proxy at work": (
        COUNTED,
        ("-t mangle -N KUBE-PROXY-CANARY", "-t nat -N KUBE-SEP-AAAAAAAAAAAAAAAA", "-t nat -F KUBE-SERVICES"),
    ),
    "our jumps are gone": (COUNTED, ("-D INPUT -j KUBE-FIREWALL", "-t nat -D OUTPUT 1")),
    "the shared chain is emptied": (
        COUNTED,
        (
            "-F KUBE-FIREWALL",
            "-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP",
        ),
    ),
    "policy": (NOT_OURS, ("-P FORWARD DROP",)),
    "counters": (NOT_OURS, ("-t nat -Z", "-Z")),
    "kubelet's jump once more": (NOT_OURS, ("-I INPUT -j KUBE-FIREWALL",)),
    "kubelet's jump for some": (NOT_OURS, ("-I INPUT -p udp -j KUBE-FIREWALL",)),
    "a jump above ours": (NOT_OURS, ("-I INPUT -j KUBE-ROUTER-INPUT", "-I FORWARD -j KUBE-ROUTER-INPUT")),
    "our names in words of others": (
        NOT_OURS,
        ('-I INPUT -m comment --comment "KUBE- \\"q\\" -j KUBE-SERVICES -d" -j ACCEPT',),
    ),
    "our chains for flows of others": (NOT_OURS, ("-t nat -A OUTPUT -p udp -j KUBE-SERVICES",)),
}


class Node(Levelled):
    """A node of one back end with some Services."""

    def __init__(self, back_end: str) -> None:
        self.tool = f"iptables-{TOOLS[back_end]}"
        self.now = 0.0
        super().__init__(back_end, lambda: self.now)

    def furnish(self) -> None:
        subprocess.run([f"{self.tool}-restore", "--noflush"], input=OTHERS, text=True, check=True)
        cluster = world(
            [
                *service_docs("shop/cart:http", endpoints=3, node_port=30080),
                *service_docs("shop/dns:dns", vip="10.96.0.10", sessionAffinity="ClientIP"),
                *service_docs("shop/none:http", vip="10.96.0.11", endpoints=0),
            ]
        ).in_mode("iptables")
        w = World(cluster.docs, replace(cluster.options, node_port_addresses=()))  # at loopback, too
        mode = IptablesMode()
        fragments = {(one.name, one.family): mode.fragment(one, w.view) for one in w.forwards}
        self.want({(): mode.base(w.view), **fragments})

    def vandalize(self, commands: tuple[str, ...]) -> None:
        for words in commands:
            subprocess.run([self.tool, *shlex.split(words)], check=True)

    def saved(self) -> list[str]:
        done = subprocess.run([f"{self.tool}-save"], check=True, capture_output=True, text=True)
        return [line.partition(" [")[0] for line in done.stdout.splitlines() if line[0] in ":-"]

    async def level(self) -> None:
        problem: KubewayError | None = await self.leveller.level()
        assert problem is None, problem

    async def rest(self, seconds: int) -> list[Record]:
        """What is told in this time."""
        before = len(self.heard)
        for _ in range(seconds):
            self.now += 1
            if self.leveller.idle(self.now) <= self.now:
                await self.level()
        return [one for one in self.heard[before:] if isinstance(one, Drifted | Repaired)]


@pytest.mark.parametrize("back_end", TOOLS)
def test_whatever_others_do_there_is_an_end_to_it(
    back_end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))

    async def all_of_them() -> None:
        node = Node(back_end)
        with closing(node.fit.plane):
            node.furnish()
            await node.level()
            assert {line for line in OTHERS.splitlines() if line[0] == "-"} <= set(node.saved())
            for name, (seen, commands) in VANDALS.items():
                before = set(node.saved())
                node.vandalize(commands)
                made = node.saved()
                told = await node.rest(61 if seen == LOOKED and back_end == "legacy" else 1)
                assert [type(one) for one in told] == ([] if seen == NOT_OURS else [Drifted, Repaired]), name
                assert list(diff(await node.fit.plane.read(), node.linker.objects)) == [], name
                if seen == NOT_OURS:
                    assert node.saved() == made, name
                else:
                    assert set(node.saved()) == before, name
                assert await node.rest(130) == [], name

    inside(lambda: asyncio.run(all_of_them()))
