"""
What an endpoint that comes and goes costs, in messages to the kernel; and what others do that the kernel does
not tell of, which is found when all is looked at again.

The real planes and all that levels them, without a daemon, on a clock that the test turns.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Hashable, Iterator
from contextlib import closing, contextmanager

import pytest

from kubeway.modes.ipvs import IpvsMode
from kubeway.program.plan import diff
from kubeway.program.program import Fragment
from kubeway.records import Drifted, Repaired, SetAside
from kubeway.shell.netlink import NetlinkSocket
from kubeway.wire.netlink import messages
from tests.kernel.levelled import Levelled
from tests.kernel.netns import inside, ip
from tests.worlds import NODE_IPS, Doc, World, service_docs, world

VIP, POD, OTHER = "10.96.0.9", "10.244.2.1", "10.244.2.2"
VIP6 = "fd00:10:96::9"
SERVICES = 30


class Node(Levelled):
    """A node with some Services besides the one that is looked at, all of whose pods are on another."""

    def __init__(self) -> None:
        self.now = 0.0
        self.mode = IpvsMode()
        self.others = [
            doc
            for n in range(SERVICES)
            for doc in service_docs(f"shop/s{n}:http", vip=f"10.96.1.{n}", node="n2")
        ]
        self.others += service_docs("shop/six:http", vip=VIP6)
        super().__init__("legacy", lambda: self.now, self.seen([]).options)

    def seen(self, docs: list[Doc]) -> World:
        return world([*self.others, *docs]).in_mode("ipvs")

    async def served_by(self, *pods: str) -> int:
        """Have it so; how many messages that took."""
        cluster = self.seen(service_docs("shop/cart:http", vip=VIP, endpoints=pods, node="n2"))
        mode = self.mode
        fragments: dict[Hashable, Fragment] = {(): mode.base(cluster.view)}
        fragments |= {(one.name, one.family): mode.fragment(one, cluster.view) for one in cluster.forwards}
        with counted() as sent:
            self.want(fragments)
            assert await self.leveller.level() is None
        return len(sent)


@contextmanager
def counted() -> Iterator[list[bytes]]:
    """The messages that change something, of whichever plane."""
    sent: list[bytes] = []
    transact = NetlinkSocket.transact

    def counting(self: NetlinkSocket, data: bytes | bytearray) -> object:
        sent.extend(bytes(message.body) for message in messages(bytes(data)))
        return transact(self, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetlinkSocket, "transact", counting)
        yield sent


def nodes_addresses() -> None:
    """Pods, too, are at home here."""
    for address in (NODE_IPS[4], POD, OTHER):
        ip(f"addr add {address}/32 dev lo")
    ip(f"addr add {NODE_IPS[6]}/128 dev lo nodad")


def test_who_flaps_costs_a_message_each_way() -> None:
    async def work() -> None:
        node = Node()
        with closing(node.fit.plane):
            assert await node.served_by(POD, OTHER) > SERVICES
            assert await node.served_by(POD, OTHER) == 0
            # Nobody is connected: it goes at once, which is weight 0, a look, and a deletion.
            assert await node.served_by(OTHER) == 2
            assert await node.served_by(OTHER, POD) == 1
            with socket.create_server((POD, 8080)), socket.create_server((OTHER, 8080)):
                talks = [socket.create_connection((VIP, 80), 10) for _ in range(2)]  # one each, by rr
                for _ in range(3):
                    assert await node.served_by(OTHER) == 1
                    assert await node.served_by(OTHER, POD) == 1
                for talk in talks:
                    talk.close()
        assert not [record for record in node.heard if isinstance(record, SetAside)]

    def run() -> None:
        nodes_addresses()
        asyncio.run(work())

    inside(run)


VANDALS = {
    "a weight": (
        f"ipvsadm -e -t {VIP}:80 -r {POD}:8080 -m -w 7",
        f"change destination {POD}:8080 of {VIP}:80/TCP",
    ),
    "a weight of 0": (f"ipvsadm -e -t {VIP}:80 -r {POD}:8080 -m -w 0", "change destination"),
    "a destination": (f"ipvsadm -d -t {VIP}:80 -r {POD}:8080", f"add destination {POD}:8080 of {VIP}:80/TCP"),
    "another's": (
        f"ipvsadm -a -t {VIP}:80 -r 192.0.2.1:80 -m",
        f"delete destination 192.0.2.1:80 of {VIP}:80/TCP",
    ),
    "a scheduler": (f"ipvsadm -E -t {VIP}:80 -s lc", f"change server {VIP}:80/TCP"),
    "a server of IPv6": (f"ipvsadm -D -t [{VIP6}]:80", f"add server [{VIP6}]:80/TCP"),
    "an entry in another's place": (
        f"ipset del KUBE-CLUSTER-IP {VIP},tcp:80; ipset add KUBE-CLUSTER-IP 192.0.2.1,tcp:80",
        f"add entry KUBE-CLUSTER-IP {VIP},tcp:80",
    ),
}


def test_what_the_kernel_does_not_tell_of_is_found_all_the_same() -> None:
    async def work() -> None:
        node = Node()
        with closing(node.fit.plane):
            await node.served_by(POD, OTHER)
            for what, (command, said) in VANDALS.items():
                node.heard.clear()
                subprocess.run(["sh", "-ec", command], check=True)  # noqa: ASYNC221 (nothing else runs)
                node.now += node.fit.plane.verify
                assert node.leveller.idle(node.now) == node.now, what
                assert await node.leveller.level() is None
                drifted, repaired = (one for one in node.heard if isinstance(one, Drifted | Repaired))
                assert said in str(drifted), what
                assert isinstance(repaired, Repaired), what
                assert list(diff(await node.fit.plane.read(), node.linker.objects)) == [], what
                assert node.leveller.idle(node.now) > node.now

    def run() -> None:
        nodes_addresses()
        asyncio.run(work())

    inside(run)
