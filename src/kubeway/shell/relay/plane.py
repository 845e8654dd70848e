"""
The relay plane: worker processes that carry connections, told the ways by this one, the control process.

What they hold is known here, as nobody else can change it. A worker that dies is started again and told
everything; its listeners are open here all the time, so those who come meanwhile wait and are not refused.
What it carried breaks.

Nothing is carried here, and nothing that is carried waits for this process.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from kubeway import records
from kubeway.errors import Malformed
from kubeway.planes.relay.datagram import IDLE
from kubeway.planes.relay.entrance import Tally
from kubeway.planes.relay.objects import PLANE, Way
from kubeway.planes.relay.stream import LIMITS, Limits
from kubeway.program.program import Change, Key, Object
from kubeway.shell.clock import monotonic
from kubeway.shell.relay.listeners import Listening, listen
from kubeway.shell.relay.orders import Answer, Ask, Begin, Done, Given, Order, Put, Stop, Told, answers, frame

_AT_ONCE: Final = 100
"""Ways told in one order: a worker carries on between two."""
_READ: Final = 1 << 16
_QUICK: Final = 1.0  # seconds; a worker that lives for less is not started again at once
_PAUSE: Final = 0.1  # seconds, doubled with each that dies so soon
_LONGEST: Final = 5.0
_ANSWER: Final = 10.0  # seconds that a worker has to answer, before it is ended and started anew
_END: Final = 5.0  # seconds that a worker has to end when it is told to
_EXIT: Final = 0.2  # and when it was seen to close its channel, which is the last it does
_DIED: Final = "it died"

Made = list[tuple[Listening, list[socket.socket]]]


class RelayPlane:
    """`listeners`: where ways are come by; sockets are opened at once, in this thread's network namespace.

    `workers`: how many processes share the work. With several, turns are each one's own. `limits`: of each
    connection; `idle`: seconds for which a UDP session is kept when both have spoken and both are silent.
    `record` hears of workers that died.

    The workers are started by the first write, and belong to the loop that runs it. Refused if a
    socket cannot be had.
    """

    verify: Final = float("inf")
    """Nobody else can change what is held, so there is nothing to be looked for."""

    def __init__(
        self,
        listeners: Sequence[Listening],
        program: Mapping[Key, Object] | None = None,
        *,
        workers: int = 1,
        limits: Limits = LIMITS,
        idle: float = IDLE,
        record: records.Recorder = lambda record: None,
    ) -> None:
        self.program: Mapping[Key, Object] = {} if program is None else program
        self._limits, self._idle, self.record = limits, idle, record
        self._held: dict[Key, Way] = {}
        self._sockets: Made = []
        self._past: dict[Key, Tally] = {}
        self._closed = False
        self._generation = 0
        try:
            for what in listeners:
                self._sockets.append((what, listen(what, workers)))
        except BaseException:
            self._close_sockets()
            raise
        self._workers = [_Worker(self, number / workers, number) for number in range(workers)]

    def ports(self) -> list[int]:
        """The ports of the listeners, in their order."""
        return [sockets[0].getsockname()[1] for _, sockets in self._sockets]

    def close(self, patience: float = 0.0) -> None:
        """Take nobody any more. Connections break, or have so many seconds to end by themselves.

        With patience the workers go on alone, and nobody waits for them.
        """
        self._closed = True
        self._close_sockets()
        for worker in self._workers:
            worker.stop(patience)
        if not patience:
            for worker in self._workers:
                worker.end(_END)

    def _close_sockets(self) -> None:
        for _, sockets in self._sockets:
            for sock in sockets:
                sock.close()

    def generation(self) -> int:
        """Another number after each write; nobody else changes anything."""
        return self._generation

    async def read(self) -> dict[Key, Object]:
        return dict(self._held)

    async def write(self, changes: Sequence[Change]) -> None:
        """Make the changes; when this returns every worker goes by them, or will when it is started.

        The first write starts the workers, so they never know less than it tells: rules of a daemon before
        may send them clients at once.
        """
        self._generation += bool(changes)
        for change in changes:
            if change.new is None:
                self._held.pop(change.key, None)
                self._past.pop(change.key, None)
            else:
                self._held[change.key] = change.new
        fresh = [worker for worker in self._workers if worker.start()]
        await asyncio.gather(*(worker.ask(lambda n: Put(n, [])) for worker in fresh))
        others = [worker for worker in self._workers if worker not in fresh]
        ways = [(change.key.name, change.new) for change in changes]
        for at in range(0, len(ways), _AT_ONCE):
            some = ways[at : at + _AT_ONCE]
            await asyncio.gather(*(one.ask(lambda n: Put(n, some)) for one in others))  # noqa: B023

    async def counters(self) -> dict[Key, Tally]:
        """What the ways that are open have carried; what a worker carried after it last told dies with it."""
        await asyncio.gather(*(one.ask(Ask) for one in self._workers))
        found: dict[Key, Tally] = {}
        for tallies in (self._past, *(one.tallies for one in self._workers)):
            for key, tally in tallies.items():
                if key in self._held:
                    found.setdefault(key, Tally()).add(tally)
        return found

    @property
    def open(self) -> int:
        """Connections, as last told."""
        return sum(worker.open for worker in self._workers)

    @property
    def shed(self) -> int:
        """Connections let go for lack of descriptors, as last told, by the workers there are."""
        return sum(worker.shed for worker in self._workers)

    @property
    def processes(self) -> list[int]:
        """Of the workers that live."""
        return [one.process.pid for one in self._workers if one.process is not None]

    # --- for the workers ------------------------------------------------------------------

    def beginning(self, number: int, start: float) -> tuple[bytes, list[int]]:
        """What a worker begins with, and the descriptors it is to inherit."""
        given = [
            Given(sockets[number].fileno(), what.proto, what.list_, what.keeps)
            for what, sockets in self._sockets
        ]
        ways = [(key.name, way) for key, way in self._held.items()]
        begin = Begin(given, self._limits, start, self._idle, number, len(self._workers))
        return (
            b"".join((frame(begin), frame(Put(0, list(ways))))),
            [one.fd for one in given],
        )

    def past(self, tallies: Mapping[Key, Tally]) -> None:
        """What a worker that died had carried."""
        for key, tally in tallies.items():
            self._past.setdefault(key, Tally()).add(tally)

    @property
    def closed(self) -> bool:
        return self._closed


class _Worker:
    """A process, and its successors. `start`: where turns begin."""

    def __init__(self, plane: RelayPlane, start: float, number: int) -> None:
        self._plane, self._turn, self._number = plane, start, number
        self.process: subprocess.Popen[bytes] | None = None
        self.tallies: dict[Key, Tally] = {}
        self.open = self.shed = 0
        self._channel: socket.socket | None = None
        self._frames = answers()
        self._unsent = b""
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._count = 0
        self._started_at = 0.0
        self._pause = 0.0
        self._waits: asyncio.TimerHandle | None = None

    def start(self) -> bool:
        """Unless it runs, or is waited with; whether it was."""
        if self._channel is not None or self._waits is not None or self._plane.closed:
            return False
        loop = asyncio.get_running_loop()
        begin, inherited = self._plane.beginning(self._number, self._turn)
        ours, its = socket.socketpair()
        file = os.memfd_create("kubeway-relay")
        try:
            with open(file, "wb", closefd=False) as written:
                written.write(begin)
            words = [sys.executable, "-m", "kubeway.shell.relay.worker", str(its.fileno()), str(file)]
            # Not waited for: in the time it takes to start, whoever comes waits with the listener.
            self.process = subprocess.Popen(  # noqa: S603 (our own module)
                words,
                pass_fds=[its.fileno(), file, *inherited],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # who reads ours does not wait for its end
            )
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()
            os.close(file)
        ours.setblocking(False)
        self._channel, self._started_at = ours, monotonic()
        self._frames, self._unsent = answers(), b""
        loop.add_reader(ours, self._heard)
        return True

    async def ask(self, order: Callable[[int], Order]) -> None:
        """Tell it, and wait for its answer. One that dies meanwhile will know all there is to be told."""
        if self._channel is None:
            return
        loop = asyncio.get_running_loop()
        self._count += 1
        number = self._count
        answer: asyncio.Future[Answer] = loop.create_future()
        self._asked[number] = answer
        self._unsent += frame(order(number))
        self._flush()
        try:
            async with asyncio.timeout(_ANSWER):
                await answer
        except TimeoutError:
            self._gone("it does not answer")
        finally:
            self._asked.pop(number, None)

    def _flush(self) -> None:
        loop, channel = asyncio.get_running_loop(), self._channel
        if channel is None:
            return
        try:
            sent = channel.send(self._unsent) if self._unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the reader is told
        self._unsent = self._unsent[sent:]
        if self._unsent:
            loop.add_writer(channel, self._flush)
        else:
            loop.remove_writer(channel)

    def _heard(self) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            data = channel.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._gone(_DIED)
            return
        try:
            for answer in self._frames.feed(data):
                self._told(answer)
        except Malformed as error:
            self._gone(str(error))

    def _told(self, answer: Order | Answer) -> None:
        if isinstance(answer, Told):
            self.tallies = {Key(PLANE, "way", tuple(name)): tally for name, tally in answer.tallies}
            self.open, self.shed = answer.open, answer.shed
        if isinstance(answer, (Done, Told)):
            waiting = self._asked.get(answer.number)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)

    # --- its end ------------------------------------------------------------------------

    def _gone(self, why: str) -> None:
        """It is not to be reckoned with any more: end it, and start another one."""
        process = self.process
        self._let_go()
        if process is not None and why != _DIED:
            process.kill()
        code = self.end(_EXIT)
        self._plane.past(self.tallies)
        self.tallies, self.open, self.shed = {}, 0, 0
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_result(Done(0))
        if self._plane.closed:
            return
        quick = monotonic() - self._started_at < _QUICK
        self._pause = min(_LONGEST, max(_PAUSE, 2 * self._pause)) if quick else 0.0
        pid = process.pid if process is not None else 0
        self._plane.record(records.RelayWorkerDied(pid, f"{why} ({code})", self._pause))
        if self._pause:
            self._waits = asyncio.get_running_loop().call_later(self._pause, self._start_again)
        else:
            self._start_again()

    def _start_again(self) -> None:
        self._waits = None
        self.start()

    def _let_go(self) -> None:
        if self._channel is not None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                pass  # it has ended, and its readers with it
            else:
                loop.remove_reader(self._channel)
                loop.remove_writer(self._channel)
            self._channel.close()
            self._channel = None

    def stop(self, patience: float) -> None:
        """Tell it to end."""
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None
        if self._channel is not None:
            try:
                self._channel.send(self._unsent + frame(Stop(0, patience)))
            except OSError:
                if self.process is not None:
                    self.process.kill()  # it does not read, or is gone
        self._let_go()
        if patience and self.process is not None:
            self.process.returncode = 0  # nobody will wait for it, and Popen is not to mind
            self.process = None

    def end(self, patience: float) -> str:
        """See that it has ended within so many seconds, and say how."""
        process, self.process = self.process, None
        if process is None:
            return "not started"
        try:
            code = process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
