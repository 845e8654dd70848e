"""
A world from manifests alone, for the commands that ask what would be.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kubeway.errors import BadInput
from kubeway.model.node import Options
from kubeway.model.store import Store
from kubeway.records import ManifestBad, Record
from kubeway.shell import asked
from kubeway.shell.logs import one_line
from kubeway.shell.manifests import Manifests
from kubeway.shell.options import model_options
from kubeway.views.compile import World, settle


def program_options(given: asked.Given) -> Options:
    """What the flags say of a node's program. What is noteworthy of them goes to stderr."""
    said = asked.settle(given)
    for note in said.notes:
        print(f"kubeway: {one_line(note)}", file=sys.stderr)
    return model_options(said.configuration)


def settled(manifests: Sequence[str], options: Options, node: str) -> World:
    """The manifests as the daemon on this node would see them.

    What it would report of objects goes to stderr; a file it could not read is BadInput.
    """

    def record(record: Record) -> None:
        if isinstance(record, ManifestBad):
            raise BadInput(record.problem)
        if record.level != "debug":
            print(f"kubeway: {record.level}: {record}", file=sys.stderr)

    store = Store()
    Manifests(manifests, store, record).load()
    return settle(store.snapshot(), options, node)
