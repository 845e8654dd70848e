"""A program as rows for JSON: of planes whose names are bytes, what people read."""

from __future__ import annotations

import pytest

from kubeway.modes.ipvs import IPVS
from kubeway.planes.link import LINK, Address, Dummy, Route, address_key, route_key
from kubeway.planes.nft.objects import Family
from kubeway.program.link import Linker
from kubeway.program.program import Fragment, Origin
from kubeway.values import Ip, parse_ip, show_ip
from kubeway.views.compile import World, program, rows
from tests.worlds import service_docs, world

FOUR, SIX = parse_ip("10.96.0.1"), parse_ip("fd00:96::1")


@pytest.mark.parametrize(
    ("family", "names"),
    [
        (None, ["10.96.0.1", "fd00:96::1", "kube-ipvs0", "10.96.0.1"]),
        ("ip", ["10.96.0.1", "kube-ipvs0", "10.96.0.1"]),
        ("ip6", ["fd00:96::1", "kube-ipvs0"]),
    ],
)
def test_addresses_of_services(family: Family | None, names: list[str]) -> None:
    linker = Linker()
    objects = {
        LINK: Dummy(),
        address_key(FOUR): Address(),
        address_key(SIX): Address(),
        route_key(FOUR): Route(parse_ip("192.0.2.1")),
    }
    linker.update({(): Fragment(Origin(None, "base"), objects)})
    found = rows(linker, family)
    assert [row["name"] for row in found] == [[name] for name in names]
    routes = [row["object"] for row in found if row["kind"] == "route"]
    assert routes == ([] if family == "ip6" else [{"source": "192.0.2.1"}])


@pytest.mark.parametrize(("family", "vip", "other"), [("ip", FOUR, SIX), ("ip6", SIX, FOUR)])
def test_every_plane_of_ipvs_mode_in_one_family(family: Family, vip: Ip, other: Ip) -> None:
    docs = [
        doc for n, ip in enumerate((FOUR, SIX)) for doc in service_docs(f"shop/s{n}:http", vip=show_ip(ip))
    ]
    w = world(docs).in_mode("ipvs")
    found = rows(program(World(w.snapshot, w.facts, w.view, w.forwards), IPVS), family)
    # The settings are all below net/ipv4; ipvs' hold for both.
    settings = {"sysctl"} if family == "ip" else set()
    assert {row["plane"] for row in found} == {"ipset", "xtables", "ipvs", "link"} | settings
    for plane, kind in (("ipvs", "server"), ("ipvs", "destination"), ("link", "address"), ("ipset", "entry")):
        first = {
            row["name"][kind == "entry"] for row in found if (row["plane"], row["kind"]) == (plane, kind)
        }
        assert show_ip(vip) in first
        assert show_ip(other) not in first
    named = {row["name"][0] for row in found if row["plane"] == "ipset"}
    assert all(("-6-" in name) is (family == "ip6") for name in named)
    assert all(row["origin"] for row in found)
