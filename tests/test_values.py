"""
Addresses, prefixes and their text: what is printed is read back, and nothing else is read.
"""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.values import (
    Ip,
    Prefix,
    disjoint,
    family_of,
    host_prefix,
    parse_ip,
    parse_prefix,
    show_addr,
    show_ip,
)

ips = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    ip = draw(st.sampled_from(["10.0.0.0", "10.1.2.3", "192.168.0.1", "fd00::", "fd00::1:2"]))
    bits = 32 if "." in ip else 128
    return parse_prefix(f"{ip}/{draw(st.integers(0, bits))}")


@given(ips)
def test_what_is_shown_is_read_back(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    ip = parse_ip(str(address))
    mapped = getattr(address, "ipv4_mapped", None)
    assert ip == (mapped or address).packed
    assert parse_ip(show_ip(ip)) == ip
    assert family_of(ip) == (4 if len(ip) == 4 else 6)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        ip = parse_ip(text)
    except ValueError:
        return
    assert len(ip) in (4, 16)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("010.000.0.041", "10.0.0.41"),  # read as decimal, as Kubernetes reads it
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("FD00:0:0::1", "fd00::1"),
    ],
)
def test_addresses_have_one_text(text: str, shown: str) -> None:
    assert show_ip(parse_ip(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0",
        "10.0.0.256",
        "10.0.0.1.2",
        "+1.0.0.1",
        "1_0.0.0.1",
        " 1.0.0.1",
        "٣.0.0.1",
        "fe80::1%eth0",
        "::g",
    ],
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        parse_ip(text)


@pytest.mark.parametrize(
    "text", ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "/8", "fd00::/129", "10.0.0.0/ 8"]
)
def test_what_is_no_prefix_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"CIDR|length|address"):
        parse_prefix(text)


@given(prefixes(), ips)
def test_a_prefix_holds_what_the_standard_library_says(
    prefix: Prefix, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    network = ipaddress.ip_network(str(prefix))
    ip = Ip(address.packed)
    assert prefix.holds(ip) == (address in network)
    assert prefix.last == network.broadcast_address.packed


@given(st.lists(prefixes(), max_size=8))
def test_disjoint_prefixes_hold_the_same_and_do_not_overlap(given_: list[Prefix]) -> None:
    kept = disjoint(given_)
    assert all(any(k.covers(p) for k in kept) for p in given_)
    assert set(kept) <= set(given_)
    assert not any(a != b and a.covers(b) for a in kept for b in kept)


def test_an_address_with_its_port() -> None:
    assert show_addr(parse_ip("10.0.0.1"), 80) == "10.0.0.1:80"
    assert show_addr(parse_ip("fd00::1"), 80) == "[fd00::1]:80"
    assert str(host_prefix(parse_ip("fd00::1"))) == "fd00::1/128"
