"""
A first packet on its way past netfilter's hooks, whatever rules hang on them.

Knows in which order a packet meets the hooks, at which of them the translation of an
address is decided, where a packet goes that a balancer took, and how the chances of
branches add up. What the rules of a hook do to the packet is the plane's.

Source: net/ipv4/ip_input.c, ip_forward.c, ip_output.c; nf_nat_core.c (nf_nat_inet_fn);
net/netfilter/ipvs/ip_vs_xmit.c (ip_vs_nat_send_or_cont).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Final, Self

from kubeway.errors import Unknowable
from kubeway.model.addresses import is_loopback
from kubeway.model.packet import PASS, Fate, Fates, Packet
from kubeway.values import Ip, Proto

Balancer = Callable[[Ip, Proto, int], Sequence[tuple[Ip, int, Fraction]] | None]
"""Who serves this address, protocol and port: addresses and ports with their chances, which add up to 1.

None: nobody is asked for there, and the packet goes on. Empty: somebody is, and nobody is there.
"""

Relay = Callable[[int], Fates]
"""Where a packet ends that was handed to the listener at this port of this node."""

# More chains than any packet goes through: the kernel lets no circle in, a program made by hand may hold one.
_CHAINS: Final = 4096


class Passage(ABC):
    """One branch: the packet as it is now, at which hook, and how likely that is.

    `addresses` are this node's own; `relay` is asked where a packet ends that a listener took.
    """

    def __init__(self, packet: Packet, addresses: frozenset[Ip], relay: Relay | None = None) -> None:
        self.packet = packet
        self.addresses = addresses
        self.relay = relay
        self.dst: bytes = packet.dst
        self.port = packet.port
        self.iif = packet.iif
        self.translated = self.masqueraded = False
        self.balanced = False  # a balancer took it, and no other asks for it (skb->ipvs_property)
        # Which of its addresses have been decided, be it that they stay: a flow is asked once.
        self.decided: frozenset[str] = frozenset()
        self.handed: int | None = None  # the port of the listener that takes it
        self.fate: Fate | None = None  # by that listener
        self.hook = ""
        self.entered = 0  # chains, since the base chain
        self.chance = Fraction(1)

    @abstractmethod
    def run(self) -> Fate | Sequence[Self]:
        """Its end, or the branches it falls into, whose chances add up to its own."""

    @abstractmethod
    def branch(self) -> Self:
        """Another one, which goes its own way from here."""

    def is_local(self, ip: bytes) -> bool:
        return is_loopback(ip) or ip in self.addresses

    @property
    def is_here(self) -> bool:
        """Where it is sent to, or routed whatever that is, is this node."""
        return self.is_local(self.dst)

    @property
    def address(self) -> str:
        """The address whose translation this hook decides."""
        return "dst" if self.hook in ("prerouting", "output") else "src"

    def next_hook(self) -> bool:
        """Go to it; False if there is none.

        What was not translated at the last one stays as it is (a null binding).
        """
        before, sent = self.hook, not self.packet.iif
        if before not in ("", "forward"):
            self.decided |= {self.address}
        if not before:
            self.hook = "output" if sent else "prerouting"
        elif before == "prerouting":
            self.hook = "input" if self.is_here else "forward"
        elif before in ("output", "forward"):
            self.hook = "postrouting"
        elif before == "postrouting" and sent and self.is_here:
            self.hook, self.iif = "prerouting", "lo"
        else:
            return False
        return True

    def balance(self, ip: Ip, port: int) -> bool:
        """A balancer at this hook sends it there; whether from here, past the rest of this hook.

        It sets out as if this node had made it. Unless it is for this node itself: then it just goes on. Its
        destination was decided before a balancer saw it, its source may still be.
        """
        self.dst, self.port = ip, port
        self.translated = self.balanced = True
        if self.is_local(ip):
            return False
        self.decided |= {"dst"}
        self.hook, self.iif = "output", ""
        return True

    def count(self, chain: str) -> None:
        """One more chain is entered. Unknowable if there is no end to it."""
        self.entered += 1
        if self.entered > _CHAINS:
            raise Unknowable(f"chain {chain} leads back to itself")

    def arrive(self) -> Fate | list[Self]:
        """It has been through all hooks: its end, or the branches that a listener sends on."""
        if self.handed is None or self.hook != "input":
            return self.end()
        if self.relay is None:
            raise Unknowable(f"nobody says who listens at port {self.handed}")
        branches = []
        for fate, chance in self.relay(self.handed).items():
            one = self.branch()
            one.chance *= chance
            one.fate = fate
            branches.append(one)
        return branches

    def end(self) -> Fate:
        """Where it is when it has been through all hooks, and no listener took it."""
        if not self.translated:
            return PASS
        return Fate("endpoint", Ip(self.dst), self.port, self.masqueraded)


def ends(first: Passage) -> Fates:
    """Every end of a packet, each with its chance; they add up to its own."""
    found: dict[Fate, Fraction] = {}
    waiting = [first]
    while waiting:
        one = waiting.pop()
        end = one.run() if one.fate is None else one.fate
        if isinstance(end, Fate):
            found[end] = found.get(end, Fraction(0)) + one.chance
        else:
            waiting += reversed(end)
    return found
