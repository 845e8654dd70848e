"""The relay's objects: whom they lead to, what they are called, and how they may be changed."""

from __future__ import annotations

import asyncio
from fractions import Fraction

from kubeway.planes.memory import MemoryPlane
from kubeway.planes.relay import laws
from kubeway.planes.relay.fates import balance
from kubeway.planes.relay.objects import KINDS, PLANE, Endpoint, Way, way_key
from kubeway.planes.relay.text import show
from kubeway.program.plan import diff, steps
from kubeway.program.program import Change, Key, Object
from kubeway.shell.dialects import describe
from kubeway.values import TCP, UDP, V6, parse_ip

VIP, OTHER, ME = parse_ip("10.96.0.9"), parse_ip("192.168.0.1"), parse_ip("10.244.1.1")
A, B = (Endpoint(parse_ip(f"10.244.0.{n}"), 8080) for n in (1, 2))
WEB = way_key("cluster", VIP, TCP, 80)
NODE_PORT = way_key("local", None, TCP, 30080)
OBJECTS: dict[Key, Object] = {WEB: Way((A, B), affinity=10), NODE_PORT: Way((B,))}


def test_who_gets_a_client() -> None:
    half = Fraction(1, 2)
    assert balance(OBJECTS, "cluster", VIP, TCP, 80) == [(A, half), (B, half)]
    assert balance(OBJECTS, "cluster", VIP, UDP, 80) is None
    assert balance(OBJECTS, "local", VIP, TCP, 80) is None
    assert balance({WEB: Way(())}, "cluster", VIP, TCP, 80) == []


def test_a_node_port_leads_in_at_every_address_of_its_family() -> None:
    assert balance(OBJECTS, "local", OTHER, TCP, 30080) == [(B, Fraction(1))]
    assert balance(OBJECTS, "local", parse_ip("fd00::1"), TCP, 30080) is None


def test_affinity_keeps_a_client_where_it_was_while_that_serves() -> None:
    assert balance(OBJECTS, "cluster", VIP, TCP, 80, (B.ip, 8080)) == [(B, Fraction(1))]
    assert len(balance(OBJECTS, "cluster", VIP, TCP, 80, (ME, 8080)) or ()) == 2
    without: dict[Key, Object] = {WEB: Way((A, B))}
    assert len(balance(without, "cluster", VIP, TCP, 80, (B.ip, 8080)) or ()) == 2


def test_changes_have_names() -> None:
    six = way_key("cluster", None, UDP, 30080, V6)
    assert describe(Change("add", WEB, None, Way(())), {}) == "add way 10.96.0.9:80/TCP (cluster)"
    assert describe(Change("set", NODE_PORT, Way(()), Way(())), {}) == "change way *:30080/TCP (local, IPv4)"
    assert describe(Change("del", six, Way(()), None), {}) == "delete way *:30080/UDP (cluster, IPv6)"


def test_a_way_tells_people_all_that_was_asked_for() -> None:
    plain: dict[Key, Object] = {WEB: Way((A,))}
    assert show(plain) == "# way 10.96.0.9:80/TCP (cluster): 10.244.0.1:8080\n"
    full: dict[Key, Object] = {WEB: Way((), 60, "p2c", demote=True, hold=30)}
    assert show(full) == (
        "# way 10.96.0.9:80/TCP (cluster): nobody; p2c; remembered for 60 s; who fails is tried last; "
        "held for 30 s where there is nobody\n"
    )


def test_any_change_is_lawful_in_any_order() -> None:
    plane = MemoryPlane(laws, OBJECTS)
    after: dict[Key, Object] = {NODE_PORT: Way((A, B)), way_key("local", VIP, TCP, 80): Way(())}
    for step in steps(diff(OBJECTS, after), {PLANE: KINDS}):
        asyncio.run(plane.write(step.changes[::-1]))
    assert plane.objects == after
