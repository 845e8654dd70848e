"""The relay's TCP half on a real kernel: every byte arrives, every end is told, and nothing is left over."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import resource
import signal
import socket
import subprocess
import sys
from ast import literal_eval
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from kubeway import records
from kubeway.errors import Lost, Refused
from kubeway.planes.relay.entrance import Tally
from kubeway.planes.relay.objects import Endpoint, Way, way_key
from kubeway.planes.relay.ports import PORTS
from kubeway.planes.relay.stream import RUNGS, Limits
from kubeway.program.program import Change
from kubeway.shell.relay import plane
from kubeway.shell.relay.listeners import Listening, listen
from kubeway.shell.relay.orders import Sums
from kubeway.shell.relay.plane import RelayPlane
from kubeway.values import TCP, parse_ip
from tests.kernel.netns import inside, ip, needs_root, nft
from tests.kernel.relays import (
    LO,
    Relay,
    Streams,
    dead,
    descriptors,
    echo,
    named,
    played,
    relay,
    reset,
    serve,
    until,
)

pytestmark = [pytest.mark.kernel, needs_root]

MB = 1 << 20
SIZES = (1, 100, 65_535, 65_536, 256 * 1024 - 1, 256 * 1024 + 1, 3 * MB + 7, 64 * MB)


def noise(size: int, seed: int = 0) -> bytes:
    return Random(seed).randbytes(min(size, MB)) * (size // MB + 1)


async def hashed(reader: asyncio.StreamReader) -> tuple[int, str]:
    """How much comes until the end, and what it is."""
    told, size = hashlib.md5(), 0
    while data := await reader.read(MB):
        told.update(data)
        size += len(data)
    return size, told.hexdigest()


def digest(data: bytes) -> tuple[int, str]:
    return len(data), hashlib.md5(data).hexdigest()


async def said(dialled: Streams) -> str:
    """The first line; then it is closed."""
    reader, writer = dialled
    try:
        return (await reader.readline()).decode().strip()
    finally:
        writer.close()


async def opened(here: Relay, count: int) -> None:
    """Until so many connections are."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 20
    while True:
        await here.plane.counters()
        if here.plane.open == count:
            return
        assert loop.time() < end, here.plane.open
        await asyncio.sleep(0.01)


# --- integrity --------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_what_is_sent_arrives_both_ways(size: int) -> None:
    async def story() -> None:
        with relay() as here:
            await here.put(Way((await serve(echo),)))
            sent = noise(size)[:size]
            reader, writer = await here.dial()
            writer.write(sent)
            writer.write_eof()
            assert await hashed(reader) == digest(sent)
            writer.close()
            tally = (await here.plane.counters())[here.key]
            assert (tally.connections, tally.sent, tally.received) == (1, size, size)

    played(story)


def test_many_at_once_of_all_sizes_stay_apart() -> None:
    async def story() -> None:
        with relay(workers=2) as here:
            await here.put(Way((await serve(echo), await serve(echo))))

            async def one(number: int) -> None:
                sent = noise(Random(number).choice((1, 5000, 300_000, 2_000_000)), number)
                reader, writer = await here.dial(f"127.0.1.{number + 1}")
                for at in range(0, len(sent), 100_000):
                    writer.write(sent[at : at + 100_000])
                    if number % 3:
                        await asyncio.sleep(0)
                writer.write_eof()
                assert await hashed(reader) == digest(sent)
                writer.close()

            await asyncio.gather(*(one(number) for number in range(60)))

    played(story)


@pytest.mark.parametrize("size", [10, 700_000])
def test_the_client_ends_first_and_is_answered(size: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = await hashed(reader)
        writer.write(repr(got).encode() + noise(size)[:size])
        await writer.drain()

    async def story() -> None:
        with relay() as here:
            await here.put(Way((await serve(answer),)))
            reader, writer = await here.dial()
            sent = noise(size, 1)[:size]
            writer.write(sent)
            writer.write_eof()
            assert await reader.read(-1) == repr(digest(sent)).encode() + noise(size)[:size]
            writer.close()

    played(story)


@pytest.mark.parametrize("size", [10, 700_000])
def test_the_server_ends_first_and_goes_on_to_hear(size: int) -> None:
    heard: list[tuple[int, str]] = []

    async def first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(noise(size)[:size])
        writer.write_eof()
        heard.append(await hashed(reader))

    async def story() -> None:
        with relay() as here:
            await here.put(Way((await serve(first),)))
            reader, writer = await here.dial()
            assert await hashed(reader) == digest(noise(size)[:size])
            sent = noise(size, 1)[:size]
            for at in range(0, size, 50_000):
                writer.write(sent[at : at + 50_000])
                await writer.drain()
            writer.close()
            await until(lambda: heard == [digest(sent)])

    played(story)


def test_what_came_before_the_endpoint_did_is_not_lost() -> None:
    async def story() -> None:
        with relay() as here:
            await here.put(Way((), hold=30))
            sent = noise(200_000)[:200_000]
            reader, writer = await here.dial()
            writer.write(sent)
            writer.write_eof()
            await asyncio.sleep(0.1)
            await here.put(Way((await serve(echo),), hold=30))
            assert await hashed(reader) == digest(sent)
            writer.close()

    played(story)


def test_an_endpoint_that_speaks_first_is_not_kept_waiting() -> None:
    async def story() -> None:
        with relay() as here:
            await here.put(Way((await serve(named("a")),)))
            loop = asyncio.get_running_loop()
            began = loop.time()
            for _ in range(30):
                assert await said(await here.dial()) == "a 127.0.0.1"
            # To acknowledge later would take up to 200 ms each (TCP_DELACK_MAX): six seconds.
            assert loop.time() - began < 4

    played(story)


def test_half_closed_and_silent_it_is_ended_in_time() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        await asyncio.sleep(60)

    async def story() -> None:
        with relay(limits=Limits(half_closed=0.5)) as here:
            await here.put(Way((await serve(mute),)))
            reader, writer = await here.dial()
            writer.write_eof()
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            writer.close()

    played(story)


def test_a_client_that_waits_and_goes_is_forgotten() -> None:
    async def story() -> None:
        with relay() as here:
            await here.put(Way((), hold=30))
            _, writer = await here.dial()
            _, other = await here.dial()
            await opened(here, 2)
            reset(writer)
            await opened(here, 1)
            other.close()

    played(story)


# --- resets and refusals ------------------------------------------------------------------


def test_a_reset_of_the_client_reaches_the_endpoint() -> None:
    ends: list[str] = []

    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await echo(reader, writer)
        except ConnectionResetError:
            ends.append("reset")
        else:
            ends.append("end")

    async def story() -> None:
        with relay() as here:
            await here.put(Way((await serve(listens),)))
            reader, writer = await here.dial()
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            reset(writer)
            await until(lambda: ends == ["reset"])

    played(story)


def test_a_reset_of_the_endpoint_reaches_the_client() -> None:
    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        reset(writer)

    async def story() -> None:
        with relay() as here:
            await here.put(Way((await serve(hangs_up),)))
            reader, writer = await here.dial()
            writer.write(b"x")
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            writer.close()

    played(story)


@pytest.mark.parametrize("size", [10, 300_000])
def test_a_reset_that_comes_with_data_is_no_end(size: int) -> None:
    """Else a text that broke off would look like a whole one."""
    ends: list[str] = []
    pids: list[int] = []

    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        send_and_reset(writer)

    def send_and_reset(writer: asyncio.StreamWriter) -> None:
        for pid in pids:  # so that it is told of both at once
            os.kill(pid, signal.SIGSTOP)
        os.write(writer.get_extra_info("socket").fileno(), noise(size)[:size])  # as much as is taken
        reset(writer)
        for pid in pids:
            asyncio.get_running_loop().call_later(0.05, os.kill, pid, signal.SIGCONT)

    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"hi")
            while await reader.read(MB):
                pass
            ends.append("end")
        except ConnectionResetError:
            ends.append("reset")

    async def story() -> None:
        with relay() as here:
            await here.put(Way((await serve(breaks_off),)))
            pids.extend(here.plane.processes)
            for _ in range(3):
                reader, writer = await here.dial()
                writer.write(b"x")
                with pytest.raises(ConnectionResetError):
                    await hashed(reader)
                writer.close()
            await here.put(Way((await serve(listens),)))
            for number in range(1, 4):
                reader, writer = await here.dial()
                assert await reader.readexactly(2) == b"hi"
                send_and_reset(writer)
                await until(lambda n=number: len(ends) == n)  # type: ignore[misc]
            assert set(ends) == {"reset"}

    played(story)


@pytest.mark.parametrize("way", [None, Way(()), "dead"])
def test_whom_nobody_serves_is_reset(way: Way | str | None) -> None:
    async def story() -> None:
        with relay() as here:
            await here.put(Way((dead(),)) if isinstance(way, str) else way)
            with pytest.raises(ConnectionResetError):
                await said(await here.dial())

    played(story)


def test_an_endpoint_that_refuses_is_passed_over() -> None:
    async def story() -> None:
        with relay() as here:
            await here.put(Way((dead(), await serve(named("a")), dead())))
            for _ in range(9):
                assert await said(await here.dial()) == "a 127.0.0.1"
            tally = (await here.plane.counters())[here.key]
            # Three met it at once, three after one that refuses, three after two.
            assert (tally.connections, tally.refused, tally.retried) == (9, 0, 9)

    played(story)


def test_an_endpoint_that_is_silent_is_given_up() -> None:
    async def story() -> None:
        nft("table ip t { chain c { type filter hook input priority 0; tcp dport 4444 drop; }; }")
        with relay() as here:
            await here.put(Way((Endpoint(LO, 4444), await serve(named("a")))))
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert await said(await here.dial()) == "a 127.0.0.1"
            assert loop.time() - began >= RUNGS[0]
            (tally,) = (await here.plane.counters()).values()
            assert tally.retried == 1

    played(story)


def test_one_that_refuses_is_not_met_first_for_a_while() -> None:
    async def story() -> None:
        with relay() as here:
            await here.put(Way((dead(), await serve(named("a"))), demote=True))
            for _ in range(10):
                assert await said(await here.dial()) == "a 127.0.0.1"
            assert (await here.plane.counters())[here.key].retried == 1

    played(story)


# --- a reader that does not read -------------------------------------------------------------


def test_a_reader_that_stalls_stops_the_sender_and_loses_nothing() -> None:
    sent = hashlib.md5()
    moved = [0, False]

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock: socket.socket = writer.get_extra_info("socket")
        loop = asyncio.get_running_loop()
        block, stop = noise(MB)[: 1 << 16], loop.create_future()

        def more() -> None:
            try:
                while not moved[1]:
                    count = os.write(sock.fileno(), block)
                    sent.update(block[:count])
                    moved[0] += count
            except BlockingIOError:
                return
            loop.remove_writer(raw)
            stop.set_result(None)

        raw = os.dup(sock.fileno())
        loop.add_writer(raw, more)
        await stop
        os.close(raw)

    async def story() -> None:
        with relay() as here:
            await here.put(Way((await serve(floods),)))
            with socket.create_connection(("127.0.0.1", here.port)) as sock:
                sock.setblocking(False)
                last = -1
                while last != moved[0] or not last:
                    last = moved[0]
                    await asyncio.sleep(0.5)
                # Both sides' buffers hold up to tcp_wmem and tcp_rmem: 4 and 6 MiB or more; and a pipe one.
                assert moved[0] < 64 * MB
                assert (await here.plane.counters())[here.key].received < 64 * MB  # and it still answers
                moved[1] = True
                loop, told, size = asyncio.get_running_loop(), hashlib.md5(), 0
                while data := await loop.sock_recv(sock, MB):
                    told.update(data)
                    size += len(data)
                assert (size, told.hexdigest()) == (moved[0], sent.hexdigest())

    played(story)


# --- who the client is ------------------------------------------------------------------------


@pytest.mark.parametrize(("keeps", "seen"), [(True, "127.0.0.5"), (False, "127.0.0.1")])
def test_whom_the_endpoint_sees(keeps: bool, seen: str) -> None:
    async def story() -> None:
        with relay(1, keeps) as here:
            await here.put(Way((await serve(named("a")),)))
            assert await said(await here.dial("127.0.0.5")) == f"a {seen}"

    played(story)


def test_a_client_may_connect_more_often_in_a_minute_than_there_are_ports() -> None:
    """It ends first, so the kernel has each in mind for a minute. And no port is one that a client has."""
    seen: list[int] = []

    async def whom(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername")[1])
        writer.write(b"well?\n")
        await reader.read()

    async def story() -> None:
        with relay(1, True) as here:
            await here.put(Way((await serve(whom),)))
            many = len(PORTS) + 200

            async def client(count: int) -> None:
                for _ in range(count):
                    assert await said(await here.dial("127.0.0.5")) == "well?"

            await asyncio.gather(*(client(many // 8) for _ in range(8)))
            assert len(seen) == many
            assert {*seen} == {*PORTS}

    played(story)


def test_ports_that_somebody_on_the_node_has_are_no_hindrance() -> None:
    async def story() -> None:
        async def whom(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(f"{writer.get_extra_info('peername')}\n".encode())

        least = len(PORTS) + 200
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(least, before[0]), max(least, before[1])))
        taken = [socket.socket() for _ in PORTS]
        try:
            for sock, port in zip(taken, PORTS, strict=True):
                sock.bind(("", port))
            with relay(1, True) as here:
                await here.put(Way((await serve(whom),)))
                for _ in range(3):
                    ip, port = literal_eval(await said(await here.dial("127.0.0.5")))
                    assert ip == "127.0.0.5"
                    assert port not in PORTS
        finally:
            for sock in taken:
                sock.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    played(story)


def test_an_endpoint_that_asks_for_itself_sees_the_node() -> None:
    async def story() -> None:
        with relay(1, True) as here:
            await here.put(Way((await serve(named("a"), "127.0.0.5"),)))
            assert await said(await here.dial("127.0.0.5")) == "a 127.0.0.1"
            assert await said(await here.dial("127.0.0.6")) == "a 127.0.0.6"

    played(story)


STEERED = """
table inet t {
    chain c {
        type filter hook prerouting priority mangle;
        meta l4proto tcp socket transparent 1 meta mark set 1 accept
        ip daddr 10.96.0.0/16 tcp dport 1-65535 tproxy ip to :%d meta mark set 1 accept
        ip6 daddr fd96::/64 tcp dport 1-65535 tproxy ip6 to :%d meta mark set 1 accept
    }
}
"""


def test_steered_by_rules_the_address_asked_for_tells_the_way() -> None:
    async def story() -> None:
        any4 = Listening("local", True, bytes(4), 0)
        any6 = Listening("local", True, bytes(16), 0)
        with relay(1, False, any4, any6) as here:
            nft(STEERED % tuple(here.plane.ports()[1:]))
            for v, own in (("-4", "10.96.0.0/16"), ("-6", "fd96::/64")):
                ip(f"{v} rule add fwmark 1 lookup 100")
                ip(f"{v} route add local default dev lo table 100")
                ip(f"{v} route add local {own} dev lo")
            ip("-6 address add fd00::7 dev lo nodad")
            ways = {
                way_key("local", parse_ip("10.96.0.9"), TCP, 80): await serve(named("web")),
                way_key("local", parse_ip("10.96.0.9"), TCP, 81): await serve(named("other port")),
                way_key("cluster", parse_ip("10.96.0.8"), TCP, 80): await serve(named("other list")),
                way_key("local", None, TCP, 30080): await serve(named("node port")),
                way_key("local", parse_ip("fd96::9"), TCP, 80): await serve(named("six"), "::1"),
            }
            await here.plane.write([Change("add", key, None, Way((one,))) for key, one in ways.items()])
            found = {}
            for host, port in (
                ("10.96.0.9", 80),
                ("10.96.0.9", 81),
                ("10.96.0.8", 80),
                ("10.96.7.7", 30080),
                ("fd96::9", 80),
            ):
                source = "127.0.0.7" if "." in host else "fd00::7"
                try:
                    found[host, port] = await said(
                        await asyncio.open_connection(host, port, local_addr=(source, 0))
                    )
                except ConnectionResetError:
                    found[host, port] = "reset"
            assert found == {
                ("10.96.0.9", 80): "web 127.0.0.7",
                ("10.96.0.9", 81): "other port 127.0.0.7",
                ("10.96.0.8", 80): "reset",
                ("10.96.7.7", 30080): "node port 127.0.0.7",
                ("fd96::9", 80): "six fd00::7",
            }

    played(story)


# --- several workers --------------------------------------------------------------------------


def test_a_client_meets_the_same_endpoint_whatever_worker_it_falls_to() -> None:
    async def story() -> None:
        with relay(workers=3) as here:
            await here.put(Way(tuple([await serve(named(name)) for name in "abcd"]), affinity=60))
            met = defaultdict(set)
            for _ in range(4):
                for client in range(1, 25):
                    met[client].add(await said(await here.dial(f"127.0.2.{client}")))
            assert all(len(ones) == 1 for ones in met.values())
            spread = Counter(one for ones in met.values() for one in ones)
            assert len(spread) == 4

    played(story)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_listeners_are_chosen_by_the_source_address_alone(host: str) -> None:
    def story() -> None:
        sockets = listen(Listening("cluster", False, parse_ip(host), 0), 4)
        for number in range(1, 40):
            if ":" in host:
                ip(f"address add fd00::{number:x} dev lo nodad")
        where = {}
        for number in range(1, 40):
            source = f"127.0.0.{number}" if "." in host else f"fd00::{number:x}"
            for _ in range(3):
                with socket.create_connection(sockets[0].getsockname()[:2], source_address=(source, 0)):
                    heard = [at for at, one in enumerate(sockets) if accepted(one)]
                assert len(heard) == 1
                assert where.setdefault(source, heard[0]) == heard[0]
        assert set(where.values()) == {0, 1, 2, 3}
        for sock in sockets:
            sock.close()

    def accepted(sock: socket.socket) -> bool:
        sock.setblocking(False)
        try:
            sock.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    inside(story)


def test_a_worker_that_is_killed_is_replaced_and_nobody_is_refused() -> None:
    async def story() -> None:
        with relay(workers=2) as here:
            await here.put(Way((await serve(named("a")), await serve(named("b")))))
            served, broken, stop = Counter[str](), 0, False

            async def client(number: int) -> None:
                nonlocal broken
                while not stop:
                    # To be refused would raise here, and fail the test.
                    dialled = await here.dial(f"127.0.3.{number + 1}")
                    try:
                        served[await said(dialled)] += 1
                    except ConnectionResetError:
                        broken += 1  # it was the killed one's

            tasks = [asyncio.ensure_future(client(number)) for number in range(16)]  # noqa: TID251
            await until(lambda: served.total() > 100)
            for _ in range(2):
                victim = here.plane.processes[0]
                await asyncio.sleep(1.1)  # one that lives for less is not replaced at once
                os.kill(victim, signal.SIGKILL)
                await until(lambda v=victim: v not in here.plane.processes)  # type: ignore[misc]
                before = served.total()
                await until(lambda b=before: served.total() > b + 200)  # type: ignore[misc]
            stop = True
            await asyncio.gather(*tasks)
            assert set(served) <= {"a 127.0.0.1", "b 127.0.0.1", ""}
            assert broken + served[""] <= 2 * 16
            assert (await here.plane.counters())[here.key].connections > 0

    played(story)


def test_of_workers_killed_one_by_one_each_takes_but_its_own_connections() -> None:
    async def story() -> None:
        with relay(workers=3) as here:
            await here.put(Way((await serve(named("a")), await serve(named("b")))))
            served, stop = Counter[str](), False
            lasting: dict[int, Streams] = {}
            for number in range(30):
                lasting[number] = await here.dial(f"127.0.4.{number + 1}")
                assert (await lasting[number][0].readline()).decode()[:2] in ("a ", "b ")

            async def alive(number: int) -> bool:
                reader, writer = lasting[number]
                try:
                    writer.write(b"still\n")
                    return await reader.readline() == b"still\n"
                except ConnectionResetError:
                    return False

            async def client(number: int) -> None:
                while not stop:
                    try:
                        # To be refused would raise here, and fail the test.
                        served[await said(await here.dial(f"127.0.3.{number + 1}"))] += 1
                    except ConnectionResetError:
                        served["broken"] += 1

            tasks = [asyncio.ensure_future(client(number)) for number in range(12)]  # noqa: TID251
            victims = here.plane.processes
            for victim in victims:
                before = served.total()
                await until(lambda b=before: served.total() > b + 100)  # type: ignore[misc]
                os.kill(victim, signal.SIGKILL)
                await until(lambda v=victim: v not in here.plane.processes)  # type: ignore[misc]
                await until(lambda: len(here.plane.processes) == 3)
                there = [*lasting]
                gone = {number for number in there if not await alive(number)}
                # Each worker had some; who is of another one has noticed nothing.
                assert 0 < len(gone) < 30 if victim != victims[-1] else gone == set(there)
                for number in gone:
                    lasting.pop(number)[1].close()
            assert not lasting
            before = served.total()
            await until(lambda: served.total() > before + 200)
            stop = True
            await asyncio.gather(*tasks)
            assert set(served) <= {"a 127.0.0.1", "b 127.0.0.1", "", "broken"}
            assert served["broken"] + served[""] <= 3 * 12
            await opened(here, 0)
            assert not set(victims) & set(here.plane.processes)

    played(story)


def test_a_worker_that_hangs_is_ended_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "_ANSWER", 1.0)
    told: list[records.Record] = []

    async def story() -> None:
        with relay(record=told.append) as here:
            await here.put(Way((await serve(named("a")),)))
            (worker,) = here.plane.processes
            await asyncio.sleep(1.1)
            os.kill(worker, signal.SIGSTOP)
            await here.put(Way((await serve(named("b")),)))
            assert await said(await here.dial()) == "b 127.0.0.1"
            assert [str(one) for one in told] == [
                f"relay worker {worker}: it does not answer (killed by signal 9); started anew"
            ]

    played(story)


def test_figures_are_told_by_those_who_answer_and_nobody_waits_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[records.Record] = []

    async def story() -> None:
        loop = asyncio.get_running_loop()
        with relay(workers=2, record=told.append) as here:
            await here.put(Way((await serve(echo),)))
            # Of both workers: a client's address decides which it comes to.
            dialled = [await here.dial(f"127.0.0.{number}") for number in range(1, 17)]
            for reader, writer in dialled:
                writer.write(b"12345")
                assert await reader.readexactly(5) == b"12345"
            await here.plane.ask(30.0)
            sums = here.plane.sums()
            assert (sums.tcp.connections, sums.tcp.sent, sums.tcp.received) == (16, 80, 80)
            assert (sums.open, sums.waiting, sums.udp) == (16, 0, Tally())
            hung = here.plane.processes[0]
            os.kill(hung, signal.SIGSTOP)
            began = loop.time()
            for _ in range(3):
                await here.plane.ask(0.1)
            assert loop.time() - began < 5
            assert here.plane.sums() == sums
            assert not told
            # Who owes its answer for too long is ended, and what it had told goes on to count.
            monkeypatch.setattr(plane, "_ANSWER", 0.05)
            await asyncio.sleep(0.1)
            await here.plane.ask(0.1)
            (died,) = told
            assert isinstance(died, records.RelayWorkerDied)
            assert (died.pid, died.problem.partition(" (")[0]) == (hung, "it does not answer")
            monkeypatch.undo()
            await here.plane.ask(30.0)
            sums = here.plane.sums()
            assert sums.tcp.connections == 16
            assert 0 < sums.open < 16
            for _, writer in dialled:
                writer.transport.abort()

    played(story)


def test_sums_outlast_the_ways_that_things_were_carried_by() -> None:
    async def story() -> None:
        with relay(limits=Limits(drain=30.0)) as here:
            await here.put(Way((await serve(echo),)))
            reader, writer = await here.dial()
            writer.write(b"123")
            await reader.readexactly(3)
            ended = await here.dial()
            ended[1].close()
            await until_sums(here, lambda sums: sums.open == 1 and sums.tcp.connections == 2)
            await here.put(None)
            await until_sums(here, lambda sums: (sums.tcp.connections, sums.tcp.sent) == (2, 3))
            assert await here.plane.counters() == {}
            writer.write(b"4567")
            await reader.readexactly(4)
            await until_sums(here, lambda sums: (sums.tcp.sent, sums.open) == (7, 1))
            writer.close()
            await until_sums(here, lambda sums: (sums.tcp.sent, sums.open) == (7, 0))
            await until_sums(here, lambda sums: (sums.tcp.sent, sums.tcp.connections) == (7, 2))

    played(story)


async def until_sums(here: Relay, check: Callable[[Sums], bool]) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + 20
    while True:
        await here.plane.ask(20.0)
        if check(here.plane.sums()):
            return
        assert loop.time() < end, here.plane.sums()
        await asyncio.sleep(0.02)


def test_a_worker_has_time_to_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "_ANSWER", 0.001)
    told: list[records.Record] = []

    async def story() -> None:
        with relay(record=told.append) as here:
            await here.put(Way((await serve(named("a")),)))
            assert len(here.plane.processes) == 1
            assert told == []
            assert await said(await here.dial()) == "a 127.0.0.1"

    played(story)


def test_a_worker_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[records.Record] = []
    spawn = subprocess.Popen

    def fails(*words: object, **how: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    async def story() -> None:
        with relay(record=told.append) as here:
            way = Way((await serve(named("a")),))
            monkeypatch.setattr(plane.subprocess, "Popen", fails)
            with pytest.raises(Lost, match=r"relay worker cannot be started: .*temporarily unavailable"):
                await here.put(way)
            monkeypatch.setattr(plane.subprocess, "Popen", spawn)
            await here.put(way)
            monkeypatch.setattr(plane.subprocess, "Popen", fails)
            os.kill(here.plane.processes[0], signal.SIGKILL)
            await until(lambda: len(told) > 2)
            monkeypatch.setattr(plane.subprocess, "Popen", spawn)
            assert await said(await here.dial()) == "a 127.0.0.1"
            assert str(told[-1]).startswith("relay worker: cannot be started: [Errno 11]")

    played(story)


def test_a_worker_that_dies_at_once_again_and_again_is_waited_with() -> None:
    told: list[records.Record] = []

    async def story() -> None:
        with relay(record=told.append) as here:
            await here.put(Way((await serve(named("a")),)))
            for deaths in range(1, 4):
                await until(lambda: bool(here.plane.processes))
                os.kill(here.plane.processes[0], signal.SIGKILL)
                await until(lambda d=deaths: len(told) == d)  # type: ignore[misc]
            pauses = [one.retry_in for one in told if isinstance(one, records.RelayWorkerDied)]
            assert pauses == [0.1, 0.2, 0.4]
            assert await said(await here.dial()) == "a 127.0.0.1"

    played(story)


# --- too many ---------------------------------------------------------------------------------


def test_without_descriptors_the_longest_idle_make_room() -> None:
    async def story() -> None:
        with relay() as here:
            await here.put(Way((await serve(named("a")),)))
            (worker,) = here.plane.processes
            resource.prlimit(worker, resource.RLIMIT_NOFILE, (80, 80))
            idle = [await here.dial() for _ in range(30)]
            await asyncio.sleep(1.5)
            fresh = [await here.dial() for _ in range(20)]
            for reader, writer in fresh:
                assert await reader.readline() == b"a 127.0.0.1\n"
                writer.close()
            await here.plane.counters()
            assert 0 < here.plane.shed <= 30
            assert descriptors(worker) <= 80
            for _, writer in idle:
                writer.transport.abort()

    played(story)


def test_without_descriptors_and_nobody_idle_who_comes_is_reset_and_the_others_go_on() -> None:
    async def story() -> None:
        with relay() as here:
            await here.put(Way((await serve(echo),)))
            (worker,) = here.plane.processes
            resource.prlimit(worker, resource.RLIMIT_NOFILE, (40, 40))
            served: list[Streams] = []

            async def all_live() -> None:
                for reader, writer in served:
                    writer.write(b"y")
                    assert await reader.readexactly(1) == b"y"

            refused = 0
            while refused < 5:
                await all_live()
                try:
                    dialled = await here.dial()
                except ConnectionResetError:
                    refused += 1
                    continue
                try:
                    dialled[1].write(b"x")
                    await dialled[0].readexactly(1)
                except (ConnectionResetError, asyncio.IncompleteReadError):
                    refused += 1
                    dialled[1].close()
                else:
                    served.append(dialled)
            assert 10 < len(served) < 20
            for _, writer in served:
                writer.close()

    played(story)


def test_with_no_descriptor_at_all_clients_wait_until_there_is_one() -> None:
    async def story() -> None:
        with relay() as here:
            await here.put(Way((await serve(named("a")),)))
            (worker,) = here.plane.processes
            resource.prlimit(worker, resource.RLIMIT_NOFILE, (3, 100))
            dialled = await here.dial()
            await asyncio.sleep(0.5)
            resource.prlimit(worker, resource.RLIMIT_NOFILE, (100, 100))
            assert await said(dialled) == "a 127.0.0.1"

    played(story)


def test_nothing_is_left_of_what_has_ended() -> None:
    async def story() -> None:
        with relay() as here:
            await here.put(Way((await serve(echo), dead()), demote=False))
            (worker,) = here.plane.processes
            await here.plane.counters()
            before = descriptors(worker)

            async def one(number: int) -> None:
                reader, writer = await here.dial()
                writer.write(b"x" * (1 + number % 3 * 300_000))
                if number % 4 == 0:
                    reset(writer)
                    return
                await reader.readexactly(1)
                if number % 4 == 1:
                    writer.write_eof()
                    await reader.read(-1)
                writer.close()

            for _ in range(10):
                await asyncio.gather(*(one(number) for number in range(30)))
            loop = asyncio.get_running_loop()
            end = loop.time() + 20
            while True:
                await here.plane.counters()
                # Pipes are kept for the next ones, two descriptors each.
                if here.plane.open == 0 and (descriptors(worker) - before) % 2 == 0:
                    break
                assert loop.time() < end
                await asyncio.sleep(0.05)
            kinds = Counter(
                os.readlink(f"/proc/{worker}/fd/{fd}").partition(":")[0]
                for fd in os.listdir(f"/proc/{worker}/fd")
            )
            assert kinds["socket"] == 2  # its listener and its channel

    played(story)


# --- changes ----------------------------------------------------------------------------------


def test_connections_of_an_endpoint_that_left_go_on_for_a_while() -> None:
    async def story() -> None:
        with relay(limits=Limits(drain=1.0)) as here:
            a, b = await serve(named("a")), await serve(named("b"))
            await here.put(Way((a,)))
            reader, writer = await here.dial()
            assert await reader.readline() == b"a 127.0.0.1\n"
            await here.put(Way((b,)))
            assert await said(await here.dial()) == "b 127.0.0.1"
            writer.write(b"still\n")
            assert await reader.readline() == b"still\n"
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            writer.close()

    played(story)


def test_one_that_is_tried_in_vain_goes_on_to_the_endpoint_that_takes_its_place() -> None:
    async def story() -> None:
        nft("table ip t { chain c { type filter hook input priority 0; tcp dport 4444 drop; }; }")
        with relay() as here:
            await here.put(Way((Endpoint(LO, 4444),)))
            dialled = [await here.dial() for _ in range(5)]
            await opened(here, 5)
            a = await serve(named("a"))
            await here.put(Way((a,)))
            # Left to the silent one, they would have been reset.
            assert {await said(one) for one in dialled} == {"a 127.0.0.1"}

    played(story)


def test_connections_of_an_endpoint_that_comes_back_stay() -> None:
    async def story() -> None:
        with relay(limits=Limits(drain=0.5)) as here:
            a = await serve(named("a"))
            await here.put(Way((a,)))
            reader, writer = await here.dial()
            await reader.readline()
            await here.put(Way(()))
            await here.put(Way((a,)))
            await asyncio.sleep(1.5)
            writer.write(b"still\n")
            assert await reader.readline() == b"still\n"
            writer.close()

    played(story)


def test_many_ways_are_told_and_read_back() -> None:
    async def story() -> None:
        with relay(workers=2) as here:
            a = await serve(named("a"))
            await here.put(Way((a,)))
            keys = [way_key("cluster", LO, TCP, port) for port in range(1, 3001)]
            await here.plane.write([Change("add", key, None, Way((a,) * 1)) for key in keys])
            assert await said(await here.dial()) == "a 127.0.0.1"
            assert len(await here.plane.read()) == 3001
            await here.plane.write([Change("del", key, Way((a,)), None) for key in keys])
            assert await here.plane.read() == {here.key: Way((a,))}
            assert await said(await here.dial()) == "a 127.0.0.1"

    played(story)


# --- the end ----------------------------------------------------------------------------------


def test_with_patience_connections_end_by_themselves() -> None:
    async def story() -> None:
        alone = RelayPlane([Listening("cluster", False, LO, 0, transparent=False)])
        (port,) = alone.ports()
        await alone.write([Change("add", way_key("cluster", LO, TCP, port), None, Way((await serve(echo),)))])
        (worker,) = alone.processes
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        await reader.readexactly(1)
        alone.close(patience=30)
        await asyncio.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"y")
        assert await reader.readexactly(1) == b"y"
        writer.close()
        assert await asyncio.to_thread(os.waitpid, worker, 0) == (worker, 0)

    played(story)


def test_that_the_control_process_goes_after_it_said_so_is_no_trouble(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def story() -> None:
        alone = RelayPlane([Listening("cluster", False, LO, 0, transparent=False)])
        (port,) = alone.ports()
        await alone.write([Change("add", way_key("cluster", LO, TCP, port), None, Way((await serve(echo),)))])
        (worker,) = alone.processes
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        await reader.readexactly(1)
        alone.close(patience=30)  # and closes its end, which the worker is told in another round
        await asyncio.sleep(0.5)
        writer.close()
        assert await asyncio.to_thread(os.waitpid, worker, 0) == (worker, 0)

    played(story)
    assert capfd.readouterr().err == ""


def test_with_patience_nobody_waits_for_an_endpoint_that_nobody_tells_of() -> None:
    async def story() -> None:
        alone = RelayPlane([Listening("cluster", False, LO, 0, transparent=False)])
        (port,) = alone.ports()
        await alone.write([Change("add", way_key("cluster", LO, TCP, port), None, Way((), hold=3600))])
        (worker,) = alone.processes
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not alone.sums().waiting:
            await alone.ask(30.0)
        alone.close(patience=3600)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()
        assert await asyncio.to_thread(os.waitpid, worker, 0) == (worker, 0)

    played(story)


CONTROL = """
import asyncio
from kubeway.planes.relay.objects import Endpoint, Way, way_key
from kubeway.program.program import Change
from kubeway.shell.relay import plane
from kubeway.shell.relay.listeners import Listening
from kubeway.shell.relay.plane import RelayPlane
from kubeway.values import TCP, parse_ip

async def main():
    lo = parse_ip("127.0.0.1")
    plane = RelayPlane([Listening("cluster", False, lo, 0, transparent=False)])
    (port,) = plane.ports()
    await plane.write([Change("add", way_key("cluster", lo, TCP, port), None, Way((Endpoint(lo, %d),)))])
    print(port, *plane.processes, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_when_the_control_process_is_killed_connections_end_by_themselves() -> None:
    async def story() -> None:
        one = await serve(echo)
        words = [sys.executable, "-c", CONTROL % one.port]
        control = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
        try:
            assert control.stdout is not None
            port, worker = map(int, (await control.stdout.readline()).split())
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"x")
            await reader.readexactly(1)
        finally:
            control.kill()
            await control.wait()
        await until(lambda: refused(port))
        writer.write(b"y")
        assert await reader.readexactly(1) == b"y"
        assert ends(worker) is False
        writer.close()
        await until(lambda: ends(worker))

    def refused(port: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            return False
        return False

    def ends(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    played(story)


def test_who_comes_before_the_first_ways_are_told_waits_for_them() -> None:
    async def story() -> None:
        with relay(workers=2) as here:
            dialled = [await here.dial(f"127.0.0.{number}") for number in range(1, 9)]
            assert await here.plane.read() == {}
            await here.put(Way((await serve(named("a")),)))
            assert {await said(one) for one in dialled} == {"a 127.0.0.1"}

    played(story)


def test_signals_for_all_processes_leave_it_to_the_control_process() -> None:
    async def story() -> None:
        with relay() as here:
            await here.put(Way((await serve(named("a")),)))
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(here.plane.processes[0], number)
            before = here.plane.processes
            assert await said(await here.dial()) == "a 127.0.0.1"
            await here.plane.counters()
            assert here.plane.processes == before

    played(story)


def test_a_port_that_is_taken_is_refused() -> None:
    def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            what = Listening("cluster", False, LO, sock.getsockname()[1])
            with pytest.raises(Refused, match="in use"):
                RelayPlane([what])

    inside(story)
