"""
The whole cold start: from starting the process to /readyz, and its memory.

Runs in a network namespace of its own and prints one line of JSON.
"""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time

from bench.worlds import NODE

PORT = 10256
PATIENCE = 300.0


def ready() -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        finally:
            connection.close()
    except OSError:
        return False


def memory(pid: int) -> int:
    """The most memory the process has had, in MiB."""
    with open(f"/proc/{pid}/status") as file:
        (line,) = [line for line in file if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def start(path: str) -> dict[str, float]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    command = [sys.executable, "-m", "kubeway", "run", "--manifests", path, "--hostname-override", NODE]
    command += ["--cluster-cidr", "10.128.0.0/10", "--healthz-bind-address", f"127.0.0.1:{PORT}"]
    began = time.perf_counter()
    daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not ready():
            if daemon.poll() is not None or time.perf_counter() - began > PATIENCE:
                raise SystemExit("the daemon did not become ready")
            time.sleep(0.005)
        took = time.perf_counter() - began
        peak = memory(daemon.pid)
        began = time.perf_counter()
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(PATIENCE)
        return {"ready": took, "peak": peak, "end": time.perf_counter() - began}
    finally:
        daemon.kill()
        daemon.wait()


if __name__ == "__main__":
    print(json.dumps(start(sys.argv[1])))
