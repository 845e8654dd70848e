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


def test_every_value_says_why_in_a_clause() -> None:
    assert set(sysctl.NAMES) == {
        value for name, value in vars(sysctl).items() if name.isupper() and "/" in str(value)[:4]
    }
    for why in sysctl.WHY.values():
        assert why[0].islower()
        assert not why.endswith(".")


def test_all_of_ipvs_mode_as_text() -> None:
    """As kube-proxy sets them; nothing of IPv6."""
    program: dict[Key, Object] = {
        value_key(name): Value("2" if name == sysctl.ARP_ANNOUNCE else "1")
        for name in sysctl.NAMES
        if name not in (ROUTE_LOCALNET, sysctl.VS_CONN_REUSE_MODE)
    }
    assert sysctl.show(program, "ip6") == ""
    assert sysctl.show(program).splitlines() == [
        "# sysctl net.ipv4.vs.conntrack = 1",
        "# sysctl net.ipv4.vs.expire_nodest_conn = 1",
        "# sysctl net.ipv4.vs.expire_quiescent_template = 1",
        "# sysctl net.ipv4.ip_forward = 1",
        "# sysctl net.ipv4.conf.all.arp_ignore = 1",
        "# sysctl net.ipv4.conf.all.arp_announce = 2",
    ]
