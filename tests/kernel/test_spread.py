"""
UDP on several workers, on a real kernel: the rules choose by the client's address, so whatever a client asks
from, and how often, it meets one worker, and that one remembers it.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing

import pytest

from kubeway.model.forward import Endpoint, Forward, Frontend, ServicePortName
from kubeway.model.node import FamilyView, NodeView
from kubeway.modes.userspace import USERSPACE
from kubeway.modes.userspace.layout import CLASSES, LISTEN, PORTS
from kubeway.planes.link import KINDS as LINK_KINDS
from kubeway.planes.nft.laws import lawful
from kubeway.planes.nft.objects import KINDS as NFT_KINDS
from kubeway.program.link import Linker
from kubeway.program.plan import diff, steps
from kubeway.shell.link_plane import LinkPlane
from kubeway.shell.nft import NftPlane, probe_spreading
from kubeway.shell.relay.listeners import Listening
from kubeway.shell.relay.plane import RelayPlane
from kubeway.values import TCP, UDP, parse_ip
from tests.kernel.netns import needs_root
from tests.kernel.three import ENDPOINTS, NODE, Three

pytestmark = [pytest.mark.kernel, needs_root]

WORKERS = 3
KEPT = {4: "10.96.0.9", 6: "fd00:96::9"}
HIDDEN = {4: "10.97.0.9", 6: "fd00:97::9"}
CLIENTS = {4: [f"10.191.0.{n}" for n in range(20, 44)], 6: [f"fd00:191::{n}" for n in range(20, 44)]}
SOCKETS = 3  # of each client


def served(family: int) -> list[str]:
    return [ip for ip in ENDPOINTS if (":" in ip) == (family == 6)]


@pytest.fixture
def town() -> Iterator[Three]:
    """Many clients, and no rules yet."""
    three = Three()
    try:
        three.nft("delete table inet three")
        v4, v6 = (
            [f"addr add {ip}/{length} dev eth0 {more}" for ip in CLIENTS[family]]
            for family, length, more in ((4, 24, ""), (6, 64, "nodad"))
        )
        three.client.ip(*v4, *v6)
        yield three
    finally:
        three.close()


def shop(family: int) -> Forward:
    """All endpoints, with affinity: by the cluster IP the client is seen, by the external one it is not."""
    endpoints = tuple(Endpoint(parse_ip(ip), 5300, local=False) for ip in served(family))
    ways = (
        Frontend("ClusterIP", parse_ip(KEPT[family]), 53),
        Frontend("ExternalIP", parse_ip(HIDDEN[family]), 53),
    )
    name = ServicePortName("shop", f"dns{family}", "dns", UDP)
    return Forward(name, family, ways, endpoints, (), usable=True, affinity=600)


LISTENING = [
    Listening(one.list, not one.hidden, ip, PORTS[one], proto=proto)
    for one in CLASSES
    for ip in LISTEN.values()
    for proto in (TCP, UDP)
]


async def steer(relay: RelayPlane, workers: int) -> None:
    """All that leads to the relay, and what it has to know, as the daemon writes it."""
    view = NodeView(FamilyView(4), FamilyView(6), relayed=True, relay_workers=workers)
    linker = Linker()
    linker.update({(): USERSPACE.base(view)})
    linker.update({f: USERSPACE.fragment(shop(f), view) for f in (4, 6)})
    part = {p: {k: o for k, o in linker.objects.items() if k.plane == p} for p in ("link", "nft", "relay")}
    await relay.write(list(diff({}, part["relay"])))
    with closing(LinkPlane(part["link"])) as link, closing(NftPlane(program=part["nft"])) as nft:
        for step in steps(list(diff(link.read_now(), part["link"])), {"link": LINK_KINDS}):
            link.write_now(step.changes)
        for step in steps(lawful(list(diff(nft.read_now(), part["nft"])), part["nft"]), {"nft": NFT_KINDS}):
            await nft.write(step.changes)
        assert nft.read_now() == part["nft"]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_this_kernel_can_hash() -> None:
    assert probe_spreading() == ""


@pytest.mark.parametrize("family", [4, 6])
def test_a_client_meets_one_worker_whatever_it_asks_from(town: Three, family: int) -> None:
    node = NODE[family == 6]
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    shown: set[tuple[str, int, str]] = set()

    def talk(me: str, vip: str, endpoints: dict[str, socket.socket]) -> None:
        with town.client.udp(me) as client:
            client.sendto(b"who are you?", (vip, 53))
            (name, one), (peer, port, *_) = wait_for_one(endpoints)
            assert peer == (me if vip == KEPT[family] else node)
            # No two sessions look the same to an endpoint, whichever workers they are of.
            assert (peer, port, name) not in shown
            shown.add((peer, port, name))
            seen[me, vip].add(name)
            one.sendto(name.encode(), (peer, port))
            data, (source, *_) = client.recvfrom(100)
            assert (data, source) == (name.encode(), vip)

    async def story(endpoints: dict[str, socket.socket]) -> None:
        relay = RelayPlane(LISTENING, workers=WORKERS)
        try:
            await steer(relay, WORKERS)
            before = {pid: descriptors(pid) for pid in relay.processes}
            assert len(before) == WORKERS
            for me in CLIENTS[family]:
                for vip in (KEPT[family], HIDDEN[family]):
                    for _ in range(SOCKETS):
                        await asyncio.to_thread(talk, me, vip, endpoints)
            # All of them carry; each has its sessions' sockets open.
            grown = [descriptors(pid) - count for pid, count in before.items()]
            assert min(grown) >= 2 * SOCKETS
            assert sum(grown) >= 2 * SOCKETS * len(CLIENTS[family])
        finally:
            relay.close()

    endpoints = {ip: town.server.udp(ip, 5300) for ip in served(family)}
    try:
        with town.node.inside():
            asyncio.run(story(endpoints))
    finally:
        for sock in endpoints.values():
            sock.close()
    assert {len(names) for names in seen.values()} == {1}
    assert len(set.union(*seen.values())) > 1


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2), (2, 1)])
def test_a_successor_with_more_workers_or_fewer_keeps_who_stays_where(
    town: Three, before: int, after: int
) -> None:
    """Listeners of UDP are handed over, too, each with its port; and the rules follow."""
    vip = KEPT[4]

    def talk(me: str, endpoints: dict[str, socket.socket]) -> str:
        with town.client.udp(me) as client:
            client.sendto(b"who are you?", (vip, 53))
            (name, one), peer = wait_for_one(endpoints)
            one.sendto(b"me", peer)
            assert client.recvfrom(100)[0] == b"me"
            return name

    async def story(endpoints: dict[str, socket.socket]) -> None:
        name = f"kubeway-test-spread-{os.getpid()}-{before}-{after}"
        old = RelayPlane(LISTENING, workers=before, name=name)
        new: RelayPlane | None = None
        try:
            await steer(old, before)
            stays = {me: await asyncio.to_thread(talk, me, endpoints) for me in CLIENTS[4]}
            assert len(set(stays.values())) > 1
            new = RelayPlane(LISTENING, workers=after, name=name)
            await new.write(list(diff({}, await old.read())))
            for step in ("by the rules of before", "by its own"):
                for me, was in stays.items():
                    assert await asyncio.to_thread(talk, me, endpoints) == was, (me, step)
                await steer(new, after)
        finally:
            if new is not None:
                new.close()
            old.close()

    endpoints = {ip: town.server.udp(ip, 5300) for ip in served(4)}
    try:
        with town.node.inside():
            asyncio.run(story(endpoints))
    finally:
        for sock in endpoints.values():
            sock.close()


def wait_for_one(endpoints: dict[str, socket.socket]) -> tuple[tuple[str, socket.socket], tuple[str, int]]:
    """Which endpoint was spoken to, and by whom."""
    ready, _, _ = select.select(list(endpoints.values()), [], [], 10)
    assert ready, "nobody was asked"
    name = next(name for name, sock in endpoints.items() if sock is ready[0])
    _, peer = ready[0].recvfrom(100)
    return (name, ready[0]), peer
