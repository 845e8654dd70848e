"""The score by which the kernel chooses whom to end when memory runs out."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeway.records import OomScoreKept, Record
from kubeway.shell.oom import set_oom_score_adj


def test_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "oom_score_adj"
    path.write_text("0\n")
    told: list[Record] = []
    set_oom_score_adj(-999, told.append, path)
    assert (path.read_text(), told) == ("-999", [])


def test_what_is_right_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "oom_score_adj"
    path.write_text("-999\n")
    monkeypatch.setattr(Path, "write_text", None)
    set_oom_score_adj(-999, [].append, path)
    assert path.read_text() == "-999\n"


def test_a_refusal_is_told_and_no_more(tmp_path: Path) -> None:
    told: list[Record] = []
    set_oom_score_adj(-999, told.append, tmp_path / "gone" / "oom_score_adj")
    assert told == [OomScoreKept(-999, "No such file or directory")]
    assert str(told[0]) == "oom_score_adj stays as it is: -999 cannot be set: No such file or directory"


def test_the_process_of_this_test_keeps_its_own() -> None:
    told: list[Record] = []
    own = int(Path("/proc/self/oom_score_adj").read_text())
    set_oom_score_adj(own, told.append)
    assert told == []
