"""Connection tracking is brought to what is wanted: on files like the kernel's, and on the kernel's own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kubeway.errors import Unsupported
from kubeway.model.conntrack import ConntrackSettings
from kubeway.records import Record, SysctlSet
from kubeway.shell.sysctls import is_liberal, machine_cores, set_conntrack

DEFAULTS = ConntrackSettings()


class Machine:
    """The files of a kernel, and what was recorded."""

    def __init__(self, root: Path) -> None:
        self.proc, self.hashsize = root / "netfilter", root / "hashsize"
        self.proc.mkdir()
        self.told: list[Record] = []
        self.hold("nf_conntrack_max", 262_144)
        self.hold("nf_conntrack_tcp_timeout_established", 432_000)
        self.hold("nf_conntrack_tcp_timeout_close_wait", 60)
        self.hashsize.write_text("65536\n")

    def hold(self, name: str, value: int) -> None:
        (self.proc / name).write_text(f"{value}\n")

    def held(self) -> dict[str, str]:
        return {path.name: path.read_text().strip() for path in self.proc.iterdir()}

    def set(self, settings: ConntrackSettings, cores: int) -> None:
        set_conntrack(settings, self.told.append, cores=cores, proc=self.proc, hashsize=self.hashsize)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_differs_is_written_and_told(machine: Machine) -> None:
    machine.set(DEFAULTS, cores=8)
    assert machine.held() == {
        "nf_conntrack_max": "262144",
        "nf_conntrack_tcp_timeout_established": "86400",
        "nf_conntrack_tcp_timeout_close_wait": "3600",
    }
    assert [str(record) for record in machine.told] == [
        f"{machine.proc}/nf_conntrack_tcp_timeout_established set to 86400 (was 432000)",
        f"{machine.proc}/nf_conntrack_tcp_timeout_close_wait set to 3600 (was 60)",
    ]
    machine.told.clear()
    machine.set(DEFAULTS, cores=8)
    assert machine.told == []


def test_what_is_right_is_not_opened_for_writing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.set(DEFAULTS, cores=8)

    def refuse(self: Path, *args: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    machine.set(DEFAULTS, cores=8)
    with pytest.raises(Unsupported) as error:
        machine.set(ConntrackSettings(tcp_close_wait_timeout=61), cores=8)
    assert str(error.value) == (
        f"{machine.proc}/nf_conntrack_tcp_timeout_close_wait: cannot be set to 61 (is 3600): "
        "Read-only file system; run privileged, set it beforehand, or leave it alone with "
        "--conntrack-tcp-timeout-close-wait=0"
    )


def test_the_table_grows_with_the_limit_and_never_shrinks(machine: Machine) -> None:
    machine.set(DEFAULTS, cores=32)
    assert machine.hashsize.read_text() == "262144"
    assert SysctlSet(str(machine.hashsize), 262_144, 65_536) in machine.told
    machine.set(DEFAULTS, cores=2)
    assert machine.held()["nf_conntrack_max"] == "131072"
    assert machine.hashsize.read_text() == "262144"


def test_a_limit_left_alone_leaves_the_table_alone(machine: Machine) -> None:
    machine.hashsize.unlink()
    machine.set(ConntrackSettings(max_per_core=0), cores=32)
    assert machine.held()["nf_conntrack_max"] == "262144"


def test_a_kernel_without_connection_tracking(machine: Machine) -> None:
    (machine.proc / "nf_conntrack_max").unlink()
    with pytest.raises(
        Unsupported, match=r"nf_conntrack_max: there is no such setting; load nf_conntrack"
    ) as error:
        machine.set(DEFAULTS, cores=8)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("--conntrack-max-per-core=0")


def test_a_setting_that_cannot_be_read_is_written(machine: Machine) -> None:
    (machine.proc / "nf_conntrack_max").write_text("lots")
    machine.set(DEFAULTS, cores=8)
    assert machine.held()["nf_conntrack_max"] == "262144"
    assert str(machine.told[0]) == f"{machine.proc}/nf_conntrack_max set to 262144"


def test_the_cores_of_this_machine(tmp_path: Path) -> None:
    online = tmp_path / "online"
    online.write_text("0-5\n")
    assert machine_cores(online) == 6
    for bad in ("", "none"):
        online.write_text(bad)
        assert machine_cores(online) == (os.cpu_count() or 1)
    online.unlink()
    assert machine_cores(online) == (os.cpu_count() or 1)
    assert machine_cores() >= 1


IN_A_NAMESPACE = textwrap.dedent("""
    from kubeway.model.conntrack import ConntrackSettings
    from kubeway.shell.conntrack import Conntrack
    from kubeway.shell.sysctls import PROC, set_conntrack

    told = []
    with Conntrack():
        set_conntrack(ConntrackSettings(
            max_per_core=0, tcp_established_timeout=7201, tcp_close_wait_timeout=61,
            tcp_be_liberal=True, udp_timeout=31, udp_stream_timeout=181,
        ), told.append)
    names = ("tcp_timeout_established", "tcp_timeout_close_wait", "tcp_be_liberal", "udp_timeout",
             "udp_timeout_stream")
    print(len(told), *((PROC / f"nf_conntrack_{name}").read_text().strip() for name in names))
""")


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a network namespace of its own")
def test_the_kernel_takes_them() -> None:
    """In a namespace that ends with the process; its timeouts are its own."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", IN_A_NAMESPACE],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["5", "7201", "61", "1", "31", "181"]


@pytest.mark.parametrize(("held", "liberal"), [("0\n", False), ("1\n", True), ("", False), (None, False)])
def test_whether_the_kernel_is_liberal(tmp_path: Path, held: str | None, liberal: bool) -> None:
    """A kernel that does not say is not."""
    if held is not None:
        (tmp_path / "nf_conntrack_tcp_be_liberal").write_text(held)
    assert is_liberal(tmp_path) is liberal
