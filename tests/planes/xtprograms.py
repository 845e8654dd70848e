"""
xtables programs for tests: every construct beside iptables' own words for it, and strategies
for programs of any shape that the kernel takes.

What the kernel takes is less than what can be told: DNAT and MASQUERADE where their hooks are, no
DROP in nat, ports with their protocol, and no chain that leads to itself.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, cast

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy, composite

from kubeway.planes.xtables import objects as o
from kubeway.planes.xtables.laws import references
from kubeway.planes.xtables.text import TABLES
from kubeway.planes.xtables.words import MOST_SIDES, STATES
from kubeway.program.program import Key
from kubeway.values import PROTOS, SCTP, TCP, UDP, Ip, Prefix, Proto, parse_ip, parse_prefix

FAMILIES: Final[tuple[o.Family, ...]] = ("ip", "ip6")
TOOLS: Final[dict[o.Family, str]] = {"ip": "iptables", "ip6": "ip6tables"}

# --- sets ---------------------------------------------------------------------------------

SETS: Final[dict[str, str]] = {
    "KUBE-CLUSTER-IP": "hash:ip,port",
    "KUBE-6-CLUSTER-IP": "hash:ip,port family inet6",
    "KUBE-LOOP-BACK": "hash:ip,port,ip",
    "KUBE-6-LOOP-BACK": "hash:ip,port,ip family inet6",
    "KUBE-NODE-PORT-TCP": "bitmap:port range 0-65535",
}
"""The sets that rules here ask for, and their types. Made in this order, `NUMBERED` has their numbers."""


def sets_of(family: o.Family) -> list[str]:
    """Those that rules of this family may ask for, says iptables."""
    return [name for name, kind in SETS.items() if "bitmap" in kind or ("inet6" in kind) == (family == "ip6")]


class Numbered:
    """Sets that have the numbers of their places."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def index(self, name: str) -> int | None:
        return self.names.index(name) if name in self.names else None

    def name(self, index: int) -> str | None:
        return self.names[index] if index < len(self.names) else None


NUMBERED: Final = Numbered(*SETS)

# --- every construct --------------------------------------------------------------------


def phrases(family: o.Family) -> dict[str, tuple[o.TableName, o.Rule]]:
    """Rules in the words of iptables-save, with the table they can stand in."""
    four = family == "ip"
    net = "10.0.0.0/8" if four else "fd00:10::/32"
    host = "10.96.0.1/32" if four else "fd00:96::1/128"
    holes = "10.0.0.0/255.0.255.0" if four else "fd00:96::/ff00:ff::"
    pod = "10.244.0.7" if four else "fd00:244::7"
    end = f"{pod}:8080" if four else f"[{pod}]:8080"
    here = "127.0.0.1" if four else "::1"
    whole = "255.255.255.255" if four else "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    reject = "icmp-port-unreachable" if four else "icmp6-port-unreachable"
    at, of, to = parse_prefix(host), parse_prefix(net), parse_ip(pod)
    tcp, web = o.Protocol(TCP), o.Dport(TCP, 80)
    vips, loop = ("KUBE-CLUSTER-IP", "KUBE-LOOP-BACK") if four else ("KUBE-6-CLUSTER-IP", "KUBE-6-LOOP-BACK")
    nat: dict[str, o.Rule] = {
        f'-d {host} -p tcp -m comment --comment "a web" -m tcp --dport 80 -j KUBE-SVC-BBBBBBBBBBBBBBBB': rule(
            o.Destination(at), tcp, o.Comment("a web"), web, to=o.Jump("KUBE-SVC-BBBBBBBBBBBBBBBB")
        ),
        f"! -s {net} -d {host} -p udp -m udp --dport 53 -g KUBE-SVC-BBBBBBBBBBBBBBBB": rule(
            o.Source(of, True),
            o.Destination(at),
            o.Protocol(UDP),
            o.Dport(UDP, 53),
            to=o.Goto("KUBE-SVC-BBBBBBBBBBBBBBBB"),
        ),
        f"-s {host} ! -d {net} ! -i eth0 -p sctp -m sctp --dport 80": rule(
            o.Source(at),
            o.Destination(of, True),
            o.InInterface("eth0", invert=True),
            o.Protocol(SCTP),
            o.Dport(SCTP, 80),
        ),
        "-i cni+ -j RETURN": rule(o.InInterface("cni", begins=True), to=o.Return()),
        "-i eth0.7": rule(o.InInterface("eth0.7")),
        "-p tcp -m tcp --dport 80:95 -j KUBE-SVC-BBBBBBBBBBBBBBBB": rule(
            tcp, o.Dport(TCP, 80, 95), to=o.Jump("KUBE-SVC-BBBBBBBBBBBBBBBB")
        ),
        "-p udp -m udp --dport 0:32767": rule(o.Protocol(UDP), o.Dport(UDP, 0, 32767)),
        "-m addrtype --dst-type LOCAL -j KUBE-SVC-BBBBBBBBBBBBBBBB": rule(
            o.AddrType("dst"), to=o.Jump("KUBE-SVC-BBBBBBBBBBBBBBBB")
        ),
        "-m addrtype --src-type LOCAL -j KUBE-SVC-BBBBBBBBBBBBBBBB": rule(
            o.AddrType("src"), to=o.Jump("KUBE-SVC-BBBBBBBBBBBBBBBB")
        ),
        "-m mark ! --mark 0x4000/0x4000 -j RETURN": rule(o.Mark(0x4000, 0x4000, True), to=o.Return()),
        "-m mark --mark 0x4000 -j ACCEPT": rule(o.Mark(0x4000, 0xFFFFFFFF), to=o.Accept()),
        "-m mark --mark 0x0/0x4000": rule(o.Mark(0, 0x4000)),
        f"-p tcp -m statistic --mode random --probability 0.33333333349 -j DNAT --to-destination {end}": rule(
            tcp, o.Random(3), to=o.Dnat(to, 8080)
        ),
        "-m statistic --mode random --probability 0.50000000000": rule(o.Random(2)),
        "-m statistic --mode random --probability 0.14285714272": rule(o.Random(7)),
        "-m statistic --mode random --probability 1.00000000000": rule(o.Random(1)),
        "-m statistic --mode random --probability 0.00009999983": rule(o.Random(10_000)),
        f"-m recent --rcheck --seconds 10800 --reap --name KUBE-AF-X --mask {whole} --rsource": rule(
            o.Recent("KUBE-AF-X", "check", 10800)
        ),
        f"-m recent --update --seconds 90 --reap --name KUBE-AF-X --mask {whole} --rsource": rule(
            o.Recent("KUBE-AF-X", "update", 90)
        ),
        f"-m recent --rcheck --name KUBE-AF-X --mask {whole} --rsource": rule(o.Recent("KUBE-AF-X", "check")),
        f"-m recent --set --name KUBE-AF-X --mask {whole} --rsource": rule(o.Recent("KUBE-AF-X", "set")),
        "-j MARK --set-xmark 0x4000/0x4000": rule(to=o.MarkXset(0x4000, 0x4000)),
        "-j MARK --set-xmark 0x4000/0x0": rule(to=o.MarkXset(0x4000, 0)),
        "-j MARK --set-xmark 0x1/0xffffffff": rule(to=o.MarkXset(1, 0xFFFFFFFF)),
        f"-m comment --comment portals -m set --match-set {vips} dst,dst -j ACCEPT": rule(
            o.Comment("portals"), o.InSet(vips, ("dst", "dst")), to=o.Accept()
        ),
        f"-m set ! --match-set {vips} src,dst -j RETURN": rule(
            o.InSet(vips, ("src", "dst"), invert=True), to=o.Return()
        ),
        f"-m set --match-set {loop} dst,dst,src": rule(o.InSet(loop, ("dst", "dst", "src"))),
        "-p tcp -m set --match-set KUBE-NODE-PORT-TCP dst": rule(
            tcp, o.InSet("KUBE-NODE-PORT-TCP", ("dst",))
        ),
        "-m set ! --match-set KUBE-NODE-PORT-TCP src,src,dst,src,src,src": rule(
            o.InSet("KUBE-NODE-PORT-TCP", ("src", "src", "dst", "src", "src", "src"), invert=True)
        ),
        f"-m set --match-set {vips} dst,dst --return-nomatch": rule(
            o.ForeignMatch(("-m", "set", "--match-set", vips, "dst,dst", "--return-nomatch"))
        ),
        f"-m set --match-set {vips} dst,dst ! --update-counters": rule(
            o.ForeignMatch(("-m", "set", "--match-set", vips, "dst,dst", "!", "--update-counters"))
        ),
        "-m comment --comment plain-word_1": rule(o.Comment("plain-word_1")),
        "-m comment --comment -j": rule(o.Comment("-j")),
        r'-m comment --comment "\"quoted\", \'so\', back\\slash #!"': rule(
            o.Comment("\"quoted\", 'so', back\\slash #!")
        ),
        '-m comment --comment "Grüße  an alle "': rule(o.Comment("Grüße  an alle ")),
        "-o eth0 -p tcp -m multiport --dports 80,443 -j RETURN": rule(
            o.ForeignMatch(("-o", "eth0")),
            tcp,
            o.ForeignMatch(("-m", "multiport", "--dports", "80,443")),
            to=o.Return(),
        ),
        f"-s {holes} ! -p tcp": rule(o.ForeignMatch(("-s", holes)), o.ForeignMatch(("!", "-p", "tcp"))),
        f"-p tcp -m tcp ! --dport 80 -j DNAT --to-destination {pod}": rule(
            tcp,
            o.ForeignMatch(("-m", "tcp", "!", "--dport", "80")),
            to=o.ForeignTarget(("-j", "DNAT", "--to-destination", pod)),
        ),
        "-m statistic --mode nth --every 3 --packet 0": rule(
            o.ForeignMatch(("-m", "statistic", "--mode", "nth", "--every", "3", "--packet", "0"))
        ),
        "-m statistic --mode random --probability 0.40000000037": rule(
            o.ForeignMatch(("-m", "statistic", "--mode", "random", "--probability", "0.40000000037"))
        ),
    }
    filters: dict[str, o.Rule] = {
        '-m conntrack --ctstate NEW -m comment --comment "to portals" -j KUBE-SVC-BBBBBBBBBBBBBBBB': rule(
            o.CtState(("NEW",)),
            o.Comment("to portals"),
            to=o.Jump("KUBE-SVC-BBBBBBBBBBBBBBBB"),
        ),
        "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP": rule(
            o.CtState(("RELATED", "ESTABLISHED", "DNAT"), True), to=o.Drop()
        ),
        "-m conntrack --ctstate INVALID,NEW,UNTRACKED,SNAT": rule(
            o.CtState(("INVALID", "NEW", "UNTRACKED", "SNAT"))
        ),
        f"-d {host} -p tcp -m tcp --dport 80 -j REJECT --reject-with {reject}": rule(
            o.Destination(at), tcp, web, to=o.Reject()
        ),
        "-p tcp -j REJECT --reject-with tcp-reset": rule(
            tcp, to=o.ForeignTarget(("-j", "REJECT", "--reject-with", "tcp-reset"))
        ),
        '-m limit --limit 1/sec -j LOG --log-prefix "who is it "': rule(
            o.ForeignMatch(("-m", "limit", "--limit", "1/sec")),
            to=o.ForeignTarget(("-j", "LOG", "--log-prefix", "who is it ")),
        ),
    }
    mangles: dict[str, o.Rule] = {
        "-m socket --transparent -g KUBE-SVC-BBBBBBBBBBBBBBBB": rule(
            o.Transparent(), to=o.Goto("KUBE-SVC-BBBBBBBBBBBBBBBB")
        ),
        "-m connmark ! --mark 0x2000/0x3000 -j KUBE-SVC-BBBBBBBBBBBBBBBB": rule(
            o.ConnMark(0x2000, 0x3000, True), to=o.Jump("KUBE-SVC-BBBBBBBBBBBBBBBB")
        ),
        "-m connmark --mark 0x0/0x3000 -m conntrack --ctdir REPLY -j RETURN": rule(
            o.ConnMark(0, 0x3000), o.Answering(), to=o.Return()
        ),
        "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j RETURN": rule(tcp, o.Opening(), to=o.Return()),
        "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m socket --transparent": rule(
            tcp, o.Opening(invert=True), o.Transparent()
        ),
        "-p tcp -m tcp --tcp-flags SYN,ACK SYN": rule(
            tcp, o.ForeignMatch(("-m", "tcp", "--tcp-flags", "SYN,ACK", "SYN"))
        ),
        "-m connmark --mark 0x1": rule(o.ConnMark(1, 0xFFFFFFFF)),
        "-j CONNMARK --set-xmark 0x2000/0x2000": rule(to=o.ConnMarkXset(0x2000, 0x2000)),
        "-j CONNMARK --set-xmark 0x1/0xffffffff": rule(to=o.ConnMarkXset(1, 0xFFFFFFFF)),
        f"-p tcp -j TPROXY --on-port 10801 --on-ip {here} --tproxy-mark 0x2000/0x3000": rule(
            tcp, to=o.Tproxy(parse_ip(here), 10801, 0x2000, 0x3000)
        ),
        "-m socket --transparent --nowildcard": rule(
            o.ForeignMatch(("-m", "socket", "--transparent", "--nowildcard"))
        ),
        "-m conntrack --ctdir ORIGINAL": rule(o.ForeignMatch(("-m", "conntrack", "--ctdir", "ORIGINAL"))),
        "-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff": rule(
            to=o.ForeignTarget(("-j", "CONNMARK", "--restore-mark", "--nfmask", "0xff", "--ctmask", "0xff"))
        ),
    }
    after = {
        "-j MASQUERADE --random-fully": rule(to=o.Masquerade()),
        "-j MASQUERADE": rule(to=o.Masquerade(fully=False)),
    }
    return {
        **{words: ("nat", one) for words, one in {**nat, **after}.items()},
        **{words: ("filter", one) for words, one in filters.items()},
        **{words: ("mangle", one) for words, one in mangles.items()},
    }


def rule(*matches: o.Match, to: o.Target | None = None) -> o.Rule:
    return o.Rule(matches, to)


def every_construct(family: o.Family) -> dict[Key, object]:
    """A program with all the phrases, branches, and jumps from built-in chains of each table."""
    told: dict[tuple[o.TableName, str], list[o.Rule]] = {}
    for words, (table, one) in phrases(family).items():
        told.setdefault(
            (table, "KUBE-POSTROUTING" if "MASQUERADE" in words else "KUBE-SVC-AAAAAAAAAAAAAAAA"), []
        ).append(one)
    for table in TABLES:
        told[table, "KUBE-SVC-BBBBBBBBBBBBBBBB"] = []
    program: dict[Key, object] = {}
    for (table, chain), rules in told.items():
        program[o.chain_key(family, table, chain)] = o.Chain()
        program[o.rules_key(family, table, chain)] = o.Rules(tuple(rules))
    by = "KUBE-BY-S-10.96.0.0/16"
    program[o.chain_key(family, "nat", by)] = o.Chain()
    for low in (2, 1, 10):
        host = parse_prefix(f"10.96.0.{low}/32" if family == "ip" else f"fd00:96::{low}/128")
        branch = rule(o.Destination(host), o.Comment(f"shop/s{low}"), to=o.Goto("KUBE-SVC-BBBBBBBBBBBBBBBB"))
        program[o.branch_key(family, "nat", by, branch)] = branch
    jumps: list[tuple[o.TableName, str, list[o.Rule]]] = [
        ("nat", "PREROUTING", [rule(o.Comment("portals"), to=o.Jump("KUBE-SVC-BBBBBBBBBBBBBBBB"))]),
        ("nat", "POSTROUTING", [rule(to=o.Jump("KUBE-POSTROUTING"))]),
        (
            "filter",
            "FORWARD",
            [
                rule(o.CtState(("NEW",)), to=o.Jump("KUBE-SVC-AAAAAAAAAAAAAAAA")),
                rule(to=o.Goto("KUBE-SVC-BBBBBBBBBBBBBBBB")),
            ],
        ),
        ("mangle", "OUTPUT", [rule(to=o.Jump("KUBE-SVC-BBBBBBBBBBBBBBBB"))]),
    ]
    for table, chain, rules in jumps:
        for number, one in enumerate(rules, 1):
            program[o.jump_key(family, table, chain, number)] = one
    return program


# --- programs of any shape ----------------------------------------------------------------

protos = st.sampled_from(list(PROTOS.values()))
marks = st.integers(0, 0xFFFFFFFF) | st.sampled_from([0, 1, 0x4000, 0x8000, 0xFFFFFFFF])
comments = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=60
) | st.sampled_from(
    ["-j", "!", "--dport", 'a "b"', "c'd", "e\\", "# f", " g  ", '"', "KUBE-SVC-AAAAAAAAAAAAAAAA"]
)
interfaces = st.from_regex(r"[a-z][a-z0-9.-]{0,11}", fullmatch=True)
suffixes = st.from_regex(r"[A-Z0-9][A-Z0-9./-]{0,15}", fullmatch=True)
hashes = st.from_regex(r"[A-Z2-7]{16}", fullmatch=True)
lists = st.from_regex(r"KUBE-AF-[A-Z0-9]{1,16}", fullmatch=True)


def addresses(family: o.Family) -> SearchStrategy[Ip]:
    """Such as have one spelling; the words for IPv4 in IPv6 are others with every tool."""
    if family == "ip":
        return st.binary(min_size=4, max_size=4).map(Ip)
    return st.builds(
        lambda first, rest: Ip(first + rest),
        st.sampled_from([b"\xfd\0", b"\x20\x01"]),
        st.binary(min_size=14, max_size=14),
    )


@composite
def prefixes(draw: st.DrawFn, family: o.Family) -> Prefix:
    ip = draw(addresses(family))
    bits = len(ip) * 8
    return parse_prefix(str(Prefix(ip, draw(st.integers(1, bits) | st.just(bits)))))


@composite
def dports(draw: st.DrawFn, proto: Proto) -> o.Dport:
    port = draw(st.integers(0, 0xFFFE))
    return o.Dport(proto, port, draw(st.just(0) | st.integers(port + 1, 0xFFFF if port else 0xFFFE)))


states = st.lists(st.sampled_from(STATES), min_size=1, unique=True).map(
    lambda some: tuple(sorted(some, key=STATES.index))
)
jump_matches: SearchStrategy[o.Match] = st.one_of(comments.map(o.Comment), st.just(o.CtState(("NEW",))))
inner_matches: SearchStrategy[o.Match] = st.one_of(
    st.builds(o.AddrType, st.sampled_from(["src", "dst"])),
    st.builds(o.CtState, states, st.booleans()),
    st.builds(o.Mark, marks, marks, st.booleans()),
    st.builds(o.ConnMark, marks, marks, st.booleans()),
    st.just(o.Answering()),
    st.builds(o.Random, st.integers(1, 40_000)),
    st.builds(o.Comment, comments),
    st.just(o.ForeignMatch(("-m", "limit", "--limit", "1/sec"))),
)
sides: SearchStrategy[o.Side] = st.sampled_from(["src", "dst"])
recents: SearchStrategy[o.Match] = st.one_of(
    st.builds(o.Recent, lists, st.sampled_from(["check", "update"]), st.integers(0, 1_000_000)),
    st.builds(o.Recent, lists, st.just("set")),
)


def in_sets(family: o.Family) -> SearchStrategy[o.Match]:
    names = st.sampled_from(sets_of(family))
    return st.builds(
        o.InSet, names, st.lists(sides, min_size=1, max_size=MOST_SIDES).map(tuple), st.booleans()
    )


@composite
def rules(draw: st.DrawFn, family: o.Family, table: o.TableName, chains: Sequence[str], last: bool) -> o.Rule:
    """One that may lead to `chains`. `last`: its chain is one of POSTROUTING's."""
    matches: list[o.Match] = []
    if draw(st.booleans()):
        matches.append(o.Source(draw(prefixes(family)), draw(st.booleans())))
    if draw(st.booleans()):
        matches.append(o.Destination(draw(prefixes(family)), draw(st.booleans())))
    if draw(st.booleans()) and not last:
        matches.append(o.InInterface(draw(interfaces), draw(st.booleans()), draw(st.booleans())))
    proto = draw(st.none() | protos)
    inner = draw(st.lists(inner_matches | in_sets(family), max_size=3))
    # iptables takes two matches with options of one name for each other if there are more than two.
    marked = [one for one in inner if isinstance(one, (o.Mark, o.ConnMark))]
    inner = [one for one in inner if one not in marked[1:]]
    if draw(st.booleans()):
        inner.append(draw(recents))
    if proto is not None:
        matches.append(o.Protocol(proto))
        if draw(st.booleans()):
            inner.append(draw(dports(proto)))
    return o.Rule(
        (*matches, *draw(st.permutations(inner))), draw(targets(family, table, chains, last, proto))
    )


@composite
def targets(
    draw: st.DrawFn,
    family: o.Family,
    table: o.TableName,
    chains: Sequence[str],
    last: bool,
    proto: Proto | None,
) -> o.Target | None:
    kinds: list[SearchStrategy[o.Target | None]] = [st.none(), st.just(o.Return()), st.just(o.Accept())]
    if chains:
        names = st.sampled_from(chains)
        kinds += [st.builds(o.Jump, names), st.builds(o.Goto, names)]
    if table == "filter":
        kinds += [st.just(o.Drop()), st.just(o.Reject())]
        kinds += [st.just(o.ForeignTarget(("-j", "LOG", "--log-prefix", "who is it ")))]
    else:
        kinds.append(st.builds(o.MarkXset, marks, marks))
        kinds.append(st.builds(o.ConnMarkXset, marks, marks))
    if table == "nat" and last:
        kinds.append(st.builds(o.Masquerade, st.booleans()))
    elif table == "nat" and proto is not None:
        kinds.append(st.builds(o.Dnat, addresses(family), st.integers(1, 0xFFFF)))
    return draw(st.one_of(kinds))


_HOOKS: Final[dict[o.TableName, tuple[str, ...]]] = {
    "filter": ("INPUT", "FORWARD"),
    "nat": ("PREROUTING", "POSTROUTING"),
    "mangle": ("PREROUTING", "OUTPUT"),
}


@composite
def programs(draw: st.DrawFn, family: o.Family) -> dict[Key, object]:
    """Chains, rules, branches and jumps of one family, in all tables."""
    program: dict[Key, object] = {}
    for table in TABLES:
        for last in (False, True) if table == "nat" else (False,):
            _fill(draw, program, family, table, last)
    return program


def _fill(
    draw: st.DrawFn, program: dict[Key, object], family: o.Family, table: o.TableName, last: bool
) -> None:
    """`last`: of nat, what hangs on POSTROUTING; elsewhere what hangs on the other hooks."""
    begin = "KUBE-SEP-" if last else "KUBE-SVC-"
    names = [begin + name for name in draw(st.lists(hashes, max_size=3, unique=True))]
    if not last:
        names += [o.BRANCHING + name for name in draw(st.lists(suffixes, max_size=2, unique=True))]
    for place, name in enumerate(names):
        some = draw(st.lists(rules(family, table, names[place + 1 :], last), max_size=4))
        program[o.chain_key(family, table, name)] = o.Chain()
        if name.startswith(o.BRANCHING):
            program.update((o.branch_key(family, table, name, one), one) for one in some)
        else:
            program[o.rules_key(family, table, name)] = o.Rules(tuple(some))
    hooks = _HOOKS[table]
    for hook in (hooks[last],) if table == "nat" else hooks:
        for number in range(1, draw(st.integers(0, 2)) + 1) if names else ():
            target = draw(st.sampled_from([o.Jump, o.Goto]))(draw(st.sampled_from(names)))
            matches = draw(st.lists(jump_matches, max_size=2))
            program[o.jump_key(family, table, hook, number)] = o.Rule(tuple(matches), cast(o.Target, target))


def relative(program: dict[Key, object], rng: random.Random) -> dict[Key, object]:
    """Another program with much of this one: chains emptied, branches gone, jumps fewer and in another
    order, and some of the chains to which nothing leads any more gone, too."""
    other: dict[Key, object] = {}
    jumps: dict[tuple[object, ...], list[object]] = {}
    for key, thing in program.items():
        if key.kind == "jump":
            jumps.setdefault(key.name[:3], []).append(thing)
        elif isinstance(thing, o.Rules):
            other[key] = o.Rules(tuple(one for one in thing.rules if rng.random() < 0.7))
        elif key.kind != "branch" or rng.random() < 0.7:
            other[key] = thing
    for (family, table, hook), some in jumps.items():
        kept = rng.sample(some, rng.randint(0, len(some)))
        at = cast(tuple[o.Family, o.TableName, str], (family, table, hook))
        other.update({o.jump_key(*at, number): one for number, one in enumerate(kept, 1)})
    named = {held for key, thing in other.items() for held in references(key, thing)}
    gone = {key.name for key in other if key.kind == "chain" and key not in named and rng.random() < 0.5}
    return {key: thing for key, thing in other.items() if key.name[:3] not in gone}


# --- without what only iptables itself can write ---------------------------------------------


def is_understood(one: o.Rule) -> bool:
    """Whether kubeway has an object for all of it."""
    foreign = any(isinstance(match, o.ForeignMatch) for match in one.matches)
    return not foreign and not isinstance(one.target, o.ForeignTarget)


def without_last_comment(one: o.Rule) -> o.Rule:
    """A comment behind all other matches is written as nf_tables has it, and not as iptables-nft does."""
    return rule(*one.matches[:-1], to=one.target) if ends_in_comment(one) else one


def ends_in_comment(one: o.Rule) -> bool:
    return bool(one.matches) and isinstance(one.matches[-1], o.Comment)


def understood(program: dict[Key, object]) -> dict[Key, object]:
    """The program without its foreign rules."""
    found: dict[Key, object] = {}
    for key, thing in program.items():
        if isinstance(thing, o.Rules):
            thing = o.Rules(tuple(filter(is_understood, thing.rules)))
        if not isinstance(thing, o.Rule) or is_understood(thing):
            found[key] = thing
    return found
