"""
What is left in the kernel of a proxy that ran before, in another mode: its rules go on working beside ours.

There are seven places ("holders"): our nftables tables and kube-proxy's, the chains of a service proxy in
either of the kernel's two iptables, virtual servers with the sets and the link that go with them, sets by
which packets are led to the relay, and policy routing that does so, too. The relay's workers live on without
a daemon.
kube-proxy's own chains and ours bear the same names there; in ours there is always one that kube-proxy does
not know (`KUBE-BY-EXTERNAL`, in userspace mode `KUBE-RELAY-PREROUTING`), and among our sets, too
(`KUBEWAY-DROPPED`).

Take them away once the new rules are in force, and there is no moment without rules. In a kernel that has no
nf_tables only the last four of the seven can be.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from kubeway.errors import KubewayError, Refused
from kubeway.modes.chains.dispatch import EXTERNAL_WAYS_IN
from kubeway.modes.chains.layout import SERVICES
from kubeway.planes.ipset.objects import set_key
from kubeway.planes.ipset.ours import is_relays
from kubeway.planes.xtables.objects import FAMILIES, RELAY_PREROUTING
from kubeway.planes.xtables.ours import is_ours
from kubeway.shell.netlink import NetlinkSocket, refused
from kubeway.shell.ruleset import has_chain, is_there
from kubeway.shell.xtables_kernel import KernelTables, chains, present
from kubeway.wire import nftables as wire
from kubeway.wire.nfnetlink import Batch

KUBE_PROXY: Final = "kube-proxy"

_STEERING: Final = "mangle", RELAY_PREROUTING
_OURS: Final = frozenset({("nat", EXTERNAL_WAYS_IN.root), _STEERING})
_IP_SET: Final = Path("/sys/module/ip_set")
_IP_VS: Final = Path("/proc/net/ip_vs")


def remove(keep: frozenset[str] = frozenset(), *, everybodys: bool) -> list[str]:
    """Take away what is in no holder of `keep`; returns what that was, in words.

    `everybodys`: kube-proxy's too; else only what is certainly kubeway's. One holder that cannot be emptied
    does not keep the others from it: KubewayError, with all the words, when all were tried. Needs
    CAP_NET_ADMIN.
    """
    removed: list[str] = []
    problems: list[str] = []
    skip = keep if is_there() else keep | _IN_NF_TABLES
    for holder, empty in _HOLDERS.items():
        if holder in skip:
            continue
        try:
            removed += empty(everybodys)
        except KubewayError as error:
            problems.append(f"{holder}: {error}")
    if "steering" not in keep:
        try:
            # Once nothing leads to them. If a daemon kept them, it may have repaired its rules meanwhile.
            for what in _relay(led=bool(keep)):
                again = (_HOLDERS[holder](everybodys) for holder in _LEADING if holder not in keep)
                removed += [what, *(rule for rules in again for rule in rules if rule not in removed)]
        except KubewayError as error:
            problems.append(f"relay: {error}")
    if problems:
        raise KubewayError("; ".join(problems))
    return removed


def leads(holder: str) -> bool:
    """Whether rules in this one of the kernel's iptables lead packets to Services, but for ours of ipvs mode.

    Refused, Lost. Needs CAP_NET_ADMIN.
    """
    from kubeway.modes.ipvs.base import BALANCER

    ours = _has(holder, ("nat", EXTERNAL_WAYS_IN.root)) and _has(holder, ("nat", BALANCER))
    return _has(holder, _STEERING) or (_has(holder, ("nat", SERVICES)) and not ours)


def _has(holder: str, *asked: tuple[str, str]) -> bool:
    """Whether there is one of these chains (table, name)."""
    if holder == "legacy":
        return _in_legacy(lambda *chain: chain in asked)
    if not is_there():
        return False
    with NetlinkSocket() as socket:
        return any(has_chain(socket, family, *chain) for family in FAMILIES for chain in asked)


def _nft(everybodys: bool) -> Iterator[str]:
    from kubeway.shell.nft import NftPlane

    with closing(NftPlane()) as plane:
        for family in plane.remove():
            yield f"table {family} kubeway"


def _kube_proxys(everybodys: bool) -> Iterator[str]:
    if everybodys:
        for family in remove_kube_proxy_tables():
            yield f"table {family} {KUBE_PROXY}"


def _nf_tables(everybodys: bool) -> Iterator[str]:
    from kubeway.shell.xtables_nft import XtNftPlane

    if not everybodys and not _has("nf_tables", *_OURS):
        return
    with closing(XtNftPlane()) as plane:
        for table in plane.remove():
            yield f"rules in table {table} (iptables, nf_tables)"


def _legacy(everybodys: bool) -> Iterator[str]:
    from kubeway.shell.xtables_legacy import XtLegacyPlane

    if not (_in_legacy(is_ours) if everybodys else _has("legacy", *_OURS)):
        return
    with closing(XtLegacyPlane()) as plane:
        for table in plane.remove():
            yield f"rules in table {table} (iptables, legacy)"


def _in_legacy(meant: Callable[[str, str], bool]) -> bool:
    """Whether there is such a chain (table, name); asked of the kernel, as the tools need more than
    CAP_NET_ADMIN."""
    tables = KernelTables()
    try:
        for family in FAMILIES:
            for table in present(family):
                for chain in chains(family, tables.entries(family, table)[1]):
                    if meant(table, chain):
                        return True
    except Refused as error:
        # The list of tables is root's. Whoever may not read it cannot have written there either.
        if error.errno != errno.EACCES:
            raise
    finally:
        tables.close()
    return False


def _ipvs(everybodys: bool) -> Iterator[str]:
    """Servers first: what tells ours from others' is the link and the sets."""
    from kubeway.modes.ipvs import sets
    from kubeway.shell import ipvs_plane
    from kubeway.shell.addresses import local_addresses
    from kubeway.shell.ipset_plane import IpsetPlane
    from kubeway.shell.ipvs_ours import ServersOfOurs
    from kubeway.shell.link_plane import LinkPlane

    with closing(LinkPlane()) as links:
        # Asked for, the kernel would load what is not there; and then there is nothing to remove.
        if not _IP_SET.exists():
            yield from links.remove() if everybodys else ()
            return
        with closing(IpsetPlane()) as held:
            if not everybodys and set_key(sets.DROPPED) not in held.read_now():
                return
            if _IP_VS.exists():
                yield from ipvs_plane.remove(ServersOfOurs(held, links, local_addresses)())
            yield from links.remove()
            yield from (f"set {name}" for name in held.remove())


def _relay_sets(everybodys: bool) -> Iterator[str]:
    from kubeway.shell.ipset_plane import IpsetPlane

    if _IP_SET.exists():
        with closing(IpsetPlane(ours=is_relays)) as held:
            yield from (f"set {name}" for name in held.remove())


def _relay(*, led: bool) -> Iterator[str]:
    """What takes connections of userspace mode, once no rule leads any to it. `led`: also if the daemon lives
    that keeps it, as it would write its rules again: it is to make room for another mode. Who only cleans up
    leaves it alone.
    """
    from kubeway.shell.relay.handover import end

    if end(led=led):
        yield "the relay's workers"


def _steering(everybodys: bool) -> Iterator[str]:
    from kubeway.shell.link_plane import LinkPlane

    with closing(LinkPlane()) as links:
        yield from links.remove(steering=True)


_HOLDERS: Final[Mapping[str, Callable[[bool], Iterator[str]]]] = {
    "nft": _nft,
    "kube-proxy": _kube_proxys,
    "nf_tables": _nf_tables,
    "legacy": _legacy,
    # Sets are in use as long as rules ask them.
    "ipvs": _ipvs,
    # Of userspace mode. No packet has the mark any more.
    "relay sets": _relay_sets,
    "steering": _steering,
}
_LEADING: Final = ("nft", "legacy", "relay sets", "steering")
"""Those that may lead to the relay."""
_IN_NF_TABLES: Final = frozenset({"nft", "kube-proxy", "nf_tables"})


def remove_kube_proxy_tables() -> list[str]:
    """Take the tables `ip kube-proxy` and `ip6 kube-proxy` away; returns the families that had one.

    Refused, with the kernel's words, if one is there and cannot go. Needs CAP_NET_ADMIN.
    """
    removed: list[str] = []
    with NetlinkSocket() as socket:
        for family in FAMILIES:
            # Tried rather than looked for: between a look and the attempt another could remove it.
            batch = Batch([wire.del_table(family, KUBE_PROXY)]).data
            acks = [ack for ack in socket.transact(batch) if ack.errno]
            if not acks:
                removed.append(family)
            elif any(ack.errno != errno.ENOENT for ack in acks):
                raise refused(acks[0], f"delete table {family} {KUBE_PROXY}")
    return removed
