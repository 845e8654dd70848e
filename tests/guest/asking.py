"""
On the host: has each test of a folder run inside the guest, and reports what the guest says of it.

The guest boots when the first is wanted and stays until the session ends; there is one for every test
worker that gets such tests. It knows pytest's hooks and the guest; what the tests do it need not know.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.guest.answering import READY
from tests.guest.boot import ROOT, Died, Guest, reason_to_skip

INSIDE = "KUBEWAY_INSIDE"
"""Set in the guest, where tests run for real."""
LONGEST = 300
"""Seconds that a test may take in the guest: its processor is one, and slow."""
GRACE = 60
"""Seconds beyond that until the guest itself is given up."""


class Asker:
    """A pytest plugin, for the tests below `folder`."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._guest: Guest | None = None
        self._gone = ""
        self._number = 0

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        if self._folder not in item.path.parents:
            return
        # Who waits for another test need not hurry: there are limits for that here.
        item.add_marker(pytest.mark.timeout(0), append=False)
        if why := reason_to_skip():
            item.add_marker(pytest.mark.skip(reason=why))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        # One that is to be skipped needs no guest; whether one is to be skipped if (skipif), the guest says.
        if self._folder not in item.path.parents or item.get_closest_marker("skip"):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        try:
            reports = self._ask(item.nodeid, nextitem.nodeid if nextitem else None)
        except Died as died:
            self._gone = str(died)
            self.pytest_unconfigure()
            reports = [_failure(item, self._gone)]
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_unconfigure(self) -> None:
        if self._guest is not None:
            self._guest.close()
            self._guest = None

    def _ask(self, name: str, then: str | None) -> list[pytest.TestReport]:
        """What became of the test `name`. `then` is the next, None if there is none."""
        if self._gone:
            raise Died(self._gone)
        if self._guest is None:
            self._guest = Guest(self._pytest(), env={INSIDE: "1"})
            if (heard := self._guest.hear(LONGEST)) != READY:
                raise Died(self._guest.words(f"the guest says {heard!r}"))
        self._number += 1
        (self._guest.scratch / f"{self._number}.ask").write_bytes(pickle.dumps((name, then)))
        self._guest.say(str(self._number))
        self._guest.hear(LONGEST + GRACE)
        told = pickle.loads((self._guest.scratch / f"{self._number}.told").read_bytes())
        if not told:
            raise Died(self._guest.words(f"the guest has no test {name}"))
        return [self._report(data) for data in told]

    def _report(self, data: dict[str, Any]) -> pytest.TestReport:
        hook = self._config.hook
        report: pytest.TestReport = hook.pytest_report_from_serializable(config=self._config, data=data)
        return report

    def _pytest(self) -> list[str]:
        """A session over all tests of the folder, whose failures look as this one's."""
        option = self._config.option
        words = [sys.executable, "-m", "pytest", str(self._folder), f"--rootdir={self._config.rootpath}"]
        words += ["-c", str(ROOT / "pyproject.toml"), f"--timeout={LONGEST}", "--basetemp=/run/tmp/pytest"]
        words += ["-q", "--color=no", f"--tb={option.tbstyle}", "-p", "no:cacheprovider"]
        words += ["--showlocals"] if option.showlocals else []
        words += ["-v"] * max(option.verbose, 0)
        # What cannot be collected is told of on the host, where it cannot be collected either.
        return [*words, "--continue-on-collection-errors"]


def _failure(item: pytest.Item, words: str) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="failed",
        longrepr=words,
        when="call",
    )
