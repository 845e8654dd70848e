"""Settings as files, in a directory that stands for /proc/sys."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kubeway.errors import Refused
from kubeway.planes.sysctl import ROUTE_LOCALNET, Value, value_key
from kubeway.program.plan import diff
from kubeway.program.program import Key, Object
from kubeway.shell.sysctl_plane import SysctlPlane

KEY = value_key(ROUTE_LOCALNET)
WANTED: dict[Key, Object] = {KEY: Value("1")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / ROUTE_LOCALNET
    file.parent.mkdir(parents=True)
    file.write_text("0\n")
    return file


def level(plane: SysctlPlane) -> None:
    plane.write_now(list(diff(plane.read_now(), plane.program)))


def test_what_is_wanted_is_read_and_set(file: Path, tmp_path: Path) -> None:
    plane = SysctlPlane(WANTED, tmp_path)
    assert plane.read_now() == {KEY: Value("0")}
    level(plane)
    assert file.read_text() == "1"
    assert plane.read_now() == WANTED


def test_what_is_as_wanted_is_not_written(file: Path, tmp_path: Path) -> None:
    """Who may not write is spared it if the value was set beforehand."""
    file.write_text("1\n")
    level(SysctlPlane(WANTED, tmp_path))
    assert file.read_text() == "1\n"


def test_what_is_not_wanted_is_left_alone(file: Path, tmp_path: Path) -> None:
    file.write_text("1\n")
    plane = SysctlPlane({}, tmp_path)
    assert plane.read_now() == {}
    plane.write_now(list(diff(WANTED, {})))
    assert file.read_text() == "1\n"


def test_what_cannot_be_set_is_refused_with_the_way_out(file: Path, tmp_path: Path) -> None:
    file.unlink()
    plane = SysctlPlane(WANTED, tmp_path)
    with pytest.raises(Refused) as refused:
        level(plane)
    assert refused.value.errno == errno.ENOENT
    assert refused.value.key == KEY
    assert not file.exists()
    said = str(refused.value)
    assert said == (
        f"refused: set sysctl {ROUTE_LOCALNET} to 1 -> {file}: No such file or directory; run privileged, "
        "set it beforehand, or do without it by --iptables-localhost-nodeports=false"
    )


def test_what_it_is_now_is_told(file: Path, tmp_path: Path) -> None:
    changes = list(diff({KEY: Value("0")}, WANTED))
    file.unlink()
    with pytest.raises(Refused, match=r"route_localnet \(it is 0\): "):
        SysctlPlane(WANTED, tmp_path).write_now(changes)
