"""
What a program does to the first packet of a flow: every end, with its exact chance.

A small machine with the kernel's registers runs the program's own instructions. Where
they draw a number it forks, one branch for each outcome, so nothing is sampled. This
file knows the order of the hooks and when address translation is decided; what an
instruction does is `machine.py`'s, and what a Service is neither need know.

Source: net/netfilter/nf_tables_core.c, nf_nat_core.c (nf_nat_inet_fn).
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from kubeway.model.packet import DROP, PASS, REJECT, Fate, Fates, Packet
from kubeway.planes.nft.machine import Broken, Machine, Unknowable, World, host
from kubeway.planes.nft.objects import (
    Dnat,
    Drop,
    Expr,
    Goto,
    Jump,
    Lookup,
    Numgen,
    Reject,
    Return,
    Rule,
    Verdict,
)
from kubeway.planes.nft.ruletext import show_rule
from kubeway.planes.nft.words import show_verdict
from kubeway.program.program import Key
from kubeway.values import Ip, show_addr

__all__ = ["Memory", "Unknowable", "fates"]

_JUMPS: Final = 16  # NFT_JUMP_STACK_SIZE
# More chains than any packet goes through: the kernel lets no circle in, a program made by hand may hold one.
_CHAINS: Final = 4096

Memory = Mapping[tuple[str, bytes], bytes]
"""What dynamic maps hold, by set name and key."""


def fates(
    objects: Mapping[Key, object],
    packet: Packet,
    addresses: frozenset[Ip],
    trail: list[str] | None = None,
    dynamic: Memory | None = None,
) -> Fates:
    """Every end of the first packet of a flow, each with its chance; they add up to 1.

    `addresses` are this node's own. `dynamic` is what packets put into dynamic maps
    before. `trail` is given a line for each rule that applied; where the program draws
    lots it follows the first. Raises Unknowable if the packet meets an instruction,
    chain or set that kubeway does not understand.
    """
    world = World(objects, packet, addresses)
    ends: dict[Fate, Fraction] = {}
    flows = [_Flow(world, dynamic or {}, trail)]
    while flows:
        flow = flows.pop()
        end = flow.run()
        if isinstance(end, Fate):
            ends[end] = ends.get(end, Fraction(0)) + flow.chance
        else:
            flows += reversed(end)
    return ends


class _Flow(Machine):
    """One branch: a packet on its way, where it is in the program, and how likely that is."""

    def __init__(self, world: World, memory: Memory, trail: list[str] | None) -> None:
        super().__init__(world, memory)
        self.trail = trail
        self.chance = Fraction(1)
        self.hook = ""
        self.chains: list[tuple[str, bool]] = []  # base chains of this hook still to come
        self.entered = 0
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
                if isinstance(expr, Numgen) and expr.modulus > 1:
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
        if not self.translated:
            return PASS
        return Fate("endpoint", Ip(self.dst), self.port, self.masqueraded)

    def fork(self, draw: Numgen) -> list[_Flow]:
        """A branch for each number that may be drawn; the trail goes with the first."""
        branches = []
        for number in range(draw.modulus):
            branch = self.copy()
            branch.chance /= draw.modulus
            branch.trail = None if number else self.trail
            branch.store(draw.reg, host(draw.offset + number))
            branches.append(branch)
        if self.trail is not None:
            self.trail.append(f"one of {draw.modulus}, number {draw.offset} from here on")
        return branches

    def copy(self) -> _Flow:
        other = _Flow.__new__(_Flow)
        other.__dict__.update(self.__dict__)
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
                continue
            name, nat = self.chains.pop(0)
            if not (nat and self.address in self.decided):
                self.entered = 0
                self.enter(name)
                return True
        return False

    @property
    def address(self) -> str:
        """The address whose translation this hook decides."""
        return "dst" if self.hook in ("prerouting", "output") else "src"

    def next_hook(self) -> bool:
        """What was not translated at the last hook stays as it is (a null binding)."""
        before, sent = self.hook, not self.world.packet.iif
        if before not in ("", "forward"):
            self.decided |= {self.address}
        if not before:
            self.hook = "output" if sent else "prerouting"
        elif before == "prerouting":
            self.hook = "input" if self.world.is_local(self.dst) else "forward"
        elif before in ("output", "forward"):
            self.hook = "postrouting"
        elif before == "postrouting" and sent and self.world.is_local(self.dst):
            self.hook, self.iif = "prerouting", "lo"
        else:
            return False
        self.chains = list(self.world.hooks.get(self.hook, ()))
        return True

    def enter(self, chain: str) -> None:
        self.entered += 1
        if self.entered > _CHAINS:
            raise Unknowable(f"chain {chain} leads back to itself")
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
