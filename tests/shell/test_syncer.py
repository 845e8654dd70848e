from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from kubeway import records
from kubeway.errors import BadObject, Lost, Refused, Unsupported
from kubeway.model.forward import Forward, ServiceName
from kubeway.model.node import NodeView
from kubeway.model.objects import KubeObject, Service
from kubeway.model.settle import Settler
from kubeway.model.store import Store
from kubeway.modes.nftables import NFTABLES
from kubeway.planes.memory import MemoryPlane
from kubeway.planes.nft import laws
from kubeway.planes.nft.objects import PLANE
from kubeway.program.effects import Judge
from kubeway.program.link import Linker
from kubeway.program.program import Change, Fragment, Key, Object
from kubeway.shell.syncer import Syncer
from kubeway.values import UDP, parse_ip
from tests.worlds import node_doc, objects, service, world

PATIENCE = 20.0
CART = "shop/cart:http"
ALL = [*service(CART, endpoints=3), *service("shop/web:", vip="10.96.0.10", node_port=30080, endpoints=2)]


class Daemon:
    """A syncer over a plane in memory, and what it recorded."""

    def __init__(
        self, found: Iterable[KubeObject] = ALL, plane: MemoryPlane | None = None, **more: Any
    ) -> None:
        self.store = Store()
        self.put(*found)
        self.plane = plane or MemoryPlane(laws)
        self.records: list[records.Record] = []
        self.world = world([])
        arguments: dict[str, Any] = {
            "mode": NFTABLES,
            "plane": self.plane,
            "options": self.world.options,
            "facts": self.world.facts,
            "store": self.store,
            "record": self.records.append,
            "gap": 0.0,
            "retry": 0.002,
            "rng": Random(1),
        }
        self.syncer = Syncer(**arguments | more)

    def put(self, *found: KubeObject) -> None:
        for one in found:
            self.store.put(one)

    def change(self, *found: KubeObject) -> None:
        self.put(*found)
        self.syncer.note()

    def drop(self, name: str) -> None:
        namespace, _, short = name.partition("/")
        for one in ALL:
            if isinstance(one, Service) and one.name == ServiceName(namespace, short):
                self.store.drop(one)
        self.syncer.note()

    def told(self, kind: type[Any]) -> list[Any]:
        return [record for record in self.records if type(record) is kind]

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not true():  # noqa: ASYNC110 (what is waited for has no event)
                await asyncio.sleep(0.001)

    async def in_kernel(self) -> None:
        """What the store holds is in the plane."""
        await self.until(lambda: self.plane.objects == wanted(self.store))


def wanted(store: Store, mode: Any = NFTABLES, without: str = "") -> dict[Key, Object]:
    """What the plane has to hold, compiled at once; without a service port of this name."""
    small = world([])
    snapshot = store.snapshot()
    settler = Settler(small.facts, small.options)
    settler.update(snapshot, snapshot.names())
    fragments: dict[Any, Fragment | None] = {(): mode.base(small.view)}
    for key, forward in settler.forwards.items():
        if str(key[0]) != without:
            fragments[key] = mode.fragment(forward, small.view)
    linker = Linker()
    linker.update(fragments)
    return dict(linker.objects)


def running(daemon: Daemon, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """The story while the daemon runs; then it is ended."""

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(daemon.syncer.run())
            await story()
            task.cancel()

    asyncio.run(both())


async def ready(daemon: Daemon) -> None:
    async with asyncio.timeout(PATIENCE):
        await daemon.syncer.ready.wait()


# --- the ordinary life ------------------------------------------------------------------


def test_the_first_sync_writes_all_in_one_go() -> None:
    daemon = Daemon()

    async def story() -> None:
        await ready(daemon)
        assert daemon.plane.objects == wanted(daemon.store)

    running(daemon, story)
    assert len(daemon.plane.writes) == 1
    (synced,) = daemon.told(records.Synced)
    assert synced.cause == "start"
    assert synced.changes == len(daemon.plane.objects)
    assert daemon.syncer.in_force == daemon.syncer.forwards != {}


def test_a_change_writes_only_what_it_changes() -> None:
    daemon = Daemon()

    async def story() -> None:
        await ready(daemon)
        daemon.change(*service(CART, endpoints=["10.244.1.1", "10.244.1.2", "10.244.1.9"]))
        await daemon.in_kernel()
        await daemon.until(lambda: len(daemon.told(records.Synced)) == 2)

    running(daemon, story)
    first, second = daemon.told(records.Synced)
    assert second.cause == "change"
    assert second.services == 1
    assert 1 <= second.changes <= 4 < first.changes
    assert daemon.plane.reads == 1
    assert daemon.syncer.in_force == daemon.syncer.forwards


def test_what_goes_is_taken_away() -> None:
    daemon = Daemon()

    async def story() -> None:
        await ready(daemon)
        daemon.drop("shop/cart")
        await daemon.in_kernel()
        daemon.drop("shop/web")
        await daemon.in_kernel()
        await daemon.until(lambda: not daemon.syncer.in_force)

    running(daemon, story)


def test_a_restart_adopts_what_is_there() -> None:
    before = Daemon()
    running(before, lambda: ready(before))
    after = Daemon(plane=before.plane)
    running(after, lambda: ready(after))
    assert len(before.plane.writes) == 1
    assert after.told(records.Synced)[0].changes == 0


def test_with_nothing_in_the_store_the_base_is_written() -> None:
    daemon = Daemon(found=[])
    running(daemon, lambda: ready(daemon))
    assert daemon.plane.objects == wanted(daemon.store) != {}


def test_more_than_a_few_services_are_compiled_beside_the_loop() -> None:
    found = [
        one
        for n in range(600)
        for one in service(f"shop/s{n}:", vip=f"10.96.{n // 200 + 1}.{n % 200 + 1}", endpoints=1)
    ]
    daemon = Daemon(found)

    async def story() -> None:
        await ready(daemon)
        assert daemon.plane.objects == wanted(daemon.store)

    running(daemon, story)
    assert daemon.told(records.Synced)[0].services == 600


# --- the node ---------------------------------------------------------------------------


def test_what_is_known_of_the_node_follows_its_object() -> None:
    daemon = Daemon(facts=replace(world([]).facts, ips=(), zone="", pod_cidrs=()))

    async def story() -> None:
        await ready(daemon)
        assert daemon.syncer.facts.zone == ""
        daemon.change(*objects([node_doc()]))
        await daemon.until(lambda: daemon.syncer.facts == daemon.world.facts)
        await daemon.in_kernel()

    running(daemon, story)


def test_new_addresses_are_taken_in_and_the_rest_of_the_node_kept() -> None:
    daemon = Daemon([*ALL, *objects([node_doc()])])
    more = daemon.world.facts.addresses | {parse_ip("192.0.2.77")}

    async def story() -> None:
        await ready(daemon)
        daemon.syncer.set_facts(replace(daemon.world.facts, addresses=more, zone="forgotten"))
        await daemon.until(lambda: daemon.syncer.facts == replace(daemon.world.facts, addresses=more))

    running(daemon, story)


def test_a_node_that_is_as_it_was_has_nothing_settled_anew() -> None:
    daemon = Daemon([*ALL, *objects([node_doc()])])

    async def story() -> None:
        await ready(daemon)
        settler = daemon.syncer.settler
        daemon.syncer.set_facts(daemon.syncer.facts)
        await daemon.until(lambda: len(daemon.told(records.Synced)) == 2)
        assert daemon.syncer.settler is settler

    running(daemon, story)
    assert len(daemon.plane.writes) == 1


def test_a_new_address_is_taken_in_without_going_over_all_services() -> None:
    """Each Pod that comes brings its host side an address."""
    daemon = Daemon([*ALL, *objects([node_doc()])])

    async def story() -> None:
        await ready(daemon)
        settler = daemon.syncer.settler
        more = daemon.world.facts.addresses | {parse_ip("fe80::77")}
        daemon.syncer.set_facts(replace(daemon.world.facts, addresses=more))
        await daemon.until(lambda: len(daemon.told(records.Synced)) == 2)
        assert daemon.syncer.settler is settler
        assert daemon.syncer.view is not None
        assert parse_ip("fe80::77") in daemon.syncer.view.v6.addresses

    running(daemon, story)
    assert not daemon.told(records.Synced)[1].full
    assert len(daemon.plane.writes) == 1


def test_news_that_came_to_nothing_is_told_as_a_sync_too() -> None:
    """Who counts the time since unheard news would otherwise call a level proxy unhealthy."""
    daemon = Daemon()

    async def story() -> None:
        await ready(daemon)
        daemon.syncer.note()
        await daemon.until(lambda: len(daemon.told(records.Synced)) == 2)

    running(daemon, story)
    assert daemon.told(records.Synced)[1].changes == 0


# --- failures ---------------------------------------------------------------------------


def test_with_a_plane_that_fails_every_third_time_all_changes_arrive() -> None:
    daemon = Daemon(plane=MemoryPlane(laws, rng=Random(7), share=0.33))

    async def story() -> None:
        for n in range(40):
            count = n % 4
            daemon.change(*service(CART, endpoints=count))
            if n % 3:
                await daemon.in_kernel()
        await daemon.in_kernel()

    running(daemon, story)
    assert daemon.told(records.SyncFailed)


def test_a_failure_is_told_with_the_back_off_and_what_follows_is_a_retry() -> None:
    daemon = Daemon()

    async def story() -> None:
        await ready(daemon)
        daemon.plane.troubles += ["lost before", "lost before"]
        daemon.change(*service(CART, endpoints=1))
        await daemon.in_kernel()
        await daemon.until(lambda: len(daemon.told(records.Synced)) == 2)

    running(daemon, story)
    (failed,) = daemon.told(records.SyncFailed)
    assert failed.retry_in > 0
    assert "the answer was lost" in failed.problem
    assert daemon.told(records.Synced)[1].cause == "retry"


class Faulty:
    """A mode with a defect: it cannot compile the service ports of one name."""

    planes = NFTABLES.planes
    large = None

    def __init__(self, bad: str, error: Exception) -> None:
        self.bad, self.error = bad, error

    def base(self, view: NodeView) -> Fragment:
        return NFTABLES.base(view)

    def fragment(self, forward: Forward, view: NodeView) -> Fragment:
        if str(forward.name) == self.bad:
            raise self.error
        return NFTABLES.fragment(forward, view)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (BadObject("shop/cart", "cannot be"), "shop/cart: cannot be"),
        (IndexError("oops"), "IndexError: oops"),
    ],
)
def test_a_service_that_cannot_be_compiled_is_left_out(error: Exception, words: str) -> None:
    mode = Faulty("", error)
    daemon = Daemon(mode=mode)

    async def story() -> None:
        await ready(daemon)
        mode.bad = CART
        daemon.change(*service(CART, endpoints=1))
        await daemon.until(lambda: daemon.plane.objects == wanted(daemon.store, without=CART))
        mode.bad = ""
        daemon.change(*service(CART, endpoints=2))
        await daemon.in_kernel()

    running(daemon, story)
    assert daemon.told(records.ServiceLeftOut) == [records.ServiceLeftOut(f"{CART} (TCP)", words)]


class FaultySettler(Settler):
    """Cannot settle the Service called `bad`, and forgets half of what it knew when it tries."""

    bad = ServiceName("shop", "cart")

    def update(self, snapshot: Any, names: Iterable[ServiceName]) -> Any:
        names = list(names)
        if self.bad in names and self.bad in snapshot.services:
            self._forwards.clear()
            raise ZeroDivisionError("division by zero")
        return super().update(snapshot, names)


def test_a_service_that_cannot_be_settled_is_left_out() -> None:
    daemon = Daemon(settler_of=FaultySettler)

    async def story() -> None:
        await ready(daemon)
        assert daemon.plane.objects == wanted(daemon.store, without=CART)
        daemon.change(*service("shop/web:", vip="10.96.0.10", node_port=30080, endpoints=1))
        await daemon.until(lambda: daemon.plane.objects == wanted(daemon.store, without=CART))
        daemon.drop("shop/cart")
        await daemon.in_kernel()

    running(daemon, story)
    (left,) = daemon.told(records.ServiceLeftOut)
    assert (left.service, left.problem) == ("shop/cart", "ZeroDivisionError: division by zero")


def test_a_service_that_can_no_longer_be_settled_goes() -> None:
    class Later(FaultySettler):
        bad = ServiceName("", "")

    daemon = Daemon(settler_of=Later)

    async def story() -> None:
        await ready(daemon)
        Later.bad = ServiceName("shop", "cart")
        daemon.change(*service(CART, endpoints=1))
        await daemon.until(lambda: daemon.plane.objects == wanted(daemon.store, without=CART))

    running(daemon, story)
    assert daemon.told(records.ServiceLeftOut)


def test_a_defect_of_the_plane_leads_to_a_new_look_at_it() -> None:
    class Defective(MemoryPlane):
        async def write(self, changes: Sequence[Change]) -> None:
            await super().write(changes)
            if len(self.writes) == 2:
                raise RuntimeError("after the fact")

    def cart(last: str) -> list[KubeObject]:
        return service(CART, endpoints=["10.244.2.1", last], node="elsewhere")

    daemon = Daemon(cart("10.244.2.2"), plane=Defective(laws))

    async def story() -> None:
        await ready(daemon)
        # One element is set, so that writing it again would go unnoticed.
        daemon.change(*cart("10.244.2.3"))
        await daemon.until(lambda: len(daemon.told(records.Synced)) == 2)
        assert daemon.plane.objects == wanted(daemon.store)

    running(daemon, story)
    assert (len(daemon.plane.writes), daemon.plane.reads) == (2, 2)


def test_a_defect_anywhere_else_is_told_and_tried_again() -> None:
    class Broken(Faulty):
        times = 2

        def base(self, view: NodeView) -> Fragment:
            if self.times:
                self.times -= 1
                raise RuntimeError("no base today")
            return super().base(view)

    daemon = Daemon(mode=Broken("", ValueError()))

    async def story() -> None:
        await ready(daemon)
        assert daemon.plane.objects == wanted(daemon.store)

    running(daemon, story)
    assert [r.problem for r in daemon.told(records.SyncFailed)] == ["RuntimeError: no base today"] * 2


# --- setting aside ----------------------------------------------------------------------


class Picky(MemoryPlane):
    """Will not have what `hates` says."""

    hates: Callable[[Change], bool] = staticmethod(lambda change: False)

    async def write(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if self.hates(change):
                raise Refused("not here", errno.EPERM, "the change", "its origin", change.key)
        await super().write(changes)


def of_cart(change: Change) -> bool:
    """An element that only shop/cart brings: its cluster IP is 10.96.0.9."""
    return change.key.kind == "element" and parse_ip("10.96.0.9") in change.key.name[2]  # type: ignore[operator]


def test_a_service_that_is_refused_is_set_aside_and_comes_back_when_its_time_is_over() -> None:
    plane = Picky(laws)
    plane.hates = of_cart
    daemon = Daemon(plane=plane)

    async def story() -> None:
        await ready(daemon)
        assert plane.objects == wanted(daemon.store, without=CART)
        # The others go on as if nothing was.
        daemon.change(*service("shop/web:", vip="10.96.0.10", node_port=30080, endpoints=1))
        await daemon.until(lambda: plane.objects == wanted(daemon.store, without=CART))
        plane.hates = lambda change: False
        await daemon.in_kernel()

    running(daemon, story)
    first, *more = daemon.told(records.SetAside)
    assert CART in first.origin
    assert "not here" in first.problem
    # What it was held against it for doubles with each refusal.
    assert [one.retry_in for one in more] == [first.retry_in * 2 ** (n + 1) for n in range(len(more))]
    assert daemon.syncer.in_force == daemon.syncer.forwards


def test_a_refusal_that_passes_is_not_held_against_a_service_later() -> None:
    plane = Picky(laws)
    daemon = Daemon(plane=plane)
    refused: list[Change] = []

    def once(change: Change) -> bool:
        if not of_cart(change) or refused:
            return False
        refused.append(change)
        return True

    async def story() -> None:
        await ready(daemon)
        for n in (1, 2):
            # The service stays as it is; somebody takes its elements away, and they are put back.
            refused.clear()
            plane.hates = once
            plane.edit([Change("del", key, None, None) for key in plane.objects if key.kind == "table"])
            await daemon.until(lambda n=n: len(daemon.told(records.Drifted)) == n)
            await daemon.in_kernel()
            await daemon.until(lambda: daemon.syncer._leveller.keeper.level)

    running(daemon, story)
    assert refused
    assert not daemon.told(records.SetAside)


def test_a_service_that_changes_and_is_still_refused_holds_nobody_up() -> None:
    plane = Picky(laws)
    plane.hates = of_cart
    daemon = Daemon(plane=plane, retry=100.0)

    async def story() -> None:
        await ready(daemon)
        daemon.change(
            *service(CART, endpoints=1), *service("shop/web:", vip="10.96.0.10", node_port=30080, endpoints=1)
        )
        await daemon.until(lambda: plane.objects == wanted(daemon.store, without=CART))

    running(daemon, story)
    assert len(daemon.told(records.SetAside)) == 2


def test_a_service_that_changes_is_let_in_at_once() -> None:
    plane = Picky(laws)
    plane.hates = of_cart
    daemon = Daemon(plane=plane, retry=100.0)

    async def story() -> None:
        await ready(daemon)
        assert daemon.told(records.SetAside)
        plane.hates = lambda change: False
        daemon.change(*service(CART, endpoints=1))
        await daemon.in_kernel()

    running(daemon, story)


def test_many_that_are_refused_are_all_set_aside() -> None:
    found = [one for n in range(1, 30) for one in service(f"shop/s{n}:", vip=f"10.96.0.{n}")]
    plane = Picky(laws)
    plane.hates = lambda change: change.key.kind == "element" and "services" in change.key.name[1:2]
    daemon = Daemon(found, plane=plane, retry=100.0)

    async def story() -> None:
        await ready(daemon)
        assert plane.objects == wanted(Store())

    running(daemon, story)
    assert len(daemon.told(records.SetAside)) == 29
    assert not daemon.told(records.Refused)
    assert daemon.syncer.in_force == {}


def test_what_cannot_be_deleted_stays_and_hinders_nobody() -> None:
    alien = Key(PLANE, "set", ("ip", "alien"))
    plane = Picky(laws, {**wanted(Store()), alien: NFTABLES.base(world([]).view).objects[_a_set()]})
    plane.hates = lambda change: change.key == alien
    daemon = Daemon(plane=plane)

    async def story() -> None:
        await ready(daemon)
        assert plane.objects == {**wanted(daemon.store), alien: plane.objects[alien]}
        plane.hates = lambda change: False
        await daemon.in_kernel()

    running(daemon, story)
    assert "alien" in daemon.told(records.SetAside)[0].origin


def _a_set() -> Key:
    return next(key for key in NFTABLES.base(world([]).view).objects if key.kind == "set")


def test_the_base_is_never_set_aside() -> None:
    plane = Picky(laws)
    plane.hates = lambda change: change.key.kind == "table"
    daemon = Daemon(plane=plane)

    async def story() -> None:
        await daemon.until(lambda: len(daemon.told(records.Refused)) > 3)
        assert not daemon.syncer.ready.is_set()
        plane.hates = lambda change: False
        await ready(daemon)

    running(daemon, story)
    assert not daemon.told(records.SetAside)
    refused = daemon.told(records.Refused)[0]
    assert (refused.errno, refused.change, refused.origin) == (errno.EPERM, "the change", "its origin")


# --- others who write -------------------------------------------------------------------


def test_what_others_change_is_found_and_repaired() -> None:
    daemon = Daemon()

    async def story() -> None:
        await ready(daemon)
        daemon.plane.edit(
            [Change("del", key, None, None) for key in daemon.plane.objects if key.kind == "table"]
        )
        await daemon.in_kernel()
        await daemon.until(lambda: daemon.told(records.Repaired))

    running(daemon, story)
    assert daemon.told(records.Drifted)[0].missing == len(daemon.plane.objects)
    assert len(daemon.told(records.Synced)) == 1


def test_a_poll_that_fails_leads_to_a_look() -> None:
    class Deaf(MemoryPlane):
        deaf = False

        def generation(self) -> int:
            if self.deaf:
                raise Lost("no answer")
            return super().generation()

    plane = Deaf(laws)
    daemon = Daemon(plane=plane)

    async def story() -> None:
        await ready(daemon)
        plane.deaf = True
        await daemon.until(lambda: daemon.told(records.SyncFailed))
        plane.deaf = False
        daemon.change(*service(CART, endpoints=1))
        await daemon.in_kernel()

    running(daemon, story)


# --- stale flows ------------------------------------------------------------------------


class Flows:
    """Stands for connection tracking; remembers what it was asked to forget."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.judges: list[Judge] = []

    def forget(self, judge: Judge) -> int:
        self.judges.append(judge)
        if self.errors:
            raise self.errors.pop(0)
        return 3


DNS = "kube-system/dns:"


def dns(*endpoints: str) -> list[KubeObject]:
    return service(DNS, vip="10.96.0.53", port=53, proto="UDP", endpoints=endpoints)


def test_the_first_sync_looks_at_every_way_in() -> None:
    flows = Flows()
    daemon = Daemon([*ALL, *dns("10.244.1.1")], conntrack=flows)

    async def story() -> None:
        await daemon.until(lambda: daemon.told(records.Forgot))

    running(daemon, story)
    # Two cluster IPs and a node port of ALL, and one more.
    assert len(flows.judges[0]) == 4
    assert UDP in flows.judges[0].wanted
    assert daemon.told(records.Forgot)[0].flows == 3


def test_an_endpoint_that_leaves_makes_a_look_necessary_and_one_that_joins_does_not() -> None:
    flows = Flows()
    daemon = Daemon(dns("10.244.1.1", "10.244.1.2"), conntrack=flows)

    async def story() -> None:
        await daemon.until(lambda: len(flows.judges) == 1)
        daemon.change(*dns("10.244.1.1", "10.244.1.2", "10.244.1.3"))
        await daemon.in_kernel()
        daemon.change(*dns("10.244.1.1", "10.244.1.3"))
        await daemon.until(lambda: len(flows.judges) == 2)

    running(daemon, story)
    assert len(flows.judges) == 2


def test_a_look_that_fails_is_taken_again_and_one_that_cannot_be_is_not() -> None:
    flows = Flows(Unsupported("no such kernel"))
    daemon = Daemon(dns("10.244.1.1"), conntrack=flows)

    async def story() -> None:
        await daemon.until(lambda: daemon.told(records.ForgetFailed))
        daemon.change(*dns("10.244.1.2"))
        await daemon.in_kernel()

    running(daemon, story)
    assert daemon.told(records.ForgetFailed) == [records.ForgetFailed("no such kernel")]
    assert len(flows.judges) == 1


# --- contested claims -------------------------------------------------------------------


def test_a_claim_that_is_lost_is_told_once() -> None:
    contested: Mapping[str, Any] = {"externalIPs": ["198.51.100.1"]}
    daemon = Daemon([*service("shop/a:", vip="10.96.0.1", **contested)])

    async def story() -> None:
        await ready(daemon)
        for count in (1, 2):
            daemon.change(*service("shop/b:", vip="10.96.0.2", endpoints=count, **contested))
            await daemon.in_kernel()

    running(daemon, story)
    assert daemon.told(records.ClaimLost) == [
        records.ClaimLost("shop/b (TCP)", "198.51.100.1:80/TCP", "shop/a (TCP)")
    ]
