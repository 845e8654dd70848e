"""
The scenario files as such: that they can be read, and say what they seem to say. No packet is sent.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernel.scenario import DEFAULTS, Expect, load

FILES = sorted((Path(__file__).parents[1] / "scenarios").glob("*.yaml"))
ONE = """
title: one
manifests:
  - kind: Service
    metadata: {namespace: shop, name: cart}
    spec: {clusterIP: 10.96.0.10, externalIPs: [198.18.0.1], ports: [{port: 80}]}
  - kind: EndpointSlice
    metadata: {namespace: shop, name: cart-1}
    addressType: IPv4
    endpoints: [{addresses: [10.244.1.11]}]
ask:
  - {from: [node, outside], to: "10.96.0.10:80", expect: {answered: [a], masqueraded: [a]}}
  - {from: node, source: 203.0.113.10, to: "[fd00:10:96::10]:80/UDP", expect: refused}
steps:
  - {then: it goes, drop: [EndpointSlice shop/cart-1], ask: []}
"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_asks_something(path: Path) -> None:
    scenario = load(path)
    assert scenario.title.endswith(".")
    assert scenario.steps[0].asks


def test_objects_and_questions_are_doubled(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(ONE)
    begin, step = load(path).steps
    service, slice4, slice6 = begin.put[len(DEFAULTS) :]
    assert service["spec"]["clusterIPs"] == ["10.96.0.10", "fd00:10:96::10"]
    assert service["spec"]["externalIPs"] == ["198.18.0.1", "2001:db8:99::1"]
    assert slice4["endpoints"] == [{"addresses": ["10.244.1.11"]}]
    assert (slice6["metadata"]["name"], slice6["addressType"]) == ("cart-1-v6", "IPv6")
    assert slice6["endpoints"] == [{"addresses": ["fd00:10:244:1::11"]}]
    assert step.drop == ["EndpointSlice shop/cart-1", "EndpointSlice shop/cart-1-v6"]
    *first, last = begin.asks
    assert {(ask.host, ask.ip, ask.proto) for ask in first} == {
        (host, ip, proto)
        for host in ("node", "outside")
        for ip in ("10.96.0.10", "fd00:10:96::10")
        for proto in ("TCP", "UDP")
    }
    assert {ask.expect for ask in first} == {Expect("answered", ("a",), ("a",))}
    assert str(last) == "node (203.0.113.10) -> [fd00:10:96::10]:80/UDP"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_in_brief_it_still_asks(path: Path) -> None:
    scenario, whole = load(path, brief=True), load(path)
    assert len(scenario.steps) == len(whole.steps)
    for step, full in zip(scenario.steps, whole.steps, strict=True):
        assert step.asks
        assert set(step.asks) <= set(full.asks)


def test_in_brief_nothing_is_doubled(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(ONE)
    begin, step = load(path, brief=True).steps
    service, _ = begin.put[len(DEFAULTS) :]
    assert "clusterIPs" not in service["spec"]
    assert [str(ask) for ask in begin.asks] == [
        f"{host} -> 10.96.0.10:80/TCP" for host in ("node", "outside")
    ]
    assert step.drop == ["EndpointSlice shop/cart-1"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ONE.replace("title:", "titel:"), r"one.yaml: ValueError: unknown: titel; there are .*title"),
        (ONE.replace("from: node,", "form: node,"), "unknown: form"),
        (ONE.replace("10.96.0.10:80", "192.0.2.1:80"), "192.0.2.1 has no IPv6 twin"),
        ("[", "one.yaml: .*Error"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        load(path)
