"""Rules counted as they are read and written."""

from __future__ import annotations

from hypothesis import given

from kubeway.modes.iptables import IPTABLES
from kubeway.planes.xtables import objects as o
from kubeway.planes.xtables.tally import Tally
from kubeway.program.link import Linker
from kubeway.program.plan import diff
from kubeway.program.program import Change, Key, Object
from tests.worlds import World, worlds

SVC = o.rules_key("ip", "nat", "KUBE-SVC-AAAAAAAAAAAAAAAA")
RULE = o.Rule((), o.Accept())


def program(w: World) -> dict[Key, Object]:
    linker = Linker()
    linker.update({(): IPTABLES.base(w.view)})
    linker.update({(f.name, f.family): IPTABLES.fragment(f, w.view) for f in w.forwards})
    return dict(linker.objects)


def test_a_rule_counts_where_it_stands() -> None:
    tally = Tally()
    branch = o.branch_key("ip6", "filter", "KUBE-BY-HEALTH", RULE)
    there = {SVC: o.Rules((RULE, RULE)), branch: RULE}
    # What stands in chains of others is not counted, nor are chains and what other planes hold.
    other = {
        o.jump_key("ip", "nat", "OUTPUT", 1): RULE,
        o.chain_key("ip", "nat", SVC.name[2]): o.Chain(),
        Key("sysctl", "value", ("x",)): object(),
    }
    tally.wrote(diff({}, {**there, **other}))
    assert tally.there == tally.written == {("ip", "nat"): 2, ("ip6", "filter"): 1}
    tally.wrote([Change("set", SVC, o.Rules((RULE, RULE)), o.Rules((RULE,) * 5))])
    assert tally.there["ip", "nat"] == 5
    assert tally.written["ip", "nat"] == 7
    tally.wrote([Change("del", SVC, o.Rules((RULE,) * 5), None)])
    assert (tally.there["ip", "nat"], tally.written["ip", "nat"]) == (0, 7)


@given(worlds(), worlds())
def test_counting_what_is_written_is_counting_what_is_there(a: World, b: World) -> None:
    before, after = program(a), program(b)
    followed, fresh = Tally(), Tally()
    followed.read(before)
    followed.wrote(diff(before, after))
    fresh.read(after)
    assert +followed.there == +fresh.there
