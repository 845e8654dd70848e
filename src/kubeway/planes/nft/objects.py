"""
What an nftables table is made of: sets, chains, rules and elements, as values.

Rules are the kernel's own instructions over its own registers, not text: what is
compared with the kernel, sent to it and run on packets by `fates` is one thing.
Registers are counted from 0 to 15, four bytes each; `wire` knows how the kernel
numbers them. The text of a rule is a view (`text.py`).

Keys: `("table", (family,))`, `("set", (family, name))`, `("chain", (family, name))`,
`("rules", (family, chain))` and `("element", (family, set, key))`, where family is
"ip" or "ip6" and an element's key is its bytes as they lie in the registers: each
field padded to four bytes.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from kubeway.program.program import Key

PLANE: Final = "nft"
TABLE: Final = "kubeway"
KINDS: Final = ("table", "set", "chain", "rules", "element")
"""Ground first: an element points at chains, rules at chains and sets."""

CATCH_ALL: Final = b"*"
"""The key of a set's catch-all element, which has none."""

Family = Literal["ip", "ip6"]


def table_key(family: Family) -> Key:
    return Key(PLANE, "table", (family,))


def set_key(family: Family, name: str) -> Key:
    return Key(PLANE, "set", (family, name))


def chain_key(family: Family, name: str) -> Key:
    return Key(PLANE, "chain", (family, name))


def rules_key(family: Family, chain: str) -> Key:
    return Key(PLANE, "rules", (family, chain))


def element_key(family: Family, name: str, key: bytes) -> Key:
    return Key(PLANE, "element", (family, name, key))


class Table(Struct, frozen=True):
    comment: str = ""


class Set(Struct, frozen=True):
    """A set, or a map if it has `data` or `verdicts`.

    `key` and `data` name fields, each one of `fields.FIELDS`. `ranges`: the last
    field of the key is a range; there are others before it. `dynamic`: packets add its elements, so they are
    not ours to compare. `timeout` is in milliseconds; `size` is the most elements a
    dynamic set may have (how much room others are made with is `lower`'s choice).
    """

    key: tuple[str, ...]
    data: tuple[str, ...] = ()
    verdicts: bool = False
    ranges: bool = False
    dynamic: bool = False
    timeout: int = 0
    size: int = 0
    comment: str = ""


class Chain(Struct, frozen=True):
    """A chain; a base chain if it has a hook. A "route" routes anew what it gave another mark."""

    type: Literal["", "filter", "nat", "route"] = ""
    hook: Literal["", "prerouting", "input", "forward", "output", "postrouting"] = ""
    priority: int = 0
    comment: str = ""


# --- verdicts -----------------------------------------------------------------


class Drop(Struct, frozen=True, tag=True):
    pass


class Accept(Struct, frozen=True, tag=True):
    pass


class Return(Struct, frozen=True, tag=True):
    pass


class Jump(Struct, frozen=True, tag=True):
    chain: str


class Goto(Struct, frozen=True, tag=True):
    chain: str


Verdict = Drop | Accept | Return | Jump | Goto


# --- instructions ---------------------------------------------------------------


class Payload(Struct, frozen=True, tag=True):
    """Load `size` bytes of the packet into a register."""

    reg: int
    base: Literal["network", "transport"]
    offset: int
    size: int


class Meta(Struct, frozen=True, tag=True):
    """Load a fact about the packet. iifkind: of what kind the interface is that it came in by ("bridge")."""

    reg: int
    key: Literal["l4proto", "mark", "priority", "iifname", "iifkind"]


class MetaSet(Struct, frozen=True, tag=True):
    """Set the packet's mark or priority from a register."""

    reg: int
    key: Literal["mark", "priority"]


class Ct(Struct, frozen=True, tag=True):
    """Load the flow's state or status bits, its mark, or the packet's direction (one byte: 1 is a reply)."""

    reg: int
    key: Literal["state", "status", "mark", "direction"]


class CtOriginal(Struct, frozen=True, tag=True):
    """Load the address that the flow's first packet came from."""

    reg: int


class SetDaddr(Struct, frozen=True, tag=True):
    """Write the address in the register over the packet's destination. The flow knows nothing of it."""

    reg: int


class CtSet(Struct, frozen=True, tag=True):
    """Set the flow's mark from a register."""

    reg: int
    key: Literal["mark"]


class SocketTransparent(Struct, frozen=True, tag=True):
    """Load one byte: 1 if the packet's socket has IP_TRANSPARENT, 0 if not; go on only if it has a socket.

    Its socket is the one that sent it, else the one that the kernel would give it to as it is addressed:
    a connected one, or one that listens there.
    """

    reg: int


class Fib(Struct, frozen=True, tag=True):
    """Load the route type of the packet's source or destination (2 is local)."""

    reg: int
    of: Literal["saddr", "daddr"]


class Immediate(Struct, frozen=True, tag=True):
    """Load constant bytes."""

    reg: int
    value: bytes


class Bitwise(Struct, frozen=True, tag=True):
    """reg = (reg & mask) ^ xor"""

    reg: int
    mask: bytes
    xor: bytes


class Cmp(Struct, frozen=True, tag=True):
    """Go on only if the register's first bytes are (or are not) `value`."""

    reg: int
    op: Literal["==", "!="]
    value: bytes


class Lookup(Struct, frozen=True, tag=True):
    """Look the key at `reg` up in a set or map; go on only if it is there (not, if `invert`).

    `into` None: a set. `into` "verdict": a verdict map, whose verdict takes effect.
    Else the register the map's data is loaded into.
    """

    reg: int
    name: str
    into: int | Literal["verdict"] | None = None
    invert: bool = False


class Numgen(Struct, frozen=True, tag=True):
    """Load `offset` plus a random number below `modulus`, in the host's byte order."""

    reg: int
    modulus: int
    offset: int = 0


class Hash(Struct, frozen=True, tag=True):
    """Load a number below `modulus`, in the host's byte order, that `size` bytes from `source` on decide
    (Bob Jenkins' hash, begun with `seed`)."""

    reg: int
    source: int
    size: int
    modulus: int
    seed: int


class Dynset(Struct, frozen=True, tag=True):
    """Let the packet change a dynamic set: the key at `reg`, the data at `data`.

    "update" adds the element or, if it is there, renews its timeout and leaves its
    data; "delete" takes it away. `timeout` in milliseconds, 0 is the set's own.
    """

    op: Literal["add", "update", "delete"]
    name: str
    reg: int
    data: int | None = None
    timeout: int = 0


class Dnat(Struct, frozen=True, tag=True):
    """Send the flow to the address and port in the registers; ends the chain's hook."""

    ip: int
    port: int


class Tproxy(Struct, frozen=True, tag=True):
    """Hand the packet to the socket of its own connection or, if it has none, to the one that listens at the
    address and port in the registers; go on only if there is one.

    Only in prerouting, of TCP and UDP, and not a verdict. What the packet is addressed to stays; so it has to
    be routed to this node, too.
    """

    ip: int
    port: int


class Masquerade(Struct, frozen=True, tag=True):
    """Replace the flow's source address by this node's, with a random port."""


class Reject(Struct, frozen=True, tag=True):
    """Answer with ICMP port unreachable."""


class Foreign(Struct, frozen=True, tag=True):
    """An instruction kubeway does not use: somebody else's rule in our table."""

    name: str
    data: bytes = b""


Expr = (
    Payload | Meta | MetaSet | Ct | CtSet | CtOriginal | SetDaddr | SocketTransparent | Fib | Immediate
    | Bitwise | Cmp | Lookup | Numgen | Hash | Dynset | Dnat | Tproxy | Masquerade | Reject
    | Drop | Accept | Return | Jump | Goto | Foreign
)  # fmt: skip


class Rule(Struct, frozen=True):
    exprs: tuple[Expr, ...]
    comment: str = ""


class Rules(Struct, frozen=True):
    """The rules of one chain, in order."""

    rules: tuple[Rule, ...] = ()


class Element(Struct, frozen=True):
    """A member of a set. `end`: the highest key of its range. `data`: a map's value."""

    data: bytes | Drop | Accept | Return | Jump | Goto | None = None
    end: bytes | None = None
    comment: str = ""


class Alien(Struct, frozen=True):
    """An object in our table that kubeway would not make (a flowtable, a foreign set…).

    It is never wanted, so it is always a difference, and taken away.
    """

    what: str
