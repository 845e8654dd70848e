"""Endpoints counted by family as Forwards come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubeway.model.forward import Forward
from kubeway.model.node import FamilyView, NodeView
from kubeway.model.settle import ForwardKey
from kubeway.model.sizes import Sizes
from tests.worlds import World, endpoint_doc, service_docs, world, worlds

VIEW = NodeView(FamilyView(4), FamilyView(6))


def forwards(endpoints: int, vip: str = "10.96.0.9", name: str = "shop/cart:http") -> tuple[Forward, ...]:
    return tuple(world(service_docs(name, vip=vip, endpoints=endpoints)).forwards)


def large(sizes: Sizes) -> tuple[bool, bool]:
    view = sizes.seen(VIEW)
    assert sizes.seen(view) is view
    return view.v4.large, view.v6.large


def test_one_more_than_the_limit_is_large() -> None:
    assert large(Sizes(3, forwards(3))) == (False, False)
    assert large(Sizes(3, forwards(4))) == (True, False)
    assert large(Sizes(3, forwards(4, "fd00:10:96::9"))) == (False, True)


def test_nobody_minds_without_a_limit() -> None:
    assert Sizes(None, forwards(200)).seen(VIEW) is VIEW


def test_an_endpoint_counts_for_each_service_port_it_serves() -> None:
    both = (*forwards(2), *forwards(2, "10.96.0.8", "shop/other:http"))
    assert large(Sizes(3, both)) == (True, False)


def test_endpoints_that_finish_count_and_those_that_do_not_serve_do_not() -> None:
    docs = [endpoint_doc("10.244.1.1"), endpoint_doc("10.244.1.2", ready=False, serving=False)]
    docs.append(endpoint_doc("10.244.1.3", ready=False, serving=True, terminating=True))
    found = world(service_docs(endpoints=docs)).forwards
    assert large(Sizes(1, found)) == (True, False)
    assert large(Sizes(2, found)) == (False, False)


@given(st.lists(worlds(), min_size=1, max_size=4), st.integers(0, 12))
def test_counting_step_by_step_is_counting_at_once(history: list[World], limit: int) -> None:
    sizes = Sizes(limit)
    before: dict[ForwardKey, Forward] = {}
    for w in history:
        now = dict(w.settled)
        gone: dict[ForwardKey, Forward | None] = {key: None for key in before if key not in now}
        sizes.change({**gone, **now})
        before = now
        assert sizes.seen(VIEW) == Sizes(limit, now.values()).seen(VIEW)
