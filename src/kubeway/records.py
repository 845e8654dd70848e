"""
What happened, as values.

Whoever does something tells it by handing one of these to a `record` function;
logs, health and metrics are readers of that one stream. A record knows how grave
it is (`level`) and how to say itself in one line (`str`); it knows no clock, no
logger and no other floor, so names of Services and objects come in as text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from msgspec import Struct

Level = Literal["debug", "info", "warning", "error"]


class Record(Struct, frozen=True):
    """Base of all of them; its fields are what `--logging-format json` shows beside the line."""

    level: ClassVar[Level] = "info"


Recorder = Callable[[Record], None]
"""Takes what happened. It must not fail, and must not wait."""


# --- the daemon -----------------------------------------------------------------


class Started(Record, frozen=True):
    version: str
    node: str
    mode: str

    def __str__(self) -> str:
        return f"kubeway {self.version} started on node {self.node} in {self.mode} mode"


class Stopped(Record, frozen=True):
    """`cause` is a signal's name, or the problem that ended the daemon."""

    cause: str

    def __str__(self) -> str:
        return f"stopped ({self.cause}); the rules stay in the kernel"


class NodeSeen(Record, frozen=True):
    """What is known of this node now. `known`: a Node object of this name is there."""

    node: str
    known: bool
    ips: tuple[str, ...] = ()
    zone: str = ""

    def __str__(self) -> str:
        if not self.known:
            return f"no Node object {self.node!r}: addresses, zone and pod CIDRs unknown, defaults apply"
        return f"node {self.node}: addresses {', '.join(self.ips) or 'none'}, zone {self.zone or 'none'}"


class AddressesChanged(Record, frozen=True):
    """The addresses of this host's interfaces are others than before."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __str__(self) -> str:
        both = (("new", self.added), ("gone", self.removed))
        news = "; ".join(f"{word} {', '.join(ips)}" for word, ips in both if ips)
        return f"this host's addresses changed: {news}"


# --- from desired to kernel -------------------------------------------------------


class Synced(Record, frozen=True):
    """The kernel holds what is wanted. `services` counts the Services looked at anew.

    `plan_ms`: from objects to changes; `write_ms`: in the kernel. `cause` says what
    led to it: the start, a change of objects, a drift, or a retry.
    """

    changes: int
    services: int = 0
    plan_ms: float = 0.0
    write_ms: float = 0.0
    cause: Literal["start", "change", "drift", "retry"] = "change"

    def __str__(self) -> str:
        times = f"plan {self.plan_ms:.1f} ms, write {self.write_ms:.1f} ms"
        return f"synced after {self.cause}: {self.changes} changes ({times})"


class Refused(Record, frozen=True):
    """The kernel said no. `change` and `origin` tell which and of whom, where that is known."""

    level = "error"
    problem: str
    errno: int = 0
    change: str = ""
    origin: str = ""
    retry_in: float = 0.0

    def __str__(self) -> str:
        return f"{self.problem}{_again(self.retry_in)}"


class SetAside(Record, frozen=True):
    """What this origin adds is left out for now so that all others stay in force."""

    level = "error"
    origin: str
    problem: str
    retry_in: float = 0.0

    def __str__(self) -> str:
        return f"{self.origin} set aside: {self.problem}{_again(self.retry_in)}"


class SyncFailed(Record, frozen=True):
    """A sync did not come to its end for another reason than a refusal."""

    level = "warning"
    problem: str
    retry_in: float = 0.0

    def __str__(self) -> str:
        return f"sync failed: {self.problem}{_again(self.retry_in)}"


class Drifted(Record, frozen=True):
    """Somebody else changed our part of the kernel. `examples` are a few of the differences."""

    level = "warning"
    missing: int
    altered: int
    foreign: int
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = f"{self.missing} missing, {self.altered} altered, {self.foreign} foreign"
        return f"drift: {counts}" + (f" ({'; '.join(self.examples)})" if self.examples else "")


class Repaired(Record, frozen=True):
    changes: int
    write_ms: float = 0.0

    def __str__(self) -> str:
        return f"drift repaired: {self.changes} changes (write {self.write_ms:.1f} ms)"


class Forgot(Record, frozen=True):
    """Flows whose endpoint had left were deleted from connection tracking."""

    flows: int
    took_ms: float = 0.0

    def __str__(self) -> str:
        return f"forgot {self.flows} stale flows ({self.took_ms:.1f} ms)"


class ForgetFailed(Record, frozen=True):
    level = "warning"
    problem: str
    retry_in: float = 0.0

    def __str__(self) -> str:
        return f"stale flows could not be forgotten: {self.problem}{_again(self.retry_in)}"


# --- objects ------------------------------------------------------------------------


class ServiceLeftOut(Record, frozen=True):
    """One service port cannot be honoured; the others are."""

    level = "error"
    service: str
    problem: str

    def __str__(self) -> str:
        return f"{self.service} left out: {self.problem}"


class ClaimLost(Record, frozen=True):
    """Two service ports claim one address and port; `holder` has it."""

    level = "warning"
    service: str
    claim: str
    holder: str

    def __str__(self) -> str:
        return f"{self.service} does not get {self.claim}: {self.holder} holds it"


class ObjectBad(Record, frozen=True):
    """An object, or part of one, that cannot be honoured. `where` names file, object and field."""

    level = "warning"
    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class ObjectTwice(Record, frozen=True):
    """Two manifests hold one object; `holder` is the file it is taken from."""

    level = "warning"
    object: str
    path: str
    holder: str

    def __str__(self) -> str:
        return f"{self.path}: {self.object} is in {self.holder} too; taken from {self.holder}"


class ManifestRead(Record, frozen=True):
    level = "debug"
    path: str
    objects: int

    def __str__(self) -> str:
        return f"{self.path}: read {self.objects} objects"


class ManifestBad(Record, frozen=True):
    """A manifest cannot be read; its last good content stays in force. `problem` names the file."""

    level = "error"
    path: str
    problem: str
    kept: int = 0

    def __str__(self) -> str:
        kept = f"; its last good content ({self.kept} objects) stays in force" if self.kept else ""
        return f"{self.problem}{kept}"


class ManifestGone(Record, frozen=True):
    path: str
    objects: int

    def __str__(self) -> str:
        return f"{self.path}: gone, and its {self.objects} objects with it"


class WatchFailed(Record, frozen=True):
    """Changes of manifests are not told by the kernel now; files are looked at by the clock."""

    level = "warning"
    problem: str

    def __str__(self) -> str:
        return f"manifests are polled: {self.problem}"


# --- servers ------------------------------------------------------------------------


class Listening(Record, frozen=True):
    what: str
    address: str

    def __str__(self) -> str:
        return f"{self.what} listens on {self.address}"


class BindFailed(Record, frozen=True):
    level = "error"
    what: str
    address: str
    problem: str
    retry_in: float = 0.0

    def __str__(self) -> str:
        return f"{self.what} cannot listen on {self.address}: {self.problem}{_again(self.retry_in)}"


def _again(seconds: float) -> str:
    return f"; trying again in {seconds:.3g} s" if seconds else ""
