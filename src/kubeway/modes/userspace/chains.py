"""
What is there even with no service where xtables steer: sets, the chains that ask them, and the routes to
this node.

It is what `base` says with nft, said with what xtables have. What differs, and why:

- Rules know a socket in PREROUTING only. So in OUTPUT the relay's packets are known by a mark of their
  sockets, and its flows by a mark of their own.
- Nothing carries a class from one hook to the next. So in OUTPUT it is only asked whether there is a way in,
  and where that leads to when the packet comes in by loopback.
- A packet that is of no matter here is let go on (RETURN): others have rules in these chains, too.
"""

from __future__ import annotations

from typing import Final

from kubeway.model.node import FamilyView, NodeView
from kubeway.modes.chains.clients import inside
from kubeway.modes.chains.common import NEW, Jumps, hidden, jumping, to_node, unallocated
from kubeway.modes.chains.entries import Asked, empty
from kubeway.modes.chains.layout import CHAIN, FAMILIES, LOOPBACKS, speaks
from kubeway.modes.userspace import sets
from kubeway.modes.userspace.base import HIDDEN, KEPT, LOCAL, LOCAL_HIDDEN
from kubeway.modes.userspace.layout import CLASSES, LISTEN, PORTS, Class, homing, owning
from kubeway.modes.ways import Refusal
from kubeway.planes.link.objects import Homeward, rule_key, table_key
from kubeway.planes.link.objects import Rule as RoutingRule
from kubeway.planes.xtables.objects import (
    BRANCHING,
    RELAY,
    RELAY_PREROUTING,
    AddrType,
    Answering,
    Comment,
    ConnMark,
    ConnMarkXset,
    CtState,
    Destination,
    Drop,
    Goto,
    Jump,
    Mark,
    MarkXset,
    Match,
    Opening,
    Reject,
    Return,
    Rule,
    Rules,
    Source,
    TableName,
    Target,
    Tproxy,
    Transparent,
    chain_key,
    rules_key,
)
from kubeway.program.program import Key, Object
from kubeway.values import TCP, UDP, parse_prefix

OUTPUT: Final = f"{RELAY}OUTPUT"
POSTROUTING: Final = f"{RELAY}POSTROUTING"
INPUT: Final = f"{RELAY}INPUT"
FORWARD: Final = f"{RELAY}FORWARD"
FIREWALL: Final = f"{RELAY}FIREWALL"
ALLOWED: Final = f"{RELAY}ALLOWED"
SERVICES: Final = f"{RELAY}SERVICES"
NODE_PORTS: Final = f"{RELAY}NODE-PORTS"
SERVICES_HERE: Final = f"{RELAY}SERVICES-HERE"
NODE_PORTS_HERE: Final = f"{RELAY}NODE-PORTS-HERE"
REFUSED_PORTS: Final = f"{RELAY}REFUSED-PORTS"
UNBOUND: Final = f"{RELAY}UNBOUND"
STEERED: Final = f"{RELAY}STEERED"
HOME: Final = f"{RELAY}HOME"
OWN: Final = f"{RELAY}OWN"

SCTP_PORTS: Final = f"{BRANCHING}SCTP-PORT"
"""Node ports of SCTP, which no set of ports holds: each has a rule."""

_STEERING: Final = "kubeway: to the relay"
_REFUSING: Final = "kubeway: Services nobody is to send to"
_JUMPS: Final[Jumps] = {
    ("mangle", "PREROUTING"): ((RELAY_PREROUTING, False, _STEERING),),
    ("mangle", "OUTPUT"): ((OUTPUT, False, _STEERING),),
    ("mangle", "POSTROUTING"): ((POSTROUTING, False, _STEERING),),
    ("filter", "INPUT"): ((INPUT, True, _REFUSING),),
    ("filter", "FORWARD"): ((FORWARD, True, _REFUSING),),
    ("filter", "OUTPUT"): ((FORWARD, True, _REFUSING),),
}

_CONNECTED: Final = "of a connection of the relay's"
_NOT_OPENING: Final[tuple[tuple[Match, ...], ...]] = (
    (speaks(TCP), Opening(invert=True)),
    (speaks(UDP),),
    (CtState(("RELATED",)),),
)
"""What may be of a connection: for each sort of packet, how it is known. The last is about one: an error."""

_KNOWN: Final = CtState(("NEW",), invert=True)
_RETURN: Final = Return()
_REFUSALS: Final[dict[Refusal, Target]] = {"reject": Reject(), "drop": Drop()}
_NOBODY: Final = "external-local-nobody"

Chains = dict[tuple[TableName, str], list[Rule]]


def base(number: int, view: NodeView) -> dict[Key, Object]:
    """Of one family."""
    family, marks = FAMILIES[number], _Marks(view.mark)
    objects: dict[Key, Object] = {
        table_key(number): Homeward(),
        rule_key(number, marks.bit): RoutingRule(),
        **empty(sets.TYPES, number),
        **jumping(family, _JUMPS),
        chain_key(family, "filter", SCTP_PORTS): CHAIN,
    }
    asked = Asked(number)
    chains = (
        _hooked(marks)
        | _ways_in(asked, view.family(number))
        | _classes(view, number, marks)
        | _filter(asked, view.family(number), marks)
    )
    for (table, chain), rules in chains.items():
        objects[chain_key(family, table, chain)] = CHAIN
        objects[rules_key(family, table, chain)] = Rules(tuple(rules))
    return objects


class _Marks:
    """Bits of packets' and flows' marks, as matches and targets.

    A packet that has `bit` is for this node; a flow that has it is steered. A packet or flow that has `own`
    is the relay's.
    """

    def __init__(self, mark: int) -> None:
        self.bit, own = homing(mark), owning(mark)
        self.others = ConnMark(0, self.bit | own)
        self.ours = ConnMark(0, self.bit | own, invert=True)
        self.own_packet, self.own_flow = Mark(own, own), ConnMark(own, own)
        self.home, self.steer = MarkXset(self.bit, self.bit), ConnMarkXset(self.bit, self.bit)
        self.own, self.disown = ConnMarkXset(own, own), MarkXset(0, own)


def _hooked(marks: _Marks) -> Chains:
    others = Rule((_KNOWN, marks.others, Comment("a flow that is not steered")), _RETURN)
    firewall = Rule((NEW,), Jump(FIREWALL))
    return {
        ("mangle", RELAY_PREROUTING): [
            others,
            # Who opens a connection may have the port of one that has ended, and find its socket in
            # TIME-WAIT. That is no connection: it is for the listener, and TPROXY sees to it.
            *(Rule((*each, Transparent(), Comment(_CONNECTED)), Goto(HOME)) for each in _NOT_OPENING),
            Rule((Answering(),), _RETURN),
            Rule((marks.own_flow, Comment("the relay's, to this node itself")), _RETURN),
            firewall,
            Rule((), Jump(SERVICES)),
        ],
        ("mangle", OUTPUT): [
            others,
            Rule((marks.own_packet, Comment("of a socket of the relay's")), Goto(OWN)),
            Rule((Answering(), marks.own_flow, Comment("to the relay")), Goto(HOME)),
            Rule((Answering(),), _RETURN),
            Rule((marks.own_flow,), _RETURN),
            Rule((_KNOWN, Comment("of a steered flow")), Goto(HOME)),
            firewall,
            Rule((), Jump(SERVICES_HERE)),
        ],
        # Whoever takes a connection here may take over the mark of its first packet
        # (net.ipv4.tcp_fwmark_accept), and is not the relay.
        ("mangle", POSTROUTING): [Rule((marks.own_packet,), marks.disown)],
        ("mangle", OWN): [Rule((NEW,), marks.own)],
        ("mangle", HOME): [Rule((), marks.home)],
        ("mangle", STEERED): [Rule((), marks.steer), Rule((), marks.home)],
    }


def _ways_in(asked: Asked, view: FamilyView) -> Chains:
    """How a packet finds its way in, and who is not let in by it."""

    def ways(leading: dict[str, Target], node_ports: str) -> list[Rule]:
        return [
            *(Rule((asked.way(name),), leading[chain]) for chain, name in sets.WAYS.items()),
            Rule((asked.way(sets.UNSERVED),), _RETURN),
            *to_node(view, Jump(node_ports), "node ports"),
        ]

    def ports(leading: dict[str, Target]) -> list[Rule]:
        return [
            Rule((speaks(proto), asked.port(name)), leading[chain])
            for (chain, proto), name in sets.PORTS.items()
        ]

    there: dict[str, Target] = {chain: Goto(chain_named(chain)) for chain in sets.WAYS}
    # What is made here is from this node or from a pod: whoever may be served by all is served.
    here: dict[str, Target] = {chain: Goto(UNBOUND if chain == _NOBODY else STEERED) for chain in sets.WAYS}
    pods = () if view.detector is None else inside(view.detector)
    return {
        ("mangle", FIREWALL): [Rule((asked.way(sets.FIREWALLED),), Goto(ALLOWED))],
        ("mangle", ALLOWED): [Rule((asked.way_from(sets.ALLOWED),), _RETURN), Rule((), Drop())],
        ("mangle", SERVICES): ways(there, NODE_PORTS),
        ("mangle", NODE_PORTS): ports(there),
        ("mangle", SERVICES_HERE): ways(here, NODE_PORTS_HERE),
        ("mangle", NODE_PORTS_HERE): ports(here),
        ("mangle", UNBOUND): [
            *(Rule(each, Goto(STEERED)) for each in pods),
            Rule((AddrType("src"),), Goto(STEERED)),
        ],
    }


def chain_named(chain: str) -> str:
    """What the chain is called that is called this with nft; a name has room for 28 characters here."""
    return f"{RELAY}{chain.upper().replace('EXTERNAL', 'EXT')}"


def _classes(view: NodeView, number: int, marks: _Marks) -> Chains:
    """The chains that ways in lead to; each ends in one that hands the packet to its class's listener."""
    its = view.family(number)
    chains: Chains = {}
    for one in CLASSES:
        handed = [
            Rule((speaks(proto),), Tproxy(LISTEN[number], PORTS[one], marks.bit, marks.bit))
            for proto in sets.PROTOS
        ]
        chains["mangle", chain_named(one.chain)] = [Rule((), marks.steer), *handed]
    for name, kept, unseen in (("cluster-ip", KEPT, HIDDEN), ("cluster-ip-local", LOCAL, LOCAL_HIDDEN)):
        chains["mangle", chain_named(name)] = [
            *(_to(unseen, *each) for each in hidden(its, view)),
            *(() if view.masquerade_all else (_to(kept),)),
        ]
    pods = () if its.detector is None else inside(its.detector)
    for name, last in (("external-local", (_to(LOCAL),)), (_NOBODY, ())):
        chains["mangle", chain_named(name)] = [
            *(_to(KEPT, *each, Comment("pods may use every endpoint")) for each in pods),
            _to(HIDDEN, AddrType("src"), Comment("so may this node")),
            *last,
        ]
    return chains


def _to(one: Class, *matches: Match) -> Rule:
    return Rule(matches, Goto(chain_named(one.chain)))


def _filter(asked: Asked, view: FamilyView, marks: _Marks) -> Chains:
    """What is neither steered nor the relay's."""
    ours = Rule((marks.ours, Comment("has met its fate")), _RETURN)
    refused = [Rule((asked.way(name),), _REFUSALS[refusal]) for refusal, name in sets.REFUSED.items()]
    refused_ports = [
        Rule((speaks(proto), asked.port(name)), _REFUSALS[refusal])
        for (refusal, proto), name in sets.REFUSED_PORTS.items()
    ]
    return {
        ("filter", INPUT): [
            ours,
            *_martians(view),
            *refused,
            *to_node(view, Jump(REFUSED_PORTS), "node ports"),
        ],
        ("filter", FORWARD): [
            ours,
            *refused,
            Rule((asked.address(sets.ADDRESSES), Comment("no such port")), Reject()),
            *unallocated(view),
        ],
        ("filter", REFUSED_PORTS): [*refused_ports, Rule((), Jump(SCTP_PORTS))],
    }


def _martians(view: FamilyView) -> list[Rule]:
    """Where node ports are open on loopback, it is closed to everybody else who is not there."""
    if not view.loopback:
        return []
    loopback = parse_prefix(LOOPBACKS[view.family])
    elsewhere = Source(loopback, invert=True), Destination(loopback)
    return [Rule((*elsewhere, Comment("loopback, from elsewhere")), Drop())]
