"""
A User-mode Linux guest on the host's own files: a kernel that has ip_vs, for tests and benches.

    python -m tests.guest.boot -- COMMAND …     has COMMAND's output and exit code; without one, a shell

The guest is a process; it sees the host's files read-only, has /run for its own and one directory for both,
the scratch. It knows the kernel's command line and the guest's init; of tests it need not know anything.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from kubeway.lab.kernel import die_with

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "linux.uml"
MODULES = "/usr/lib/uml/modules"
# What tests in the guest call, beside what every kernel test does.
TOOLS = (KERNEL, "modprobe", "ipvsadm", "ipset", "iptables-legacy", "conntrack", "ip")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
SCRATCH = Path("/run/scratch")
"""The scratch, as the guest sees it."""
LINE = "/dev/ttyS1"
"""The guest's end of `Guest.line`. For short lines only: it stalls on what does not fit into 4 KiB."""
LAST = 40
"""How many lines are told of a guest that died: a kernel's last words are a trace of calls."""
KEPT = re.compile(r"PATH|HOME|LANG|LC_\w+|TERM|KUBEWAY_\w+")

# /tmp stays the host's: the checkout may lie there. Nothing can be written there, or anywhere but in /run.
# /lib/modules is the host kernel's, if there is one, so modprobe is told of another root, by everybody.
INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /run/tmp /run/scratch /run/modules/lib
mount -t devpts pts /dev/pts
mount -t hostfs none /run/scratch -o {scratch}
ln -s {modules} /run/modules/lib/modules
printf '#!/bin/sh\\nexec /sbin/modprobe -d /run/modules "$@"\\n' > /run/modprobe
chmod +x /run/modprobe
echo /run/modprobe > /proc/sys/kernel/modprobe
{exports}
/run/modprobe -a ipv6 iptable_filter iptable_nat ip6table_filter ip6table_nat
ip link set lo up
cd {cwd}
{command}
echo $? > /run/scratch/status
echo o > /proc/sysrq-trigger
sleep 60
"""
# Raw, or every end of line becomes two characters.
QUIETLY = "stty -F /dev/ttyS0 raw -echo\n{} </dev/null >/dev/ttyS0 2>&1"
AT_TERMINAL = "setsid -c {} </dev/ttyS0 >/dev/ttyS0 2>&1"


class Died(Exception):
    """The guest ended, or does not answer; with the last it said."""


def path() -> str:
    """/usr/sbin is not on every user's path."""
    return f"{os.environ.get('PATH', '')}:{SBIN}"


def reason_to_skip() -> str:
    """Why there can be no guest here; "" if there can."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path()) is None]
    if missing or not Path(MODULES).is_dir():
        return f"not installed: {', '.join(missing) or MODULES}"
    return ""


def _roomy(size: int) -> str:
    """A directory where the guest's memory, a sparse file of `size` bytes, may lie and be executed."""
    for folder in ("/dev/shm", tempfile.gettempdir(), "/var/tmp"):
        with suppress(OSError):
            stat = os.statvfs(folder)
            if (
                os.access(folder, os.W_OK)
                and not stat.f_flag & os.ST_NOEXEC
                and stat.f_bavail * stat.f_frsize > size
            ):
                return folder
    raise Died(f"no room for {size >> 20} MiB of memory in /dev/shm, {tempfile.gettempdir()} or /var/tmp")


class Guest:
    """Runs `argv` in the checkout, as root, from here to the end of the `with`. Died if it cannot start.

    Its output goes to the file `scratch / "out"`, or, `at_terminal`, to this process' own terminal.
    `memory` is in MiB, taken as it is used. `env` goes beside what the guest gets anyway.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        memory: int = 1024,
        at_terminal: bool = False,
    ) -> None:
        room = _roomy(memory << 20)
        self.scratch = Path(tempfile.mkdtemp(prefix="kubeway-guest-"))
        self.line, theirs = socket.socketpair()
        init = self.scratch / "init"
        init.write_text(_init(self.scratch, argv, env or {}, at_terminal=at_terminal))
        init.chmod(0o700)
        with (
            theirs,
            (self.scratch / "out").open("wb") as out,
            (self.scratch / "console").open("wb") as console,
        ):
            serial = "fd:0,fd:1" if at_terminal else f"null,fd:{out.fileno()}"
            words = [
                f"rootfstype=hostfs rootflags=/ ro quiet init={init} mem={memory}M",
                f"umid=guest uml_dir={self.scratch} con=null con0=null,fd:2",
                f"ssl=null ssl0={serial} ssl1=fd:{theirs.fileno()}",
            ]
            self._process = subprocess.Popen(
                [KERNEL, *" ".join(words).split()],
                stdin=None if at_terminal else subprocess.DEVNULL,
                stdout=None if at_terminal else console,
                stderr=console,
                pass_fds=[theirs.fileno(), out.fileno()],
                env={**os.environ, "PATH": path(), "TMPDIR": room},
                # Ctrl-C is for us; we decide when the guest ends. At a terminal it is for the guest.
                process_group=None if at_terminal else 0,
                preexec_fn=partial(_at_birth, os.getpid()),
            )

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hear(self, limit: float) -> str:
        """The next line the guest says on its `LINE`; Died if there is none within `limit` seconds."""
        end = time.monotonic() + limit
        heard = b""
        while not heard.endswith(b"\n"):
            if not select.select([self.line], [], [], 0.2)[0]:
                if self._process.poll() is not None:
                    raise Died(self.words("the guest is gone"))
                if time.monotonic() > end:
                    raise Died(self.words(f"the guest has not answered for {limit:.0f} s"))
                continue
            try:
                part = self.line.recv(1)
            except ConnectionError:
                part = b""
            if not part:
                raise Died(self.words("the guest is gone"))
            heard += part
        return heard.decode().strip()

    def say(self, text: str) -> None:
        """A short line to the guest's `LINE`."""
        try:
            self.line.sendall(f"{text}\n".encode())
        except OSError:
            raise Died(self.words("the guest is gone")) from None

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def status(self) -> int:
        """The exit code of `argv`, when the guest has ended; Died if it never came to one."""
        self._process.wait()
        file = self.scratch / "status"
        text = file.read_text() if file.exists() else ""
        if not text.strip():
            raise Died(self.words("the guest is gone"))
        return int(text)

    def words(self, what: str) -> str:
        """`what` happened, and the last that was said."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)  # its last words may be on their way
        told = [what if self.running else f"{what} ({self._process.returncode})"]
        for name in ("out", "console"):
            lines = (self.scratch / name).read_text(errors="replace").splitlines()
            told += [f"--- the guest's {name}:", *(line.rstrip() for line in lines[-LAST:])] if lines else []
        return "\n".join(told)

    def close(self) -> None:
        """End it, and leave nothing behind."""
        self.line.close()
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        # Each process of the guest is one of the host, and outlives a kernel that could not say good-bye.
        if os.getpgrp() != self._process.pid:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        shutil.rmtree(self.scratch, ignore_errors=True)


def _at_birth(parent: int) -> None:
    die_with(parent, signal.SIGTERM)  # if killed, it would leave its own processes
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a kernel's core is all its memory


def _init(scratch: Path, argv: Sequence[str], env: Mapping[str, str], *, at_terminal: bool) -> str:
    given = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}
    given |= {
        "PATH": f"/run:{path()}",
        "TMPDIR": "/run/tmp",
        "HYPOTHESIS_STORAGE_DIRECTORY": "/run/tmp/hypothesis",
        "PYTHONDONTWRITEBYTECODE": "1",
        **env,
    }
    return INIT.format(
        scratch=shlex.quote(str(scratch)),
        modules=MODULES,
        exports="\n".join(f"export {name}={shlex.quote(value)}" for name, value in given.items()),
        cwd=shlex.quote(str(ROOT)),
        command=(AT_TERMINAL if at_terminal else QUIETLY).format(shlex.join(argv)),
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.guest.boot", description="Run a command in a guest."
    )
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB")
    parser.add_argument("command", nargs="*", help="a shell, if there is none")
    asked = parser.parse_args()
    if why := reason_to_skip():
        print(why, file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    at_terminal = not asked.command
    try:
        with Guest(
            asked.command or ["bash", "--norc"], memory=asked.memory, at_terminal=at_terminal
        ) as guest:
            with (guest.scratch / "out").open("rb") as out:
                going = True
                while going:
                    going = guest.running
                    shutil.copyfileobj(out, sys.stdout.buffer)
                    sys.stdout.flush()
                    time.sleep(0.02)
            return guest.status()
    except Died as died:
        print(died, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
