"""
Records tests/golden/ipset: what the tool sends, seen by strace, and what the kernel answers.

With KUBEWAY_GOLDEN=write they are written anew. Of answers the meaning is compared: they also tell how much
memory a set takes, and the seed of its hash.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kubeway.planes.ipset.lift import lift
from kubeway.shell.netlink import NetlinkSocket
from kubeway.wire import ipset as wire
from kubeway.wire.netlink import Message, messages
from tests.kernel.netns import inside, needs_root
from tests.wire.ipset_golden import ANSWERS, GOLDEN, REQUESTS, golden, meaning

pytestmark = [
    pytest.mark.kernel,
    needs_root,
    pytest.mark.skipif(shutil.which("ipset") is None, reason="not installed: ipset"),
]

WRITE = os.environ.get("KUBEWAY_GOLDEN") == "write"
ASKING = {1, 12, 13}  # what the tool asks for first: the protocol, a set's type, and a type's revision


def record(path: str, told: dict[str, bytes]) -> None:
    (GOLDEN / path).write_text("".join(f"{words}\n{data.hex()}\n" for words, data in told.items()))


@pytest.mark.skipif(shutil.which("strace") is None, reason="not installed: strace")
def test_the_golden_requests_are_what_ipset_sends(tmp_path: Path) -> None:
    told = inside(lambda: {words: sent(words, tmp_path / "trace") for words in REQUESTS})
    if WRITE:
        record("requests", told)
    recorded = golden("requests")
    assert list(told) == list(recorded)
    for words, data in told.items():
        assert meaning(data) == meaning(recorded[words])


def sent(words: str, trace: Path) -> bytes:
    """The request that the tool sends for one command, or for several, as lines to restore."""
    command = ["strace", "-qq", "-o", str(trace), "-e", "trace=sendto", "-e", "write=all", "ipset"]
    lines = None
    if words.startswith(("add", "del")):
        command, lines = [*command, "restore"], words.replace("; ", "\n") + "\n"
    else:
        command += words.split()
    subprocess.run(command, input=lines, text=True, check=True, stdout=subprocess.DEVNULL)
    dumped = re.findall(r"^ \| [0-9a-f]{5}  ((?:[0-9a-f]{2} {1,2}){1,16})", trace.read_text(), re.MULTILINE)
    (request,) = [m for m in messages(bytes.fromhex("".join(dumped))) if m.kind & 0xFF not in ASKING]
    body = bytes(request.body)
    return (16 + len(body)).to_bytes(4, "little") + b"".join(
        (request.kind.to_bytes(2, "little"), request.flags.to_bytes(2, "little"), bytes(8), body)
    )


def test_the_golden_answers_are_what_the_kernel_tells() -> None:
    told = {words: inside(lambda words=words: held(words)) for words in ANSWERS}  # type: ignore[misc]
    if WRITE:
        record("answers", told)
    recorded = golden("answers")
    assert list(told) == list(recorded)
    for words, data in told.items():
        assert read(data) == read(recorded[words])


def held(words: str) -> bytes:
    made, *entries = words.split("; ")
    for line in [f"create A {made}", *(f"add A {entry}" for entry in entries)]:
        subprocess.run(["ipset", *line.split()], check=True)
    with NetlinkSocket() as kernel:
        (told,) = kernel.dump(wire.list_set("A"))
    return bytes(told.body)


def read(body: bytes) -> object:
    answer = Message(0x0607, 2, 1, memoryview(body))
    return wire.read(answer).header, lift([answer])
