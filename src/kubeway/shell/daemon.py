"""
Everything that runs, on one page.

    manifests ─┐
               ├─► store ─► syncer ─► kernel
    API ───────┘              │
                              └─► records ─► log, metrics, vitals ─► /healthz, health-check ports

With manifests the first sync comes before everything else: the log, the servers and the
watch begin when it is in the kernel, or after a second if it is not. With a cluster the
servers come first, because a cluster may keep us waiting, and nothing is written before
all kinds of objects have been heard. What ends the daemon (a signal, another
configuration, a defect) ends all of it and leaves the rules in force.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from math import inf
from typing import Final

from msgspec.structs import replace

import kubeway
from kubeway import records
from kubeway.errors import KubewayError, Stale
from kubeway.machines.convergence import Convergence
from kubeway.machines.triggers import Triggers
from kubeway.machines.vitals import Eligibility, Vitals
from kubeway.model import config_gates
from kubeway.model.forward import HealthPort
from kubeway.model.links import Links
from kubeway.model.node import NodeFacts
from kubeway.model.objects import Node
from kubeway.model.store import Store
from kubeway.model.view import node_facts
from kubeway.program.link import Linker
from kubeway.records import Record
from kubeway.shell import clock
from kubeway.shell.addresses import local_addresses
from kubeway.shell.configfile import ConfigFile, until_changed
from kubeway.shell.conntrack import Conntrack
from kubeway.shell.frontdesk import FrontDesk
from kubeway.shell.health import HealthPorts
from kubeway.shell.logs import Log
from kubeway.shell.manifests import Manifests, follow
from kubeway.shell.metrics import Feature, Metrics
from kubeway.shell.oom import set_oom_score_adj
from kubeway.shell.options import Cluster, Config
from kubeway.shell.outfit import able, outfit
from kubeway.shell.readyz import Readiness
from kubeway.shell.syncer import Syncer
from kubeway.shell.sysctls import set_conntrack
from kubeway.shell.timeline import Timeline
from kubeway.values import V6, Ip, show_ip

_PATIENCE: Final = 1.0
_LOOK_AT_ADDRESSES: Final = 5.0
_LOOK_AT_MANIFESTS: Final = 0.1
_LOOK_AT_WORKERS: Final = 0.2
_LOOK_AFTER: Final = 30.0
_MS: Final = 1_000_000
_STAGES: Final = {"alpha": "ALPHA", "beta": "BETA", "ga": ""}
_UNHEALTHY_AFTER: Final = 2  # sync periods, as kube-proxy


async def run(config: Config) -> int:
    """Until SIGTERM or SIGINT: 0; until the configuration file is another one: 1.

    SIGUSR1 has it look at the kernel, and repair what is not as wanted there.

    BadInput or Unsupported if it cannot even begin.
    """
    # Nothing of the first load is garbage; looking for some would take longer than the load.
    gc.disable()
    log = Log(config.logging_format, config.verbosity)
    try:
        return await _Daemon(config, log).run()
    finally:
        log.open()
        gc.enable()


class _Ended(Exception):
    """What the daemon was told to end by, and the exit code that goes with it."""

    def __init__(self, cause: str, code: int) -> None:
        super().__init__(cause)
        self.code = code


class _Daemon:
    def __init__(self, config: Config, log: Log) -> None:
        self._config, self._log = config, log
        self._name = config.options.hostname
        self._store = Store()
        cluster = config.cluster is not None
        self._convergence = Convergence(_streams(cluster), lambda: self._readiness.wake())
        self._triggers = Triggers(clock.wall())
        self._vitals = Vitals(int(_UNHEALTHY_AFTER * config.sync_period * 1e9))
        self._eligibility = Eligibility(must_be_known=cluster)
        self._metrics = Metrics(
            mode=config.options.mode,
            features=[
                Feature(name, _STAGES[gate.stage], config.gate(name))
                for name, gate in config_gates.GATES.items()
            ],
            lag=lambda: self._convergence.lag(clock.monotonic()),
            figures=lambda: self._outfit.figures,
            relay=lambda: self._outfit.relay,
        )
        self._timeline = Timeline(config.trace_file)
        self._synced = asyncio.Event()
        self._written = asyncio.Event()
        self._node_news = asyncio.Event()
        self._facts_told: NodeFacts | None = None
        self._node_seen: records.NodeSeen | None = None
        self._manifests = Manifests(config.manifests, self._store, self._hear)
        version = config.reported_version or kubeway.__version__
        self._hear(records.Started(version, self._name, config.options.mode))
        for note in config.notes:
            self._hear(note)
        self._manifests.load()
        conntrack = self._conntrack()
        set_conntrack(config.conntrack, self._hear)
        if config.oom_score_adj is not None:
            set_oom_score_adj(config.oom_score_adj, self._hear)
        linker = Linker()
        options = able(config.options)
        self._outfit = outfit(
            options, linker, self._hear, config.iptables_backend, config.ipvs_drain, config.relaying
        )
        self._served = True  # IPv6, by the relay if it is that
        self._syncing: asyncio.Task[None] | None = None
        self._succeeded = False
        self._awaited = False  # manifests were followed before the first sync
        self._syncer = Syncer(
            mode=self._outfit.mode,
            plane=self._outfit.plane,
            options=options,
            facts=self._facts(),
            store=self._store,
            record=self._hear,
            conntrack=conntrack,
            gap=config.min_sync_period,
            cap=config.sync_period,
            linker=linker,
            progress=self._convergence,
            triggers=self._triggers,
            repair=config.drift_repair,
        )
        self._readiness = Readiness(self._vitals, self._convergence, self._syncer.verified)
        self._desk = FrontDesk(
            config, self._log, self._metrics, self._vitals, self._eligibility, self._readiness, self._hear
        )

    async def run(self) -> int:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._until_told())
                if self._config.file is not None:
                    group.create_task(self._until_reconfigured(self._config.file))
                if self._config.cluster is not None:
                    await self._hear_cluster(self._config.cluster, group)
                else:
                    await self._read_manifests(group)
                await self._sync_first(group)
                group.create_task(self._take_over())
                group.create_task(self._tend())
                if self._config.cluster is None and not self._awaited:
                    self._follow_manifests(group)
                group.create_task(self._follow_addresses())
                self._listen_to_links()
                group.create_task(self._health_ports())
        except BaseExceptionGroup as errors:
            code = self._ended(errors)
            await self._carried()
            return code
        raise AssertionError("the daemon ran out of things to do")

    def _ended(self, errors: BaseExceptionGroup) -> int:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, _Ended):
            self._hear(records.Stopped(str(first)))
            return first.code
        self._hear(records.Stopped(str(first) or type(first).__name__))
        if isinstance(first, KubewayError):
            raise first
        raise errors

    async def _carried(self) -> None:
        """A container ends with its first process. If that is this one, and a successor is at work, there is
        nothing to be hurried for: connections may end by themselves, for as long as the kubelet lets them."""
        relay = self._outfit.relay
        if relay is None or not self._succeeded or os.getpid() != 1:
            return
        if relay.processes:
            self._hear(records.Outlasted(len(relay.processes)))
        while relay.processes:  # noqa: ASYNC110 (it has nothing else to do, and nobody waits for it)
            await asyncio.sleep(_LOOK_AT_WORKERS)

    # --- what happens -------------------------------------------------------------------

    def _hear(self, record: Record) -> None:
        """Every record comes by here."""
        for reader in (self._log, self._metrics, self._timeline):
            reader.record(record)
        if isinstance(record, records.Synced):
            now = clock.wall()
            self._vitals.synced(now, now - int((record.plan_ms + record.write_ms) * _MS))
            self._synced.set()
            self._tell_node()
        if isinstance(record, records.Synced | records.Repaired):
            self._written.set()
            self._readiness.wake()
        if isinstance(record, records.Succeeded):
            self._stand_down()

    def _changed(self) -> None:
        """The store changed."""
        self._eligibility.heard(self._node())
        if self._succeeded:
            return
        self._vitals.noted(clock.wall())
        self._convergence.changed(clock.monotonic())
        self._syncer.note()

    def _stand_down(self) -> None:
        """A successor is at work: two who write would undo each other's rules.

        To wait for one's end is to be well. To be found unwell would be to be started again, as a successor
        of the successor.
        """
        self._succeeded = True
        if self._syncing is not None:
            self._syncing.cancel()
        now = clock.wall()
        self._vitals.synced(now, now)

    def _tell_node(self) -> None:
        """Record what is known of the node, if that is news."""
        facts = self._syncer.facts
        if facts is self._facts_told:
            return
        self._facts_told = facts
        known = self._node() is not None
        seen = records.NodeSeen(self._name, known, tuple(map(show_ip, facts.ips)), facts.zone)
        if seen != self._node_seen:
            self._node_seen = seen
            self._node_news.set()
            self._hear(seen)

    # --- what runs ------------------------------------------------------------------------

    async def _until_told(self) -> None:
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def tell(name: str) -> None:
            if not told.done():
                told.set_result(name)

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, tell, number.name)
        loop.add_signal_handler(signal.SIGUSR1, self._syncer.look)
        raise _Ended(await told, 0)

    async def _until_reconfigured(self, file: ConfigFile) -> None:
        # Whoever started us starts us again, and then with the new configuration.
        raise _Ended(await until_changed(file), 1)

    async def _hear_cluster(self, cluster: Cluster, group: asyncio.TaskGroup) -> None:
        """Until all that the rules are made of is known."""
        from kubeway.shell.apiserver import ApiSource
        from kubeway.shell.credentials import access
        from kubeway.shell.events import Events
        from kubeway.shell.nodewait import wait_for_node

        self._log.open()
        reached = await access(cluster.kubeconfig, cluster.master, self._hear)
        events = Events(reached, self._name, self._hear)
        group.create_task(events.run())
        self._desk.open(group, events)
        source = ApiSource(
            reached,
            self._store,
            self._changed,
            self._hear,
            node=self._name,
            progress=self._convergence,
            triggers=self._triggers,
        )
        group.create_task(source.run())
        await source.synced.wait()
        await wait_for_node(self._config.options, self._node, self._hear)
        events.emit("Starting", "", type="Normal")

    async def _read_manifests(self, group: asyncio.TaskGroup) -> None:
        """Until no rule in the kernel can go because a file cannot be read.

        On a node without rules there is nothing to lose: what can be read is put in force.
        """
        if not self._manifests.unread or not await self._outfit.plane.read():
            return
        self._awaited = True
        self._log.open()
        self._hear(records.ManifestsAwaited(tuple(self._manifests.unread)))
        self._follow_manifests(group)
        while self._manifests.unread:  # noqa: ASYNC110 (what cures it may change nothing in the store)
            await asyncio.sleep(_LOOK_AT_MANIFESTS)

    def _follow_manifests(self, group: asyncio.TaskGroup) -> None:
        self._desk.open(group)
        group.create_task(follow(self._manifests, self._changed, self._hear))

    async def _sync_first(self, group: asyncio.TaskGroup) -> None:
        """The kernel's before all else; then let go of what waited for it."""
        if self._config.cluster is None:
            self._tell_node()  # in a cluster the syncer has yet to hear of it
        self._eligibility.heard(self._node())
        now = clock.wall()
        self._vitals.begun(now)
        self._vitals.noted(now)
        self._syncing = group.create_task(self._syncer.run())
        await _within(_PATIENCE, self._syncer.ready)
        self._log.open()
        # What is alive now mostly stays so: the collector need not look at it again.
        gc.freeze()
        gc.enable()

    async def _take_over(self) -> None:
        """Once our rules are in force, those of a proxy that ran before are in their way.

        Of a kube-proxy, that is, in a cluster only: on a machine of its own it may be at work beside us.
        """
        from kubeway.shell.leftovers import remove

        await self._syncer.ready.wait()
        everybodys = self._config.cluster is not None
        try:
            await self._outfit.plane.stand()
            removed = await asyncio.to_thread(remove, self._outfit.holders, everybodys=everybodys)
        except KubewayError as error:
            self._hear(records.TookOver((), str(error)))
        else:
            if removed:
                self._hear(records.TookOver(tuple(removed)))

    async def _tend(self) -> None:
        """What takes its time in the planes: connections that end, say."""
        while True:
            now = clock.monotonic()
            again = self._outfit.plane.tend(now)
            # What is going on was begun by a sync mostly, so the next one is reason to look.
            await _within(min(again - now, _LOOK_AFTER), self._written)
            self._written.clear()

    async def _follow_addresses(self) -> None:
        while True:
            self._node_news.clear()
            await _within(_LOOK_AT_ADDRESSES, self._node_news)
            try:
                now = local_addresses()
                links = self._links(now)
            except Stale:
                continue  # in the middle of a change; the next look sees its end
            facts = self._syncer.facts
            was = facts.addresses
            if now != was:
                added, removed = (tuple(sorted(map(show_ip, ips))) for ips in (now - was, was - now))
                self._hear(records.AddressesChanged(added, removed))
            if now != was or links != facts.links:
                if not self._succeeded:
                    self._vitals.noted(clock.wall())
                self._syncer.set_facts(replace(facts, addresses=now, links=links))

    def _links(self, addresses: frozenset[Ip]) -> Links:
        """What they are to the relay now, where there is one. Stale, Refused, Lost."""
        if self._outfit.surroundings is None:
            return Links()
        links = self._outfit.surroundings.look(addresses)
        served = V6 in links.families
        if served != self._served:
            self._served = served
            self._hear(records.FamilyServed(served))
        return links

    def _listen_to_links(self) -> None:
        """Who waits for news of the node need not wait to look again where links tell."""
        surroundings = self._outfit.surroundings
        if surroundings is None:
            return

        def hear() -> None:
            if surroundings.heard():
                self._node_news.set()

        asyncio.get_running_loop().add_reader(surroundings, hear)

    async def _health_ports(self) -> None:
        ports = HealthPorts(
            lambda: self._vitals.healthy(clock.wall()), self._hear, failed=self._health_port_failed
        )
        try:
            while True:
                await _within(ports.patience, self._synced)
                self._synced.clear()
                if (view := self._syncer.view) is not None:
                    await ports.reconcile(self._syncer.health, view)
        finally:
            await ports.close()

    def _health_port_failed(self, port: HealthPort, problem: str) -> None:
        self._desk.tell(
            "FailedToStartServiceHealthcheck",
            f"node {self._name} failed to start healthcheck {str(port.service)!r} "
            f"on port {port.port}: {problem}",
            port.service,
        )

    # --- what it is made of -----------------------------------------------------------------

    def _node(self) -> Node | None:
        return self._store.snapshot().nodes.get(self._name)

    def _facts(self) -> NodeFacts:
        addresses = local_addresses()
        own = self._config.options.node_ip
        return node_facts(self._node(), self._name, addresses, own, self._links(addresses))

    def _conntrack(self) -> Conntrack | None:
        try:
            return Conntrack()
        except KubewayError as error:
            self._hear(records.ForgetFailed(str(error)))
            return None


def _streams(cluster: bool) -> tuple[str, ...]:
    """What is followed in a cluster; manifests have no resource versions to follow by."""
    if not cluster:
        return ()
    from kubeway.shell.apiserver import KINDS

    return KINDS


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for the event, but not longer; `inf` is as long as it takes."""
    try:
        async with asyncio.timeout(seconds if seconds < inf else None):
            await event.wait()
    except TimeoutError:
        pass
