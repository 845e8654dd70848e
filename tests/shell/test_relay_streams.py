"""Connections in one process: what has ended is gone, without anybody collecting it."""

from __future__ import annotations

import errno
import gc
import socket
import struct
import threading
from _socket import socket as raw
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import pytest

from kubeway.planes.relay.entrance import Entrance
from kubeway.planes.relay.objects import Endpoint, Way
from kubeway.planes.relay.stream import Connect, Limits, Stream
from kubeway.shell.relay.carry import Side
from kubeway.shell.relay.loop import Loop
from kubeway.shell.relay.streams import Connection, Listener, Streams
from kubeway.values import parse_ip

LO = parse_ip("127.0.0.1")
RESET = struct.pack("ii", 1, 0)


class Every:
    """Looks again and again, in the loop's thread, until it is true; then ends the loop."""

    def __init__(self, loop: Loop, true: Callable[[], bool]) -> None:
        self._loop, self._true = loop, true
        self._end = loop.now + 20
        self.ok = False

    def tick(self, now: float) -> None:
        self.ok = self._true()
        if self.ok or now > self._end:
            self._loop.stop()
        else:
            self._loop.at(now + 0.05, self)


@contextmanager
def echo() -> Iterator[Endpoint]:
    """Sends back what it gets, then ends; "reset" makes it reset."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            while True:
                try:
                    sock, _ = server.accept()
                except OSError:
                    return
                with sock:
                    try:
                        data = sock.recv(100)
                        if data == b"reset":
                            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                        else:
                            sock.sendall(data)
                    except OSError:
                        continue

        thread = threading.Thread(target=run)
        thread.start()
        yield Endpoint(LO, server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def talk(port: int, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(said or b"x")
        try:
            while sock.recv(100):
                pass
        except ConnectionResetError:
            if said != b"reset":
                raise
        if not said:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def alive() -> int:
    """How many connections there are, and parts of some."""
    return sum(isinstance(thing, (Connection, Side, Stream)) for thing in gc.get_objects())


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
def test_nothing_of_a_connection_outlives_it() -> None:
    loop = Loop()
    streams = Streams(loop, Random(), Limits())
    sock = raw(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    port = sock.getsockname()[1]
    with echo() as one, echo() as other:
        ways = {("127.0.0.1", port): Entrance(Way((one, other), affinity=10, demote=True))}
        Listener(sock, ways, keeps=False, streams=streams).open()

        def clients() -> None:
            for number in range(60):
                talk(port, (b"hello", b"reset", b"")[number % 3])
            ways.clear()
            with pytest.raises(ConnectionResetError):
                talk(port, b"nobody")

        before = alive()  # other tests may hold some
        asking = threading.Thread(target=clients)
        asking.start()

        def none() -> bool:
            # Timers hold who has ended for a short while.
            return not asking.is_alive() and alive() == before

        every = Every(loop, none)
        loop.at(0.0, every)
        loop.run()
        asking.join()
        assert every.ok
        sock.close()


@pytest.mark.parametrize(
    ("number", "held"),
    [
        (errno.EADDRNOTAVAIL, False),
        (errno.EMFILE, False),
        (errno.ENOBUFS, False),
        (errno.ENETUNREACH, True),
        (errno.EPERM, True),
    ],
)
def test_what_is_wanting_here_is_not_held_against_endpoints(
    number: int, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where those that fail are tried last."""
    here, there = (Endpoint(LO, port) for port in (1, 2))
    entrance = Entrance(Way((here, there), demote=True))
    loop = Loop()
    streams = Streams(loop, Random(), Limits())
    tried: list[Endpoint] = []

    def dial(of: Connection, sock: raw, command: Connect, port: int) -> int:
        tried.append(command.endpoint)
        return number

    monkeypatch.setattr(Connection, "_dial", dial)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        fd, (client, _) = server._accept()  # type: ignore[attr-defined]
        Connection(streams, entrance, True, raw(socket.AF_INET, socket.SOCK_STREAM, 0, fd), client)
        assert {*tried} == {here, there}
        assert not streams.all
        loop.again(loop.stop)
        loop.run()
    first = next(entrance.balancer.choose(LO, loop.now, Random()))
    assert (first == tried[0]) or not held
    assert entrance.balancer._failed.keys() == ({here, there} if held else set())
