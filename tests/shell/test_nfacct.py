"""The nfacct plane on a kernel that has no accounting objects; with those that have, in tests/kernel."""

from __future__ import annotations

import errno
from types import TracebackType
from typing import Self

import pytest

from kubeway.errors import Lost, Refused
from kubeway.planes import nfacct as plane
from kubeway.shell import nfacct
from kubeway.shell.nfacct import NfacctPlane


class Without:
    """A socket of a kernel without the subsystem."""

    answer: Exception = Refused("Invalid argument (EINVAL)", errno.EINVAL)

    def dump(self, request: bytes) -> None:
        raise self.answer

    ask = dump

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@pytest.fixture(autouse=True)
def without(monkeypatch: pytest.MonkeyPatch) -> type[Without]:
    monkeypatch.setattr(nfacct, "NetlinkSocket", Without)
    return Without


def test_it_holds_none() -> None:
    assert NfacctPlane({}).read_now() == {}


def test_it_is_told_if_one_is_wanted() -> None:
    with pytest.raises(Refused, match="EINVAL"):
        NfacctPlane({plane.counter_key(plane.INVALID): plane.COUNTER}).read_now()


@pytest.mark.parametrize(
    ("answer", "has"),
    [
        (Refused("No such file or directory (ENOENT)", errno.ENOENT), True),
        (Refused("Operation not permitted (EPERM)", errno.EPERM), False),
        (Lost("no answer"), False),
    ],
)
def test_probing(
    without: type[Without], monkeypatch: pytest.MonkeyPatch, answer: Exception, has: bool
) -> None:
    monkeypatch.setattr(without, "answer", answer)
    assert nfacct.probe() is has
