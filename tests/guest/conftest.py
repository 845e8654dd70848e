"""
Tests here run in a User-mode Linux guest, where there is ip_vs; the host only asks how they ended.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.guest.answering import Answerer
from tests.guest.asking import INSIDE, Asker
from tests.kernel.conftest import lab, node, place

__all__ = ["lab", "node", "place"]  # the same lab, in the guest


def pytest_configure(config: pytest.Config) -> None:
    kind = Answerer if INSIDE in os.environ else Asker
    config.pluginmanager.register(kind(config, Path(__file__).resolve().parent))
