"""
Is the proxy well? What the health endpoints answer, as a machine told the time.

The proxy is well while what is wanted gets into the kernel: it is unwell when a
change has been waiting for `patience`. That is kube-proxy's judgement, whose
patience is twice its sync period of 30 s. Ready is another question: whether the
kernel has held a whole program since the start.

    event               waiting since                      ready    updated
    begun(now)          stays                              stays    now
    noted(now)          now, if nothing was waiting        stays    stays
    synced(now, began)  nothing; or `began`, if a change   yes      now
                        was noted after that

This machine does not know what a sync is. Times are in nanoseconds since 1970,
as the answers show them.
"""

from __future__ import annotations

from typing import Final

PATIENCE: Final = 60_000_000_000


class Vitals:
    def __init__(self, patience: int = PATIENCE) -> None:
        self._patience = patience
        self._waiting: int | None = None
        self._noted = 0
        self.updated: int | None = None
        self.ready = False

    def begun(self, now: int) -> None:
        """From now on changes are expected to get into the kernel."""
        self.updated = now

    def noted(self, now: int) -> None:
        """A change is wanted that the kernel does not hold yet."""
        self._noted = now
        if self._waiting is None:
            self._waiting = now

    def synced(self, now: int, began: int) -> None:
        """The kernel holds all that was wanted at `began`."""
        self._waiting = began if self._noted > began else None
        self.ready = True
        self.updated = now

    def healthy(self, now: int) -> bool:
        """True, too, before it has begun."""
        waited = 0 if self._waiting is None else now - self._waiting
        return self.updated is None or waited < self._patience
