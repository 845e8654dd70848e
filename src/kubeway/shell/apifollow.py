"""
Drives the reflector of one kind of objects: fetches bytes for it and does what it commands.

    API ─► bytes ─► reflector ─► Put: decoded, into the store  ─► `changed`, once a batch
                        │        Drop: out of the store
                        └──────► the next request, or how long to wait

A request is always open, or its time is waited for. An object that cannot be decoded is
recorded and left out; the rest goes on. When to ask what is the machine's to know
(`machines.reflector`); what the objects mean is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from kubeway.errors import BadInput, BadObject, KubewayError
from kubeway.machines.reflector import (
    Command,
    Drop,
    List,
    Next,
    Put,
    Reflector,
    Refresh,
    State,
    Synced,
    Unread,
    Wait,
    Watch,
)
from kubeway.model.objects import EndpointSlice, Identity
from kubeway.model.parse import decode_object
from kubeway.model.store import Store
from kubeway.records import (
    ApiAbsent,
    ApiBack,
    ApiListed,
    ApiRequested,
    ApiTrouble,
    Heard,
    ObjectBad,
    Recorder,
)
from kubeway.shell.noted import Noted
from kubeway.wire.watch import Failure, read_status

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

    from kubeway.shell.apiserver import Access

# Decoding more objects than this takes so long that others on the loop should have their turn.
_MANY: Final = 500
_STATUS_MAX: Final = 1 << 16


class Batch:
    """What came in one go, and what it did."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.version = ""
        self.synced: Synced | None = None
        self.listed = 0
        """What of the round that ended with this batch was news."""
        self.writes: list[str] = []
        """The versions of single writes, but for those of objects that could not be read."""
        self.news = 0
        self.next: Next | None = None


class Follower:
    """`folded` is told of each batch once it is in the store, and after `changed`."""

    def __init__(
        self,
        *,
        kind: str,
        path: str,
        machine: Reflector,
        access: Access,
        store: Store,
        record: Recorder,
        clock: Callable[[], float],
        changed: Callable[[], None],
        folded: Callable[[Batch], None],
        noted: Noted | None,
    ) -> None:
        self._kind, self._path, self._machine, self._access = kind, path, machine, access
        self._store, self._record, self._clock = store, record, clock
        self._folded, self._changed, self._noted = folded, changed, noted
        # What is wrong with objects, as told: each once, as long as it is so.
        self._bad: dict[Identity, frozenset[str]] = {}
        # The round at hand: when it began, and what of it was news.
        self._began: float | None = None
        self._news = 0
        self._listed = False
        self._away_since: float | None = None

    async def run(self, session: ClientSession) -> None:
        step = await self._decided(self._machine.tick(self._clock()))
        while True:
            if isinstance(step, List | Watch):
                step = await self._ask(session, step)
                continue
            self._tell_trouble(step)
            await asyncio.sleep(max(0.0, step.until - self._clock()))
            if isinstance(step, Refresh):
                # After the wait: what is put in place meanwhile is not to wait for another refusal.
                await self._refresh()
            step = await self._decided(self._machine.tick(self._clock()))

    # --- requests ---------------------------------------------------------------------------------

    async def _ask(self, session: ClientSession, request: List | Watch) -> Next:
        """Make the request and take in its answer; what to do next."""
        from aiohttp import ClientError

        if self._began is None and self._machine.state is not State.WATCHING:
            # What the watch before has told is no news of this round.
            self._began, self._news = self._clock(), 0
        try:
            return await self._converse(session, request)
        except TimeoutError:
            failure = Failure(0, message="the API server is silent")
        except (ClientError, OSError, KubewayError) as error:
            failure = Failure(0, message=" ".join(str(error).split()) or type(error).__name__)
        return await self._decided(self._machine.failed(failure, self._clock()))

    async def _converse(self, session: ClientSession, request: List | Watch) -> Next:
        machine, loop = self._machine, asyncio.get_running_loop()
        # First this, as it may change the rest. A plugin has a time of its own, and may well
        # take longer than the server may be silent.
        headers = await self._access.headers()
        ends = loop.time() + request.total

        def patience() -> float:
            return min(ends, loop.time() + machine.silence)

        async with asyncio.timeout_at(patience()) as limit:
            response = await self._open(session, request, headers)
            try:
                if response.status != 200:
                    limit.reschedule(None)
                    commands = machine.failed(await _refusal(response, machine.silence), self._clock())
                else:
                    self._tell_back()
                    commands = machine.opened(self._clock())
                    async for data in response.content.iter_any():
                        # The machine takes it that what it commands is done: nothing may interrupt that.
                        limit.reschedule(None)
                        step = await self._fold(machine.received(data, self._clock()))
                        if step is not None:
                            return step
                        limit.reschedule(patience())
                    commands = machine.closed(self._clock())
                limit.reschedule(None)
            finally:
                # Fully read, the connection is kept; else it is of no more use.
                response.release()
        return await self._decided(commands)

    async def _open(
        self, session: ClientSession, request: List | Watch, headers: dict[str, str]
    ) -> ClientResponse:
        """The head of the answer. Recorded, whatever comes."""
        access, began, code = self._access, self._clock(), "<error>"
        try:
            response = await session.get(
                access.server.rstrip("/") + self._path,
                params=request.params,
                headers=headers,
                ssl=access.ssl if access.ssl is not None else True,
                server_hostname=access.server_hostname,
                proxy=access.proxy,
                allow_redirects=False,
            )
            code = str(response.status)
        finally:
            host = urlsplit(access.server).netloc.rpartition("@")[2]
            self._record(ApiRequested("GET", host, code, self._clock() - began))
        return response

    async def _refresh(self) -> None:
        try:
            await self._access.refresh()
        except (KubewayError, OSError) as error:
            self._record(ApiTrouble(self._kind, f"credentials: {error}"))

    # --- commands ---------------------------------------------------------------------------------

    async def _decided(self, commands: Sequence[Command]) -> Next:
        """As `_fold`, where there is nothing more to read."""
        step = await self._fold(commands)
        assert step is not None
        return step

    async def _fold(self, commands: Sequence[Command]) -> Next | None:
        """Do as commanded; what to do next, None: go on reading."""
        batch = Batch(self._kind)
        for number, command in enumerate(commands, 1):
            self._do(command, batch)
            if number % _MANY == 0:
                await asyncio.sleep(0)
        batch.version = self._machine.version
        if batch.news:
            counts = {"Service": (batch.news, 0), "EndpointSlice": (0, batch.news)}
            if batch.kind in counts:
                self._record(Heard(*counts[batch.kind]))
            self._changed()
        self._folded(batch)
        if batch.synced is not None:
            self._tell_synced(batch.synced, batch.listed)
        return batch.next

    def _do(self, command: Command, batch: Batch) -> None:
        if isinstance(command, Put):
            news = self._put(command, batch)
        elif isinstance(command, Drop):
            news = self._drop(command.key)
            batch.writes.append(command.version)
        elif isinstance(command, Synced):
            batch.synced, batch.listed = command, self._news
            # What a list brought are not the writes themselves.
            batch.writes.clear()
            return
        elif isinstance(command, Unread):
            self._record(ObjectBad(f"{self._kind} from the API", command.problem))
            return
        else:
            batch.next = command
            return
        batch.news += news
        self._news += news

    def _put(self, put: Put, batch: Batch) -> bool:
        try:
            found, problems = decode_object(put.raw, self._kind)
        except BadInput as bad:
            found, problems = None, [BadObject(str(put.key), str(bad))]
        if problems or put.key in self._bad:
            self._tell_bad(put.key, problems)
        if found is None:
            # Nobody is to be told that this write is in force because it, and it alone, was heard.
            return self._drop(put.key, told=True)
        batch.writes.append(put.version)
        changed = self._store.put(found)
        if self._noted is not None and isinstance(found, EndpointSlice):
            self._noted.put(found, put.raw, changed and self._listed)
        return changed

    def _drop(self, key: Identity, told: bool = False) -> bool:
        if not told:
            self._bad.pop(key, None)
        if self._noted is not None:
            self._noted.drop(key)
        return self._store.drop(key)

    # --- records ----------------------------------------------------------------------------------

    def _tell_bad(self, key: Identity, problems: Sequence[BadObject]) -> None:
        """Each problem of an object once, as long as it has it."""
        before = self._bad.pop(key, frozenset())
        for problem in problems:
            if str(problem) not in before:
                self._record(ObjectBad(problem.where, problem.problem))
        if problems:
            self._bad[key] = frozenset(map(str, problems))

    def _tell_synced(self, synced: Synced, news: int) -> None:
        kind = self._kind
        if synced.absent:
            self._record(ApiAbsent(kind, synced.absent))
        else:
            took = self._clock() - (self._began or 0.0)
            self._record(ApiListed(kind, len(self._machine.known), news, took))
        self._began, self._listed = None, True

    def _tell_trouble(self, step: Wait | Refresh) -> None:
        if not step.problem:
            return
        now = self._clock()
        if self._away_since is None:
            self._away_since = now
        self._record(ApiTrouble(self._kind, step.problem, max(0.0, step.until - now)))

    def _tell_back(self) -> None:
        if self._away_since is not None:
            self._record(ApiBack(self._kind, self._clock() - self._away_since))
            self._away_since = None


async def _refusal(response: ClientResponse, patience: float) -> Failure:
    """What an answer other than 200 says. Its status counts even if its words do not arrive."""
    from aiohttp import ClientError

    try:
        async with asyncio.timeout(patience):
            body = await response.content.readexactly(_STATUS_MAX)
    except asyncio.IncompleteReadError as all_of_it:
        body = all_of_it.partial
    except (ClientError, OSError, TimeoutError):
        body = b""
    return read_status(body, response.status, _seconds(response))


def _seconds(response: ClientResponse) -> float:
    """The API says Retry-After in whole seconds; the date that HTTP allows too, it never uses."""
    after = response.headers.get("Retry-After", "").strip()
    return float(after) if after.isascii() and after.isdigit() and len(after) < 10 else 0.0
