"""What userspace mode makes of a service port: elements that steer, and ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from kubeway.modes.nftables import NFTABLES
from kubeway.modes.userspace import USERSPACE
from kubeway.planes.nft.fields import show
from kubeway.planes.nft.objects import Element, Goto, set_key
from kubeway.planes.relay.objects import Endpoint, Way
from kubeway.planes.relay.text import show as show_ways
from kubeway.program.plane import Mode
from kubeway.program.program import Key, Object
from kubeway.values import parse_ip
from kubeway.views import compile as offline
from tests.worlds import Doc, World, endpoint_doc, service_docs, world

ASKED = {"kubeway.io/balance": "leastconn", "kubeway.io/demote": "true", "kubeway.io/hold": "30s"}
NOBODY: list[Doc] = []
ELSEWHERE = [endpoint_doc("10.244.2.1", "n2")]
HERE = [endpoint_doc("10.244.1.1", "n1")]


def linked(w: World, mode: Mode = USERSPACE) -> offline.Linker:
    return offline.program(offline.World(w.snapshot, w.facts, w.view, w.forwards), mode)


def shop(endpoints: list[Doc], annotations: Mapping[str, str] = ASKED, **more: Any) -> World:
    docs = service_docs(
        "shop/a:http",
        endpoints=endpoints,
        node_port=30080,
        externalIPs=["198.51.100.1"],
        annotations=annotations,
        **more,
    )
    return world(docs).in_mode("userspace")


def verdicts(w: World) -> dict[str, str]:
    """Where each way in leads to, and which are rejected or dropped."""
    found = {}
    objects: Mapping[Key, Object] = linked(w).objects
    for key, value in objects.items():
        if key.kind == "element" and key.name[1] in (
            "services",
            "nodeports",
            "no-endpoint-services",
            "no-endpoint-nodeports",
        ):
            assert isinstance(value, Element)
            table, name, raw = key.name
            place = show(objects[set_key(table, name)].key, raw)
            refused = "no " if name.startswith("no-") else ""
            verdict = value.data
            word = verdict.chain if isinstance(verdict, Goto) else type(verdict).__name__.lower()
            found[f"{refused}{place}"] = word
    return found


def ways(w: World) -> list[str]:
    return show_ways(linked(w).objects).splitlines()


def test_a_way_has_all_that_the_service_asked_for() -> None:
    found = {value for value in linked(shop(HERE)).objects.values() if isinstance(value, Way)}
    here = Endpoint(parse_ip("10.244.1.1"), 8080)
    assert found == {Way((here,), 0, "leastconn", demote=True, hold=30)}
    plain = {value for value in linked(shop(HERE, {})).objects.values() if isinstance(value, Way)}
    assert plain == {Way((here,))}


def test_without_endpoints_who_may_wait_is_steered_as_if_there_were_some() -> None:
    assert verdicts(shop(NOBODY)) == verdicts(shop(HERE))
    local = {"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}
    assert verdicts(shop(NOBODY, **local)) == verdicts(shop(HERE, **local))
    assert ways(shop(NOBODY, **local)) == [
        line.replace("10.244.1.1:8080", "nobody") for line in ways(shop(HERE, **local))
    ]


def test_without_endpoints_all_others_are_rejected_before_they_come_to_the_relay() -> None:
    refused = verdicts(shop(NOBODY, {}))
    assert {word for place, word in refused.items() if place.startswith("no ")} == {"reject-it"}
    assert ways(shop(NOBODY, {})) == []
    udp = shop(NOBODY, proto="UDP")
    assert sorted(verdicts(udp).values()) == sorted(refused.values())
    assert ways(udp) == []


def test_where_others_can_serve_nobody_waits() -> None:
    """A Local policy drops then, as ever: who comes to wait would wait in vain, and knows no better."""
    found = verdicts(shop(ELSEWHERE, externalTrafficPolicy="Local"))
    assert "external-local-nobody" in found.values()
    assert {word for place, word in found.items() if place.startswith("no ")} == {"drop"}
    assert not any(": nobody" in way for way in ways(shop(ELSEWHERE, externalTrafficPolicy="Local")))


@pytest.mark.parametrize("endpoints", [NOBODY, ELSEWHERE, HERE], ids=["nobody", "elsewhere", "here"])
def test_other_modes_make_the_same_of_a_service_whatever_it_asks_of_the_relay(endpoints: list[Doc]) -> None:
    asked, plain = (shop(endpoints, said).in_mode("nftables") for said in (ASKED, {}))
    assert linked(asked, NFTABLES).objects == linked(plain, NFTABLES).objects


def test_the_address_of_an_unspoken_protocol_keeps_its_port() -> None:
    found = verdicts(shop(HERE, proto="SCTP"))
    assert {word for place, word in found.items() if not place.startswith("no ")} == {"return"}


def test_in_json_a_way_is_as_people_write_it() -> None:
    rows = [row for row in offline.rows(linked(shop(HERE))) if row["plane"] == "relay"]
    assert rows[0]["object"] == {
        "endpoints": ["10.244.1.1:8080"],
        "affinity": 0,
        "balance": "leastconn",
        "demote": True,
        "hold": 30,
    }
