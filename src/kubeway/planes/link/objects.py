"""
What the link plane holds: one link, addresses on it, and which source the node's own packets to them have;
and which packets are for this node wherever they are sent, by their mark.

A packet to an address of a Service is to come by the hook LOCAL_IN, where the kernel's ipvs waits for it; so
the address has to be this node's. It is that on a dummy link, which leads nowhere and answers no ARP. The
link stays down: local addresses work all the same.

Keys, objects, what they are called, and laws; bytes are `lower`'s and `lift`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

from msgspec import Struct

from kubeway.program.program import Change, Key, Object
from kubeway.values import V4, V6, Ip, family_of, host_prefix, show_ip
from kubeway.wire import rtnetlink as wire

PLANE: Final = "link"
KINDS: Final = ("link", "route", "address", "table", "rule")
"""Ground first: with the address the kernel makes a route of its own, and who sends while there is no other
bears the Service's address, which may be let in where his own is not."""

DEVICE: Final = "kube-ipvs0"
"""The link's name: kube-proxy's, so that what knows it from there (CNI plugins, agents) finds it."""

LINK: Final = Key(PLANE, "link", (DEVICE,))

PROTOCOL: Final = 117
"""What marks a route as ours (rtm_protocol); /etc/iproute2/rt_protos gives it to nobody."""

METRIC: Final = 1024
"""Of our routes of IPv6; it is the kernel's for routes that ask for none (IP6_RT_PRIO_USER)."""

TABLE: Final = 117
"""The routing table by which everything is for this node; /etc/iproute2/rt_tables gives it to nobody."""

PRIORITY: Final = 1
"""Of our rules: just after table local (0), before all that others have rules for."""

Role = Literal["pass", "late", "end"]
PRIORITIES: Final[dict[Role, int]] = {"pass": 2, "late": 3, "end": 4}
"""Of rules that keep what this node asks for itself apart from what comes in: "pass" has the former, as far
as it has the mark, go on at "end"; "late" leads what is left to our table."""

RIGID: Final[frozenset[str]] = frozenset()
"""Kinds whose objects cannot be changed in place: none."""


class Dummy(Struct, frozen=True):
    """A dummy link. Whether it is up does not matter to anything here, and is nobody's difference."""


class Alien(Struct, frozen=True):
    """A link of our name that is no dummy, so is somebody else's. Only ever read."""

    kind: str


class Address(Struct, frozen=True):
    """The address, alone in its prefix (/32, /128), usable.

    `odd` is only ever read: the lengths of prefixes in which it stands instead or besides; /128 among them
    is one that packets are not taken in for: tentative, or without a route.
    """

    odd: tuple[int, ...] = ()


class Route(Struct, frozen=True):
    """The local route to the address that is in force is ours, and its source is this one.

    The kernel makes a local route for each address of a link, which has the address itself as source: a
    node's own packets to a Service would come from the Service.
    """

    source: Ip


class Mixed(Struct, frozen=True):
    """Routes of ours, by their sources, of which not the only one is in force. Only ever read."""

    sources: tuple[Ip, ...]


class Homeward(Struct, frozen=True):
    """All that is routed by our table is for this node: a local route to everything, on loopback."""


class Rule(Struct, frozen=True):
    """Packets whose mark has this bit are routed by our table (fwmark, before all others' rules); or what
    the rule's role says.

    `odd` is only ever read: rules of ours for that mark that stand elsewhere, lead elsewhere or ask for more.
    """

    odd: tuple[wire.Rule, ...] = ()


def table_key(family: int) -> Key:
    """`family` is 4 or 6."""
    return Key(PLANE, "table", (family,))


def rule_key(family: int, mark: int) -> Key:
    return Key(PLANE, "rule", (family, mark))


def role_key(family: int, mark: int, role: Role) -> Key:
    """A rule that has a role. The one of "end" is for all marks: 0."""
    return Key(PLANE, "rule", (family, mark, role))


def role_of(key: Key) -> Role | None:
    return key.name[2] if len(key.name) > 2 else None


STEERING: Final = frozenset({"table", "rule"})
"""Kinds that have nothing to do with the link."""


def address_key(ip: Ip) -> Key:
    return Key(PLANE, "address", (ip,))


def route_key(ip: Ip) -> Key:
    return Key(PLANE, "route", (ip,))


# --- for people -----------------------------------------------------------------------


def family_name(key: Key) -> str | None:
    """The family of packets that the object is about, as planes with families call it; None: of both."""
    if key == LINK:
        return None
    if key.kind in STEERING:
        return "ip" if key.name[0] == V4 else "ip6"
    return "ip" if family_of(key.name[0]) == 4 else "ip6"


def show(objects: Mapping[Key, Object], family: str | None = None) -> str:
    """A line for each object, in the tool's words, as a comment: restore tools read it over."""
    keys = [key for key in objects if key.plane == PLANE]
    ordered = sorted(keys, key=_order)
    chosen = [key for key in ordered if family is None or family_name(key) in (None, family)]
    return "".join(f"# ip {_line(key, objects[key])}\n" for key in chosen)


def _order(key: Key) -> tuple[int, ...]:
    name = key.name[0]
    kind = KINDS.index(key.kind)
    return (kind, *key.name) if key.kind in STEERING else (kind, len(name), *(name if key != LINK else ()))


def _steering_line(key: Key) -> str:
    family = "-6 " if key.name[0] == V6 else ""
    if key.kind == "table":
        return f"{family}route add local default dev lo table {TABLE} proto {PROTOCOL}"
    mark, role = f"{key.name[1]:#x}/{key.name[1]:#x}", role_of(key)
    if role == "end":
        return f"{family}rule add priority {PRIORITIES[role]} nop protocol {PROTOCOL}"
    if role == "pass":
        how = f"iif lo fwmark {mark} goto {PRIORITIES['end']} protocol {PROTOCOL}"
        return f"{family}rule add priority {PRIORITIES[role]} {how}"
    if role == "late":
        how = f"fwmark {mark} lookup {TABLE} protocol {PROTOCOL}"
        return f"{family}rule add priority {PRIORITIES[role]} {how}"
    return f"{family}rule add priority {PRIORITY} fwmark {mark} lookup {TABLE} protocol {PROTOCOL}"


def _line(key: Key, obj: Object) -> str:
    if key.kind in STEERING:
        return _steering_line(key)
    if not isinstance(key.name[0], bytes):
        return f"link add {DEVICE} type dummy"
    ip = Ip(key.name[0])
    prefix = host_prefix(ip)
    if not isinstance(obj, Route):
        nodad = " nodad" if len(ip) == 16 else ""
        return f"address add {prefix} dev {DEVICE}{nodad}"
    how = f"src {show_ip(obj.source)} proto {PROTOCOL}"
    if len(ip) == 4:
        return f"route prepend local {prefix} dev {DEVICE} table local {how}"
    return f"route replace local {prefix} dev lo table local {how} metric {METRIC}"


_VERBS: Final = {"add": "add", "set": "change", "del": "delete"}


def describe(change: Change, program: Mapping[Key, Object]) -> str:
    """`add address 10.96.0.1 on kube-ipvs0`, `change local route to 10.96.0.1 with source 192.0.2.1`"""
    source = f" with source {show_ip(change.new.source)}" if isinstance(change.new, Route) else ""
    return f"{_VERBS[change.verb]} {describe_key(change.key, program)}{source}"


def describe_key(key: Key, program: Mapping[Key, Object]) -> str:
    match key.kind:
        case "link":
            return f"link {DEVICE}"
        case "address":
            return f"address {show_ip(key.name[0])} on {DEVICE}"
        case "table":
            return f"local route to everything of IPv{key.name[0]} in table {TABLE}"
        case "rule" if role_of(key) == "end":
            return f"rule of IPv{key.name[0]} that our rules end at"
        case "rule" if role_of(key) == "pass":
            return f"rule of IPv{key.name[0]} that mark {key.name[1]:#x} of this node's own passes on"
        case "rule":
            return f"rule of IPv{key.name[0]} that mark {key.name[1]:#x} leads to table {TABLE}"
        case _:
            return f"local route to {show_ip(key.name[0])}"


# --- laws -----------------------------------------------------------------------------


def place(key: Key) -> Key | None:
    """The object this one lies in. Routes of IPv6 lie on loopback, as the kernel takes none on a link that
    is down."""
    on_link = key.kind == "address" or (key.kind == "route" and len(key.name[0]) == 4)
    return LINK if on_link else None


def references(key: Key, obj: Object) -> Iterator[Key]:
    """The objects that this one names. A route needs no address; a rule leads to a table."""
    if key.kind == "rule" and role_of(key) in (None, "late"):
        yield table_key(key.name[0])
