"""
ip_vs in bytes: virtual servers, their destinations and the timeouts, asked, told and read.

A server is called by address, protocol and port, a destination by its server and its own address and
port. There are tens of thousands, so what a message says is packed at once, and what comes back is taken
from where the kernel puts it, or, where it stands elsewhere, attribute by attribute. Servers that are
called by a packet mark are told apart and nothing else. Which ones there ought to be is not known here.

Source: include/uapi/linux/ip_vs.h, net/netfilter/ipvs/ip_vs_ctl.c.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from sys import byteorder
from typing import Final, NamedTuple

from kubeway.errors import Malformed
from kubeway.values import Ip
from kubeway.wire.genetlink import HEADER_SIZE, header
from kubeway.wire.netlink import (
    ATTR,
    HEADER,
    NLA_F_NESTED,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    Message,
    attr,
    fields,
    message,
    need,
    read_text,
    text,
)

FAMILY: Final = "IPVS"

NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE = 1, 2, 3, 4
NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = 5, 6, 7, 8
SET_CONFIG, GET_CONFIG = 12, 13
GET_INFO: Final = 15

_SERVICE, _DEST = 1, 2  # attributes of a command
_TIMEOUT_TCP, _TIMEOUT_TCP_FIN, _TIMEOUT_UDP = 4, 5, 6

# Of a service.
_AF, _PROTOCOL, _ADDR, _PORT, _FWMARK, _SCHED_NAME, _FLAGS, _TIMEOUT, _NETMASK = 1, 2, 3, 4, 5, 6, 7, 8, 9
_PE_NAME: Final = 11

# Of a destination.
_D_ADDR, _D_PORT, _D_METHOD, _D_WEIGHT, _D_UPPER, _D_LOWER = 1, 2, 3, 4, 5, 6
_D_ACTIVE, _D_INACTIVE = 7, 8
_D_FAMILY: Final = 11

# A service's flags (IP_VS_SVC_F_…). What the scheduler's mean is up to it.
F_PERSISTENT: Final = 0x01
F_HASHED: Final = 0x02  # the kernel's own: it stands in its table
F_ONEPACKET: Final = 0x04
F_SCHED1: Final = 0x08
F_SCHED2: Final = 0x10
F_SCHED3: Final = 0x20

# How packets get to a destination (IP_VS_CONN_F_…).
METHOD_MASK: Final = 0x7
MASQUERADE, LOCAL, TUNNEL, ROUTE, BYPASS = 0, 1, 2, 3, 4

_INET, _INET6 = 2, 10
_SIZES: Final = {_INET: 4, _INET6: 16}
_FAMILIES: Final = {4: _INET, 16: _INET6}
# Who sticks to a destination: each address by itself.
_NETMASKS: Final = {4: b"\xff\xff\xff\xff", 16: (128).to_bytes(4, byteorder)}

_ALL: Final = 0xFFFFFFFF
_U16: Final = Struct("=H")
_U32: Final = Struct("=I")
_BE16: Final = Struct(">H")
_PAIR: Final = Struct("=II")
_WHO: Final = Struct("=HHHHH2xHHH2xHH16sHH2s2x")
_WHO_SIZE: Final = 48
_WHICH: Final = Struct("=HHHHH2xHH16sHH2s2x")
_WHICH_SIZE: Final = 40
_REST: Final = Struct("=HHIHHIHHIHHI")
_REST_SIZE: Final = 32


class Settings(NamedTuple):
    """What is set of a service, as the kernel has it. `engine`: of persistence, "" for none; `netmask`:
    whose addresses stick together, in network order for IPv4, a prefix's length in ours for IPv6."""

    scheduler: str
    flags: int
    timeout: int
    netmask: bytes
    engine: str = ""


class Destination(NamedTuple):
    """`method`: one of those above. `connections`: active ones and inactive ones."""

    ip: Ip
    port: int
    method: int
    weight: int
    connections: int


class Timeouts(NamedTuple):
    """Seconds."""

    tcp: int
    tcp_fin: int
    udp: int


def plain(size: int) -> bytes:
    """The netmask of services whose address has that many bytes, by which each client is one of its own."""
    return _NETMASKS[size]


# --- requests -------------------------------------------------------------------------


@lru_cache(1 << 12)
def _head(family: int, command: int, size: int) -> bytes:
    return HEADER.pack(20 + size, family, NLM_F_REQUEST, 0, 0) + header(command)


@lru_cache(1 << 10)
def _who(ip: bytes, proto: int, port: int) -> bytes:
    """The attribute that calls a service."""
    inet, number = _FAMILIES[len(ip)], port.to_bytes(2)
    kind = _SERVICE | NLA_F_NESTED
    return _WHO.pack(_WHO_SIZE, kind, 6, _AF, inet, 6, _PROTOCOL, proto, 20, _ADDR, ip, 6, _PORT, number)


@lru_cache(1 << 10)
def _settings_of(scheduler: str, flags: int, timeout: int, size: int) -> bytes:
    return b"".join(
        (
            text(_SCHED_NAME, scheduler),
            # With every bit in the mask, what is not told is taken away.
            attr(_FLAGS, _PAIR.pack(flags, _ALL)),
            attr(_TIMEOUT, _U32.pack(timeout)),
            attr(_NETMASK, _NETMASKS[size]),
        )
    )


@lru_cache(1 << 10)
def _rest(method: int, weight: int) -> bytes:
    return _REST.pack(8, _D_METHOD, method, 8, _D_WEIGHT, weight, 8, _D_UPPER, 0, 8, _D_LOWER, 0)


def service(
    family: int,
    command: int,
    name: tuple[bytes, int, int],
    scheduler: str,
    flags: int,
    timeout: int,
) -> bytes:
    """NEW_SERVICE (EEXIST) or SET_SERVICE (ESRCH). `name`: address, protocol, port; `timeout` in seconds.

    ENOENT: there is no such scheduler, nor a module for it.
    """
    settings = _settings_of(scheduler, flags, timeout, len(name[0]))
    size = _WHO_SIZE + len(settings)
    body = ATTR.pack(size, _SERVICE | NLA_F_NESTED) + _who(*name)[4:] + settings
    return _head(family, command, size) + body


def del_service(family: int, name: tuple[bytes, int, int]) -> bytes:
    """With all its destinations. ESRCH if there is none."""
    return _head(family, DEL_SERVICE, _WHO_SIZE) + _who(*name)


_DEST_SIZE: Final = _WHICH_SIZE + _REST_SIZE
_DEST_KIND: Final = _DEST | NLA_F_NESTED


def destination(
    family: int, command: int, name: tuple[bytes, int, int, bytes, int], weight: int, method: int
) -> bytes:
    """NEW_DEST (EEXIST) or SET_DEST (ENOENT). `name`: of the service (ESRCH), and its own address and port.

    EINVAL: the address is no host's, or this node has no route for it at all.
    """
    vip, proto, vport, ip, port = name
    inet, number = _FAMILIES[len(ip)], port.to_bytes(2)
    return (
        _head(family, command, _WHO_SIZE + _DEST_SIZE)
        + _who(vip, proto, vport)
        + _WHICH.pack(_DEST_SIZE, _DEST_KIND, 6, _D_FAMILY, inet, 20, _D_ADDR, ip, 6, _D_PORT, number)
        + _rest(method, weight)
    )


def del_destination(family: int, name: tuple[bytes, int, int, bytes, int]) -> bytes:
    """ENOENT if there is none, ESRCH if there is no such service."""
    vip, proto, vport, ip, port = name
    inet, number = _FAMILIES[len(ip)], port.to_bytes(2)
    which = _WHICH.pack(_WHICH_SIZE, _DEST_KIND, 6, _D_FAMILY, inet, 20, _D_ADDR, ip, 6, _D_PORT, number)
    return _head(family, DEL_DEST, _WHO_SIZE + _WHICH_SIZE) + _who(vip, proto, vport) + which


def set_timeouts(family: int, tcp: int, tcp_fin: int, udp: int) -> bytes:
    """Seconds; 0 leaves one as it is."""
    told = zip((_TIMEOUT_TCP, _TIMEOUT_TCP_FIN, _TIMEOUT_UDP), (tcp, tcp_fin, udp), strict=True)
    body = b"".join(attr(kind, _U32.pack(seconds)) for kind, seconds in told)
    return _head(family, SET_CONFIG, len(body)) + body


def get_services(family: int) -> bytes:
    return message(family, NLM_F_REQUEST | NLM_F_DUMP, header(GET_SERVICE))


def get_destinations(family: int, name: tuple[bytes, int, int]) -> bytes:
    """All of one service; none if there is no such service."""
    return message(family, NLM_F_REQUEST | NLM_F_DUMP, header(GET_DEST) + _who(*name))


def get_timeouts(family: int) -> bytes:
    return message(family, NLM_F_REQUEST, header(GET_CONFIG))


def get_info(family: int) -> bytes:
    """Nothing that anybody wants to know, but whether one may ask (EPERM)."""
    return message(family, NLM_F_REQUEST, header(GET_INFO))


# --- answers --------------------------------------------------------------------------


def _mark(size: int, kind: int) -> int:
    """An attribute's header as one number."""
    number: int = _U32.unpack(ATTR.pack(size, kind))[0]
    return number


# Where the kernel puts what calls a service: behind the message's header and the attribute's.
_PLACES: Final = Struct("=8xIH2xIH2xI16sI2s2xHH")
_MARKS: Final = (_mark(6, _AF), _mark(6, _PROTOCOL), _mark(20, _ADDR), _mark(6, _PORT))
_SETTINGS_AT: Final = _PLACES.size - 4
_BEHIND_NAME: Final = 12 + 8 + 8  # flags, timeout, netmask


def read_service(m: Message) -> tuple[tuple[Ip, int, int], Settings] | None:
    """What it is called and what is set of it; None if it is called by a packet mark."""
    body = m.body
    if len(body) >= _PLACES.size:
        af, inet, proto_, proto, addr, ip, port_, port, size, kind = _PLACES.unpack_from(body)
        if kind == _SCHED_NAME and (af, proto_, addr, port_) == _MARKS and inet in _SIZES:
            end = _SETTINGS_AT + (size + 3 & ~3) + _BEHIND_NAME
            try:
                settings = _settings(bytes(body[_SETTINGS_AT:end]))
            except Malformed:
                return _read_service(body)  # others stand between
            return (Ip(ip[: _SIZES[inet]]), proto, int.from_bytes(port)), settings
    return _read_service(body)


@lru_cache(1 << 10)
def _settings(data: bytes) -> Settings:
    return _read_settings(fields(data))


def _read_settings(said: dict[int, memoryview]) -> Settings:
    flags = need(said, _FLAGS, "a service's flags")
    netmask = need(said, _NETMASK, "a service's netmask")
    if len(flags) != 8 or len(netmask) != 4:
        raise Malformed(f"ipvs: flags of {len(flags)} bytes, a netmask of {len(netmask)}")
    return Settings(
        read_text(need(said, _SCHED_NAME, "a service's scheduler")),
        _PAIR.unpack(flags)[0],
        _number(said, _TIMEOUT, "a service's timeout"),
        bytes(netmask),
        read_text(said[_PE_NAME]) if _PE_NAME in said else "",
    )


def _read_service(body: memoryview) -> tuple[tuple[Ip, int, int], Settings] | None:
    said = fields(need(fields(body[HEADER_SIZE:]), _SERVICE, "a service"))
    if _FWMARK in said:
        return None
    ip = _address(need(said, _ADDR, "a service's address"), _short(said, _AF, "a service's family"))
    name = (ip, _short(said, _PROTOCOL, "a service's protocol"), _port(said, _PORT, "a service's port"))
    return name, _read_settings(said)


def read_destination(m: Message, size: int) -> Destination:
    """One answer to `get_destinations` of a service whose address has `size` bytes."""
    said = fields(need(fields(m.body[HEADER_SIZE:]), _DEST, "a destination"))
    # Before 3.18 a destination was of its service's family, and did not say so.
    inet = _short(said, _D_FAMILY, "its family") if _D_FAMILY in said else _FAMILIES[size]
    return Destination(
        _address(need(said, _D_ADDR, "a destination's address"), inet),
        _port(said, _D_PORT, "a destination's port"),
        _number(said, _D_METHOD, "a destination's method") & METHOD_MASK,
        _number(said, _D_WEIGHT, "a destination's weight"),
        _number(said, _D_ACTIVE, "its connections") + _number(said, _D_INACTIVE, "its connections"),
    )


def read_timeouts(m: Message) -> Timeouts:
    said = fields(m.body[HEADER_SIZE:])
    kinds = (_TIMEOUT_TCP, _TIMEOUT_TCP_FIN, _TIMEOUT_UDP)
    return Timeouts(*(_number(said, kind, "a timeout") for kind in kinds))


def _address(value: memoryview, inet: int) -> Ip:
    size = _SIZES.get(inet)
    if size is None or len(value) < size:
        raise Malformed(f"ipvs: an address of {len(value)} bytes, of family {inet}")
    return Ip(bytes(value[:size]))


def _short(said: dict[int, memoryview], kind: int, what: str) -> int:
    value = need(said, kind, what)
    if len(value) != 2:
        raise Malformed(f"ipvs: {what} of {len(value)} bytes")
    number: int = _U16.unpack(value)[0]
    return number


def _port(said: dict[int, memoryview], kind: int, what: str) -> int:
    value = need(said, kind, what)
    if len(value) != 2:
        raise Malformed(f"ipvs: {what} of {len(value)} bytes")
    number: int = _BE16.unpack(value)[0]
    return number


def _number(said: dict[int, memoryview], kind: int, what: str) -> int:
    value = need(said, kind, what)
    if len(value) != 4:
        raise Malformed(f"ipvs: {what} of {len(value)} bytes")
    number: int = _U32.unpack(value)[0]
    return number
