"""Values of sysctls: what they are called, and that they ask for nothing."""

from __future__ import annotations

from kubeway.planes import sysctl
from kubeway.planes.memory import MemoryPlane
from kubeway.planes.sysctl import ROUTE_LOCALNET, Value, value_key
from kubeway.program.plan import diff
from kubeway.program.program import Change, Key, Object

KEY = value_key(ROUTE_LOCALNET)
PROGRAM: dict[Key, Object] = {KEY: Value("1")}


def test_in_words() -> None:
    assert sysctl.describe(Change("add", KEY, None, Value("1")), {}) == f"set sysctl {ROUTE_LOCALNET} to 1"
    assert sysctl.describe(Change("del", KEY, Value("1"), None), {}) == f"leave sysctl {ROUTE_LOCALNET}"


def test_as_text() -> None:
    line = "# sysctl net.ipv4.conf.all.route_localnet = 1\n"
    assert (sysctl.show(PROGRAM), sysctl.show(PROGRAM, "ip"), sysctl.show(PROGRAM, "ip6")) == (line, line, "")
    assert sysctl.show({}) == ""
    assert sysctl.family_of(value_key("net/ipv6/conf/all/forwarding")) == "ip6"


def test_its_laws_are_those_of_a_plane() -> None:
    plane = MemoryPlane(sysctl, {KEY: Value("0")})
    plane.edit(list(diff(plane.objects, PROGRAM)))
    assert plane.objects == PROGRAM
