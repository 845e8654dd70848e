"""
The relay plane: worker processes that carry connections, told the ways by this one, the control process.

What they hold is known here, as nobody else can change it. A worker that dies is started again and told
everything; its listeners are open here all the time, so those who come meanwhile wait and are not refused.
What it carried breaks.

With a name to be asked by, this process can go and the workers stay, until a successor has the listeners
(`handover`).

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

from msgspec.structs import replace

from kubeway import records
from kubeway.errors import Lost, Malformed
from kubeway.planes.relay.datagram import IDLE
from kubeway.planes.relay.entrance import Tally
from kubeway.planes.relay.objects import PLANE, Way
from kubeway.planes.relay.stream import LIMITS, Limits
from kubeway.program.program import Change, Key, Object
from kubeway.shell.clock import monotonic
from kubeway.shell.relay.generation import Generation, Handed, inherit
from kubeway.shell.relay.listeners import Listening, listen, spread
from kubeway.shell.relay.orders import (
    Answer,
    Ask,
    Begin,
    Done,
    Given,
    Order,
    Put,
    Stop,
    Sums,
    Told,
    answers,
    frame,
)

_AT_ONCE: Final = 100
"""Ways told in one order: a worker carries on between two."""
_READ: Final = 1 << 16
_QUICK: Final = 1.0  # seconds; a worker that lives for less is not started again at once
_PAUSE: Final = 0.1  # seconds, doubled with each that dies so soon
_LONGEST: Final = 5.0
_ANSWER: Final = 10.0  # seconds that a worker has to answer, before it is ended and started anew
_START: Final = 60.0  # and those it has to begin: where processors are wanted badly, that alone takes ten
_END: Final = 5.0  # seconds that a worker has to end when it is told to
_EXIT: Final = 0.2  # and when it was seen to close its channel, which is the last it does
_HANDOVER: Final = 1.0  # seconds that those before have to take nobody any more; as their successors wait
_SOON: Final = 0.005
_DIED: Final = "it died"
_NO_START: Final = "relay worker cannot be started"

Made = list[tuple[Listening, list[socket.socket]]]


class RelayPlane:
    """`listeners`: where ways are come by; sockets are opened at once, in this thread's network namespace.

    `workers`: how many processes share the work. With several, turns are each one's own. `limits`: of each
    connection; `idle`: seconds for which a UDP session is kept when both have spoken and both are silent.
    `mark`: of every packet they send (SO_MARK), 0 for none. `name`: of the desk at which a successor asks;
    those who have it now are asked for their listeners. Without, workers take nobody when this process has
    ended. `record` hears of workers that died, and of predecessors and successors.

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
        mark: int = 0,
        name: str = "",
        record: records.Recorder = lambda record: None,
    ) -> None:
        self.program: Mapping[Key, Object] = {} if program is None else program
        self._limits, self._idle, self._mark, self.record = limits, idle, mark, record
        self._held: dict[Key, Way] = {}
        self._sockets: Made = []
        self._past: dict[Key, Tally] = {}
        self._past_sums = Sums()
        self._closed = self._stands = False
        self._writing = asyncio.Lock()
        self._number = 0
        self._listeners, self._name, self._count = list(listeners), name, workers
        self._shared: Generation | None = None
        self._workers = [_Worker(self, number / workers, number) for number in range(workers)]
        self._open(*inherit(name, workers) if name else (None, {}, ""))

    def _open(self, shared: Generation | None, handed: Handed, problem: str) -> None:
        """The listeners: those that were handed over, and what is wanted beside them. Refused."""
        self._shared = shared
        left = dict(handed)
        try:
            for what in self._listeners:
                self._sockets.append((what, listen(what, self._count, left.pop(what, ()), self._mark)))
        except BaseException:
            self._close_shared()
            raise
        finally:
            for sockets in left.values():
                for sock in sockets:
                    sock.close()
        if problem:
            self.record(records.HandoverFailed(problem))
        elif handed:
            self.record(records.ListenersInherited(sum(map(len, handed.values()))))

    def ports(self) -> list[int]:
        """The ports of the listeners, in their order."""
        return [sockets[0].getsockname()[1] for _, sockets in self._sockets]

    def close(self, patience: float = 0.0) -> None:
        """Take nobody any more. Connections break, or have so many seconds to end by themselves.

        With patience the workers go on alone, and nobody waits for them.
        """
        self._closed = True
        self._close_shared()
        for worker in self._workers:
            worker.stop(patience)
        if not patience:
            for worker in self._workers:
                worker.end(_END)

    def _close_shared(self) -> None:
        """What is shared with the workers; they have it still."""
        for _, sockets in self._sockets:
            for sock in sockets:
                sock.close()
        self._sockets = []
        if self._shared is not None:
            self._listen_for(self._shared, None)
            self._shared.close()
            self._shared = None

    def generation(self) -> int:
        """Another number after each write; nobody else changes anything."""
        return self._number

    async def read(self) -> dict[Key, Object]:
        return dict(self._held)

    async def write(self, changes: Sequence[Change]) -> None:
        """Make the changes; when this returns every worker goes by them, or will when it is started.

        The first write starts the workers, so they never know less than it tells: rules of a daemon before
        may send them clients at once. With it these workers take over from those before.

        Nothing is done once a successor has taken over.
        """
        async with self._writing:
            if not self._closed:
                await self._write(changes)

    async def stand(self) -> None:
        """See that workers have been started, as by a first write, even if nothing was written. Lost."""
        if self._stands:
            return
        try:
            await self.write([])
        except OSError as error:
            raise Lost(f"relay: workers cannot be started: {error}") from error

    async def _write(self, changes: Sequence[Change]) -> None:
        self._number += bool(changes)
        for change in changes:
            if change.new is None:
                self._held.pop(change.key, None)
                self._past.pop(change.key, None)
            else:
                self._held[change.key] = change.new
        fresh = await self._start()
        while not self._stands:
            self._stands = await self._take()
            if not self._stands:
                await self._inherit_again()
                fresh = await self._start()
        others = [worker for worker in self._workers if worker not in fresh]
        ways = [(change.key.name, change.new) for change in changes]
        for at in range(0, len(ways), _AT_ONCE):
            some = ways[at : at + _AT_ONCE]
            await asyncio.gather(*(one.ask(lambda n: Put(n, some)) for one in others))  # noqa: B023

    async def _start(self) -> list[_Worker]:
        """Those that did not run, and do now."""
        fresh = [worker for worker in self._workers if worker.start()]
        await asyncio.gather(*(worker.ask(lambda n: Put(n, [])) for worker in fresh))
        return fresh

    # --- those before, and those after --------------------------------------------------------

    async def _take(self) -> bool:
        """The workers know all ways: from now on they take the clients. False if others were faster."""
        shared = self._shared
        if shared is None:
            return True
        if not shared.take():
            return False
        for what, sockets in self._sockets:
            spread(what, sockets, self._mark)
        self._listen_for(shared, self._succeeded)
        until = monotonic() + _HANDOVER
        while not shared.is_alone() and monotonic() < until:  # noqa: ASYNC110 (milliseconds, and once)
            await asyncio.sleep(_SOON)
        shared.forget()
        return True

    async def _inherit_again(self) -> None:
        """Who was asked has handed over to others: ask these."""
        for worker in self._workers:
            worker.stop(0.0)
            worker.end(_END)
        self._close_shared()
        self._open(*await asyncio.to_thread(inherit, self._name, self._count))

    def _listen_for(self, shared: Generation, then: Callable[[], None] | None) -> None:
        """Be told of the end of these workers' turn; None: no more."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # it has ended, and its readers with it
        for fd in (shared.taken, shared.over):
            if then is None:
                loop.remove_reader(fd)
            else:
                loop.add_reader(fd, then)

    def _succeeded(self) -> None:
        """The workers know it already. They carry on what they have, and end."""
        self._closed = True
        self.record(records.Succeeded())
        self._close_shared()  # at which others know that nothing is written here any more

    async def counters(self) -> dict[Key, Tally]:
        """What the ways that are open have carried; what a worker carried after it last told dies with it."""
        await asyncio.gather(*(one.ask(Ask) for one in self._workers))
        found: dict[Key, Tally] = {}
        for tallies in (self._past, *(one.tallies for one in self._workers)):
            for key, tally in tallies.items():
                if key in self._held:
                    found.setdefault(key, Tally()).add(tally)
        return found

    async def ask(self, patience: float) -> None:
        """Have the workers tell what `sums` is to know; not longer than so many seconds.

        Who does not answer in that time is not waited for: its answer counts when it comes.
        """
        owed = [answer for one in self._workers if (answer := one.inquire()) is not None]
        if owed:
            await asyncio.wait(owed, timeout=patience)

    def sums(self) -> Sums:
        """As last told, those of workers that died included; but for what was going on with them."""
        found = self._past_sums
        for worker in self._workers:
            found = found.plus(worker.sums)
        return found

    @property
    def open(self) -> int:
        """Connections, as last told."""
        return sum(worker.sums.open for worker in self._workers)

    @property
    def shed(self) -> int:
        """Connections let go for lack of descriptors, as last told, by the workers there are."""
        return sum(worker.sums.shed for worker in self._workers)

    @property
    def processes(self) -> list[int]:
        """Of the workers that live."""
        return [one.process.pid for one in self._workers if one.process is not None]

    # --- for the workers ------------------------------------------------------------------

    def beginning(self, number: int, start: float) -> tuple[bytes, list[int]]:
        """What a worker begins with, and the descriptors it is to inherit."""
        shared = self._shared
        given = [
            _given(what, sock, member)
            for what, sockets in self._sockets
            for member, sock in enumerate(sockets)
            if shared is not None or member == number
        ]
        papers = None if shared is None else shared.papers(number)
        turn = 0 if shared is None else shared.turn
        begin = Begin(given, self._limits, start, self._idle, number, self._count, turn, papers, self._mark)
        ways = [(key.name, way) for key, way in self._held.items()]
        return (
            b"".join((frame(begin), frame(Put(0, list(ways))))),
            [*(one.fd for one in given), *(() if papers is None else papers.all)],
        )

    def past(self, tallies: Mapping[Key, Tally], sums: Sums) -> None:
        """What a worker that died had carried."""
        self._past_sums = self._past_sums.plus(replace(sums, open=0, waiting=0, sessions=0))
        for key, tally in tallies.items():
            self._past.setdefault(key, Tally()).add(tally)

    @property
    def closed(self) -> bool:
        return self._closed


def _given(what: Listening, sock: socket.socket, member: int) -> Given:
    ip, port, transparent = what.ip, what.port, what.transparent
    return Given(sock.fileno(), what.proto, what.list_, what.keeps, ip, port, transparent, member)


class _Worker:
    """A process, and its successors. `start`: where turns begin."""

    def __init__(self, plane: RelayPlane, start: float, number: int) -> None:
        self._plane, self._turn, self._number = plane, start, number
        self.process: subprocess.Popen[bytes] | None = None
        self.tallies: dict[Key, Tally] = {}
        self.sums = Sums()
        self._channel: socket.socket | None = None
        self._frames = answers()
        self._unsent = b""
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._count = 0
        self._inquiry: asyncio.Future[Answer] | None = None
        self._inquired_at = 0.0
        self._started_at = 0.0
        self._began = False
        self._pause = 0.0
        self._waits: asyncio.TimerHandle | None = None

    def start(self) -> bool:
        """Unless it runs, or is waited with; whether it was. Lost if there can be no process."""
        if self._channel is not None or self._waits is not None or self._plane.closed:
            return False
        try:
            self._spawn()
        except OSError as error:
            raise Lost(f"{_NO_START}: {error}") from error
        return True

    def _spawn(self) -> None:
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
        self._channel, self._started_at, self._began = ours, monotonic(), False
        self._frames, self._unsent = answers(), b""
        loop.add_reader(ours, self._heard)

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
            async with asyncio.timeout(_ANSWER if self._began else _START):
                await answer
        except TimeoutError:
            self._gone("it does not answer")
        finally:
            self._asked.pop(number, None)

    def inquire(self) -> asyncio.Future[Answer] | None:
        """Have it tell what was carried: its answer, which is not to be waited for without end. None: it does
        not run. It is not asked twice before it has answered; who owes an answer for too long is ended."""
        if self._channel is None:
            return None
        if self._inquiry is not None and not self._inquiry.done():
            if monotonic() - self._inquired_at < _ANSWER:
                return self._inquiry
            self._gone("it does not answer")
            return None
        self._count += 1
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[self._count] = self._inquiry = answer
        self._inquired_at = monotonic()
        self._unsent += frame(Ask(self._count, ways=False))
        self._flush()
        return answer

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
            if answer.tallies:
                self.tallies = {Key(PLANE, "way", tuple(name)): tally for name, tally in answer.tallies}
            self.sums = answer.sums
        if isinstance(answer, (Done, Told)):
            self._began = True
            waiting = self._asked.pop(answer.number, None)
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
        self._plane.past(self.tallies, self.sums)
        self.tallies, self.sums = {}, Sums()
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_result(Done(0))
        self._asked.clear()
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
        try:
            self.start()
        except Lost as error:
            self._pause = min(_LONGEST, max(_PAUSE, 2 * self._pause))
            self._plane.record(
                records.RelayWorkerDied(0, f"cannot be started: {error.__cause__}", self._pause)
            )
            self._waits = asyncio.get_running_loop().call_later(self._pause, self._start_again)

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
