"""
ip_vs made of dicts: what the kernel answers to netlink, and its list of everything.

It reads the bytes that are sent and obeys the kernel's rules (ip_vs_ctl.c): what is there cannot be added
(EEXIST), what is not cannot be changed or deleted (ESRCH for a service, ENOENT for a destination), messages
are taken one by one, and only a failed one or one that asks for it is answered. It can be told to fail by
chance; then the conversation breaks, before or after it did what it was asked.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from random import Random

from kubeway.errors import Lost, Refused
from kubeway.values import PROTO_NAMES, Ip
from kubeway.wire.genetlink import header
from kubeway.wire.netlink import NLM_F_ACK, Ack, Message, attr, fields, messages, nest, text

FAMILY = 28
METHODS = ("Masq", "Local", "Tunnel", "Route", "Bypass")

Name = tuple[Ip, int, int]


class Service:
    def __init__(self) -> None:
        self.scheduler, self.flags, self.timeout, self.netmask, self.engine = "rr", 0, 0, b"", ""
        self.destinations: dict[tuple[Ip, int], list[int]] = {}
        """Method, weight, and connections of each."""


class IpVs:
    """`rng`: fail by chance, `share` of the time. `schedulers`: those it has."""

    def __init__(
        self, rng: Random | None = None, share: float = 0.1, schedulers: str = "rr wlc sh mh"
    ) -> None:
        self._rng, self._share = rng, share
        self.schedulers = schedulers.split()
        self.services: dict[Name, Service] = {}
        self.marks: list[int] = []
        self.timeouts = [900, 120, 300]
        self.sent: list[int] = []
        """How many messages each send held."""
        self.commands: list[int] = []
        self.meddle: Callable[[], None] = lambda: None
        """What somebody else does between two answers to one reader."""
        self._next = 1

    # --- as a socket ----------------------------------------------------------------------

    def reserve(self, count: int) -> int:
        self._next += count
        return self._next - count

    def transact(self, data: bytes) -> list[Ack]:
        self._fail()
        acks = []
        taken = list(messages(data))
        self.sent.append(len(taken))
        for m in taken:
            assert m.kind == FAMILY
            number = self._take(m)
            if number or m.flags & NLM_F_ACK:
                acks.append(Ack(m.sequence, number, ""))
        self._fail()
        return acks

    def dump(self, request: bytes) -> list[Message]:
        self._fail()
        (m,) = messages(request)
        if m.body[0] == 4:
            told = [*map(self._told, self.services), *map(self._told_mark, self.marks)]
        else:
            service = self.services.get(_name(_fields(m, 1)))
            told = (
                [] if service is None else [_told_destination(*one) for one in service.destinations.items()]
            )
        self.meddle()
        return [Message(FAMILY, 2, 0, memoryview(header(m.body[0]) + one)) for one in told]

    def ask(self, request: bytes) -> Message:
        self._fail()
        (m,) = messages(request)
        if m.kind == 16:
            return Message(16, 0, 0, memoryview(header(1) + attr(1, struct.pack("=H", FAMILY))))
        if m.body[0] == 13:
            told = b"".join(attr(4 + at, struct.pack("=I", n)) for at, n in enumerate(self.timeouts))
            return Message(FAMILY, 0, 0, memoryview(header(12) + told))
        raise Refused("Invalid argument", errno.EINVAL)

    def close(self) -> None: ...

    # --- beside it --------------------------------------------------------------------------

    def read(self) -> bytes:
        """/proc/net/ip_vs"""
        self._fail()
        lines = [
            "IP Virtual Server version 1.2.1 (size=4096)",
            "Prot LocalAddress:Port Scheduler Flags",
            "  -> RemoteAddress:Port Forward Weight ActiveConn InActConn",
        ]
        for (ip, proto, port), service in self.services.items():
            more = f"persistent {service.timeout * 100} FFFFFFFF" if service.flags & 1 else ""
            lines.append(f"{PROTO_NAMES[proto]}  {_hex(ip)}:{port:04X} {service.scheduler} {more}")
            for (to, at), (method, weight, connections) in service.destinations.items():
                # Active and inactive ones.
                some, others = connections // 2, connections - connections // 2
                lines.append(
                    f"  -> {_hex(to)}:{at:04X}      {METHODS[method]:<7} {weight:<6} {some:<10} {others:<10}"
                )
        lines += (f"FWM  {mark:08X} rr " for mark in self.marks)
        return "".join(f"{line}\n" for line in lines).encode()

    def count(self) -> int:
        return sum(len(name[0]) == 4 for name in self.services) + len(self.marks)

    def _fail(self) -> None:
        if self._rng is not None and self._rng.random() < self._share / 2:
            raise Lost("the conversation broke")

    # --- what it does -------------------------------------------------------------------------

    def _take(self, m: Message) -> int:
        command = m.body[0]
        self.commands.append(command)
        if command == 12:
            said = fields(m.body[4:])
            for at in range(3):
                self.timeouts[at] = struct.unpack("=I", said[4 + at])[0] or self.timeouts[at]
            return 0
        said = _fields(m, 1)
        name = _name(said)
        service = self.services.get(name)
        if command == 1 and service is not None:
            return errno.EEXIST
        if command != 1 and service is None:
            return errno.ESRCH
        if command in (1, 2):
            return self._set(name, service or Service(), said)
        if command == 3:
            del self.services[name]
            return 0
        assert service is not None
        return self._destination(command, service, _fields(m, 2))

    def _set(self, name: Name, service: Service, said: dict[int, memoryview]) -> int:
        scheduler = bytes(said[6]).rstrip(b"\0").decode()
        if scheduler not in self.schedulers:
            return errno.ENOENT
        flags, mask = struct.unpack("=II", said[7])
        service.scheduler, service.flags = scheduler, service.flags & ~mask | flags & mask | 2
        (service.timeout,) = struct.unpack("=I", said[8])
        service.netmask, service.engine = bytes(said[9]), bytes(said.get(11, b"")).rstrip(b"\0").decode()
        self.services[name] = service
        return 0

    def _destination(self, command: int, service: Service, said: dict[int, memoryview]) -> int:
        size = {2: 4, 10: 16}[struct.unpack("=H", said[11])[0]]
        key = Ip(bytes(said[1][:size])), int.from_bytes(said[2])
        if command == 5 and key in service.destinations:
            return errno.EEXIST
        if command != 5 and key not in service.destinations:
            return errno.ENOENT
        if command == 8 - 1:
            del service.destinations[key]
            return 0
        method, weight, upper, lower = (struct.unpack("=I", said[at])[0] for at in (3, 4, 5, 6))
        assert (upper, lower) == (0, 0)
        connections = service.destinations.get(key, [0, 0, 0])[2]
        service.destinations[key] = [method, weight, connections]
        return 0

    def _told(self, name: Name) -> bytes:
        service = self.services[name]
        ip, proto, port = name
        return nest(
            1,
            attr(1, struct.pack("=H", 2 if len(ip) == 4 else 10)),
            attr(2, struct.pack("=H", proto)),
            attr(3, ip.ljust(16, b"\0")),
            attr(4, port.to_bytes(2)),
            text(6, service.scheduler),
            *([text(11, service.engine)] if service.engine else []),
            attr(7, struct.pack("=II", service.flags, 0xFFFFFFFF)),
            attr(8, struct.pack("=I", service.timeout)),
            attr(9, service.netmask),
            nest(10, attr(1, bytes(4))),
        )

    @staticmethod
    def _told_mark(mark: int) -> bytes:
        return nest(1, attr(1, struct.pack("=H", 2)), attr(5, struct.pack("=I", mark)), text(6, "rr"))


def _told_destination(key: tuple[Ip, int], one: list[int]) -> bytes:
    ip, port = key
    method, weight, connections = one
    return nest(
        2,
        attr(1, ip.ljust(16, b"\0")),
        attr(2, port.to_bytes(2)),
        attr(3, struct.pack("=I", method)),
        attr(4, struct.pack("=I", weight)),
        attr(7, struct.pack("=I", connections)),
        attr(8, struct.pack("=I", 0)),
        attr(11, struct.pack("=H", 2 if len(ip) == 4 else 10)),
    )


def _fields(m: Message, kind: int) -> dict[int, memoryview]:
    return fields(fields(m.body[4:])[kind])


def _name(said: dict[int, memoryview]) -> Name:
    size = {2: 4, 10: 16}[struct.unpack("=H", said[1])[0]]
    return Ip(bytes(said[3][:size])), struct.unpack("=H", said[2])[0], int.from_bytes(said[4])


def _hex(ip: Ip) -> str:
    if len(ip) == 4:
        return ip.hex().upper()
    return "[" + ":".join(ip[at : at + 2].hex() for at in range(0, 16, 2)) + "]"
