"""
Who holds an address and port that several service ports claim.

Every way in is a claim, and every claimant makes a bid. The smallest bid holds:
a cluster IP before a load balancer's address before an external IP, then the
older Service, then the name. So the holder does not depend on the order in which
Services were heard of, and a newcomer cannot take what an older one has.

Knows no endpoints and no policy. Each question and each change costs what it
touches, however many claims there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kubeway.model.forward import Forward, Frontend, FrontendKind, ServicePortName
from kubeway.values import Ip, family_of

Claim = tuple[Ip | int, int, int]
"""What only one may hold: an address (or, for a node port, a family), protocol and port."""

Bid = tuple[int, int, ServicePortName]
"""Who claims it: rank of the kind, time of making in seconds, name. The smallest holds it."""

# An object that does not say when it was made is younger than all that do.
NEVER: Final = 1 << 62

# Node ports are apart from addresses: no other kind makes the same claim.
_RANK: Final[dict[FrontendKind, int]] = {"ClusterIP": 0, "LoadBalancer": 1, "ExternalIP": 2, "NodePort": 0}


_NOWHERE: Final[frozenset[Ip]] = frozenset()


def claim_of(forward: Forward, frontend: Frontend) -> Claim:
    where = forward.family if frontend.ip is None else frontend.ip
    return where, forward.name.proto, frontend.port


def family_of_claim(claim: Claim) -> int:
    return claim[0] if isinstance(claim[0], int) else family_of(claim[0])


def bids(born: int, forwards: Iterable[Forward]) -> Iterator[tuple[Claim, Bid]]:
    """What these Forwards of one Service, made at `born`, claim."""
    for forward in forwards:
        for frontend in forward.frontends:
            yield claim_of(forward, frontend), (_RANK[frontend.kind], born, forward.name)


class Claims:
    """`own`: this node's addresses, at which a way in stands before a node port of its number."""

    def __init__(self, own: frozenset[Ip] = frozenset()) -> None:
        self._own = own
        # By the claim of a node port: which of these are claimed with its protocol and number.
        self._at_home: dict[Claim, frozenset[Ip]] = {}
        # The holder's bid of each claim; and of claims with several bids, all of them.
        self._held: dict[Claim, Bid] = {}
        self._contested: dict[Claim, set[Bid]] = {}

    @property
    def contested(self) -> bool:
        """Whether any claim has several bids."""
        return bool(self._contested)

    def is_own(self, ip: Ip) -> bool:
        """Whether this node has the address."""
        return ip in self._own

    def move(self, own: frozenset[Ip], shaken: set[Claim]) -> None:
        """These are this node's addresses now. `shaken` gets what is claimed at one that came or went."""
        moved, self._own = self._own ^ own, own
        for claim in [claim for claim in self._held if claim[0] in moved]:
            self._settle_home(claim, shaken)
            shaken.add(claim)

    @property
    def at_home(self) -> bool:
        """Whether an address of this node is claimed."""
        return bool(self._at_home)

    def taken(self, claim: Claim) -> tuple[Ip, ...]:
        """The addresses of this node that this node port does not have, in order."""
        return tuple(sorted(self._at_home.get(claim, ())))

    def holder(self, claim: Claim) -> ServicePortName:
        return self._held[claim][2]

    def bidders(self, claim: Claim) -> list[ServicePortName]:
        """Everybody who claims it, in no order."""
        held = self._contested.get(claim) or ([self._held[claim]] if claim in self._held else [])
        return [bid[2] for bid in held]

    def change(
        self, old: Iterable[tuple[Claim, Bid]], new: Iterable[tuple[Claim, Bid]], shaken: set[Claim]
    ) -> None:
        """Take the old bids back and make the new ones.

        `shaken` gets every claim that others have won, or lost to somebody else, and
        every node port that has won or lost an address. Who comes and does not win, or goes
        and did not hold, is nobody else's concern.
        """
        before, after = set(old), list(new)
        for claim, bid in before.difference(after) if before else ():
            self._withdraw(claim, bid, shaken)
        for claim, bid in after:
            if (claim, bid) not in before:
                self._make(claim, bid, shaken)

    def _make(self, claim: Claim, bid: Bid, shaken: set[Claim]) -> None:
        rival = self._held.setdefault(claim, bid)
        if rival is bid:
            self._settle_home(claim, shaken)
        else:
            self._contested.setdefault(claim, {rival}).add(bid)
            if bid < rival:
                self._held[claim] = bid
                shaken.add(claim)

    def _withdraw(self, claim: Claim, bid: Bid, shaken: set[Claim]) -> None:
        rivals = self._contested.get(claim)
        if rivals is None:
            del self._held[claim]
            self._settle_home(claim, shaken)
            return
        rivals.remove(bid)
        if self._held[claim] == bid:
            self._held[claim] = min(rivals)
            shaken.add(claim)
        if len(rivals) == 1:
            del self._contested[claim]

    def _settle_home(self, claim: Claim, shaken: set[Claim]) -> None:
        """The claim has just found its first holder or lost its last, or its address came or went."""
        where, proto, port = claim
        if isinstance(where, int):
            return
        node_port = family_of(where), proto, port
        taken = self._at_home.get(node_port, _NOWHERE)
        now = taken | {where} if where in self._own and claim in self._held else taken - {where}
        if now == taken:
            return
        if now:
            self._at_home[node_port] = now
        else:
            del self._at_home[node_port]
        if node_port in self._held:
            shaken.add(node_port)
