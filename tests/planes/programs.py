"""
Strategies for nftables objects of any shape: programs that no mode would make, but
that the plane has to carry there and back.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy, composite

from kubeway.planes.nft import objects as o
from kubeway.planes.nft.fields import FIELDS, width
from kubeway.program.program import Key

names = st.from_regex(r"[a-z][a-z0-9/_-]{0,30}", fullmatch=True)
words = st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), max_size=40)
registers = st.integers(0, 15)
families = st.sampled_from(["ip", "ip6"])


def raw(low: int = 1, high: int = 16) -> SearchStrategy[bytes]:
    return st.binary(min_size=low, max_size=high)


verdicts = st.one_of(
    st.just(o.Drop()),
    st.just(o.Accept()),
    st.just(o.Return()),
    st.builds(o.Jump, names),
    st.builds(o.Goto, names),
)


@composite
def masks(draw: st.DrawFn) -> o.Bitwise:
    size = draw(st.sampled_from([1, 2, 4, 16]))
    return o.Bitwise(draw(registers), draw(raw(size, size)), draw(raw(size, size)))


exprs = st.one_of(
    st.builds(
        o.Payload,
        registers,
        st.sampled_from(["network", "transport"]),
        st.integers(0, 255),
        st.integers(1, 16),
    ),
    st.builds(o.Meta, registers, st.sampled_from(["l4proto", "mark", "priority", "iifname", "iifkind"])),
    st.builds(o.MetaSet, registers, st.sampled_from(["mark", "priority"])),
    st.builds(o.Ct, registers, st.sampled_from(["state", "status", "mark", "direction"])),
    st.builds(o.CtSet, registers, st.just("mark")),
    st.builds(o.SocketTransparent, registers),
    st.builds(o.CtOriginal, registers),
    st.builds(o.SetDaddr, registers),
    st.builds(o.Tproxy, registers, registers),
    st.builds(o.Fib, registers, st.sampled_from(["saddr", "daddr"])),
    st.builds(o.Immediate, registers, raw()),
    masks(),
    st.builds(o.Cmp, registers, st.sampled_from(["==", "!="]), raw()),
    st.builds(
        o.Lookup,
        registers,
        names,
        st.one_of(st.none(), st.just("verdict"), registers),
        st.booleans(),
    ),
    st.builds(o.Numgen, registers, st.integers(1, 1 << 31), st.integers(0, 1 << 31)),
    st.builds(
        o.Hash,
        registers,
        registers,
        st.integers(1, 64),
        st.integers(1, 1 << 31),
        st.integers(0, (1 << 32) - 1),
    ),
    st.builds(
        o.Dynset,
        st.sampled_from(["add", "update", "delete"]),
        names,
        registers,
        st.none() | registers,
        st.integers(0, 1 << 40),
    ),
    st.builds(o.Dnat, registers, registers),
    st.just(o.Masquerade()),
    st.just(o.Reject()),
    verdicts,
)

rules = st.builds(o.Rule, st.lists(exprs, min_size=1, max_size=8).map(tuple), words)

chains = st.one_of(
    st.builds(o.Chain, comment=words),
    st.builds(
        o.Chain,
        st.sampled_from(["filter", "nat", "route"]),
        st.sampled_from(["prerouting", "input", "forward", "output", "postrouting"]),
        st.integers(-(1 << 31), (1 << 31) - 1),
        words,
    ),
)


@composite
def sets(draw: st.DrawFn) -> o.Set:
    fields = st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=4).map(tuple)
    kind = draw(st.sampled_from(["set", "ranges", "data", "verdicts", "dynamic"]))
    return o.Set(
        key=draw(fields),
        data=draw(fields) if kind == "data" else (),
        verdicts=kind == "verdicts",
        ranges=kind == "ranges",
        dynamic=kind == "dynamic",
        timeout=draw(st.integers(1, 1 << 40)) if kind == "dynamic" else 0,
        size=draw(st.integers(1, 1 << 20)) if kind == "dynamic" else 0,
        comment=draw(words),
    )


@composite
def elements(draw: st.DrawFn, holder: o.Set) -> tuple[bytes, o.Element]:
    size = width(holder.key)
    key = draw(raw(size, size))
    end = draw(st.none() | raw(size, size)) if holder.ranges else None
    data = None
    if holder.verdicts:
        data = draw(verdicts)
    elif holder.data:
        data = draw(raw(width(holder.data), width(holder.data)))
    return key, o.Element(data, end, draw(words))


@composite
def programs(draw: st.DrawFn) -> dict[Key, object]:
    """A table of each family or one, with sets, chains, rules and elements of any kind."""
    program: dict[Key, object] = {}
    for family in draw(st.lists(families, min_size=1, max_size=2, unique=True)):
        program[o.table_key(family)] = o.Table(draw(words))
        for name in draw(st.lists(names, max_size=4, unique=True)):
            holder = draw(sets())
            program[o.set_key(family, name)] = holder
            if not holder.dynamic:
                for key, element in draw(st.lists(elements(holder), max_size=5)):
                    program[o.element_key(family, name, key)] = element
        for name in draw(st.lists(names, max_size=4, unique=True)):
            program[o.chain_key(family, name)] = draw(chains)
            program[o.rules_key(family, name)] = o.Rules(tuple(draw(st.lists(rules, max_size=4))))
    return program
