"""Settings as files, in a directory that stands for /proc/sys."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kubeway.errors import Refused
from kubeway.planes.sysctl import (
    ARP_IGNORE,
    IP_FORWARD,
    NAMES,
    ROUTE_LOCALNET,
    VS_CONNTRACK,
    Value,
    value_key,
)
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


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        (VS_CONNTRACK, "load ip_vs beforehand (modprobe ip_vs)"),
        (IP_FORWARD, "run privileged, or set it beforehand"),
        (ARP_IGNORE, "run privileged, set it beforehand, or do without it by --ipvs-strict-arp=false"),
    ],
)
def test_the_way_out_is_each_ones_own(name: str, way_out: str, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        level(SysctlPlane({value_key(name): Value("1")}, tmp_path))
    assert refused.value.words == f"{tmp_path / name}: No such file or directory; {way_out}"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_there_and_cannot_be_written_is_to_be_set_beforehand(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(Refused, match=r"Is a directory; run privileged, (or )?set it beforehand"):
        level(SysctlPlane({value_key(name): Value("1")}, tmp_path))


def test_a_larger_value_is_another(tmp_path: Path) -> None:
    file = tmp_path / ARP_IGNORE
    file.parent.mkdir(parents=True)
    file.write_text("2\n")
    level(SysctlPlane({value_key(ARP_IGNORE): Value("1")}, tmp_path))
    assert file.read_text() == "1"


def test_what_it_is_now_is_told(file: Path, tmp_path: Path) -> None:
    changes = list(diff({KEY: Value("0")}, WANTED))
    file.unlink()
    with pytest.raises(Refused, match=r"route_localnet \(it is 0\): "):
        SysctlPlane(WANTED, tmp_path).write_now(changes)
