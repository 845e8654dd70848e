"""
The guest itself: what comes out of it, and what is left of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.guest.boot import ROOT, Died, Guest, reason_to_skip

pytestmark = pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip())

CONFTEST = """
import os
from pathlib import Path

from tests.guest.answering import Answerer
from tests.guest.asking import INSIDE, Asker

def pytest_configure(config):
    kind = Answerer if INSIDE in os.environ else Asker
    config.pluginmanager.register(kind(config, Path(__file__).resolve().parent))
"""
TESTS = """
from pathlib import Path

import pytest

@pytest.fixture(scope="session")
def counted():
    yield [0]

@pytest.fixture
def nothing_left():
    yield
    assert False, "left"

@pytest.mark.parametrize("turn", [1, 2])
def test_session(counted, turn):
    counted[0] += 1
    assert counted[0] == turn

def test_kernel():
    assert "User Mode Linux" in Path("/proc/cpuinfo").read_text()

def test_passes(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(OSError):
        Path(__file__).with_name("file").write_text("here")

def test_fails():
    print("what I", "printed")
    found = 2
    assert found == 3

def test_skips():
    pytest.skip("not today")

@pytest.mark.xfail(reason="known", strict=True)
def test_xfails():
    assert False

def test_leaves(nothing_left):
    pass

def test_kills():
    Path("/proc/sysrq-trigger").write_text("c")

def test_never_runs():
    pass
"""
OWNER = """
import time
from tests.guest.boot import LINE, Guest

guest = Guest(["sh", "-c", f"echo up > {LINE}; sleep 1000"])
print(guest.hear(60), flush=True)
time.sleep(1000)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for the scratches, so that guests of others are not taken for ours."""
    folder = tmp_path / "scratches"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def processes(folder: Path) -> list[str]:
    """Those of guests whose scratch is in `folder`."""
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            if f"uml_dir={folder}" in (words := (proc / "cmdline").read_text()):
                found.append(words)
    return found


def bare(folder: Path) -> bool:
    return not list(folder.iterdir()) and not processes(folder)


def test_a_session_on_the_host_tells_what_became_of_tests_in_the_guest(tmp_path: Path, mine: Path) -> None:
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_all.py").write_text(TESTS)
    words = ["-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={folder}", "-v"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, str(folder)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout
    assert done.returncode == 1, told + done.stderr
    assert "3 failed, 5 passed, 1 skipped, 1 xfailed, 1 error" in told, told
    for words in ("assert 2 == 3", "what I printed", "AssertionError: left", "not today"):
        assert words in told
    # The kernel's own words, for the test that killed it and for the one after.
    assert told.count("sysrq triggered crash") >= 2, told
    assert bare(mine)


def test_a_command_has_its_output_and_its_exit_code(mine: Path) -> None:
    words = [
        "sh",
        "-c",
        "modprobe ip_vs && head -1 /proc/net/ip_vs; touch here; echo $1; exit 7",
        "sh",
        "a b",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.guest.boot", "--", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 7, done
    assert "IP Virtual Server version" in done.stdout
    assert "Read-only file system" in done.stdout
    assert done.stdout.endswith("\na b\n")
    assert not (ROOT / "here").exists()
    assert bare(mine)


def test_one_that_is_silent_is_given_up(mine: Path) -> None:
    with (
        Guest(["sh", "-c", "echo before; sleep 1000"]) as guest,
        pytest.raises(Died, match="for 3 s") as told,
    ):
        guest.hear(3)
    assert "before" in str(told.value)
    assert bare(mine)


def test_one_whose_owner_is_killed_does_not_go_on(mine: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], cwd=ROOT, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        assert len(processes(mine)) > 1
        owner.kill()
    end = time.monotonic() + 30
    while processes(mine):
        assert time.monotonic() < end, processes(mine)
        time.sleep(0.05)
