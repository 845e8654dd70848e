"""
The ways in of a service port, settled: who is sent on by each, and what becomes of the others.

What a rule, an element or an entry looks like that says so is the mode's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from kubeway.model.forward import Forward, Frontend

Refusal = Literal["drop", "reject"]


class WayIn(NamedTuple):
    """`external`: what counts for it is the external traffic policy. `by_local`: the policy is Local.

    `served`: somebody is sent on by it. `refused`: what becomes of those who are not; None: there are none.
    Behind a Local policy outside pods and this node itself are served by all endpoints, so it may be both.
    """

    frontend: Frontend
    external: bool
    by_local: bool
    served: bool
    refused: Refusal | None


def ways_in(forward: Forward, servable: bool = True, held: bool = False) -> Iterator[WayIn]:
    """Not `servable`: the mode cannot serve this service port, so all of its ways in are rejected. `held`: it
    lets in those whom nobody can serve yet, so none is."""
    for frontend in forward.frontends:
        external = frontend.kind != "ClusterIP"
        by_local = forward.external_local if external else forward.internal_local
        applies = held or bool(servable and (forward.local if by_local else forward.cluster))
        served = held or (servable and forward.usable if external else applies)
        refused: Refusal | None = None
        if not applies:
            refused = "drop" if servable and forward.usable else "reject"
        yield WayIn(frontend, external, by_local, served, refused)
