"""A netlink socket against the kernel, with the few nftables messages it takes to be answered."""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
import sys

import pytest

from kubeway.errors import Lost, Refused, Stale, Unsupported
from kubeway.shell.addresses import local_addresses
from kubeway.shell.netlink import NetlinkSocket, describe
from kubeway.values import parse_ip, show_ip
from kubeway.wire.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    Ack,
    fields,
    message,
    read_be32,
    read_text,
    text,
)
from kubeway.wire.nfnetlink import NFPROTO_IPV4, Batch, header, kind
from tests.kernel.netns import inside, ip, needs_root

pytestmark = [pytest.mark.kernel, needs_root]

NEWTABLE, GETTABLE, NEWCHAIN, GETCHAIN, GETGEN = (kind(10, n) for n in (0, 1, 3, 4, 16))


def new(operation: int, *attrs: bytes, flags: int = 0) -> bytes:
    return message(operation, NLM_F_REQUEST | NLM_F_CREATE | flags, header(NFPROTO_IPV4) + b"".join(attrs))


def table(name: str, flags: int = 0) -> bytes:
    return new(NEWTABLE, text(1, name), flags=flags)


def chain(table_name: str, name: str, flags: int = 0) -> bytes:
    return new(NEWCHAIN, text(1, table_name), text(3, name), flags=flags)


def all_of(operation: int) -> bytes:
    return message(operation, NLM_F_REQUEST | NLM_F_DUMP, header(NFPROTO_IPV4))


def generation(netlink: NetlinkSocket) -> int:
    reply = netlink.ask(message(GETGEN, NLM_F_REQUEST, header(0)))
    return read_be32(fields(reply.body[4:])[1])


def tables(netlink: NetlinkSocket) -> list[str]:
    return [read_text(fields(m.body[4:])[1]) for m in netlink.dump(all_of(GETTABLE))]


def chains(netlink: NetlinkSocket) -> set[str]:
    return {read_text(fields(m.body[4:])[3]) for m in netlink.dump(all_of(GETCHAIN))}


def many_chains(netlink: NetlinkSocket, count: int) -> set[str]:
    names = [f"chain-{n}" for n in range(count)]
    assert netlink.transact(Batch([table("t"), *(chain("t", name) for name in names)]).data) == []
    return set(names)


def test_a_batch_that_is_done_says_nothing_but_the_acks_it_was_asked_for() -> None:
    def work() -> None:
        with NetlinkSocket() as netlink:
            before = generation(netlink)
            assert netlink.transact(Batch([table("a")]).data) == []
            batch = Batch([table("b"), chain("b", "c", NLM_F_ACK)], generation(netlink))
            (ack,) = netlink.transact(batch.data)
            assert (batch.index_of(ack.sequence), ack.errno) == (1, 0)
            assert tables(netlink) == ["a", "b"]
            assert generation(netlink) == before + 2

    inside(work)


def test_a_refusal_finds_its_message_and_nothing_of_the_batch_is_done() -> None:
    def work() -> None:
        with NetlinkSocket() as netlink:
            batch = Batch([table("a"), chain("missing", "c"), chain("a", "c")])
            (ack,) = netlink.transact(batch.data)
            assert (batch.index_of(ack.sequence), ack.errno) == (1, errno.ENOENT)
            assert describe(ack) == "No such file or directory (ENOENT)"
            assert tables(netlink) == []

    inside(work)


def test_every_refusal_of_a_large_batch_is_told() -> None:
    def work() -> None:
        with NetlinkSocket() as netlink:
            batch = Batch([chain("missing", "c")] * 20_000)
            acks = netlink.transact(batch.data)
            assert [batch.index_of(ack.sequence) for ack in acks] == list(range(20_000))
            assert {ack.errno for ack in acks} == {errno.ENOENT}

    inside(work)


def test_a_batch_for_another_generation_is_refused_as_a_whole() -> None:
    def work() -> None:
        with NetlinkSocket() as netlink:
            batch = Batch([table("a")], generation(netlink) + 1)
            (ack,) = netlink.transact(batch.data)
            assert ack.errno == errno.ERESTART
            assert batch.index_of(ack.sequence) is None
            assert tables(netlink) == []

    inside(work)


def test_the_kernels_own_words_are_passed_on() -> None:
    def work() -> None:
        with NetlinkSocket() as netlink:
            strange = message(GETTABLE, NLM_F_REQUEST, header(NFPROTO_IPV4) + text(1, "x" * 300))
            with pytest.raises(Refused) as caught:
                netlink.ask(strange)
            assert caught.value.errno == errno.ERANGE
            assert str(caught.value) == "refused: a request -> Attribute failed policy validation (ERANGE)"

    inside(work)


def test_a_single_refusal_has_its_number_and_words() -> None:
    def work() -> None:
        with NetlinkSocket() as netlink:
            with pytest.raises(Refused, match=r"a request -> No such file or directory \(ENOENT\)"):
                netlink.ask(message(GETTABLE, NLM_F_REQUEST, header(NFPROTO_IPV4) + text(1, "missing")))
            with pytest.raises(Refused, match="EINVAL"):
                netlink.dump(message(kind(1, 77), NLM_F_REQUEST | NLM_F_DUMP, header(0)))
            assert tables(netlink) == []

    inside(work)


def test_a_dump_of_many_parts_is_read_to_its_end() -> None:
    def work() -> None:
        with NetlinkSocket() as netlink:
            names = many_chains(netlink, 3_000)
            assert chains(netlink) == names

    inside(work)


def test_an_abandoned_dump_does_not_disturb_the_next_question() -> None:
    def work() -> None:
        with NetlinkSocket() as netlink:
            names = many_chains(netlink, 3_000)
            answers = netlink.stream(all_of(GETCHAIN))
            next(answers)
            answers.close()  # type: ignore[attr-defined]
            assert chains(netlink) == names

    inside(work)


def test_a_dump_torn_by_another_writer_is_stale() -> None:
    def work() -> None:
        with NetlinkSocket() as netlink, NetlinkSocket() as other:
            many_chains(netlink, 3_000)
            answers = netlink.stream(all_of(GETCHAIN))
            next(answers)
            assert other.transact(Batch([chain("t", "one-more")]).data) == []
            with pytest.raises(Stale, match="changed meanwhile"):
                list(answers)
            assert "one-more" in chains(netlink)

    inside(work)


def test_more_refusals_than_the_socket_holds_are_lost_and_it_goes_on() -> None:
    def work() -> None:
        with NetlinkSocket() as netlink:
            netlink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with pytest.raises(Lost, match="No buffer space available"):
                netlink.transact(Batch([chain("missing", "c")] * 1_000).data)
            assert netlink.transact(Batch([table("a", NLM_F_EXCL | NLM_F_ACK)], first=9).data) == [
                Ack(10, 0, "")
            ]
            assert tables(netlink) == ["a"]

    inside(work)


def test_three_megabytes_go_in_one_batch() -> None:
    def work() -> None:
        with NetlinkSocket() as netlink:
            batch = Batch([table("a")] * 120_000)
            assert 3_000_000 < len(batch.data) < netlink.send_limit
            assert netlink.transact(batch.data) == []

    inside(work)


def test_a_batch_over_the_limit_names_the_limit() -> None:
    def work() -> None:
        with NetlinkSocket() as netlink:
            netlink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 50_000)
            batch = Batch([table("a")] * 10_000)
            with pytest.raises(Unsupported, match=r"limit of 99968; raise net\.core\.wmem_max"):
                netlink.transact(batch.data)
            assert tables(netlink) == []

    inside(work)


IN_A_USER_NAMESPACE = """
from kubeway.shell.netlink import NetlinkSocket
from kubeway.wire.netlink import NLM_F_REQUEST, message
from kubeway.wire.nfnetlink import header, kind
netlink = NetlinkSocket()
print(netlink.send_limit)
netlink.ask(message(kind(10, 16), NLM_F_REQUEST, header(0)))
"""


def test_in_a_user_namespace_the_systems_limit_applies() -> None:
    unshare = shutil.which("unshare")
    assert unshare, "util-linux is part of what the tests need"
    lead = [unshare, "--user", "--map-root-user", "--net"]
    if subprocess.run([*lead, "true"], capture_output=True).returncode:
        pytest.skip("this system forbids user namespaces")
    done = subprocess.run([*lead, sys.executable, "-c", IN_A_USER_NAMESPACE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with open("/proc/sys/net/core/wmem_max") as limit:
        assert int(done.stdout) == 2 * int(limit.read()) - 32


def test_a_protocol_the_kernel_does_not_know_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="no netlink protocol 31"):
        NetlinkSocket(31)


def test_the_addresses_of_all_interfaces() -> None:
    def work() -> None:
        loopback = {"127.0.0.1", "::1"}
        assert {show_ip(address) for address in local_addresses()} == loopback
        ip("address add 192.0.2.1 peer 192.0.2.2 dev lo")
        ip("address add 2001:db8::1/64 dev lo nodad")
        assert {show_ip(address) for address in local_addresses()} == loopback | {"192.0.2.1", "2001:db8::1"}

    inside(work)


@pytest.mark.parametrize("state", ["down", "up"])
def test_the_addresses_of_services_are_not_the_nodes(state: str) -> None:
    """By the link's name, whatever it is: kube-proxy may have made it, in a mode that is long over."""

    def work() -> None:
        ip("link add kube-ipvs0 type veth peer name other")
        ip(f"link set kube-ipvs0 {state}")
        before = {show_ip(address) for address in local_addresses()}
        for address in ("10.96.0.1/32 dev kube-ipvs0", "fd00:96::1/128 dev kube-ipvs0 nodad"):
            ip(f"address add {address}")
        ip("address add 192.0.2.1/24 dev other")
        assert {show_ip(address) for address in local_addresses()} == before | {"192.0.2.1"}
        ip("link set kube-ipvs0 down")
        ip("link set kube-ipvs0 name eth7")
        assert {show_ip(address) for address in local_addresses()} >= before | {"192.0.2.1", "10.96.0.1"}

    inside(work)


def test_thousands_of_addresses() -> None:
    def work() -> None:
        lines = "".join(f"address add 10.9.{n >> 8}.{n & 255}/32 dev lo\n" for n in range(3_000))
        subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)
        found = local_addresses()
        assert len(found) == 3_002
        assert parse_ip("10.9.11.183") in found

    inside(work)
