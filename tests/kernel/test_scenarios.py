"""
Every scenario, with real packets, in every mode, by every way into the kernel; the daemon follows manifests.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from kubeway.lab.topology import Lab
from tests.kernel.play import FILES, WAYS, Source, play
from tests.kernel.scenario import load

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path, way: str, lab: Lab, tmp_path: Path, node: None) -> None:
    source = lambda manifests: nullcontext(Source("manifests", manifests))  # noqa: E731
    play(load(path), lab, tmp_path, source, WAYS[way])
