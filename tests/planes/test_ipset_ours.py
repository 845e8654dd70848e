from __future__ import annotations

import pytest

from kubeway.planes.ipset.ours import KUBE_PROXYS, is_ipv6, is_ours, name_for
from kubeway.values import V4, V6
from kubeway.wire.ipset import NAME_LENGTH


def test_kube_proxys_sets_are_ours_in_both_families() -> None:
    for name in KUBE_PROXYS:
        six = name_for(name, V6)
        assert name_for(name, V4) == name
        assert is_ours(name)
        assert is_ours(six)
        assert len(six) <= NAME_LENGTH
        assert (is_ipv6(name), is_ipv6(six)) == (False, True)


def test_long_names_are_cut_as_kube_proxy_cuts_them() -> None:
    assert name_for("KUBE-LOOP-BACK", V6) == "KUBE-6-LOOP-BACK"
    assert name_for("KUBE-LOAD-BALANCER-SOURCE-CIDR", V6) == "KUBE-6-LOAD-BALANCER-SOURCE-CID"
    assert name_for("KUBE-NODE-PORT-LOCAL-SCTP-HASH", V6) == "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS"
    assert name_for("KUBEWAY-X", V6) == "KUBEWAY-6-X"


@pytest.mark.parametrize(
    "name",
    [
        "KUBE-SRC-SLZX6FR2LLR7F4BF",
        "KUBE-DST-VAFLUPU7I7ALNC5Y",
        "KUBE-",
        "KUBE-CLUSTER-IPS",
        "kubeway-a",
        "KUBEWAY",
        "",
    ],
)
def test_the_sets_of_others_are_not(name: str) -> None:
    assert not is_ours(name)


def test_what_begins_with_our_own_name_is_ours() -> None:
    assert is_ours("KUBEWAY-ANEW")
    assert is_ours("KUBEWAY-6-X")
