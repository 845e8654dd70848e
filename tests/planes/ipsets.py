"""
Small ipset programs for tests: one with everything in it, and hypothesis strategies over others.
"""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st

from kubeway.planes.ipset.objects import (
    BITMAP_PORT,
    ENTRY,
    HASH_IP,
    HASH_IP_PORT,
    HASH_IP_PORT_IP,
    HASH_IP_PORT_NET,
    KINDS,
    PLANE,
    TYPES,
    Entry,
    Set,
    entry_key,
    set_key,
)
from kubeway.planes.ipset.ours import name_for
from kubeway.program.plan import steps
from kubeway.program.program import Change, Key, Object
from kubeway.values import SCTP, TCP, UDP, V4, V6, Ip, Prefix, parse_ip, parse_prefix

ORDER: Mapping[str, tuple[str, ...]] = {PLANE: KINDS}
Program = dict[Key, Object]


def ordered(changes: list[Change]) -> list[Change]:
    """In the order in which a plane is told them."""
    return [change for step in steps(changes, ORDER) for change in step.changes]


def every_construct() -> Program:
    """A set of each type in each family, each with entries of all kinds."""
    program: Program = {}
    for family, ip, other, net, wide in (
        (V4, "10.96.0.1", "10.244.1.7", "192.0.2.0/25", "0.0.0.0/1"),
        (V6, "fd00:10:96::1", "fd00:10:244:1::7", "2001:db8::/33", "8000::/1"),
    ):
        one, two = parse_ip(ip), parse_ip(other)
        ips, ports = name_for("KUBE-IPVS-IPS", family), name_for("KUBE-CLUSTER-IP", family)
        loops, nets = name_for("KUBE-LOOP-BACK", family), name_for("KUBE-LOAD-BALANCER-SOURCE-CIDR", family)
        ours = name_for("KUBEWAY-NODE-PORT-UDP", family)
        program |= {
            set_key(ips): Set(HASH_IP, family),
            entry_key(ips, one): ENTRY,
            entry_key(ips, two): ENTRY,
            set_key(ports): Set(HASH_IP_PORT, family),
            entry_key(ports, one, TCP, 80): ENTRY,
            entry_key(ports, one, UDP, 53): ENTRY,
            entry_key(ports, two, SCTP, 65535): ENTRY,
            set_key(loops): Set(HASH_IP_PORT_IP, family),
            entry_key(loops, two, TCP, 8080, two): ENTRY,
            entry_key(loops, one, UDP, 1, two): ENTRY,
            set_key(nets): Set(HASH_IP_PORT_NET, family),
            entry_key(nets, one, TCP, 443, parse_prefix(net)): ENTRY,
            entry_key(nets, one, TCP, 443, parse_prefix(wide)): ENTRY,
            entry_key(nets, one, TCP, 443, Prefix(two, len(two) * 8)): ENTRY,
            entry_key(nets, two, TCP, 443, parse_prefix(net)): Entry(nomatch=True),
            set_key(ours): Set(BITMAP_PORT, 0),
            entry_key(ours, 0): ENTRY,
            entry_key(ours, 30080): ENTRY,
            entry_key(ours, 65535): ENTRY,
            set_key(name_for("KUBEWAY-EMPTY", family)): Set(HASH_IP_PORT, family),
        }
    return program


ports = st.integers(0, 0xFFFF)
protos = st.sampled_from([TCP, UDP, SCTP])


def ips(family: int) -> st.SearchStrategy[Ip]:
    """Any address but the one that is all zeros."""
    size = 4 if family == V4 else 16
    return st.binary(min_size=size, max_size=size).filter(any).map(Ip)


def prefixes(family: int) -> st.SearchStrategy[Prefix]:
    def cut(ip: Ip, length: int) -> Prefix:
        bits = len(ip) * 8
        whole = int.from_bytes(ip, "big") >> (bits - length) << (bits - length)
        return Prefix(Ip(whole.to_bytes(len(ip), "big")), length)

    return st.builds(cut, ips(family), st.integers(1, 32 if family == V4 else 128))


@st.composite
def sets(draw: st.DrawFn, name: str) -> Program:
    """One set of any type, with some entries."""
    type = draw(st.sampled_from(TYPES))  # noqa: A001 (the kernel's word)
    family = 0 if type == BITMAP_PORT else draw(st.sampled_from([V4, V6]))
    fields = {
        HASH_IP: lambda: st.tuples(ips(family)),
        HASH_IP_PORT: lambda: st.tuples(ips(family), protos, ports),
        HASH_IP_PORT_IP: lambda: st.tuples(ips(family), protos, ports, ips(family)),
        HASH_IP_PORT_NET: lambda: st.tuples(ips(family), protos, ports, prefixes(family)),
        BITMAP_PORT: lambda: st.tuples(ports),
    }[type]()
    nomatch = st.booleans() if type == HASH_IP_PORT_NET else st.just(False)
    entries = draw(st.dictionaries(fields, nomatch, max_size=6))
    return {
        set_key(name): Set(type, family),
        **{entry_key(name, *found): Entry(but) for found, but in entries.items()},
    }


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Up to three sets."""
    program: Program = {}
    for name in draw(st.lists(st.sampled_from(["KUBE-CLUSTER-IP", "KUBEWAY-A", "KUBEWAY-6-A"]), unique=True)):
        program |= draw(sets(name))
    return program
