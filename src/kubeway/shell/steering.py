"""
What leads packets to the relay on this node: rules of nf_tables, or of xtables with ipset.

nf_tables where the kernel has it with all that the rules need, as one transaction changes everything there;
the legacy tables where it has not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple

from kubeway.errors import KubewayError, Unsupported
from kubeway.model.node import Steering
from kubeway.planes.xtables.objects import Family
from kubeway.shell import ipset_plane, nft, xtables_lock, xtables_tools
from kubeway.shell.privilege import need_net_raw
from kubeway.shell.relay import replies
from kubeway.shell.xtables_kernel import KernelTables

NFT: Final = "nft"
XTABLES: Final = "xtables"

_TABLE: Final = "mangle"
_NEEDED: Final = (
    ("match", "socket"),
    ("match", "connmark"),
    ("match", "set"),
    ("target", "TPROXY"),
    ("target", "CONNMARK"),
)


_BRIDGES: Final = Path("/proc/sys/net/bridge")
_ASKING: Final = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")


class Choice(NamedTuple):
    """`why` is what a log line says of it."""

    by: Literal["nft", "xtables"]
    why: str


def choose(asked: Steering, workers: int = 1) -> Choice:
    """What this kernel has, or what is `asked` for. Unsupported, with all that is missing, if that cannot be.

    Needs CAP_NET_ADMIN, and may load modules.
    """
    relay = replies.probe()
    by_nft = ""
    if asked != XTABLES:
        by_nft = nft.probe_steering() or (nft.probe_spreading() if workers > 1 else "")
    if asked == NFT or not (by_nft or asked == XTABLES):
        _need(by_nft, relay)
        return Choice(NFT, _asked_for(asked) or "this kernel has all that they need")
    by_xtables = "; ".join(filter(None, (ipset_plane.probe(), probe_xtables())))
    if by_xtables:
        _need(by_nft, f"and by xtables: {by_xtables}" if by_nft else by_xtables, relay)
    _need(relay)
    return Choice(XTABLES, _asked_for(asked) or by_nft)


def _asked_for(asked: Steering) -> str:
    return "" if asked == "auto" else "asked for by --kubeway-steering"


def _need(*missing: str) -> None:
    if any(missing):
        raise Unsupported(f"mode userspace: {'; '.join(filter(None, missing))}")


def probe_xtables() -> str:
    """What is missing for legacy rules that hand packets to sockets, in one sentence; "" if nothing is.

    Asked of IPv4: a node may do without the other.
    """
    try:
        need_net_raw()
        xtables_lock.need()
        tools: dict[Family, xtables_tools.Tools] = {
            family: xtables_tools.find(family) for family in ("ip", "ip6")
        }
        # The tool knows how to have the kernel load its tables.
        _, failed = xtables_tools.run([tools["ip"].save, "-t", _TABLE], timeout=60)
        if failed:
            return f"{tools['ip'].save}: {failed.words or f'status {failed.status}'}"
        return _lacking()
    except KubewayError as error:
        return str(error)


def asking(directory: Path = _BRIDGES) -> tuple[str, ...]:
    """The settings that are on by which packets on bridges pass the rules (br_netfilter)."""
    found = [name for name in _ASKING if _is_on(directory / name)]
    return tuple(f"net.bridge.{name}" for name in found)


def _is_on(setting: Path) -> bool:
    try:
        return setting.read_text().strip() != "0"
    except OSError:
        return False  # there is no br_netfilter


def _lacking() -> str:
    tables = KernelTables()
    has: dict[str, Callable[[Family, str], bool]] = {"match": tables.has_match, "target": tables.has_target}
    try:
        for kind, name in _NEEDED:
            if not has[kind]("ip", name):
                return f"this kernel's iptables have no {kind} {name} (module xt_{name})"
    finally:
        tables.close()
    return ""
