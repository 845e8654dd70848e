"""
Every scenario, with real packets, in every mode, by every way into the kernel; the daemon follows manifests.

A way that differs from another in its rules alone plays some of them; all with KUBEWAY_SCENARIOS=all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from kubeway.lab.topology import Lab
from tests.kernel.play import FILES, WAYS, Source, play
from tests.kernel.scenario import load

pytestmark = pytest.mark.kernel


# Each has something that no other of them has: who is hidden or kept out, what is refused, both families.
SOME = {
    "userspace-xtables": {
        "clusterip",
        "dual-stack",
        "external-local",
        "hairpin",
        "nodeport",
        "no-endpoints",
        "sctp",
        "source-ranges",
    }
}


def played() -> Iterator[tuple[Path, str]]:
    everything = os.environ.get("KUBEWAY_SCENARIOS") == "all"
    for way in WAYS:
        for path in FILES:
            if everything or path.stem in SOME.get(way, {path.stem}):
                yield path, way


@pytest.mark.parametrize(
    ("path", "way"), [pytest.param(path, way, id=f"{path.stem}-{way}") for path, way in played()]
)
def test_scenario(path: Path, way: str, lab: Lab, tmp_path: Path, node: None) -> None:
    source = lambda manifests: nullcontext(Source("manifests", manifests))  # noqa: E731
    play(load(path), lab, tmp_path, source, WAYS[way])
