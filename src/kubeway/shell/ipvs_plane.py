"""
The ipvs plane: virtual servers and their destinations in this network namespace, over generic netlink.

Changes are sent a thousand at once and taken one by one, so after Refused the others were made. A
destination that goes is left to those who are connected (`tend`): its weight 0 in the kernel is all that
says so, and a daemon that is started anew finds it there. How long it may take, `machines/drain.py` knows.

Source: net/netfilter/ipvs/ip_vs_ctl.c; each answer was tried on kernel 6.1.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from struct import Struct
from threading import Lock
from typing import Final

from kubeway import records
from kubeway.errors import KubewayError, Lost, Refused, Stale, Unsupported
from kubeway.machines.drain import Drain
from kubeway.planes.ipvs.describe import describe, show_server
from kubeway.planes.ipvs.lift import Name, Ours, Told, lift, lift_timeouts, read_servers
from kubeway.planes.ipvs.lower import STILL, arrange, instead, is_done, lower
from kubeway.planes.ipvs.objects import (
    PLANE,
    TIMEOUTS,
    Server,
    server_key,
)
from kubeway.program.program import Change, Key, Object, Origin
from kubeway.shell.aloof import aloof
from kubeway.shell.clock import monotonic
from kubeway.shell.netlink import NetlinkSocket
from kubeway.shell.netlink import describe as failure
from kubeway.shell.sightings import Sightings
from kubeway.values import TCP, parse_ip
from kubeway.wire import ip_vs_list
from kubeway.wire import ipvs as wire
from kubeway.wire.genetlink import NETLINK_GENERIC, acked, family_request, read_family
from kubeway.wire.netlink import Ack
from kubeway.wire.nfnetlink import number

# Of the thread's network namespace, which need not be the process's.
LIST: Final = Path("/proc/thread-self/net/ip_vs")

_PROBE: Final = (parse_ip("198.51.100.0"), TCP, 20000)  # nobody's address (RFC 5737), and kube-proxy's choice

_AT_ONCE: Final = 1000  # as many messages keep ip_vs's lock for some 5 ms
_READ_TRIES: Final = 10
# To ask more servers than this for their destinations takes longer than to read the list of a thousand.
_MANY: Final = 100
_BUSY: Final = 0.5  # seconds after which to try again when another thread is at work

_SO_GET_INFO: Final = 64 + 1024 + 64 + 1  # IP_VS_SO_GET_INFO
_INFO: Final = Struct("=III")  # version, size of the table of connections, services

Failed = list[tuple[Change, Ack]]


class IpvsPlane:
    """The virtual servers of this network namespace that are in `program`, and those that are ours besides.

    `ours()` is asked at each read, and its answer for each server that is not in `program`: True for one
    that is reported all the same, so that it is deleted; False for one that is somebody else's. Servers that
    are called by a packet mark always are. `limit`: seconds after which a destination that goes is taken
    away even if it has connections. `origin`: whose an object is, for errors.

    Needs CAP_NET_ADMIN. Unsupported if this kernel has no ip_vs.
    """

    verify: Final = 30.0
    """Seconds after which to read without a doubt, too, as `generation` does not see everything."""

    def __init__(
        self,
        program: Mapping[Key, Object] | None = None,
        ours: Callable[[], Ours] = lambda: lambda ip, proto, port: False,
        *,
        limit: float = 900.0,
        clock: Callable[[], float] = monotonic,
        origin: Callable[[Key], Origin | None] = lambda key: None,
        record: records.Recorder = lambda record: None,
    ) -> None:
        self.program: Mapping[Key, Object] = {} if program is None else program
        self.origin = origin
        self._ours, self._clock, self._record = ours, clock, record
        self._drain: Drain[Key] = Drain(limit)
        self._lock = Lock()
        """Of the socket and the drain: a thread may write while the loop tends."""
        self._sightings: Sightings[int] = Sightings()
        with ExitStack() as opened:
            self._socket = opened.enter_context(closing(NetlinkSocket(NETLINK_GENERIC)))
            self._family = _family(self._socket)
            self._list = opened.enter_context(closing(_Listing()))
            self._number = opened.enter_context(closing(_Number()))
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    def generation(self) -> int:
        """Moves when the number of IPv4 servers does, and by one for a write of ours (one system call).

        Not seen: IPv6, destinations, and a server in another's place. A read sees them (`verify`). Refused.
        """
        return self._sightings.look(self._number.read())

    # --- reading ----------------------------------------------------------------------

    async def read(self) -> dict[Key, Object]:
        return await asyncio.to_thread(self.read_now)

    def read_now(self) -> dict[Key, Object]:
        """Our servers and destinations, but for those that drain. Stale if others keep making servers.

        Those of another network namespace count: their going makes a dump pass ours over.
        """
        with self._lock:
            self._family = _family(self._socket)  # another one if the module was loaded anew
            servers = self._servers().ours(self.program, self._ours())
            objects, draining = lift(servers, self._destinations(servers), self.program)
            self._found(draining)
            if TIMEOUTS in self.program:
                asked = self._socket.ask(wire.get_timeouts(self._family))
                objects.update(lift_timeouts(asked, self.program))
            return objects

    def _servers(self) -> Told:
        # IPv6 servers are not counted. If one is passed over, it is added again, which sets it as it is; or
        # it is deleted after the next read; and what drains in it has its whole time once more.
        for _ in range(_READ_TRIES):
            told = read_servers(self._socket.dump(wire.get_services(self._family)))
            if told.fits(self._number.read()):
                return told
        raise Stale("ip_vs: servers came or went while they were read, ten times in a row")

    def _destinations(self, servers: Iterable[Name]) -> dict[Name, list[wire.Destination]]:
        """All of each of the servers; none of one that is gone."""
        names = set(servers)
        found: dict[Name, list[wire.Destination]] = {}
        if len(names) > _MANY:
            found = {name: ones for name, ones in ip_vs_list.read(self._list.read()) if name in names}
        for name in names - found.keys():
            answers = self._socket.dump(wire.get_destinations(self._family, name))
            found[name] = [wire.read_destination(m, len(name[0])) for m in answers]
        return found

    def _found(self, draining: Iterable[Key]) -> None:
        now, found = self._clock(), set(draining)
        for key in list(self._drain.draining - found):
            self._drain.back(key)  # gone, or somebody gave it a weight and it is an object again
        for key in found:
            self._drain.began(key, now)

    # --- writing ----------------------------------------------------------------------

    async def write(self, changes: Sequence[Change]) -> None:
        await aloof(self.write_now, changes)

    def write_now(self, changes: Sequence[Change]) -> None:
        """Make the changes, or raise Refused for the first that is; then all others were made."""
        if not changes:
            return
        with self._lock:
            self.generation()  # what others did until now is not taken for ours
            before = self._sightings.seen
            told, leaving = arrange(changes, self._drain.draining, self.program)
            failed, grown = self._make(told, set(leaving))
            self._settle(changes, leaving)
            self._committed((before or 0) + grown)
        if failed:
            raise self._refused(*failed[0])

    def _make(self, changes: list[Change], leaving: set[Key]) -> tuple[Failed, int]:
        """What was refused in the end; and by how many the IPv4 servers have grown."""
        failed, grown = self._send(changes)
        final: Failed = []
        again: list[Change] = []
        for change, ack in failed:
            if change.key in leaving and ack.errno in (errno.ENOENT, errno.ESRCH):
                continue
            other = instead(change, ack.errno)
            if other is not None:
                again.append(other)
            else:
                final.append((change, ack))
        if again:
            refused, more = self._send(again)
            final += refused
            grown += more
        return final, grown

    def _send(self, changes: Sequence[Change]) -> tuple[Failed, int]:
        """What was refused, but for what is as good as made; and by how many the IPv4 servers have grown."""
        failed: Failed = []
        grown = 0
        for at in range(0, len(changes), _AT_ONCE):
            some = changes[at : at + _AT_ONCE]
            refused = self._send_some(some)
            grown += sum(_growth(change) for change in some) - sum(_growth(change) for change, _ in refused)
            failed += (pair for pair in refused if not is_done(pair[0], pair[1].errno))
        return failed, grown

    def _send_some(self, changes: Sequence[Change]) -> Failed:
        messages = lower(changes, self._family)
        messages[-1] = acked(messages[-1])
        first = self._socket.reserve(len(messages))
        acks = {ack.sequence - first: ack for ack in self._socket.transact(number(messages, first))}
        if len(messages) - 1 not in acks:
            raise Lost("ip_vs: nothing was said of the last of the changes")
        return [(changes[at], ack) for at, ack in sorted(acks.items()) if ack.errno]

    def _settle(self, changes: Iterable[Change], leaving: Sequence[Key]) -> None:
        """Keep account of what drains now, and take away at once what nobody is connected to."""
        now = self._clock()
        servers = {c.key.name for c in changes if c.verb == "del" and c.key.kind == "server"}
        for key in [key for key in self._drain.draining if key.name[:3] in servers]:
            self._drain.back(key)
        for change in changes:
            if change.new is not None and change.key.kind == "destination":
                self._drain.back(change.key)
        for key in leaving:
            self._drain.began(key, now)
        if leaving:
            try:
                self._end(leaving, now)
            except KubewayError:
                return  # the machine has them, and `tend` will look again

    def _committed(self, expected: int) -> None:
        seen = self._number.read()
        self._sightings.wrote(seen, alone=seen == expected)

    def _refused(self, change: Change, ack: Ack) -> Refused:
        words = failure(ack)
        new = change.new
        if isinstance(new, Server) and ack.errno == errno.ENOENT:
            words = _without(new.scheduler)
        said = describe(change, self.program)
        return Refused(words, ack.errno, said, str(self.origin(change.key) or ""), change.key)

    # --- draining ---------------------------------------------------------------------

    def tend(self, now: float) -> float:
        """Take away the destinations that have drained. Returns when to be called again.

        inf: not before the next read or write; after each, the answer may be another. Cheap where nothing
        drains. What fails is told (`records.DrainDelayed`), and tried again with the next look.
        """
        if not self._lock.acquire(blocking=False):
            return now + _BUSY
        try:
            if keys := self._drain.look(now):
                self._end(keys, now)
        except KubewayError as error:
            self._record(records.DrainDelayed(str(error)))
        finally:
            self._lock.release()
        return self._drain.due(now)

    def _end(self, keys: Sequence[Key], now: float) -> None:
        """Take away those of the keys that have no connections left, or whose time is over."""
        found = self._look_up(keys)
        done: list[Change] = []
        for key in keys:
            one = found.get(key)
            if one is None or one.weight:
                self._drain.back(key)  # gone, or given a weight by somebody: the next read tells
            elif self._drain.looked(key, one.connections, now):
                done.append(Change("del", key, STILL, None))
        failed, _ = self._send(done)
        refused = {change.key for change, _ in failed}
        for change in done:
            if change.key not in refused:
                self._drain.back(change.key)
        if failed:
            raise self._refused(*failed[0])

    def _look_up(self, keys: Sequence[Key]) -> dict[Key, wire.Destination]:
        """What the kernel holds by these keys, and by others of the same servers."""
        return {
            Key(PLANE, "destination", (*name, one.ip, one.port)): one
            for name, ones in self._destinations(key.name[:3] for key in keys).items()
            for one in ones
        }


class _Listing:
    """The kernel's list of everything, of the network namespace of the thread that makes this."""

    def __init__(self) -> None:
        self._file = self._open()

    @staticmethod
    def _open() -> int:
        try:
            return os.open(LIST, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Unsupported(f"{LIST}: {error.strerror}") from error

    def read(self) -> bytes:
        try:
            os.lseek(self._file, 0, os.SEEK_SET)
            return b"".join(iter(lambda: os.read(self._file, 1 << 20), b""))
        except OSError as error:
            # The module was taken out; if it was loaded again, there is another file now.
            again = self._open()
            os.close(self._file)
            self._file = again
            raise Lost(f"{LIST}: {error.strerror}") from error

    def close(self) -> None:
        os.close(self._file)


class _Number:
    """How many IPv4 servers there are, in the network namespace of the thread that makes this."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def read(self) -> int:
        try:
            info = self._socket.getsockopt(socket.IPPROTO_IP, _SO_GET_INFO, _INFO.size)
        except OSError as error:
            raise Refused(f"ip_vs: {error.strerror}", error.errno or errno.EIO, "counting servers") from error
        services: int = _INFO.unpack(info)[2]
        return services

    def close(self) -> None:
        self._socket.close()


def _growth(change: Change) -> int:
    """By how many this change makes the IPv4 servers grow."""
    if change.key.kind != "server" or len(change.key.name[0]) != 4:
        return 0
    return {"add": 1, "del": -1}.get(change.verb, 0)


def _family(netlink: NetlinkSocket) -> int:
    """The number of ip_vs, whose module is loaded by asking for it."""
    try:
        return read_family(netlink.ask(family_request(wire.FAMILY)))
    except Refused as error:
        if error.errno == errno.ENOENT:
            raise Unsupported("this kernel has no ip_vs (module ip_vs: CONFIG_IP_VS)") from error
        raise


def _without(scheduler: str) -> str:
    return f"this kernel has no ip_vs scheduler {scheduler} (module ip_vs_{scheduler})"


# --- before and after ---------------------------------------------------------------------


def probe() -> str:
    """What is missing for ip_vs to be used, in one sentence; "" if nothing is."""
    try:
        with NetlinkSocket(NETLINK_GENERIC) as netlink:
            netlink.ask(wire.get_info(_family(netlink)))
    except Refused as error:
        if error.errno == errno.EPERM:
            return "ip_vs may not be asked for anything: CAP_NET_ADMIN is missing"
        return f"ip_vs cannot be used: {error.words}"
    except KubewayError as error:
        return str(error)
    return ""


def probe_scheduler(name: str) -> str:
    """What is missing for virtual servers with this scheduler, in one sentence; "" if nothing is.

    Tried by adding one, whose address is nobody's, and deleting it.
    """
    try:
        with NetlinkSocket(NETLINK_GENERIC) as netlink:
            family = _family(netlink)
            tried = Change("add", server_key(*_PROBE), None, Server(name))
            ack = _ask(netlink, tried, family)
            if ack.errno == errno.EEXIST:  # of somebody who was ended while he tried
                ack = _ask(netlink, Change("set", tried.key, None, tried.new), family)
            _ask(netlink, Change("del", tried.key, None, None), family)
    except KubewayError as error:
        return f"ip_vs cannot be used: {error}"
    if ack.errno == errno.ENOENT:
        return _without(name)
    return f"ip_vs does not take the scheduler {name}: {failure(ack)}" if ack.errno else ""


def remove(ours: Ours) -> list[str]:
    """Delete the virtual servers that are `ours`, with their destinations; returns what they were called.

    A kernel that has no ip_vs loaded holds none, and it is not loaded for this. Refused, Lost.
    """
    removed: dict[str, None] = {}
    if not LIST.exists():
        return []
    with NetlinkSocket(NETLINK_GENERIC) as netlink:
        family = _family(netlink)
        for _ in range(_READ_TRIES):
            # Until none is found: a dump passes servers over if some go meanwhile, in whatever network
            # namespace, as it keeps its place by a number of servers in all of them.
            told = read_servers(netlink.dump(wire.get_services(family)))
            doomed = [Change("del", server_key(*name), None, None) for name in told.ours({}, ours)]
            if not doomed:
                break
            for change in doomed:
                ack = _ask(netlink, change, family)
                if ack.errno and not is_done(change, ack.errno):
                    raise Refused(failure(ack), ack.errno, describe(change, {}), key=change.key)
                removed[show_server(change.key.name)] = None
    return list(removed)


def _ask(netlink: NetlinkSocket, change: Change, family: int) -> Ack:
    (message,) = lower([change], family)
    acks = netlink.transact(number([acked(message)], netlink.reserve(1)))
    if not acks:
        raise Lost("ip_vs: no answer")
    return acks[-1]
