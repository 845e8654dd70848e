"""Folding objects in: what a snapshot holds, what counts as changed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kubeway.model.forward import ServiceName
from kubeway.model.objects import EndpointSlice, Identity, KubeObject, Service
from kubeway.model.store import Store
from tests.worlds import (
    World,
    node_doc,
    objects,
    service,
    service_cidr_doc,
    slices_in,
    snapshot_of,
    worlds,
)

CART, TILL = ServiceName("shop", "cart"), ServiceName("shop", "till")


def test_what_was_put_is_there_and_told_once() -> None:
    store = Store()
    for one in [*service("shop/cart:http"), *objects([node_doc(), service_cidr_doc()])]:
        assert store.put(one)
    changed = store.take_changed()
    assert (changed.names, changed.node, changed.cidrs) == ({CART}, True, True)
    assert not store.take_changed()
    snapshot = store.snapshot()
    assert list(snapshot.services) == [CART]
    assert list(snapshot.slices_of(CART)) == ["cart-1"]
    assert list(snapshot.nodes) == ["n1"]
    assert [str(prefix) for prefix in snapshot.service_cidrs()] == ["10.96.0.0/16", "fd00:10:96::/112"]


def test_an_equal_object_is_no_change_and_the_old_one_stays() -> None:
    store = Store()
    first = service("shop/cart:http")
    for one in first:
        store.put(one)
    store.take_changed()
    for one in service("shop/cart:http"):
        assert not store.put(one)
    assert not store.take_changed()
    assert store.snapshot().services[CART] is first[0]


def test_a_snapshot_does_not_change() -> None:
    store = Store()
    for one in service("shop/cart:http"):
        store.put(one)
    before = store.snapshot()
    for one in service("shop/till:http"):
        store.put(one)
    store.drop(Identity("Service", "shop", "cart"))
    assert set(before.services) == {CART}
    assert set(store.snapshot().services) == {TILL}


def test_a_slice_that_changes_its_service_leaves_the_old_one() -> None:
    store = Store()
    (piece,) = slices_in(service("shop/cart:http"))
    store.put(piece)
    store.take_changed()
    assert store.put(replace(piece, service=TILL))
    assert store.take_changed().names == {CART, TILL}
    snapshot = store.snapshot()
    assert not snapshot.slices_of(CART)
    assert list(snapshot.slices_of(TILL)) == ["cart-1"]
    # And one that belongs to none any more is gone.
    assert store.put(replace(piece, service=None))
    assert store.take_changed().names == {TILL}
    assert not store.snapshot().slices


def test_dropping_by_object_by_identity_and_of_what_is_not_there() -> None:
    store = Store()
    found = [*service("shop/cart:http"), *objects([node_doc(), service_cidr_doc()])]
    for one in found:
        store.put(one)
    store.take_changed()
    assert [store.drop(one.identity) for one in found] == [True] * 4
    assert [store.drop(one) for one in found] == [False] * 4
    assert not store.drop(Identity("Pod", "shop", "cart-1"))
    assert store.take_changed() == (frozenset({CART}), True, True)
    assert not any(store.snapshot())


def test_identities_are_told_as_people_write_them() -> None:
    cart, piece = service("shop/cart:http")
    assert (str(cart.identity), str(piece.identity)) == ("Service shop/cart", "EndpointSlice shop/cart-1")
    assert str(objects([node_doc()])[0].identity) == "Node n1"


@given(st.lists(worlds(2), min_size=2, max_size=3), st.data())
def test_any_way_to_a_state_is_the_same_state(many: list[World], data: st.DataObject) -> None:
    """Puts and drops in any order end where the last put of each object leads."""
    store = Store()
    last: dict[Identity, KubeObject] = {}
    for one in (one for world in many for one in world.objects):
        store.put(one)
        last[one.identity] = one
        if data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(sorted(last)))
            store.drop(gone)
            last.pop(gone)
    kept = list(last.values())
    assert store.snapshot() == snapshot_of(kept)
    snapshot = store.snapshot()
    assert len(snapshot.services) == sum(isinstance(one, Service) for one in kept)
    slices = sum(isinstance(one, EndpointSlice) for one in kept)
    assert sum(map(len, snapshot.slices.values())) == slices
