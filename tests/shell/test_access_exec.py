"""Credential plugins: small scripts that hand out credentials, or fail to."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from kubeway.errors import BadInput
from kubeway.shell.access_exec import Issued, run_exec
from kubeway.shell.access_kubeconfig import Chosen, Cluster, EnvVar, Exec, Extension, User

V1 = "client.authentication.k8s.io/v1"
BETA = "client.authentication.k8s.io/v1beta1"
AT = "kubeconfig K: users[u].user"


class Plugins:
    """A directory with a kubeconfig's place and plugins beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def script(self, name: str, body: str) -> Path:
        path = self.root / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    def chosen(self, plugin: Exec, cluster: Cluster | None = None) -> Chosen:
        return Chosen(
            self.root / "config",
            cluster or Cluster(),
            "kubeconfig K: clusters[c].cluster",
            User(exec=plugin),
            AT,
        )

    def run(
        self,
        body: str,
        *,
        cluster: Cluster | None = None,
        ca: bytes = b"",
        patience: float = 60,
        **fields: Any,
    ) -> Issued:
        fields = {"api_version": V1, "interactive_mode": "Never"} | fields
        plugin = Exec(command=str(self.script("plugin", body)), **fields)
        environ = {"PATH": os.environ["PATH"], "FROM_OUTSIDE": "outside"}
        return asyncio.run(run_exec(plugin, self.chosen(plugin, cluster), ca, environ, patience))


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    return Plugins(tmp_path)


def credential(version: str = V1, **status: str) -> str:
    return json.dumps({"kind": "ExecCredential", "apiVersion": version, "status": status})


def prints(text: str) -> str:
    return f"cat <<'END'\n{text}\nEND"


# --- what is handed out ----------------------------------------------------------------


@pytest.mark.parametrize("version", [V1, BETA])
def test_a_token(plugins: Plugins, version: str) -> None:
    assert plugins.run(prints(credential(version, token="t0k")), api_version=version) == Issued("t0k")


def test_a_token_with_a_time(plugins: Plugins) -> None:
    out = credential(token="t", expirationTimestamp="2026-11-22T12:00:00Z")
    assert plugins.run(prints(out)).expires == 1_795_348_800
    out = credential(token="t", expirationTimestamp="2026-11-22T13:00:00.5+01:00")
    assert plugins.run(prints(out)).expires == 1_795_348_800.5


def test_a_certificate(plugins: Plugins) -> None:
    out = credential(clientCertificateData="CERT\n", clientKeyData="KEY\n")
    assert plugins.run(prints(out)) == Issued("", b"CERT\n", b"KEY\n")


def test_a_beta_plugin_need_not_say_whether_it_asks(plugins: Plugins) -> None:
    assert plugins.run(prints(credential(BETA, token="t")), api_version=BETA, interactive_mode="")


# --- what it is given --------------------------------------------------------------------


def test_arguments_and_environment(plugins: Plugins) -> None:
    body = (
        """printf '{"kind":"ExecCredential","apiVersion":"%s","status":{"token":"%s"}}' """
        f"""'{V1}' "$1-$2-$FROM_OUTSIDE-$OWN" """
    )
    issued = plugins.run(body, args=("a b".replace(" ", "_"), "c"), env=(EnvVar("OWN", "own"),))
    assert issued.token == "a_b-c-outside-own"


def info(plugins: Plugins, **fields: Any) -> Any:
    told = plugins.root / "told"
    plugins.run(f'printf %s "$KUBERNETES_EXEC_INFO" > {told}; ' + prints(credential(token="t")), **fields)
    return json.loads(told.read_text())


def test_what_it_is_told(plugins: Plugins) -> None:
    assert info(plugins) == {"kind": "ExecCredential", "apiVersion": V1, "spec": {"interactive": False}}


def test_what_it_is_told_of_the_cluster(plugins: Plugins) -> None:
    cluster = Cluster(
        server="https://api:6443",
        tls_server_name="kubernetes",
        proxy_url="http://p:3128",
        extensions=(Extension("other", 1), Extension("client.authentication.k8s.io/exec", {"audience": "x"})),
    )
    told = info(plugins, cluster=cluster, ca=b"CA", provide_cluster_info=True)
    assert told["spec"] == {
        "interactive": False,
        "cluster": {
            "server": "https://api:6443",
            "tls-server-name": "kubernetes",
            "certificate-authority-data": base64.b64encode(b"CA").decode(),
            "proxy-url": "http://p:3128",
            "config": {"audience": "x"},
        },
    }


def test_it_gets_no_input(plugins: Plugins) -> None:
    assert plugins.run("cat; " + prints(credential(token="t"))).token == "t"


def test_it_may_say_much(plugins: Plugins) -> None:
    """More than a pipe holds, on the one it is not asked on."""
    assert plugins.run("head -c 300000 /dev/zero >&2; " + prints(credential(token="t"))).token == "t"


def test_a_command_beside_the_kubeconfig(plugins: Plugins) -> None:
    plugins.script("beside", prints(credential(token="t")))
    plugin = Exec(command="./beside", api_version=V1, interactive_mode="Never")
    assert asyncio.run(run_exec(plugin, plugins.chosen(plugin), b"", {})).token == "t"


def test_a_command_of_the_path(plugins: Plugins) -> None:
    plugin = Exec(command="echo", args=(credential(token="t"),), api_version=V1, interactive_mode="Never")
    environ = {"PATH": os.environ["PATH"]}
    assert asyncio.run(run_exec(plugin, plugins.chosen(plugin), b"", environ)).token == "t"


# --- what fails, in one line ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("exit 3", "failed with exit code 3"),
        ("echo one >&2; echo 'no login' >&2; exit 1", "failed with exit code 1: no login"),
        ("kill -9 $$", "failed with signal 9"),
        ("true", "printed no ExecCredential in JSON: Input data was truncated"),
        (
            prints("s3cret"),
            "printed no ExecCredential in JSON: JSON is malformed: invalid character (byte 0)",
        ),
        (
            prints('{"status": {"token": 5}}'),
            "printed no ExecCredential in JSON: Expected `str | null`, got `int`",
        ),
        (prints("{}"), f"printed something without kind, not {V1} ExecCredential"),
        (prints(credential(BETA, token="t")), f"printed {BETA} ExecCredential, not {V1} ExecCredential"),
        (prints(credential()), "printed neither status.token nor status.clientCertificateData"),
        (
            prints(credential(clientKeyData="k")),
            "printed a certificate without its key, or a key without its certificate",
        ),
        (
            prints(credential(token="t", expirationTimestamp="soon")),
            "printed no ExecCredential in JSON: Invalid RFC3339 encoded datetime",
        ),
        (
            prints(credential(token="a\nb")),
            ": status.token: holds no token: there are spaces or control characters inside",
        ),
    ],
)
def test_a_plugin_that_hands_out_nothing_good(plugins: Plugins, body: str, problem: str) -> None:
    with pytest.raises(BadInput) as error:
        plugins.run(body)
    at = f"{AT}.exec: {plugins.root}/plugin"
    assert str(error.value).startswith(at + ("" if problem.startswith(":") else " ") + problem)
    assert "\n" not in str(error.value)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"command": ""}, ".command: missing; name the plugin's program"),
        ({"api_version": "v1alpha1"}, f".apiVersion: 'v1alpha1' is none of {V1}, {BETA}"),
        ({"interactive_mode": ""}, ".interactiveMode: missing; give one of Never, IfAvailable, Always"),
        ({"interactive_mode": "No"}, ".interactiveMode: 'No' is none of Never, IfAvailable, Always"),
        (
            {"interactive_mode": "Always"},
            ".interactiveMode: Always needs a terminal, which a daemon has not; give Never",
        ),
        ({"env": (EnvVar("", "x"),)}, ".env: a variable has no name"),
        (
            {"command": "/nowhere/plugin"},
            ".command: /nowhere/plugin cannot be run: No such file or directory",
        ),
        (
            {"command": "kubeway-no-such-plugin", "install_hint": "get it\n"},
            ".command: kubeway-no-such-plugin cannot be run: No such file or directory (get it)",
        ),
    ],
)
def test_a_plugin_that_cannot_be_run(plugins: Plugins, fields: dict[str, Any], problem: str) -> None:
    plugin = Exec(**{"command": "true", "api_version": V1, "interactive_mode": "Never"} | fields)
    with pytest.raises(BadInput) as error:
        asyncio.run(run_exec(plugin, plugins.chosen(plugin), b"", {"PATH": os.environ["PATH"]}))
    assert str(error.value) == f"{AT}.exec{problem}"


# --- what hangs, is ended ---------------------------------------------------------------------


def gone(pid: int) -> bool:
    """Whether this process has ended; one that nobody waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until_gone(pid: int) -> None:
    end = time.monotonic() + 30
    while not gone(pid):
        assert time.monotonic() < end, f"process {pid} still runs"
        time.sleep(0.01)


def test_a_plugin_that_does_not_end_is_ended_with_its_children(plugins: Plugins) -> None:
    pids = plugins.root / "pids"
    with pytest.raises(BadInput, match=r"plugin did not end within 0\.5 s$"):
        plugins.run(f"sleep 600 & echo $$ $! > {pids}; wait", patience=0.5)
    for pid in map(int, pids.read_text().split()):
        until_gone(pid)


def test_a_plugin_that_is_no_longer_wanted_is_ended(plugins: Plugins) -> None:
    pids = plugins.root / "pids"
    path = plugins.script("plugin", f"echo $$ > {pids}.new; mv {pids}.new {pids}; exec sleep 600")
    plugin = Exec(command=str(path), api_version=V1, interactive_mode="Never")

    async def cancel() -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(run_exec(plugin, plugins.chosen(plugin), b"", dict(os.environ)))
            async with asyncio.timeout(30):
                while not pids.exists():  # noqa: ASYNC110 (it is another process that makes it)
                    await asyncio.sleep(0.01)
            task.cancel()

    asyncio.run(cancel())
    until_gone(int(pids.read_text()))
