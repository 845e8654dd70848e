"""
What userspace mode steers, against a real kernel: packets of the lab end where the mode says that they do,
and the endpoint sees whom it is to see; by nft, and by xtables. The relay is a small one of the tests' own.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from msgspec.structs import replace

from kubeway.lab import addresses as at
from kubeway.lab import kernel
from kubeway.lab.host import Answer
from kubeway.lab.topology import Lab
from kubeway.model.forward import Endpoint, Forward, Frontend, FrontendKind, ServicePortName
from kubeway.model.links import Links
from kubeway.model.node import Detector, FamilyView, NodeView
from kubeway.model.packet import DROP, PASS, REJECT, Fate, Fates, Packet
from kubeway.modes.userspace import USERSPACE
from kubeway.modes.userspace.layout import LISTEN, PORTS, owning
from kubeway.modes.userspace.legacy import USERSPACE_LEGACY
from kubeway.planes.ipset.ours import is_relays
from kubeway.planes.relay.objects import ANY, Way
from kubeway.program.link import Linker
from kubeway.program.plan import diff, steps
from kubeway.program.plane import Mode
from kubeway.program.program import Key, Object
from kubeway.shell.addresses import local_addresses
from kubeway.shell.ipset_plane import IpsetPlane
from kubeway.shell.leftovers import remove
from kubeway.shell.link_plane import LinkPlane
from kubeway.shell.nft import NftPlane
from kubeway.shell.surroundings import Surroundings
from kubeway.shell.xtables_legacy import XtLegacyPlane
from kubeway.values import SCTP, TCP, UDP, Ip, Proto, parse_ip, parse_prefix, show_ip
from tests.kernel.netns import needs_root
from tests.kernel.play import UNASKED, off

pytestmark = [pytest.mark.kernel, needs_root]

T = TypeVar("T")
Program = Mapping[Key, Object]

NAMES = {TCP: "TCP", UDP: "UDP"}
HOSTNET = 8090
"""Where a server of the node's own answers."""


def within(lab: Lab, work: Callable[[], T]) -> T:
    """What `work` returns in the node's namespace."""

    def run() -> T:
        kernel.enter_net(lab.node.pid)
        return work()

    with ThreadPoolExecutor(1) as alone:
        return alone.submit(run).result()


# --- the world ------------------------------------------------------------------------------------


def twin(text: str, family: int) -> str:
    return text if family == 4 else at.twin(text)


def view(lab: Lab, **changes: object) -> NodeView:
    addresses = [parse_ip(text.partition("%")[0]) for text in lab.node_addresses()]

    def of(family: int) -> FamilyView:
        return FamilyView(
            family,
            Detector("cidr", parse_prefix(twin(at.CLUSTER_CIDR, family))),
            loopback=True,
            service_cidrs=(parse_prefix(twin(at.SERVICE_CIDR, family)),),
            addresses=frozenset(ip for ip in addresses if len(ip) == (4 if family == 4 else 16)),
        )

    links = within(lab, surroundings)
    assert links.families == {4, 6}
    return replace(NodeView(of(4), of(6), relayed=True, bridged=links.bridged), **changes)


def surroundings() -> Links:
    with closing(Surroundings()) as one:
        return one.look(local_addresses())


PLACES = {"a": "10.244.1.11", "x": "10.244.1.41", "ra": "10.244.2.11", "node": at.NODE}


def service(number: int, proto: Proto, family: int, to: str, **changes: object) -> Forward:
    """`shop/s<number>`, with every way in there is; `to` is its only endpoint, "" for none."""

    def way(kind: FrontendKind, network: str, port: int = 80) -> Frontend:
        return Frontend(kind, parse_ip(twin(f"{network}{number}", family)) if network else None, port)

    frontends = (
        way("ClusterIP", "10.96.0."),
        way("LoadBalancer", "198.18.0."),
        way("NodePort", "", 30000 + number),
    )
    endpoints = ()
    if to:
        ip = parse_ip(twin(PLACES[to], family))
        endpoints = (Endpoint(ip, HOSTNET if to == "node" else 8080, local=to != "ra"),)
    plain = Forward(
        ServicePortName("shop", f"s{number}", "web", proto),
        family,
        frontends,
        endpoints,
        tuple(one for one in endpoints if one.local),
        usable=bool(endpoints),
    )
    return replace(plain, **changes)


def world() -> list[Forward]:
    forwards: list[Forward] = []
    for family in (4, 6):
        for proto in (TCP, UDP):
            forwards += [
                service(10, proto, family, "a"),
                service(11, proto, family, "x", external_local=True),
                service(12, proto, family, "ra", external_local=True),
                service(13, proto, family, "node", internal_local=True, external_local=True),
                service(14, proto, family, ""),
                # Its endpoint is another Service's way in. Once is enough.
                thief(proto, family),
                guarded(proto, family),
            ]
        forwards.append(service(20, SCTP, family, "a"))
    return forwards


def thief(proto: Proto, family: int) -> Forward:
    here = Frontend("ExternalIP", parse_ip(twin(at.NODE, family)), HOSTNET)
    there = Frontend("ExternalIP", parse_ip(twin(PLACES["ra"], family)), 8080)
    return service(15, proto, family, "a", frontends=(here, there))


def guarded(proto: Proto, family: int) -> Forward:
    plain = service(16, proto, family, "a", external_local=True)
    cluster, balancer, node_port = plain.frontends
    length = "32" if family == 4 else "128"
    let_in = parse_prefix(f"{twin(at.CLIENTS[0], family)}/{length}")
    return replace(plain, frontends=(cluster, replace(balancer, sources=(let_in,)), node_port))


def program(seen: NodeView, forwards: list[Forward], mode: Mode = USERSPACE) -> Program:
    linker = Linker()
    linker.update({(): mode.base(seen)})
    linker.update({(f.name, f.family): mode.fragment(f, seen) for f in forwards})
    return linker.objects


# --- the node -------------------------------------------------------------------------------------


def write(wanted: Program, mode: Mode = USERSPACE) -> None:
    """Level the planes of this namespace, but the relay; what was written is what is read."""
    planes: dict[str, Callable[[Program], Any]] = {
        "link": LinkPlane,
        "nft": lambda part: NftPlane(program=part),
        "ipset": lambda part: IpsetPlane(part, is_relays),
        "xtables": lambda part: XtLegacyPlane(program=part),
    }
    order = {name: kinds for name, kinds in dict(mode.planes).items() if name != "relay"}
    with ExitStack() as stack:
        parts = {name: {k: o for k, o in wanted.items() if k.plane == name} for name in order}
        made = {name: stack.enter_context(closing(planes[name](parts[name]))) for name in order}
        held = {k: o for plane in made.values() for k, o in asyncio.run(plane.read()).items()}
        changes = list(diff(held, {k: o for part in parts.values() for k, o in part.items()}))
        for step in steps(changes, order):
            asyncio.run(made[step.plane].write(step.changes))
        for name, plane in made.items():
            assert asyncio.run(plane.read()) == parts[name]


def relay(wanted: Program, mark: int = 0) -> str:
    """What the tests' relay is told."""
    ways = []
    for key, way in wanted.items():
        if isinstance(way, Way):
            list_, ip, proto, port = key.name
            shown = "" if ip in ANY.values() else show_ip(ip)
            ways += [(list_, shown, proto, port, show_ip(one.ip), one.port) for one in way.endpoints]
    listeners = [(show_ip(ip), port, *one) for ip in LISTEN.values() for one, port in PORTS.items()]
    return json.dumps({"ways": ways, "listeners": listeners, "mark": mark})


class Steered(NamedTuple):
    """A lab whose node steers."""

    lab: Lab
    view: NodeView
    program: Program
    mode: Mode

    def meant(self, sent: Packet) -> Fates:
        return self.mode.fates(self.program, self.view, sent)


@pytest.fixture(scope="module", params=[USERSPACE, USERSPACE_LEGACY], ids=["nft", "xtables"])
def steered(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Steered]:
    mode: Mode = request.param
    by_xtables = mode is USERSPACE_LEGACY
    with off(lab.node, UNASKED if by_xtables else ()):
        yield from steer(lab, mode, by_xtables)


def steer(lab: Lab, mode: Mode, by_xtables: bool) -> Iterator[Steered]:
    seen = view(lab)
    wanted = program(seen, world(), mode)
    mark = owning(seen.mark) if by_xtables else 0
    for proto in ("TCP", "UDP"):
        for ip in at.both(at.NODE):
            lab.node.serve("node", proto, ip, HOSTNET)
    within(lab, lambda: write(wanted, mode))
    # It ends with its input, so with this process at the latest.
    argv = [sys.executable, "-I", str(Path(__file__).with_name("userspace_relay.py")), relay(wanted, mark)]
    process = subprocess.Popen(
        ["nsenter", "-t", str(lab.node.pid), "-n", "--", *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield Steered(lab, seen, wanted, mode)
    finally:
        process.kill()
        process.communicate()
        within(lab, unsteer)
        for proto in ("TCP", "UDP"):
            for ip in at.both(at.NODE):
                lab.node.leave(proto, ip, HOSTNET)


def unsteer() -> None:
    assert "rules and routes for steered packets" in remove(everybodys=False)
    with closing(LinkPlane()) as link, closing(IpsetPlane(ours=is_relays)) as sets:
        assert link.read_now() == sets.read_now() == {}


# --- the walks ------------------------------------------------------------------------------------

HOSTS = {
    "pod/client": "10.244.1.20",
    "pod/a": PLACES["a"],
    "pod/x": PLACES["x"],
    "pod/y": "10.244.1.42",
    "outside": at.OUTSIDE,
    "node": at.NODE,
}
UNDER_TEST = [
    (who, f"{network}{number}", 80)
    for who in HOSTS
    for number in (10, 11, 12, 13, 16)
    for network in ("10.96.0.", "198.18.0.")
]
UNDER_TEST += [
    (who, ip, 30000 + number)
    for number in (10, 11, 12, 13)
    for who, ip in [
        *(("node", ip) for ip in (at.NODE, "127.0.0.1", at.GATEWAY)),
        *((who, at.NODE) for who in ("outside", "pod/client", "pod/x")),
        ("pod/y", at.GATEWAY),
    ]
]
UNDER_TEST += [("outside", at.NODE, HOSTNET), ("node", at.NODE, HOSTNET), ("pod/client", PLACES["ra"], 8080)]
UNDER_TEST += [("pod/y", "10.96.0.14", 80), ("node", "198.18.0.14", 80), ("outside", at.NODE, 30014)]
UNDER_TEST += [("pod/client", "10.96.0.10", 81), ("node", "10.96.0.10", 81), ("outside", "10.96.0.99", 80)]

END = {"refused": {REJECT}, "timeout": {DROP}}


def sent(steered: Steered, family: int, proto: Proto, who: str, to: str, port: int) -> tuple[Fate, Answer]:
    source = "127.0.0.1" if to == "127.0.0.1" else HOSTS[who]
    src, dst = ((ip if family == 4 else "::1" if ip == "127.0.0.1" else at.twin(ip)) for ip in (source, to))
    packet = Packet(Ip(parse_ip(src)), Ip(parse_ip(dst)), proto, port, steered.lab.interface(who))
    (fate,) = steered.meant(packet)
    # An error that is back before the first packet's sender has let go of its socket counts when it is sent
    # again.
    wait = 0.4 if fate in (DROP, PASS) else 5.0
    return fate, steered.lab.host(who).ask(dst, port, NAMES[proto], source=src, wait=wait)


@pytest.mark.parametrize("proto", NAMES, ids=NAMES.values())
@pytest.mark.parametrize("family", [4, 6])
def test_packets_end_where_the_mode_says(steered: Steered, family: int, proto: Proto) -> None:
    kinds: set[str] = set()
    wrong: list[str] = []
    for who, to, port in UNDER_TEST:
        fate, answer = sent(steered, family, proto, who, to, port)
        if fate.ip is not None:
            name = {parse_ip(twin(ip, family)): name for name, ip in PLACES.items()}[fate.ip]
            # The node has many addresses, and which it speaks as to itself is one more.
            own = who == "node" or name == "node"
            right = (answer.kind, answer.name) == ("answered", name)
            right = right and (own or answer.masqueraded == fate.masquerade)
        elif fate == PASS:
            right = answer.kind in ("answered", "refused", "timeout")
        else:
            right = fate in END.get(answer.kind, set())
        kinds.add(fate.verdict)
        if not right:
            wrong.append(f"{who} -> {to}:{port}: meant {fate}, was {answer}")
    assert not wrong, "\n".join(wrong)
    assert {"endpoint", "reject", "drop"} <= kinds


TALK = """
import socket, sys
with socket.create_connection((sys.argv[1], 80), 10) as talk:
    print("there", flush=True)
    sys.stdin.readline()
    talk.sendall(b"anybody?\\n")
    print("answered" if talk.recv(4096) else "closed", flush=True)
"""


@pytest.mark.parametrize("who", ["node", "pod/client", "pod/y"])
def test_a_connection_outlives_its_way_in(steered: Steered, who: str) -> None:
    """What belongs to it is told by its socket, and by the mark of its flow."""
    lab, vip = steered.lab, "10.96.0.10"
    argv = ["nsenter", "-t", str(lab.host(who).pid), "-n", "--", sys.executable, "-c", TALK, vip]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        less = program(steered.view, [f for f in world() if f.name.service != "s10"], steered.mode)
        try:
            within(lab, lambda: write(less, steered.mode))
            assert lab.host(who).ask(vip, 80, wait=0.4).kind != "answered"
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "answered\n"
        finally:
            process.kill()
            within(lab, lambda: write(steered.program, steered.mode))


@pytest.mark.parametrize("name", ["conf.all.rp_filter", "tcp_fwmark_accept", "fwmark_reflect"])
def test_however_the_node_is_set_packets_come(steered: Steered, name: str) -> None:
    lab = steered.lab
    try:
        lab.node.sysctl({f"net.ipv4.{name}": 1})
        for who in ("pod/client", "pod/y", "outside", "node"):
            answer = lab.host(who).ask("10.96.0.10", 80, source=HOSTS[who])
            assert answer.name == "a", who
    finally:
        lab.node.sysctl({f"net.ipv4.{name}": 0})


@pytest.mark.parametrize("proto", NAMES.values())
@pytest.mark.parametrize("family", [4, 6])
def test_neighbours_on_a_bridge_see_each_other(steered: Steered, family: int, proto: str) -> None:
    """The answer is sent up where br_netfilter has the bridge ask the rules; else it would be bridged."""
    if steered.mode is not USERSPACE:
        pytest.skip("rules of xtables cannot write another address over an answer's")
    if not bridges_ask():
        pytest.skip("br_netfilter is not there, or off")
    lab = steered.lab
    x, y = (twin(HOSTS[pod], family) for pod in ("pod/x", "pod/y"))
    neighbours = {"pod/y": f"route add {x} dev eth0", "pod/x": f"route add {y} dev eth0"}
    try:
        for pod, line in neighbours.items():
            lab.host(pod).ip([line])
        answer = lab.host("pod/y").ask(twin("10.96.0.11", family), 80, proto)
        assert (answer.name, answer.masqueraded) == ("x", False)
        for who in ("pod/client", "outside", "node"):
            assert lab.host(who).ask(twin("10.96.0.11", family), 80, proto).name == "x"
    finally:
        for pod, line in neighbours.items():
            lab.host(pod).ip([line.replace("add", "del")])


def bridges_ask() -> bool:
    switches = (Path(f"/proc/sys/net/bridge/bridge-nf-call-{name}tables") for name in ("ip", "ip6"))
    return all(one.exists() and one.read_text().strip() == "1" for one in switches)


def test_a_listener_is_out_of_reach_from_elsewhere(steered: Steered) -> None:
    for port in PORTS.values():
        assert steered.lab.host("outside").ask(at.NODE, port, wait=0.4).kind != "answered"
        # From this node it is a way in that nobody knows.
        assert steered.lab.node.ask("127.0.0.1", port, wait=0.4).kind != "answered"
