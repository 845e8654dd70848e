"""
Netlink messages and attributes: the one codec every subsystem shares.

Bytes are spelled as they nest, `nest(KEY, attr(VALUE, key))`, so the code reads
as the attribute tree it makes. Reading is the opposite: `walk` and `fields` over
attributes, `messages` over what a socket returned. Whatever bytes they are fed,
they return or raise `Malformed`.

Source: include/uapi/linux/netlink.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from sys import byteorder
from typing import Final, NamedTuple

from kubeway.errors import Malformed

# Message types and flags.
NLMSG_NOOP: Final = 1
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLMSG_MIN_TYPE: Final = 0x10

NLM_F_REQUEST: Final = 0x001
NLM_F_MULTI: Final = 0x002
NLM_F_ACK: Final = 0x004
NLM_F_DUMP_INTR: Final = 0x010
NLM_F_DUMP: Final = 0x300
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800
NLM_F_CAPPED: Final = 0x100  # in an ack
NLM_F_ACK_TLVS: Final = 0x200  # in an ack

NLA_F_NESTED: Final = 0x8000
NLA_TYPE_MASK: Final = 0x3FFF
NLMSGERR_ATTR_MSG: Final = 1
NLMSGERR_ATTR_OFFS: Final = 2

HEADER: Final = Struct("=IHHII")  # length, type, flags, sequence, port
ATTR: Final = Struct("=HH")  # length, type
_FLAGS: Final = Struct("=H")
_FLAGS_AT: Final = 6  # their place in a message
_U32: Final = Struct(">I")
_U64: Final = Struct(">Q")
_ERRNO: Final = Struct("=i")

_PAD: Final = (b"", b"\0\0\0", b"\0\0", b"\0")

_attr_head = ATTR.pack


def attr(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes. The value is under 64 KiB."""
    size = len(value)
    return _attr_head(size + 4, kind) + value + _PAD[size & 3]


def nest(kind: int, *children: bytes) -> bytes:
    """An attribute made of attributes."""
    body = b"".join(children)
    return _attr_head(len(body) + 4, kind | NLA_F_NESTED) + body


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated string."""
    return attr(kind, value.encode() + b"\0")


def be32(kind: int, value: int) -> bytes:
    """A 32-bit number in network order, as nf_tables wants its numbers."""
    return attr(kind, _U32.pack(value))


def be64(kind: int, value: int) -> bytes:
    return attr(kind, _U64.pack(value))


def message(kind: int, flags: int, body: bytes, sequence: int = 0) -> bytes:
    """One message. The body is already aligned: headers are, and `attr` pads."""
    return HEADER.pack(16 + len(body), kind, flags, sequence, 0) + body


def acked(m: bytes) -> bytes:
    """The same message, to be answered when it is done, too, and not only when it failed."""
    flags: int = _FLAGS.unpack_from(m, _FLAGS_AT)[0]
    return m[:_FLAGS_AT] + _FLAGS.pack(flags | NLM_F_ACK) + m[_FLAGS_AT + 2 :]


class Message(NamedTuple):
    """`port` is whose request it answers, or of an event, who caused it: 0 is the kernel itself."""

    kind: int
    flags: int
    sequence: int
    body: memoryview
    port: int = 0


class Ack(NamedTuple):
    """The end of one request: `errno` is 0 when it was done, else positive.

    `words` are the kernel's own, if it sent any; `offset` is where in the refused
    message the attribute it did not like begins, 0 if it did not say.
    """

    sequence: int
    errno: int
    words: str
    offset: int = 0


def messages(data: bytes | memoryview) -> Iterator[Message]:
    """The messages in what one receive returned."""
    view = memoryview(data)
    offset, end = 0, len(view)
    while offset < end:
        if end - offset < 16:
            raise Malformed(f"netlink: {end - offset} bytes where a header of 16 was expected")
        size, kind, flags, sequence, port = HEADER.unpack_from(view, offset)
        if size < 16 or offset + size > end:
            raise Malformed(f"netlink: a message of {size} bytes where {end - offset} are left")
        yield Message(kind, flags, sequence, view[offset + 16 : offset + size], port)
        offset += (size + 3) & ~3


def read_ack(m: Message) -> Ack:
    """What an NLMSG_ERROR or NLMSG_DONE message says, with the kernel's own words if it sent any."""
    if len(m.body) < 4:
        if m.kind == NLMSG_DONE:
            return Ack(m.sequence, 0, "")
        raise Malformed("netlink: an error message without an error number")
    errno: int = -_ERRNO.unpack_from(m.body)[0]
    said = _said(m) if m.flags & NLM_F_ACK_TLVS else {}
    words = bytes(said.get(NLMSGERR_ATTR_MSG, b"")).rstrip(b"\0").decode("utf-8", "replace")
    offset = int.from_bytes(said.get(NLMSGERR_ATTR_OFFS, b""), byteorder)
    return Ack(m.sequence, errno, words, offset)


def _said(m: Message) -> dict[int, memoryview]:
    """What the kernel says besides: attributes behind the error number and, in an error, the request."""
    start = 4
    if m.kind == NLMSG_ERROR:
        if len(m.body) < 20:
            return {}
        # The request comes back, whole or (NLM_F_CAPPED) as its header.
        asked = HEADER.unpack_from(m.body, 4)[0]
        start += 16 if m.flags & NLM_F_CAPPED else max(16, (asked + 3) & ~3)
    return fields(m.body[start:])


def walk(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """The attributes in `data`, in order: (type without flags, value)."""
    view = memoryview(data)
    offset, end = 0, len(view)
    while offset < end:
        if end - offset < 4:
            raise Malformed(f"netlink: {end - offset} bytes where an attribute was expected")
        size, kind = ATTR.unpack_from(view, offset)
        if size < 4 or offset + size > end:
            raise Malformed(f"netlink: an attribute of {size} bytes where {end - offset} are left")
        yield kind & NLA_TYPE_MASK, view[offset + 4 : offset + size]
        offset += (size + 3) & ~3


def fields(data: bytes | memoryview) -> dict[int, memoryview]:
    """The attributes in `data` by type; of several of one type, the last."""
    return dict(walk(data))


def need(attrs: dict[int, memoryview], kind: int, what: str) -> memoryview:
    """The attribute of that type, which has to be there."""
    value = attrs.get(kind)
    if value is None:
        raise Malformed(f"netlink: {what} is missing (attribute {kind})")
    return value


def read_text(value: memoryview) -> str:
    try:
        return bytes(value).rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"netlink: a name that is not UTF-8: {bytes(value)!r}") from error


def read_be32(value: memoryview) -> int:
    if len(value) != 4:
        raise Malformed(f"netlink: a 32-bit number of {len(value)} bytes")
    number: int = _U32.unpack(value)[0]
    return number


def read_be64(value: memoryview) -> int:
    if len(value) != 8:
        raise Malformed(f"netlink: a 64-bit number of {len(value)} bytes")
    number: int = _U64.unpack(value)[0]
    return number
