"""In which order endpoints are tried."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.model.balances import BALANCES, Balance
from kubeway.planes.relay.balance import DEMOTED, REMEMBERED, Balancer
from kubeway.planes.relay.objects import ANY, Endpoint, Way, way_key
from kubeway.values import TCP, V4, V6, Ip

ENDPOINTS = tuple(Endpoint(Ip(bytes((10, 244, 0, n))), 8080) for n in range(1, 9))
A, B, C, D = ENDPOINTS[:4]


def client(number: int) -> Ip:
    return Ip((0x0A000000 + number).to_bytes(4, "big"))


ME = client(1)


def one(balancer: Balancer, who: Ip = ME, now: float = 0.0, rng: Random | None = None) -> Endpoint:
    return next(balancer.choose(who, now, rng or Random(1)))


def order(balancer: Balancer, who: Ip = ME, now: float = 0.0) -> list[Endpoint]:
    return list(balancer.choose(who, now, Random(1)))


# --- objects ----------------------------------------------------------------------------


def test_keys_of_all_ways_can_be_put_in_order() -> None:
    keys = [way_key("cluster", ip, TCP, 80, family) for ip in (None, ME) for family in (V4, V6)]
    assert len(sorted(keys)) == 4
    assert way_key("local", None, TCP, 80, V6).name == ("local", ANY[V6], TCP, 80)


# --- any way ----------------------------------------------------------------------------


@given(
    st.integers(0, 8),
    st.sampled_from(sorted(BALANCES)),
    st.sampled_from([0, 10]),
    st.sets(st.integers(0, 7)),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7)), max_size=20),
)
def test_each_endpoint_is_tried_once(
    count: int, balance: Balance, affinity: int, failed: set[int], before: list[tuple[int, int]]
) -> None:
    balancer = Balancer(Way(ENDPOINTS[:count], affinity, balance, demote=True))
    for who, opened in before:
        list(islice(balancer.choose(client(who), 0.0, Random(2)), 2))
        balancer.opened(ENDPOINTS[opened])
    for number in failed:
        balancer.failed(ENDPOINTS[number], 0.0)
    assert sorted(order(balancer)) == list(ENDPOINTS[:count])


# --- in turn ----------------------------------------------------------------------------


@given(st.integers(1, 8), st.integers(0, 40), st.floats(0, 1, exclude_max=True))
def test_turns_are_even(count: int, connections: int, start: float) -> None:
    balancer = Balancer(Way(ENDPOINTS[:count]), start)
    met = Counter(one(balancer, client(n)) for n in range(connections))
    assert max(met.values(), default=0) - min((met[e] for e in ENDPOINTS[:count]), default=0) <= 1


def test_who_tries_more_than_one_takes_one_turn() -> None:
    balancer = Balancer(Way((A, B, C)))
    assert order(balancer) == [A, B, C]
    assert order(balancer) == [B, C, A]
    assert list(islice(balancer.choose(ME, 0.0, Random()), 2)) == [C, A]
    assert one(balancer) == A


def test_several_balancers_begin_apart() -> None:
    way = Way(ENDPOINTS)
    assert [one(Balancer(way, n / 4)) for n in range(4)] == list(ENDPOINTS[::2])
    late = Balancer(Way(()), 0.5)
    late.become(way)
    assert one(late) == ENDPOINTS[4]


def test_turns_go_on_when_the_list_changes() -> None:
    balancer = Balancer(Way((A, B, C)))
    assert [one(balancer), one(balancer)] == [A, B]
    assert balancer.become(Way((A, B, C, D))) == frozenset()
    assert [one(balancer), one(balancer), one(balancer)] == [C, D, A]
    assert balancer.become(Way((B,))) == {A, C, D}
    assert [one(balancer), one(balancer)] == [B, B]


# --- affinity ---------------------------------------------------------------------------


def test_a_client_meets_the_same_one_until_its_time_is_over() -> None:
    balancer = Balancer(Way((A, B, C), affinity=10))
    assert [one(balancer, now=n * 9.9) for n in range(5)] == [A] * 5  # each time begins it anew
    assert one(balancer, client(2), 40.0) == B
    assert one(balancer, now=4 * 9.9 + 10) == C


def test_a_new_timeout_counts_for_who_is_remembered() -> None:
    balancer = Balancer(Way((A, B, C), affinity=100))
    assert [one(balancer), one(balancer, now=15.0)] == [A, A]
    balancer.become(Way((A, B, C), affinity=10))
    assert one(balancer, now=24.9) == A
    assert one(balancer, now=40.0) == B
    balancer.become(Way((A, B, C), affinity=100))
    assert one(balancer, now=80.0) == B


def test_a_client_is_where_it_was_sent_last() -> None:
    balancer = Balancer(Way((A, B, C), affinity=10))
    assert list(islice(balancer.choose(ME, 0.0, Random()), 2)) == [A, B]
    assert order(balancer, now=1.0)[0] == B


def test_clients_of_one_that_left_are_free_even_if_it_comes_back() -> None:
    balancer = Balancer(Way((A, B, C), affinity=10))
    assert [one(balancer, client(n)) for n in range(3)] == [A, B, C]
    balancer.become(Way((B, C), affinity=10))
    balancer.become(Way((A, B, C), affinity=10))
    assert one(balancer, client(1)) == B
    assert one(balancer, client(2)) == C
    assert [one(balancer, client(n)) for n in (3, 0)] == [A, B]  # turns as any; it was at A
    balancer.become(Way((A, B, C)))
    balancer.become(Way((A, B, C), affinity=10))
    assert len({one(balancer, client(1)), one(balancer, client(2)), one(balancer, client(3))}) == 3


def test_no_more_than_so_many_are_remembered() -> None:
    balancer = Balancer(Way((A, B), affinity=10))
    for number in range(REMEMBERED + 1):
        one(balancer, client(number))
    assert one(balancer, client(1)) == B  # the second still is
    assert one(balancer, client(0)) == B  # and the first is not: it was sent to A
    assert REMEMBERED % 2 == 0


def test_who_asks_seldom_is_forgotten_in_the_order_of_asking() -> None:
    balancer = Balancer(Way((A, B, C), affinity=10))
    assert [one(balancer, client(n), float(n)) for n in range(3)] == [A, B, C]
    assert one(balancer, client(0), 8.0) == A
    # 1 and 2 are over; that one came again in between must not keep them.
    assert one(balancer, client(3), 12.5) == A
    assert [one(balancer, client(n), 12.5) for n in (1, 2)] == [B, C]
    assert one(balancer, client(0), 17.0) == A


# --- by load ----------------------------------------------------------------------------


def test_leastconn_prefers_who_has_fewest_and_takes_turns_among_equals() -> None:
    balancer = Balancer(Way((A, B, C), balance="leastconn"))
    for endpoint in (A, A, B):
        balancer.opened(endpoint)
    assert order(balancer) == [C, B, A]
    balancer.opened(C)
    balancer.closed(A)
    assert Counter(one(balancer) for _ in range(9)) == {A: 3, B: 3, C: 3}


@given(st.lists(st.booleans(), max_size=60))
def test_leastconn_is_even_whoever_goes(goes: list[bool]) -> None:
    balancer = Balancer(Way(ENDPOINTS[:4], balance="leastconn"))
    for ends in goes:
        most = max(ENDPOINTS[:4], key=balancer.load)
        if ends and balancer.load(most):
            balancer.closed(most)
        else:
            balancer.opened(one(balancer))
        counts = [balancer.load(endpoint) for endpoint in ENDPOINTS[:4]]
        assert max(counts) - min(counts) <= 1


def test_p2c_never_takes_the_most_loaded_of_all() -> None:
    balancer = Balancer(Way((A, B, C), balance="p2c"))
    balancer.opened(B)
    rng = Random(3)
    met = Counter(one(balancer, rng=rng) for _ in range(300))
    assert set(met) == {A, C}
    assert min(met.values()) > 100  # with C and B drawn it is C, as often as A


def test_p2c_spreads_better_than_chance() -> None:
    balancer = Balancer(Way(ENDPOINTS, balance="p2c"))
    rng = Random(4)
    for _ in range(8000):
        balancer.opened(one(balancer, rng=rng))
    # By one lot the fullest would be some 40 over the average; by two, log log n (Mitzenmacher 1996).
    assert max(map(balancer.load, ENDPOINTS)) - 1000 <= 5


def test_connections_of_one_that_left_are_counted_until_they_end() -> None:
    balancer = Balancer(Way((A, B), balance="leastconn"))
    balancer.opened(A)
    balancer.become(Way((B,), balance="leastconn"))
    assert balancer.load(A) == 1
    balancer.become(Way((A, B), balance="leastconn"))
    assert [one(balancer), one(balancer)] == [B, B]
    balancer.become(Way((B,), balance="leastconn"))
    balancer.closed(A)
    balancer.closed(A)  # one too many does no harm
    assert balancer.load(A) == 0
    balancer.become(Way((A, B), balance="leastconn"))
    assert {one(balancer), one(balancer)} == {A, B}


# --- by source --------------------------------------------------------------------------


def test_by_source_is_the_same_everywhere_and_moves_only_whom_it_must() -> None:
    whole, other = (Balancer(Way(ENDPOINTS, balance="sourcehash"), s) for s in (0.0, 0.5))
    less = Balancer(Way(ENDPOINTS[1:], balance="sourcehash"))
    for number in range(500):
        who = client(number)
        ranked = order(whole, who)
        assert order(other, who) == ranked
        assert one(less, who) == (ranked[0] if ranked[0] != A else ranked[1])


@pytest.mark.parametrize("count", [2, 3, 5, 8])
@pytest.mark.parametrize("step", [1, 256])
def test_by_source_clients_are_spread_evenly(count: int, step: int) -> None:
    balancer = Balancer(Way(ENDPOINTS[:count], balance="sourcehash"))
    met = Counter(one(balancer, client(n * step)) for n in range(4000))
    fair = 4000 / count
    assert all(abs(met[endpoint] - fair) < 5 * fair**0.5 for endpoint in ENDPOINTS[:count])


# --- demotion ---------------------------------------------------------------------------


def test_who_failed_is_tried_last_for_a_while_and_turns_stay_even() -> None:
    balancer = Balancer(Way((A, B, C), demote=True))
    balancer.failed(A, 100.0)
    assert Counter(one(balancer, now=101.0) for _ in range(20)) == {B: 10, C: 10}
    assert order(balancer, now=102.0)[-1] == A
    assert A in {one(balancer, now=100.0 + DEMOTED) for _ in range(3)}


def test_who_took_a_connection_is_as_good_as_any() -> None:
    balancer = Balancer(Way((A, B), demote=True))
    balancer.failed(A, 0.0)
    balancer.worked(A)
    assert {one(balancer), one(balancer)} == {A, B}


@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(0, 7), st.floats(0, 20)), max_size=20),
    st.sampled_from(sorted(BALANCES)),
)
def test_no_less_than_half_are_chosen_from(
    count: int, failures: list[tuple[int, float]], balance: Balance
) -> None:
    balancer = Balancer(Way(ENDPOINTS[:count], balance=balance, demote=True))
    now = 0.0
    for number, after in failures:
        now += after
        balancer.failed(ENDPOINTS[number], now)
    rng = Random(5)
    met = {one(balancer, client(n), now, rng) for n in range(200)}
    assert len(met) * 2 >= count
    if failures and count > 1 and failures[-1][0] < count:
        assert ENDPOINTS[failures[-1][0]] not in met  # the latest always


def test_without_demotion_a_failure_changes_nothing() -> None:
    balancer = Balancer(Way((A, B)))
    balancer.failed(A, 0.0)
    assert [one(balancer), one(balancer)] == [A, B]
    demoting = Balancer(Way((A, B), demote=True))
    demoting.failed(A, 0.0)
    demoting.become(Way((A, B)))
    assert [one(demoting), one(demoting)] == [A, B]


# --- what another one remembered --------------------------------------------------------------


def test_who_was_sent_where_is_taken_over() -> None:
    before, after = Balancer(Way((A, B, C), affinity=10)), Balancer(Way((B, C, D), affinity=10))
    met = {who: one(before, client(who), float(who)) for who in range(6)}
    one(after, client(50), 6.5)
    assert one(after, client(4), 7.0) != met[4]  # it came to the new one meanwhile
    moved = after.known()[-1]
    after.recall(before.known())
    known = {who: (to, at) for who, to, at in after.known()}
    for who, to in met.items():
        if who == 4:
            assert known[client(4)] == moved[1:]
        elif to == A:
            assert client(who) not in known
        else:
            assert known[client(who)] == (to, float(who))
    # They are forgotten in time as ever: who came longest ago is first.
    assert [at for _, _, at in after.known()] == sorted(at for _, at in known.values())
    one(after, client(99), 13.5)
    assert client(3) not in {who for who, _, _ in after.known()}
    assert one(after, client(5), 14.0) == met[5]


def test_without_affinity_nothing_is_taken_over() -> None:
    balancer = Balancer(Way((A, B)))
    balancer.recall([(ME, A, 1.0)])
    assert balancer.known() == []


def test_of_too_many_the_latest_are_taken_over() -> None:
    balancer = Balancer(Way((A,), affinity=10))
    balancer.recall([(client(number), A, float(number)) for number in range(REMEMBERED + 3)])
    known = balancer.known()
    assert len(known) == REMEMBERED
    assert known[0] == (client(3), A, 3.0)
