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


class ConfigNoted(Record, frozen=True):
    """Something about the configuration that is no error, and that its writer should know."""

    note: str

    def __str__(self) -> str:
        return f"configuration: {self.note}"


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


class FamilyServed(Record, frozen=True):
    """Whether the relay can be had for IPv6 has changed, or it cannot at the start."""

    served: bool

    def __str__(self) -> str:
        if self.served:
            return "IPv6 is enabled on lo: Services of IPv6 are served from now on"
        return (
            "IPv6 is disabled on lo (net.ipv6.conf.lo.disable_ipv6), or the kernel has none: "
            "only Services of IPv4 are served until it is enabled"
        )


# --- from desired to kernel -------------------------------------------------------


class Synced(Record, frozen=True):
    """The kernel holds what is wanted. `services` counts the Services looked at anew.

    `plan_ms`: from objects to changes; `write_ms`: in the kernel. `cause` says what
    led to it: the start, a change of objects, a drift, or a retry.

    `full`: all Services were looked at. `names`: a few of them, where not all were.
    `settle_ms`, `compile_ms` and `link_ms` are the parts of `plan_ms`; `read_ms`: reading
    what the kernel holds; `took_ms`: all of the sync, waiting included; `lag_ms`: from
    the first unwritten change heard to the kernel's ack.
    """

    changes: int
    services: int = 0
    plan_ms: float = 0.0
    write_ms: float = 0.0
    cause: Literal["start", "change", "drift", "retry"] = "change"
    full: bool = False
    names: tuple[str, ...] = ()
    settle_ms: float = 0.0
    compile_ms: float = 0.0
    link_ms: float = 0.0
    read_ms: float = 0.0
    took_ms: float = 0.0
    lag_ms: float = 0.0

    def __str__(self) -> str:
        stages = (
            ("read", self.read_ms),
            ("settle", self.settle_ms),
            ("compile", self.compile_ms),
            ("link", self.link_ms),
        )
        shown = [f"{stage} {took:.1f} ms" for stage, took in stages if took]
        times = ", ".join([*shown, f"plan {self.plan_ms:.1f} ms", f"write {self.write_ms:.1f} ms"])
        lag = f", {self.lag_ms:.1f} ms after the news" if self.lag_ms else ""
        return f"synced after {self.cause}: {self.changes} changes{self._whose()} ({times}){lag}"

    def _whose(self) -> str:
        if self.full:
            return f" for all {self.services} Services"
        if not self.names:
            return ""
        more = f" and {left} more" if (left := self.services - len(self.names)) > 0 else ""
        return f" for {', '.join(self.names)}{more}"


class Refused(Record, frozen=True):
    """The kernel said no. `change` and `origin` tell which and of whom, where that is known."""

    level = "error"
    problem: str
    errno: int = 0
    change: str = ""
    origin: str = ""
    retry_in: float = 0.0
    took_ms: float = 0.0

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
    took_ms: float = 0.0

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


class LockWaited(Record, frozen=True):
    """Before rules were written, the xtables lock was waited for so long."""

    level = "debug"
    seconds: float

    def __str__(self) -> str:
        return f"waited {self.seconds:.3f} s for the xtables lock"


class LockWaitedLong(Record, frozen=True):
    """The same, for over a second: somebody else keeps the lock, and Services wait for it."""

    level = "warning"
    seconds: float

    def __str__(self) -> str:
        return f"others kept the xtables lock for {self.seconds:.1f} s; Services waited for it"


class FamilyAbsent(Record, frozen=True):
    """The kernel has no tables of this family, so nothing of it is written."""

    level = "warning"
    family: str
    problem: str

    def __str__(self) -> str:
        return f"{self.family}tables cannot be used on this node, and goes without rules: {self.problem}"


class DrainDelayed(Record, frozen=True):
    """It could not be seen who is still connected to endpoints that left, or they could not be taken away."""

    level = "warning"
    problem: str

    def __str__(self) -> str:
        return f"endpoints that left are kept for now: {self.problem}"


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


class ServiceUnspoken(Record, frozen=True):
    """This mode does not speak the service port's protocol: clients are refused, as if nobody served."""

    level = "warning"
    service: str
    mode: str

    def __str__(self) -> str:
        return f"{self.service} is refused to all: {self.mode} mode does not speak its protocol"


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


class ManifestsAwaited(Record, frozen=True):
    """At the start some files could not be read, while the kernel holds rules that may come from them."""

    level = "warning"
    paths: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"nothing is written before {', '.join(self.paths)} can be read: "
            "the rules in the kernel may come from there"
        )


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


# --- the cluster's API and this node --------------------------------------------------


class ApiFound(Record, frozen=True):
    """Where the cluster's API is, who said so, and as whom we come."""

    server: str
    source: str
    identity: str

    def __str__(self) -> str:
        return f"the API server is {self.server} ({self.source}); we come with {self.identity}"


class ApiUnverified(Record, frozen=True):
    level = "warning"
    server: str
    where: str

    def __str__(self) -> str:
        return f"{self.where}: the certificate of {self.server} is not verified; anybody can pose as it"


class CredentialsKept(Record, frozen=True):
    """Credentials could not be read again; `problem` names file and field."""

    level = "warning"
    problem: str

    def __str__(self) -> str:
        return f"{self.problem}; the credentials read before stay in use"


class SysctlSet(Record, frozen=True):
    path: str
    value: int
    was: int | None = None

    def __str__(self) -> str:
        return f"{self.path} set to {self.value}" + ("" if self.was is None else f" (was {self.was})")


class OomScoreKept(Record, frozen=True):
    value: int
    problem: str

    def __str__(self) -> str:
        return f"oom_score_adj stays as it is: {self.value} cannot be set: {self.problem}"


class NodeAwaited(Record, frozen=True):
    lacking: str
    seconds: int

    def __str__(self) -> str:
        return f"{self.lacking}: waiting for up to {self.seconds} s"


class NodeLacking(Record, frozen=True):
    level = "error"
    lacking: str

    def __str__(self) -> str:
        return f"{self.lacking}; going on without for now"


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


class RelayWorkerDied(Record, frozen=True):
    """A process that carries connections ended; those it carried broke. Who comes waits for its successor.

    `pid` is 0 where there was none: it could not be started.
    """

    level = "error"
    pid: int
    problem: str
    retry_in: float = 0.0

    def __str__(self) -> str:
        successor = f"; another one starts in {self.retry_in:.3g} s" if self.retry_in else "; started anew"
        who = f"relay worker {self.pid}" if self.pid else "relay worker"
        return f"{who}: {self.problem}{successor}"


class ListenersInherited(Record, frozen=True):
    """A proxy before hands over what it listens on. Nobody is refused, and its connections go on."""

    listeners: int

    def __str__(self) -> str:
        return f"relay: takes over {self.listeners} listeners from a proxy before"


class HandoverFailed(Record, frozen=True):
    """A proxy before is there, or was, and does not hand over what it listens on."""

    level = "warning"
    problem: str

    def __str__(self) -> str:
        return f"relay: a proxy before does not hand over its listeners, own ones are opened: {self.problem}"


class Succeeded(Record, frozen=True):
    """A successor has the relay's listeners. This process writes nothing any more, and waits to be ended."""

    def __str__(self) -> str:
        return "relay: a successor took over; nothing is written here any more, connections go on"


class Outlasted(Record, frozen=True):
    """So many processes carry connections yet, and would end with this one, which waits for them."""

    workers: int

    def __str__(self) -> str:
        return f"relay: the container ends with the last that carry connections, {self.workers} yet"


# --- metrics and events -------------------------------------------------------------


class Heard(Record, frozen=True):
    """So many changes of Services and of EndpointSlices were folded into the store in one go."""

    level = "debug"
    services: int = 0
    slices: int = 0

    def __str__(self) -> str:
        return f"heard of {self.services} Services and {self.slices} EndpointSlices"


class SyncBegan(Record, frozen=True):
    """All that was heard until now goes into this sync."""

    level = "debug"

    def __str__(self) -> str:
        return "a sync begins"


class InForce(Record, frozen=True):
    """How much the kernel holds.

    `objects`: of ours, in the kernel; `set_aside`: service ports and keys left out
    because the kernel refused them; `claims_lost`: ways in that another service port
    holds. The rest count service ports whose Local policy finds no endpoint on this
    node while there are some elsewhere, by policy and family.
    """

    level = "debug"
    service_ports: int
    objects: int
    set_aside: int = 0
    claims_lost: int = 0
    no_local_internal_v4: int = 0
    no_local_internal_v6: int = 0
    no_local_external_v4: int = 0
    no_local_external_v6: int = 0

    def __str__(self) -> str:
        aside = f", {self.set_aside} set aside" if self.set_aside else ""
        return f"in force: {self.service_ports} service ports in {self.objects} kernel objects{aside}"


class Programmed(Record, frozen=True):
    """A change of endpoints is in the kernel, so long after the cluster noticed what led to it."""

    level = "debug"
    family: Literal["IPv4", "IPv6"]
    seconds: float

    def __str__(self) -> str:
        return f"{self.family} endpoints in force {self.seconds:.3f} s after what led to their change"


class Swept(Record, frozen=True):
    """Connection tracking was looked through for stale flows; so many of each family were forgotten."""

    level = "debug"
    took_ms: float
    v4: int = 0
    v6: int = 0

    def __str__(self) -> str:
        return f"looked for stale flows: {self.v4} of IPv4, {self.v6} of IPv6 ({self.took_ms:.1f} ms)"


class Probed(Record, frozen=True):
    """A health endpoint was asked, and answered so."""

    level = "debug"
    path: str
    status: int

    def __str__(self) -> str:
        return f"{self.path} answered {self.status}"


class ApiRequested(Record, frozen=True):
    """A request to the API server was answered. `code`: the status, `<error>` where none came.

    `seconds`: until the head of the answer.
    """

    level = "debug"
    method: str
    host: str
    code: str
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.method} {self.host}: {self.code} ({self.seconds:.3f} s)"


class EventTold(Record, frozen=True):
    """The cluster was told this event. `count`: how often it has happened."""

    level = "debug"
    reason: str
    regarding: str
    count: int = 1

    def __str__(self) -> str:
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"event {self.reason} told of {self.regarding}{times}"


class EventLost(Record, frozen=True):
    """The cluster could not be told this event. Nothing else suffers from it."""

    level = "warning"
    reason: str
    regarding: str
    problem: str

    def __str__(self) -> str:
        return f"event {self.reason} of {self.regarding} not told: {self.problem}"


class TookOver(Record, frozen=True):
    """What a proxy left that ran before, in another mode or under another name, is away, now that ours is in
    force."""

    what: tuple[str, ...]
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"what a proxy before left could not be taken away: {self.problem}"
        return f"took over from a proxy before; taken away: {', '.join(self.what)}"


class SteeringChosen(Record, frozen=True):
    """What leads packets to the relay, in userspace mode."""

    steering: str
    why: str

    def __str__(self) -> str:
        return f"packets are led to the relay by rules of {self.steering}: {self.why}"


class BridgesAskRules(Record, frozen=True):
    """Where xtables steer, a packet that passes their rules on a bridge loses its way to the relay."""

    level = "warning"
    settings: tuple[str, ...]

    def __str__(self) -> str:
        return (
            "pods on bridges cannot reach Services where rules of xtables lead to the relay, while "
            f"{' and '.join(self.settings)} is on: set it to 0"
        )


class BackendChosen(Record, frozen=True):
    """Which of the kernel's two iptables the mode iptables writes to."""

    backend: str
    why: str

    def __str__(self) -> str:
        return f"iptables rules go to {self.backend}: {self.why}"


# --- list and watch -----------------------------------------------------------------


class ApiListed(Record, frozen=True):
    """All objects of a kind were told anew; `news` of them, or of those gone, were not as we had them."""

    kind: str
    objects: int
    news: int
    seconds: float = 0.0

    def __str__(self) -> str:
        objects = f"{self.objects} objects from the API, {self.news} changes"
        return f"{self.kind}: {objects} ({self.seconds:.2f} s)"


class ApiAbsent(Record, frozen=True):
    """The API does not have this kind, or does not show it to us; we go on without."""

    kind: str
    problem: str

    def __str__(self) -> str:
        return f"{self.kind}: not to be had from the API ({self.problem}); going on without"


class ApiTrouble(Record, frozen=True):
    """The API does not tell of this kind now. What was last heard stays in force."""

    level = "warning"
    kind: str
    problem: str
    retry_in: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}: the API does not tell: {self.problem}{_again(self.retry_in)}"


class ApiBack(Record, frozen=True):
    """The API tells of this kind again, after so many seconds."""

    kind: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind}: the API tells again after {self.seconds:.1f} s"


# --- what others left ---------------------------------------------------------------


def _again(seconds: float) -> str:
    return f"; trying again in {seconds:.3g} s" if seconds else ""
