"""
Inside the guest: one pytest session that runs the tests it is told of, as it is told of them.

A request is a number on the line, and a file of that number in the scratch that names the test and the next;
so is the answer, whose file holds pytest's reports. It need not know who asks.
"""

from __future__ import annotations

import os
import pickle
import tty
from pathlib import Path
from typing import Any

import pytest

from tests.guest.boot import LINE, SCRATCH

READY = "ready"


class Rest(pytest.Item):
    """Stands for whatever test comes next: of a module it needs nothing, of the session everything."""

    def runtest(self) -> None:
        raise AssertionError("this is no test")


class Answerer:
    """A pytest plugin, for the tests below `folder`."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._reports: list[dict[str, Any] | None] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        with open(LINE, "r+b", buffering=0) as line:
            tty.setraw(line)
            line.write(f"{READY}\n".encode())
            while number := _number(line.fileno()):
                name, then = pickle.loads((SCRATCH / f"{number}.ask").read_bytes())
                if item := items.get(name):
                    self._run(item, items.get(then) or self._rest(item, last=then is None))
                (SCRATCH / f"{number}.told").write_bytes(pickle.dumps(self._reports))
                self._reports = []
                line.write(f"{number}\n".encode())
        return True

    def _run(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        self._config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)

    def _rest(self, item: pytest.Item, *, last: bool) -> pytest.Item | None:
        if last:
            return None
        folder = next(node for node in item.listchain() if node.path == self._folder)
        return Rest.from_parent(folder, name="rest")  # type: ignore[no-any-return]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        hook = self._config.hook
        self._reports.append(hook.pytest_report_to_serializable(config=self._config, report=report))


def _number(line: int) -> str:
    """The next request's number; "" when nobody asks any more."""
    heard = b""
    while not heard.endswith(b"\n"):
        part = os.read(line, 1)
        if not part:
            return ""
        heard += part
    return heard.decode().strip()
