"""
Waits, at the start, for what this node must be known for before rules are made.

`NodeWait` decides, without a clock: told the Node and the time, it says whether to go
on. `wait_for_node` asks it until it does. Neither knows where the Node comes from.

| what            | in which mode | waited for       | when it does not come          |
|-----------------|---------------|------------------|--------------------------------|
| an address      | every         | 30 s             | recorded, and on without       |
| pod CIDRs       | NodeCIDR      | 5 min from there | the end: no packet could be told from a Pod's |

The times are kube-proxy's. What changes *later* needs no waiting and no restart: the
syncer settles every Forward anew when the Node is another one. kube-proxy ends with
exit code 1 when pod CIDRs change in NodeCIDR mode, and only logs a new node address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from kubeway.errors import BadInput
from kubeway.model.node import Options
from kubeway.model.objects import Node
from kubeway.model.view import node_facts
from kubeway.records import NodeAwaited, NodeLacking, Recorder
from kubeway.shell import clock

ADDRESS_PATIENCE: Final = 30.0
POD_CIDR_PATIENCE: Final = 300.0
_LOOK_EVERY: Final = 0.25


class Look(Struct, frozen=True):
    """`done`: go on. `lacking`: what the Node has not. `until`: how long that is waited for."""

    done: bool
    lacking: str = ""
    until: float = 0.0


class NodeWait:
    """Begun at `now`. `need_cidrs`: pod CIDRs are what Pods are told by."""

    def __init__(self, name: str, need_cidrs: bool, now: float) -> None:
        self._name, self._need_cidrs = name, need_cidrs
        self._addresses_until = now + ADDRESS_PATIENCE
        self._cidrs_until: float | None = None

    def look(self, node: Node | None, now: float) -> Look:
        """What to do with the Node as it is now. BadInput when the wait for pod CIDRs is over in vain."""
        addressed = bool(node_facts(node, self._name, ()).ips)
        if self._cidrs_until is None and not addressed and now < self._addresses_until:
            return Look(False, self._lacks(node, "address"), self._addresses_until)
        lacking = "" if addressed else self._lacks(node, "address")
        if not self._need_cidrs or (node is not None and node.pod_cidrs):
            return Look(True, lacking)
        if self._cidrs_until is None:
            self._cidrs_until = now + POD_CIDR_PATIENCE
        lacking = self._lacks(node, "spec.podCIDRs")
        if now < self._cidrs_until:
            return Look(False, lacking, self._cidrs_until)
        remedy = (
            "is --hostname-override right?"
            if node is None
            else "run the controller manager with --allocate-node-cidrs, or choose another mode"
        )
        raise BadInput(
            f"{lacking} after {POD_CIDR_PATIENCE:.0f} s, but --detect-local-mode=NodeCIDR "
            f"needs its pod CIDRs: {remedy}"
        )

    def _lacks(self, node: Node | None, what: str) -> str:
        return f"there is no Node {self._name!r}" if node is None else f"node {self._name!r} has no {what}"


async def wait_for_node(
    options: Options, node: Callable[[], Node | None], record: Recorder, every: float = _LOOK_EVERY
) -> None:
    """Return when enough is known of this node to make rules; `node` says what it is at the moment.

    Call it when Nodes have been listed. BadInput if pod CIDRs are needed and do not come.
    """
    now = clock.monotonic()
    wait = NodeWait(options.hostname, options.detect_local == "NodeCIDR", now)
    told = ""
    while not (look := wait.look(node(), clock.monotonic())).done:
        if look.lacking != told:
            told = look.lacking
            record(NodeAwaited(told, round(look.until - clock.monotonic())))
        await asyncio.sleep(every)
    if look.lacking:
        record(NodeLacking(look.lacking))
