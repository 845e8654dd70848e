"""
Sets that were made with room for what there was, and then have to hold much more.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from kubeway.model.node import NodeFacts, Options
from kubeway.model.parse import parse_manifest
from kubeway.model.store import Store
from kubeway.modes.nftables import NFTABLES
from kubeway.program.link import Linker
from kubeway.records import Record, SetAside, Synced
from kubeway.shell.nft import NftPlane
from kubeway.shell.syncer import Syncer
from tests.kernel.netns import inside, needs_root

pytestmark = [pytest.mark.kernel, needs_root]


def world(count: int) -> list[Any]:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "shop", "name": "large"},
        "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}]},
    }
    addresses = [f"10.244.{n >> 8}.{n & 255}" for n in range(count)]
    endpoint_slice = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "name": "x", "labels": {"kubernetes.io/service-name": "large"}},
        "addressType": "IPv4",
        "ports": [{"port": 8080}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }
    both = {"apiVersion": "v1", "kind": "List", "items": [service, endpoint_slice]}
    found, bad = parse_manifest(json.dumps(both).encode(), "test")
    assert not bad
    return found


def test_a_set_that_is_full_is_made_anew_and_nobody_is_set_aside() -> None:
    heard: list[Record] = []

    async def grow() -> None:
        grown = asyncio.Event()

        def hear(record: Record) -> None:
            heard.append(record)
            if sum(isinstance(one, Synced) for one in heard) == 2:
                grown.set()

        store, linker = Store(), Linker()
        plane = NftPlane(linker.origin, linker.objects)
        syncer = Syncer(
            mode=NFTABLES,
            plane=plane,
            options=Options(hostname="n"),
            facts=NodeFacts(name="n"),
            store=store,
            record=hear,
            linker=linker,
        )
        for one in world(2500):
            store.put(one)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            running = group.create_task(syncer.run())
            await syncer.ready.wait()
            for one in world(9000):  # far more than a set made for 2500 has room for
                store.put(one)
            syncer.note()
            await grown.wait()
            running.cancel()
        assert plane.read_now() == dict(linker.objects)
        assert len(linker.objects) > 9000
        plane.close()

    inside(lambda: asyncio.run(grow()))
    assert not [record for record in heard if isinstance(record, SetAside)]
