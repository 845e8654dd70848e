"""Events of the kernel, heard by a socket that does not wait: of links, addresses and routes."""

from __future__ import annotations

import subprocess
from contextlib import closing

import pytest

from kubeway.errors import Lost, Unsupported
from kubeway.planes.link.news import GROUPS
from kubeway.shell.netlink_events import NetlinkEvents
from kubeway.wire import rtnetlink as rt
from tests.kernel.netns import inside, ip, needs_root

pytestmark = [pytest.mark.kernel, needs_root]


def test_events_come_in_order_and_once() -> None:
    def work() -> None:
        with closing(NetlinkEvents(rt.NETLINK_ROUTE, GROUPS)) as events:
            assert list(events.heard()) == []
            ip("address add 10.9.0.1/32 dev lo")
            ip("address del 10.9.0.1/32 dev lo")
            heard = list(events.heard())
            assert [m.kind for m in heard] == [20, 24, 21, 25]
            # An address is told with who gave it; the route that the kernel makes of it is nobody's.
            assert [m.port != 0 for m in heard] == [True, False, True, False]
            assert list(events.heard()) == []

    inside(work)


def test_the_sieve_lets_through_what_it_has_to() -> None:
    def work() -> None:
        with closing(NetlinkEvents(rt.NETLINK_ROUTE, GROUPS, rt.only_routes_of(rt.RT_TABLE_LOCAL))) as events:
            ip("link add eth0 type veth peer name eth1")
            ip("link set eth0 up")
            ip("address add 192.0.2.1/24 dev eth0")
            list(events.heard())
            ip("route add 198.51.100.0/24 dev eth0")
            ip("route add 198.51.101.0/24 dev eth0 table 77")
            ip("-6 route add 2001:db8::/64 dev lo")
            assert list(events.heard()) == []
            ip("route add local 198.51.100.1/32 dev eth0 table local")
            ip("-6 route add local 2001:db8::1/128 dev lo table local")
            ip("route del local 198.51.100.1/32 dev eth0 table local")
            ip("address add 192.0.2.2/32 dev eth0")
            ip("link set eth0 mtu 1400")
            assert [m.kind for m in events.heard()][:5] == [24, 24, 25, 20, 24]

    inside(work)


def test_what_was_too_much_is_lost_and_then_it_goes_on() -> None:
    def work() -> None:
        with closing(NetlinkEvents(rt.NETLINK_ROUTE, GROUPS)) as events:
            lines = "".join(f"address add 10.9.{n >> 8}.{n & 255}/32 dev lo\n" for n in range(20_000))
            subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)
            with pytest.raises(Lost, match="events were lost: No buffer space"):
                list(events.heard())
            list(events.heard())
            ip("address del 10.9.0.1/32 dev lo")
            assert [m.kind for m in events.heard()] == [21, 25]

    inside(work)


def test_a_protocol_the_kernel_does_not_know_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="no netlink protocol 31"):
        NetlinkEvents(31, 1)
