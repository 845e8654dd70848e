"""
Every scenario, with real packets; the daemon follows manifests.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from kubeway.lab.topology import Lab
from tests.kernel.play import FILES, Source, play
from tests.kernel.scenario import load

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path, lab: Lab, tmp_path: Path, node: None) -> None:
    play(load(path), lab, tmp_path, lambda manifests: nullcontext(Source("manifests", manifests)))
