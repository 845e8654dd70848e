"""
What runs inside a host: a process in a network namespace of its own, told what to do.

Its first argument is the number of its end of a stream socket;
over it come requests, one JSON object a line, `{"do": NAME, …arguments}`, and
for each, in order, one line goes back: `{"ok": RESULT}` or `{"error": WORDS}`.
When the other end closes, the lab is gone, and so is this process.

Uses the standard library only, and little of it, so that hosts start fast.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kubeway.errors import KubewayError
from kubeway.lab import asking, echo, flood, kernel

LONGEST_LINE = 1 << 24


class Resident:
    def __init__(self) -> None:
        self._servers: dict[tuple[str, str, int], asyncio.Task[None]] = {}
        self._floods: dict[int, flood.Flood] = {}
        self.verbs: dict[str, Callable[..., Awaitable[Any]]] = {
            "serve": self.serve,
            "leave": self.leave,
            "ask": self.ask,
            "sysctl": self.sysctl,
            "fetch": self.fetch,
            "flood": self.flood,
            "flood-report": self.flood_report,
            "flood-stop": self.flood_stop,
            "quiet": self.quiet,
        }

    async def serve(self, name: str, proto: str, ip: str, port: int) -> None:
        await self.leave(proto, ip, port)
        self._servers[proto, ip, port] = echo.serve(name, proto, ip, port)

    async def leave(self, proto: str, ip: str, port: int) -> None:
        server = self._servers.pop((proto, ip, port), None)
        if server is not None:
            server.cancel()
            await asyncio.wait([server])

    async def ask(self, questions: list[dict[str, Any]], at_once: int) -> list[asking.Told]:
        turn = asyncio.Semaphore(at_once)

        async def one(question: dict[str, Any]) -> asking.Told:
            async with turn:
                return await asking.ask(**question)

        return list(await asyncio.gather(*(one(question) for question in questions)))

    async def sysctl(self, settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            _write_sysctl(name, str(value))

    async def fetch(self, ip: str, port: int, path: str, wait: float) -> dict[str, Any]:
        async with asyncio.timeout(wait):
            reader, writer = await asyncio.open_connection(ip, port)
            host = asking.show(ip, port)
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        return {"status": int(first.split()[1]), "headers": headers, "body": body.decode()}

    async def flood(self, at_once: int, gap: float, **question: Any) -> int:
        number = len(self._floods)
        self._floods[number] = flood.Flood(lambda: asking.ask(**question), at_once, gap)
        return number

    async def quiet(self) -> None:
        for one in self._floods.values():
            await one.stop()

    async def flood_report(self, number: int) -> dict[str, Any]:
        return self._floods[number].report()

    async def flood_stop(self, number: int) -> dict[str, Any]:
        await self._floods[number].stop()
        return self._floods[number].report()

    async def answer(self, line: bytes) -> dict[str, Any]:
        request = json.loads(line)
        try:
            return {"ok": await self.verbs[request.pop("do")](**request)}
        except TimeoutError:
            return {"error": "no answer in time"}
        except (OSError, ValueError, IndexError, KubewayError) as error:
            return {"error": str(error) or type(error).__name__}


def _write_sysctl(name: str, value: str) -> None:
    Path("/proc/sys", *name.split(".")).write_text(value)


async def live(control: socket.socket) -> None:
    """Answer requests until the lab is gone."""
    reader, writer = await asyncio.open_connection(sock=control, limit=LONGEST_LINE)
    resident = Resident()
    writer.write(b'{"ok": "here"}\n')
    while line := await reader.readline():
        writer.write(json.dumps(await resident.answer(line)).encode() + b"\n")
        await writer.drain()


def main() -> None:
    # Ctrl-C reaches the whole foreground group; the lab decides when its hosts end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        kernel.unshare(kernel.CLONE_NEWNET)
    except OSError as error:
        with suppress(OSError):  # the lab may have given up already
            control.sendall(json.dumps({"error": f"no network namespace: {error.strerror}"}).encode() + b"\n")
        return
    try:
        asyncio.run(live(control))
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)


if __name__ == "__main__":
    main()
