"""
Asking without a pause, and the book of what came of it.

Runs inside a host's process, beside everything else that host does.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from kubeway.lab.asking import Told

MOST_KEPT = 20


class Flood:
    """`at_once` clients, each asking again `gap` seconds after its last answer."""

    def __init__(self, ask: Callable[[], Awaitable[Told]], at_once: int, gap: float) -> None:
        self.sent = 0
        self.answered: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.losses: list[Told] = []
        self.slowest = 0.0
        self._ask = ask
        self._gap = gap
        self._going = True
        self._clients = [asyncio.get_running_loop().create_task(self._client()) for _ in range(at_once)]

    async def _client(self) -> None:
        while self._going:
            start = time.monotonic()
            told = await self._ask()
            self.sent += 1
            if told["kind"] == "answered":
                self.answered[told["name"]] += 1
                self.slowest = max(self.slowest, time.monotonic() - start)
            else:
                self.lost[told["kind"]] += 1
                if len(self.losses) < MOST_KEPT:
                    self.losses.append(told)
            await asyncio.sleep(self._gap)

    async def stop(self) -> None:
        """Let every question that is under way come to its end, and ask no more."""
        self._going = False
        await asyncio.gather(*self._clients)

    def report(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "answered": self.answered,
            "lost": self.lost,
            "losses": self.losses,
            "slowest": self.slowest,
        }
