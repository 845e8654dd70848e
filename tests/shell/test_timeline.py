from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kubeway import records
from kubeway.shell.timeline import Timeline


def events(path: Path) -> list[dict[str, Any]]:
    """What a viewer reads: the list, which has no end."""
    text = path.read_text()
    assert text.startswith("[\n")
    found: list[dict[str, Any]] = json.loads(text.rstrip().rstrip(",") + "]")
    return found


SYNC = records.Synced(
    3, 1, 2.0, 4.0, names=("shop/cart",), settle_ms=1.0, compile_ms=0.5, link_ms=0.5, took_ms=7.0, lag_ms=10.0
)


def test_a_sync_has_its_stages_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    timeline = Timeline(str(path))
    timeline.record(SYNC)
    timeline.close()
    sync, *stages = events(path)
    assert sync["args"] == {"cause": "change", "changes": 3, "services": 1, "names": ["shop/cart"]}
    assert sync["dur"] == 10_000
    assert [stage["name"] for stage in stages] == ["waiting", "settle", "compile", "link", "write"]
    at = sync["ts"]
    for stage in stages:
        assert stage["ts"] == at
        at += stage["dur"]
    assert at <= sync["ts"] + sync["dur"]


def test_what_went_wrong_is_on_it(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    timeline = Timeline(str(path))
    timeline.record(records.SyncFailed("no answer"))
    timeline.record(records.Listening("healthz", "127.0.0.1:1"))  # of no interest
    timeline.close()
    (event,) = events(path)
    assert (event["name"], event["ph"]) == ("SyncFailed", "i")
    assert "no answer" in event["args"]["message"]


def test_a_long_one_is_begun_anew_and_the_last_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    timeline = Timeline(str(path), most=2000)
    for _ in range(5):
        timeline.record(SYNC)
    timeline.close()
    assert path.stat().st_size < 2500
    assert events(path.with_name("trace.json.1"))


def test_none_is_kept_where_none_is_wanted_or_can_be(tmp_path: Path) -> None:
    for path in ("", str(tmp_path / "missing" / "trace.json")):
        timeline = Timeline(path)
        timeline.record(SYNC)
        timeline.close()
    assert list(tmp_path.iterdir()) == []
