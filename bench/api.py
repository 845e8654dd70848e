"""
A bare API server to measure with: it streams a world that was encoded beforehand, and then,
when told by a line on its standard input, changes endpoints at a steady rate.

Each change carries the time it was sent at as the annotation that the cluster uses for that, so whoever
follows can tell how long it took. It speaks just as much HTTP as a watch needs.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

from bench import worlds

ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"
PATHS = {
    "/endpointslices?": "EndpointSlice",
    "/servicecidrs?": "ServiceCIDR",
    "/services?": "Service",
    "/nodes?": "Node",
}
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(kind: str, found: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": found}, separators=(",", ":")).encode() + b"\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def bookmark(kind: str, version: str, rv: int) -> bytes:
    annotations = {"k8s.io/initial-events-end": "true"}
    metadata = {"resourceVersion": str(rv), "annotations": annotations}
    return event("BOOKMARK", {"kind": kind, "apiVersion": version, "metadata": metadata})


class Api:
    def __init__(self, services: int, endpoints: int) -> None:
        self.services, self.endpoints = services, endpoints
        self.rv = 1_000_000
        self.slices: list[asyncio.StreamWriter] = []
        self.lists: dict[str, list[bytes]] = {}
        for found in worlds.objects(services, endpoints):
            found["metadata"].setdefault("resourceVersion", "1")
            self.lists.setdefault(found["kind"], []).append(event("ADDED", found))
        self.starts = {
            kind: chunk(b"".join(events) + bookmark(kind, version, self.rv))
            for kind, version, events in (
                ("Service", "v1", self.lists["Service"]),
                ("EndpointSlice", "discovery.k8s.io/v1", self.lists["EndpointSlice"]),
                ("Node", "v1", self.lists["Node"]),
                ("ServiceCIDR", "networking.k8s.io/v1", []),
            )
        }
        self.lists.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split()[1]
        kind = next((kind for part, kind in PATHS.items() if part in path), None)
        if kind is None:  # an event; nobody here wants to know
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            writer.write(_HEAD + self.starts[kind])
            if kind == "EndpointSlice":
                self.slices.append(writer)
            await reader.read()  # until the client goes
            if kind == "EndpointSlice":
                self.slices.remove(writer)
        writer.close()

    def change(self, number: int) -> None:
        """One endpoint of a service goes and another comes; now."""
        service = number * 7919 % self.services
        members = [worlds.endpoint(service * self.endpoints + n) for n in range(self.endpoints)]
        members[0]["addresses"] = [worlds.address(0x0B000000, number)]
        found = worlds.endpoint_slice(service, members)
        self.rv += 1
        now = time.time_ns()
        stamp = datetime.fromtimestamp(now // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        found["metadata"]["annotations"] = {ANNOTATION: f"{stamp}.{now % 1_000_000_000:09d}Z"}
        found["metadata"]["resourceVersion"] = str(self.rv)
        for writer in self.slices:
            writer.write(chunk(event("MODIFIED", found)))


async def main(services: int, endpoints: int) -> None:
    api = Api(services, endpoints)
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    number = 0
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        count, rate = map(float, line.split())
        began = loop.time()
        for n in range(int(count)):
            await asyncio.sleep(began + n / rate - loop.time())
            api.change(number)
            number += 1
        print("sent", flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
