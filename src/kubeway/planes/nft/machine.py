"""
The kernel's register machine: what one instruction does to a packet and its flow.

Knows the program and the packet (`World`) and what changes as the packet goes on
(`Machine`). The way from rule to rule and chain to chain is `fates.py`'s.

Source: net/netfilter/nf_tables_core.c, nft_lookup.c, nft_dynset.c, nft_nat.c;
nf_nat_core.c (nf_nat_setup_info).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import Enum
from typing import Final

from kubeway.errors import Unknowable
from kubeway.model.packet import Packet
from kubeway.planes.nft.fields import pad, width
from kubeway.planes.nft.objects import (
    PLANE,
    Accept,
    Alien,
    Bitwise,
    Chain,
    Cmp,
    Ct,
    CtOriginal,
    CtSet,
    Dnat,
    Drop,
    Dynset,
    Element,
    Expr,
    Family,
    Fib,
    Foreign,
    Goto,
    Hash,
    Immediate,
    Jump,
    Lookup,
    Masquerade,
    Meta,
    MetaSet,
    Numgen,
    Payload,
    Reject,
    Return,
    Rule,
    Rules,
    Set,
    SetDaddr,
    SocketTransparent,
    Tproxy,
    Verdict,
    chain_key,
    element_key,
    rules_key,
    set_key,
)
from kubeway.program.passage import Passage, Relay
from kubeway.program.program import Key
from kubeway.values import TCP, Ip

_NEW: Final = 8  # NF_CT_STATE_BIT(IP_CT_NEW)
_SRC_NAT, _DST_NAT = 0x10, 0x20  # IPS_SRC_NAT, IPS_DST_NAT
_UNICAST, _LOCAL = 1, 2  # RTN_UNICAST, RTN_LOCAL
# All nat chains run where the kernel's nat hooks lie; their own priorities only order them.
_NAT_AT: Final = {"prerouting": -100, "output": -100, "input": 100, "postrouting": 100}
_TCP_FLAGS, _SYN = (13, 1), b"\x02"  # of a connection's first packet
_OFFSETS: Final = {("ip", 12): "src", ("ip", 16): "dst", ("ip6", 8): "src", ("ip6", 24): "dst"}


class Broken(Enum):
    """The rule does not apply to the packet; the next one is asked."""

    RULE = "rule"


def host(number: int) -> bytes:
    """A number as it lies in a register, in the host's byte order."""
    return number.to_bytes(4, sys.byteorder)


class World:
    """What is the same in every branch: the program, the packet as it came, and where a mark with a bit of
    `homing` leads to (here)."""

    def __init__(self, objects: Mapping[Key, object], packet: Packet, homing: int = 0) -> None:
        self.objects = objects
        self.packet = packet
        self.homing = host(homing)
        self.family: Family = "ip" if len(packet.dst) == 4 else "ip6"
        self.hooks = self.base_chains()

    def base_chains(self) -> dict[str, list[tuple[str, bool]]]:
        """By hook: the base chains in the order they run, each with whether it is a nat chain."""
        found: dict[str, list[tuple[int, int, str, bool]]] = {}
        for key, thing in self.objects.items():
            if key.kind != "chain" or key.plane != PLANE or key.name[0] != self.family:
                continue
            name = str(key.name[1])
            if isinstance(thing, Alien):
                raise Unknowable(f"chain {name} is none of kubeway's: {thing.what}")
            if isinstance(thing, Chain) and thing.hook:
                nat = thing.type == "nat"
                at = _NAT_AT.get(thing.hook, 0) if nat else thing.priority
                found.setdefault(thing.hook, []).append((at, thing.priority, name, nat))
        return {hook: [(name, nat) for _, _, name, nat in sorted(chains)] for hook, chains in found.items()}

    def rules(self, chain: str) -> tuple[Rule, ...]:
        found = self.objects.get(rules_key(self.family, chain))
        if isinstance(found, Rules):
            return found.rules
        if found is None and isinstance(self.objects.get(chain_key(self.family, chain)), Chain):
            return ()
        raise Unknowable(f"chain {chain} is not in the program")

    def set(self, name: str) -> Set:
        found = self.objects.get(set_key(self.family, name))
        if not isinstance(found, Set):
            raise Unknowable(f"set {name} is not in the program")
        return found

    def element(self, name: str, held: Set, key: bytes) -> Element | None:
        if held.ranges:
            return self.ranged(name, held, key)
        found = self.objects.get(element_key(self.family, name, key))
        if found is None or isinstance(found, Element):
            return found
        raise Unknowable(f"an element of {name} is none of kubeway's")

    def ranged(self, name: str, held: Set, key: bytes) -> Element | None:
        """The element whose range holds the key; only the last field is a range."""
        at = width(held.key[:-1])
        place = (self.family, name)
        for one, thing in self.objects.items():
            if one.kind != "element" or one.plane != PLANE or one.name[:2] != place:
                continue
            if not isinstance(thing, Element):
                continue
            low = one.name[2]
            high = low if thing.end is None else thing.end
            if low[:at] == key[:at] and low[at:] <= key[at:] <= high[at:]:
                return thing
        return None


class Machine(Passage):
    """One packet with its registers, its flow's state and what dynamic sets remember."""

    def __init__(
        self,
        world: World,
        addresses: frozenset[Ip],
        memory: Mapping[tuple[str, bytes], bytes],
        relay: Relay | None = None,
    ) -> None:
        super().__init__(world.packet, addresses, relay)
        self.world = world
        self.meta = {"mark": bytes(4), "priority": bytes(4)}
        self.flow_mark = bytes(4)
        self.status = 0
        self.memory = dict(memory)
        self.registers = bytearray(64)
        self.chain = ""

    @property
    def is_here(self) -> bool:
        homing = any(a & b for a, b in zip(self.meta["mark"], self.world.homing, strict=True))
        return homing or super().is_here

    def store(self, reg: int, value: bytes) -> None:
        value = pad(value)
        self.registers[4 * reg : 4 * reg + len(value)] = value

    def value(self, reg: int, size: int) -> bytes:
        return bytes(self.registers[4 * reg : 4 * reg + size])

    def step(self, expr: Expr) -> Verdict | Reject | Broken | None:
        """Do one instruction. None: go on; else the rule ends, by a verdict or as it does not apply."""
        match expr:
            case Cmp(reg, op, value):
                same = self.value(reg, len(value)) == value
                return None if same == (op == "==") else Broken.RULE
            case Lookup():
                return self.lookup(expr)
            case Dynset():
                self.remember(expr)
            case MetaSet(reg, key):
                self.meta[key] = self.value(reg, 4)
            case CtSet(reg):
                self.flow_mark = self.value(reg, 4)
            case SetDaddr(reg):
                self.dst = self.value(reg, len(self.dst))
            case SocketTransparent():
                # The first packet of a flow belongs to no connection; that its sender's socket is of that
                # kind is nothing that a packet tells.
                return Broken.RULE
            case Tproxy(_, port):
                self.handed = int.from_bytes(self.value(port, 2), "big")
            case Bitwise(reg, mask, xor):
                old = self.value(reg, len(mask))
                self.store(reg, bytes(b & m ^ x for b, m, x in zip(old, mask, xor, strict=True)))
            case Dnat(ip, port):
                self.translate(ip, port)
                return Accept()
            case Masquerade():
                self.masqueraded = True
                self.status |= _SRC_NAT
                self.decided |= {"src"}
                return Accept()
            case Reject() | Drop() | Accept() | Return() | Jump() | Goto():
                return expr
            case Foreign(name):
                raise Unknowable(f"chain {self.chain} has a rule with {name}, which kubeway does not use")
            case _:
                self.store(expr.reg, self.load(expr))
        return None

    def load(self, expr: Payload | Meta | Ct | CtOriginal | Fib | Immediate | Numgen | Hash) -> bytes:
        packet = self.world.packet
        match expr:
            case Payload():
                return self.payload(expr)
            case Meta(_, "l4proto"):
                return bytes([packet.proto])
            case Meta(_, "iifname"):
                return self.iif.encode()[:15].ljust(16, b"\0")
            case Meta(_, "iifkind"):
                raise Unknowable(f"chain {self.chain} asks of what kind {self.iif} is")
            case Meta(_, key):
                return self.meta[key]
            case CtOriginal():
                return packet.src
            case Ct(_, "direction"):
                return b"\0"
            case Ct(_, "mark"):
                return self.flow_mark
            case Ct(_, key):
                return host(_NEW if key == "state" else self.status)
            case Fib(_, of):
                ip = packet.src if of == "saddr" else self.dst
                return host(_LOCAL if self.is_local(ip) else _UNICAST)
            case Immediate(_, value):
                return value
            case Numgen():
                return host(expr.offset)
            case Hash():
                return host(0)

    def payload(self, load: Payload) -> bytes:
        if load.base == "transport":
            if (load.offset, load.size) == (2, 2):
                return self.port.to_bytes(2, "big")
            if (load.offset, load.size) == _TCP_FLAGS and self.world.packet.proto == TCP:
                return _SYN
        else:
            which = _OFFSETS.get((self.world.family, load.offset))
            if which is not None and load.size <= len(self.dst):
                return (self.world.packet.src if which == "src" else self.dst)[: load.size]
        raise Unknowable(f"chain {self.chain} asks for bytes {load.offset} on of the {load.base} header")

    def lookup(self, lookup: Lookup) -> Verdict | Broken | None:
        held = self.world.set(lookup.name)
        key = self.value(lookup.reg, width(held.key))
        remembered = self.memory.get((lookup.name, key)) if held.dynamic else None
        found = Element(remembered) if remembered is not None else None
        if not held.dynamic:
            found = self.world.element(lookup.name, held, key)
        if (found is None) != lookup.invert:
            return Broken.RULE
        if found is None or lookup.into is None:
            return None
        if lookup.into == "verdict":
            if found.data is None or isinstance(found.data, bytes):
                raise Unknowable(f"set {lookup.name} is no verdict map")
            return found.data
        if not isinstance(found.data, bytes):
            raise Unknowable(f"set {lookup.name} is no map")
        self.store(lookup.into, found.data)
        return None

    def remember(self, change: Dynset) -> None:
        """Adding or updating leaves the data of an element that is there."""
        held = self.world.set(change.name)
        place = (change.name, self.value(change.reg, width(held.key)))
        if change.op == "delete":
            self.memory.pop(place, None)
        else:
            data = b"" if change.data is None else self.value(change.data, width(held.data))
            self.memory.setdefault(place, data)

    def translate(self, ip: int, port: int) -> None:
        """Send the flow to the address in the registers."""
        target = self.value(ip, len(self.dst)), int.from_bytes(self.value(port, 2), "big")
        # The kernel says `dnat` of a flow only if that changes anything.
        if target != (self.dst, self.port):
            self.status |= _DST_NAT
        self.dst, self.port = target
        self.translated = True
        self.decided |= {"dst"}
