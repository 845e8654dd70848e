"""Which changes leave a set without rules; that the kernel is waited for then is seen in tests/kernel."""

from __future__ import annotations

import pytest

from kubeway.planes.xtables import objects as o
from kubeway.planes.xtables.letgo import let_go, wait
from kubeway.planes.xtables.lower import Place
from kubeway.planes.xtables.sets import named
from kubeway.program.program import Change
from kubeway.wire import nftables as nf
from kubeway.wire.netlink import messages
from tests.planes.xtprograms import rule

SVC, BY = "KUBE-SVC-AAAAAAAAAAAAAAAA", "KUBE-BY-SET"
RULES = o.rules_key("ip", "mangle", SVC)
A, B = (rule(o.Comment("of a set"), o.InSet(name, ("dst",)), to=o.Return()) for name in "AB")
BRANCH = o.branch_key("ip6", "nat", BY, A)
HERE, THERE = Place("ip", "mangle", SVC), Place("ip6", "nat", BY)


def test_rules_name_sets() -> None:
    both = rule(o.InSet("C", ("dst",)), o.InSet("D", ("src",), invert=True))
    assert list(named(o.Rules((A, rule(to=o.Return()), both)))) == ["A", "C", "D"]
    assert [list(named(thing)) for thing in (B, o.Chain(), o.Rules(), None)] == [["B"], [], [], []]


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ([], None),
        ([Change("add", RULES, None, o.Rules((A,)))], None),
        ([Change("del", o.chain_key("ip", "mangle", SVC), o.Chain(), None)], None),
        ([Change("del", RULES, o.Rules((rule(to=o.Return()),)), None)], None),
        ([Change("del", RULES, o.Rules((A,)), None)], HERE),
        ([Change("del", BRANCH, A, None)], THERE),
        ([Change("set", RULES, o.Rules((A, B)), o.Rules((B, A)))], None),
        ([Change("set", RULES, o.Rules((A, B)), o.Rules((A,)))], HERE),
        # Asked for elsewhere from now on, be that told before or after.
        ([Change("del", BRANCH, A, None), Change("set", RULES, o.Rules(), o.Rules((A,)))], None),
        ([Change("set", RULES, o.Rules(), o.Rules((A,))), Change("del", BRANCH, A, None)], None),
    ],
)
def test_who_asks_no_more(changes: list[Change], place: Place | None) -> None:
    assert let_go(changes) == place


def test_all_is_taken_back_by_a_last_message_that_is_refused() -> None:
    told = [m.kind & 0xFF for m in messages(b"".join(wait(HERE)))]
    assert told == [nf.NEWTABLE, nf.NEWCHAIN, nf.NEWRULE, nf.DELRULE]
