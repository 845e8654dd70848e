from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given

from kubeway.planes.ipset.describe import describe, show_set
from kubeway.planes.ipset.objects import ENTRY, HASH_IP, HASH_IP_PORT, Set, entry_key, set_key
from kubeway.planes.ipset.text import show
from kubeway.program.program import Change
from kubeway.shell.dialects import describe as told
from kubeway.values import TCP, V4, V6, parse_ip, parse_prefix
from tests.planes.ipsets import Program, every_construct, programs

GOLDEN = Path(__file__).parent.parent / "golden" / "ipset"


def test_program_is_the_golden_text() -> None:
    golden = GOLDEN / "every-construct.save"
    text = show(every_construct())
    if os.environ.get("KUBEWAY_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


def test_the_families_are_the_whole() -> None:
    program = every_construct()
    ip, ip6 = show(program, "ip").splitlines(), show(program, "ip6").splitlines()
    assert sorted(ip + ip6) == sorted(show(program).splitlines())
    assert all(("-6-" in line) == (line in ip6) for line in ip + ip6)
    assert "create KUBEWAY-6-NODE-PORT-UDP bitmap:port range 0-65535" in ip6
    assert show({}) == ""


@given(programs())
def test_each_object_has_a_line_of_its_own_and_order_does_not_matter(program: Program) -> None:
    lines = show(program).splitlines()
    assert len(set(lines)) == len(program)
    assert show(dict(reversed(program.items()))).splitlines() == lines


def test_changes_in_words() -> None:
    name, vip = "KUBE-CLUSTER-IP", parse_ip("10.96.0.9")
    add = Change("add", entry_key(name, vip, TCP, 80), None, ENTRY)
    assert told(add, {}) == "add entry KUBE-CLUSTER-IP 10.96.0.9,tcp:80"
    source = entry_key("KUBEWAY-6-A", parse_ip("fd00::1"), 47, 0, parse_prefix("2001:db8::/32"))
    assert describe(Change("del", source, ENTRY, None), {}) == (
        "delete entry KUBEWAY-6-A fd00::1,47:0,2001:db8::/32"
    )
    assert describe(Change("del", entry_key("KUBEWAY-A", 80), ENTRY, None), {}) == "delete entry KUBEWAY-A 80"
    other = Change("set", set_key(name), Set("hash:net", V4), Set(HASH_IP_PORT, V4))
    assert told(other, {}) == "change set KUBE-CLUSTER-IP from hash:net of IPv4 to hash:ip,port of IPv4"
    assert describe(Change("add", set_key(name), None, Set(HASH_IP, V6)), {}) == "add set KUBE-CLUSTER-IP"
    assert show_set(Set("bitmap:port", 0)) == "bitmap:port"
