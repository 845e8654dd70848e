"""
Everything that runs, on one page.

    manifests ─► store ─► syncer ─► kernel
                            │
                            └─► records ─► log, vitals ─► /healthz, health-check ports

The first sync comes before everything else: the log, the servers and the watch on
the manifests begin when it is in the kernel, or after a second if it is not. What
ends the daemon (a signal, a defect) ends all of it and leaves the rules in force.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from typing import Final

from msgspec.structs import replace

import kubeway
from kubeway import records
from kubeway.errors import KubewayError, Stale
from kubeway.machines.vitals import Vitals
from kubeway.model.node import NodeFacts
from kubeway.model.store import Store
from kubeway.model.view import node_facts
from kubeway.modes.nftables import NFTABLES
from kubeway.program.link import Linker
from kubeway.records import Record
from kubeway.shell import clock
from kubeway.shell.addresses import local_addresses
from kubeway.shell.conntrack import Conntrack
from kubeway.shell.health import HealthPorts
from kubeway.shell.http import serve_healthz
from kubeway.shell.logs import Log
from kubeway.shell.manifests import Manifests, follow
from kubeway.shell.nft import NftPlane
from kubeway.shell.options import Config
from kubeway.shell.syncer import Syncer
from kubeway.values import show_ip

_PATIENCE: Final = 1.0
_LONG_PATIENCE: Final = 60.0
_LOOK_AT_ADDRESSES: Final = 5.0
_DOOMED: Final = "ToBeDeletedByClusterAutoscaler"
_MS: Final = 1_000_000


async def run(config: Config) -> int:
    """Until SIGTERM or SIGINT: 0. BadInput or Unsupported if it cannot even begin."""
    # Nothing of the first load is garbage; looking for some would take longer than the load.
    gc.disable()
    log = Log(config.logging_format, config.verbosity)
    try:
        return await _Daemon(config, log).run()
    finally:
        log.open()
        gc.enable()


class _Told(Exception):
    """A signal came: its name."""


class _Daemon:
    def __init__(self, config: Config, log: Log) -> None:
        self._config, self._log = config, log
        self._name = config.options.hostname
        self._store = Store()
        self._vitals = Vitals()
        self._synced = asyncio.Event()
        self._node_news = asyncio.Event()
        self._facts_told: NodeFacts | None = None
        self._node_seen: records.NodeSeen | None = None
        self._manifests = Manifests(config.manifests, self._store, self._hear)
        self._hear(records.Started(kubeway.__version__, self._name, config.options.mode))
        self._manifests.load()
        linker = Linker()
        self._syncer = Syncer(
            mode=NFTABLES,
            plane=NftPlane(linker.origin, linker.objects),
            options=config.options,
            facts=self._facts(),
            store=self._store,
            record=self._hear,
            conntrack=self._conntrack(),
            gap=config.min_sync_period,
            linker=linker,
        )

    async def run(self) -> int:
        self._tell_node()
        self._vitals.begun(clock.wall())
        self._vitals.noted(clock.wall())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._until_told())
                group.create_task(self._syncer.run())
                # The kernel's before all else; then what waited for it.
                await _within(_PATIENCE, self._syncer.ready)
                self._log.open()
                group.create_task(self._collect_garbage())
                group.create_task(follow(self._manifests, self._changed, self._hear))
                group.create_task(self._follow_addresses())
                group.create_task(self._answer())
                group.create_task(self._health_ports())
        except BaseExceptionGroup as errors:
            return self._ended(errors)
        raise AssertionError("the daemon ran out of things to do")

    def _ended(self, errors: BaseExceptionGroup) -> int:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, _Told):
            self._hear(records.Stopped(str(first)))
            return 0
        self._hear(records.Stopped(str(first) or type(first).__name__))
        if isinstance(first, KubewayError):
            raise first
        raise errors

    # --- what happens -------------------------------------------------------------------

    def _hear(self, record: Record) -> None:
        """Every record comes by here."""
        self._log.record(record)
        if isinstance(record, records.Synced):
            now = clock.wall()
            self._vitals.synced(now, now - int((record.plan_ms + record.write_ms) * _MS))
            self._synced.set()
            self._tell_node()

    def _changed(self) -> None:
        """The store changed."""
        self._vitals.noted(clock.wall())
        self._syncer.note()

    def _tell_node(self) -> None:
        """Record what is known of the node, if that is news."""
        facts = self._syncer.facts
        if facts is self._facts_told:
            return
        self._facts_told = facts
        known = self._name in self._store.snapshot().nodes
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
        raise _Told(await told)

    async def _collect_garbage(self) -> None:
        await _within(_LONG_PATIENCE, self._syncer.ready)
        # What is alive now mostly stays so: the collector need not look at it again.
        gc.freeze()
        gc.enable()

    async def _follow_addresses(self) -> None:
        while True:
            self._node_news.clear()
            await _within(_LOOK_AT_ADDRESSES, self._node_news)
            try:
                now = local_addresses()
            except Stale:
                continue  # in the middle of a change; the next look sees its end
            was = self._syncer.facts.addresses
            if now != was:
                added, removed = (tuple(sorted(map(show_ip, ips))) for ips in (now - was, was - now))
                self._hear(records.AddressesChanged(added, removed))
                self._vitals.noted(clock.wall())
                self._syncer.set_facts(replace(self._syncer.facts, addresses=now))

    async def _answer(self) -> None:
        await serve_healthz(self._config.healthz, self._vitals, self._eligible, self._hear)

    async def _health_ports(self) -> None:
        ports = HealthPorts(lambda: self._vitals.healthy(clock.wall()), self._hear)
        try:
            while True:
                await self._synced.wait()
                self._synced.clear()
                if (view := self._syncer.view) is not None:
                    await ports.reconcile(self._syncer.health, view)
        finally:
            await ports.close()

    # --- what it is made of -----------------------------------------------------------------

    def _facts(self) -> NodeFacts:
        node = self._store.snapshot().nodes.get(self._name)
        return node_facts(node, self._name, local_addresses())

    def _conntrack(self) -> Conntrack | None:
        try:
            return Conntrack()
        except KubewayError as error:
            self._log.record(records.ForgetFailed(str(error)))
            return None

    def _eligible(self) -> bool:
        """Whether load balancers may send here: no autoscaler is about to take the node away.

        A node without a Node object is one nobody is known to take away.
        """
        node = self._store.snapshot().nodes.get(self._name)
        return node is None or not (node.deleting or _DOOMED in node.taints)


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for the event, but not longer."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
