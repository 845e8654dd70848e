"""
What a program does to the first packet of a flow: every end, with its exact chance.

A packet goes through the tables in the kernel's order, rule by rule; where a rule draws
lots it falls into two branches, so nothing is sampled. Knows rules, the order of tables,
and at which hooks a balancer stands between them; what a Service is it need not know,
nor whom a balancer would choose.

Source: net/ipv4/netfilter/ip_tables.c (ipt_do_table), xt_conntrack.c, xt_recent.c;
net/netfilter/ipvs/ip_vs_core.c (ip_vs_ops4), ip_vs_nfct.c (ip_vs_update_conntrack).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Final, Literal, cast

from kubeway.errors import Unknowable
from kubeway.model.packet import DROP, REJECT, Fate, Fates, Packet
from kubeway.planes.xtables.members import Members
from kubeway.planes.xtables.objects import (
    PLANE,
    Accept,
    AddrType,
    Answering,
    Balanced,
    Chain,
    Comment,
    ConnMark,
    ConnMarkXset,
    CtState,
    Destination,
    Dnat,
    Dport,
    Drop,
    Family,
    Goto,
    InInterface,
    InSet,
    Jump,
    Mark,
    MarkXset,
    Masquerade,
    Match,
    Nfacct,
    Opening,
    Protocol,
    Random,
    Recent,
    Reject,
    Return,
    Rule,
    Rules,
    Source,
    TableName,
    Tproxy,
    Transparent,
)
from kubeway.planes.xtables.text import show_rule
from kubeway.program.passage import Balancer, Passage, Relay, ends
from kubeway.program.program import Key
from kubeway.values import TCP, Ip, show_addr

_MARK_BITS: Final = 0xFFFFFFFF

Station = TableName | Literal["ipvs"]

# The tables of each hook, and where a balancer stands between them, in the order of their priorities.
_STATIONS: Final[Mapping[str, tuple[Station, ...]]] = {
    "prerouting": ("mangle", "nat"),
    "input": ("mangle", "filter", "ipvs", "nat"),
    "forward": ("mangle", "filter"),
    "output": ("mangle", "nat", "ipvs", "filter"),
    "postrouting": ("mangle", "nat"),
}

Memory = frozenset[tuple[str, Ip]]
"""Which clients the recent lists hold, by name of the list."""

_FORGOTTEN: Final[Memory] = frozenset()


def fates(
    objects: Mapping[Key, object],
    packet: Packet,
    addresses: frozenset[Ip],
    trail: list[str] | None = None,
    dynamic: Memory = _FORGOTTEN,
    balancer: Balancer | None = None,
    homing: int = 0,
    relay: Relay | None = None,
) -> Fates:
    """Every end of the first packet of a flow, each with its chance; they add up to 1.

    `addresses` are this node's own. `dynamic` is what packets put into recent lists
    before, and not too long ago. `trail` is given a line for each rule that applied;
    where the program draws lots it follows the first endpoint. `balancer` is asked where
    ipvs stands. What has a bit of `homing` in its mark is routed to this node, wherever
    it is sent; `relay` is asked where a packet ends that a listener took. Raises
    Unknowable if the packet meets a match, target, chain or set that kubeway does not
    understand, or that is not among the objects.
    """
    flow = _Flow(_World(objects, packet, balancer, homing), addresses, dynamic, trail, relay)
    return ends(flow)


class _World:
    """What is the same in every branch: the program, the packet as it came, who balances, and where a mark
    with a bit of `homing` leads to (here)."""

    def __init__(
        self, objects: Mapping[Key, object], packet: Packet, balancer: Balancer | None, homing: int
    ) -> None:
        self.packet = packet
        self.balancer = balancer
        self.homing = homing
        self.members = Members(objects)
        self.family: Family = "ip" if len(packet.dst) == 4 else "ip6"
        self._chains: dict[tuple[str, str], list[Rule]] = {}
        branches: list[tuple[Key, Rule]] = []
        jumps: list[tuple[Key, Rule]] = []
        for key, thing in objects.items():
            if key.plane != PLANE or key.name[0] != self.family:
                continue
            if key.kind == "branch":
                branches.append((key, cast(Rule, thing)))
            elif key.kind == "jump":
                jumps.append((key, cast(Rule, thing)))
            elif isinstance(thing, Rules):
                self._rules(key).extend(thing.rules)
            elif isinstance(thing, Chain):
                self._rules(key)
        # Jumps are in the order of their numbers; of branches the order means nothing, but is fixed.
        for key, rule in (*sorted(jumps, key=_key), *sorted(branches, key=_key)):
            self._rules(key).append(rule)

    def _rules(self, key: Key) -> list[Rule]:
        return self._chains.setdefault((key.name[1], key.name[2]), [])

    def hooked(self, table: str, hook: str) -> list[Rule]:
        """Ours in a built-in chain."""
        return self._chains.get((table, hook), [])

    def rules(self, table: str, chain: str) -> list[Rule]:
        found = self._chains.get((table, chain))
        if found is None:
            raise Unknowable(f"chain {chain} of table {table} is not in the program")
        return found


def _key(pair: tuple[Key, Rule]) -> Key:
    return pair[0]


class _Flow(Passage):
    """One branch: a packet on its way, where it is in the program, and how likely that is."""

    def __init__(
        self,
        world: _World,
        addresses: frozenset[Ip],
        memory: Memory,
        trail: list[str] | None,
        relay: Relay | None,
    ) -> None:
        super().__init__(world.packet, addresses, relay)
        self.world = world
        self.memory = memory
        self.trail = trail
        self.mark = self.flow_mark = 0
        self.states = frozenset({"NEW"})
        self.stations: tuple[Station, ...] = ()  # of this hook, still to come
        self.table: TableName = "filter"
        self.chain = ""
        self.stack: list[tuple[str, list[Rule], int]] = []
        self.rules: list[Rule] = []
        self.index = 0  # of the rule
        self.at = 0  # of the match in it

    @property
    def is_here(self) -> bool:
        return bool(self.mark & self.world.homing) or super().is_here

    def run(self) -> Fate | list[_Flow]:
        """Its end, or the branches it falls into."""
        outcome: Fate | list[_Flow] | None = None
        while outcome is None:
            outcome = self.meet(self.rules[self.index]) if self.seek() else self.next_station()
        return outcome

    def meet(self, rule: Rule) -> Fate | list[_Flow] | None:
        """What comes of it by this rule; None: it goes on."""
        applies = True
        while applies and self.at < len(rule.matches):
            match = rule.matches[self.at]
            self.at += 1
            if isinstance(match, Random) and match.of > 1:
                return self.fork(match.of)
            applies = self.matches(match)
        self.index, self.at = self.index + 1, 0
        if not applies:
            return None
        if self.trail is not None:
            self.trail.append(
                f"{self.hook.upper()} {self.table} {self.chain}: {show_rule(rule, self.world.family)}"
            )
        if isinstance(rule.target, Drop):
            return DROP
        if isinstance(rule.target, Reject):
            return REJECT
        self.obey(rule)
        return None

    def fork(self, of: int) -> list[_Flow]:
        """It is the one, and the trail goes with it; or one of the others, whom the rule lets by."""
        one, others = self.branch(), self.branch()
        one.chance /= of
        others.chance -= one.chance
        others.trail = None
        others.index, others.at = self.index + 1, 0
        return [one, others]

    def balancing(self) -> Fate | list[_Flow] | None:
        """It comes by the balancer: the branches that are sent to somebody, and the trail with the first."""
        ask = self.world.balancer
        served = None if ask is None or self.balanced else ask(Ip(self.dst), self.packet.proto, self.port)
        if served is None:
            return None
        at = f"{self.hook.upper()} ipvs"
        if not served:
            if self.trail is not None:
                self.trail.append(f"{at}: nobody is behind {show_addr(self.dst, self.port)}")
            return REJECT
        branches: list[_Flow] = []
        for ip, port, chance in served:
            one = self.branch()
            one.chance *= chance
            if branches:
                one.trail = None
            elif one.trail is not None:
                one.trail.append(f"{at}: balanced to {show_addr(ip, port)}")
            # To the tracker its destination is not translated: what is expected in reply is another, and
            # that is all (IPS_DST_NAT is not set).
            if one.balance(ip, port):
                one.stations = _STATIONS[one.hook]
            branches.append(one)
        return branches

    def branch(self) -> _Flow:
        other = copy(self)
        other.stack = self.stack[:]
        return other

    # --- matches and targets ------------------------------------------------------

    def matches(self, match: Match) -> bool:
        packet = self.world.packet
        match match:
            case Source(prefix, invert):
                return prefix.holds(packet.src) != invert
            case Destination(prefix, invert):
                return prefix.holds(self.dst) != invert
            case InInterface(name, begins, invert):
                return (self.iif.startswith(name) if begins else self.iif == name) != invert
            case Protocol(proto):
                return packet.proto == proto
            case Dport(proto, port, last):
                return packet.proto == proto and port <= self.port <= (last or port)
            case Opening(invert):
                return packet.proto == TCP and not invert
            case AddrType(of):
                return self.is_local(packet.src if of == "src" else self.dst)
            case CtState(states, invert):
                return (not self.states.isdisjoint(states)) != invert
            case Mark(value, mask, invert):
                return (self.mark & mask == value) != invert
            case ConnMark(value, mask, invert):
                return (self.flow_mark & mask == value) != invert
            case Answering() | Transparent():
                # The first packet of a flow answers nobody and belongs to no connection.
                return False
            case Recent():
                return self.recent(match)
            case InSet():
                src = packet.src, None
                sides = [src if side == "src" else (Ip(self.dst), self.port) for side in match.sides]
                return self.world.members.has(match.name, packet.proto, sides) != match.invert
            case Balanced(invert):
                return self.balanced != invert
            case Comment() | Random() | Nfacct():
                return True
            case _:
                words = " ".join(match.words)
                raise Unknowable(f"chain {self.chain} asks for {words}, which kubeway does not use")

    def recent(self, match: Recent) -> bool:
        entry = match.name, self.world.packet.src
        if match.op == "set":
            self.memory |= {entry}
        return entry in self.memory

    def obey(self, rule: Rule) -> None:
        """Do what the rule's target says, unless that ends the packet."""
        match rule.target:
            case None:
                pass
            case Jump(chain):
                self.stack.append((self.chain, self.rules, self.index))
                self.enter(chain)
            case Goto(chain):
                self.enter(chain)
            case Return():
                self.rules = []
            case MarkXset(value, mask):
                self.mark = (self.mark & ~mask ^ value) & _MARK_BITS
            case ConnMarkXset(value, mask):
                self.flow_mark = (self.flow_mark & ~mask ^ value) & _MARK_BITS
            case Tproxy(_, port, value, mask):
                self.mark = (self.mark & ~mask ^ value) & _MARK_BITS
                self.handed = port
                self.leave()
            case Dnat(ip, port):
                self.translate(ip, port)
                self.leave()
            case Masquerade():
                self.masqueraded = True
                self.states |= {"SNAT"}
                self.decided |= {"src"}
                self.leave()
            case Accept():
                self.leave()
            case _:
                shown = show_rule(rule, self.world.family)
                raise Unknowable(f"chain {self.chain}: {shown}: kubeway does not use that")

    def translate(self, ip: Ip, port: int) -> None:
        # The kernel says DNAT of a flow only if that changes anything.
        if (ip, port) != (self.dst, self.port):
            self.states |= {"DNAT"}
        self.dst, self.port = ip, port
        self.translated = True
        self.decided |= {"dst"}

    def leave(self) -> None:
        """Nothing else of this table is asked."""
        self.stack, self.rules = [], []

    # --- the way through the program ---------------------------------------------

    def seek(self) -> bool:
        """Stand before the next rule; False if the packet has been through all of this table."""
        while self.index >= len(self.rules):
            if not self.stack:
                return False
            self.chain, self.rules, self.index = self.stack.pop()
        return True

    def next_station(self) -> Fate | list[_Flow] | None:
        """Go to the next table, or by the balancer; its end if there is no other."""
        if not self.stations:
            if not self.next_hook():
                return self.arrive()
            self.stations = _STATIONS[self.hook]
        station, *rest = self.stations
        self.stations = tuple(rest)
        if station == "ipvs":
            return self.balancing()
        if station != "nat" or self.address not in self.decided:
            self.table, self.chain = station, self.hook.upper()
            self.rules, self.index = self.world.hooked(self.table, self.chain), 0
            self.entered = 0
        return None

    def enter(self, chain: str) -> None:
        self.count(chain)
        self.rules, self.index = self.world.rules(self.table, chain), 0
        self.chain = chain
