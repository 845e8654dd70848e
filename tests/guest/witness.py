"""
What stock tools say of the node, beside what the program says; and the node bare of ipvs again.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from kubeway.lab.host import Host
from kubeway.lab.kernel import enter_net
from kubeway.lab.topology import Lab
from kubeway.model.node import Options
from kubeway.model.settle import Settler
from kubeway.model.store import Store
from kubeway.model.view import node_facts, node_view
from kubeway.planes.link.objects import DEVICE
from kubeway.program.link import Linker
from kubeway.program.plan import diff
from kubeway.shell.addresses import local_addresses
from kubeway.shell.asked import settle as settled
from kubeway.shell.dialects import describe
from kubeway.shell.leftovers import remove
from kubeway.shell.manifests import Manifests
from kubeway.shell.options import model_options
from kubeway.shell.outfit import able, mode_named, outfit
from kubeway.views.compile import World, program
from tests.kernel.conftest import bare
from tests.kernel.place import Place
from tests.kernel.play import IPVS

T = TypeVar("T")

CLUSTER_CIDRS = "10.244.0.0/16,fd00:10:244::/48"
"""For `--cluster-cidr`."""


@contextmanager
def placed(lab: Lab, folder: Path) -> Iterator[Place]:
    """A place in ipvs mode, and the node bare when it ends, of others' things too."""
    place = Place(lab, folder)
    place.way = IPVS._replace(flags={**IPVS.flags, "cluster-cidr": CLUSTER_CIDRS})
    try:
        yield place
    finally:
        place.end()
        at_node(lab.node, lambda: remove(everybodys=True))
        bare(lab)
        lab.node.run(["sh", "-ec", f"ipvsadm -C; ipset destroy; ip link del {DEVICE} 2>&- || true"])


def at_node(node: Host, work: Callable[[], T]) -> T:
    """What `work` returns in the node's network namespace, without a process of its own."""

    def run() -> T:
        enter_net(node.pid)
        return work()

    with ThreadPoolExecutor(1) as alone:
        return alone.submit(run).result()


# --- what stock tools say -----------------------------------------------------------


def servers(node: Host) -> list[str]:
    """Virtual servers and destinations, as `ipvsadm -Sn` has them."""
    return sorted(node.run(["ipvsadm", "-Sn"]).stdout.splitlines())


def weights(node: Host, vip: str, port: int = 80, option: str = "-t") -> dict[str, int]:
    """Of the destinations of a virtual server, by address and port."""
    mine = f"-a {option} {f'[{vip}]' if ':' in vip else vip}:{port} -r "
    lines = [line.split() for line in servers(node) if line.startswith(mine)]
    return {words[4]: int(words[-1]) for words in lines}


def sets(node: Host) -> list[str]:
    """Sets and entries as `ipset save` has them, but for how much room there is in them."""
    return sorted(map(_without_room, node.run(["ipset", "save"]).stdout.splitlines()))


def _without_room(line: str) -> str:
    return re.sub(r" (hashsize|maxelem|bucketsize|initval) \S+", "", line)


def bound(node: Host) -> list[str]:
    """The addresses on the link, but for a link-local one of the kernel's."""
    links = json.loads(node.run(["ip", "-j", "addr", "show", DEVICE]).stdout)
    infos = [info for link in links for info in link.get("addr_info", ()) if info["scope"] != "link"]
    assert {(info["family"], info["prefixlen"]) for info in infos} <= {("inet", 32), ("inet6", 128)}
    return sorted(info["local"] for info in infos)


def sources(node: Host, ips: Sequence[str]) -> set[str]:
    """The node's own packets to these addresses come from these."""
    asked = "".join(f"route get {ip}\n" for ip in ips)
    said = node.run(["ip", "-batch", "-"], stdin=asked).stdout
    found = re.findall(r" src (\S+)", said)
    assert len(found) == len(ips), said
    return set(found)


# --- what the program says ----------------------------------------------------------


def wanted(place: Place, *flags: str) -> Linker:
    """The program for what the manifests say now. `flags` as the daemon's, `--name=value`."""
    return at_node(place.lab.node, lambda: _compiled(place, options(place, flags)))


def unlevel(place: Place, *flags: str) -> list[str]:
    """What differs between the kernel, as the planes themselves read it, and the program."""

    def read() -> list[str]:
        chosen = options(place, flags)
        linker = _compiled(place, chosen)
        with closing(outfit(chosen, linker, lambda record: None, "legacy").plane) as plane:
            return [
                describe(change, linker.objects) for change in diff(asyncio.run(plane.read()), linker.objects)
            ]

    return at_node(place.lab.node, read)


def options(place: Place, flags: Sequence[str] = ()) -> Options:
    words = {**place.way.flags, **dict(flag.removeprefix("--").split("=", 1) for flag in flags)}
    given = {name: [text] for name, text in words.items()}
    return able(model_options(settled(given).configuration, "node1"))


def _compiled(place: Place, options: Options) -> Linker:
    store = Store()
    Manifests([str(place.manifests)], store, lambda record: None).load()
    snapshot = store.snapshot()
    facts = node_facts(snapshot.nodes.get("node1"), "node1", local_addresses())
    settler = Settler(facts, options)
    settler.update(snapshot, frozenset(snapshot.names()))
    forwards = [settler.forwards[key] for key in sorted(settler.forwards)]
    world = World(snapshot, facts, node_view(facts, options, snapshot.service_cidrs()), forwards)
    return program(world, mode_named(options.mode))
