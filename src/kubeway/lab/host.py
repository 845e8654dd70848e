"""
A host of the lab, as the lab sees it: a handle to the process that lives in its namespace.

Everything here waits for its answer; one thread uses a host at a time.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
from msgspec import Struct

from kubeway.errors import KubewayError, Lost

PATIENCE = 60.0
"""Seconds a host may take for a request, beyond what the request itself allows."""


def python(module: str, *arguments: object) -> list[str]:
    """The words that run `main` of one of the lab's modules.

    -I and -S: none of the user's settings and no site packages; it needs none and
    starts twice as fast. The package is found where this file is, however it was installed.
    """
    home = str(Path(__file__).parents[2])
    boot = f"import sys; sys.path.append({home!r}); from kubeway.lab.{module} import main; main()"
    return [sys.executable, "-I", "-S", "-c", boot, *map(str, arguments)]


class LabError(KubewayError):
    """A host could not do what it was asked."""


class Answer(Struct, frozen=True):
    """How one question ended.

    `kind` is answered, refused, timeout, or `failed: …` with the kernel's words.
    `source` is the client's own `ip:port`; `client` is the one the server saw,
    `server` the server's own, `name` what it is called: "" unless answered.
    """

    kind: str
    source: str = ""
    name: str = ""
    client: str = ""
    server: str = ""

    @property
    def masqueraded(self) -> bool:
        """Whether the server saw another address than the client's own. Ports may always differ."""
        return self.kind == "answered" and self.source.rpartition(":")[0] != self.client.rpartition(":")[0]


class Question(Struct, frozen=True):
    """Whom to ask: address, port and protocol (TCP, UDP or SCTP).

    `source` and `sport` are where to ask from, if that is not left to the kernel;
    `wait` is how many seconds to wait for an answer.
    """

    to: str
    port: int
    proto: str = "TCP"
    source: str = ""
    sport: int = 0
    wait: float = 5.0


class Page(Struct, frozen=True):
    """An HTTP answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: str


class Tally(Struct, frozen=True):
    """What came of a flood so far: counts by server name, and by kind of what was not answered."""

    sent: int
    answered: dict[str, int]
    lost: dict[str, int]
    losses: list[Answer]
    slowest: float


class Flood:
    """Questions that go on in the background until `stop`."""

    def __init__(self, host: Host, number: int) -> None:
        self._host = host
        self._number = number

    def report(self) -> Tally:
        return msgspec.convert(self._host.call("flood-report", number=self._number), Tally)

    def stop(self) -> Tally:
        return msgspec.convert(self._host.call("flood-stop", number=self._number), Tally)


class Host:
    """Starts at once, and is there after `settle`."""

    def __init__(self, name: str) -> None:
        self.name = name
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                python("resident", theirs.fileno()),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        ours.settimeout(PATIENCE)
        self._control = ours
        self._replies = ours.makefile("rb")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def net(self) -> Path:
        """Its network namespace, as a path."""
        return Path(f"/proc/{self.pid}/ns/net")

    def settle(self) -> None:
        """Wait until the namespace is there."""
        self._reply()

    def call(self, do: str, **arguments: Any) -> Any:
        """Have the resident do it; its result. LabError in the resident's words."""
        try:
            self._control.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
        except OSError as error:
            raise Lost(f"host {self.name} is gone: {error}") from None
        return self._reply()

    def _reply(self) -> Any:
        try:
            line = self._replies.readline()
        except OSError as error:
            raise Lost(f"host {self.name} does not answer: {error}") from None
        if not line:
            raise Lost(f"host {self.name} is gone")
        reply = json.loads(line)
        if "error" in reply:
            raise LabError(f"host {self.name}: {reply['error']}")
        return reply["ok"]

    def serve(self, name: str, proto: str, ip: str, port: int) -> None:
        """Answer on this address as `name` from now on; `proto` is TCP, UDP or SCTP."""
        self.call("serve", name=name, proto=proto, ip=ip, port=port)

    def leave(self, proto: str, ip: str, port: int) -> None:
        """Answer there no more; what is not served is well."""
        self.call("leave", proto=proto, ip=ip, port=port)

    def ask_all(self, questions: Sequence[Question], at_once: int = 1) -> list[Answer]:
        """Ask each from a new socket, `at_once` together (one by one when that is 1); answers in order."""
        asked = self.call("ask", questions=msgspec.to_builtins(questions), at_once=at_once)
        return msgspec.convert(asked, list[Answer])

    def ask(
        self, to: str, port: int, proto: str = "TCP", *, source: str = "", sport: int = 0, wait: float = 5.0
    ) -> Answer:
        """Ask once."""
        return self.ask_all([Question(to, port, proto, source, sport, wait)])[0]

    def ask_many(
        self,
        n: int,
        to: str,
        port: int,
        proto: str = "TCP",
        *,
        source: str = "",
        sport: int = 0,
        wait: float = 5.0,
        at_once: int = 1,
    ) -> list[Answer]:
        """Ask the same `n` times."""
        return self.ask_all([Question(to, port, proto, source, sport, wait)] * n, at_once)

    def flood(
        self,
        to: str,
        port: int,
        proto: str = "TCP",
        *,
        at_once: int = 2,
        gap: float = 0.001,
        wait: float = 5.0,
    ) -> Flood:
        """Go on asking: `at_once` clients, each again `gap` seconds after its last answer."""
        question = msgspec.to_builtins(Question(to, port, proto, wait=wait))
        return Flood(self, self.call("flood", at_once=at_once, gap=gap, **question))

    def quiet(self) -> None:
        """End all floods, whoever began them; those that have ended are well."""
        self.call("quiet")

    def fetch(self, ip: str, port: int, path: str, wait: float = 5.0) -> Page:
        """An HTTP GET. LabError if nobody answers."""
        return msgspec.convert(self.call("fetch", ip=ip, port=port, path=path, wait=wait), Page)

    def sysctl(self, settings: Mapping[str, object]) -> None:
        """Set `net.…` values of this host's namespace."""
        self.call("sysctl", settings=dict(settings))

    def popen(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program inside the host; it is killed when the thread that started it ends."""
        return subprocess.Popen(
            python("enter", os.getpid(), self.pid, *argv),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **env} if env else None,
        )

    def run(
        self, argv: Sequence[str], *, stdin: str = "", check: bool = True, timeout: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside the host to its end. LabError with its words if it fails and `check`."""
        try:
            done = subprocess.run(
                ["nsenter", "-t", str(self.pid), "-n", "--", *argv],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError:
            raise LabError("nsenter is not installed (Debian: util-linux)") from None
        if check and done.returncode:
            raise LabError(f"host {self.name}: {' '.join(argv)}: {done.stderr.strip() or done.returncode}")
        return done

    def ip(self, lines: Sequence[str]) -> None:
        """Configure links, addresses and routes: lines as `ip -batch` takes them."""
        self.run(["ip", "-batch", "-"], stdin="\n".join(lines) + "\n")

    def close(self) -> None:
        """End the host; its namespace and links go with it."""
        self._replies.close()
        self._control.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
