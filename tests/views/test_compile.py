"""A program as rows for JSON: of planes whose names are bytes, what people read."""

from __future__ import annotations

import pytest

from kubeway.planes.link import LINK, Address, Dummy, Route, address_key, route_key
from kubeway.planes.nft.objects import Family
from kubeway.program.link import Linker
from kubeway.program.program import Fragment, Origin
from kubeway.values import parse_ip
from kubeway.views.compile import rows

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
