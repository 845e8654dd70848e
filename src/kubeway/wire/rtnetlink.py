"""
Links, addresses, routes and routing rules of this network namespace: how to ask for them, make them and read
them.

What they are for is not known here. Local routes are the ones that are made: which addresses are this
node's, and what source its own packets to them have.

Source: include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h, fib_rules.h.
"""

from __future__ import annotations

from struct import Struct
from sys import byteorder
from typing import Final, NamedTuple

from kubeway.errors import Malformed
from kubeway.values import Ip
from kubeway.wire.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    Message,
    attr,
    fields,
    message,
    need,
    read_text,
    text,
)

NETLINK_ROUTE: Final = 0

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
RTM_NEWRULE: Final = 32
RTM_DELRULE: Final = 33
RTM_GETRULE: Final = 34

IFLA_IFNAME: Final = 3
IFLA_LINKINFO: Final = 18
IFLA_INFO_KIND: Final = 1
IFLA_INFO_DATA: Final = 2
IFLA_BR_NF_CALL_IPTABLES: Final = 36
IFLA_BR_NF_CALL_IP6TABLES: Final = 37
IFLA_EXT_MASK: Final = 29
RTEXT_FILTER_SKIP_STATS: Final = 1 << 3

IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_FLAGS: Final = 8
IFA_F_NODAD: Final = 0x02
IFA_F_DADFAILED: Final = 0x08
IFA_F_TENTATIVE: Final = 0x40

RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_PRIORITY: Final = 6
RTA_PREFSRC: Final = 7
RTA_MULTIPATH: Final = 9
RTA_TABLE: Final = 15
RTA_VIA: Final = 18
RTA_NH_ID: Final = 30
RT_TABLE_MAIN: Final = 254
RT_TABLE_LOCAL: Final = 255
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_HOST: Final = 254
RTN_UNICAST: Final = 1
RTN_LOCAL: Final = 2
RTPROT_KERNEL: Final = 2

FRA_IIFNAME: Final = 3
FRA_GOTO: Final = 4
FRA_PRIORITY: Final = 6
FRA_FWMARK: Final = 10
FRA_SUPPRESS_PREFIXLEN: Final = 14
FRA_TABLE: Final = 15
FRA_FWMASK: Final = 16
FRA_PROTOCOL: Final = 21
FR_ACT_TO_TBL: Final = 1
FR_ACT_GOTO: Final = 2
FR_ACT_NOP: Final = 3
FIB_RULE_INVERT: Final = 2

AF_INET: Final = 2
AF_INET6: Final = 10

LOOPBACK: Final = 1
"""The index of `lo`, in every network namespace (LOOPBACK_IFINDEX, include/net/flow.h)."""

# Multicast groups, as bits of the address a socket is bound to.
GROUP_LINK: Final = 1 << 0
GROUP_V4_ADDRESS: Final = 1 << 4
GROUP_V4_ROUTE: Final = 1 << 6
GROUP_V4_RULE: Final = 1 << 7
GROUP_V6_RULE: Final = 1 << 18
GROUP_V6_ADDRESS: Final = 1 << 8
GROUP_V6_ROUTE: Final = 1 << 10

_IFINFOMSG: Final = Struct("=BxHiII")  # family, hardware type, index, flags, which of them to change
_IFADDRMSG: Final = Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_RTMSG: Final = Struct("=8BI")  # family, lengths, tos, table, protocol, scope, type, flags
_RULE_HDR: Final = Struct("=8BI")  # family, lengths, tos, table, two unused, action, flags
_U32: Final = Struct("=I")
_ASKS: Final = ((AF_INET, IFLA_BR_NF_CALL_IPTABLES), (AF_INET6, IFLA_BR_NF_CALL_IP6TABLES))
_SIZES: Final = {AF_INET: 4, AF_INET6: 16}
_FAMILIES: Final = {size: family for family, size in _SIZES.items()}


class Link(NamedTuple):
    """`kind` is "dummy", "veth", …; "" for what has none: loopback, a card.

    `asks`: of a bridge, the families (AF_*) of which it was told by itself to have packets pass the rules.
    """

    ifindex: int
    name: str
    kind: str
    asks: tuple[int, ...] = ()


class Address(NamedTuple):
    """`length` is the prefix's, `link` an index, `flags` are IFA_F_*."""

    ip: Ip
    length: int
    link: int
    flags: int


class Route(NamedTuple):
    """To the prefix `ip`/`length`. `kind` is RTN_*; `link` is 0 and `source` None where it names none.
    `via`: not to whoever is on the link, but by a router, or by several."""

    ip: Ip
    length: int
    tos: int
    table: int
    protocol: int
    kind: int
    metric: int
    link: int
    source: Ip | None
    via: bool = False


class Rule(NamedTuple):
    """Packets with this mark under this mask go by this table. `plain`: so do all of them, whatever else
    they are. `action` is FR_ACT_*: for those that pass on, to the rule of priority `target` or the next, the
    table is 0. `iif`: only what came in by this link; by `lo`, what this node asks for itself."""

    family: int
    priority: int
    mark: int
    mask: int
    table: int
    protocol: int
    plain: bool
    action: int = FR_ACT_TO_TBL
    target: int = 0
    iif: str = ""


# --- links ----------------------------------------------------------------------------


def link_request(name: str) -> bytes:
    """Ask for one link; ENODEV if there is none of this name."""
    return message(RTM_GETLINK, NLM_F_REQUEST, _link_head() + text(IFLA_IFNAME, name))


def links_request(kind: str) -> bytes:
    """Ask for all links of this kind."""
    only = attr(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind))
    mask = attr(IFLA_EXT_MASK, _U32.pack(RTEXT_FILTER_SKIP_STATS))
    return message(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, _link_head() + mask + only)


def new_dummy(name: str) -> bytes:
    """Make a dummy link; it is down. EEXIST if the name is taken, EOPNOTSUPP without module dummy."""
    kind = attr(IFLA_LINKINFO, attr(IFLA_INFO_KIND, b"dummy"))
    flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL
    return message(RTM_NEWLINK, flags, _link_head() + text(IFLA_IFNAME, name) + kind)


def del_link(name: str) -> bytes:
    """ENODEV if there is none. Its addresses go with it, and its routes."""
    return message(RTM_DELLINK, NLM_F_REQUEST, _link_head() + text(IFLA_IFNAME, name))


def _link_head() -> bytes:
    return _IFINFOMSG.pack(0, 0, 0, 0, 0)


def read_link(m: Message) -> Link:
    """The link in an answer or an event."""
    if m.kind not in (RTM_NEWLINK, RTM_DELLINK) or len(m.body) < _IFINFOMSG.size:
        raise _unexpected(m, "a link")
    known = fields(m.body[_IFINFOMSG.size :])
    info = fields(known.get(IFLA_LINKINFO, b""))
    kind = info.get(IFLA_INFO_KIND)
    ifindex: int = _IFINFOMSG.unpack_from(m.body)[2]
    name = read_text(need(known, IFLA_IFNAME, "a link's name"))
    data = fields(info.get(IFLA_INFO_DATA, b"")) if kind is not None and read_text(kind) == "bridge" else {}
    asks = tuple(family for family, number in _ASKS if any(data.get(number, b"")))
    return Link(ifindex, name, "" if kind is None else read_text(kind), asks)


# --- addresses ------------------------------------------------------------------------


def addresses_request() -> bytes:
    """Ask for every address of every interface, both families."""
    return message(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, _IFADDRMSG.pack(0, 0, 0, 0, 0))


def new_address(ip: Ip, link: int) -> bytes:
    """Give the link this address, alone in its prefix; EEXIST if it has it.

    Whether another host has it too is not asked of the link (IFA_F_NODAD, IPv6): it is this node's at once.
    """
    flags = IFA_F_NODAD if len(ip) == 16 else 0
    return message(
        RTM_NEWADDR, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL, _address(ip, len(ip) * 8, flags, link)
    )


def del_address(ip: Ip, length: int, link: int) -> bytes:
    """EADDRNOTAVAIL if the link does not have it with a prefix of that length."""
    return message(RTM_DELADDR, NLM_F_REQUEST, _address(ip, length, 0, link))


def _address(ip: Ip, length: int, flags: int, link: int) -> bytes:
    head = _IFADDRMSG.pack(_FAMILIES[len(ip)], length, flags, RT_SCOPE_UNIVERSE, link)
    return head + attr(IFA_LOCAL, ip) + attr(IFA_ADDRESS, ip)


def is_on(m: Message, link: int) -> bool:
    """Whether an answer or event is of an address on this link: cheap, for who has thousands to pass over."""
    return m.body[4:8] == link.to_bytes(4, byteorder)


def read_address(m: Message) -> Address | None:
    """The address in one answer or event; None if it is of another family than IPv4 and IPv6."""
    if m.kind not in (RTM_NEWADDR, RTM_DELADDR) or len(m.body) < _IFADDRMSG.size:
        raise _unexpected(m, "an address")
    family, length, flags, _, link = _IFADDRMSG.unpack_from(m.body)
    size = _SIZES.get(family)
    if size is None:
        return None
    known = fields(m.body[_IFADDRMSG.size :])
    # On a point-to-point link IFA_ADDRESS is the other end's; then IFA_LOCAL is ours.
    value = known.get(IFA_LOCAL, known.get(IFA_ADDRESS))
    if value is None or len(value) != size:
        raise Malformed(f"rtnetlink: an address of {0 if value is None else len(value)} bytes, not {size}")
    wide = known.get(IFA_FLAGS)
    return Address(Ip(bytes(value)), length, link, flags if wide is None else _number(wide))


# --- routes ---------------------------------------------------------------------------


def routes_request(family: int, table: int = RT_TABLE_LOCAL) -> bytes:
    """Ask for the routes of AF_INET or AF_INET6 in a table; ENOENT if nothing was ever in it.

    A socket that asks strictly (NETLINK_GET_STRICT_CHK, kernel 4.20) is told of no others; any other
    is told of all routes there are.
    """
    head = _RTMSG.pack(family, 0, 0, 0, table, 0, 0, 0, 0)
    return message(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, head)


def prepend_local(ip: Ip, link: int, source: Ip, protocol: int) -> bytes:
    """Before all other routes to `ip` of IPv4; EEXIST if there is just this one, wherever it stands."""
    return _route(RTM_NEWROUTE, NLM_F_CREATE, ip, link, source, protocol)


def replace_local(ip: Ip, link: int, source: Ip, protocol: int, metric: int) -> bytes:
    """In place of the local route to `ip` of IPv6 that has this metric, or as a new one."""
    return _route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, ip, link, source, protocol, metric)


def del_local(ip: Ip, link: int, source: Ip | None, protocol: int) -> bytes:
    """Delete the first local route to `ip` that is like this; ESRCH if there is none. None: of any source."""
    return _route(RTM_DELROUTE, 0, ip, link, source, protocol)


def new_homeward(family: int, table: int, protocol: int) -> bytes:
    """By this table everything is local; EEXIST if it is."""
    return _homeward(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, family, table, protocol)


def del_homeward(family: int, table: int, protocol: int) -> bytes:
    """ESRCH if there is no such route."""
    return _homeward(RTM_DELROUTE, 0, family, table, protocol)


def _homeward(kind: int, flags: int, family: int, table: int, protocol: int) -> bytes:
    scope = RT_SCOPE_HOST if family == AF_INET else RT_SCOPE_UNIVERSE
    head = _RTMSG.pack(family, 0, 0, 0, table, protocol, scope, RTN_LOCAL, 0)
    everything = attr(RTA_DST, bytes(4 if family == AF_INET else 16))
    return message(kind, NLM_F_REQUEST | flags, head + everything + attr(RTA_OIF, _U32.pack(LOOPBACK)))


def _route(
    kind: int, flags: int, ip: Ip, link: int, source: Ip | None, protocol: int, metric: int | None = None
) -> bytes:
    size = len(ip)
    scope = RT_SCOPE_HOST if size == 4 else RT_SCOPE_UNIVERSE  # IPv6 has no scopes
    body = _RTMSG.pack(_FAMILIES[size], size * 8, 0, 0, RT_TABLE_LOCAL, protocol, scope, RTN_LOCAL, 0)
    body += attr(RTA_DST, ip)
    if source is not None:
        body += attr(RTA_PREFSRC, source)
    if metric is not None:
        body += attr(RTA_PRIORITY, _U32.pack(metric))
    return message(kind, NLM_F_REQUEST | flags, body + attr(RTA_OIF, _U32.pack(link)))


def read_route(m: Message) -> Route | None:
    """The route in one answer or event; None if it is of another family than IPv4 and IPv6."""
    if m.kind not in (RTM_NEWROUTE, RTM_DELROUTE) or len(m.body) < _RTMSG.size:
        raise _unexpected(m, "a route")
    family, length, _, tos, table, protocol, _, kind, _ = _RTMSG.unpack_from(m.body)
    size = _SIZES.get(family)
    if size is None:
        return None
    known = fields(m.body[_RTMSG.size :])
    wide, metric, link = known.get(RTA_TABLE), known.get(RTA_PRIORITY), known.get(RTA_OIF)
    source = known.get(RTA_PREFSRC)
    return Route(
        _ip(known.get(RTA_DST, bytes(size)), size),
        length,
        tos,
        table if wide is None else _number(wide),
        protocol,
        kind,
        0 if metric is None else _number(metric),
        0 if link is None else _number(link),
        None if source is None else _ip(source, size),
        not known.keys().isdisjoint(_VIA),
    )


_VIA: Final = {RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA, RTA_NH_ID}

# --- rules ----------------------------------------------------------------------------


def rules_request(family: int) -> bytes:
    """Ask for the routing rules of AF_INET or AF_INET6."""
    return message(RTM_GETRULE, NLM_F_REQUEST | NLM_F_DUMP, _RULE_HDR.pack(family, *[0] * 8))


def new_rule(rule: Rule) -> bytes:
    """EEXIST if there is one like it. The table is one below 256."""
    return _rule(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule.action, rule)


def del_rule(rule: Rule) -> bytes:
    """Delete the first rule of this priority, mark and table, whatever else it asks for; ENOENT if there is
    none."""
    return _rule(RTM_DELRULE, 0, 0, rule)


def _rule(kind: int, flags: int, action: int, rule: Rule) -> bytes:
    head = _RULE_HDR.pack(rule.family, 0, 0, 0, rule.table & 0xFF, 0, 0, action, 0)
    numbers = (FRA_PRIORITY, rule.priority), (FRA_FWMARK, rule.mark), (FRA_FWMASK, rule.mask)
    body = text(FRA_IIFNAME, rule.iif) if rule.iif else b""
    body += attr(FRA_GOTO, _U32.pack(rule.target)) if action == FR_ACT_GOTO else b""
    body += b"".join(attr(number, _U32.pack(value)) for number, value in numbers)
    return message(kind, NLM_F_REQUEST | flags, head + body + attr(FRA_PROTOCOL, bytes([rule.protocol])))


_PLAIN: Final = {FRA_PRIORITY, FRA_FWMARK, FRA_FWMASK, FRA_TABLE, FRA_PROTOCOL, FRA_IIFNAME, FRA_GOTO}
_ACTIONS: Final = {FR_ACT_TO_TBL, FR_ACT_GOTO, FR_ACT_NOP}


def read_rule(m: Message) -> Rule | None:
    """The rule in one answer or event; None if it is of another family, or forbids."""
    if m.kind not in (RTM_NEWRULE, RTM_DELRULE) or len(m.body) < _RULE_HDR.size:
        raise _unexpected(m, "a rule")
    family, *lengths, tos, table, _, _, action, flags = _RULE_HDR.unpack_from(m.body)
    if family not in _SIZES or action not in _ACTIONS:
        return None
    known = fields(m.body[_RULE_HDR.size :])
    priority, mark, mask = (known.get(n) for n in (FRA_PRIORITY, FRA_FWMARK, FRA_FWMASK))
    wide, protocol = known.get(FRA_TABLE), known.get(FRA_PROTOCOL)
    iif, target = known.get(FRA_IIFNAME), known.get(FRA_GOTO)
    # The kernel tells of this one always; that it suppresses nothing is -1.
    suppress = known.get(FRA_SUPPRESS_PREFIXLEN)
    idle = {FRA_SUPPRESS_PREFIXLEN} if suppress is not None and _number(suppress) == 0xFFFFFFFF else set()
    more = known.keys() - _PLAIN - idle
    return Rule(
        family,
        0 if priority is None else _number(priority),
        0 if mark is None else _number(mark),
        0 if mask is None else _number(mask),
        table if wide is None else _number(wide),
        protocol[0] if protocol else 0,
        not (more or tos or any(lengths) or flags & FIB_RULE_INVERT),
        action,
        0 if target is None else _number(target),
        "" if iif is None else read_text(iif),
    )


# --- events ---------------------------------------------------------------------------

_SIEVE: Final = Struct("=HBBI")  # struct sock_filter: code, jump if true, if false, value
_LOAD, _EQUAL, _RETURN = 0x30, 0x15, 0x06  # BPF_LD|B|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_LOW: Final = 4 if byteorder == "little" else 5  # where the lower byte of nlmsg_type is
_TABLE: Final = 16 + 4  # where rtm_table is


def only_routes_of(*tables: int) -> bytes:
    """A filter for a socket of events: of routes, only those of these tables, which are below 256
    (include/uapi/linux/filter.h).

    A node whose routes are many and move often would otherwise fill it with what nobody asked for.
    """
    last = len(tables) - 1
    steps = (
        (_LOAD, 0, 0, _LOW),
        (_EQUAL, 1, 0, RTM_NEWROUTE),
        (_EQUAL, 0, 2 + last, RTM_DELROUTE),
        (_LOAD, 0, 0, _TABLE),
        *((_EQUAL, last - n, n == last, table) for n, table in enumerate(tables)),
        (_RETURN, 0, 0, 0xFFFFFFFF),
        (_RETURN, 0, 0, 0),
    )
    return b"".join(_SIEVE.pack(*step) for step in steps)


def _ip(value: memoryview | bytes, size: int) -> Ip:
    if len(value) != size:
        raise Malformed(f"rtnetlink: an address of {len(value)} bytes, not {size}")
    return Ip(bytes(value))


def _number(value: memoryview) -> int:
    if len(value) != 4:
        raise Malformed(f"rtnetlink: a 32-bit number of {len(value)} bytes")
    number: int = _U32.unpack(value)[0]
    return number


def _unexpected(m: Message, what: str) -> Malformed:
    return Malformed(f"rtnetlink: message type {m.kind}, {len(m.body)} bytes, where {what} was expected")
