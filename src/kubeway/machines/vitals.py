"""
Is the proxy well, and may load balancers send here? What the health endpoints answer.

The proxy is well while what is wanted gets into the kernel: it is unwell when a
change has been waiting for `patience`. That is kube-proxy's judgement, whose
patience is twice its sync period of 30 s. Ready is another question: whether the
kernel has held a whole program since the start.

    event               waiting since                      ready    updated
    begun(now)          stays                              stays    now
    noted(now)          now, if nothing was waiting        stays    stays
    synced(now, began)  nothing; or `began`, if a change   yes      now
                        was noted after that

These machines do not know what a sync is. Times are in nanoseconds since 1970,
as the answers show them.
"""

from __future__ import annotations

from typing import Final

from kubeway.model.objects import Node

PATIENCE: Final = 60_000_000_000
DOOMED: Final = "ToBeDeletedByClusterAutoscaler"
"""The key of the taint that says an autoscaler is about to take the node away."""


class Vitals:
    """`families`: those that are served. They are one program, so one is as well as the other."""

    def __init__(self, patience: int = PATIENCE, families: tuple[str, ...] = ("IPv4", "IPv6")) -> None:
        self._patience = patience
        self._waiting: int | None = None
        self._noted = 0
        self.families = families
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


class Eligibility:
    """Whether load balancers may send to this node: nobody is about to take it away.

    `must_be_known`: a node of which no Node object was ever seen is not eligible, as
    with kube-proxy; without, it is one nobody is known to take away. A Node object
    that goes counts as it was last (kube-proxy): the node outlives its object.
    """

    def __init__(self, must_be_known: bool = False) -> None:
        self.eligible = not must_be_known

    def heard(self, node: Node | None) -> None:
        """This is the Node object now; None: there is none."""
        if node is not None:
            self.eligible = not (node.deleting or DOOMED in node.taints)
