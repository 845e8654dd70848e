"""
Pipes that bytes are spliced through: taken while some are on their way, and given back empty.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import Final

SIZE: Final = 1 << 20
"""Bytes. Larger than a pipe is by itself (64 KiB), so that a splice carries more. To root no limit of pipes'
sizes applies (pipe(7), fs.pipe-user-pages-soft)."""

_KEPT: Final = 64

Pipe = tuple[int, int]
"""What is read from, and what is written to."""


class Pipes:
    def __init__(self) -> None:
        self._spare: list[Pipe] = []

    def take(self) -> Pipe:
        """An empty one. OSError if there are no descriptors left."""
        if self._spare:
            return self._spare.pop()
        pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):  # a smaller one does, too
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, SIZE)
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Back, empty."""
        if len(self._spare) < _KEPT:
            self._spare.append(pipe)
        else:
            self.drop(pipe)

    def drop(self, pipe: Pipe) -> None:
        """It is not empty, or not wanted."""
        os.close(pipe[0])
        os.close(pipe[1])

    def clear(self) -> bool:
        """Let go of all that nobody uses; whether there were any."""
        some, self._spare = self._spare, []
        for pipe in some:
            self.drop(pipe)
        return bool(some)
