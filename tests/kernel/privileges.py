"""
What `deploy` gives a process, given to one here: capabilities by setpriv, and in mounts of the process's own
a file system that cannot be written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.test_deploy import container, overlay, unit

ANYBODY: Final = 65532
KUBEWAY: Final = "/opt/kubeway/bin/kubeway"
"""Where a unit expects it. What it does itself first is a test's to do, as it has it somewhere else."""
_NUMBERS: Final = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}

# Arguments: the plan, and the words it ends with. It has no children but those of the plan, as a test looks
# for children. 65 is PR_SET_MDWE, which kernels before 6.3 do not know.
_SEAL: Final = """
import ctypes, json, os, subprocess, sys
plan = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
NEWNS, RDONLY, REMOUNT, BIND, PRIVATE = 0x20000, 0x1, 0x20, 0x1000, 0x44000
def mount(what, path, kind, flags):
    if libc.mount(what, path.encode(), kind, flags, None):
        raise OSError(ctypes.get_errno(), path)
if libc.unshare(NEWNS):
    raise OSError(ctypes.get_errno(), "unshare")
mount(None, "/", None, PRIVATE)
for path in plan["own"]:
    mount(b"none", path, b"tmpfs", 0)
for words in plan["first"]:
    subprocess.run(words, check=True)
for path in plan["sealed"]:
    if not os.path.ismount(path):
        mount(path.encode(), path, None, BIND)
    mount(None, path, None, REMOUNT | BIND | RDONLY)
if plan["no_new_code"]:
    libc.prctl(65, 1, 0, 0, 0)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Given(NamedTuple):
    """`words` run a command with these capabilities and no others, and with no way to get more."""

    capabilities: tuple[str, ...]
    words: list[str]

    @property
    def bits(self) -> str:
        """As /proc/PID/status has them."""
        return f"{sum(1 << _NUMBERS[name] for name in self.capabilities):016x}"


def as_root(*capabilities: str) -> Given:
    kept = only(*capabilities)
    return Given(capabilities, ["setpriv", f"--bounding-set={kept}", "--inh-caps=-all", "--no-new-privs"])


def as_anybody(*capabilities: str) -> Given:
    """Some other user, and the capabilities ambient."""
    kept = only(*capabilities)
    words = ["setpriv", f"--reuid={ANYBODY}", f"--regid={ANYBODY}", "--clear-groups", "--pdeathsig=KILL"]
    words += [f"--bounding-set={kept}", f"--inh-caps={kept}", f"--ambient-caps={kept}", "--no-new-privs"]
    return Given(capabilities, words)


def only(*names: str) -> str:
    """As setpriv has it."""
    return ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in names)])


def sealed(
    *paths: str,
    own: Sequence[str] = (),
    first: Sequence[Sequence[str]] = (),
    no_new_code: bool = False,
) -> list[str]:
    """Words that run a command to which these paths are read-only, with all that is not mounted apart below.

    `own`: paths where there is an empty file system instead of the machine's. `first`: commands that are run
    before anything is read-only. `no_new_code`: memory that was written cannot be run.
    """
    plan = {"own": own, "first": first, "sealed": paths, "no_new_code": no_new_code}
    return [sys.executable, "-I", "-S", "-c", _SEAL, json.dumps(plan)]


def in_the_container(mode: str) -> Given:
    """Root, but without what the container drops; and nothing to write to."""
    context = container(overlay(mode))["securityContext"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert not context["allowPrivilegeEscalation"]
    assert context["readOnlyRootFilesystem"]
    given = as_root(*(f"CAP_{name}" for name in context["capabilities"]["add"]))
    # To a container that is not privileged, the latter two are read-only whatever it asks for.
    return given._replace(words=[*sealed("/", "/proc/sys", "/sys"), *given.words])


def in_the_unit(*over: Path, own: Sequence[str] = ("/run",)) -> Given:
    """The unit's user with its capabilities, where it is forbidden to write; `over`: what is laid over it.

    `own`: where root gets something empty, as what it does first is not to be done to the machine's.
    """
    settings: dict[str, list[str]] = {}
    for file in (unit(), *map(unit, over)):
        for name, values in file.items():
            settings.setdefault(name, []).extend(values)
    capabilities = [name for value in settings["AmbientCapabilities"] for name in value.split()]
    assert settings["AmbientCapabilities"] == settings["CapabilityBoundingSet"]
    assert settings["NoNewPrivileges"] == settings["ProtectKernelTunables"] == ["yes"]
    assert settings["ProtectSystem"] == ["strict"]
    paths, no_new_code = ("/", "/proc/sys", "/sys"), settings["MemoryDenyWriteExecute"] == ["yes"]
    if settings["DynamicUser"][-1] == "yes":
        given = as_anybody(*capabilities)
        return given._replace(words=[*sealed(*paths, no_new_code=no_new_code), *given.words])
    # What is done first is done with all privileges ("+").
    assert settings["User"] == ["root"]
    commands = [command.removeprefix("+").split() for command in settings["ExecStartPre"]]
    first = [command for command in commands if command[0] != KUBEWAY]
    run = sealed(*paths, "/run", own=own, first=first, no_new_code=no_new_code)
    given = as_root(*capabilities)
    return given._replace(words=["env", "-u", "XTABLES_LOCKFILE", *run, *given.words])
