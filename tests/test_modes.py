"""That what docs/modes says is tested is tested: every test it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kubeway.model.balances import BALANCES
from kubeway.planes.relay import balance, entrance
from tests.test_drop_in import METRIC_ROWS

ROOT = Path(__file__).resolve().parent.parent
USERSPACE = (ROOT / "docs" / "modes" / "userspace.md").read_text()
DEFAULT = "tests/kernel/test_relay.py"

# A test by its name, and the file that is said right after it or after others of the same file.
NAMED = [
    (name, match[2] or DEFAULT)
    for match in re.finditer(r"((?:`test_\w+`(?:, | and )?)+)(?: in `(tests/[\w/]+\.py)`)?", USERSPACE)
    for name in re.findall(r"test_\w+", match[1])
]


@pytest.mark.parametrize(("name", "file"), NAMED, ids=[name for name, _ in NAMED])
def test_what_is_named_is_there(name: str, file: str) -> None:
    assert re.search(rf"^(?:async )?def {name}\(", (ROOT / file).read_text(), flags=re.M), file


def test_many_are_named() -> None:
    assert len(NAMED) > 20


def test_files_and_folders_are_there() -> None:
    for path in re.findall(r"`(tests/[\w/.]+)`", USERSPACE):
        assert (ROOT / path).exists(), path


def test_numbers_are_those_of_the_code() -> None:
    assert f"for {balance.DEMOTED:g} s since its last failure" in USERSPACE
    assert f"At most {entrance.WAITING} connections wait" in USERSPACE


def test_all_ways_to_choose_are_told_and_all_metrics_named_are_there() -> None:
    told = re.findall(r"^\| `(\w+)`(?:, if not given)? \| .* \| .* \|$", USERSPACE, flags=re.M)
    assert told[: len(BALANCES)] == list(BALANCES)
    for row in re.findall(r"^\| `(\w+_total|\w+_connections)`", USERSPACE, flags=re.M):
        assert f"kubeway_relay_{row}" in METRIC_ROWS
