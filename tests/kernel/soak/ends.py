"""
One end of a connection of a soak: sends its text, and holds what comes against the other one's.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from tests.kernel.soak.plan import MOST, Text

RESET: Final = b"\1\0\0\0\0\0\0\0"  # struct linger {1, 0}


class Wrong(Exception):
    """It is not as it should be."""


class End:
    """A socket that does not block. OSError as it has it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer: bytearray | None = None

    async def send(self, text: Text, limit: int | None = None) -> None:
        """All that is left of it, or so much of it."""
        end = text.at + (text.left if limit is None else min(limit, text.left))
        while text.at < end:
            await self._loop.sock_sendall(self.sock, text.take(min(MOST, end - text.at)))

    async def hear(self, text: Text, limit: int | None = None) -> None:
        """All that is left of it, or so much of it. Wrong if it is something else, or ends before."""
        end = text.at + (text.left if limit is None else min(limit, text.left))
        while text.at < end:
            await self._hear_some(text, min(MOST, end - text.at))

    async def hear_on(self, text: Text) -> None:
        """All that comes, until it breaks. Wrong if it is something else, or ends."""
        while True:
            await self._hear_some(text, MOST)

    async def _hear_some(self, text: Text, most: int) -> None:
        if self._buffer is None:
            self._buffer = bytearray(MOST if text.left > 4096 else 4096)
        view = memoryview(self._buffer)[:most]
        count = await self._loop.sock_recv_into(self.sock, view)
        at = text.at
        if not count:
            raise Wrong(f"it ended after {at} bytes")
        if not text.matches(view[:count]):
            raise Wrong(f"other bytes came than were sent, from byte {at} to {at + count}")

    async def end(self) -> None:
        """Wrong unless the other side ends, without a word more."""
        if await self._loop.sock_recv(self.sock, 1):
            raise Wrong("there is more than was sent")

    def say_end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """With its close."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
