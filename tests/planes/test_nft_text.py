"""
A program in nft's words.

Every construct stands once in `phrases` as nft's own words beside the instructions,
and nft itself is the judge: what we print it loads, and then lists as we printed it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kubeway.planes.nft.build import host32, load, row
from kubeway.planes.nft.fields import width
from kubeway.planes.nft.objects import (
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
    Table,
    Tproxy,
    chain_key,
    element_key,
    rules_key,
    set_key,
    table_key,
)
from kubeway.planes.nft.text import show, show_element, show_rule
from kubeway.planes.nft.words import show_comment, show_time
from kubeway.program.program import Key
from kubeway.values import parse_ip

GOLDEN = Path(__file__).parent.parent / "golden" / "nft"
FAMILIES: tuple[Family, ...] = ("ip", "ip6")
TCP, UDP, SCTP = b"\x06", b"\x11", b"\x84"
Exprs = tuple[Expr, ...]


def port(number: int) -> bytes:
    return number.to_bytes(2, "big")


def way_in(family: Family) -> tuple[str, ...]:
    return (f"{family} daddr", "meta l4proto", "th dport")


def flow(family: Family) -> tuple[str, ...]:
    return (f"{family} saddr", *way_in(family))


def sets(family: Family) -> dict[str, Set]:
    end = (f"{family} daddr", "th dport")
    slot = "numgen random mod 65536"
    return {
        "services": Set(way_in(family), verdicts=True, comment="ways in"),
        "nodeports": Set(("meta l4proto", "th dport"), verdicts=True, size=1000, comment="by port"),
        "bytcp": Set((f"{family} daddr", "th dport"), verdicts=True, size=1000),
        "endpoints": Set((*way_in(family), slot), end, size=100),
        "slots": Set((*way_in(family), slot), ("meta priority",)),
        "sticky": Set((*way_in(family), "meta priority"), end),
        "affinity": Set(
            flow(family),
            ("meta priority",),
            dynamic=True,
            timeout=10_800_000,
            size=65536,
            comment="who went where",
        ),
        "clients": Set((f"{family} saddr",), ("meta priority",), dynamic=True, timeout=90_000, size=10),
        "allowed": Set((*way_in(family), f"{family} saddr"), ranges=True, comment="sources"),
        "ranges": Set((f"{family} daddr",), ranges=True),
        "hairpin": Set(flow(family), size=100),
        "shares": Set((slot,), verdicts=True),
    }


def addresses(family: Family) -> tuple[Exprs, Exprs]:
    """The instructions that load the source, and the destination."""
    return load((f"{family} saddr",)), load((f"{family} daddr",))


def words(family: Family) -> dict[str, Exprs]:
    """Rules that differ by family in their words alone, IP standing for it."""
    way, end = load(way_in(family)), load(flow(family))
    size = 1 if family == "ip" else 4
    slot = width(way_in(family)) // 4
    data = width(flow(family)) // 4
    client, target = addresses(family)
    bits, zero = host32(0x4000), bytes(4)
    mark, priority = Meta(0, "mark"), Meta(0, "priority")
    ones = host32(0xFFFFFFFF)
    tcp = (Meta(0, "l4proto"), Cmp(0, "==", TCP))
    dport = (Payload(0, "transport", 2, 2), Cmp(0, "==", port(80)))
    return {
        "IP daddr . meta l4proto . th dport vmap @services": (*way, Lookup(0, "services", "verdict")),
        "meta l4proto . th dport vmap @nodeports": (
            *load(("meta l4proto", "th dport")),
            Lookup(0, "nodeports", "verdict"),
        ),
        "dnat IP to IP daddr . meta l4proto . th dport . numgen random mod 5 map @endpoints": (
            *(*way, Numgen(slot, 5), Lookup(0, "endpoints", 0)),
            Dnat(0, size),
        ),
        "dnat IP to IP daddr . meta l4proto . th dport . numgen random mod 2 offset 32768 map @endpoints": (
            *(*way, Numgen(slot, 2, 32768), Lookup(0, "endpoints", 0)),
            Dnat(0, size),
        ),
        "dnat IP to IP daddr . meta l4proto . th dport . meta priority map @sticky": (
            *(*way, Meta(slot, "priority"), Lookup(0, "sticky", 0)),
            Dnat(0, size),
        ),
        "meta priority set IP daddr . meta l4proto . th dport . numgen random mod 2 map @slots": (
            *(*way, Numgen(slot, 2), Lookup(0, "slots", 0)),
            MetaSet(0, "priority"),
        ),
        "meta priority set IP saddr . IP daddr . meta l4proto . th dport map @affinity": (
            *(*end, Lookup(0, "affinity", 0)),
            MetaSet(0, "priority"),
        ),
        "update @affinity { IP saddr . IP daddr . meta l4proto . th dport timeout 3h : meta priority }": (
            *(*end, Meta(data, "priority")),
            Dynset("update", "affinity", 0, data, 10_800_000),
        ),
        "delete @affinity { IP saddr . IP daddr . meta l4proto . th dport : meta priority }": (
            *(*end, Meta(data, "priority")),
            Dynset("delete", "affinity", 0, data),
        ),
        "update @clients { IP saddr timeout 1m30s : meta priority }": (
            *(*client, Meta(4, "priority")),
            Dynset("update", "clients", 0, 4, 90_000),
        ),
        "IP saddr . IP daddr . meta l4proto . th dport @hairpin masquerade fully-random": (
            *(*end, Lookup(0, "hairpin")),
            Masquerade(),
        ),
        "IP daddr . meta l4proto . th dport . IP saddr != @allowed drop": (
            *(*load((*way_in(family), f"{family} saddr")), Lookup(0, "allowed", None, True)),
            Drop(),
        ),
        "IP daddr @ranges return": (*target, Lookup(0, "ranges"), Return()),
        "IP daddr != @ranges goto more": (*target, Lookup(0, "ranges", None, True), Goto("more")),
        "meta mark set meta mark | 0x00004000": (
            *(mark, Bitwise(0, host32(0xFFFFBFFF), bits)),
            MetaSet(0, "mark"),
        ),
        "meta mark & 0x00004000 != 0x00000000 meta mark set meta mark ^ 0x00004000 masquerade fully-random": (
            *(mark, Bitwise(0, bits, zero), Cmp(0, "!=", zero)),
            *(mark, Bitwise(0, ones, bits), MetaSet(0, "mark"), Masquerade()),
        ),
        "meta mark & 0x00004000 == 0x00004000 accept": (
            *(mark, Bitwise(0, bits, zero), Cmp(0, "==", bits)),
            Accept(),
        ),
        "meta mark set meta mark & 0xff01ffff | 0x00010000": (
            *(mark, Bitwise(0, host32(0xFF00FFFF), host32(0x10000))),
            MetaSet(0, "mark"),
        ),
        "meta mark set meta mark & 0x0f0f0f0f ^ 0x00000101": (
            *(mark, Bitwise(0, host32(0x0F0F0F0F), host32(0x101))),
            MetaSet(0, "mark"),
        ),
        "meta mark set meta mark & 0xffffbfff": (
            *(mark, Bitwise(0, host32(0xFFFFBFFF), zero)),
            MetaSet(0, "mark"),
        ),
        "meta mark set 0x00000007": (Immediate(0, host32(7)), MetaSet(0, "mark")),
        "meta mark != 0x00000007 accept": (mark, Cmp(0, "!=", host32(7)), Accept()),
        "meta priority & f000:0 == b000:0 accept": (
            *(priority, Bitwise(0, host32(0xF0000000), zero), Cmp(0, "==", host32(0xB0000000))),
            Accept(),
        ),
        "meta priority & f000:0 != none accept": (
            *(priority, Bitwise(0, host32(0xF0000000), zero), Cmp(0, "!=", zero)),
            Accept(),
        ),
        "meta priority b000:1 accept": (priority, Cmp(0, "==", host32(0xB0000001)), Accept()),
        "meta priority none accept": (priority, Cmp(0, "==", zero), Accept()),
        "meta priority set none": (Immediate(0, zero), MetaSet(0, "priority")),
        "meta priority set b000:1": (Immediate(0, host32(0xB0000001)), MetaSet(0, "priority")),
        "meta priority set meta priority & fff:ffff": (
            *(priority, Bitwise(0, host32(0x0FFFFFFF), zero)),
            MetaSet(0, "priority"),
        ),
        "meta priority set jhash IP saddr mod 3 seed 0xdeadbeef": (
            *(*client, Hash(0, 0, 4 * size, 3, 0xDEADBEEF), MetaSet(0, "priority")),
        ),
        "meta l4proto udp jhash IP saddr mod 2 seed 0x1 vmap @shares": (
            *(Meta(0, "l4proto"), Cmp(0, "==", UDP)),
            *(*client, Hash(0, 0, 4 * size, 2, 1), Lookup(0, "shares", "verdict")),
        ),
        "meta priority set numgen random mod 3": (Numgen(0, 3), MetaSet(0, "priority")),
        "fib saddr type local goto more": (Fib(0, "saddr"), Cmp(0, "==", host32(2)), Goto("more")),
        "fib daddr type != local jump more": (Fib(0, "daddr"), Cmp(0, "!=", host32(2)), Jump("more")),
        "ct state new accept": (
            *(Ct(0, "state"), Bitwise(0, host32(8), zero), Cmp(0, "!=", zero)),
            Accept(),
        ),
        "ct state established,related accept": (
            *(Ct(0, "state"), Bitwise(0, host32(6), zero), Cmp(0, "!=", zero)),
            Accept(),
        ),
        "ct state == new accept": (Ct(0, "state"), Cmp(0, "==", host32(8)), Accept()),
        "ct status dnat accept": (
            *(Ct(0, "status"), Bitwise(0, host32(32), zero), Cmp(0, "!=", zero)),
            Accept(),
        ),
        "ct status ! dnat accept": (
            *(Ct(0, "status"), Bitwise(0, host32(32), zero), Cmp(0, "==", zero)),
            Accept(),
        ),
        "ct status & dnat == dnat accept": (
            *(Ct(0, "status"), Bitwise(0, host32(32), zero), Cmp(0, "==", host32(32))),
            Accept(),
        ),
        "ct mark & 0x00004000 != 0x00000000 accept": (
            *(Ct(0, "mark"), Bitwise(0, bits, zero), Cmp(0, "!=", zero)),
            Accept(),
        ),
        "ct mark 0x00000007 accept": (Ct(0, "mark"), Cmp(0, "==", host32(7)), Accept()),
        "ct mark set ct mark | 0x00004000": (
            *(Ct(0, "mark"), Bitwise(0, host32(0xFFFFBFFF), bits)),
            CtSet(0, "mark"),
        ),
        "ct mark set 0x00000007": (Immediate(0, host32(7)), CtSet(0, "mark")),
        "ct mark set meta mark": (mark, CtSet(0, "mark")),
        'ct direction reply meta iifkind "bridge" accept': (
            *(Ct(0, "direction"), Cmp(0, "==", b"\1")),
            *(Meta(0, "iifkind"), Cmp(0, "==", b"bridge".ljust(16, b"\0")), Accept()),
        ),
        "IP daddr set ct original IP saddr": (CtOriginal(0), SetDaddr(0)),
        "tcp flags != syn / syn,ack accept": (
            *(Meta(0, "l4proto"), Cmp(0, "==", b"\x06")),
            *(Payload(0, "transport", 13, 1), Bitwise(0, b"\x12", b"\0"), Cmp(0, "!=", b"\x02")),
            Accept(),
        ),
        "socket transparent 1 accept": (SocketTransparent(0), Cmp(0, "==", b"\1"), Accept()),
        "socket transparent 0 accept": (SocketTransparent(0), Cmp(0, "==", b"\0"), Accept()),
        'iifname "cni0" accept': (
            *(Meta(0, "iifname"), Cmp(0, "==", b"cni0".ljust(16, b"\0"))),
            Accept(),
        ),
        'iifname != "veth*" accept': (Meta(0, "iifname"), Cmp(0, "!=", b"veth"), Accept()),
        'iifname "odd\\*" accept': (
            *(Meta(0, "iifname"), Cmp(0, "==", b"odd*".ljust(16, b"\0"))),
            Accept(),
        ),
        "tcp dport 80 reject": (*tcp, *dport, Reject()),
        "IP daddr . tcp dport vmap @bytcp": (
            *(*tcp, *load((f"{family} daddr", "th dport"))),
            Lookup(0, "bytcp", "verdict"),
        ),
        "meta l4proto udp reject": (Meta(0, "l4proto"), Cmp(0, "==", UDP), Reject()),
        "meta l4proto tcp meta mark set 0x00000007 tcp dport 80 drop": (
            *(*tcp, Immediate(0, host32(7)), MetaSet(0, "mark")),
            *(*dport, Drop()),
        ),
        "meta l4proto != tcp th dport 80 drop": (
            *(Meta(0, "l4proto"), Cmp(0, "!=", TCP)),
            *(*dport, Drop()),
        ),
        "sctp sport 80 drop": (
            *(Meta(0, "l4proto"), Cmp(0, "==", SCTP)),
            *(Payload(0, "transport", 0, 2), Cmp(0, "==", port(80)), Drop()),
        ),
        "return": (Return(),),
    }


def phrases(family: Family) -> dict[str, Exprs]:
    """Every construct of one family: nft's words, and the instructions they stand for."""
    told = {text.replace("IP", family): exprs for text, exprs in words(family).items()}
    tcp = (Meta(0, "l4proto"), Cmp(0, "==", TCP))
    if family == "ip":
        return told | {
            "ip saddr != 10.244.0.0/16 drop": (
                *(Payload(0, "network", 12, 2), Cmp(0, "!=", b"\x0a\xf4")),
                Drop(),
            ),
            "ip daddr 172.16.0.0/12 drop": (
                *(Payload(0, "network", 16, 4), Bitwise(0, b"\xff\xf0\0\0", bytes(4))),
                *(Cmp(0, "==", b"\xac\x10\0\0"), Drop()),
            ),
            "ip daddr & 255.0.255.0 == 10.0.1.0 drop": (
                *(Payload(0, "network", 16, 4), Bitwise(0, b"\xff\0\xff\0", bytes(4))),
                *(Cmp(0, "==", b"\x0a\0\x01\0"), Drop()),
            ),
            "ip saddr 10.0.0.1 drop": (
                *(Payload(0, "network", 12, 4), Cmp(0, "==", parse_ip("10.0.0.1"))),
                Drop(),
            ),
            "meta l4proto tcp dnat to 10.0.0.1:80": (
                *(*tcp, Immediate(0, parse_ip("10.0.0.1")), Immediate(1, port(80))),
                Dnat(0, 1),
            ),
            "ip daddr set 192.0.0.8": (Immediate(0, parse_ip("192.0.0.8")), SetDaddr(0)),
            "meta l4proto tcp tproxy to 127.0.0.1:7001 accept": (
                *(*tcp, Immediate(0, parse_ip("127.0.0.1")), Immediate(1, port(7001))),
                *(Tproxy(0, 1), Accept()),
            ),
        }
    return told | {
        "ip6 saddr != fd00:1::/32 drop": (
            *(Payload(0, "network", 8, 4), Cmp(0, "!=", bytes.fromhex("fd000001"))),
            Drop(),
        ),
        "ip6 daddr fd00:1:8000::/33 drop": (
            *(Payload(0, "network", 24, 16), Bitwise(0, b"\xff\xff\xff\xff\x80" + bytes(11), bytes(16))),
            *(Cmp(0, "==", parse_ip("fd00:1:8000::")), Drop()),
        ),
        "ip6 saddr fd00::1 drop": (
            *(Payload(0, "network", 8, 16), Cmp(0, "==", parse_ip("fd00::1"))),
            Drop(),
        ),
        "meta l4proto tcp dnat to [fd00::1]:80": (
            *(*tcp, Immediate(0, parse_ip("fd00::1")), Immediate(4, port(80))),
            Dnat(0, 4),
        ),
        "ip6 daddr set 100::1": (Immediate(0, parse_ip("100::1")), SetDaddr(0)),
        "meta l4proto tcp tproxy to [::1]:7001 accept": (
            *(*tcp, Immediate(0, parse_ip("::1")), Immediate(4, port(7001))),
            *(Tproxy(0, 4), Accept()),
        ),
    }


def is_loadable(text: str) -> bool:
    """nft 1.0.6 aborts on a map statement whose key is over 16 bytes; it only lists such rules."""
    return not (text.startswith(("update", "delete")) and "ip6 saddr ." in text)


CHAINS = {
    "a-dnat": Chain("nat", "prerouting", -100),
    "b-output": Chain("nat", "output", -100),
    "c-masquerade": Chain("nat", "postrouting", 100),
    "d-input": Chain("filter", "input"),
    "e-early": Chain("filter", "prerouting", -110),
    "f-output": Chain("filter", "output", -110, "before translation"),
    "g-forward": Chain("filter", "forward", 10),
    "h-odd": Chain("filter", "prerouting", -311),
    "i-first": Chain("filter", "prerouting", -(1 << 31)),
    "j-route": Chain("route", "output", -150),
    "more": Chain(comment="a chain"),
    "everything": Chain(),
}


def elements(family: Family) -> list[tuple[str, bytes, Element]]:
    v4 = family == "ip"
    one, two = (parse_ip(text) for text in (("10.0.0.1", "10.0.0.2") if v4 else ("fd00::1", "fd00::2")))
    web = row(one, TCP, port(80))
    pairs = (
        [("1.1.1.1",) * 2, ("10.0.0.0", "10.255.255.255"), ("192.168.0.1", "192.168.0.7")]
        if v4
        else [("fd00::1",) * 2, ("fd01::", "fd01::ffff:ffff:ffff:ffff"), ("fd02::1", "fd02::7")]
    )
    ends = [(parse_ip(low), parse_ip(high)) for low, high in pairs]
    return [
        ("services", web, Element(Goto("more"))),
        ("services", row(one, UDP, port(53)), Element(Drop(), comment="no endpoints")),
        ("services", row(two, SCTP, port(53)), Element(Jump("more"))),
        ("services", row(two, b"\xff", port(53)), Element(Return())),
        ("services", row(two, UDP, port(53)), Element(Accept())),
        ("nodeports", row(TCP, port(30000)), Element(Goto("more"), comment="shop/cart:http")),
        *(("endpoints", row(web, host32(n)), Element(row(two, port(8080 + n)))) for n in (0, 1, 256)),
        ("slots", row(web, host32(0)), Element(host32(0xB0000001))),
        *(
            ("sticky", row(web, host32(n)), Element(row(two, port(8080))))
            for n in (0, 1, 0x10000, 0xB000000A, 0xFFFFFFFF)
        ),
        *(("ranges", low, Element(end=high)) for low, high in ends),
        *(("allowed", row(web, low), Element(end=row(web, high))) for low, high in ends),
        ("hairpin", row(one, one, TCP, port(8080)), Element()),
        *(("shares", host32(n), Element(Goto("more"))) for n in (0, 1, 256)),
    ]


def program(family: Family) -> dict[Key, object]:
    """A program of every construct that nft can load."""
    rules = tuple(Rule(exprs) for text, exprs in phrases(family).items() if is_loadable(text))
    return {
        table_key(family): Table("every construct"),
        **{set_key(family, name): held for name, held in sets(family).items()},
        **{chain_key(family, name): chain for name, chain in CHAINS.items()},
        rules_key(family, "more"): Rules((Rule((Accept(),), "it's (so): {a}"),)),
        rules_key(family, "everything"): Rules(rules),
        **{element_key(family, name, key): element for name, key, element in elements(family)},
    }


# --- without a kernel -----------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "text"), [(family, text) for family in FAMILIES for text in phrases(family)]
)
def test_rule_is_told_in_these_words(family: Family, text: str) -> None:
    assert show_rule(Rule(phrases(family)[text]), program(family), family) == text


@pytest.mark.parametrize("family", FAMILIES)
def test_program_is_the_golden_text(family: Family) -> None:
    golden = GOLDEN / f"every-construct.{family}.nft"
    text = show(program(family))
    if os.environ.get("KUBEWAY_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


def test_both_families_follow_each_other_and_one_can_be_asked_for() -> None:
    both = {**program("ip6"), **program("ip")}
    assert show(both) == show(both, "ip") + "\n" + show(both, "ip6")
    assert show(both, "ip6") == show(program("ip6"))
    assert show({}) == show(program("ip"), "ip6") == ""


def test_order_of_objects_does_not_show() -> None:
    objects = program("ip")
    assert show(dict(reversed(objects.items()))) == show(objects)


def test_slots_stand_in_order_of_their_number() -> None:
    lines = [line for line in show(program("ip")).splitlines() if "10.0.0.1 . tcp . 80 . " in line]
    slots = [line for line in lines if ": 10.0.0.2 . 8" in line and ":" not in line.split(" : ")[0]]
    assert [line.split(" . ")[3].split(" : ")[0] for line in slots][:3] == ["0", "1", "256"]


def test_element_alone() -> None:
    held = sets("ip")
    web = row(parse_ip("10.0.0.1"), TCP, port(80))
    assert show_element(web, Element(Goto("pick-5")), held["services"]) == "10.0.0.1 . tcp . 80 : goto pick-5"
    everyone = Element(end=row(web, b"\xff" * 4))
    assert show_element(row(web, bytes(4)), everyone, held["allowed"]) == "10.0.0.1 . tcp . 80 . 0.0.0.0/0"
    # As long as a prefix, but it does not begin where one could.
    skewed = Element(end=parse_ip("10.0.0.4"))
    assert show_element(parse_ip("10.0.0.1"), skewed, held["ranges"]) == "10.0.0.1-10.0.0.4"


def test_rule_of_somebody_else_is_shown_but_not_loaded() -> None:
    rule = Rule((Fib(0, "saddr"), Cmp(0, "==", host32(2)), Foreign("counter"), Drop()), "mine")
    assert show_rule(rule, {}, "ip") == '# fib saddr type local [counter] drop comment "mine"'
    # An instruction of ours over registers nobody loaded says nothing in nft's words either.
    assert show_rule(Rule((Cmp(0, "==", b"\0"), Drop())), {}, "ip") == "# [cmp] drop"
    # A set that is not there gives no width to its key.
    unknown = Rule((*load(way_in("ip")), Lookup(0, "services", "verdict")))
    assert show_rule(unknown, {}, "ip") == "# [lookup]"


def test_a_register_is_forgotten_when_it_is_written_over() -> None:
    exprs: Exprs = (*load(("ip saddr", "ip daddr")), Meta(1, "mark"), Cmp(1, "==", host32(1)), Drop())
    assert show_rule(Rule(exprs), {}, "ip") == "meta mark 0x00000001 drop"
    # The interface name fills four registers; what lay in them is gone, and so is it when one is written.
    exprs = (*load(("ip saddr", "ip daddr")), Meta(0, "iifname"), Cmp(1, "==", bytes(4)), Drop())
    assert show_rule(Rule(exprs), {}, "ip") == "# [cmp] drop"


def test_parts_of_a_program_are_shown_too() -> None:
    objects: dict[Key, object] = {
        rules_key("ip", "pick"): Rules((Rule((Drop(),)),)),
        element_key("ip", "services", b"12345678"): Element(Drop()),
        set_key("ip", "odd"): Alien("a set of\nsomebody's"),
    }
    text = show(objects)
    assert "chain pick {\n\t\tdrop" in text
    assert "# 1 elements of services, which is not listed" in text
    assert "# not kubeway's: a set of somebody's" in text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0s"), (1, "1ms"), (90_000, "1m30s"), (10_800_000, "3h"), (93_600_500, "1d2h500ms")],
)
def test_times(milliseconds: int, text: str) -> None:
    assert show_time(milliseconds) == text


def test_a_comment_cannot_end_itself() -> None:
    assert show_comment('a "b"\nc') == " comment \"a 'b' c\""
    assert show_comment("") == ""


# --- nft as the judge -------------------------------------------------------------

needs_nft = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nft, to load rules in a namespace"
)


def nft_lists(text: str, family: Family) -> str:
    """What nft lists after it loaded `text` into a namespace of its own, which ends with it."""
    script = f"nft -f - && nft list table {family} kubeway"
    run = subprocess.run(
        ["unshare", "-n", "sh", "-c", script], input=text, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def blocks(listing: str) -> dict[str, list[str]]:
    """Each set's and chain's lines by its first line, elements apart and in order."""
    found: dict[str, list[str]] = {}
    inner: list[str] = []
    for line in (" ".join(line.split()) for line in listing.splitlines()):
        if line.startswith(("map ", "set ", "chain ", "table ")) and line.endswith("{"):
            inner = found.setdefault(line, [])
        elif line and line != "}":
            inner.append(line)
    return {head: _elements_apart(lines) for head, lines in found.items()}


def _elements_apart(lines: list[str]) -> list[str]:
    joined = " ".join(lines)
    if "elements = {" not in joined:
        return lines
    head, _, rest = joined.partition("elements = {")
    return [head, *sorted(part.strip() for part in rest.removesuffix("}").split(","))]


@pytest.mark.kernel
@needs_nft
@pytest.mark.parametrize("family", FAMILIES)
def test_nft_lists_what_we_show(family: Family) -> None:
    text = show(program(family))
    assert blocks(nft_lists(text, family)) == blocks(text)


@pytest.mark.kernel
@needs_nft
def test_nft_passes_over_what_cannot_be_told() -> None:
    objects = program("ip")
    objects[rules_key("ip", "more")] = Rules((Rule((Foreign("limit"), Drop())), Rule((Return(),))))
    objects[chain_key("ip", "strange")] = Alien("a chain")
    listed = blocks(nft_lists(show(objects), "ip"))
    assert listed["chain more {"] == ['comment "a chain"', "return"]
