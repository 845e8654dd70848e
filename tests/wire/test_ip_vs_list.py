from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeway.errors import Malformed
from kubeway.values import SCTP, TCP, UDP
from kubeway.wire import ip_vs_list
from kubeway.wire.ipvs import MASQUERADE, ROUTE, Destination
from tests.golden.ipvs.golden import listing
from tests.planes.ipvsprograms import POD, POD6, VIP, VIP6

HEAD = b"""IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
"""


def test_what_the_kernel_listed_is_read() -> None:
    """Recorded, after ipvsadm was told what stands in the golden file."""
    listed = ip_vs_list.read(listing())
    assert {name: destinations for name, destinations in listed if name} == {
        (VIP, TCP, 80): [Destination(POD, 80, ROUTE, 2, 0)],
        (VIP, SCTP, 80): [],
        (VIP6, TCP, 80): [Destination(POD6, 8080, MASQUERADE, 100, 0)],
    }
    assert [name for name, _ in listed].count(None) == 1


def test_connections_are_active_and_inactive_ones() -> None:
    lines = b"UDP  0A600009:0035 rr persistent 30000 FFFFFFFF\n"
    lines += b"  -> 0AF40107:0035      Masq    1      2          30        \n"
    assert ip_vs_list.read(HEAD + lines) == [((VIP, UDP, 53), [Destination(POD, 53, MASQUERADE, 1, 32)])]


def test_nothing_is_nothing() -> None:
    assert ip_vs_list.read(HEAD) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ip_vs",
        HEAD[30:],
        HEAD + b"\xff\n",
        HEAD + b"TCP  0A600009:0050\n",
        HEAD + b"  -> 0AF40107:1F90      Masq    -1      0          0         \n",
        HEAD + b"  -> 0AF40107:1F90      Sent    1      0          0         \n",
        HEAD + b"UDP  [fd00:::::::::::::::::::::::::::::::::::]:0035 rr\n",
        HEAD + b"  -> 0AF40107      Masq    1      0          0         \n",
    ],
)
def test_what_is_written_in_another_way_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed, match=r"^ip_vs: "):
        ip_vs_list.read(data)


LINES = st.sampled_from(
    [
        "TCP  0A600009:0050 rr ",
        "FWM  00000007 wrr ",
        "  -> 0AF40107:1F90      Masq    1      0          0         ",
        "UDP  [fd00:0000:0000:0000:0000:0000:0000:0001]:0035 fo ",
        "  -> [fd00:0000:0000:0000:0000:0000:0000:000",
        "  -> [fd00:::::::::::::::::::::::::::::::::::]:0035      Masq    1      0          0         ",
    ]
)


@given(st.lists(LINES | st.text(max_size=30)))
def test_whatever_the_text(lines: list[str]) -> None:
    data = HEAD + "".join(f"{line}\n" for line in lines).encode()
    try:
        for name, destinations in ip_vs_list.read(data):
            assert name is None or len(name[0]) in (4, 16)
            assert all(len(one.ip) in (4, 16) for one in destinations)
    except Malformed:
        return
