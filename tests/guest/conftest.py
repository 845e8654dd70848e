"""
Tests here run in a User-mode Linux guest, where there is ip_vs; the host only asks how they ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeway.lab.topology import Lab
from tests.guest.answering import Answerer
from tests.guest.asking import INSIDE, Asker
from tests.guest.witness import placed
from tests.kernel.conftest import lab, node, place
from tests.kernel.place import Place

__all__ = ["lab", "node", "place"]  # the same lab, in the guest


def pytest_configure(config: pytest.Config) -> None:
    kind = Answerer if INSIDE in os.environ else Asker
    config.pluginmanager.register(kind(config, Path(__file__).resolve().parent))


@pytest.fixture
def balanced(lab: Lab, tmp_path: Path) -> Iterator[Place]:
    """A folder of manifests for ipvs mode; the node is bare afterwards."""
    with placed(lab, tmp_path) as place:
        yield place
