"""What is said of a kernel without sets; all else is asked of a kernel (tests/kernel/test_ipset_plane.py)."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from kubeway.errors import Refused, Unsupported
from kubeway.planes.ipset.objects import HASH_IP, Set, set_key
from kubeway.shell import ipset_plane
from kubeway.shell.ipset_plane import IpsetPlane, probe
from kubeway.wire import ipset as wire
from kubeway.wire.netlink import Message


class Socket:
    """Refuses every request but those that are not about `name`."""

    def __init__(self, number: int, name: str = "") -> None:
        self.number, self.name = number, name.encode() + b"\0" if name else b""

    def ask(self, request: bytes) -> Message:
        if self.name in request:
            raise Refused("no", self.number)
        return Message(0, 0, 0, memoryview(b""))

    def stream(self, request: bytes) -> Iterator[Message]:
        raise Refused("no", self.number)

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


@pytest.mark.parametrize(
    ("number", "name", "words"),
    [
        (errno.EINVAL, "", "this kernel has no sets of addresses (module ip_set)"),
        (errno.EPERM, "", "sets cannot be asked for: no"),
        (
            wire.IPSET_ERR_FIND_TYPE,
            "hash:ip,port,net",
            "this kernel has no sets of type hash:ip,port,net (module ip_set_hash_ipportnet)",
        ),
        (
            wire.IPSET_ERR_FIND_TYPE,
            "bitmap:port",
            "this kernel has no sets of type bitmap:port (module ip_set_bitmap_port)",
        ),
        (errno.EINVAL, "somebody's", ""),
    ],
)
def test_what_a_kernel_lacks(number: int, name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipset_plane, "NetlinkSocket", lambda: Socket(number, name))
    assert probe() == words


def test_a_kernel_without_netfilter(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Socket:
        raise Unsupported("this kernel has no netlink protocol 12")

    monkeypatch.setattr(ipset_plane, "NetlinkSocket", none)
    assert probe() == "sets cannot be asked for: this kernel has no netlink protocol 12"


def test_a_kernel_without_sets_holds_none_which_is_well_if_none_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ipset_plane, "NetlinkSocket", lambda: Socket(errno.EINVAL))
    plane = IpsetPlane()
    assert plane.read_now() == {}
    assert plane.generation() == plane.generation() == 0
    assert plane.remove() == []
    plane.program = {set_key("KUBE-IPVS-IPS"): Set(HASH_IP, 4)}
    with pytest.raises(Refused):
        plane.read_now()
