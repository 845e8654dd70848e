"""
Every scenario, with real packets, in the guest.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from kubeway.lab.host import Host
from kubeway.lab.kernel import enter_net
from kubeway.lab.proxy import cleanup
from kubeway.lab.topology import Lab
from kubeway.shell.leftovers import remove
from tests.kernel.play import FILES, IPVS, Source, play
from tests.kernel.scenario import load


def cleaned(node: Host) -> None:
    """What `kubeway cleanup` does, without a process of its own: to start one takes seconds here."""

    def work() -> None:
        enter_net(node.pid)
        remove(everybodys=False)

    with ThreadPoolExecutor(1) as alone:
        alone.submit(work).result()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path, lab: Lab, tmp_path: Path, node: None) -> None:
    source = lambda manifests: nullcontext(Source("manifests", manifests))  # noqa: E731
    # The command itself is played by one of them.
    clean = cleanup if path == FILES[0] else cleaned
    play(load(path), lab, tmp_path, source, IPVS, clean)
