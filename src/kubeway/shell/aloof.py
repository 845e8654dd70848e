"""
Work that may take long, without keeping the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

Item = TypeVar("Item")

SMALL: Final = 500
"""So many changes are made here: they take a millisecond or two, and going to a thread costs, too."""


async def aloof(work: Callable[[Sequence[Item]], None], items: Sequence[Item]) -> None:
    """Do it; in a thread if there is much of it."""
    if len(items) <= SMALL:
        work(items)
    else:
        await asyncio.to_thread(work, items)
