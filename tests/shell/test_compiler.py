"""From changed Services to changed objects, where all of them together matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.model.settle import Settler
from kubeway.modes.iptables import IptablesMode
from kubeway.modes.nftables import NFTABLES
from kubeway.modes.userspace import USERSPACE
from kubeway.planes.xtables.objects import Comment
from kubeway.program.link import Linker
from kubeway.program.plan import apply
from kubeway.program.plane import Mode
from kubeway.program.program import Key, Object
from kubeway.shell.compiler import Compiled, Compiler
from kubeway.views import compile as offline
from tests.worlds import Doc, World, port_doc, service_doc, service_docs, world

LIMIT = 6


class Small(IptablesMode):
    """To which few endpoints are many."""

    large = LIMIT  # type: ignore[misc]


def fresh(w: World, mode: Mode) -> Mapping[Key, Object]:
    """The program of this world, made at once."""
    return offline.program(offline.World(w.snapshot, w.facts, w.view, w.forwards), mode).objects


def shops(*endpoints: int) -> World:
    """A Service with so many endpoints for each number; two IPv4 ones, then one of IPv6."""
    vips = ["10.96.0.1", "10.96.0.2", "fd00:10:96::1"]
    docs: list[Doc] = []
    for n, count in enumerate(endpoints):
        more: dict[str, Any] = {"sessionAffinity": "ClientIP"} if n == 1 else {}
        docs += service_docs(f"shop/s{n}:http", vip=vips[n], endpoints=count, node_port=30000 + n, **more)
    return world(docs).in_mode("iptables")


class Followed:
    """A compiler that goes from world to world."""

    def __init__(self, first: World, mode: Mode) -> None:
        self.linker = Linker()
        self.world = first
        self.compiler = Compiler(mode, Settler, first.options, first.facts, self.linker)
        self.compiler.restart(first.snapshot, first.facts)

    def become(self, other: World) -> Compiled:
        before = dict(self.linker.objects)
        names = {*self.world.snapshot.names(), *other.snapshot.names()}
        changed = [n for n in names if self.world.snapshot.services.get(n) != other.snapshot.services.get(n)]
        changed += [n for n in names if self.world.snapshot.slices_of(n) != other.snapshot.slices_of(n)]
        self.world = other
        compiled = self.compiler.update(other.snapshot, changed)
        assert apply(compiled.changes, before) == dict(self.linker.objects)
        return compiled


def told(objects: Mapping[Key, Object], family: str = "ip") -> set[str]:
    """The endpoints that comments name."""
    return {
        match.text.partition(" -> ")[2]
        for key, thing in objects.items()
        if key.kind == "rules" and key.name[0] == family
        for rule in thing.rules
        for match in rule.matches
        if isinstance(match, Comment) and " -> " in match.text
    }


def test_growing_large_and_back_gives_what_a_fresh_start_gives() -> None:
    mode = Small()
    followed = Followed(shops(3, 2, 2), mode)
    assert told(followed.linker.objects) == {f"10.244.1.{n}:8080" for n in (1, 2, 3)}
    for counts, all_anew in [((4, 2, 2), False), ((5, 2, 2), True), ((5, 3, 2), False), ((2, 3, 2), True)]:
        w = shops(*counts)
        compiled = followed.become(w)
        assert compiled.full == all_anew
        assert dict(followed.linker.objects) == dict(fresh(w, mode))
        assert bool(told(followed.linker.objects)) == (sum(counts[:2]) <= LIMIT)
        # The other family is not large for it.
        assert told(followed.linker.objects, "ip6") == {
            "[fd00:10:244:1::1]:8080",
            "[fd00:10:244:1::2]:8080",
        }


@given(st.lists(st.tuples(*[st.integers(0, 8)] * 3), min_size=2, max_size=6))
def test_whatever_the_way_the_program_is_that_of_the_world(history: list[tuple[int, ...]]) -> None:
    mode = Small()
    first, *rest = [shops(*counts) for counts in history]
    followed = Followed(first, mode)
    for w in rest:
        followed.become(w)
        assert dict(followed.linker.objects) == dict(fresh(w, mode))


def test_what_is_large_stays_so_when_the_node_changes() -> None:
    mode = Small()
    w = shops(8, 0, 0)
    followed = Followed(w, mode)
    other = World(w.docs, w.options, addresses=(*w.addresses, "203.0.113.77"))
    compiled = followed.compiler.adapt(w.snapshot, [], other.facts)
    assert not compiled.full
    assert dict(followed.linker.objects) == dict(fresh(other, mode))


@pytest.mark.parametrize("mode", [NFTABLES, IptablesMode()], ids=["nftables", "iptables"])
def test_kube_proxys_limit(mode: Mode) -> None:
    """A thousand are not large to it yet, and nftables mode never minds."""
    assert mode.large == (1000 if mode.name == "iptables" else None)
    w = shops(100)
    followed = Followed(w, mode)
    assert not followed.become(shops(120)).full


# --- what a mode does not speak ----------------------------------------------------------


def test_a_protocol_that_the_mode_does_not_speak_is_told_once_of_a_service_port() -> None:
    ports = [port_doc("x", 9, "SCTP"), port_doc("http", 80)]
    with_sctp = world([service_doc("shop/a", ["10.96.0.9", "fd00:10:96::9"], ports)]).in_mode("userspace")
    changed = [service_doc("shop/a", ["10.96.0.9", "fd00:10:96::9"], ports, sessionAffinity="ClientIP")]
    without = world([service_doc("shop/a", ["10.96.0.9"], ports[1:])]).in_mode("userspace")
    followed = Followed(without, USERSPACE)
    said = "shop/a:x (SCTP) is refused to all: userspace mode does not speak its protocol"
    assert list(map(str, followed.become(with_sctp).records)) == [said]
    assert followed.become(world(changed).in_mode("userspace")).records == []
    assert followed.become(without).records == []
    assert list(map(str, followed.become(with_sctp).records)) == [said]


def test_other_modes_speak_every_protocol() -> None:
    docs = [service_doc("shop/a", ["10.96.0.9"], [port_doc("x", 9, "SCTP")])]
    empty: list[Doc] = []
    assert Followed(world(empty), NFTABLES).become(world(docs)).records == []
