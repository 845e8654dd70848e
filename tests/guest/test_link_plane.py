"""
The link plane against a kernel that has dummy links, with `ip` as witness; each test in a network namespace
of its own.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from kubeway.errors import Refused
from kubeway.planes.link import DEVICE, LINK, Address, Dummy, Route, address_key, route_key
from kubeway.planes.link.objects import Alien, Mixed
from kubeway.program.plan import apply, diff, steps
from kubeway.program.program import Change, Key, Object
from kubeway.shell.addresses import local_addresses
from kubeway.shell.link_plane import LinkPlane, probe
from kubeway.values import Ip, parse_ip, show_ip
from tests.kernel.netns import inside, ip, needs_root

pytestmark = [pytest.mark.kernel, needs_root]

NODE = {4: parse_ip("192.0.2.1"), 6: parse_ip("2001:db8::1")}
OTHER = {4: parse_ip("192.0.2.7"), 6: parse_ip("2001:db8::7")}
VIPS = [parse_ip(text) for text in ("10.96.0.1", "10.96.0.10", "fd00:96::1", "fd00:96::a")]
FOUR, SIX = VIPS[0], VIPS[2]
ORDER = {"link": ("link", "address", "route")}

T = TypeVar("T")
Program = dict[Key, Object]


def program(vips: list[Ip], sources: dict[int, Ip] | None = None) -> Program:
    wanted: Program = {LINK: Dummy()}
    for vip in vips:
        wanted[address_key(vip)] = Address()
        if sources is not None:
            wanted[route_key(vip)] = Route(sources[4 if len(vip) == 4 else 6])
    return wanted


ALL = program(VIPS, NODE)


def planed(work: Callable[[LinkPlane], T], wanted: Program | None = None) -> T:
    """With a plane on a node that has two addresses of each family."""

    def run() -> T:
        if why := probe():
            pytest.skip(why)
        ip("link add eth0 type veth peer name eth1")
        for link in ("eth0", "eth1"):
            ip(f"link set {link} up")
        for address in (*NODE.values(), *OTHER.values()):
            length, nodad = (24, "") if len(address) == 4 else (64, " nodad")
            ip(f"address add {show_ip(address)}/{length} dev eth0{nodad}")
        with closing(LinkPlane(ALL if wanted is None else wanted)) as plane:
            return work(plane)

    return inside(run)


def level(plane: LinkPlane) -> list[Change]:
    """Read, write the difference, and see that then there is none."""
    changes = list(diff(plane.read_now(), plane.program))
    for step in steps(changes, ORDER):
        plane.write_now(step.changes)
    assert list(diff(plane.read_now(), plane.program)) == []
    return changes


def told(command: str) -> Any:
    done = subprocess.run(["ip", "-j", *command.split()], capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "[]")


def shown() -> set[tuple[str, int]]:
    """The addresses on the link, as `ip` tells of them."""
    return {(a["local"], a["prefixlen"]) for a in told(f"address show dev {DEVICE}")[0]["addr_info"]}


def source(vip: Ip) -> str:
    """Which source a packet of this node to the address has: as `ip` says, and as a socket finds."""
    (route,) = told(f"route get {show_ip(vip)}")
    assert route["type"] == "local"
    family = socket.AF_INET if len(vip) == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.connect((show_ip(vip), 80))
        assert client.getsockname()[0] == route["prefsrc"]
    return str(route["prefsrc"])


def local(vip: Ip) -> list[dict[str, Any]]:
    """All routes to the address in table local, in order."""
    family = 4 if len(vip) == 4 else 6
    return [r for r in told(f"-{family} route show table local") if r["dst"] == show_ip(vip)]


def test_probing_leaves_nothing() -> None:
    def work(plane: LinkPlane) -> None:
        assert probe() == ""
        assert [link["ifname"] for link in told("link show")] == ["lo", "eth1", "eth0"]
        level(plane)
        assert probe() == ""

    planed(work)


def test_a_service_has_its_address_and_the_node_its_own() -> None:
    def work(plane: LinkPlane) -> None:
        assert plane.read_now() == {}
        level(plane)
        assert plane.read_now() == ALL
        (link,) = told(f"-d link show dev {DEVICE}")
        assert link["linkinfo"]["info_kind"] == "dummy"
        assert "NOARP" in link["flags"]
        assert "UP" not in link["flags"]
        assert shown() == {(show_ip(vip), len(vip) * 8) for vip in VIPS}
        assert plane.bound() == set(VIPS)
        assert {source(vip) for vip in VIPS} == {show_ip(NODE[4]), show_ip(NODE[6])}
        assert level(plane) == []

    planed(work)


def test_without_a_route_the_source_is_the_services() -> None:
    """The kernel's own way: what the route is there for."""

    def work(plane: LinkPlane) -> None:
        level(plane)
        assert [source(vip) for vip in VIPS] == [show_ip(vip) for vip in VIPS]

    planed(work, program(VIPS))


def test_a_node_changes_its_address() -> None:
    def work(plane: LinkPlane) -> None:
        level(plane)
        plane.program = program(VIPS, OTHER)
        assert {change.verb for change in level(plane)} == {"set"}
        assert {source(vip) for vip in VIPS} == {show_ip(OTHER[4]), show_ip(OTHER[6])}
        assert [len(local(vip)) for vip in VIPS] == [2, 2, 1, 1]  # of IPv4 the kernel's own stands behind

    planed(work)


def test_routes_come_and_go_while_addresses_stay() -> None:
    def work(plane: LinkPlane) -> None:
        bare = program(VIPS)
        for wanted in (bare, ALL, bare, ALL, bare):
            plane.program = wanted
            level(plane)
            expected = [
                show_ip(vip) if wanted is bare else show_ip(NODE[4 if len(vip) == 4 else 6]) for vip in VIPS
            ]
            assert [source(vip) for vip in VIPS] == expected

    planed(work)


def test_services_come_and_go() -> None:
    def work(plane: LinkPlane) -> None:
        level(plane)
        plane.program = program([VIPS[1], VIPS[3]], NODE)
        level(plane)
        assert plane.bound() == {VIPS[1], VIPS[3]}
        assert local(FOUR) == local(SIX) == []
        plane.program = ALL
        level(plane)
        assert {source(vip) for vip in VIPS} == {show_ip(NODE[4]), show_ip(NODE[6])}
        plane.program = {}
        level(plane)
        assert told("link show type dummy") in ([], [{}])
        assert [local(vip) for vip in VIPS] == [[], [], [], []]

    planed(work)


def test_every_change_is_safe_to_repeat() -> None:
    def work(plane: LinkPlane) -> None:
        there, gone = (steps(list(diff(*pair)), ORDER) for pair in (({}, ALL), (ALL, {})))
        for each in (there, there, gone, gone, there):
            for step in each:
                asyncio.run(plane.write(step.changes))
        assert asyncio.run(plane.read()) == ALL

    planed(work)


@pytest.mark.parametrize(
    "command",
    [
        f"address del 10.96.0.1/32 dev {DEVICE}",
        f"address del fd00:96::1/128 dev {DEVICE}",
        f"address add 10.96.0.99/32 dev {DEVICE}",
        f"address add fd00:96::99/128 dev {DEVICE}",
        f"address add 10.96.0.1/24 dev {DEVICE}",
        f"route del local 10.96.0.1/32 dev {DEVICE} table local proto 117",
        f"route prepend local 10.96.0.1/32 dev {DEVICE} table local src 192.0.2.7",
        f"route prepend local 10.96.0.1/32 dev {DEVICE} table local src 192.0.2.7 proto 117",
        "-6 route del local fd00:96::1/128 dev lo table local proto 117",
        "-6 route replace local fd00:96::1/128 dev lo table local src 2001:db8::7 proto 117",
        "-6 route replace local fd00:96::1/128 dev lo table local src 2001:db8::7",
        f"link del {DEVICE}",
        f"link set {DEVICE} name other",
    ],
)
def test_drift_is_heard_of_and_repaired(command: str) -> None:
    def work(plane: LinkPlane) -> None:
        level(plane)
        before = plane.generation()
        assert plane.generation() == before
        ip(command)
        assert plane.generation() == before + 1
        assert plane.generation() == before + 1
        assert level(plane) != []
        assert [source(vip) for vip in VIPS] == [show_ip(NODE[4 if len(vip) == 4 else 6]) for vip in VIPS]

    planed(work)


def test_a_link_that_was_up_for_a_while_is_repaired() -> None:
    """Going down, it loses all addresses of IPv6."""

    def work(plane: LinkPlane) -> None:
        level(plane)
        before = plane.generation()
        ip(f"link set {DEVICE} up")
        assert list(diff(plane.read_now(), ALL)) == []
        ip(f"link set {DEVICE} down")
        assert plane.generation() == before + 1
        assert {change.key for change in level(plane)} == {address_key(vip) for vip in VIPS[2:]}
        assert {source(vip) for vip in VIPS} == {show_ip(NODE[4]), show_ip(NODE[6])}

    planed(work)


@pytest.mark.parametrize(
    "command",
    [
        "address add 10.96.0.1/32 dev eth1",
        "address add 192.0.2.9/24 dev eth0",
        "address add 2001:db8::9/64 dev eth0",
        "route add 198.51.100.0/24 dev eth0",
        "route add local 198.51.100.0/24 dev lo table local",
        "-6 route add fd01::/64 dev eth0",
        f"link set {DEVICE} mtu 1400",
        "link set eth1 down",
        "link add other type dummy",
    ],
)
def test_what_does_not_concern_us_is_no_news(command: str) -> None:
    def work(plane: LinkPlane) -> None:
        level(plane)
        before = plane.generation()
        ip(command)
        assert plane.generation() == before
        assert list(diff(plane.read_now(), ALL)) == []

    planed(work)


def test_our_own_writes_are_a_step_each() -> None:
    def work(plane: LinkPlane) -> None:
        level(plane)
        held: Program = ALL
        before = plane.generation()
        for wanted in (
            program(VIPS),
            ALL,
            program(VIPS, OTHER),
            program(VIPS[1:], NODE),
            {LINK: Dummy()},
            ALL,
        ):
            plane.program = wanted
            changes = list(diff(held, wanted))
            written = steps(changes, ORDER)
            for step in written:
                plane.write_now(step.changes)
            held = apply(changes, held)
            # The kernel makes its routes of IPv6 a moment after the address; only then is it done with it.
            while any(address_key(vip) in held and not local(vip) for vip in VIPS):
                time.sleep(0.01)
            assert plane.generation() == before + len(written)
            before += len(written)

    planed(work)


def test_a_write_over_a_change_of_somebody_else_moves_by_more() -> None:
    def work(plane: LinkPlane) -> None:
        level(plane)
        before = plane.generation()
        ip(f"address del 10.96.0.10/32 dev {DEVICE}")
        plane.write_now([Change("del", address_key(SIX), Address(), None)])
        assert plane.generation() == before + 2

    planed(work)


def test_a_tentative_address_is_none() -> None:
    """As kube-proxy's may be, where the link was made to ask whether they are taken."""

    def work(plane: LinkPlane) -> None:
        ip(f"link add {DEVICE} type dummy")
        Path(f"/proc/sys/net/ipv6/conf/{DEVICE}/accept_dad").write_text("1")
        ip(f"link set {DEVICE} arp on up")
        ip(f"address add fd00:96::1/128 dev {DEVICE}")
        (address,) = [
            a for a in told(f"address show dev {DEVICE}")[0]["addr_info"] if a["local"] == "fd00:96::1"
        ]
        assert address["tentative"]
        assert plane.read_now()[address_key(SIX)] == Address((128,))
        level(plane)
        assert source(SIX) == show_ip(NODE[6])

    planed(work)


@pytest.mark.parametrize("vip", ["10.96.0.1/24", "fd00:96::1/64"])
def test_an_address_in_another_prefix_is_made_anew(vip: str) -> None:
    """Of IPv6 a link has an address once, so the one goes before the other comes."""

    def work(plane: LinkPlane) -> None:
        ip(f"link add {DEVICE} type dummy")
        ip(f"address add {vip} dev {DEVICE}")
        address, _, length = vip.partition("/")
        time.sleep(0.1)  # until the kernel is done with it
        assert plane.read_now()[address_key(parse_ip(address))] == Address((int(length),))
        level(plane)
        assert shown() == {(show_ip(vip), len(vip) * 8) for vip in VIPS}
        assert source(parse_ip(address)) == show_ip(NODE[4 if "." in address else 6])

    planed(work)


def test_an_address_to_which_no_route_leads_is_made_anew() -> None:
    def work(plane: LinkPlane) -> None:
        level(plane)
        ip(f"-6 route del local fd00:96::1/128 dev {DEVICE} table local")
        assert plane.read_now()[address_key(SIX)] == Address((128,))
        level(plane)
        assert source(SIX) == show_ip(SIX)

    def waiting(plane: LinkPlane) -> None:
        plane.write_now(steps(list(diff({}, plane.program)), ORDER)[0].changes)
        while not (local(SIX) and local(VIPS[3])):
            time.sleep(0.01)
        work(plane)

    planed(waiting, program(VIPS))


def test_routes_stay_when_the_node_loses_their_source() -> None:
    """The kernel leaves them as they are, so they have to be told of the node's next address."""

    def work(plane: LinkPlane) -> None:
        level(plane)
        for address in ("192.0.2.1/24", "2001:db8::1/64"):
            ip(f"address del {address} dev eth0")
        ip("address add 192.0.2.7/24 dev eth0")  # it was the other's second
        assert plane.read_now() == ALL
        plane.program = program(VIPS, OTHER)
        level(plane)
        assert {source(vip) for vip in VIPS} == {show_ip(OTHER[4]), show_ip(OTHER[6])}

    planed(work)


@pytest.mark.parametrize("vip", [FOUR, SIX], ids=["IPv4", "IPv6"])
def test_a_route_without_a_source_is_made_anew(vip: Ip) -> None:
    def work(plane: LinkPlane) -> None:
        level(plane)
        family, dev = (4, DEVICE) if len(vip) == 4 else (6, "lo")
        verb = "prepend" if family == 4 else "replace"
        ip(f"-{family} route {verb} local {show_ip(vip)} dev {dev} table local proto 117")
        assert isinstance(plane.read_now()[route_key(vip)], Mixed)
        level(plane)
        assert source(vip) == show_ip(NODE[family])

    planed(work)


def test_routes_that_outlived_the_link_are_found() -> None:
    """Those of IPv6 are on loopback, and stay when the link is deleted."""

    def work(plane: LinkPlane) -> None:
        level(plane)
        ip(f"link del {DEVICE}")
        plane.program = {}
        assert plane.read_now() == {route_key(vip): Route(NODE[6]) for vip in VIPS[2:]}
        level(plane)
        assert local(SIX) == []

    planed(work)


def test_what_is_behind_another_route_is_not_in_force() -> None:
    def work(plane: LinkPlane) -> None:
        level(plane)
        ip(f"route prepend local 10.96.0.1/32 dev {DEVICE} table local src 192.0.2.7")
        assert plane.read_now()[route_key(FOUR)] == Mixed((NODE[4],))
        level(plane)
        assert local(FOUR)[0]["prefsrc"] == show_ip(NODE[4])

    planed(work)


def test_a_link_of_somebody_else_is_left_alone() -> None:
    def work(plane: LinkPlane) -> None:
        ip(f"link add {DEVICE} type bridge")
        ip(f"address add 10.96.0.1/32 dev {DEVICE}")
        assert plane.read_now() == {LINK: Alien("bridge")}
        with pytest.raises(Refused, match=r"no dummy but bridge") as refused:
            plane.write_now(steps(list(diff(plane.read_now(), ALL)), ORDER)[0].changes)
        assert refused.value.key == LINK
        assert plane.remove() == []
        plane.program = {}
        assert plane.read_now() == {}
        assert shown() == {("10.96.0.1", 32)}

    planed(work)


def test_what_the_kernel_refuses_is_told() -> None:
    def work(plane: LinkPlane) -> None:
        for vip in (FOUR, SIX):
            level(plane)
            strange = route_key(vip)
            with pytest.raises(Refused, match=r"change local route to ") as refused:
                plane.write_now([Change("set", strange, ALL[strange], Route(vip[:-2] + b"\xee\xee"))])
            assert (refused.value.key, refused.value.errno) == (strange, errno.EINVAL)
            # What was before is in force still, and the next look has to be a read.
            assert source(vip) == show_ip(NODE[4 if len(vip) == 4 else 6])
            assert plane.read_now() == ALL

    planed(work)


def test_without_the_link_nothing_is_made_on_it() -> None:
    def work(plane: LinkPlane) -> None:
        for key in (address_key(FOUR), address_key(SIX), route_key(FOUR)):
            with pytest.raises(Refused, match=f"there is no link {DEVICE}") as refused:
                plane.write_now([Change("add", key, None, ALL[key])])
            assert (refused.value.key, refused.value.errno) == (key, errno.ENODEV)
        plane.write_now([Change("del", key, ALL[key], None) for key in (address_key(SIX), route_key(FOUR))])

    planed(work)


def test_removing() -> None:
    def work(plane: LinkPlane) -> None:
        level(plane)
        assert plane.remove() == [
            f"link {DEVICE} with 4 addresses",
            "4 local routes to addresses of Services",
        ]
        assert plane.remove() == []
        assert [local(vip) for vip in VIPS] == [[], [], [], []]
        assert {show_ip(address) for address in local_addresses()} >= {"192.0.2.1", "2001:db8::1", "::1"}
        plane.program = ALL
        level(plane)

    planed(work)


def test_the_nodes_addresses_are_not_the_services() -> None:
    def work(plane: LinkPlane) -> None:
        before = local_addresses()
        level(plane)
        assert local_addresses() == before
        assert before >= set(NODE.values())

    planed(work)


@pytest.mark.parametrize("vip", [FOUR, SIX], ids=["IPv4", "IPv6"])
def test_ten_thousand_addresses(vip: Ip) -> None:
    vips = [Ip((int.from_bytes(vip, "big") + n).to_bytes(len(vip), "big")) for n in range(10_000)]
    wanted = program(vips, NODE)

    def work(plane: LinkPlane) -> None:
        (step,) = steps(list(diff(plane.read_now(), wanted)), ORDER)
        before = plane.generation()
        plane.write_now(step.changes)
        assert plane.generation() == before + 1
        assert plane.read_now() == wanted
        assert plane.bound() == set(vips)
        assert len(shown()) == 10_000
        assert source(vips[7_777]) == show_ip(NODE[4 if len(vip) == 4 else 6])
        plane.program = {LINK: Dummy()}
        level(plane)
        assert shown() == set()

    planed(work, wanted)
