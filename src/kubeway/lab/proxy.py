"""
The real daemon, running inside the lab's node.

It knows kubeway's command line and its health port; the rest it sees from outside.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from kubeway.lab.host import Host, LabError

HEALTH = ("127.0.0.1", 10256)
KUBEWAY = (sys.executable, "-m", "kubeway")


class Proxy:
    """`kubeway run`, from here to the end of the `with`; its output goes to the file `log`.

    `source` is where it hears of the cluster, and `kind` the flag for that: manifests or kubeconfig.
    `within`: words of a command that runs it.
    """

    def __init__(
        self,
        node: Host,
        source: Path,
        log: Path,
        flags: Sequence[str] = (),
        name: str = "node1",
        kind: str = "manifests",
        within: Sequence[str] = (),
    ) -> None:
        self._node = node
        self._log = log
        health = f"{HEALTH[0]}:{HEALTH[1]}"
        with log.open("wb") as out:
            self._process = node.popen(
                [
                    *within,
                    *KUBEWAY,
                    "run",
                    f"--{kind}={source}",
                    f"--hostname-override={name}",
                    f"--healthz-bind-address={health}",
                    *flags,
                ],
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """All it has said so far."""
        return self._log.read_text(errors="replace")

    def wait_ready(self, limit: float = 60.0) -> None:
        """Until /readyz says that all is in the kernel. LabError with its log if that does not come."""
        start = time.monotonic()
        end = start + limit
        while not self._ready():
            if self._process.poll() is not None:
                raise LabError(f"kubeway run ended with {self._process.returncode}: {self.log.strip()}")
            if time.monotonic() > end:
                raise LabError(f"kubeway run is not ready after {limit:.0f} s: {self.log.strip()}")
            # Where it takes long, asking is what makes it take longer: the processor may be one, and slow.
            time.sleep(max(0.01, (time.monotonic() - start) / 20))

    def _ready(self) -> bool:
        try:
            return self._node.fetch(*HEALTH, "/readyz", wait=2).status == 200
        except LabError:
            return False

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self, limit: float = 20.0) -> int:
        """Its exit code, when it has ended by itself."""
        return self._process.wait(limit)

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.wait()

    def stop(self, limit: float = 20.0) -> int:
        """Ask it to end (SIGTERM); its exit code, or LabError if it had to be killed."""
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGTERM)
        try:
            return self._process.wait(limit)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise LabError(
                f"kubeway run did not end within {limit:.0f} s of SIGTERM: {self.log.strip()}"
            ) from None


def cleanup(node: Host) -> None:
    """`kubeway cleanup` in the node. LabError with its words if it fails."""
    node.run([*KUBEWAY, "cleanup"])
