"""
What an iptables table is made of, as values: chains, their rules, and our jumps in chains that
are not ours.

A rule is its matches, in order, and a target. What is compared with the kernel, printed for
`iptables-restore`, read from `iptables-save` and run on packets by `fates` is one thing.

Keys: `("chain", (family, table, chain))`, `("rules", (family, table, chain))` for chains of ours, and
`("jump", (family, table, chain, number))` for the rules we have in an open chain, in which others have
rules, too (a built-in one, or one of `SHARED`): ours stand at its top, in the order of their numbers,
and everything else in it is left alone.

Some chains of ours are lists that many service ports add to: their names begin with `BRANCHING`. Such a chain
has no Rules object; each rule is one of its own, `("branch", (family, table, chain, spot))`, and the order of
the rules means nothing, as no packet is decided by two of them. `spot` says what the rule matches.
`family` is "ip" (iptables) or "ip6" (ip6tables).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal

from msgspec import Struct

from kubeway.program.program import Key
from kubeway.values import Ip, Prefix, Proto, parse_prefix

PLANE: Final = "xtables"
KINDS: Final = ("chain", "rules", "branch", "jump")
"""Ground first: rules name chains, branches name chains, jumps name chains."""

BRANCHING: Final = "KUBE-BY-"
"""How the names of chains begin whose rules are branches."""

RELAY: Final = "KUBE-RELAY-"
"""How the names of chains begin that lead to the relay."""
RELAY_PREROUTING: Final = f"{RELAY}PREROUTING"
"""The one that is there whenever any of them is."""

BUILT_IN: Final = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
"""The chains that are there without anybody making them, which all share."""

SHARED: Final = frozenset({("filter", "KUBE-FIREWALL")})
"""Chains, by table, that others make and fill, too."""

Family = Literal["ip", "ip6"]
FAMILIES: Final[tuple[Family, ...]] = ("ip", "ip6")
TableName = Literal["filter", "nat", "mangle"]
Side = Literal["src", "dst"]


def chain_key(family: Family, table: TableName, chain: str) -> Key:
    return Key(PLANE, "chain", (family, table, chain))


def rules_key(family: Family, table: TableName, chain: str) -> Key:
    return Key(PLANE, "rules", (family, table, chain))


def jump_key(family: Family, table: TableName, chain: str, number: int) -> Key:
    return Key(PLANE, "jump", (family, table, chain, number))


def branch_key(family: Family, table: TableName, chain: str, rule: Rule) -> Key:
    return Key(PLANE, "branch", (family, table, chain, spot(rule)))


def spot(rule: Rule) -> str:
    """What a branch matches, comments left out; within a chain only one branch matches it."""
    return ", ".join([_spot_word(one) for one in rule.matches if not isinstance(one, Comment)])


# Nearly all rules that are dispatched to ask for one of few ports, and an address has several rules in a row.
@lru_cache(maxsize=1024)
def _spot_word(match: Match) -> str:
    match match:
        case Source(prefix, invert):
            return f"{'!' * invert}s {prefix}"
        case Destination(prefix, invert):
            return f"{'!' * invert}d {prefix}"
        case Protocol(proto):
            return f"p {proto}"
        case Dport(_, port, last):
            return f"dport {port}:{last}" if last else f"dport {port}"
        case InSet(name, sides, invert):
            return f"{'!' * invert}set {name} {','.join(sides)}"
        case _:
            return repr(match)


class Chain(Struct, frozen=True):
    """A chain of ours."""


# --- matches ------------------------------------------------------------------------


class Source(Struct, frozen=True, tag=True):
    prefix: Prefix
    invert: bool = False


class Destination(Struct, frozen=True, tag=True):
    prefix: Prefix
    invert: bool = False


class InInterface(Struct, frozen=True, tag=True):
    """`begins`: the name is the beginning of interfaces' names (`cni+`)."""

    name: str
    begins: bool = False
    invert: bool = False


class Protocol(Struct, frozen=True, tag=True):
    proto: Proto


class Dport(Struct, frozen=True, tag=True):
    """The destination port of the protocol named before it (`-m tcp --dport 80`).

    `last`, where not 0, makes it a range: `--dport 80:95`.
    """

    proto: Proto
    port: int
    last: int = 0


class Opening(Struct, frozen=True, tag=True):
    """Of TCP, named before it: the first packet of a connection (`--syn`)."""

    invert: bool = False


class AddrType(Struct, frozen=True, tag=True):
    """The packet's source or destination is an address of this node."""

    of: Side


class CtState(Struct, frozen=True, tag=True):
    """The flow is in one of the states, in iptables' order: INVALID, NEW, RELATED, ESTABLISHED, DNAT, …"""

    states: tuple[str, ...]
    invert: bool = False


class Mark(Struct, frozen=True, tag=True):
    value: int
    mask: int
    invert: bool = False


class ConnMark(Struct, frozen=True, tag=True):
    """The flow's mark. A packet of no flow never matches, inverted or not."""

    value: int
    mask: int
    invert: bool = False


class Answering(Struct, frozen=True, tag=True):
    """The packet goes against its flow's first one (`--ctdir REPLY`)."""


class Transparent(Struct, frozen=True, tag=True):
    """A socket of this node that may have foreign addresses (IP_TRANSPARENT) takes the packet, and is bound
    to an address. In PREROUTING and INPUT only."""


class Random(Struct, frozen=True, tag=True):
    """One packet of `of` (statistic, random): the kernel compares 31 random bits with 2^31 / of, rounded."""

    of: int


class Recent(Struct, frozen=True, tag=True):
    """The client's address is in the list (checked within `seconds`, and reaped), or is put into it.

    update: like check; and if it is there, its time begins anew.
    """

    name: str
    op: Literal["check", "update", "set"]
    seconds: int = 0


class Nfacct(Struct, frozen=True, tag=True):
    """Counts the packet in an accounting object of the kernel, which outlives the rule; always applies."""

    name: str


class InSet(Struct, frozen=True, tag=True):
    """The packet is an entry of the set of this name, which is ipset's and has to be there first.

    `sides` says of each field of an entry, in the order of the set's type, whose it is: in a set of type
    "hash:ip,port,ip", `("dst", "dst", "src")` asks for the destination, its port, and the source.
    """

    name: str
    sides: tuple[Side, ...]
    invert: bool = False


class Balanced(Struct, frozen=True, tag=True):
    """ipvs has sent the packet on."""

    invert: bool = False


class Comment(Struct, frozen=True, tag=True):
    text: str


class ForeignMatch(Struct, frozen=True, tag=True):
    """A match kubeway does not use, as its words: somebody else's rule."""

    words: tuple[str, ...]


Match = (
    Source | Destination | InInterface | Protocol | Dport | Opening | AddrType | CtState | Mark | ConnMark
    | Answering | Transparent | Random | Recent | Balanced | Nfacct | InSet | Comment | ForeignMatch
)  # fmt: skip

# --- targets ------------------------------------------------------------------------


class Jump(Struct, frozen=True, tag=True):
    chain: str


class Goto(Struct, frozen=True, tag=True):
    chain: str


class Return(Struct, frozen=True, tag=True):
    pass


class Accept(Struct, frozen=True, tag=True):
    pass


class Drop(Struct, frozen=True, tag=True):
    pass


class Reject(Struct, frozen=True, tag=True):
    """ICMP port unreachable."""


class MarkXset(Struct, frozen=True, tag=True):
    """mark = (mark & ~mask) ^ value (`--set-xmark`); goes on with the next rule."""

    value: int
    mask: int


class ConnMarkXset(Struct, frozen=True, tag=True):
    """The flow's mark = (mark & ~mask) ^ value (`--set-xmark`); goes on with the next rule."""

    value: int
    mask: int


class Tproxy(Struct, frozen=True, tag=True):
    """Hands the packet to the socket that listens at this address and port of this node, and has
    mark = (mark & ~mask) ^ value; where nobody listens there, the packet is dropped.

    Behind a protocol, TCP or UDP; in PREROUTING of mangle only.
    """

    ip: Ip
    port: int
    value: int
    mask: int


class Masquerade(Struct, frozen=True, tag=True):
    """With a random port where the tool knows how (`--random-fully`)."""

    fully: bool = True


class Dnat(Struct, frozen=True, tag=True):
    ip: Ip
    port: int


class ForeignTarget(Struct, frozen=True, tag=True):
    words: tuple[str, ...]


Target = (
    Jump | Goto | Return | Accept | Drop | Reject | MarkXset | ConnMarkXset | Tproxy | Masquerade | Dnat
    | ForeignTarget
)  # fmt: skip


class Rule(Struct, frozen=True):
    """`target` None: the rule only matches (and counts)."""

    matches: tuple[Match, ...]
    target: Target | None = None


class Rules(Struct, frozen=True):
    """The rules of a chain of ours, in order."""

    rules: tuple[Rule, ...] = ()


_LOOPBACK: Final = parse_prefix("127.0.0.0/8")

MARTIAN: Final = "block incoming localnet connections"

MARTIANS: Final = Rule(
    (
        Source(_LOOPBACK, invert=True),
        Destination(_LOOPBACK),
        Comment(MARTIAN),
        CtState(("RELATED", "ESTABLISHED", "DNAT"), invert=True),
    ),
    Drop(),
)
"""What keeps loopback addresses closed to others while `route_localnet` is on (CVE-2020-8558); kubelet's,
kube-proxy's and ours are the same."""
