"""Without the right to write rules, one clear line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kubeway.errors import Unsupported
from kubeway.shell import xtables_lock
from kubeway.shell.privilege import need_net_admin, need_net_raw

ADMIN, RAW = (need_net_admin, "CAP_NET_ADMIN"), (need_net_raw, "CAP_NET_RAW")


@pytest.mark.parametrize(
    ("need", "name", "effective"),
    [
        (*ADMIN, "0000000000000000"),
        (*ADMIN, "000001ffffffefff"),
        (*RAW, "0000000000001000"),
        (*RAW, "000001ffffffdfff"),
    ],
)
def test_without_it(tmp_path: Path, need: Callable[[str], None], name: str, effective: str) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tpython\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective}\n")
    with pytest.raises(Unsupported, match=rf"{name}\b.*: run as root, or in a container with") as error:
        need(str(status))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("need", "effective"),
    [
        (need_net_admin, "0000000000001000"),
        (need_net_admin, "000001ffffffffff"),
        (need_net_raw, "0000000000003000"),
    ],
)
def test_with_it(tmp_path: Path, need: Callable[[str], None], effective: str) -> None:
    status = tmp_path / "status"
    status.write_text(f"CapEff:\t{effective}\n")
    need(str(status))


def test_a_lock_that_is_not_there_yet_may_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "nowhere" / "lock"))
    xtables_lock.need()


def test_a_lock_of_others_never_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))

    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(xtables_lock.os, "open", refused)
    with pytest.raises(Unsupported, match=r"^the xtables lock \S+/lock cannot be opened: .*run as root"):
        xtables_lock.need()
