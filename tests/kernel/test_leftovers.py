"""What a kube-proxy left is seen, and what of it is ours to remove goes."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from kubeway.records import LeftoversSeen
from kubeway.shell.leftovers import iptables_leftovers, remove_kube_proxy_tables
from tests.kernel.netns import inside, needs_root, nft

pytestmark = [pytest.mark.kernel, needs_root]


@pytest.mark.parametrize(
    ("rules", "families"),
    [
        ("", []),
        ("table ip nat { chain KUBE-SERVICES { }; }", ["ip"]),
        ("table ip6 nat { chain KUBE-SERVICES { }; }", ["ip6"]),
        (
            "table ip nat { chain KUBE-SERVICES { }; }\ntable ip6 nat { chain KUBE-SERVICES { }; }",
            ["ip", "ip6"],
        ),
        ("table ip nat { chain KUBE-SERVICES-2 { }; }", []),
        ("table ip nat { chain DOCKER { }; }", []),
        ("table ip others { chain KUBE-SERVICES { }; }", []),
        ("table inet nat { chain KUBE-SERVICES { }; }", []),
        ("table ip kube-proxy { chain services { }; }", []),
    ],
)
def test_rules_of_iptables_mode_are_seen_by_their_chain(rules: str, families: list[str]) -> None:
    def work() -> list[str]:
        nft(rules)
        return iptables_leftovers()

    assert inside(work) == families


@pytest.mark.skipif(not shutil.which("iptables-nft"), reason="iptables-nft is not installed")
def test_what_iptables_writes_is_seen_until_it_is_gone() -> None:
    def iptables(command: str) -> None:
        subprocess.run(["iptables-nft", "-t", "nat", *command.split()], check=True)

    def work() -> list[list[str]]:
        found = [iptables_leftovers()]
        iptables("-N KUBE-SERVICES")
        iptables("-A PREROUTING -j KUBE-SERVICES")
        found.append(iptables_leftovers())
        iptables("-F PREROUTING")
        iptables("-X KUBE-SERVICES")
        return [*found, iptables_leftovers()]

    assert inside(work) == [[], ["ip"], []]


def test_tables_of_nftables_mode_go_and_no_others() -> None:
    def work() -> tuple[list[str], list[str], str]:
        nft("table ip kube-proxy { chain c { }; }\ntable ip others { chain c { }; }")
        first, again = remove_kube_proxy_tables(), remove_kube_proxy_tables()
        left = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout
        return first, again, left

    assert inside(work) == (["ip"], [], "table ip others\n")


def test_what_is_seen_is_said_in_one_line() -> None:
    told = str(LeftoversSeen(("ip", "ip6")))
    assert "\n" not in told
    assert "(ip, ip6)" in told
    assert "kube-proxy --cleanup" in told
