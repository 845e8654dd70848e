"""How tools that misbehave are run: none of them may keep us waiting for ever, or leave something behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeway.errors import Lost
from kubeway.shell.xtables_tools import run

MUCH = "x" * 100_000
"""Of this a few are more than any pipe takes at once."""


def shell(script: str, pieces: Iterator[str] | list[str], timeout: float = 60) -> tuple[str, str | None]:
    told, failed = run(["/bin/sh", "-c", script], pieces, timeout)
    return told, failed and failed.words


@pytest.mark.parametrize("where", ["1", "2"])
def test_a_tool_may_say_much_before_it_listens(where: str) -> None:
    script = f"head -c 2000000 /dev/zero | tr '\\0' y >&{where}; cat >/dev/null; exit 1"
    told, words = shell(script, [MUCH] * 30, timeout=20)
    assert len(told if where == "1" else words or "") == 2_000_000


def test_a_tool_that_ends_early_says_why() -> None:
    assert shell("echo no such chain >&2; exit 2", [MUCH] * 30) == ("", "no such chain")


def test_what_a_stopped_tool_started_is_stopped_too(tmp_path: Path) -> None:
    """It may hold the pipe that we are writing to, and nobody would read from that again."""
    # The shell gives what runs beside it no input, but for this descriptor.
    script = f"exec 3<&0; (sleep 20; echo >{tmp_path}/ended) & wait"
    with pytest.raises(Lost):
        shell(script, [MUCH] * 30, timeout=0.5)
    assert not (tmp_path / "ended").exists()


def test_pieces_that_cannot_be_made_end_the_tool() -> None:
    def pieces() -> Iterator[str]:
        yield "*nat\n"
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        shell("cat >/dev/null", pieces())


def test_nothing_stays_open() -> None:
    held = len(os.listdir("/proc/self/fd"))
    for script in ("true", "cat", "exit 3"):
        for _ in range(5):
            shell(script, ["a\n"])
    with pytest.raises(Lost):
        run(["/nowhere/iptables-restore"], [])
    assert len(os.listdir("/proc/self/fd")) == held
