"""
What is there even with no service: the table, its sets and all of its chains, and the routes to this node.

Of a client's flow every packet comes by here, not only the first as with NAT: what belongs to a connection
of the relay's is told by its socket, everything else of a steered flow by its address anew.
"""

from __future__ import annotations

from typing import Final

from kubeway.model.node import FamilyView, NodeView
from kubeway.modes.maps import doors
from kubeway.modes.maps.layout import NODE_PORT_FRONT, Words
from kubeway.modes.userspace.layout import (
    CLASSES,
    LISTEN,
    NOBODY,
    PORTS,
    PRIORITIES,
    SEED,
    Class,
    homing,
    leaving,
    udp_port,
)
from kubeway.planes.link.objects import Homeward, Rule, role_key, rule_key, table_key
from kubeway.planes.nft import build as b
from kubeway.planes.nft import objects as nft
from kubeway.planes.nft.objects import Accept, Chain, Drop, Element, Goto, Set, element_key
from kubeway.program.program import Key, Object
from kubeway.values import TCP, UDP, host_prefix, parse_prefix

# Before anything else, br_netfilter's own hook too (see `again-prerouting`).
_FIRST: Final = -(1 << 31)
_STEER: Final = -150  # mangle: flows are known (-200), nothing is translated yet (-100)
_HAND: Final = -149

_SHARE: Final = "numgen random mod 65536"  # as nft calls a number like that; see planes/nft/fields

KEPT, HIDDEN, LOCAL, LOCAL_HIDDEN = CLASSES

Chains = dict[str, tuple[Chain, list[nft.Rule]]]


def base(words: Words, view: NodeView) -> dict[Key, Object]:
    """Of one family."""
    family = view.family(words.number)
    bit = homing(view.mark)
    chains = (
        _base_chains(words, family, bit, leaving(view.mark))
        | _classes(words, view, bit)
        | doors.chains(words, family)
    )
    chains |= _hand(words, view.relay_workers)
    if view.bridged:
        chains |= _again(bit)
    rules: dict[Key, Object] = {rule_key(words.number, bit): Rule()}
    if family.marks_checked:
        rules = _apart(words.number, bit, leaving(view.mark))
        chains |= _leaving(bit, leaving(view.mark))
    sets = doors.sets(words)
    if view.relay_workers > 1:
        sets["workers"] = Set((_SHARE,), verdicts=True, comment="who takes datagrams")
    objects = {
        table_key(words.number): Homeward(),
        **rules,
        **doors.objects(words, family, sets, chains),
    }
    if view.relay_workers > 1:
        for worker in range(view.relay_workers):
            key = element_key(words.family, "workers", b.host32(worker))
            objects[key] = Element(Goto(_hand_udp(worker)))
    return objects


def _base_chains(words: Words, view: FamilyView, bit: int, also: int) -> Chains:
    accept = Accept()
    ours = bit | also if view.marks_checked else bit
    home = b.mark_on(bit)
    # What is steered or was made by the relay has met its fate.
    astray = (*b.new_flow(), *b.unmarked(bit), *b.flow_marked(bit, "=="))
    no_endpoints = b.rule(astray, b.jump("no-endpoints"))
    unowned = b.rule(astray, b.jump("unowned"))
    firewall = b.rule(b.new_flow(), b.jump("firewall"))
    others = b.rule(b.known_flow(), b.flow_marked(bit, "=="), accept, comment="a flow that is not steered")
    dispatch = b.rule(b.jump("dispatch"))
    loopback = b.interface("lo", begins=False)
    nobody = NOBODY[words.number]
    return {
        "steer-prerouting": (
            Chain("filter", "prerouting", _STEER),
            [
                others,
                # Who opens a connection may have the port of one that has ended, and finds its socket in
                # TIME-WAIT. That is no connection: it is for the listener, and tproxy sees to it.
                b.rule(
                    b.not_opening(), b.transparent(), home, accept, comment="of a connection of the relay's"
                ),
                b.rule(b.protocol(UDP), b.transparent(), home, accept, comment="of a session of the relay's"),
                b.rule(b.marked(bit), accept, comment="steered at output"),
                b.rule(loopback, b.flow_marked(bit), accept, comment="the relay's, to this node itself"),
                firewall,
                dispatch,
            ],
        ),
        "hand-prerouting": (
            Chain("filter", "prerouting", _HAND),
            [
                # An answer to a client on the same bridge would be bridged to it. It is sent up here where
                # its destination was changed (br_netfilter), and by its mark it is for this node.
                b.rule(b.reply(), b.marked(bit), b.by_bridge(), b.daddr_set(nobody)),
                b.rule(b.marked(bit), b.jump("hand")),
            ],
        ),
        "steer-input": (
            Chain("filter", "input", _STEER),
            [b.rule(b.prefix(words.daddr, host_prefix(nobody)), b.reply(), b.daddr_original())],
        ),
        "steer-output": (
            Chain("route", "output", _STEER),
            [
                others,
                # A connection may have taken over the mark of its first packet (net.ipv4.tcp_fwmark_accept);
                # what it sends is not for this node for that.
                b.rule(b.transparent(), b.flow_mark_on(bit), b.mark_off(ours), accept, comment="the relay's"),
                firewall,
                dispatch,
                b.rule(b.flow_marked(bit), home, comment="of a steered flow; or an answer to the relay"),
            ],
        ),
        "filter-input": (
            Chain("filter", "input", 0),
            [
                *_martians(words, view, astray),
                no_endpoints,
                *(
                    b.rule(astray, to_node, b.vmap(NODE_PORT_FRONT, "no-endpoint-nodeports"))
                    for to_node in doors.to_node(words, view)
                ),
            ],
        ),
        "filter-forward": (Chain("filter", "forward", 0), [no_endpoints, unowned]),
        "filter-output": (Chain("filter", "output", 0), [no_endpoints, unowned]),
    }


def _hand(words: Words, workers: int) -> Chains:
    """What leads to the listeners, by the class a packet has.

    The listeners of TCP are everybody's, and the kernel chooses a worker by the client's address. Of UDP it
    would not, as it looks for the socket without the packet (nf_tproxy); so of several workers each has
    listeners of its own, and the choice is made here, by the same.
    """
    if workers == 1:
        rules = [_handed(words, one, proto, PORTS[one]) for one in CLASSES for proto in (TCP, UDP)]
        return {"hand": (Chain(), rules)}
    spread = b.rule(b.protocol(UDP), b.spread(words.saddr, workers, SEED, "workers"))
    tcp = [_handed(words, one, TCP, PORTS[one]) for one in CLASSES]
    chains: Chains = {"hand": (Chain(), [spread, *tcp])}
    for worker in range(workers):
        udp = [_handed(words, one, UDP, udp_port(one, worker)) for one in CLASSES]
        chains[_hand_udp(worker)] = (Chain(), udp)
    return chains


def _hand_udp(worker: int) -> str:
    return f"hand-udp-{worker}"


def _handed(words: Words, one: Class, proto: int, port: int) -> nft.Rule:
    return b.rule(b.priority_is(PRIORITIES[one], 0xFFFFFFFF), b.tproxy(proto, LISTEN[words.number], port))


def _again(bit: int) -> Chains:
    """Bridged packets pass prerouting on the bridge, and the socket they were handed to is lost on the way
    up; there br_netfilter's own hook keeps them from all others. So this chain stands where that one does,
    and before it.

    Of equals the later one comes first: it is made when br_netfilter's is there, and not before.
    """
    elsewhere = b.interface("lo", begins=False, op="!=")
    rules = [b.rule(b.marked(bit), elsewhere, b.jump("hand"))]
    return {"again-prerouting": (Chain("filter", "prerouting", _FIRST), rules)}


def _apart(family: int, bit: int, also: int) -> dict[Key, Object]:
    """Rules where the kernel looks for the way back to a sender with the packet's own mark.

    The way back is asked for as if the packet were this node's own, coming in by `lo`; so what has the bit
    and is asked for so goes by others' rules, as without it. What this node steers itself is asked for like
    that, too; that is why it has another bit.
    """
    return {
        rule_key(family, also): Rule(),
        role_key(family, bit, "pass"): Rule(),
        role_key(family, bit, "late"): Rule(),
        role_key(family, 0, "end"): Rule(),
    }


def _leaving(bit: int, also: int) -> Chains:
    """Give what this node sends and steers its other bit, by which it is routed anew."""
    rules = [b.rule(b.marked(bit), b.mark_on(also))]
    return {"leaving-output": (Chain("route", "output", _HAND), rules)}


def _martians(words: Words, view: FamilyView, astray: b.Phrase) -> list[nft.Rule]:
    """Where node ports are open on loopback, it is closed to everybody else who is not there."""
    if not view.loopback:
        return []
    loopback = parse_prefix(words.loopback)
    there, from_elsewhere = b.prefix(words.daddr, loopback), b.prefix(words.saddr, loopback, "!=")
    return [b.rule(astray, there, from_elsewhere, Drop(), comment="loopback, from elsewhere")]


def _classes(words: Words, view: NodeView, bit: int) -> Chains:
    """The chains that ways in lead to; each ends in one that says which class it is."""
    chains: dict[str, list[nft.Rule]] = {}
    for one in CLASSES:
        steered = b.mark_on(bit), b.flow_mark_on(bit)
        chains[one.chain] = [b.rule(b.priority(PRIORITIES[one]), *steered, Accept())]
    detector = view.family(words.number).detector
    for name, kept, hidden in (("cluster-ip", KEPT, HIDDEN), ("cluster-ip-local", LOCAL, LOCAL_HIDDEN)):
        rules = []
        if view.masquerade_all:
            rules.append(_to(hidden))
        else:
            if detector is not None:
                outside = doors.from_pod(words, detector, "!=")
                rules.append(_to(hidden, outside, comment="no pod of this cluster"))
            rules.append(_to(kept))
        chains[name] = rules
    for name, local in (("external-local", True), ("external-local-nobody", False)):
        rules = []
        if detector is not None:
            pods = doors.from_pod(words, detector, "==")
            rules.append(_to(KEPT, pods, comment="pods may use every endpoint"))
        rules.append(_to(HIDDEN, b.local("saddr"), comment="so may this node"))
        if local:
            rules.append(_to(LOCAL))
        chains[name] = rules
    return {name: (Chain(), rules) for name, rules in chains.items()}


def _to(one: Class, *condition: b.Phrase, comment: str = "") -> nft.Rule:
    return b.rule(*condition, b.goto(one.chain), comment=comment)


def chain_of(external: bool, by_local: bool, anybody_here: bool) -> str:
    """Where a way in leads to. `by_local`: its policy is Local; `anybody_here`: the Local list is not
    empty."""
    if not external:
        return "cluster-ip-local" if by_local else "cluster-ip"
    if not by_local:
        return HIDDEN.chain
    return "external-local" if anybody_here else "external-local-nobody"
