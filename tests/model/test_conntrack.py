"""What connection tracking is wanted to be, for what was asked and so many cores."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.model.conntrack import CAP, ConntrackSettings, Setting, buckets, count_cores, limit, wanted


@pytest.mark.parametrize(
    ("per_core", "least", "cores", "flows"),
    [
        (32_768, 131_072, 2, 131_072),  # the floor
        (32_768, 131_072, 4, 131_072),  # equal
        (32_768, 131_072, 8, 262_144),  # by the cores
        (32_768, 131_072, 32, CAP),
        (32_768, 131_072, 64, CAP),  # capped
        (32_768, 2 * CAP, 2, 2 * CAP),  # a floor above the cap, few cores: as kube-proxy
        (32_768, 2 * CAP, 64, 2 * CAP),  # and many: kube-proxy would give CAP
        (32_768, 0, 2, 65_536),
        (0, 131_072, 8, 0),  # 0 per core: the limit is left alone, the floor too
    ],
)
def test_the_limit(per_core: int, least: int, cores: int, flows: int) -> None:
    assert limit(ConntrackSettings(max_per_core=per_core, min=least), cores) == flows


@given(st.integers(1, 1 << 20), st.integers(0, 1 << 22), st.integers(1, 512))
def test_more_cores_never_mean_less(per_core: int, least: int, cores: int) -> None:
    settings = ConntrackSettings(max_per_core=per_core, min=least)
    assert least <= limit(settings, cores) <= limit(settings, cores + 1)


def test_the_defaults_of_kube_proxy() -> None:
    assert wanted(ConntrackSettings(), 8) == (
        Setting("nf_conntrack_max", 262_144),
        Setting("nf_conntrack_tcp_timeout_established", 86_400),
        Setting("nf_conntrack_tcp_timeout_close_wait", 3_600),
    )


def test_everything_asked_for() -> None:
    settings = ConntrackSettings(
        max_per_core=1,
        min=1,
        tcp_established_timeout=7200.9,
        tcp_close_wait_timeout=60,
        tcp_be_liberal=True,
        udp_timeout=30,
        udp_stream_timeout=180,
    )
    assert wanted(settings, 1) == (
        Setting("nf_conntrack_max", 1),
        Setting("nf_conntrack_tcp_timeout_established", 7200),
        Setting("nf_conntrack_tcp_timeout_close_wait", 60),
        Setting("nf_conntrack_tcp_be_liberal", 1),
        Setting("nf_conntrack_udp_timeout", 30),
        Setting("nf_conntrack_udp_timeout_stream", 180),
    )


def test_nothing_asked_for() -> None:
    settings = ConntrackSettings(max_per_core=0, tcp_established_timeout=0, tcp_close_wait_timeout=0)
    assert wanted(settings, 8) == ()


def test_a_timeout_under_a_second_is_a_second_and_not_none() -> None:
    settings = ConntrackSettings(max_per_core=0, tcp_established_timeout=0.4, tcp_close_wait_timeout=0)
    assert wanted(settings, 8) == (Setting("nf_conntrack_tcp_timeout_established", 1),)


def test_four_flows_to_a_bucket() -> None:
    assert buckets(131_072) == 32_768


@pytest.mark.parametrize(
    ("text", "count"), [("0\n", 1), ("0-3\n", 4), ("0-3,8\n", 5), ("1,3,5-6", 4), ("0-127,256-383\n", 256)]
)
def test_cores_are_counted(text: str, count: int) -> None:
    assert count_cores(text) == count


@pytest.mark.parametrize("text", ["", "a-b", "0,"])
def test_what_names_no_cores(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        count_cores(text)
