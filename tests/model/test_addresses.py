"""Which addresses no object may send to or capture (CVE-2021-25737)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.model.addresses import is_link_local, is_loopback, refusal
from kubeway.values import parse_ip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("127.0.0.1", "loopback address"),
        ("127.255.3.4", "loopback address"),
        ("0.0.0.0", "unspecified address"),
        ("0.1.2.3", "unspecified address"),
        ("169.254.169.254", "link-local address"),
        ("169.253.0.1", ""),
        ("169.255.0.1", ""),
        ("224.0.0.1", "multicast address"),
        ("239.255.255.255", "multicast address"),
        ("255.255.255.255", "broadcast address"),
        ("10.244.1.1", ""),
        ("223.255.255.255", ""),
        ("::1", "loopback address"),
        ("::", "unspecified address"),
        ("::2", ""),
        ("fe80::1", "link-local address"),
        ("febf:ffff::1", "link-local address"),
        ("fec0::1", ""),
        ("ff02::1", "multicast address"),
        ("fd00::1", ""),
        # An IPv4 address in IPv6's clothes is that IPv4 address.
        ("::ffff:127.0.0.1", "loopback address"),
    ],
)
def test_refusal(text: str, reason: str) -> None:
    assert refusal(parse_ip(text)) == reason


@given(st.ip_addresses())
def test_agrees_with_the_standard_library(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    raw = parse_ip(str(ip))
    known = ipaddress.ip_address(raw)
    this_network = known.version == 4 and raw[0] == 0
    broadcast = str(known) == "255.255.255.255"
    refused = known.is_loopback or known.is_link_local or known.is_multicast or known.is_unspecified
    assert bool(refusal(raw)) == (refused or this_network or broadcast)
    assert is_loopback(raw) == known.is_loopback
    assert is_link_local(raw) == (known.version == 6 and known.is_link_local)
