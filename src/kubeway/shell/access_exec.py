"""
Credential plugins: a command is run and prints credentials (client.authentication.k8s.io).

Knows the protocol of versions v1 and v1beta1; need not know what the credentials are
used for, nor when they are asked for again. A daemon has no terminal, so a plugin gets
no input and a limited time.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct, field

from kubeway.errors import BadInput
from kubeway.shell.access_kubeconfig import Chosen, Exec, checked_token

PATIENCE: Final = 60.0
"""How long a plugin may take. It may have to ask somebody over the network; it may also wait for ever."""

_GROUP: Final = "client.authentication.k8s.io"
_VERSIONS: Final = (f"{_GROUP}/v1", f"{_GROUP}/v1beta1")
_MODES: Final = ("Never", "IfAvailable", "Always")
_MOST_WORDS: Final = 300


class Issued(Struct, frozen=True):
    """What a plugin handed out. `expires` is seconds since 1970; None: when they are refused."""

    token: str = ""
    certificate: bytes = b""
    key: bytes = b""
    expires: float | None = None


class _Status(Struct, frozen=True, rename="camel"):
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: Annotated[datetime, Meta(tz=True)] | None = None


class _Credential(Struct, frozen=True):
    kind: str = ""
    api_version: str = field(default="", name="apiVersion")
    status: _Status | None = None


def check_exec(plugin: Exec, at: str) -> None:
    """BadInput if this plugin could never be run."""
    if not plugin.command:
        raise BadInput(f"{at}.command: missing; name the plugin's program")
    if plugin.api_version not in _VERSIONS:
        raise BadInput(f"{at}.apiVersion: {plugin.api_version!r} is none of {', '.join(_VERSIONS)}")
    mode = plugin.interactive_mode
    if not mode and plugin.api_version == _VERSIONS[0]:
        raise BadInput(f"{at}.interactiveMode: missing; give one of {', '.join(_MODES)}")
    if mode and mode not in _MODES:
        raise BadInput(f"{at}.interactiveMode: {mode!r} is none of {', '.join(_MODES)}")
    if mode == "Always":
        raise BadInput(f"{at}.interactiveMode: Always needs a terminal, which a daemon has not; give Never")
    if not all(each.name for each in plugin.env):
        raise BadInput(f"{at}.env: a variable has no name")


async def run_exec(
    plugin: Exec, chosen: Chosen, ca: bytes, environ: Mapping[str, str], patience: float = PATIENCE
) -> Issued:
    """Run the plugin and return what it hands out. BadInput in one line if it hands out nothing good.

    A command with a slash that is relative starts at the kubeconfig. Cancelled or
    out of time, the plugin and what it started are ended.
    """
    at = f"{chosen.user_at}.exec"
    check_exec(plugin, at)
    # A name without a slash is looked for in PATH.
    command = str(chosen.file(plugin.command)) if "/" in plugin.command else plugin.command
    env = {**environ, **{each.name: each.value for each in plugin.env}}
    env["KUBERNETES_EXEC_INFO"] = _info(plugin, chosen, ca)
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            *plugin.args,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # so that what it starts can be ended with it
        )
    except (OSError, ValueError) as error:
        hint = f" ({plugin.install_hint.strip()})" if plugin.install_hint.strip() else ""
        problem = getattr(error, "strerror", None) or error
        raise BadInput(f"{at}.command: {command} cannot be run: {problem}{hint}") from None
    try:
        async with asyncio.timeout(patience):
            out, told = await process.communicate()
    except BaseException as error:
        # Its session, as the plugin may wait for one it started.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if isinstance(error, TimeoutError):
            raise BadInput(f"{at}: {command} did not end within {patience:.3g} s") from None
        raise
    if process.returncode:
        ended = (
            f"exit code {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        )
        raise BadInput(f"{at}: {command} failed with {ended}{_said(told)}")
    return _issued(plugin, out, f"{at}: {command}")


def _info(plugin: Exec, chosen: Chosen, ca: bytes) -> str:
    """What the plugin is told, in KUBERNETES_EXEC_INFO."""
    spec: dict[str, Any] = {"interactive": False}
    if plugin.provide_cluster_info:
        cluster = chosen.cluster
        about = {
            "server": cluster.server,
            "tls-server-name": cluster.tls_server_name,
            "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
            "certificate-authority-data": base64.b64encode(ca).decode(),
            "proxy-url": cluster.proxy_url,
            "config": cluster.exec_config,
        }
        spec["cluster"] = {name: value for name, value in about.items() if value}
    info = {"kind": "ExecCredential", "apiVersion": plugin.api_version, "spec": spec}
    return msgspec.json.encode(info).decode()


def _issued(plugin: Exec, out: bytes, at: str) -> Issued:
    try:
        credential = msgspec.json.decode(out, type=_Credential)
    except msgspec.DecodeError as error:
        # Never show what it printed: that may be a secret.
        raise BadInput(f"{at} printed no ExecCredential in JSON: {error}") from None
    if (credential.kind, credential.api_version) != ("ExecCredential", plugin.api_version):
        got = f"{credential.api_version} {credential.kind}".strip() or "something without kind"
        raise BadInput(f"{at} printed {got}, not {plugin.api_version} ExecCredential")
    status = credential.status or _Status()
    pair = (status.client_certificate_data or "", status.client_key_data or "")
    if not any((status.token, *pair)):
        raise BadInput(f"{at} printed neither status.token nor status.clientCertificateData")
    if bool(pair[0]) != bool(pair[1]):
        raise BadInput(f"{at} printed a certificate without its key, or a key without its certificate")
    when = status.expiration_timestamp
    return Issued(
        checked_token(status.token.strip(), f"{at}: status.token") if status.token else "",
        pair[0].encode(),
        pair[1].encode(),
        when.timestamp() if when is not None else None,
    )


def _said(told: bytes) -> str:
    """The last line of what went to stderr, where programs say why they failed."""
    lines = told.decode("utf-8", "replace").strip().splitlines()
    return f": {lines[-1].strip()[:_MOST_WORDS]}" if lines else ""
