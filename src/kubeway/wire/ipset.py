"""
The kernel's ipset: how sets are made, swapped, filled, asked for and read.

A request is one message; elements go in lists, many to a message. Which sets there ought to be, and what
their elements mean, is not known here.

Spoken is protocol 6, which every kernel understands; 7 adds nothing that is needed.

Source: include/uapi/linux/netfilter/ipset/ip_set.h and ip_set_hash.h, net/netfilter/ipset/ip_set_core.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from kubeway.errors import Malformed
from kubeway.values import V4, V6
from kubeway.wire.netlink import (
    ATTR,
    NLA_F_NESTED,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    Message,
    attr,
    be32,
    fields,
    message,
    need,
    nest,
    read_be32,
    text,
    walk,
)
from kubeway.wire.nfnetlink import (
    NFNL_SUBSYS_IPSET,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    NFPROTO_UNSPEC,
    header,
    kind,
)

PROTOCOL: Final = 6
NAME_LENGTH: Final = 31
"""The longest name of a set (IPSET_MAXNAMELEN, with its NUL)."""

IPSET_CMD_CREATE: Final = 2
IPSET_CMD_DESTROY: Final = 3
IPSET_CMD_RENAME: Final = 5
IPSET_CMD_SWAP: Final = 6
IPSET_CMD_LIST: Final = 7
IPSET_CMD_ADD: Final = 9
IPSET_CMD_DEL: Final = 10
IPSET_CMD_TYPE: Final = 13

# Of a request.
IPSET_ATTR_PROTOCOL: Final = 1
IPSET_ATTR_SETNAME: Final = 2
IPSET_ATTR_TYPENAME: Final = 3
IPSET_ATTR_SETNAME2: Final = 3
IPSET_ATTR_REVISION: Final = 4
IPSET_ATTR_FAMILY: Final = 5
IPSET_ATTR_FLAGS: Final = 6
IPSET_ATTR_DATA: Final = 7
IPSET_ATTR_ADT: Final = 8
IPSET_ATTR_LINENO: Final = 9

# Of a set or an element.
IPSET_ATTR_IP: Final = 1
IPSET_ATTR_PORT: Final = 4
IPSET_ATTR_PORT_TO: Final = 5
IPSET_ATTR_PROTO: Final = 7
IPSET_ATTR_CADT_FLAGS: Final = 8
IPSET_ATTR_BITMASK: Final = 12
IPSET_ATTR_HASHSIZE: Final = 18
IPSET_ATTR_MAXELEM: Final = 19
IPSET_ATTR_NETMASK: Final = 20
IPSET_ATTR_IP2: Final = 20
IPSET_ATTR_CIDR2: Final = 21
IPSET_ATTR_ELEMENTS: Final = 24
IPSET_ATTR_REFERENCES: Final = 25

IPSET_ATTR_IPADDR_IPV4: Final = 1
IPSET_ATTR_IPADDR_IPV6: Final = 2

IPSET_FLAG_LIST_HEADER: Final = 4
IPSET_FLAG_NOMATCH: Final = 4
IPSET_FLAG_WITH_FORCEADD: Final = 32

IPSET_ERR_FIND_TYPE: Final = 4098
IPSET_ERR_BUSY: Final = 4100
IPSET_ERR_EXIST_SETNAME2: Final = 4101
IPSET_ERR_TYPE_MISMATCH: Final = 4102
IPSET_ERR_EXIST: Final = 4103
IPSET_ERR_NO_ROOM: Final = 4352
"""IPSET_ERR_HASH_FULL, or of a bitmap IPSET_ERR_BITMAP_RANGE: in either, this set has no room for it."""

ERRORS: Final[dict[int, str]] = {
    4097: "the request is not understood (IPSET_ERR_PROTOCOL)",
    IPSET_ERR_FIND_TYPE: "this kernel has no sets of that type (IPSET_ERR_FIND_TYPE)",
    4099: "there are as many sets as there can be (IPSET_ERR_MAX_SETS)",
    IPSET_ERR_BUSY: "the set is in use (IPSET_ERR_BUSY)",
    IPSET_ERR_EXIST_SETNAME2: "the other set is missing, or there already (IPSET_ERR_EXIST_SETNAME2)",
    IPSET_ERR_TYPE_MISMATCH: "the sets are of different types (IPSET_ERR_TYPE_MISMATCH)",
    IPSET_ERR_EXIST: "the entry is there already, or is not there (IPSET_ERR_EXIST)",
    4104: "no prefix of that length can be in a set (IPSET_ERR_INVALID_CIDR)",
    4106: "the set is of another family (IPSET_ERR_INVALID_FAMILY)",
    4109: "no IPv4 address, where the set has such (IPSET_ERR_IPADDR_IPV4)",
    4110: "no IPv6 address, where the set has such (IPSET_ERR_IPADDR_IPV6)",
    IPSET_ERR_NO_ROOM: "the set has no room for it (IPSET_ERR_HASH_FULL)",
    4353: "the address that is all zeros cannot be in a set (IPSET_ERR_HASH_ELEM)",
    4354: "no protocol that can be in a set (IPSET_ERR_INVALID_PROTO)",
}
"""The kernel's own numbers in words. Sets have no words of their own in their refusals."""

NLA_F_NET_BYTEORDER: Final = 0x4000

LIST_LIMIT: Final = 0xFFFF - 4
"""The most bytes of elements in one message: a list is one attribute."""

_PROTOCOL: Final = attr(IPSET_ATTR_PROTOCOL, bytes((PROTOCOL,)))
# Asked for with every list of elements. It would number them, were they numbered.
_LINENO: Final = be32(IPSET_ATTR_LINENO | NLA_F_NET_BYTEORDER, 0)
_NOMATCH: Final = be32(IPSET_ATTR_CADT_FLAGS | NLA_F_NET_BYTEORDER, IPSET_FLAG_NOMATCH)
_FAMILIES: Final = {0: NFPROTO_UNSPEC, V4: NFPROTO_IPV4, V6: NFPROTO_IPV6}
_NUMBERS: Final = {number: family for family, number in _FAMILIES.items()}


# --- requests ---------------------------------------------------------------------------


def create(name: str, type: str, family: int, revision: int, data: bytes) -> bytes:
    """Make a set; EEXIST if there is another one of that name. `family`: 4, 6, or 0 where types have none.

    `data`: `hash_data`, or for a bitmap of ports `PORTS_DATA`.
    """
    attributes = (
        text(IPSET_ATTR_SETNAME, name),
        text(IPSET_ATTR_TYPENAME, type),
        attr(IPSET_ATTR_REVISION, bytes((revision,))),
        attr(IPSET_ATTR_FAMILY, bytes((_FAMILIES[family],))),
        nest(IPSET_ATTR_DATA, data),
    )
    return _request(IPSET_CMD_CREATE, *attributes)


def hash_data(hashsize: int, maxelem: int) -> bytes:
    """Of a hash: its buckets to begin with (it grows), and its most elements (it refuses more)."""
    return be32(IPSET_ATTR_HASHSIZE | NLA_F_NET_BYTEORDER, hashsize) + be32(
        IPSET_ATTR_MAXELEM | NLA_F_NET_BYTEORDER, maxelem
    )


PORTS_DATA: Final = attr(IPSET_ATTR_PORT | NLA_F_NET_BYTEORDER, b"\0\0") + attr(
    IPSET_ATTR_PORT_TO | NLA_F_NET_BYTEORDER, b"\xff\xff"
)
"""Of a bitmap: all ports there are."""


def destroy(name: str) -> bytes:
    """ENOENT if there is none (newer kernels: no error), IPSET_ERR_BUSY if something refers to it."""
    return _request(IPSET_CMD_DESTROY, text(IPSET_ATTR_SETNAME, name))


def swap(name: str, other: str) -> bytes:
    """Each gets the other's name and users. IPSET_ERR_TYPE_MISMATCH unless they are alike; ENOENT."""
    return _request(IPSET_CMD_SWAP, text(IPSET_ATTR_SETNAME, name), text(IPSET_ATTR_SETNAME2, other))


def rename(name: str, other: str) -> bytes:
    """IPSET_ERR_EXIST_SETNAME2 if there is one of that name."""
    return _request(IPSET_CMD_RENAME, text(IPSET_ATTR_SETNAME, name), text(IPSET_ATTR_SETNAME2, other))


def add(name: str, elements: Iterable[bytes]) -> bytes:
    """Put elements (`Layout.build`) into a set, up to `LIST_LIMIT` bytes of them; ENOENT if there is none.

    An element that is there is no error. After one that is refused, the others are not looked at.
    """
    return _change(IPSET_CMD_ADD, name, elements)


def delete(name: str, elements: Iterable[bytes]) -> bytes:
    """Take elements out of a set. One that is not there is no error."""
    return _change(IPSET_CMD_DEL, name, elements)


def _change(operation: int, name: str, elements: Iterable[bytes]) -> bytes:
    listed = nest(IPSET_ATTR_ADT, *elements)
    return _request(operation, text(IPSET_ATTR_SETNAME, name), _LINENO, listed)


def list_set(name: str) -> bytes:
    """Ask for a set and its elements, in one or more answers (`read`); ENOENT."""
    return _request(IPSET_CMD_LIST, text(IPSET_ATTR_SETNAME, name), flags=NLM_F_DUMP)


def list_headers() -> bytes:
    """Ask for all sets, without their elements."""
    flag = be32(IPSET_ATTR_FLAGS | NLA_F_NET_BYTEORDER, IPSET_FLAG_LIST_HEADER)
    return _request(IPSET_CMD_LIST, flag, flags=NLM_F_DUMP)


def get_type(type: str, family: int) -> bytes:
    """Ask for a type of sets, so that the kernel loads it; IPSET_ERR_FIND_TYPE if it has none such."""
    return _request(
        IPSET_CMD_TYPE,
        text(IPSET_ATTR_TYPENAME, type),
        attr(IPSET_ATTR_FAMILY, bytes((_FAMILIES[family],))),
    )


def _request(operation: int, *attributes: bytes, flags: int = 0) -> bytes:
    body = header(NFPROTO_UNSPEC) + _PROTOCOL + b"".join(attributes)
    return message(kind(NFNL_SUBSYS_IPSET, operation), NLM_F_REQUEST | flags, body)


# --- elements ---------------------------------------------------------------------------


class Layout:
    """How elements of one type of set are spelled: their parts, in the kernel's order.

    `parts`: of `ip`, `ip2`, `port`, `cidr2` and `proto`; `size`: of an address, 4 or 16. An element's
    values are as many, in this order: bytes for addresses, else ints.
    """

    def __init__(self, parts: Sequence[str], size: int = 0) -> None:
        self.parts = tuple(parts)
        self.size = size
        spelled = [_spelled(part, size) for part in parts]
        whole = ATTR.size + sum(len(head) + struct.calcsize(">" + value) for head, value in spelled)
        first = ATTR.pack(whole, IPSET_ATTR_DATA | NLA_F_NESTED)
        self._heads = (first + spelled[0][0], *(head for head, _ in spelled[1:]))
        # The kernel wants IPv6 addresses flagged as in network order, but does not flag its own.
        flagged, bare = (ATTR.pack(20, IPSET_ATTR_IPADDR_IPV6 | flag) for flag in (NLA_F_NET_BYTEORDER, 0))
        self._usual = {self._heads, tuple(head.replace(flagged, bare) for head in self._heads)}
        values = [value for _, value in spelled]
        self._struct = struct.Struct(
            ">" + "".join(f"{len(head)}s{value}" for head, value in zip(self._heads, values, strict=True))
        )

    def build(self, values: Sequence[Any], nomatch: bool = False) -> bytes:
        """One element, for `add` and `delete`. ValueError for a value that has no place in it."""
        if any(isinstance(value, bytes) and len(value) != self.size for value in values):
            raise ValueError(f"an address is not of {self.size} bytes, as the set's are")
        told: list[Any] = [None] * (2 * len(self._heads))
        told[::2], told[1::2] = self._heads, values
        try:
            element = self._struct.pack(*told)
        except struct.error as error:
            raise ValueError(f"{values} cannot be {', '.join(self.parts)}: {error}") from error
        return nest(IPSET_ATTR_DATA, element[4:], _NOMATCH) if nomatch else element

    def read_usual(self, listed: memoryview) -> list[tuple[Any, ...]] | None:
        """The values of all elements of a list; None if any is spelled otherwise than is usual.

        Those of a set without extensions are; it saves most of the time.
        """
        if len(listed) % self._struct.size:
            return None
        rows = list(self._struct.iter_unpack(listed))
        heads = rows[0][::2] if rows else self._heads
        if heads not in self._usual or any(row[::2] != heads for row in rows):
            return None
        return [row[1::2] for row in rows]

    def read(self, element: memoryview) -> tuple[tuple[Any, ...], bool]:
        """The values of one element, and whether it is an exception from wider ones (nomatch)."""
        told = fields(element)
        flags = told.get(IPSET_ATTR_CADT_FLAGS)
        nomatch = flags is not None and bool(read_be32(flags) & IPSET_FLAG_NOMATCH)
        return tuple(self._value(part, need(told, _KINDS[part], part)) for part in self.parts), nomatch

    def _value(self, part: str, value: memoryview) -> Any:
        if part in _ADDRESSES:
            which = IPSET_ATTR_IPADDR_IPV4 if self.size == 4 else IPSET_ATTR_IPADDR_IPV6
            value = need(fields(value), which, "an address of the set's family")
        width = _width(part, self.size)
        if len(value) != width:
            raise Malformed(f"ipset: {part} of {len(value)} bytes, where {width} were expected")
        return bytes(value) if part in _ADDRESSES else int.from_bytes(value, "big")


_KINDS: Final = {
    "ip": IPSET_ATTR_IP,
    "ip2": IPSET_ATTR_IP2,
    "port": IPSET_ATTR_PORT,
    "cidr2": IPSET_ATTR_CIDR2,
    "proto": IPSET_ATTR_PROTO,
}
_ADDRESSES: Final = frozenset({"ip", "ip2"})


def _width(part: str, size: int) -> int:
    return size if part in _ADDRESSES else 2 if part == "port" else 1


def _spelled(part: str, size: int) -> tuple[bytes, str]:
    """What stands before the value of a part, and the value with the padding after it, for `struct`."""
    number, width = _KINDS[part], _width(part, size)
    if part in _ADDRESSES:
        which = IPSET_ATTR_IPADDR_IPV4 if size == 4 else IPSET_ATTR_IPADDR_IPV6
        inner = ATTR.pack(4 + size, which | NLA_F_NET_BYTEORDER)
        return ATTR.pack(8 + size, number | NLA_F_NESTED) + inner, f"{size}s"
    if part == "port":
        return ATTR.pack(4 + width, number | NLA_F_NET_BYTEORDER), "H2x"
    return ATTR.pack(4 + width, number), "B3x"


# --- answers ----------------------------------------------------------------------------


class Header(NamedTuple):
    """What a set is. `family`: 4, 6, or 0 for types without.

    `odd`: what makes it hold other elements than it is given, in the tool's words; else "".
    """

    type: str
    family: int
    elements: int
    references: int
    odd: str


class Answer(NamedTuple):
    """One answer about a set: of several, the first has the header. `listed`: elements, for `Layout`."""

    name: str
    header: Header | None
    listed: memoryview | None


def read(answer: Message) -> Answer:
    said = fields(answer.body[4:])
    listed = said.get(IPSET_ATTR_ADT)
    name = _name(need(said, IPSET_ATTR_SETNAME, "a set's name"))
    return Answer(name, _header(said) if IPSET_ATTR_TYPENAME in said else None, listed)


def elements(listed: memoryview) -> Iterator[memoryview]:
    """The elements of a list, each for `Layout.read`."""
    return (value for number, value in walk(listed) if number == IPSET_ATTR_DATA)


def _header(said: dict[int, memoryview]) -> Header:
    family = _number(need(said, IPSET_ATTR_FAMILY, "a set's family"))
    data = fields(said.get(IPSET_ATTR_DATA, b""))
    return Header(
        _name(said[IPSET_ATTR_TYPENAME]),
        _NUMBERS.get(family, family),
        _number(data.get(IPSET_ATTR_ELEMENTS, b"")),
        _number(data.get(IPSET_ATTR_REFERENCES, b"")),
        _odd(data),
    )


def _odd(data: dict[int, memoryview]) -> str:
    if _number(data.get(IPSET_ATTR_CADT_FLAGS, b"")) & IPSET_FLAG_WITH_FORCEADD:
        return "forceadd"  # throws elements out when it is full
    if IPSET_ATTR_NETMASK in data:
        return f"netmask {_number(data[IPSET_ATTR_NETMASK])}"
    return "bitmask" if IPSET_ATTR_BITMASK in data else ""


def _number(value: memoryview | bytes) -> int:
    return int.from_bytes(value, "big")


def _name(value: memoryview) -> str:
    # Whoever makes sets may call them anything; what is no text is nobody's we know.
    return bytes(value).rstrip(b"\0").decode("utf-8", "replace")
