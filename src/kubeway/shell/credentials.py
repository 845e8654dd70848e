"""
Access to the cluster's API: where it is, whom we trust there, and who we are.

`access` finds it out, from a kubeconfig, from the Pod we run in, or from a bare URL,
and hands out an `Access` that stays true: credentials are read again once a minute
(tokens and certificates are rotated by replacing their files), when a plugin's have
expired, and when the server refuses them. What cannot be read again is told once, and
what was read before stays in use.

| given            | server               | we come with                                         |
|------------------|----------------------|------------------------------------------------------|
| kubeconfig       | the context's        | the context's user: token, certificate, plugin       |
| kubeconfig, master | master             | the same; `tls-server-name` no longer holds          |
| master           | master               | nothing                                              |
| neither          | `KUBERNETES_SERVICE_HOST` and `_PORT` | the service account's token         |

(kube-proxy: `createClient`; client-go: `clientcmd`, `rest.InClusterConfig`.) Knows no
HTTP client: whoever makes requests asks for `headers()` before each one and then
takes the other fields as they are.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from kubeway.errors import BadInput
from kubeway.records import ApiFound, ApiUnverified, CredentialsKept, Recorder
from kubeway.shell import clock
from kubeway.shell.access_exec import Issued, run_exec
from kubeway.shell.access_kubeconfig import Chosen, User, checked_token, pem, read_kubeconfig, token_of
from kubeway.shell.access_proxy import proxy_from, proxy_url
from kubeway.shell.access_tls import Tls, tls_context

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts the service account's token and the cluster's authority."""

READ_EVERY: Final = 60.0
_RETRY: Final = 5.0
# A plugin's credentials are replaced this long before they expire: a request takes time to arrive.
_AHEAD: Final = 10.0
# Several watches are refused at once when a token ends; one run of the plugin serves them all.
_JUST_RUN: Final = 1.0


class Credentials(Struct, frozen=True):
    """All that is known after one reading. `tls` None: the server speaks plain HTTP."""

    server: str
    identity: str = "no credentials"
    headers: tuple[tuple[str, str], ...] = ()
    tls: Tls | None = None
    server_hostname: str | None = None
    proxy: str | None = None
    expires: float | None = None


class Source(Protocol):
    """Where credentials are read. `where` is for messages."""

    where: str

    async def read(self, refused: bool) -> Credentials:
        """All files anew. `refused`: the server would not have what was read before. BadInput."""


async def access(
    kubeconfig: str,
    master: str,
    record: Recorder,
    *,
    environ: Mapping[str, str] = os.environ,
    account: Path = ACCOUNT,
) -> KeptAccess:
    """Access to the cluster's API by what the flags say; "" is a flag not given.

    BadInput, in one line with file and field, if there is none to be had.
    """
    source: Source
    if kubeconfig:
        source = _FromKubeconfig(Path(kubeconfig), master, environ)
    elif master:
        source = _Bare(master, environ)
    else:
        source = _InCluster(environ, account)
    found = KeptAccess(source, await source.read(False), record)
    record(ApiFound(found.server, source.where, found.identity))
    return found


class KeptAccess:
    """An `Access` that reads its source again when it is time.

    `ssl` is None for plain HTTP. `server_hostname` is the name to be verified where
    that is not the server's; `proxy` a URL. They may change with `headers` or `refresh`.
    """

    server: str
    ssl: ssl.SSLContext | None
    server_hostname: str | None
    proxy: str | None
    identity: str

    def __init__(self, source: Source, first: Credentials, record: Recorder) -> None:
        self._source, self._record = source, record
        self._tls: Tls | None = None
        self._told = ""
        self._warned = False
        self._reading = asyncio.Lock()
        self._readings = 0  # how many have begun
        self.ssl = None
        self._take(first)

    async def headers(self) -> dict[str, str]:
        """What a request has to carry to be ours. Never raises: see `CredentialsKept`."""
        if self._due():
            async with self._reading:
                if self._due():
                    await self._read(refused=False)
        return dict(self._headers)

    async def refresh(self) -> None:
        """Read everything again, as the server refused us (401). Never raises.

        A plugin is run even if what it handed out has not expired. One reading
        serves all who asked before it began.
        """
        asked = self._readings
        async with self._reading:
            if self._readings == asked:
                await self._read(refused=True)

    def _due(self) -> bool:
        now = clock.monotonic()
        expired = self._expires is not None and clock.wall() / 1e9 >= self._expires - _AHEAD
        return now >= self._next or (expired and now >= self._read_at + _JUST_RUN)

    async def _read(self, refused: bool) -> None:
        self._readings += 1
        try:
            self._take(await self._source.read(refused))
            self._told = ""
        except BadInput as error:
            self._read_at = clock.monotonic()
            self._next = self._read_at + _RETRY
            if str(error) != self._told:
                self._told = str(error)
                self._record(CredentialsKept(self._told))

    def _take(self, read: Credentials) -> None:
        """All of what was read, or BadInput and nothing of it."""
        # The same context as long as the same is trusted: connections are kept by it.
        if read.tls != self._tls:
            self.ssl = tls_context(read.tls) if read.tls is not None else None
            self._tls = read.tls
        self.server, self.identity = read.server, read.identity
        self.server_hostname, self.proxy = read.server_hostname, read.proxy
        self._headers, self._expires = read.headers, read.expires
        self._read_at = clock.monotonic()
        self._next = self._read_at + READ_EVERY
        if read.tls is not None and read.tls.insecure and not self._warned:
            self._warned = True
            self._record(ApiUnverified(read.server, self._source.where))


# --- the sources ------------------------------------------------------------------------


class _InCluster:
    """The Pod we run in (client-go: rest.InClusterConfig)."""

    where = "in-cluster"

    def __init__(self, environ: Mapping[str, str], account: Path) -> None:
        self._environ, self._account = environ, account

    async def read(self, refused: bool) -> Credentials:
        host, port = (self._environ.get(f"KUBERNETES_SERVICE_{what}", "") for what in ("HOST", "PORT"))
        if not (host and port):
            raise BadInput(
                "no API server: give --kubeconfig or --master, or run in a Pod "
                "(KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set)"
            )
        at = "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT"
        server = server_url(f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}", at)
        authority = self._account / "ca.crt"
        token = token_of(self._account / "token", "service account: token")
        return Credentials(
            server=server,
            identity="the service account's token",
            headers=_bearer(token),
            tls=Tls(pem("", authority, "service account: ca.crt") or _NOTHING, str(authority)),
            proxy=proxy_from(server, self._environ),
        )


class _Bare:
    """A URL and nothing else."""

    where = "--master"

    def __init__(self, master: str, environ: Mapping[str, str]) -> None:
        self._master, self._environ = master, environ

    async def read(self, refused: bool) -> Credentials:
        server = server_url(self._master, "--master")
        tls = Tls() if server.startswith("https:") else None
        return Credentials(server=server, tls=tls, proxy=proxy_from(server, self._environ))


class _FromKubeconfig:
    """A kubeconfig, whose server `master` replaces if given (client-go: clientcmd)."""

    def __init__(self, path: Path, master: str, environ: Mapping[str, str]) -> None:
        # Absolute: a plugin and the log may see it from elsewhere.
        self._path, self._master, self._environ = path.absolute(), master, environ
        self.where = f"kubeconfig {self._path}" + (", --master" if master else "")
        self._issued: Issued | None = None
        self._issued_for: object = None
        self._issued_at = 0.0

    async def read(self, refused: bool) -> Credentials:
        chosen = read_kubeconfig(self._path)
        server_at = f"{chosen.cluster_at}.server"
        if self._master:
            # A name to verify was said of the other server (client-go: getCluster).
            cluster = replace(chosen.cluster, server=self._master, tls_server_name="")
            chosen, server_at = replace(chosen, cluster=cluster), "--master"
        cluster, user, at = chosen.cluster, chosen.user, chosen.cluster_at
        ca_file = chosen.file(cluster.certificate_authority) if cluster.certificate_authority else None
        ca_at = f"{at}.certificate-authority"
        ca = pem(cluster.certificate_authority_data, ca_file, ca_at)
        if cluster.insecure_skip_tls_verify and (ca_file or cluster.certificate_authority_data):
            raise BadInput(f"{at}: insecure-skip-tls-verify and an authority to verify by; one is too much")
        certificate, key, pair_at = _pair(chosen)
        identity, header, expires = _identity(chosen), _header(chosen), None
        if user.exec is not None and not header:
            # A user's own token wins over the plugin, as in client-go.
            issued = await self._plugin(chosen, ca, refused)
            expires = issued.expires
            header = _bearer(issued.token) if issued.token else ()
            if issued.certificate:
                certificate, key, pair_at = issued.certificate, issued.key, f"{chosen.user_at}.exec"
            identity = f"credentials of {user.exec.command}"
        elif certificate and not header:
            identity = "a client certificate"
        secured = bool(ca_file or ca or certificate or cluster.insecure_skip_tls_verify)
        server = server_url(cluster.server, server_at, secured)
        has_ca = bool(ca_file or cluster.certificate_authority_data)
        tls = Tls(
            ca=(ca or _NOTHING) if has_ca else b"",
            ca_at=ca_at,
            certificate=certificate,
            key=key,
            pair_at=pair_at,
            insecure=cluster.insecure_skip_tls_verify,
        )
        given = cluster.proxy_url
        return Credentials(
            server=server,
            identity=identity,
            headers=header,
            tls=tls if server.startswith("https:") else None,
            server_hostname=cluster.tls_server_name or None,
            proxy=proxy_url(given, f"{at}.proxy-url") if given else proxy_from(server, self._environ),
            expires=expires,
        )

    async def _plugin(self, chosen: Chosen, ca: bytes, refused: bool) -> Issued:
        """What the plugin handed out, or hands out now if that is over, refused or another plugin's."""
        plugin = chosen.user.exec
        assert plugin is not None
        asked = (plugin, chosen.cluster, ca)
        kept, now = self._issued, clock.wall() / 1e9
        if kept is not None and self._issued_for == asked:
            fresh = clock.monotonic() < self._issued_at + _JUST_RUN
            expired = kept.expires is not None and now >= kept.expires - _AHEAD
            if fresh or not (refused or expired):
                return kept
        self._issued = await run_exec(plugin, chosen, ca, self._environ)
        self._issued_for, self._issued_at = asked, clock.monotonic()
        return self._issued


# What is given and empty is not the same as what is not given: it must not mean "the system's".
_NOTHING: Final = b"\n"


def server_url(text: str, at: str, secured: bool = False) -> str:
    """The base URL of a server, without a slash at the end. BadInput begins with `at`.

    Without a scheme it is https if something is said about certificates, else http
    (client-go: DefaultServerURL).
    """
    if not text:
        raise BadInput(f"{at}: missing; give https://HOST:PORT")
    url = text if "://" in text else f"{'https' if secured else 'http'}://{text}"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or "?" in url or "#" in url or "@" in url or not url.isprintable() or " " in url:
        raise BadInput(f"{at}: {text!r} is not the URL of an API server; give https://HOST:PORT")
    return url.rstrip("/")


def _bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("Authorization", f"Bearer {token}"),)


def _identity(chosen: Chosen) -> str:
    """In words, what a user without certificate and plugin comes with."""
    user = chosen.user
    if user.token_file:
        return f"the token in {chosen.file(user.token_file)}"
    if user.token:
        return "a token"
    return "a password" if user.username else "no credentials"


def _header(chosen: Chosen) -> tuple[tuple[str, str], ...]:
    user, at = chosen.user, chosen.user_at
    if user.token_file:
        try:
            return _bearer(token_of(chosen.file(user.token_file), f"{at}.tokenFile"))
        except BadInput:
            # A token beside it is what to begin with (client-go: NewBearerAuthWithRefreshRoundTripper).
            if not user.token:
                raise
    if user.token:
        return _bearer(checked_token(user.token, f"{at}.token"))
    if user.username or user.password:
        both = base64.b64encode(f"{user.username}:{user.password}".encode()).decode()
        return (("Authorization", f"Basic {both}"),)
    return ()


def _pair(chosen: Chosen) -> tuple[bytes, bytes, str]:
    """The client's certificate and key, and where they stand."""
    user: User = chosen.user
    if not (user.client_certificate or user.client_certificate_data):
        return b"", b"", ""
    at = f"{chosen.user_at}.client-certificate"
    certificate, key = (
        pem(data, chosen.file(name) if name else None, f"{chosen.user_at}.{field}")
        for field, data, name in (
            ("client-certificate", user.client_certificate_data, user.client_certificate),
            ("client-key", user.client_key_data, user.client_key),
        )
    )
    return certificate, key, at
