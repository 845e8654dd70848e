"""
Plays a scenario with real packets: the real daemon, started as a user starts it, in the lab's node.

Each answer is held against two things: what the scenario's file says in words, and what
the Oracle says of the same cluster. So the file, the model and the kernel must agree.
Where the daemon hears of the cluster is the test's choice: a `Source`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from kubeway.lab.host import Answer, Flood, Host, Question
from kubeway.lab.proxy import Proxy, cleanup
from kubeway.lab.topology import Lab
from kubeway.model.node import NodeView
from kubeway.model.oracle import Oracle
from kubeway.model.packet import Fate, Fates, Packet
from kubeway.model.parse import parse_manifest
from kubeway.model.settle import Settler
from kubeway.model.store import Store
from kubeway.model.view import node_facts, node_view
from kubeway.shell.asked import settle
from kubeway.shell.options import model_options
from kubeway.values import PROTOS, Ip, parse_ip
from tests.kernel.remains import nothing_remains
from tests.kernel.scenario import Ask, Expect, Manifest, Scenario, Step, identity

FILES = sorted((Path(__file__).parents[1] / "scenarios").glob("*.yaml"))
SCTP_TRACKED = Path("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_closed")
PATIENCE = 60.0
"""Seconds a change of the manifests may take until packets show it. It takes milliseconds; machines stall."""
WAITS = {"timeout": 0.4, "refused": 5.0}
"""Seconds. What has not come after so short a time is taken for dropped: no link of the lab loses or delays.

An ICMP error may come so early that the socket is still busy sending; TCP then learns of it only when it
tries again, after 1 s (TcpExtLockDroppedIcmps counts these).
"""


class Way(NamedTuple):
    """A way into the kernel: the flags that ask for it, and the command that lists what it wrote.

    `mark` is in the listing while its rules are there. `mute`: protocols that it cannot speak, so that who
    asks by them is refused. `sysctls`: what it needs of the node. `slow`: its node is, so that answers are
    under way for long.
    """

    flags: dict[str, str]
    listing: tuple[str, ...]
    mark: str
    mute: frozenset[str] = frozenset()
    sysctls: tuple[str, ...] = ()
    slow: bool = False

    def expected(self, ask: Ask) -> Ask:
        """The question with what is to come of it in this way."""
        served = ask.expect.kind in ("answered", "sticky")
        return replace(ask, expect=Expect("refused")) if served and ask.proto in self.mute else ask

    def holds(self, node: Host) -> bool:
        return self.mark in node.run(self.listing).stdout


UNASKED = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
"""Of br_netfilter: off, or pods on a bridge do not come to the relay (docs/theory/userspace.md)."""

# What is said of node ports in a scenario is said of nftables mode's default.
_IPTABLES = {"proxy-mode": "iptables", "nodeport-addresses": "primary"}
NFTABLES = Way({"proxy-mode": "nftables"}, ("nft", "list", "ruleset"), "table ip kubeway")
WAYS = {
    "nftables": NFTABLES,
    "iptables-nf_tables": Way(
        {**_IPTABLES, "kubeway-iptables-backend": "nf_tables"}, ("iptables-nft-save",), ":KUBE-SERVICES"
    ),
    "iptables-legacy": Way(
        {**_IPTABLES, "kubeway-iptables-backend": "legacy"}, ("iptables-legacy-save",), ":KUBE-SERVICES"
    ),
    "userspace": Way(
        {"proxy-mode": "userspace", "nodeport-addresses": "primary"},
        ("nft", "list", "ruleset"),
        "table ip kubeway",
        mute=frozenset({"SCTP"}),
    ),
    "userspace-xtables": Way(
        {"proxy-mode": "userspace", "nodeport-addresses": "primary", "kubeway-steering": "xtables"},
        ("iptables-legacy-save",),
        ":KUBE-RELAY-PREROUTING",
        mute=frozenset({"SCTP"}),
        sysctls=UNASKED,
    ),
}
# Where there is ip_vs.
IPVS = Way(
    {"proxy-mode": "ipvs", "nodeport-addresses": "primary", "kubeway-iptables-backend": "legacy"},
    ("ipset", "list", "-name"),
    "KUBE-CLUSTER-IP",
    slow=True,
)


class Source(NamedTuple):
    """The flag that tells the daemon where it hears of the cluster, its value, and flags that go with it."""

    kind: str
    path: Path
    flags: tuple[str, ...] = ()


Sources = Callable[[Path], AbstractContextManager[Source]]
"""Makes of a directory of manifests, which the test goes on changing, what the daemon is given."""


def start(scenario: Scenario, lab: Lab, tmp_path: Path, source: Source, way: Way = NFTABLES) -> Proxy:
    """The daemon as the scenario wants it."""
    words = [*source.flags, *flags(scenario, way)]
    return Proxy(lab.node, source.path, tmp_path / "log", words, kind=source.kind)


def play(
    scenario: Scenario,
    lab: Lab,
    tmp_path: Path,
    sources: Sources,
    way: Way = NFTABLES,
    clean: Callable[[Host], None] = cleanup,
) -> None:
    """From an empty node to an empty node, by `clean`. AssertionError if anything is not as it should be."""
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    world = World(lab, scenario, way)
    world.change(scenario.steps[0], manifests)
    with (
        off(lab.node, way.sysctls),
        sources(manifests) as source,
        start(scenario, lab, tmp_path, source, way) as proxy,
    ):
        proxy.wait_ready()
        if any(ask.proto == "SCTP" for ask in scenario.steps[0].asks) and not SCTP_TRACKED.exists():
            pytest.skip("this kernel does not track SCTP (CONFIG_NF_CT_PROTO_SCTP)")
        floods = [lab.host(ask.host).flood(ask.ip, ask.port, ask.proto) for ask in scenario.meanwhile]
        world.check(scenario.steps[0].asks)
        for step in scenario.steps[1:]:
            world.change(step, manifests)
            until_it_holds(lambda asks=step.asks: world.check(asks))  # type: ignore[misc]
        for ask, flood in zip(scenario.meanwhile, floods, strict=True):
            nothing_is_lost(
                [flood], under_way=len(scenario.steps) - 1 if way.slow and ask.proto == "UDP" else 0
            )
        assert proxy.stop() == 0, proxy.log
        assert "Traceback" not in proxy.log
    assert way.holds(lab.node), "the rules must outlive the daemon"
    clean(lab.node)
    assert not way.holds(lab.node)
    assert "kubeway" not in lab.node.run(["nft", "list", "ruleset"]).stdout
    nothing_remains(lab.node)


@contextmanager
def off(node: Host, sysctls: Sequence[str]) -> Iterator[None]:
    """With these set to 0, and what they were afterwards. What the kernel does not have is off."""
    paths = {name: f"/proc/sys/{name.replace('.', '/')}" for name in sysctls}
    told = {name: node.run(["cat", path], check=False).stdout.strip() for name, path in paths.items()}
    had = {name: value for name, value in told.items() if value}
    node.sysctl(dict.fromkeys(had, 0))
    try:
        yield
    finally:
        node.sysctl(had)


UNDER_WAY = frozenset({"timeout"})


def nothing_is_lost(floods: Sequence[Flood], under_way: int = 0, how: Set[str] = UNDER_WAY) -> None:
    """End them; each was answered, always. Of UDP so many need not be: when an endpoint leaves, its flows are
    forgotten at once, as kube-proxy does, and with them an answer that is under way. `how` these end."""
    for tally in [flood.stop() for flood in floods]:
        assert set(tally.lost) <= how, tally
        assert sum(tally.lost.values()) <= under_way, tally
        assert tally.sent > 0


def spelled(scenario: Scenario, way: Way) -> dict[str, str]:
    """The flags that matter to the scenario, as they stand on the command line."""
    words = {**way.flags, **scenario.flags}
    return {name: "true" if value is True else str(value) for name, value in words.items()}


def flags(scenario: Scenario, way: Way) -> Iterator[str]:
    for name, value in spelled(scenario, way).items():
        yield f"--{name}" if value == "true" else f"--{name}={value}"


def until_it_holds(check: Callable[[], None]) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


class World:
    """The cluster as the scenario has it now: its files, what they mean, and where each client went last."""

    def __init__(self, lab: Lab, scenario: Scenario, way: Way = NFTABLES) -> None:
        self._lab = lab
        self._way = way
        self._scenario = scenario
        self._objects: dict[str, Manifest] = {}
        self._own = frozenset(parse_ip(text) for text in lab.node_addresses())
        self._remembered: dict[tuple[Ip, Ip, str, int], tuple[Ip, int]] = {}
        self._oracle: Oracle

    def change(self, step: Step, manifests: Path) -> None:
        """Write the step's objects, each file at once, and settle anew what they mean."""
        for manifest in step.put:
            name = identity(manifest)
            self._objects[name] = manifest
            file = manifests / f"{name.replace(' ', '-').replace('/', '-').lower()}.json"
            draft = file.with_name(f".{file.name}")
            draft.write_text(json.dumps(manifest))
            draft.replace(file)
        for name in step.drop:
            del self._objects[name]
            (manifests / f"{name.replace(' ', '-').replace('/', '-').lower()}.json").unlink()
        self._oracle = self._settle()

    def _settle(self) -> Oracle:
        data = json.dumps({"kind": "List", "apiVersion": "v1", "items": list(self._objects.values())})
        objects, bad = parse_manifest(data.encode(), self._scenario.name)
        assert not bad
        store = Store()
        for obj in objects:
            store.put(obj)
        snapshot = store.snapshot()
        given = {name: [text] for name, text in spelled(self._scenario, self._way).items()}
        options = model_options(settle(given).configuration, "node1")
        facts = node_facts(snapshot.nodes.get("node1"), "node1", self._own)
        settler = Settler(facts, options)
        settler.update(snapshot, frozenset(snapshot.names()))
        view: NodeView = node_view(facts, options, snapshot.service_cidrs())
        return Oracle(settler.forwards.values(), view)

    def check(self, asks: Sequence[Ask]) -> None:
        """Ask, and hold the answers against the file's words and the Oracle's."""
        asks = [self._way.expected(ask) for ask in asks]
        silent = self._ask_silent([ask for ask in asks if ask.expect.kind in ("refused", "timeout")])
        for ask in asks:
            if ask.expect.kind == "http":
                self._check_page(ask)
                continue
            answers = silent[ask] if ask in silent else self._ask(ask)
            told = f"{self._scenario.name}: {ask}: {summary(answers)}"
            self._check_words(ask, answers, told)
            self._check_oracle(ask, answers, told)

    def _ask(self, ask: Ask) -> list[Answer]:
        n, at_once = tries(len(ask.expect.names)), 4
        if ask.expect.kind == "sticky":
            n, at_once = 20, 1
        elif ask.sport:
            n = 1  # one flow has one fate
        question = Question(ask.ip, ask.port, ask.proto, ask.source, ask.sport)
        return self._lab.host(ask.host).ask_all([question] * n, at_once)

    def _ask_silent(self, asks: Sequence[Ask]) -> dict[Ask, list[Answer]]:
        """What is refused or dropped takes its time: all such questions at once, each thrice."""
        by_host: dict[str, list[Ask]] = {}
        for ask in asks:
            by_host.setdefault(ask.host, []).extend([ask] * (1 if ask.sport else 3))

        def one_host(host: str) -> list[Answer]:
            questions = [
                Question(ask.ip, ask.port, ask.proto, ask.source, ask.sport, WAITS[ask.expect.kind])
                for ask in by_host[host]
            ]
            return self._lab.host(host).ask_all(questions, len(questions))

        answers: dict[Ask, list[Answer]] = {}
        with ThreadPoolExecutor(max(1, len(by_host))) as pool:
            for own, told in zip(by_host.values(), pool.map(one_host, by_host), strict=True):
                for ask, answer in zip(own, told, strict=True):
                    answers.setdefault(ask, []).append(answer)
        return answers

    def _check_words(self, ask: Ask, answers: Sequence[Answer], told: str) -> None:
        expect = ask.expect
        if expect.kind in ("refused", "timeout"):
            assert {a.kind for a in answers} == {expect.kind}, told
            return
        assert {a.kind for a in answers} == {"answered"}, told
        seen = {named(a, expect.names) for a in answers}
        if expect.kind == "sticky":
            assert len(seen) == 1, told
            assert seen <= set(expect.names), told
        elif ask.sport:
            assert seen <= set(expect.names), told
        else:
            assert seen == set(expect.names), told
        for answer in answers:
            wanted = expect.masquerades(named(answer, expect.names))
            assert wanted is None or answer.masqueraded == wanted, told

    def _check_oracle(self, ask: Ask, answers: Sequence[Answer], told: str) -> None:
        seen: set[Fate] = set()
        fates: Fates = {}
        for answer in answers:
            source = address(answer.source)
            key = (source, parse_ip(ask.ip), ask.proto, ask.port)
            packet = Packet(
                src=source,
                dst=parse_ip(ask.ip),
                proto=PROTOS[ask.proto],
                port=ask.port,
                iif=self._lab.interface(ask.host),
                remembered=self._remembered.get(key),
            )
            fates = self._oracle.fates(packet)
            if answer.kind == "answered":
                server = answer.server
                self._remembered[key] = (address(server), int(server.rpartition(":")[2]))
            fate = self._fate(ask, answer, passed=Fate("pass") in fates)
            assert fate in fates, f"{told}; the oracle says {words(fates)}, not {fate}"
            seen.add(fate)
        if ask.expect.kind == "answered" and not ask.sport:
            assert seen == set(fates), f"{told}; the oracle says {words(fates)}"

    def _fate(self, ask: Ask, answer: Answer, *, passed: bool) -> Fate:
        """What came of the packet, in the model's words."""
        if passed and answer.kind != "answered":
            return Fate("pass")  # whatever its destination does with it
        if answer.kind == "refused":
            return Fate("reject")
        if answer.kind == "timeout":
            return Fate("drop")
        if answer.masqueraded:
            assert address(answer.client) in self._own, f"{answer.client} is not an address of the node"
        server = (address(answer.server), int(answer.server.rpartition(":")[2]))
        if passed and server == (parse_ip(ask.ip), ask.port) and not answer.masqueraded:
            return Fate("pass")
        return Fate("endpoint", *server, masquerade=answer.masqueraded)

    def _check_page(self, ask: Ask) -> None:
        page = self._lab.host(ask.host).fetch(ask.ip, ask.port, "/")
        assert page.status == ask.expect.status, page
        if ask.expect.local is not None:
            assert json.loads(page.body)["localEndpoints"] == ask.expect.local, page
            assert page.headers["x-load-balancing-endpoint-weight"] == str(ask.expect.local), page


def tries(endpoints: int) -> int:
    """How often to ask so that missing one of them by chance happens once in a million times."""
    if endpoints < 2:
        return 4
    return math.ceil(math.log(endpoints * 1e6) / -math.log(1 - 1 / endpoints))


def named(answer: Answer, names: Sequence[str]) -> str:
    """The server as the scenario calls it: by name, or by name and port where it says the port."""
    full = f"{answer.name}:{answer.server.rpartition(':')[2]}"
    return full if full in names else answer.name


def address(text: str) -> Ip:
    """The address in `ip:port`."""
    return parse_ip(text.rpartition(":")[0].strip("[]"))


def summary(answers: Sequence[Answer]) -> str:
    counts: dict[str, int] = {}
    for a in answers:
        text = f"{a.name} at {a.server}{' masqueraded' * a.masqueraded}" if a.kind == "answered" else a.kind
        counts[text] = counts.get(text, 0) + 1
    return ", ".join(f"{n} x {text}" for text, n in sorted(counts.items()))


def words(fates: Fates) -> str:
    return ", ".join(f"{fate} ({Fraction(chance)})" for fate, chance in fates.items())
