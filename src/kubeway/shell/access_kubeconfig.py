"""
A kubeconfig file: its shape, and the cluster and user its current context chooses.

Knows the fields of `clientcmd/api/v1` that a client without a person before it can
use; those that would change *who* we are and are not supported are refused, all
others are passed over. It reads this one file and no file the file names.

Why not a library's loader: docs/decisions/0008-kubeconfig.md.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from kubeway.errors import BadInput
from kubeway.model.yamls import documents

_EXEC_EXTENSION: Final = "client.authentication.k8s.io/exec"


class Extension(Struct, frozen=True):
    name: str = ""
    extension: Any = None


class Cluster(Struct, frozen=True, rename="kebab"):
    server: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    proxy_url: str = ""
    extensions: tuple[Extension, ...] = ()

    @property
    def exec_config(self) -> Any:
        """What the cluster has to say to every plugin."""
        found = (each.extension for each in self.extensions if each.name == _EXEC_EXTENSION)
        return next(found, None)


class EnvVar(Struct, frozen=True):
    name: str = ""
    value: str = ""


class Exec(Struct, frozen=True, rename="camel"):
    """A command that hands out credentials."""

    command: str = ""
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    api_version: str = ""
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = ""


class User(Struct, frozen=True, rename="kebab"):
    token: str = ""
    token_file: str = field(default="", name="tokenFile")
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    username: str = ""
    password: str = ""
    exec: Exec | None = None
    auth_provider: Any = None
    impersonate: str = field(default="", name="as")
    as_uid: str = ""
    as_groups: tuple[str, ...] = ()
    as_user_extra: dict[str, Any] = field(default_factory=dict)


class Context(Struct, frozen=True):
    cluster: str = ""
    user: str = ""


class NamedCluster(Struct, frozen=True):
    name: str = ""
    cluster: Cluster = Cluster()


class NamedUser(Struct, frozen=True):
    name: str = ""
    user: User = User()


class NamedContext(Struct, frozen=True):
    name: str = ""
    context: Context = Context()


class Kubeconfig(Struct, frozen=True):
    api_version: str = field(default="", name="apiVersion")
    kind: str = ""
    current_context: str = field(default="", name="current-context")
    clusters: tuple[NamedCluster, ...] = ()
    users: tuple[NamedUser, ...] = ()
    contexts: tuple[NamedContext, ...] = ()


class Chosen(Struct, frozen=True):
    """What the current context chooses. `cluster_at` and `user_at` say where each stands, for messages."""

    path: Path
    cluster: Cluster
    cluster_at: str
    user: User
    user_at: str

    def file(self, name: str) -> Path:
        """The file a field names: relative names start at the kubeconfig, as in every client."""
        return self.path.parent / name


def read_kubeconfig(path: Path) -> Chosen:
    """The cluster and user of the current context. BadInput names file and field."""
    at = f"kubeconfig {path}"
    config = _decode(_bytes_of(path, at), at)
    if config.kind not in ("", "Config") or config.api_version not in ("", "v1"):
        raise BadInput(f"{at}: is {config.api_version} {config.kind}; a kubeconfig is v1 Config")
    if not config.current_context:
        raise BadInput(f"{at}: current-context: missing; name one of contexts")
    context = _named(config.contexts, config.current_context, f"{at}: current-context", "contexts").context
    context_at = f"{at}: contexts[{config.current_context}].context"
    return Chosen(
        path=path,
        cluster=_named(config.clusters, context.cluster, f"{context_at}.cluster", "clusters").cluster,
        cluster_at=f"{at}: clusters[{context.cluster}].cluster",
        user=_usable(
            _named(config.users, context.user, f"{context_at}.user", "users").user,
            f"{at}: users[{context.user}].user",
        ),
        user_at=f"{at}: users[{context.user}].user",
    )


def pem(data: str, file: Path | None, at: str) -> bytes:
    """What `…-data` holds in base64, or the file that the field without `-data` names; b"" without both.

    The data wins, as in every client.
    """
    if data:
        try:
            # A YAML block may hold line breaks.
            return base64.b64decode("".join(data.split()), validate=True)
        except (binascii.Error, ValueError):
            raise BadInput(f"{at}-data: not base64") from None
    return b"" if file is None else _bytes_of(file, at)


def token_of(path: Path, at: str) -> str:
    """The token in a file, without the line break that ends it."""
    token = _bytes_of(path, at).decode("utf-8", "replace").strip()
    if not token:
        raise BadInput(f"{at}: {path} is empty; it has to hold a token")
    return checked_token(token, f"{at}: {path}")


def checked_token(token: str, at: str) -> str:
    """The token, if it can stand in a header."""
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise BadInput(f"{at}: holds no token: there are spaces or control characters inside")
    return token


def _bytes_of(path: Path, at: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        named = "" if at.endswith(str(path)) else f"{path}: "
        raise BadInput(f"{at}: {named}{getattr(error, 'strerror', None) or error}") from None


def _decode(data: bytes, at: str) -> Kubeconfig:
    found = [document for document in documents(data, at) if document is not None]
    if len(found) != 1:
        raise BadInput(f"{at}: holds {len(found)} documents; a kubeconfig is one")
    try:
        return msgspec.convert(_without_nulls(found[0]), Kubeconfig)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        raise BadInput(": ".join(part for part in (at, where.strip("`."), problem) if part)) from None


def _without_nulls(value: Any) -> Any:
    """`users: null` and `env: null` mean the same as nothing; tools write them."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value


def _named(those: tuple[Any, ...], name: str, at: str, list_name: str) -> Any:
    if not name:
        raise BadInput(f"{at}: missing; name one of {list_name}")
    found = [each for each in those if each.name == name]
    if len(found) != 1:
        count = "none" if not found else f"{len(found)}"
        raise BadInput(f"{at}: of the {list_name}, {count} {'is' if not found else 'are'} called {name!r}")
    return found[0]


def _usable(user: User, at: str) -> User:
    """The user, if we can be it."""
    if user.auth_provider is not None:
        raise BadInput(f"{at}.auth-provider: not supported, as in kube-proxy; use exec")
    for name, value in (
        ("as", user.impersonate),
        ("as-uid", user.as_uid),
        ("as-groups", user.as_groups),
        ("as-user-extra", user.as_user_extra),
    ):
        if value:
            raise BadInput(f"{at}.{name}: impersonation is not supported; bind a role to the user itself")
    if (user.username or user.password) and (user.token or user.token_file):
        raise BadInput(f"{at}: both a token and a username; one of them is too much")
    has_key = bool(user.client_key or user.client_key_data)
    if has_key != bool(user.client_certificate or user.client_certificate_data):
        missing = "client-certificate" if has_key else "client-key"
        raise BadInput(f"{at}.{missing}: missing; a certificate and its key go together")
    return user
