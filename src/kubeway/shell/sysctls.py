"""
Brings the kernel's connection tracking to what is wanted, once, before the first sync.

It knows files below `/proc/sys` and `/sys`; which of them, and to what value, says
`model/conntrack`. A file that holds the right value is not written, so that whoever
may not write (a proxy with CAP_NET_ADMIN alone, a read-only `/proc/sys`) can be
spared the right to by setting the values beforehand, as `--init-only` does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from kubeway.errors import Unsupported
from kubeway.model.conntrack import ConntrackSettings, buckets, count_cores, limit, wanted
from kubeway.records import Recorder, SysctlSet

PROC: Final = Path("/proc/sys/net/netfilter")
HASHSIZE: Final = Path("/sys/module/nf_conntrack/parameters/hashsize")
_ONLINE: Final = Path("/sys/devices/system/cpu/online")

# Which flag leaves a setting alone, for the person who must do without.
_FLAGS: Final = {
    "nf_conntrack_max": "--conntrack-max-per-core=0",
    "hashsize": "--conntrack-max-per-core=0",
    "nf_conntrack_tcp_timeout_established": "--conntrack-tcp-timeout-established=0",
    "nf_conntrack_tcp_timeout_close_wait": "--conntrack-tcp-timeout-close-wait=0",
    "nf_conntrack_tcp_be_liberal": "--conntrack-tcp-be-liberal=false",
    "nf_conntrack_udp_timeout": "--conntrack-udp-timeout=0",
    "nf_conntrack_udp_timeout_stream": "--conntrack-udp-timeout-stream=0",
}


def set_conntrack(
    settings: ConntrackSettings,
    record: Recorder,
    *,
    cores: int | None = None,
    proc: Path = PROC,
    hashsize: Path = HASHSIZE,
) -> None:
    """See to it that the kernel holds what `settings` ask for (kube-proxy: at start, any failure fatal).

    Unsupported, with the setting, its value and the flag that leaves it alone, if
    one neither holds its value nor can be given it. Call it when nf_conntrack is
    loaded: having made a `Conntrack` is enough.
    """
    number = machine_cores() if cores is None else cores
    for name, value in wanted(settings, number):
        path = proc / name
        was = _read(path)
        if was != value:
            _write(path, value, was, record)
    if flows := limit(settings, number):
        # Not `!=`: a table larger than need be is nobody's harm, and shrinking one costs all lookups.
        least, was = buckets(flows), _read(hashsize)
        if was is not None and was < least:
            _write(hashsize, least, was, record)


def is_liberal(proc: Path = PROC) -> bool:
    """Whether the kernel lets TCP packets outside the window by as part of their flow, whoever told it to."""
    try:
        return int((proc / "nf_conntrack_tcp_be_liberal").read_text()) != 0
    except (OSError, ValueError):
        return False


def machine_cores(online: Path = _ONLINE) -> int:
    """All cores of the machine, not those this process may use: the flow table is the machine's."""
    try:
        return max(1, count_cores(online.read_text()))
    except (OSError, ValueError):
        return os.cpu_count() or 1


def _read(path: Path) -> int | None:
    """The number in a file; None if it holds none. Unsupported if there is no such file."""
    try:
        return int(path.read_text())
    except FileNotFoundError:
        raise Unsupported(
            f"{path}: there is no such setting; load nf_conntrack (modprobe nf_conntrack), "
            f"or leave it alone with {_FLAGS[path.name]}"
        ) from None
    except (OSError, ValueError):
        return None


def _write(path: Path, value: int, was: int | None, record: Recorder) -> None:
    try:
        path.write_text(str(value))
    except OSError as error:
        held = "cannot be read" if was is None else f"is {was}"
        raise Unsupported(
            f"{path}: cannot be set to {value} ({held}): {error.strerror}; run privileged, "
            f"set it beforehand, or leave it alone with {_FLAGS[path.name]}"
        ) from None
    record(SysctlSet(str(path), value, was))
