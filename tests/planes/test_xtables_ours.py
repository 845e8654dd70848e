"""
Which chains and jumps are taken for a service proxy's, and which are left to others.
"""

from __future__ import annotations

import pytest

from kubeway.planes.xtables import objects as o
from kubeway.planes.xtables.ours import is_held, is_our_jump, is_ours
from kubeway.planes.xtables.text import parse
from kubeway.values import parse_prefix
from tests.planes.xtprograms import rule


@pytest.mark.parametrize(
    ("table", "chain", "ours"),
    [
        ("nat", "KUBE-SERVICES", True),
        ("filter", "KUBE-SERVICES", True),
        ("mangle", "KUBE-SERVICES", False),
        ("nat", "KUBE-SVC-ERIFXISQEP7F7OF4", True),
        ("nat", "KUBE-SEP-ERIFXISQEP7F7OF4", True),
        ("nat", "KUBE-SVC-short", False),
        ("nat", "KUBE-BY-SERVICE", True),
        ("mangle", "KUBE-PROXY-CANARY", True),
        # kubelet's
        ("mangle", "KUBE-KUBELET-CANARY", False),
        ("mangle", "KUBE-IPTABLES-HINT", False),
        ("nat", "KUBE-MARK-DROP", False),
        ("filter", "KUBE-FIREWALL", False),
        # network plugins'
        ("filter", "KUBE-ROUTER-INPUT", False),
        ("filter", "KUBE-NWPLCY-ERIFXISQEP7F7OF4", False),
        ("filter", "KUBE-POD-FW-ERIFXISQEP7F7OF4", False),
        ("nat", "CNI-HOSTPORT-SETMARK", False),
    ],
)
def test_chains(table: str, chain: str, ours: bool) -> None:
    assert is_ours(table, chain) == ours


def test_the_shared_chain_is_an_object_but_not_ours() -> None:
    assert is_held("filter", "KUBE-FIREWALL")
    assert not is_held("nat", "KUBE-FIREWALL")


def test_a_jump_under_conditions_is_somebody_elses_use_of_our_chains() -> None:
    to = o.Jump("KUBE-SERVICES")
    assert is_our_jump("nat", rule(o.CtState(("NEW",)), o.Comment("portals"), to=to))
    assert is_our_jump("nat", rule(to=to))
    assert not is_our_jump("nat", rule(o.Source(parse_prefix("10.0.0.0/8")), to=to))
    assert not is_our_jump("nat", rule(to=o.Jump("DOCKER")))


def test_of_the_shared_chain_only_our_rule_is_read() -> None:
    text = """*filter
:INPUT ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
-A INPUT -j KUBE-ROUTER-INPUT
-A INPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" \
-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
COMMIT
"""
    assert parse(text, "ip") == {
        o.chain_key("ip", "filter", "KUBE-FIREWALL"): o.Chain(),
        o.jump_key("ip", "filter", "KUBE-FIREWALL", 1): o.MARTIANS,
        o.jump_key("ip", "filter", "INPUT", 1): rule(to=o.Jump("KUBE-FIREWALL")),
    }
