"""Who holds what several claim, and whom a change concerns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubeway.model.claims import Bid, Claim, Claims
from kubeway.model.forward import ServicePortName
from kubeway.values import TCP, Ip

CLAIM: Claim = (Ip(b"\x01\x02\x03\x04"), TCP, 80)


def bid(name: str, born: int = 0) -> Bid:
    return 0, born, ServicePortName("shop", name, "", TCP)


def test_only_a_change_of_holder_concerns_others() -> None:
    claims, shaken = Claims(), set[Claim]()
    claims.change([], [(CLAIM, bid("m"))], shaken)
    assert (shaken, claims.contested) == (set(), False)
    claims.change([], [(CLAIM, bid("z"))], shaken)
    assert (shaken, claims.contested) == (set(), True)
    claims.change([(CLAIM, bid("z"))], [], shaken)
    assert (shaken, claims.contested) == (set(), False)
    claims.change([], [(CLAIM, bid("a"))], shaken)
    assert shaken == {CLAIM}
    assert claims.holder(CLAIM).service == "a"
    assert {name.service for name in claims.bidders(CLAIM)} == {"a", "m"}
    shaken.clear()
    claims.change([(CLAIM, bid("a"))], [], shaken)
    assert shaken == {CLAIM}
    assert [name.service for name in claims.bidders(CLAIM)] == ["m"]
    claims.change([(CLAIM, bid("m"))], [], shaken)
    assert claims.bidders(CLAIM) == []


_CLAIMS: list[Claim] = [CLAIM, (4, TCP, 30080), (6, TCP, 30080)]
_bids = st.sets(st.tuples(st.sampled_from(_CLAIMS), st.integers(0, 2)))


@given(st.lists(st.tuples(st.sampled_from("abc"), _bids), max_size=8))
def test_the_smallest_bid_holds_whatever_the_order(steps: list[tuple[str, set[tuple[Claim, int]]]]) -> None:
    claims = Claims()
    present: dict[str, list[tuple[Claim, Bid]]] = {}
    holders: dict[Claim, Bid] = {}
    for name, wanted in steps:
        # One name bids once for a claim.
        new = [(claim, bid(name, born)) for claim, born in dict(sorted(wanted, key=str)).items()]
        shaken: set[Claim] = set()
        claims.change(present.get(name, []), new, shaken)
        present[name] = new
        bids = [(claim, one) for made in present.values() for claim, one in made]
        for claim in _CLAIMS:
            rivals = [one for bid_for, one in bids if bid_for == claim]
            assert sorted(claims.bidders(claim)) == sorted(one[2] for one in rivals)
            if rivals:
                assert claims.holder(claim) == min(rivals)[2]
            before, after = holders.pop(claim, None), min(rivals, default=None)
            if after is not None:
                holders[claim] = after
            others = {one[2].service for one in rivals} - {name}
            if others and before is not None and after is not None and before[2] != after[2]:
                assert claim in shaken
