from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubeway.wire import netlink as nl
from kubeway.wire import nfnetlink as nf

bodies = st.lists(st.binary(max_size=12).map(lambda value: nl.message(0x0A03, 1, nl.attr(1, value))))


def test_the_header_is_family_version_and_resource_in_network_order() -> None:
    assert nf.header(nf.NFPROTO_IPV6, 10) == b"\x0a\x00\x00\x0a"


def test_a_type_is_its_subsystem_and_operation() -> None:
    assert nf.kind(nf.NFNL_SUBSYS_NFTABLES, 16) == 0x0A10


def test_a_batch_is_begin_messages_end() -> None:
    one = nl.message(0x0A03, 1, nf.header(2), sequence=77)
    for given_ in ([one, one], one + one, iter([one, one])):
        begin, first, second, end = nl.messages(nf.batch(given_))
        assert (begin.kind, bytes(begin.body)) == (nf.NFNL_MSG_BATCH_BEGIN, b"\0\0\0\x0a")
        assert (end.kind, bytes(end.body)) == (nf.NFNL_MSG_BATCH_END, b"\0\0\0\x0a")
        assert (first.sequence, second.sequence) == (77, 77)


def test_a_batch_names_the_generation_it_is_for() -> None:
    begin = next(nl.messages(nf.batch([], genid=9)))
    assert nl.read_be32(nl.fields(begin.body[4:])[nf.NFNL_BATCH_GENID]) == 9
    begin = next(nl.messages(nf.Batch([], genid=0).data))
    assert nl.read_be32(nl.fields(begin.body[4:])[nf.NFNL_BATCH_GENID]) == 0


def test_a_batch_is_for_its_subsystem() -> None:
    assert bytes(next(nl.messages(nf.batch([], nf.NFNL_SUBSYS_IPSET))).body) == b"\0\0\0\x06"


@given(bodies, st.integers(0, 2**32 - 1))
def test_a_batchs_numbers_lead_back_to_its_messages(bodies: list[bytes], first: int) -> None:
    made = nf.Batch(bodies, genid=3, first=first)
    read = list(nl.messages(made.data))
    begin, end = read[0], read[-1]
    assert [bytes(m.body) for m in read[1:-1]] == [body[16:] for body in bodies]
    assert [made.index_of(m.sequence) for m in read[1:-1]] == list(range(len(bodies)))
    assert made.index_of(begin.sequence) is None
    assert made.index_of(end.sequence) is None
    assert begin.sequence == first
    assert len({m.sequence for m in read}) == len(read)


@given(bodies, st.integers(0, 2**32 - 1))
def test_number_numbers(bodies: list[bytes], first: int) -> None:
    wanted = [(first + i) % 2**32 for i in range(len(bodies))]
    assert [m.sequence for m in nl.messages(nf.number(bodies, first))] == wanted


def test_a_batch_without_an_end_is_the_same_but_for_that() -> None:
    bodies = [nl.message(7, 0, b"body")]
    whole, tried = nf.Batch(bodies).data, nf.Batch(bodies, ends=False).data
    assert whole.startswith(tried)
    kinds = [m.kind for m in nl.messages(whole)]
    assert [m.kind for m in nl.messages(tried)] == kinds[:-1]
    assert kinds[-1] == nf.NFNL_MSG_BATCH_END
