"""
/readyz: does the kernel hold what the API said?

    GET /readyz                                     since the start, a whole program was held
    GET /readyz?generation=1234                     the write of resource version 1234 is held
    GET /readyz?generation=1234&generation=1240     both are
    GET /readyz?generation=1234&timeout=5s          wait so long for it to be

200 is given only if the kernel, asked at that moment, has seen no writing but ours
since. `machines.convergence` says what "held" means, and for which versions it is
known; 503 tells how far each watched resource has come, so that one sees what is
waited for. Objects that come from manifests have no resource versions.

That a write is held means that the kernel holds what we made of it. An object that
could not be read is left out of the rules, so its write alone makes nothing held;
but once every watched resource has come to that version or further, the number is
held like any other, and only the log names the object.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from kubeway.machines.convergence import Convergence
from kubeway.machines.vitals import Vitals
from kubeway.shell import clock
from kubeway.shell.http import Answer, json_answer

_LONGEST: Final = 60.0
_MOST_WAITING: Final = 256
_LOOK: Final = 0.1
"""A plane in doubt is read again, and nobody is told if all was well."""
_VERSION: Final = re.compile(r"[0-9]{1,19}")
_DURATION: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{0,6})?)(ms|s|m)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0}


class Readiness:
    """`verify` asks the plane whether it still holds what was last written; it must be quick.

    `wake` is to be called whenever the answer may have become another one.
    """

    def __init__(
        self, vitals: Vitals, convergence: Convergence, verify: Callable[[], bool] = lambda: True
    ) -> None:
        self._vitals, self._convergence, self._verify = vitals, convergence, verify
        self._waiting: set[asyncio.Event] = set()

    def wake(self) -> None:
        for event in self._waiting:
            event.set()

    async def answer(self, query: Mapping[str, Sequence[str]]) -> Answer:
        generations = query.get("generation", ())
        timeout = query.get("timeout", ("0s",))[-1]
        for text in generations:
            if not _VERSION.fullmatch(text):
                return _bad(f"generation: {text!r} is not a resource version, a number")
        if generations and not self._convergence.streams:
            return _bad("generation: objects come from manifests, which have no resource versions")
        longest = _DURATION.fullmatch(timeout)
        if not longest or (seconds := float(longest[1]) * _UNITS[longest[2]]) > _LONGEST:
            return _bad(f"timeout: {timeout!r} is not a duration such as 5s or 500ms, 60s at most")
        wanted = [int(text) for text in generations]
        if not await self._reached(wanted, seconds):
            return self._not_ready(wanted)
        return json_answer(200, {"ready": True, **_generation(wanted)})

    async def _reached(self, wanted: Sequence[int], seconds: float) -> bool:
        if self._ready(wanted):
            return True
        if not seconds or len(self._waiting) >= _MOST_WAITING:
            return False
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            async with asyncio.timeout(seconds):
                while not self._ready(wanted):
                    await _within(_LOOK, event)
                    event.clear()
            return True
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(event)

    def _ready(self, wanted: Sequence[int]) -> bool:
        if not self._vitals.ready:
            return False
        return not wanted or (all(map(self._convergence.holds, wanted)) and self._verify())

    def _not_ready(self, wanted: Sequence[int]) -> Answer:
        if not wanted:
            return json_answer(503, {"ready": False})
        convergence = self._convergence
        body = {
            "ready": False,
            **_generation(wanted),
            "held": convergence.held,
            "heard": dict(convergence.streams),
            "waited": round(convergence.lag(clock.monotonic()), 3),
            "setAside": convergence.aside,
        }
        return json_answer(503, body)


async def _within(seconds: float, event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _generation(wanted: Sequence[int]) -> dict[str, object]:
    return {"generation": wanted[0] if len(wanted) == 1 else list(wanted)} if wanted else {}


def _bad(problem: str) -> Answer:
    return json_answer(400, {"ready": False, "problem": problem})
