"""What the links of a node are to the relay, as this kernel tells of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kubeway.model.links import Links, Neighbours
from kubeway.shell.addresses import local_addresses
from kubeway.shell.surroundings import Surroundings, has_ipv6
from kubeway.values import Prefix, parse_prefix
from tests.kernel.netns import inside, ip, needs_root

pytestmark = [pytest.mark.kernel, needs_root]

BRIDGES_ASK = Path("/proc/sys/net/bridge")
NOTHING = Links()


def prefixes(*texts: str) -> tuple[Prefix, ...]:
    return tuple(map(parse_prefix, texts))


def look(one: Surroundings) -> Links:
    return one.look(local_addresses())


def heard(one: Surroundings) -> bool:
    """By now: the kernel tells before the change is done."""
    return one.heard()


@contextmanager
def bridge(name: str = "br0") -> Iterator[None]:
    ip(f"link add {name} type bridge")
    ip(f"link set {name} up")
    yield
    ip(f"link del {name}")


def ask(*values: int) -> None:
    """Whether all bridges of this namespace ask the rules, of IPv4 and IPv6."""
    for name, value in zip(("iptables", "ip6tables"), values, strict=True):
        if BRIDGES_ASK.exists():
            (BRIDGES_ASK / f"bridge-nf-call-{name}").write_text(str(value))


def test_the_first_bridge_is_heard_of_and_told() -> None:
    def work() -> None:
        with closing(Surroundings()) as one:
            assert look(one) == NOTHING
            one.heard()
            ip("link add a0 type veth peer name b0")
            ip("addr add 10.9.9.1/24 dev a0")
            assert not heard(one)
            with bridge():
                assert heard(one)
                assert not heard(one)
                assert look(one).bridged == BRIDGES_ASK.exists()
                ip("addr add 10.244.1.1/24 dev br0")
                assert heard(one)
            assert heard(one)
            assert look(one) == NOTHING

    inside(work)


def test_who_is_on_a_bridge_that_asks_nobody() -> None:
    def work() -> None:
        with closing(Surroundings()) as one, bridge(), bridge("br1"):
            ask(0, 0)
            ip("link add a0 type veth peer name b0")
            for words in (
                "link set a0 up",
                "addr add 10.244.1.1/24 dev br0",
                "addr add 10.244.7.1/32 dev br0",
                "route add 10.244.7.9/32 dev br0",
                "route add 10.244.1.64/26 dev a0",
                "route add 10.244.1.77/32 dev a0",
                "route add 10.244.1.128/26 via 10.244.1.2",
                "route add 10.244.1.192/26 dev br0",
                "route add 10.9.0.0/16 via 10.244.1.2",
                "addr add fd00:1::1/64 dev br1 nodad",
            ):
                ip(words)
            four, six = look(one).neighbours
            own = ("10.244.1.1/32", "10.244.1.64/26", "10.244.1.128/26")
            assert four == Neighbours(parse_prefix("10.244.1.0/24"), prefixes(*own))
            assert six == Neighbours(parse_prefix("fd00:1::/64"), prefixes("fd00:1::1/128"))
            if not BRIDGES_ASK.exists():
                return
            ask(1, 0)
            assert look(one).neighbours == (six,)
            ask(0, 1)
            assert look(one).neighbours == (four,)
            ask(0, 0)
            ip("link set br0 type bridge nf_call_iptables 1")
            assert look(one).neighbours == (six,)

    inside(work)


@pytest.mark.parametrize("where", ["lo", "all"])
def test_where_loopback_has_no_ipv6(where: str) -> None:
    def work() -> None:
        with closing(Surroundings()) as one:
            assert has_ipv6()
            one.heard()
            setting = Path(f"/proc/sys/net/ipv6/conf/{where}/disable_ipv6")
            setting.write_text("1")
            assert heard(one)
            assert look(one).families == {4}
            setting.write_text("0")
            assert look(one).families == {4, 6}
            # The kernel gives loopback its address again when it comes up anew; the route needs none.
            ip("-6 route add local default dev lo table 117")

    inside(work)


@pytest.mark.parametrize("where", ["all", "a0"])
def test_where_senders_are_checked_with_the_mark(where: str) -> None:
    def work() -> None:
        with closing(Surroundings()) as one:
            ip("link add a0 type veth peer name b0")
            assert not look(one).marks_checked
            Path(f"/proc/sys/net/ipv4/conf/{where}/src_valid_mark").write_text("1")
            assert look(one).marks_checked

    inside(work)
