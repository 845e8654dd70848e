"""
One endpoint replaced: from the store's event to the kernel's ack, through the real syncer.

Runs in a network namespace of its own and prints one line of JSON: how long each change
took, how many bytes it sent and how many objects it visited.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from bench.pipeline import OPTIONS, facts_of, load
from bench.worlds import address, service_name
from kubeway.model.forward import ServiceName
from kubeway.modes.nftables import NFTABLES
from kubeway.planes.nft.lower import lower
from kubeway.program.link import Linker
from kubeway.program.program import Change
from kubeway.records import Record, Synced
from kubeway.shell.nft import NftPlane
from kubeway.shell.syncer import Syncer
from kubeway.values import parse_ip


class Scale(NftPlane):
    """The plane, which also weighs what it is given."""

    bytes = 0
    changes = 0

    def write_now(self, changes: Sequence[Change]) -> None:
        super().write_now(changes)
        self.bytes = sum(len(parcel.data) for parcel in lower(changes))
        self.changes = len(changes)


async def measure(path: Path, services: int, count: int) -> dict[str, object]:
    gc.disable()
    store = load(path)
    acked = asyncio.Event()

    def hear(record: Record) -> None:
        if isinstance(record, Synced):
            acked.set()

    linker = Linker()
    plane = Scale(linker.origin, linker.objects)
    syncer = Syncer(
        mode=NFTABLES,
        plane=plane,
        options=OPTIONS,
        facts=facts_of(store),
        store=store,
        record=hear,
        gap=0.0,
        linker=linker,
    )
    running = asyncio.ensure_future(syncer.run())
    await syncer.ready.wait()
    gc.freeze()
    took, sent, visited = [], [], []
    for number in range(count):
        name = ServiceName(*service_name(number * 7919 % services))
        (old,) = store.snapshot().slices[name].values()
        leaving = old.endpoints[0]
        joining = replace(leaving, ip=parse_ip(address(0x0B000000, number)))
        new = replace(old, endpoints=(joining, *old.endpoints[1:]))
        acked.clear()
        began = time.perf_counter()
        store.put(new)
        syncer.note()
        await acked.wait()
        took.append(time.perf_counter() - began)
        sent.append(plane.bytes)
        visited.append(plane.changes)
        await asyncio.sleep(0.002)  # let what comes after the ack finish
    running.cancel()
    return {"took": took, "bytes": sent, "changes": visited}


if __name__ == "__main__":
    found = asyncio.run(measure(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
    print(json.dumps(found))
