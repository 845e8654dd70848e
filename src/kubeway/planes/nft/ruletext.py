"""
One rule in the words of `nft list`.

Knows the order in which nft reads instructions back: what was loaded into a register
is kept as text until something compares it, looks it up or sends it somewhere. Sets
matter only by the width of their keys. Tables and elements are `text.py`'s.

Source: nft 1.0.6, netlink_delinearize.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from kubeway.planes.nft.fields import FIELDS, width
from kubeway.planes.nft.objects import (
    Accept,
    Bitwise,
    Cmp,
    Ct,
    CtOriginal,
    CtSet,
    Dnat,
    Drop,
    Dynset,
    Expr,
    Family,
    Fib,
    Foreign,
    Goto,
    Hash,
    Immediate,
    Jump,
    Lookup,
    Masquerade,
    Meta,
    MetaSet,
    Numgen,
    Payload,
    Reject,
    Return,
    Rule,
    Set,
    SetDaddr,
    SocketTransparent,
    Tproxy,
    set_key,
)
from kubeway.planes.nft.words import (
    STATES,
    STATUSES,
    TCP_FLAGS,
    host_int,
    show_bits,
    show_class,
    show_comment,
    show_interface,
    show_mark,
    show_route,
    show_time,
    show_verdict,
)
from kubeway.program.program import Key
from kubeway.values import show_ip

_ADDRESSES: Final[dict[tuple[Family, int], str]] = {
    ("ip", 12): "ip saddr",
    ("ip", 16): "ip daddr",
    ("ip6", 8): "ip6 saddr",
    ("ip6", 24): "ip6 daddr",
}
_PORTS: Final = {0: "sport", 2: "dport"}
_PORT_PROTOS: Final = {6: "tcp", 17: "udp", 132: "sctp"}
_TCP_FLAGS: Final = (13, 1)  # offset and size


def _direction(value: bytes) -> str:
    return "reply" if value[0] else "original"


_ports = FIELDS["th dport"].show
_METAS: Final[dict[str, tuple[int, Callable[[bytes], str]]]] = {
    "l4proto": (1, FIELDS["meta l4proto"].show),
    "mark": (4, show_mark),
    "priority": (4, show_class),
    "iifname": (16, show_interface),
    "iifkind": (16, show_interface),
}
_CTS: Final = {
    "state": show_bits(STATES),
    "status": show_bits(STATUSES),
    "mark": show_mark,
    "direction": _direction,
}


class _Untold(Exception):
    """This instruction cannot be said in nft's words here."""


class _Loaded(NamedTuple):
    """What lies in a register: its text, its bytes, and how a constant beside it is printed.

    `constant` is set for a constant; `mask` and `xor` for a value that went through Bitwise.
    """

    text: str
    size: int
    show: Callable[[bytes], str]
    constant: bytes | None = None
    mask: bytes = b""
    xor: bytes = b""

    @property
    def registers(self) -> int:
        return (self.size + 3) // 4

    def masked(self) -> str:
        """The value with its Bitwise, in the way nft tells `&`, `^` and `|` apart."""
        ones = (1 << 8 * len(self.mask)) - 1
        mask, xor = _int(self.mask), _int(self.xor)
        both = xor & ~mask
        text = self.text
        for sign, bits, idle in (("&", mask | both, ones), ("^", xor & mask, 0), ("|", both, 0)):
            if bits != idle:
                text += f" {sign} {self.show(bits.to_bytes(len(self.mask), 'big'))}"
        return text


def _flags(value: bytes) -> str:
    return ",".join(name for bit, name in enumerate(TCP_FLAGS) if value[0] >> bit & 1)


def _byte(value: bytes) -> str:
    return str(value[0])


def _int(value: bytes) -> int:
    return int.from_bytes(value, "big")


def prefix_length(mask: bytes) -> int | None:
    """How many leading bits a mask has, if it has no others."""
    hole = ~_int(mask) & ((1 << 8 * len(mask)) - 1)
    return 8 * len(mask) - hole.bit_length() if hole & (hole + 1) == 0 else None


class _Teller:
    """Runs down one rule and says each of its statements."""

    def __init__(self, objects: Mapping[Key, object], family: Family) -> None:
        self.objects = objects
        self.family = family
        self.registers: dict[int, _Loaded] = {}
        self.said: list[str] = []
        # `meta l4proto tcp th dport 80` is told as `tcp dport 80`: the protocol the rule
        # has asked for, and where it was said, while only conditions have followed.
        self.proto: str | None = None
        self.proto_at: int | None = None

    def tell(self, expr: Expr) -> str | None:
        """The statement this instruction ends, or None if it only moves data."""
        match expr:
            case (
                Payload()
                | Meta()
                | Ct()
                | CtOriginal()
                | SocketTransparent()
                | Fib()
                | Immediate()
                | Numgen()
                | Hash()
            ):
                self.put(expr.reg, self.load(expr))
            case Bitwise(reg, mask, xor):
                was = self.get(reg)
                if was.mask or was.constant is not None or len(mask) != was.size:
                    raise _Untold
                self.put(reg, was._replace(mask=mask, xor=xor))
            case Lookup():
                return self.lookup(expr)
            case Cmp():
                return self.compare(expr)
            case _:
                self.proto_at = None
                return self.act(expr)
        return None

    def load(
        self, expr: Payload | Meta | Ct | CtOriginal | SocketTransparent | Fib | Immediate | Numgen | Hash
    ) -> _Loaded:
        match expr:
            case Payload():
                return self.payload(expr)
            case Meta(_, key):
                size, show = _METAS[key]
                return _Loaded("iifname" if key == "iifname" else f"meta {key}", size, show)
            case Ct(_, key):
                return _Loaded(f"ct {key}", 1 if key == "direction" else 4, _CTS[key])
            case CtOriginal():
                return _Loaded(f"ct original {self.family} saddr", self.address_size, show_ip)
            case SocketTransparent():
                return _Loaded("socket transparent", 1, _byte)
            case Fib(_, of):
                return _Loaded(f"fib {of} type", 4, show_route)
            case Immediate(_, value):
                return _Loaded("", len(value), show_mark, constant=value)
            case Numgen(_, modulus, offset):
                text = f"numgen random mod {modulus}" + (f" offset {offset}" if offset else "")
                return _Loaded(text, 4, lambda value: str(host_int(value)))
            case Hash(_, source, size, modulus, seed):
                text = f"jhash {self.raw(source, size)} mod {modulus} seed {seed:#x}"
                return _Loaded(text, 4, lambda value: str(host_int(value)))

    def raw(self, reg: int, size: int) -> str:
        """What lies in so many bytes from `reg` on, as the parts of a key."""
        parts: list[str] = []
        end = reg + (size + 3) // 4
        while reg < end:
            part = self.get(reg)
            if part.mask or part.constant is not None:
                raise _Untold
            parts.append(part.text)
            reg += part.registers
        return " . ".join(parts)

    def payload(self, load: Payload) -> _Loaded:
        if load.base == "transport":
            flags = self.proto == "tcp" and (load.offset, load.size) == _TCP_FLAGS
            name = "flags" if flags else _PORTS.get(load.offset)
            if name is None or (load.size != 2 and not flags):
                raise _Untold
            if self.proto_at is not None:
                self.said[self.proto_at] = ""
                self.proto_at = None
            text = f"{self.proto or 'th'} {name}"
            return _Loaded(text, 1, _flags) if flags else _Loaded(text, 2, _ports)
        name = _ADDRESSES.get((self.family, load.offset))
        if name is None or load.size > self.address_size:
            raise _Untold
        return _Loaded(name, load.size, show_ip)

    @property
    def address_size(self) -> int:
        return 4 if self.family == "ip" else 16

    def put(self, reg: int, loaded: _Loaded) -> None:
        end = reg + loaded.registers
        self.registers = {
            at: was for at, was in self.registers.items() if at + was.registers <= reg or at >= end
        }
        self.registers[reg] = loaded

    def get(self, reg: int) -> _Loaded:
        if reg not in self.registers:
            raise _Untold
        return self.registers[reg]

    def row(self, reg: int, names: tuple[str, ...]) -> str:
        """The key made of the registers from `reg` on, as wide as the fields `names`."""
        return self.raw(reg, width(names))

    def set(self, name: str) -> Set:
        found = self.objects.get(set_key(self.family, name))
        if not isinstance(found, Set):
            raise _Untold
        return found

    def lookup(self, lookup: Lookup) -> str | None:
        into = lookup.into
        held = self.set(lookup.name)
        row = self.row(lookup.reg, held.key)
        if into is None:
            return f"{row} {'!= ' if lookup.invert else ''}@{lookup.name}"
        if into == "verdict":
            return f"{row} vmap @{lookup.name}"
        self.put(into, _Loaded(f"{row} map @{lookup.name}", width(held.data), show_mark))
        return None

    def compare(self, cmp: Cmp) -> str:
        left = self.get(cmp.reg)
        sign = "" if cmp.op == "==" else "!= "
        if left.constant is not None or len(cmp.value) > left.size:
            raise _Untold
        if left.mask:
            return self.compare_masked(left, cmp)
        if left.show is _flags:
            raise _Untold  # as numbers, and by the mask of all
        if left.show is show_ip and len(cmp.value) < self.address_size:
            whole = cmp.value.ljust(self.address_size, b"\0")
            return f"{left.text} {sign}{show_ip(whole)}/{8 * len(cmp.value)}"
        if len(cmp.value) < left.size and left.show is not show_interface:
            raise _Untold
        if left.text == "meta l4proto" and cmp.op == "==":
            self.proto, self.proto_at = _PORT_PROTOS.get(cmp.value[0]), len(self.said)
        if left.text in ("ct state", "ct status"):
            sign = f"{cmp.op} "  # without a sign, nft takes bits to mean any of them
        return f"{left.text} {sign}{left.show(cmp.value)}"

    def compare_masked(self, left: _Loaded, cmp: Cmp) -> str:
        if len(cmp.value) != left.size:
            raise _Untold
        sign = "" if cmp.op == "==" else "!= "
        plain = not any(left.xor)
        if left.show is _flags:
            if not plain or not any(cmp.value):
                raise _Untold
            return f"{left.text} {sign}{_flags(cmp.value)} / {_flags(left.mask)}"
        if left.text in ("ct state", "ct status") and plain and not any(cmp.value):
            return f"{left.text} {'! ' if cmp.op == '==' else ''}{left.show(left.mask)}"
        if left.show is show_ip and plain and left.size == self.address_size:
            length = prefix_length(left.mask)
            if length is not None:
                return f"{left.text} {sign}{show_ip(cmp.value)}/{length}"
        return f"{left.masked()} {cmp.op} {left.show(cmp.value)}"

    def act(self, expr: Expr) -> str:
        match expr:
            case MetaSet(reg, key):
                value = self.get(reg)
                if value.constant is not None:
                    return f"meta {key} set {_METAS[key][1](value.constant)}"
                return f"meta {key} set {value.masked()}"
            case CtSet(reg, key):
                value = self.get(reg)
                told = value.masked() if value.constant is None else _CTS[key](value.constant)
                return f"ct {key} set {told}"
            case SetDaddr(reg):
                value = self.get(reg)
                told = value.text if value.constant is None else show_ip(value.constant)
                return f"{self.family} daddr set {told}"
            case Dynset():
                return self.dynset(expr)
            case Dnat(ip, port):
                return self.dnat(ip, port)
            case Tproxy(ip, port):
                return f"tproxy to {self.target(ip, port)}"
            case Masquerade():
                return "masquerade fully-random"
            case Reject():
                return "reject"
            case Drop() | Accept() | Return() | Jump() | Goto():
                return show_verdict(expr)
            case _:
                raise _Untold

    def dynset(self, dynset: Dynset) -> str:
        row = self.row(dynset.reg, self.set(dynset.name).key)
        timeout = f" timeout {show_time(dynset.timeout)}" if dynset.timeout else ""
        data = ""
        if dynset.data is not None:
            data = f" : {self.row(dynset.data, self.set(dynset.name).data)}"
        return f"{dynset.op} @{dynset.name} {{ {row}{timeout}{data} }}"

    def dnat(self, ip: int, port: int) -> str:
        address = self.get(ip)
        if ip < port < ip + address.registers:  # one map gave both
            return f"dnat {self.family} to {address.text}"
        return f"dnat to {self.target(ip, port)}"

    def target(self, ip: int, port: int) -> str:
        """A constant address and port: `10.0.0.1:80`."""
        address, number = self.get(ip), self.get(port)
        if address.constant is None or number.constant is None:
            raise _Untold
        shown = show_ip(address.constant)
        host = shown if self.family == "ip" else f"[{shown}]"
        return f"{host}:{_ports(number.constant)}"


def _statements(rule: Rule, objects: Mapping[Key, object], family: Family) -> Iterator[str]:
    """Each statement of the rule; one that cannot be told is its instruction in brackets."""
    teller = _Teller(objects, family)
    for expr in rule.exprs:
        try:
            said = teller.tell(expr)
        except _Untold:
            said = f"[{expr.name if isinstance(expr, Foreign) else type(expr).__name__.lower()}]"
        if said is not None:
            teller.said.append(said)
    return (said for said in teller.said if said)


def show_rule(rule: Rule, objects: Mapping[Key, object], family: Family) -> str:
    """The rule as `nft list` prints it, on one line.

    `objects` hold the sets it looks up. A rule with an instruction that kubeway does not
    use (or uses otherwise) has it in square brackets and begins with `#`, so that nft
    would pass over it.
    """
    statements = list(_statements(rule, objects, family))
    told = " ".join(statements) + show_comment(rule.comment)
    untold = not statements or any(said.startswith("[") for said in statements)
    return f"# {told.strip()}" if untold else told
