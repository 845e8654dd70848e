"""
What a program does to the first packet of a flow: every end, with its exact chance.

A small machine with the kernel's registers runs the program's own instructions. Where
they draw a number it forks, one branch for each outcome, so nothing is sampled. This
file knows the way from rule to rule and chain to chain; what an instruction does is
`machine.py`'s, and what a Service is neither need know.

Source: net/netfilter/nf_tables_core.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Final

from kubeway.errors import Unknowable
from kubeway.model.packet import DROP, REJECT, Fate, Fates, Packet
from kubeway.planes.nft.machine import Broken, Machine, World, host
from kubeway.planes.nft.objects import (
    Dnat,
    Drop,
    Expr,
    Goto,
    Hash,
    Jump,
    Lookup,
    Numgen,
    Reject,
    Return,
    Rule,
    Tproxy,
    Verdict,
)
from kubeway.planes.nft.ruletext import show_rule
from kubeway.planes.nft.words import show_verdict
from kubeway.program.passage import Relay, ends
from kubeway.program.program import Key
from kubeway.values import Ip, show_addr

_JUMPS: Final = 16  # NFT_JUMP_STACK_SIZE

Memory = Mapping[tuple[str, bytes], bytes]
"""What dynamic maps hold, by set name and key."""


def fates(
    objects: Mapping[Key, object],
    packet: Packet,
    addresses: frozenset[Ip],
    trail: list[str] | None = None,
    dynamic: Memory | None = None,
    homing: int = 0,
    relay: Relay | None = None,
) -> Fates:
    """Every end of the first packet of a flow, each with its chance; they add up to 1.

    `addresses` are this node's own. `dynamic` is what packets put into dynamic maps before. What has a bit
    of `homing` in its mark is routed to this node, wherever it is sent; `relay` is asked where a packet ends
    that a listener took. `trail` is given a line for each rule that applied; where the program draws lots it
    follows the first. Raises Unknowable if the packet meets an instruction, chain or set that kubeway does
    not understand.
    """
    flow = _Flow(World(objects, packet, homing), addresses, dynamic or {}, trail, relay)
    return ends(flow)


class _Flow(Machine):
    """One branch: a packet on its way, where it is in the program, and how likely that is."""

    def __init__(
        self,
        world: World,
        addresses: frozenset[Ip],
        memory: Memory,
        trail: list[str] | None,
        relay: Relay | None,
    ) -> None:
        super().__init__(world, addresses, memory, relay)
        self.trail = trail
        self.chains: list[tuple[str, bool]] = []  # base chains of this hook still to come
        self.stack: list[tuple[str, tuple[Rule, ...], int]] = []
        self.rules: tuple[Rule, ...] = ()
        self.index = 0  # of the next rule
        self.exprs: tuple[Expr, ...] = ()
        self.at = 0  # of the next instruction

    def run(self) -> Fate | list[_Flow]:
        """Its end, or the branches it falls into."""
        while self.exprs or self.next_rule():
            while self.at < len(self.exprs):
                expr = self.exprs[self.at]
                self.at += 1
                if isinstance(expr, Numgen | Hash) and expr.modulus > 1:
                    return self.fork(expr)
                outcome = self.step(expr)
                if outcome is None:
                    continue
                if isinstance(outcome, Broken):
                    break
                self.note(expr, outcome)
                if isinstance(outcome, Drop | Reject):
                    return DROP if isinstance(outcome, Drop) else REJECT
                self.obey(outcome)
                break
            else:
                self.note(self.exprs[-1])
            self.exprs, self.at = (), 0
        return self.arrive()

    def fork(self, draw: Numgen | Hash) -> list[_Flow]:
        """A branch for each number that may come out; the trail goes with the first.

        Of a hash, too, as over all packets: what comes out for this one is not known here.
        """
        offset = draw.offset if isinstance(draw, Numgen) else 0
        branches = []
        for number in range(draw.modulus):
            branch = self.branch()
            branch.chance /= draw.modulus
            branch.trail = None if number else self.trail
            branch.store(draw.reg, host(offset + number))
            branches.append(branch)
        if self.trail is not None:
            self.trail.append(f"one of {draw.modulus}, number {offset} from here on")
        return branches

    def branch(self) -> _Flow:
        other = copy(self)
        other.registers = self.registers[:]
        other.meta = dict(self.meta)
        other.memory = dict(self.memory)
        other.chains = self.chains[:]
        other.stack = self.stack[:]
        return other

    def note(self, last: Expr, outcome: Verdict | Reject | None = None) -> None:
        """Put the rule that applied on the trail."""
        if self.trail is None:
            return
        rule = self.rules[self.index - 1]
        text = show_rule(rule, self.world.objects, self.world.family)
        if isinstance(last, Lookup) and outcome is not None and not isinstance(outcome, Reject):
            text += f" -> {show_verdict(outcome)}"
        if any(isinstance(expr, Tproxy) for expr in rule.exprs):
            text += f" -> the listener at port {self.handed}"
        if isinstance(last, Dnat):
            text += f" -> {show_addr(self.dst, self.port)}"
        self.trail.append(f"{self.hook} {self.chain}: {text}")

    # --- the way through the program ---------------------------------------------

    def next_rule(self) -> bool:
        """Go to the next rule with instructions; False if the packet has been through all."""
        while self.index >= len(self.rules):
            if self.stack:
                self.chain, self.rules, self.index = self.stack.pop()
            elif not self.next_chain():
                return False
        rule = self.rules[self.index]
        self.index += 1
        self.exprs, self.at = rule.exprs, 0
        return bool(rule.exprs) or self.next_rule()

    def next_chain(self) -> bool:
        while self.chains or self.next_hook():
            if not self.chains:
                self.chains = list(self.world.hooks.get(self.hook, ()))
                continue
            name, nat = self.chains.pop(0)
            if not (nat and self.address in self.decided):
                self.entered = 0
                self.enter(name)
                return True
        return False

    def enter(self, chain: str) -> None:
        self.count(chain)
        self.chain, self.rules, self.index = chain, self.world.rules(chain), 0

    def obey(self, verdict: Verdict) -> None:
        match verdict:
            case Jump(chain):
                if len(self.stack) >= _JUMPS:
                    raise Unknowable(f"jump to {chain} is deeper than the kernel goes")
                self.stack.append((self.chain, self.rules, self.index))
                self.enter(chain)
            case Goto(chain):
                self.enter(chain)
            case Return():
                self.rules = ()
            case _:
                self.stack, self.rules = [], ()
