"""One relay's workers after another's: nobody is refused, nothing that goes on breaks, none is left over."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from kubeway import records
from kubeway.errors import Lost
from kubeway.planes.relay.objects import Endpoint, Way, way_key
from kubeway.program.program import Change
from kubeway.shell.relay.handover import NAME, ask, end, open_desk
from kubeway.shell.relay.plane import RelayPlane
from kubeway.values import TCP
from tests.kernel.netns import needs_root
from tests.kernel.relays import LO, Streams, named, played, serve, until
from tests.kernel.successions import LISTENING, Control, control
from tests.kernel.workers import end_orphans, memory, processor_time, workers

pytestmark = [pytest.mark.kernel, needs_root]

ANYBODY = 65534
BLOCK = 50_000


async def dial(port: int, client: str = "127.0.0.1") -> Streams:
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(client, 0))


async def said(dialled: Streams) -> str:
    """The name of who serves; then it is closed."""
    reader, writer = dialled
    try:
        return (await reader.readline()).decode().split(" ")[0]
    finally:
        writer.close()


class Load:
    """Clients that come and go all the time, and some that stay. Any that is refused, reset or told anything
    but what it is to be told fails the test."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.served = Counter[str]()
        self.moved = 0
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, short: int = 12, long: int = 4) -> None:
        # Those that stay are there before the first of the others is.
        stay = [await dial(self.port, f"127.0.4.{number + 1}") for number in range(long)]
        group = [*map(self._short, range(short)), *map(self._long, stay)]
        self._tasks = [asyncio.ensure_future(one) for one in group]  # noqa: TID251

    async def _short(self, number: int) -> None:
        at = 0
        while not self._stop:
            at = (at + 1) % 250
            name = await said(await dial(self.port, f"127.0.{number + 10}.{at + 1}"))
            assert name, "it was closed and nothing was said"
            self.served[name] += 1

    async def _long(self, dialled: Streams) -> None:
        reader, writer = dialled
        await reader.readline()
        sent, got, turn = hashlib.md5(), hashlib.md5(), 0
        while not self._stop:
            turn += 1
            block = turn.to_bytes(4, "big") * (BLOCK // 4)
            sent.update(block)
            writer.write(block)
            got.update(await reader.readexactly(len(block)))
            self.moved += 1
            await asyncio.sleep(0.005)
        assert sent.digest() == got.digest()
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()

    async def goes_on(self, count: int = 100, name: str = "") -> None:
        """Until so many more were served, by this one if it is named, and those that stay have moved."""
        before, moved = self._count(name), self.moved
        await self._until(lambda: self._count(name) >= before + count and self.moved >= moved + 10)

    def _count(self, name: str) -> int:
        return self.served[name] if name else self.served.total()

    async def _until(self, true: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        limit = loop.time() + 30
        while not true():
            for one in self._tasks:
                if one.done():
                    one.result()
            assert loop.time() < limit, self.served
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def give_up(self) -> None:
        for one in self._tasks:
            one.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def load(port: int) -> AsyncIterator[Load]:
    one = Load(port)
    await one.start()
    try:
        yield one
        await one.stop()
    finally:
        await one.give_up()


@asynccontextmanager
async def running(*endpoints: Endpoint, **wanted: object) -> AsyncIterator[Control]:
    """A control process with workers that serve."""
    async with control(*endpoints, **wanted) as one:
        yield await one.up()


async def gone(*pids: int) -> None:
    await until(lambda: not set(pids) & set(workers()))


# --- one after the other --------------------------------------------------------------------

COUNTS = [(1, 1), (2, 2), (3, 1), (1, 3)]


@pytest.mark.parametrize("number", [0, signal.SIGTERM, signal.SIGKILL], ids=["alive", "ended", "killed"])
@pytest.mark.parametrize(("before", "after"), COUNTS)
def test_nobody_is_refused_and_nothing_breaks(number: int, before: int, after: int) -> None:
    async def story() -> None:
        a, b = await serve(named("a")), await serve(named("b"))
        async with running(a, workers=before) as first, control(b, workers=after, waits=True) as second:
            async with load(first.port) as clients:
                await clients.goes_on()
                if number:
                    await first.end(number)
                    await clients.goes_on(name="a")
                assert await second.until("port") == first.port
                await clients.goes_on(name="a")  # it has them, and does not take anybody yet
                assert not clients.served["b"]
                assert second.process.stdin is not None
                second.process.stdin.write(b"now\n")
                await second.up()
                await clients.goes_on(200, "b")
                if not number:
                    await first.until("record", "Succeeded")
                settled = clients.served["a"]
                await clients.goes_on(200, "b")
                assert clients.served["a"] == settled
                # Those that stay are the first one's, still.
                assert set(workers()) > set(second.workers)
                assert len(second.workers) == after
            await gone(*first.workers)
            assert set(workers()) == set(second.workers)
            assert [one["record"] for one in second.told if "record" in one] == ["ListenersInherited"]
            await second.end()
            assert end(led=False)

    played(story)


def test_one_after_the_other_many_times() -> None:
    async def story() -> None:
        ones = [await serve(named(name)) for name in "abcdefgh"]
        async with AsyncExitStack() as stack:
            last = await (await stack.enter_async_context(control(ones[0], workers=2))).up()
            async with load(last.port) as clients:
                for number, one in enumerate(ones[1:]):
                    await clients.goes_on(30)
                    before = last
                    last = await (await stack.enter_async_context(control(one, workers=1 + number % 3))).up()
                    await clients.goes_on(30, "bcdefgh"[number])
                    await before.end((signal.SIGTERM, signal.SIGKILL)[number % 2])
            await until(lambda: set(workers()) == set(last.workers))
        assert end(led=False)

    played(story)


def test_who_stays_where_is_handed_over() -> None:
    async def story() -> None:
        ones = [await serve(named(name)) for name in "abcde"]
        async with control(*ones, workers=2, affinity=600) as first:
            await first.up()
            clients = [f"127.0.5.{number}" for number in range(1, 60)]
            met = {client: await said(await dial(first.port, client)) for client in clients}
            assert len(set(met.values())) == 5
            await first.end(signal.SIGKILL)
            # In turns they would all meet another one now.
            async with control(*ones, workers=3, affinity=600) as second:
                await second.up()
                assert {client: await said(await dial(first.port, client)) for client in clients} == met
            async with control(*ones[1:], workers=1, affinity=600) as third:
                await third.up()
                now = {client: await said(await dial(first.port, client)) for client in clients}
                assert all(now[client] == name for client, name in met.items() if name != "a")
                assert "a" not in now.values()
        assert end(led=False)

    played(story)


def test_one_client_comes_to_one_worker_after_it_too() -> None:
    """Affinity is each worker's own, so with more endpoints than one it tells."""

    async def story() -> None:
        ones = [await serve(named(name)) for name in "abcde"]
        async with control(*ones, workers=3) as first:
            await first.up()
            async with control(*ones, workers=2, affinity=600) as second:
                await second.up()
                for number in range(1, 40):
                    client = f"127.0.6.{number}"
                    assert len({await said(await dial(first.port, client)) for _ in range(4)}) == 1
                # A worker that dies is started again with all the listeners that were its own.
                os.kill(second.workers[1], signal.SIGKILL)
                for number in range(1, 40):
                    assert await said(await dial(first.port, f"127.0.6.{number}"))
        assert end(led=False)

    played(story)


def test_who_waits_for_an_endpoint_may_wait_with_the_successor() -> None:
    async def story() -> None:
        async with running(hold=60) as first:
            reader, writer = await dial(first.port)
            writer.write(b"ask\n")
            async with running(await serve(named("b"))):
                with pytest.raises(ConnectionResetError):
                    await reader.readline()
                assert await said(await dial(first.port)) == "b"
                await gone(*first.workers)
        assert end(led=False)

    played(story)


# --- without a control process --------------------------------------------------------------


def test_orphans_serve_and_otherwise_do_nothing() -> None:
    async def story() -> None:
        async with control(await serve(named("a")), workers=2) as first:
            await first.up()
            stays = await dial(first.port)
            await stays[0].readline()
            await first.end(signal.SIGKILL)
            await asyncio.sleep(1)
            began, used = time.monotonic(), {pid: (processor_time(pid), memory(pid)) for pid in first.workers}
            await asyncio.sleep(4)
            for pid, (seconds, held) in used.items():
                assert processor_time(pid) - seconds <= 0.02 * (time.monotonic() - began)
                assert memory(pid) - held < 1 << 20
            for number in range(1, 20):
                assert await said(await dial(first.port, f"127.0.7.{number}")) == "a"
            stays[1].write(b"still\n")
            assert await stays[0].readline() == b"still\n"
            stays[1].close()
        assert end(led=False)

    played(story)


def test_those_that_are_left_do_without_control_and_idle_while_they_end() -> None:
    """What waits for its last connection does nothing, either, though others have the sockets it had."""

    async def story() -> None:
        a, b = await serve(named("a")), await serve(named("b"))
        async with running(a, workers=2) as first:
            stays = [await dial(first.port, f"127.0.8.{number}") for number in range(1, 20)]
            for reader, _ in stays:
                await reader.readline()
            await first.end(signal.SIGKILL)
            async with running(b):
                for number in range(1, 20):
                    assert await said(await dial(first.port, f"127.0.7.{number}")) == "b"
                began, used = time.monotonic(), {pid: processor_time(pid) for pid in first.workers}
                await asyncio.sleep(4)
                for pid, seconds in used.items():
                    assert processor_time(pid) - seconds <= 0.02 * (time.monotonic() - began)
                for reader, writer in stays:
                    writer.write(b"still\n")
                    assert await reader.readline() == b"still\n"
                    writer.close()
                await gone(*first.workers)
        assert end(led=False)

    played(story)


def test_of_orphans_those_that_live_look_after_those_that_die() -> None:
    async def story() -> None:
        ones = [await serve(named(name)) for name in "abcde"]
        async with control(*ones, workers=3, affinity=600) as first:
            await first.up()
            await first.end(signal.SIGKILL)
            clients = [f"127.0.9.{number}" for number in range(1, 40)]
            for victim in first.workers[:2]:
                os.kill(victim, signal.SIGKILL)
                await gone(victim)
                for client in clients:
                    assert len({await said(await dial(first.port, client)) for _ in range(3)}) == 1
            async with control(await serve(named("f")), workers=2) as second:
                await second.up()
                assert {await said(await dial(first.port, client)) for client in clients} == {"f"}
                await gone(*first.workers)
        assert end(led=False)

    played(story)


@pytest.mark.parametrize("order", ["worker-first", "control-first"])
def test_when_all_are_told_to_end_they_do(order: str) -> None:
    """As service managers do that know of nothing else: SIGTERM to every process."""

    async def story() -> None:
        async with control(await serve(named("a"))) as first:
            await first.up()
            stays = await dial(first.port)
            await stays[0].readline()
            (worker,) = first.workers
            if order == "worker-first":
                os.kill(worker, signal.SIGTERM)
                assert await said(await dial(first.port)) == "a"
            await first.end()
            if order == "control-first":
                assert await said(await dial(first.port)) == "a"
                os.kill(worker, signal.SIGTERM)
            await refused(first.port)
            stays[1].write(b"still\n")
            assert await stays[0].readline() == b"still\n"
            stays[1].close()
            await gone(worker)

    played(story)


async def refused(port: int) -> None:
    """Until one is."""

    def is_it() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            return False
        return False

    await until(is_it)


# --- the end ----------------------------------------------------------------------------------


def test_they_can_be_ended_and_what_they_carry_has_its_time() -> None:
    async def story() -> None:
        async with control(await serve(named("a")), workers=2, drain=2.0) as first:
            await first.up()
            stays, other = await dial(first.port), await dial(first.port, "127.0.0.9")
            for reader, _ in (stays, other):
                await reader.readline()
            assert not end(led=False), "a control process looks after them"
            assert await said(await dial(first.port)) == "a"
            await first.end(signal.SIGKILL)
            assert await asyncio.to_thread(lambda: end(led=False))
            with pytest.raises(ConnectionRefusedError):
                await dial(first.port)
            other[1].close()
            stays[1].write(b"still\n")
            assert await stays[0].readline() == b"still\n"
            with pytest.raises(ConnectionResetError):
                await stays[0].read()
            await gone(*first.workers)
            assert not end(led=False)

    played(story)


def test_who_makes_room_for_another_mode_writes_nothing_any_more() -> None:
    async def story() -> None:
        async with control(await serve(named("a")), drain=1.0) as first:
            await first.up()
            assert await asyncio.to_thread(lambda: end(led=True))
            await first.until("record", "Succeeded")
            await refused(first.port)
            await gone(*first.workers)

    played(story)


def test_the_end_reaches_those_that_were_succeeded_long_ago() -> None:
    async def story() -> None:
        a, b = await serve(named("a")), await serve(named("b"))
        async with running(a, drain=1.0) as first:
            stays = await dial(first.port)
            await stays[0].readline()
            async with running(b, drain=1.0):
                await first.end()
            await asyncio.sleep(1.5)
            stays[1].write(b"still\n")  # no time is set to them as long as nobody ends them all
            assert await stays[0].readline() == b"still\n"
            assert await asyncio.to_thread(lambda: end(led=False))
            with pytest.raises(ConnectionResetError):
                await stays[0].read()

    played(story)


# --- successors that come to nothing ------------------------------------------------------------


@pytest.mark.parametrize("number", [0, signal.SIGKILL], ids=["alive", "killed"])
def test_a_successor_that_dies_before_it_takes_over_has_changed_nothing(number: int) -> None:
    async def story() -> None:
        a, b = await serve(named("a")), await serve(named("b"))
        async with control(a, workers=1) as first:
            await first.up()
            if number:
                await first.end(number)
            async with load(first.port) as clients:
                async with control(b, workers=3, dies="before") as second:
                    await second.process.wait()
                await until(lambda: set(workers()) == set(first.workers))
                await clients.goes_on(200)
                assert set(clients.served) == {"a"}
                async with control(b, workers=2) as third:
                    await third.up()
                    await clients.goes_on(name="b")
        assert end(led=False)

    played(story)


def test_a_successor_that_dies_when_it_has_taken_over_leaves_workers_that_serve() -> None:
    async def story() -> None:
        ones = [await serve(named(name)) for name in "abcde"]
        async with control(*ones, affinity=600) as first:
            await first.up()
            clients = [f"127.0.9.{number}" for number in range(1, 20)]
            met = {client: await said(await dial(first.port, client)) for client in clients}
            async with control(*ones, affinity=600, dies="after") as second:
                await second.process.wait()
            await gone(*first.workers)
            assert {client: await said(await dial(first.port, client)) for client in clients} == met
        assert end(led=False)

    played(story)


def test_of_two_successors_the_slower_one_succeeds_the_faster_one() -> None:
    async def story() -> None:
        a, b, c = [await serve(named(name)) for name in "abc"]
        async with (
            running(a) as first,
            control(b, waits=True, workers=2) as second,
            control(c, waits=True) as third,
        ):
            async with load(first.port) as clients:
                for one in (second, third):
                    await one.until("port")
                for one, name in ((second, "b"), (third, "c")):
                    assert one.process.stdin is not None
                    one.process.stdin.write(b"now\n")
                    await one.up()
                    await clients.goes_on(name=name)
                await first.until("record", "Succeeded")
                await second.until("record", "Succeeded")
            await until(lambda: set(workers()) == set(third.workers))
        assert end(led=False)

    played(story)


# --- whom nobody hands over to, or takes from ------------------------------------------------------


def test_of_another_version_listeners_are_opened_beside_and_the_others_end() -> None:
    async def story() -> None:
        a, b = await serve(named("a")), await serve(named("b"))
        async with running(a) as first, control(b, version=2) as second:
            assert await second.until("record") == "HandoverFailed"
            assert "it hands over as version 1, and this is version 2" in second.told[0]["text"]
            await second.up()
            await first.until("record", "Succeeded")
            await gone(*first.workers)
            assert await said(await dial(second.port)) == "b"
            await second.end(signal.SIGKILL)
            async with control(a) as third:  # whose workers they are matters, and not who started them
                await third.up()
                assert third.port == second.port
                assert await said(await dial(second.port)) == "a"
        assert end(led=False)

    played(story)


STRANGER = """
import array, contextlib, os, socket, sys, msgspec
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
if sys.argv[1] == "asks":
    sock.connect("\\0kubeway-relay")
    data, control, _, _ = sock.recvmsg(1 << 16, 4096)
    print(len(data), len(control), flush=True)
else:
    sock.bind("\\0kubeway-relay")
    sock.listen(8)
    print("up", flush=True)
    while True:
        with open("/proc/self/comm", "r") as file, sock.accept()[0] as who:
            hand = msgspec.msgpack.encode({"version": 7, "descriptors": 3, "led": False})
            rights = array.array("i", [file.fileno()] * 3)
            with contextlib.suppress(OSError):
                who.sendmsg([hand], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                who.recv(1)
"""


def test_strangers_get_nothing() -> None:
    async def story() -> None:
        async with control(await serve(named("a"))) as first:
            await first.up()
            words = [sys.executable, "-c", STRANGER, "asks"]
            done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=True)
            assert done.stdout == "0 0\n"
            assert await said(await dial(first.port)) == "a"
        assert end(led=False)

    played(story)


def test_from_strangers_nothing_is_taken() -> None:
    async def story() -> None:
        words = [sys.executable, "-c", STRANGER, "listens"]
        stranger = await asyncio.create_subprocess_exec(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert stranger.stdout is not None
            assert await stranger.stdout.readline() == b"up\n"
            async with control(await serve(named("a"))) as first:
                await first.up()
                assert [one["text"] for one in first.told if "record" in one] == [
                    "relay: a proxy before does not hand over its listeners, own ones are opened: "
                    f"it is user {ANYBODY}'s"
                ]
                assert await said(await dial(first.port)) == "a"
                with pytest.raises(Lost, match="no flag"):
                    end(led=True)
                await first.end()
                await refused(first.port)  # nobody could succeed them, so they do not stay
                await gone(*first.workers)
        finally:
            stranger.kill()
            await stranger.wait()

    played(story)


def test_who_does_not_answer_is_waited_for_a_while_only() -> None:
    async def story() -> None:
        desk = open_desk(NAME)
        try:
            with pytest.raises(Lost, match=r"it does not answer within 0\.3 s"):
                ask(NAME, 0.3)
            told: list[records.Record] = []
            plane = RelayPlane([LISTENING], name=NAME, record=told.append)
            await put(plane, Way((await serve(named("a")),)))
            assert await said(await dial(plane.ports()[0])) == "a"
            plane.close()
            assert [type(one) for one in told] == [records.HandoverFailed]
        finally:
            desk.close()

    played(story)


def test_those_that_a_test_leaves_are_found() -> None:
    """As the tests of this folder do it after each of them."""

    async def story() -> None:
        async with running(await serve(named("a")), workers=2) as first:
            assert end_orphans() == []
            await first.end(signal.SIGKILL)
            assert sorted(end_orphans()) == sorted(first.workers)
            assert workers() == []

    played(story)


def test_where_nobody_is_nobody_is_asked() -> None:
    async def story() -> None:
        assert ask(NAME) is None
        assert not end(led=True)

    played(story)


async def put(plane: RelayPlane, way: Way) -> None:
    await plane.write([Change("add", way_key("cluster", LO, TCP, plane.ports()[0]), None, way)])


def test_with_nothing_to_write_there_is_a_successor_all_the_same() -> None:
    async def story() -> None:
        told: list[records.Record] = []
        first = RelayPlane([LISTENING], name=NAME, record=told.append)
        await first.stand()
        before = first.processes
        assert len(before) == 1
        second = RelayPlane([LISTENING], name=NAME, record=told.append)
        await second.stand()
        await gone(*before)
        await until(lambda: len(told) == 2)
        assert [type(record) for record in told] == [records.ListenersInherited, records.Succeeded]
        await first.write([])
        assert first.processes == []
        second.close()
        first.close()

    played(story)
