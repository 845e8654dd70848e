"""
What connection tracking is wanted to be: which kernel settings, to what value.

`ConntrackSettings` is what was asked for, `wanted` what follows for a machine with
so many cores. It knows the names of the settings, and need not know how they are
read or written, or that other sysctls exist.

Two things differ from kube-proxy, both so that what is asked for is what one gets:

- `min` is a floor even above the cap. kube-proxy's cap of 1048576 wins over a larger
  `min`, but only on machines with enough cores to reach the cap; the same settings
  give *less* on the larger machine.
- A timeout under a second is one second. kube-proxy cuts it to 0 and writes that, and
  a timeout of 0 has every flow forgotten at once.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from msgspec import Struct

CAP: Final = 1_048_576
"""The cores of a machine do not raise the limit above this: a full table of a million flows is 300 MB."""

FLOWS_PER_BUCKET: Final = 4


class ConntrackSettings(Struct, frozen=True, kw_only=True):
    """What was asked for; the defaults are kube-proxy's. Timeouts are seconds; 0 leaves the kernel's."""

    max_per_core: int = 32_768  # 0: leave the limit alone, whatever `min` says
    min: int = 131_072
    tcp_established_timeout: float = 86_400.0
    tcp_close_wait_timeout: float = 3_600.0
    tcp_be_liberal: bool = False  # False leaves the kernel's; it is never reset
    udp_timeout: float = 0.0
    udp_stream_timeout: float = 0.0


class Setting(NamedTuple):
    """A file under `net/netfilter`, and the number it shall hold."""

    name: str
    value: int


def limit(settings: ConntrackSettings, cores: int) -> int:
    """How many flows may be tracked; 0: as many as the kernel has it."""
    if settings.max_per_core <= 0:
        return 0
    return max(min(settings.max_per_core * cores, CAP), settings.min)


def buckets(flows: int) -> int:
    """The least number of hash buckets for a limit of so many flows: more per bucket make lookups slow."""
    return flows // FLOWS_PER_BUCKET


def wanted(settings: ConntrackSettings, cores: int) -> tuple[Setting, ...]:
    """The settings to be seen to, in kube-proxy's order. Those not named are left as they are."""
    timeouts = (
        ("nf_conntrack_tcp_timeout_established", settings.tcp_established_timeout),
        ("nf_conntrack_tcp_timeout_close_wait", settings.tcp_close_wait_timeout),
        ("nf_conntrack_udp_timeout", settings.udp_timeout),
        ("nf_conntrack_udp_timeout_stream", settings.udp_stream_timeout),
    )
    tcp = [Setting(name, max(1, int(seconds))) for name, seconds in timeouts[:2] if seconds > 0]
    udp = [Setting(name, max(1, int(seconds))) for name, seconds in timeouts[2:] if seconds > 0]
    most = limit(settings, cores)
    return (
        *([Setting("nf_conntrack_max", most)] if most else []),
        *tcp,
        *([Setting("nf_conntrack_tcp_be_liberal", 1)] if settings.tcp_be_liberal else []),
        *udp,
    )


def count_cores(online: str) -> int:
    """How many cores `/sys/devices/system/cpu/online` names: `0-3,8` are five. ValueError if it is none."""
    count = 0
    for span in online.strip().split(","):
        first, _, last = span.partition("-")
        count += int(last or first) - int(first) + 1
    return count
