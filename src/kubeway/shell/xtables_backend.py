"""
Which part of the kernel this node's iptables rules are in: nf_tables, or the legacy tables.

Whoever writes them must write to the same, or rules run in an order that nobody meant. Agents agree by
what kubelet made: it has the right tool, and leaves a chain by which others can tell. Looking loads no
module, makes no table, and needs none of the tools.

Source: github.com/kubernetes-sigs/iptables-wrappers (pkg/xtables/detect.go, and of version 2 the count of
rules); pkg/kubelet/kubelet_network_linux.go.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from kubeway.errors import BadInput, Refused
from kubeway.planes.xtables.objects import FAMILIES, Family, TableName
from kubeway.shell import xtables_kernel, xtables_tools
from kubeway.shell.netlink import NetlinkSocket
from kubeway.shell.ruleset import ABSENT, has_chain, is_there
from kubeway.shell.xtables_kernel import KernelTables
from kubeway.shell.xtables_tools import BackEnd
from kubeway.wire import nftables as wire
from kubeway.wire.netlink import text

_HINTS: Final = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")
_HINT_TABLE: Final = "mangle"
_TABLES: Final = ("nat", "filter", "mangle", "raw", "security")
"""Those that iptables-nft makes, the fullest first."""

_RULE_TABLE: Final = 1

_WORDS: Final[dict[str, BackEnd]] = {"nf_tables": "nf_tables", "nft": "nf_tables", "legacy": "legacy"}


Present = Mapping[Family, Sequence[TableName]]


class Choice(NamedTuple):
    """`why` is what a log line says of it."""

    back_end: BackEnd
    why: str


def forced(word: str, by: str) -> Choice:
    """The back end that somebody asks for, as `nf_tables`, `nft` or `legacy`; `by` is where. BadInput."""
    if word not in _WORDS:
        raise BadInput(f"{by}: {word!r} is no back end of iptables: there are nf_tables and legacy")
    return Choice(_WORDS[word], f"asked for by {by}")


def detect() -> Choice:
    """The back end this node uses, as far as it can be told. Needs CAP_NET_ADMIN.

    Who may not read the list of legacy tables, which is root's, may not write them either: to them these
    tables are none.
    """
    if not is_there():
        return Choice("legacy", "this kernel has no nf_tables")
    tables = KernelTables()
    try:
        with NetlinkSocket() as netlink:
            present = _present()
            if present is None:
                return _without_legacy(netlink)
            return (
                _kubelet_in_nf_tables(netlink)
                or _kubelet_in_legacy(tables, present)
                or _more_rules(netlink, tables, present)
                or _tool()
            )
    finally:
        tables.close()


def _present() -> Present | None:
    """The legacy tables of each family; None if we may not ask."""
    try:
        return {family: xtables_kernel.present(family) for family in FAMILIES}
    except Refused as error:
        if error.errno != errno.EACCES:
            raise
        return None


def _without_legacy(netlink: NetlinkSocket) -> Choice:
    choice = _kubelet_in_nf_tables(netlink)
    if choice is None and _rules_in_nf_tables(netlink, enough=1):
        choice = Choice("nf_tables", "nf_tables holds iptables' rules")
    back_end, why = choice or _tool()
    return Choice(back_end, f"{why}; only root can see what the legacy tables hold")


def _kubelet_in_nf_tables(netlink: NetlinkSocket) -> Choice | None:
    for family in FAMILIES:
        for chain in _HINTS:
            if has_chain(netlink, family, _HINT_TABLE, chain):
                return Choice("nf_tables", _kubelet_has(chain, _HINT_TABLE, family, "nf_tables"))
    return None


def _kubelet_in_legacy(tables: KernelTables, present: Present) -> Choice | None:
    """Kubelet's canary is in every table, and may have been lost in one of them."""
    for family, names in present.items():
        for table in sorted(names, key=lambda name: name != _HINT_TABLE):
            made = set(xtables_kernel.chains(family, tables.entries(family, table)[1]))
            for chain in _HINTS:
                if chain in made:
                    return Choice("legacy", _kubelet_has(chain, table, family, "the legacy tables"))
    return None


def _kubelet_has(chain: str, table: str, family: Family, where: str) -> str:
    return f"kubelet's chain {chain} is in {where} ({table}, {family})"


def _more_rules(netlink: NetlinkSocket, tables: KernelTables, present: Present) -> Choice | None:
    legacy = sum(
        xtables_kernel.rules(family, *tables.entries(family, table))
        for family, names in present.items()
        for table in names
    )
    newer = _rules_in_nf_tables(netlink, enough=max(1, legacy))
    if legacy > newer:
        return Choice("legacy", f"the legacy tables hold {legacy} rules, nf_tables {newer}")
    if newer:
        return Choice("nf_tables", f"nf_tables holds iptables' rules, the legacy tables {legacy or 'none'}")
    return None


def _rules_in_nf_tables(netlink: NetlinkSocket, enough: int) -> int:
    """How many rules there are in iptables' tables; it stops counting where there are enough."""
    count = 0
    for table in _TABLES:
        for family in FAMILIES:
            try:
                for _ in netlink.stream(wire.get(wire.GETRULE, family, text(_RULE_TABLE, table))):
                    count += 1
                    if count >= enough:
                        return count
            except Refused as error:
                if error.errno not in ABSENT:
                    raise
    return count


def _tool() -> Choice:
    path = shutil.which("iptables")
    said = xtables_tools.version(path) if path else None
    if path is None or said is None:
        return Choice("nf_tables", "nothing on this node says otherwise")
    return Choice(said[1], f"no rules tell, and {path} is made for it")
