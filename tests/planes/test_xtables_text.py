"""
A program in iptables' words, and back.

Every construct stands once in `phrases` as iptables-save's own words beside the objects; the tools
themselves are asked in tests/kernel. What kube-proxy left on a node is read as well.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.planes.xtables import objects as o
from kubeway.planes.xtables.describe import describe
from kubeway.planes.xtables.text import parse, show, show_rule
from kubeway.planes.xtables.words import parse_rule, quote, split
from kubeway.program.program import Change, Key
from kubeway.values import SCTP, TCP, parse_prefix
from tests.planes.xtprograms import FAMILIES, comments, every_construct, phrases, programs, rule

GOLDEN = Path(__file__).parent.parent / "golden" / "xtables"
PHRASES = [(family, words) for family in FAMILIES for words in phrases(family)]


def table(name: str, *lines: str) -> str:
    return "\n".join([f"*{name}", *lines, "COMMIT", ""])


# --- a rule -----------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "words"), PHRASES)
def test_phrase(family: o.Family, words: str) -> None:
    _, one = phrases(family)[words]
    assert show_rule(one, family) == words
    assert parse_rule(split(words), family, ()) == one


def test_matches_stand_in_the_order_of_iptables_whatever_theirs() -> None:
    heads: list[o.Match] = [
        o.Source(parse_prefix("10.0.0.0/8")),
        o.Destination(parse_prefix("10.96.0.1/32")),
        o.InInterface("eth0"),
        o.ForeignMatch(("!", "-o", "eth1")),
        o.Protocol(TCP),
    ]
    rest = (o.Comment("b"), o.Dport(TCP, 1), o.Comment("a"))
    told = show_rule(rule(*heads, *rest), "ip")
    assert told.startswith(
        "-s 10.0.0.0/8 -d 10.96.0.1/32 -i eth0 ! -o eth1 -p tcp -m comment --comment b -m tcp"
    )
    for seed in range(20):
        mixed = random.Random(seed).sample(heads, len(heads))
        assert show_rule(rule(rest[0], *mixed, *rest[1:]), "ip") == told


@pytest.mark.parametrize(
    ("words", "one"),
    [
        # kube-proxy has the protocol's match without a port where it translates.
        ("-p tcp -m tcp -j RETURN", rule(o.Protocol(TCP), to=o.Return())),
        # Written by hand, not by iptables-save: the order is another.
        (
            "-m comment --comment x -d 10.0.0.1/32 -m sctp --dport 9 -p sctp",
            rule(
                o.Destination(parse_prefix("10.0.0.1/32")), o.Protocol(SCTP), o.Comment("x"), o.Dport(SCTP, 9)
            ),
        ),
        ("-m conntrack --ctstate DNAT,NEW", rule(o.CtState(("NEW", "DNAT")))),
        (
            "-m conntrack --ctstate NEW,NEVER",
            rule(o.ForeignMatch(("-m", "conntrack", "--ctstate", "NEW,NEVER"))),
        ),
        ("-p icmp -f", rule(o.ForeignMatch(("-p", "icmp")), o.ForeignMatch(("-f",)))),
        ("-m set --match-set A dst,src", rule(o.InSet("A", ("dst", "src")))),
        ("-m ipvs --ipvs", rule(o.Balanced())),
        ("-m ipvs ! --ipvs", rule(o.Balanced(invert=True))),
        ("-m ipvs --vport 80", rule(o.ForeignMatch(("-m", "ipvs", "--vport", "80")))),
        (
            "-m set --match-set A dst,both",
            rule(o.ForeignMatch(("-m", "set", "--match-set", "A", "dst,both"))),
        ),
        (
            "-m set --match-set A src,src,src,src,src,src,src",
            rule(o.ForeignMatch(("-m", "set", "--match-set", "A", "src,src,src,src,src,src,src"))),
        ),
        ('-m set --match-set A ""', rule(o.ForeignMatch(("-m", "set", "--match-set", "A", "")))),
        ("-m tcp --dport 90:80", rule(o.ForeignMatch(("-m", "tcp", "--dport", "90:80")))),
        ("-m tcp --dport 65536", rule(o.ForeignMatch(("-m", "tcp", "--dport", "65536")))),
        ("-m mark --mark 0x1FFFFFFFF", rule(o.ForeignMatch(("-m", "mark", "--mark", "0x1FFFFFFFF")))),
        # Another mask counts whole networks as one client.
        (
            "-m recent --set --name X --mask 255.255.255.0 --rsource",
            rule(
                o.ForeignMatch(
                    ("-m", "recent", "--set", "--name", "X", "--mask", "255.255.255.0", "--rsource")
                )
            ),
        ),
        (
            "-m string --string -j -j DROP",
            rule(o.ForeignMatch(("-m", "string", "--string", "-j")), to=o.Drop()),
        ),
        ("-j DNAT --to-destination 10.0.0.1-10.0.0.9:80", None),
        ("-j DNAT --to-destination [fd00::1]:80", None),
        ("-j DNAT --to-destination 10.0.0.1:80 --random", None),
        ("-j ACCEPT --why", None),
        ("-g ACCEPT", None),
        ("-j SOMEBODYS", None),
    ],
)
def test_other_words(words: str, one: o.Rule | None) -> None:
    """None: a target of somebody else."""
    found = parse_rule(split(words), "ip", ())
    assert found == (rule(to=o.ForeignTarget(tuple(split(words)))) if one is None else one)


def test_a_chain_of_the_table_is_jumped_to_by_any_name() -> None:
    assert parse_rule(["-j", "SOMEBODYS"], "ip", {"SOMEBODYS"}) == rule(to=o.Jump("SOMEBODYS"))
    assert parse_rule(["-g", "KUBE-SVC-AAAAAAAAAAAAAAAA"], "ip", ()) == rule(
        to=o.Goto("KUBE-SVC-AAAAAAAAAAAAAAAA")
    )


@given(st.integers(1, 46_340))
def test_law_chances_are_told_apart(of: int) -> None:
    one = rule(o.Random(of))
    assert parse_rule(split(show_rule(one, "ip")), "ip", ()) == one


@pytest.mark.parametrize("of", range(1, 1001))
def test_chances_as_kube_proxy_writes_them(of: int) -> None:
    """Ten decimals, then iptables' rounding, then eleven decimals."""
    steps = int(float(f"{1 / of:0.10f}") * 2**31 + 0.5)
    words = ["-m", "statistic", "--mode", "random", "--probability", f"{steps / 2**31:.11f}"]
    assert parse_rule(words, "ip", ()) == rule(o.Random(of))


@given(st.lists(comments, max_size=5))
def test_law_quoted_words_come_back(words: list[str]) -> None:
    assert split(" ".join(map(quote, words))) == words


def test_quotes() -> None:
    assert quote("plain_-1") == "plain_-1"
    assert quote("shop/web") == '"shop/web"'
    assert quote("") == '""'
    assert quote("a\r\nb") == '"a b"'
    assert split('  a  "b c"  d ') == ["a", "b c", "d"]
    assert split('""') == [""]


# --- a program --------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_program_is_the_golden_text(family: o.Family) -> None:
    golden = GOLDEN / f"every-construct.{family}.restore"
    text = show(every_construct(family))
    if os.environ.get("KUBEWAY_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_text_is_the_program(family: o.Family) -> None:
    golden = GOLDEN / f"every-construct.{family}.restore"
    assert parse(golden.read_text(), family) == every_construct(family)


@given(programs("ip"), programs("ip6"))
def test_law_parse_and_show_are_opposites(four: dict[Key, object], six: dict[Key, object]) -> None:
    both = {**six, **four}
    assert parse(show(both, "ip"), "ip") == four
    assert parse(show(both, "ip6"), "ip6") == six
    assert show(both) == "\n".join(filter(None, (show(four), show(six))))
    assert show(dict(reversed(both.items()))) == show(both)


@given(programs("ip"), st.randoms(use_true_random=False))
def test_law_what_others_have_is_passed_over(program: dict[Key, object], rng: random.Random) -> None:
    assert parse(among_others(show(program), rng), "ip") == program


def among_others(text: str, rng: random.Random) -> str:
    """What iptables-save would tell of a node that holds this program and much more."""
    tables: dict[str, list[str]] = {name: [] for name in ("raw", "mangle", "nat", "filter")}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith("*"):
            current = tables[line[1:]]
        elif line.startswith((":", "-")):
            current.append(line)
    foreign = [
        "-A {hook} -j DOCKER",
        '-A {hook} -m comment --comment "not a jump to KUBE-SERVICES" -j ACCEPT',
        "-A {hook} -i eth0 -p tcp -m tcp --dport 22 -j ACCEPT",
        "-A DOCKER -j KUBE-SVC-SSSSSSSSSSSSSSSS",
        r'-A DOCKER -m comment --comment "\"KUBE-" -j RETURN',
    ]
    told = ["# Generated by iptables-save v1.8.9", "# Warning: iptables-legacy tables present"]
    for name, lines in tables.items():
        chains = [f"{line.partition(' ')[0]} - [0:0]" for line in lines if line.startswith(":")]
        rules = [line for line in lines if line.startswith("-A")]
        for line in lines:
            if line.startswith("-I"):
                _, hook, _, rest = line.split(" ", 3)
                rules += [foreign[0].format(hook=hook)] * rng.randrange(2) + [f"-A {hook} {rest}"]
        for line in foreign:
            rules.insert(rng.randrange(len(rules) + 1), line.format(hook="OUTPUT"))
        told += [f"*{name}", ":PREROUTING ACCEPT [7:420]", ":OUTPUT DROP [0:0]", ":DOCKER - [0:0]", *chains]
        told += [f"[{rng.randrange(9)}:{rng.randrange(999)}] {line}" for line in rules]
        told += ["COMMIT", "# Completed"]
    return "\n".join([*told, ""])


def test_both_families_follow_each_other_and_one_can_be_asked_for() -> None:
    both = {**every_construct("ip6"), **every_construct("ip")}
    assert show(both) == show(both, "ip") + "\n" + show(both, "ip6")
    assert show(both, "ip6") == show(every_construct("ip6"))
    assert show(both, "ip").startswith("# for iptables-restore --noflush\n*filter\n")
    assert show({}) == show(every_construct("ip"), "ip6") == ""


def test_parts_of_a_program_are_shown_too() -> None:
    web = rule(o.Destination(parse_prefix("10.96.0.1/32")), to=o.Drop())
    objects: dict[Key, object] = {
        o.rules_key("ip", "filter", "KUBE-SVC-AAAAAAAAAAAAAAAA"): o.Rules((rule(to=o.Drop()),)),
        o.branch_key("ip", "filter", "KUBE-BY-S", web): web,
        o.jump_key("ip", "filter", "INPUT", 7): rule(to=o.Jump("KUBE-SVC-AAAAAAAAAAAAAAAA")),
        Key("relay", "rules", ("ip", "filter", "KUBE-SVC-CCCCCCCCCCCCCCCC")): o.Rules(),
    }
    lines = show(objects).splitlines()
    assert lines[1:] == [
        "*filter",
        ":KUBE-BY-S - [0:0]",
        ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]",
        "-A KUBE-BY-S -d 10.96.0.1/32 -j DROP",
        "-A KUBE-SVC-AAAAAAAAAAAAAAAA -j DROP",
        "-I INPUT 1 -j KUBE-SVC-AAAAAAAAAAAAAAAA",
        "COMMIT",
    ]


def test_a_spot_taken_twice_is_two_objects() -> None:
    lines = [":KUBE-BY-S - [0:0]", *["-A KUBE-BY-S -p tcp -m tcp --dport 80 -j DROP"] * 3]
    found = parse(table("nat", *lines), "ip")
    assert len(found) == 4
    assert {key.kind for key in found} == {"chain", "branch"}
    right = rule(o.Protocol(TCP), o.Dport(TCP, 80), to=o.Drop())
    assert found[o.branch_key("ip", "nat", "KUBE-BY-S", right)] == right


def test_rules_are_inserted_where_they_are_told_to_be() -> None:
    lines = [
        ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]",
        "-A KUBE-SVC-AAAAAAAAAAAAAAAA -j DROP",
        "-I KUBE-SVC-AAAAAAAAAAAAAAAA -j ACCEPT",
        "-I KUBE-SVC-AAAAAAAAAAAAAAAA 3 -j RETURN",
    ]
    found = parse(
        table("filter", *lines, "-A INPUT -j OTHER", "-I INPUT 2 -j KUBE-SVC-AAAAAAAAAAAAAAAA"), "ip"
    )
    verdicts = (rule(to=o.Accept()), rule(to=o.Drop()), rule(to=o.Return()))
    assert found[o.rules_key("ip", "filter", "KUBE-SVC-AAAAAAAAAAAAAAAA")] == o.Rules(verdicts)
    assert found[o.jump_key("ip", "filter", "INPUT", 1)] == rule(to=o.Jump("KUBE-SVC-AAAAAAAAAAAAAAAA"))


# --- what a Go kube-proxy left ------------------------------------------------------------


def test_a_node_of_kube_proxys_is_read() -> None:
    """Everything has an object, and is shown as it was told."""
    text = (GOLDEN / "kube-proxy.ip.save").read_text()
    found = parse(text, "ip")
    rules = [one for thing in found.values() for one in getattr(thing, "rules", ())]
    jumps = [thing for thing in found.values() if isinstance(thing, o.Rule)]
    assert not any(isinstance(match, o.ForeignMatch) for one in (*rules, *jumps) for match in one.matches)
    assert not any(isinstance(one.target, o.ForeignTarget) for one in (*rules, *jumps))
    # What is in the chain that kubelet shares counts as a jump: it is shown inserted.
    told = {line for line in text.splitlines() if line.startswith("-A KUBE-") and "KUBE-FIREWALL" not in line}
    shown = {line for line in show(found).splitlines() if line.startswith("-A KUBE-")}
    # Its DNAT rules load the protocol's match and ask it nothing.
    assert {
        line.replace(" -m tcp -j DNAT", " -j DNAT").replace(" -m udp -j DNAT", " -j DNAT") for line in told
    } == shown
    # As many as its metrics said: 9 in filter, one of them in the shared chain, 61 in nat.
    assert len(rules) == len(told) == 8 + 61
    assert len(jumps) == 14 + 1
    assert parse(show(found), "ip") == found


# --- what iptables-save does not print ------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nonsense", "iptables-save, line 1: not in a table: 'nonsense'"),
        ("-A INPUT -j ACCEPT", "not in a table"),
        ("COMMIT", "not in a table"),
        (
            "*nat\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n-A KUBE-SVC-AAAAAAAAAAAAAAAA -j DR",
            "line 3: ends within table nat",
        ),
        ("*nat\n*filter", "line 2: table filter begins within another one, or again"),
        (table("nat") + table("nat"), "line 3: table nat begins"),
        (table("nat", ":KUBE-SVC-AAAAAAAAAAAAAAAA"), "not a chain with its policy"),
        (
            table("nat", ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]", ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]"),
            "chain KUBE-SVC-AAAAAAAAAAAAAAAA of nat is told twice",
        ),
        (
            table("nat", "-X KUBE-SVC-AAAAAAAAAAAAAAAA"),
            "not a table, chain, rule or COMMIT: '-X KUBE-SVC-AAAAAAAAAAAAAAAA'",
        ),
        (
            table("nat", "-A KUBE-SVC-AAAAAAAAAAAAAAAA -j DROP"),
            "a rule of KUBE-SVC-AAAAAAAAAAAAAAAA, a chain of nat that is not told",
        ),
        (
            table("nat", ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]", "-A KUBE-SVC-AAAAAAAAAAAAAAAA -j"),
            "line 3: -j without its value",
        ),
        (
            table("nat", ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]", "-A KUBE-SVC-AAAAAAAAAAAAAAAA ! -s"),
            "-s without its value",
        ),
        (
            table("nat", ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]", "-A KUBE-SVC-AAAAAAAAAAAAAAAA -m"),
            "-m without its value",
        ),
        (
            table(
                "nat",
                ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]",
                '-A KUBE-SVC-AAAAAAAAAAAAAAAA -m comment --comment "a',
            ),
            "a quote that does not end",
        ),
        (
            table(
                "nat",
                ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]",
                r'-A KUBE-SVC-AAAAAAAAAAAAAAAA -m comment --comment "a\"',
            ),
            "a quote that does not end",
        ),
        (
            table("nat", ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]", "-A KUBE-SVC-AAAAAAAAAAAAAAAA -s fd00::/8"),
            "fd00::/8 in a rule of iptables",
        ),
        (
            table("nat", ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]", "-I KUBE-SVC-AAAAAAAAAAAAAAAA 2 -j DROP"),
            "rule 2 of KUBE-SVC-AAAAAAAAAAAAAAAA, which has 0",
        ),
        (table("nat", "-I OUTPUT 0 -j KUBE-SVC-AAAAAAAAAAAAAAAA"), "rules are counted from 1"),
    ],
)
def test_malformed(text: str, problem: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse(text, "ip")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_tool_of_the_family_is_named() -> None:
    with pytest.raises(Malformed, match=r"ip6tables-save, line 3: 10\.0\.0\.0/8 in a rule of ip6tables"):
        parse(
            table("nat", ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]", "-A KUBE-SVC-AAAAAAAAAAAAAAAA -s 10.0.0.0/8"),
            "ip6",
        )


@given(st.text(max_size=200))
def test_law_any_text_is_read_or_refused(text: str) -> None:
    for whole in (
        text,
        table("nat", ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]", f"-A KUBE-SVC-AAAAAAAAAAAAAAAA {text}"),
        table("filter", f"-I INPUT {text}"),
    ):
        _read_or_refuse(whole, "ip")


PIECES = r"""
! -s -d -i -o -p -f -m -j -g -A -I " \ / : [ ] + -1 १
*nat *raw COMMIT KUBE-SVC-AAAAAAAAAAAAAAAA KUBE-BY-A OUTPUT tcp mark recent statistic comment random
--comment --mark --dport --mode --probability --seconds --reap --name --rsource --to-destination
0.00000000000 0.00000000047 DNAT 1.2.3.4:80 [::1]:80 10.0.0.1/32 10.0.0.1/33 0.0.0.0/0 fd00::/8 0x1/0x2
4294967296
"""
pieces = st.sampled_from([*PIECES.split(), "\n", ""])


@given(st.lists(pieces, max_size=20), st.sampled_from(FAMILIES))
def test_law_any_words_are_read_or_refused(words: list[str], family: o.Family) -> None:
    text = " ".join(words)
    for whole in (
        text,
        table("nat", ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]", f"-A KUBE-SVC-AAAAAAAAAAAAAAAA {text}"),
        table("filter", f"-A INPUT {text}"),
    ):
        _read_or_refuse(whole, family)


@given(programs("ip"), st.integers(0, 1 << 20), st.text(max_size=3))
def test_law_a_damaged_text_is_read_or_refused(program: dict[Key, object], at: int, instead: str) -> None:
    text = show(program)
    at %= len(text) + 1
    _read_or_refuse(text[:at] + instead + text[at + 3 :], "ip")
    # Cut off within a table it is never taken for a smaller program.
    cut = text[:at]
    if at < len(text) - 1 and cut.rfind("\n*") > cut.rfind("\nCOMMIT"):
        with pytest.raises(Malformed):
            parse(cut, "ip")


def _read_or_refuse(text: str, family: o.Family) -> None:
    try:
        found = parse(text, family)
    except Malformed:
        return
    for key in found:
        assert key.plane == o.PLANE
        assert key.kind in o.KINDS
    show(found)


# --- in one line ----------------------------------------------------------------------------


def test_changes_are_told_in_one_line() -> None:
    services, jump = o.rules_key("ip", "nat", "KUBE-SERVICES"), o.jump_key("ip6", "nat", "OUTPUT", 1)
    to = rule(to=o.Jump("KUBE-SERVICES"))
    assert (
        describe(Change("set", services, o.Rules(), o.Rules()), {})
        == "change rules KUBE-SERVICES of nat (ip)"
    )
    asked = rule(o.InSet("KUBE-LOOP-BACK", ("dst", "dst", "src"), invert=True), to=o.Return())
    branch = o.branch_key("ip", "mangle", "KUBE-BY-X", asked)
    assert describe(Change("add", branch, None, asked), {}) == (
        "add branch KUBE-BY-X !set KUBE-LOOP-BACK dst,dst,src of mangle: "
        "-m set ! --match-set KUBE-LOOP-BACK dst,dst,src -j RETURN (ip)"
    )
    assert describe(Change("add", jump, None, to), {}) == "add jump OUTPUT 1 of nat: -j KUBE-SERVICES (ip6)"
    assert (
        describe(Change("del", jump, to, None), {}) == "delete jump OUTPUT 1 of nat: -j KUBE-SERVICES (ip6)"
    )
