"""Which virtual servers are ours, of those that nobody wants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from kubeway.modes.chains.entries import put
from kubeway.modes.ipvs import sets
from kubeway.planes.ipset.objects import ENTRY, Set, entry_key, set_key
from kubeway.program.program import Key, Object
from kubeway.shell.ipvs_ours import ServersOfOurs
from kubeway.values import PROTOS, Ip, parse_ip, parse_prefix

TCP, UDP, SCTP = PROTOS["TCP"], PROTOS["UDP"], PROTOS["SCTP"]
NODE, OTHER, VIP = "203.0.113.10", "192.168.7.10", "10.96.0.9"


class Kernel:
    """Its sets, and the addresses on the link."""

    def __init__(self, *addresses: str) -> None:
        self.objects: dict[Key, Object] = {set_key("KUBE-CLUSTER-IP"): Set("hash:ip,port", 4)}
        self.addresses = [parse_ip(text) for text in addresses]

    def put(self, name: str, *fields: object, family: int = 4) -> Kernel:
        put(self.objects, family, name, *fields)
        return self

    def read_now(self) -> Mapping[Key, Object]:
        return self.objects

    def bound(self) -> Iterable[Ip]:
        return self.addresses


def ours(kernel: Kernel, text: str, proto: int = TCP, port: int = 80, exclude: Iterable[str] = ()) -> bool:
    own = [parse_ip(NODE), parse_ip("2001:db8:1::10")]
    asked = ServersOfOurs(kernel, kernel, lambda: own, map(parse_prefix, exclude))
    return asked()(parse_ip(text), proto, port)


def test_what_is_at_an_address_on_the_link_is_ours_whatever_the_port() -> None:
    kernel = Kernel(VIP, "fd00:10:96::9")
    assert ours(kernel, VIP, port=4711)
    assert ours(kernel, "fd00:10:96::9", UDP)
    assert not ours(kernel, "10.96.0.10")


def test_what_is_at_an_excluded_address_is_not() -> None:
    kernel = Kernel(VIP).put(sets.CLUSTER_IP, parse_ip(VIP), TCP, 80)
    assert ours(kernel, VIP, exclude=["10.97.0.0/16"])
    assert not ours(kernel, VIP, exclude=["10.97.0.0/16", "10.96.0.0/24"])


@pytest.mark.parametrize(
    "name",
    [
        sets.CLUSTER_IP,
        sets.EXTERNAL_IP,
        sets.EXTERNAL_IP_LOCAL,
        sets.LOAD_BALANCER,
        sets.NODE_PORT[SCTP],
    ],
)
@pytest.mark.parametrize(("text", "family"), [(OTHER, 4), ("2001:db8:77::1", 6)])
def test_what_a_set_of_ways_in_has_is_ours(name: str, text: str, family: int) -> None:
    """A way in at an address of the node's own, which is not on the link."""
    kernel = Kernel().put(name, parse_ip(text), SCTP, 80, family=family)
    assert ours(kernel, text, SCTP)
    assert not ours(kernel, text, TCP)
    assert not ours(kernel, text, SCTP, 81)


def test_node_ports_are_ours_at_the_node_s_addresses() -> None:
    kernel = Kernel().put(sets.NODE_PORT[TCP], 30080).put(sets.NODE_PORT[UDP], 30053, family=6)
    assert ours(kernel, NODE, TCP, 30080)
    assert not ours(kernel, NODE, UDP, 30080)
    assert not ours(kernel, OTHER, TCP, 30080)
    assert not ours(kernel, "2001:db8:1::10", TCP, 30080)
    assert ours(kernel, "2001:db8:1::10", UDP, 30053)


def test_sets_that_say_something_else_tell_nothing() -> None:
    kernel = Kernel().put(sets.FIREWALLED, parse_ip(VIP), TCP, 80)
    kernel.put(sets.LOOP_BACK, parse_ip(VIP), TCP, 80, parse_ip(VIP)).put(sets.HEALTH_CHECK, 80)
    kernel.objects[entry_key("SOMEBODYS", parse_ip(VIP), TCP, 80)] = ENTRY
    assert not ours(kernel, VIP)
    assert not ours(kernel, NODE)


def test_it_looks_anew_each_time() -> None:
    kernel = Kernel()
    asked = ServersOfOurs(kernel, kernel, list)
    before = asked()
    kernel.addresses.append(parse_ip(VIP))
    assert not before(parse_ip(VIP), TCP, 80)
    assert asked()(parse_ip(VIP), TCP, 80)
